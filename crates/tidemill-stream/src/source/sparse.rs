//! libsvm and libFM text: `label index:value ...`, libFFM's `label field:index:value ...` too.
//!
//! In: a row. Out: `label` DOUBLE as written (-1 stays -1) and `features` SPARSE. The index is the number itself; a field
//! prefix is checked and passed over. A feature that stands twice in a row is kept twice: its values add up. `#` begins
//! a comment.

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef},
};
use tidemill_base::{Error, Result};

use super::{
    columns::{Columns, Data, end},
    number::{parse_f32, parse_f64, parse_u64},
    sparse_type,
    text::RowDecoder,
    words::{show, thousands},
};

/// Features in a row at most.
pub(super) const FEATURES_MAX: usize = 65_536;

/// Which declared column holds what.
pub(super) struct Roles {
    pub(super) label: Option<usize>,
    pub(super) features: Option<usize>,
    pub(super) importance: Option<usize>,
    pub(super) tag: Option<usize>,
}

impl Roles {
    /// Finds the columns this format has; refuses any other. `vw`: importance and tag are among them.
    pub(super) fn of(schema: &SchemaRef, vw: bool) -> Result<Self> {
        let mut roles = Self { label: None, features: None, importance: None, tag: None };
        for (i, field) in schema.fields().iter().enumerate() {
            let (role, ty) = match field.name().to_ascii_lowercase().as_str() {
                "label" => (&mut roles.label, DataType::Float64),
                "features" => (&mut roles.features, sparse_type()),
                "importance" if vw => (&mut roles.importance, DataType::Float64),
                "tag" if vw => (&mut roles.tag, DataType::Utf8),
                _ => return Err(no_such_column(field.name(), vw)),
            };
            if *field.data_type() != ty || role.is_some() {
                return Err(no_such_column(field.name(), vw));
            }
            *role = Some(i);
        }
        Ok(roles)
    }
}

fn no_such_column(name: &str, vw: bool) -> Error {
    let (format, more) = if vw { ("vw", ", importance DOUBLE, tag STRING") } else { ("libsvm", "") };
    Error::invalid(format!("column '{name}': format '{format}' has the columns label DOUBLE, features SPARSE{more}"))
}

/// Decodes rows of libsvm text.
pub(super) struct Libsvm {
    columns: Columns,
    roles: Roles,
}

impl Libsvm {
    /// A decoder without rows.
    pub(super) fn new(schema: SchemaRef) -> Result<Self> {
        Ok(Self { roles: Roles::of(&schema, false)?, columns: Columns::new(schema)? })
    }

    fn push_parts(&mut self, row: &[u8]) -> Result<(), String> {
        let text = row.split(|&b| b == b'#').next().unwrap_or(row);
        let mut parts = text.split(|b| b.is_ascii_whitespace()).filter(|p| !p.is_empty());
        let label = parts.next().filter(|p| !p.contains(&b':')).ok_or("label missing")?;
        let label = parse_f64(label).map_err(|_| format!("label '{}' is not a finite number", show(label)))?;
        if let Some(i) = self.roles.label {
            put_double(&mut self.columns, i, label);
        }
        let mut row = SparseRow::default();
        for part in parts {
            let (index, value) = libsvm_feature(part).ok_or_else(|| bad_feature(part))?;
            row.add(self.roles.features.map(|i| self.columns.all()[i].data()), index, value)?;
        }
        end_sparse(&mut self.columns, self.roles.features)
    }
}

fn libsvm_feature(part: &[u8]) -> Option<(u64, f32)> {
    let colon = memchr::memrchr(b':', part)?;
    let (head, value) = (&part[..colon], parse_f32(&part[colon + 1..]).ok()?);
    let index = match memchr::memchr(b':', head) {
        Some(field) => {
            parse_u64(&head[..field]).ok()?;
            &head[field + 1..]
        }
        None => head,
    };
    Some((parse_u64(index).ok()?, value))
}

#[cold]
fn bad_feature(part: &[u8]) -> String {
    let index = part.rsplitn(2, |b| *b == b':').nth(1).and_then(|head| head.rsplit(|b| *b == b':').next());
    if let Some(index) = index.filter(|i| !i.is_empty() && i.iter().all(u8::is_ascii_digit) && parse_u64(i).is_err()) {
        return format!("index {} of a feature exceeds {}", show(index), thousands(u64::MAX));
    }
    format!("'{}' is not a feature index:value with a finite value", show(part))
}

/// Features of the row at hand, counted.
#[derive(Default)]
pub(super) struct SparseRow {
    count: usize,
}

impl SparseRow {
    /// Adds one to the column, if it is declared.
    #[inline]
    pub(super) fn add(&mut self, column: Option<&mut Data>, index: u64, value: f32) -> Result<(), String> {
        self.count += 1;
        if self.count > FEATURES_MAX {
            return Err(format!("more than {} features in the row", thousands(FEATURES_MAX as u64)));
        }
        if let Some(Data::Sparse { indices, values, .. }) = column {
            indices.push(index);
            values.push(value);
        }
        Ok(())
    }
}

/// Ends the row's features.
pub(super) fn end_sparse(columns: &mut Columns, features: Option<usize>) -> Result<(), String> {
    let Some(i) = features else { return Ok(()) };
    let column = &mut columns.all()[i];
    if let Data::Sparse { ends, indices, .. } = column.data() {
        ends.push(end(indices.len(), "features")?);
    }
    column.commit_value();
    Ok(())
}

/// Gives a DOUBLE column its value.
pub(super) fn put_double(columns: &mut Columns, i: usize, x: f64) {
    let column = &mut columns.all()[i];
    if let Data::Float64(values) = column.data() {
        values.push(x);
    }
    column.commit_value();
}

impl RowDecoder for Libsvm {
    fn is_blank(&self, line: &[u8]) -> bool {
        line.trim_ascii_start().first().is_none_or(|&b| b == b'#')
    }

    fn push(&mut self, row: &[u8], _quoted: bool) -> Result<(), String> {
        let put = self.push_parts(row);
        match put {
            Ok(()) => self.columns.commit(),
            Err(_) => self.columns.rollback(),
        }
        put
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}
