//! Files of rows, scored by a version that is there: what `tidemill predict` does.
//!
//! In: a model of a data directory, and files with the columns of its impressions that its features are made of. Out: for
//! each row of the files one row, in their order. Rows go through the transform, the extractor and the summation that
//! requests go through, so the predictions are those of the server, to the bit. A row that cannot be read or scored is
//! counted, and NULL stands in its place: line n of what comes out is of row n of what went in.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{
        ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
        new_null_array,
    },
    buffer::NullBuffer,
    compute::take,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use tidemill_base::{Error, Result};
use tidemill_model::{
    feature::{Extractor, Features},
    loss::Loss,
    weights::{ScoreScratch, WeightTable},
};
use tidemill_serve::registry::Registry;
use tidemill_stream::{
    Chunk, Transform,
    source::{self, Connector, FileFormat, FileSettings, Partition, SourceSpec},
};

use crate::program;

/// A version of a model, and what it makes of rows.
pub struct Scorer {
    request: Arc<dyn Transform>,
    extractor: Extractor,
    weights: WeightTable,
    /// Columns of the model's source, any of which may be NULL.
    columns: SchemaRef,
    /// Those that are read.
    read: Vec<usize>,
    /// Those that are handed on.
    carried: Vec<usize>,
    declared: Option<FileFormat>,
    output: SchemaRef,
    /// As many NULLs as a chunk has had rows, for each column that is not read.
    absent: Vec<ArrayRef>,
    features: Features,
    scratch: ScoreScratch,
    scores: Vec<f32>,
}

/// What came of some rows.
pub struct Scored {
    /// The columns that are handed on, then the prediction.
    pub rows: RecordBatch,
    /// Rows without a prediction.
    pub refused: u64,
    /// The first of them, with the reason.
    pub first_refusal: Option<(u64, String)>,
}

/// The version that answers requests, or why there is none.
pub fn live_version(registry: &Registry, model: &str) -> Result<u64> {
    let none = || Error::not_found(format!("model '{model}' has no version yet; let it learn first"));
    registry.live_version().ok_or_else(none)
}

impl Scorer {
    /// A version of a model, by its number or the live one; columns named in `carried` are handed on. Probabilities of
    /// classes come as a list, or (`flat`) as a column each.
    pub fn open(
        data_root: &Path,
        model: &str,
        version: Option<u64>,
        carried: &[String],
        flat: bool,
    ) -> Result<(Self, u64)> {
        let job = program::stored_job(data_root, model)?;
        if job.pipeline.views.is_some() {
            return Err(Error::invalid(format!(
                "not supported yet: scoring files by a model that reads feature views; what they know of a key is in the \
                 process that learns '{model}', at POST /v1/models/{model}:predict"
            )));
        }
        let registry = Registry::reading(model, &data_root.join("models").join(model).join("versions"))?;
        let version = version.map_or_else(|| live_version(&registry, model), Ok)?;
        if registry.meta(version)?.fingerprint != job.fingerprint {
            return Err(Error::conflict(format!(
                "model '{model}': version {version} was learned by an earlier program than the one in its directory"
            )));
        }
        let weights = registry.open_weights(version)?;
        let source = &job.pipeline.left.source;
        let nullable = source.columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
        let columns: SchemaRef = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        let carried = carried.iter().map(|name| column(&columns, name, model)).collect::<Result<Vec<_>>>()?;
        let request = job.pipeline.request.clone();
        let mut read = request.reads().unwrap_or_else(|| (0..columns.fields().len()).collect());
        read.extend(&carried);
        read.sort_unstable();
        read.dedup();
        let declared = match &source.connector {
            Connector::File(files) => Some(files.format.clone()),
            _ => None,
        };
        let mut output: Vec<Field> = carried.iter().map(|column| columns.field(*column).clone()).collect();
        output.extend(predicted(weights.loss(), flat));
        if let Some(twice) = output.iter().enumerate().find(|(i, f)| output[..*i].iter().any(|g| g.name() == f.name()))
        {
            return Err(Error::invalid(format!("column '{}' would be there twice", twice.1.name())));
        }
        let scorer = Self {
            extractor: job.extractor()?,
            request,
            absent: columns.fields().iter().map(|f| new_null_array(f.data_type(), 0)).collect(),
            columns,
            weights,
            read,
            carried,
            declared,
            output: Arc::new(Schema::new(output)),
            features: Features::new(),
            scratch: ScoreScratch::default(),
            scores: Vec::new(),
        };
        Ok((scorer, version))
    }

    /// Columns of what comes out.
    pub fn output(&self) -> SchemaRef {
        self.output.clone()
    }

    /// Opens the files behind a path or pattern. Without a format they are written as those that the model learned from,
    /// where those end alike, and else as their names say.
    pub fn files(&self, path: &str, format: Option<&str>) -> Result<Vec<Box<dyn Partition>>> {
        let format = match format {
            Some(name) => FileFormat::plain(name)?,
            None => FileFormat::of_file(path).map_err(|e| e.at("--format"))?,
        };
        let alike = |declared: &&FileFormat| std::mem::discriminant(*declared) == std::mem::discriminant(&format);
        let format = self.declared.as_ref().filter(alike).cloned().unwrap_or(format);
        // Without names columns go by their places, so all must be there.
        let by_place = matches!(format, FileFormat::Delimited { header: false, .. });
        let columns = match by_place {
            true => self.columns.clone(),
            false => Arc::new(self.columns.project(&self.read).map_err(|e| Error::internal(e.to_string()))?),
        };
        let settings = FileSettings { path: path.to_string(), format, follow: false };
        let opened = source::open(&SourceSpec::new("predict", columns, Connector::File(settings)), &[])?;
        Ok(opened.into_iter().map(|opened| opened.partition).collect())
    }

    /// Scores the rows of a chunk of [`Scorer::files`].
    pub fn score(&mut self, chunk: &Chunk) -> Result<Scored> {
        let count = (chunk.end.offset - chunk.start.offset) as usize;
        let place = |row: usize| (chunk.offset(row) - chunk.start.offset) as usize;
        let rows = self.widened(&chunk.rows)?;
        let transformed = self.request.apply(&rows)?;
        self.extractor.extract(&transformed.rows, &mut self.features)?;
        self.scores.clear();
        self.weights.score(&self.features, &mut self.scratch, &mut self.scores)?;

        let loss = self.weights.loss();
        let width = loss.outputs();
        let mut values = vec![0.0; count * width];
        let mut is_valid = vec![false; count];
        let mut reasons: Vec<(u64, String)> = chunk.refused.iter().map(|r| (r.offset, r.reason.clone())).collect();
        let row_of = |scored: usize| transformed.kept.as_ref().map_or(scored, |kept| kept[scored] as usize);
        reasons.extend(transformed.refused.iter().map(|(row, why)| (chunk.offset(*row as usize), why.clone())));
        let mut refused = self.features.refused.iter().peekable();
        for (scored, scores) in self.scores.chunks_exact(width).enumerate() {
            let row = row_of(scored);
            if let Some((_, why)) = refused.next_if(|(i, _)| *i as usize == scored) {
                reasons.push((chunk.offset(row), why.clone()));
                continue;
            }
            let at = place(row);
            let out = &mut values[at * width..][..width];
            loss.predict(scores, out);
            match out.iter().all(|x| x.is_finite()) {
                true => is_valid[at] = true,
                false => reasons.push((chunk.offset(row), "the prediction is not a finite number".into())),
            }
        }
        let refused = is_valid.iter().filter(|valid| !**valid).count() as u64;
        let mut columns = self.carried_on(chunk, &rows, count, place)?;
        let nulls = (refused > 0).then(|| NullBuffer::from(is_valid));
        columns.extend(self.predictions(values, nulls));
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(self.output.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("predictions: {e}")))?;
        Ok(Scored { rows, refused, first_refusal: reasons.into_iter().min_by_key(|(offset, _)| *offset) })
    }

    /// The rows with every column of the source: NULL in those that were not read.
    fn widened(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let n = rows.num_rows();
        let schema = rows.schema();
        let mut columns = Vec::with_capacity(self.columns.fields().len());
        for (field, absent) in self.columns.fields().iter().zip(&mut self.absent) {
            columns.push(match schema.index_of(field.name()) {
                Ok(at) => rows.column(at).clone(),
                Err(_) => {
                    if absent.len() < n {
                        *absent = new_null_array(field.data_type(), n);
                    }
                    absent.slice(0, n)
                }
            });
        }
        RecordBatch::try_new(self.columns.clone(), columns).map_err(|e| Error::internal(format!("rows: {e}")))
    }

    /// The columns that are handed on, NULL where a row could not be read.
    fn carried_on(
        &self,
        chunk: &Chunk,
        rows: &RecordBatch,
        count: usize,
        place: impl Fn(usize) -> usize,
    ) -> Result<Vec<ArrayRef>> {
        let columns = self.carried.iter().map(|column| rows.column(*column));
        if self.carried.is_empty() || count == rows.num_rows() {
            return Ok(columns.cloned().collect());
        }
        let mut from: Vec<Option<u32>> = vec![None; count];
        (0..chunk.rows.num_rows()).for_each(|row| from[place(row)] = Some(row as u32));
        let from = UInt32Array::from(from);
        let taken = columns.map(|column| take(column, &from, None));
        taken.collect::<Result<_, _>>().map_err(|e| Error::internal(format!("columns: {e}")))
    }

    fn predictions(&self, values: Vec<f32>, nulls: Option<NullBuffer>) -> Vec<ArrayRef> {
        let Loss::Softmax { classes } = self.weights.loss() else {
            return vec![Arc::new(Float32Array::new(values.into(), nulls))];
        };
        let likeliest = |p: &[f32]| (1..p.len()).fold(0, |best, class| if p[class] > p[best] { class } else { best });
        let class: Vec<i64> = values.chunks_exact(classes).map(|p| likeliest(p) as i64).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::new(class.into(), nulls.clone()))];
        let list = self.output.fields().last().filter(|last| matches!(last.data_type(), DataType::FixedSizeList(..)));
        if list.is_some() {
            let values = Arc::new(Float32Array::from(values));
            columns.push(Arc::new(FixedSizeListArray::new(item(), classes as i32, values, nulls)));
            return columns;
        }
        for class in 0..classes {
            let of_class: Vec<f32> = values.iter().skip(class).step_by(classes).copied().collect();
            columns.push(Arc::new(Float32Array::new(of_class.into(), nulls.clone())));
        }
        columns
    }
}

/// The columns of a prediction, named as in a reply of the server.
fn predicted(loss: Loss, flat: bool) -> Vec<Field> {
    let number = |name: &str| Field::new(name, DataType::Float32, true);
    match loss {
        Loss::Logistic => vec![number("probability")],
        Loss::Squared | Loss::Huber { .. } | Loss::Bounded { .. } => vec![number("value")],
        Loss::Softmax { classes } => {
            let class = [Field::new("class", DataType::Int64, true)].into_iter();
            match flat {
                true => class.chain((0..classes).map(|i| number(&format!("probability_{i}")))).collect(),
                false => {
                    let list = DataType::FixedSizeList(item(), classes as i32);
                    class.chain([Field::new("probabilities", list, true)]).collect()
                }
            }
        }
    }
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

fn column(columns: &Schema, name: &str, model: &str) -> Result<usize> {
    columns.index_of(name).map_err(|_| {
        let names: Vec<&str> = columns.fields().iter().map(|f| f.name().as_str()).take(50).collect();
        Error::invalid(format!("--with: the source of '{model}' has no column '{name}'; it has {}", names.join(", ")))
    })
}
