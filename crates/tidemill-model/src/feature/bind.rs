//! Binding: the COLUMN clause meets the rows' columns and their types.
//!
//! In: specs and a schema. Out: an [`Extractor`], or an error that names the column, its type and what would work.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Schema};
use tidemill_base::{Error, Result};

use super::{
    BIAS_SLOT, ColumnSpec, SLOTS_MAX,
    category::{Category, is_category},
    feature_key,
    number::is_number,
    slot_seed,
};

/// Turns rows into features; bound to a schema. [`Extractor::extract`] may run on many threads.
#[derive(Clone, Debug)]
pub struct Extractor {
    /// Names of the slots, ascending; a slot's number is its place here.
    pub(super) slots: Vec<String>,
    /// Of each slot.
    pub(super) sources: Vec<Source>,
    /// Whether some slot is a list.
    pub(super) has_lists: bool,
    /// Numbers of the slots that are not lists.
    pub(super) dense_pattern: Vec<u16>,
    pub(super) dense_slots: usize,
    /// Columns read, with the types they were bound with.
    pub(super) types: Vec<(usize, DataType)>,
}

/// Where the features of one slot come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Category(Category),
    Number {
        column: usize,
        key: u64,
    },
    Sparse {
        column: usize,
        seed: u64,
    },
    Cross {
        parts: Vec<Category>,
        seed: u64,
        buckets: Option<u64>,
    },
    /// The model's own constant.
    Bias(u64),
}

impl Extractor {
    /// Binds the COLUMN clause to the columns of `schema`.
    pub fn bind(columns: &[ColumnSpec], schema: &Schema) -> Result<Self> {
        Self::bind_under(columns, schema, 0)
    }

    /// The same with keys hashed under a secret; 0 is none. Who does not know it cannot choose values whose keys crowd in one
    /// place of the tables. XXH3 under a seed is no cryptographic hash: this holds as long as nobody is shown keys.
    pub fn bind_under(columns: &[ColumnSpec], schema: &Schema, secret: u64) -> Result<Self> {
        let mut bound: BTreeMap<String, Source> = BTreeMap::new();
        let mut types: Vec<(usize, DataType)> = Vec::new();
        for spec in columns {
            let slot = spec.slot_name();
            if bound.contains_key(&slot) {
                return Err(Error::invalid(format!("COLUMN {spec}: slot '{slot}' is there already; write it once")));
            }
            if slot == BIAS_SLOT {
                return Err(Error::invalid(format!(
                    "COLUMN {spec}: slot '{slot}' is the model's own constant; rename the column with AS"
                )));
            }
            bound.insert(slot, bind_source(spec, schema, secret)?);
            for column in spec.columns() {
                let (index, data_type) = find(column, schema)?;
                types.push((index, data_type.clone()));
            }
        }
        types.sort_by_key(|(index, _)| *index);
        types.dedup();
        bound.insert(BIAS_SLOT.to_string(), Source::Bias(feature_key(b"", slot_seed(BIAS_SLOT, secret))));
        if bound.len() > SLOTS_MAX {
            return Err(Error::invalid(format!("COLUMN: {} slots; at most {SLOTS_MAX} are taken", bound.len())));
        }
        let (slots, sources): (Vec<String>, Vec<Source>) = bound.into_iter().unzip();
        let is_dense = |source: &Source| !matches!(source, Source::Sparse { .. });
        let dense_pattern: Vec<u16> = (0u16..).zip(&sources).filter(|(_, s)| is_dense(s)).map(|(i, _)| i).collect();
        let dense_slots = dense_pattern.len();
        Ok(Self { has_lists: dense_slots < slots.len(), slots, sources, dense_pattern, dense_slots, types })
    }

    /// Names of the slots by slot number: ascending, so that the order of the COLUMN clause changes nothing.
    pub fn slots(&self) -> &[String] {
        &self.slots
    }
}

fn find<'a>(column: &str, schema: &'a Schema) -> Result<(usize, &'a DataType)> {
    let (index, field) = schema.column_with_name(column).ok_or_else(|| {
        let known = schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
        Error::invalid(format!("COLUMN: no column '{column}'; columns are {known}"))
    })?;
    Ok((index, field.data_type()))
}

fn bind_source(spec: &ColumnSpec, schema: &Schema, secret: u64) -> Result<Source> {
    Ok(match spec {
        ColumnSpec::Plain { column } => match find(column, schema)?.1 {
            DataType::Float32 | DataType::Float64 => bind_number(spec, column, schema, secret)?,
            data_type if is_sparse(data_type) => bind_sparse(spec, column, schema, secret)?,
            _ => Source::Category(bind_category(spec, schema, secret)?),
        },
        ColumnSpec::Numeric { column } => bind_number(spec, column, schema, secret)?,
        ColumnSpec::Sparse { column } => bind_sparse(spec, column, schema, secret)?,
        ColumnSpec::Category { .. } | ColumnSpec::Hash { .. } | ColumnSpec::Bucket { .. } => {
            Source::Category(bind_category(spec, schema, secret)?)
        }
        ColumnSpec::Cross { columns, buckets } => {
            if columns.len() < 2 {
                return Err(Error::invalid(format!("COLUMN {spec}: CROSS takes two columns or more")));
            }
            let parts = columns.iter().map(|part| bind_part(spec, part, schema, secret)).collect::<Result<_>>()?;
            Source::Cross { parts, seed: slot_seed(&spec.slot_name(), secret), buckets: positive(spec, *buckets)? }
        }
    })
}

fn bind_number(spec: &ColumnSpec, column: &str, schema: &Schema, secret: u64) -> Result<Source> {
    let (index, data_type) = find(column, schema)?;
    if !is_number(data_type) {
        return Err(mismatch(spec, column, data_type, "a number"));
    }
    Ok(Source::Number { column: index, key: feature_key(b"", slot_seed(&spec.slot_name(), secret)) })
}

fn bind_sparse(spec: &ColumnSpec, column: &str, schema: &Schema, secret: u64) -> Result<Source> {
    let (index, data_type) = find(column, schema)?;
    if !is_sparse(data_type) {
        return Err(mismatch(spec, column, data_type, "a SPARSE column (formats libsvm, libfm and vw)"));
    }
    Ok(Source::Sparse { column: index, seed: slot_seed(&spec.slot_name(), secret) })
}

fn bind_category(spec: &ColumnSpec, schema: &Schema, secret: u64) -> Result<Category> {
    let (column, boundaries, buckets) = match spec {
        ColumnSpec::Hash { column, buckets } => (column, None, Some(*buckets)),
        ColumnSpec::Bucket { column, boundaries } => (column, Some(boundaries.clone()), None),
        ColumnSpec::Plain { column } | ColumnSpec::Category { column } => (column, None, None),
        _ => return Err(Error::internal(format!("{spec} was bound as a category"))),
    };
    let (index, data_type) = find(column, schema)?;
    if boundaries.is_some() && !is_number(data_type) {
        return Err(mismatch(spec, column, data_type, "a number"));
    }
    if !is_category(data_type) {
        return Err(mismatch(spec, column, data_type, "a whole number, text, BOOLEAN or a time"));
    }
    if boundaries
        .as_ref()
        .is_some_and(|b| b.is_empty() || !b.is_sorted_by(|a, b| a < b) || b.iter().any(|b| b.is_nan()))
    {
        return Err(Error::invalid(format!("COLUMN {spec}: boundaries must ascend, and there must be one at least")));
    }
    Ok(Category::new(index, slot_seed(&spec.slot_name(), secret), boundaries, positive(spec, buckets)?))
}

fn bind_part(cross: &ColumnSpec, part: &ColumnSpec, schema: &Schema, secret: u64) -> Result<Category> {
    let advice = match part {
        ColumnSpec::Cross { .. } => Some("list all columns in one CROSS".to_string()),
        ColumnSpec::Sparse { .. } => Some("sparse columns cannot be crossed".to_string()),
        ColumnSpec::Numeric { column } => Some(bucket_advice(column)),
        ColumnSpec::Plain { column } => match find(column, schema)?.1 {
            DataType::Float32 | DataType::Float64 => Some(bucket_advice(column)),
            data_type if is_sparse(data_type) => Some("sparse columns cannot be crossed".to_string()),
            _ => None,
        },
        _ => None,
    };
    match advice {
        Some(advice) => Err(Error::invalid(format!("COLUMN {cross}: {part} cannot be crossed; {advice}"))),
        None => bind_category(part, schema, secret).map_err(|e| e.at(format!("COLUMN {cross}"))),
    }
}

fn bucket_advice(column: &str) -> String {
    format!("write BUCKET({column}, [...]) or CATEGORY_ID({column}) there")
}

fn positive(spec: &ColumnSpec, buckets: Option<u64>) -> Result<Option<u64>> {
    match buckets {
        Some(0) => Err(Error::invalid(format!("COLUMN {spec}: the number of buckets must be positive"))),
        _ => Ok(buckets),
    }
}

/// What the wrong type is answered with: the forms that would take it.
fn mismatch(spec: &ColumnSpec, column: &str, data_type: &DataType, wanted: &str) -> Error {
    let name = &ColumnSpec::Plain { column: column.to_string() };
    let advice = match data_type {
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => {
            format!("write {name} for a key for each distinct time, or compute a number from it in the SELECT")
        }
        t if is_category(t) => format!("write {name}, CATEGORY_ID({name}) or CATEGORY_HASH({name}, n)"),
        t if is_sparse(t) => format!("write SPARSE({name})"),
        _ => "convert it in the SELECT, for example with CAST(... AS BIGINT), AS DOUBLE or AS VARCHAR".to_string(),
    };
    Error::invalid(format!("COLUMN {spec}: column '{column}' is {data_type}, not {wanted}; {advice}"))
}

/// A list of (index u64, value f32), NULL allowed or not.
fn is_sparse(data_type: &DataType) -> bool {
    let DataType::List(item) = data_type else { return false };
    let DataType::Struct(fields) = item.data_type() else { return false };
    fields.len() == 2 && *fields[0].data_type() == DataType::UInt64 && *fields[1].data_type() == DataType::Float32
}
