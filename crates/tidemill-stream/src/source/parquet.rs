//! Parquet files: declared columns by name, converted where nothing is lost.
//!
//! In: a file. Out: chunks whose offsets are row numbers. A column of another type is converted if every value can be;
//! where that depends on the value (a BIGINT read as INT), the rows that do not fit are refused one by one; otherwise the
//! file is refused by column and both types. Seeking skips whole row groups.

mod convert;

use std::{fs::File, path::PathBuf};

use ::parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        },
    },
    errors::ParquetError,
};
use arrow::{
    array::{Array, BooleanArray, RecordBatch},
    datatypes::SchemaRef,
};
use tidemill_base::{Error, Result};

use super::{
    CHUNK_ROWS_MAX, Partition, Print, Read,
    compress::open_file,
    print,
    text::{gone, refused},
    words::{find_name, nearest, sql_type},
};
use crate::{Chunk, Position, Refused};
use convert::Conversion;

/// Columns of the projected file with their conversions, in declared order.
type Found = Vec<(usize, Conversion)>;

/// A Parquet file as a partition.
pub(super) struct ParquetPartition {
    name: String,
    source: String,
    path: PathBuf,
    schema: SchemaRef,
    metadata: ArrowReaderMetadata,
    /// For each declared column: which column of the projected file it is, and how it gets its type.
    columns: Found,
    mask: ProjectionMask,
    /// `None` after a seek or an error: opened again at `offset`.
    reader: Option<ParquetRecordBatchReader>,
    offset: u64,
}

impl ParquetPartition {
    /// Opens the file, finds the declared columns and checks that each can be converted.
    pub(super) fn open(source: &str, name: String, path: PathBuf, schema: SchemaRef) -> Result<Self> {
        let file = open_file(&path)?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| damaged(&name, e))?;
        let (columns, roots) = find_columns(&name, &schema, metadata.schema())?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        Ok(Self { name, source: source.to_string(), path, schema, metadata, columns, mask, reader: None, offset: 0 })
    }

    fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// A reader whose first row is `self.offset`.
    fn reopen(&self) -> Result<ParquetRecordBatchReader> {
        let file: File = open_file(&self.path)?;
        let (mut groups, mut skip) = (Vec::new(), self.offset);
        for (i, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let rows = group.num_rows().max(0) as u64;
            if groups.is_empty() && skip >= rows {
                skip -= rows;
            } else {
                groups.push(i);
            }
        }
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(self.mask.clone())
            .with_row_groups(groups)
            .with_offset(skip as usize)
            .with_batch_size(CHUNK_ROWS_MAX)
            .build()
            .map_err(|e| damaged(&self.name, e))
    }

    fn chunk(&mut self, batch: &RecordBatch) -> Result<Chunk> {
        let start = self.offset;
        let rows = batch.num_rows();
        let mut reasons: Vec<Option<String>> = vec![None; rows];
        let mut arrays = Vec::with_capacity(self.columns.len());
        for ((at, conversion), field) in self.columns.iter().zip(self.schema.fields()) {
            let (array, misfits) = conversion.apply(batch.column(*at)).map_err(|e| e.at(&self.name))?;
            for (row, value) in misfits {
                let why = || format!("column '{}': {value} does not fit {}", field.name(), sql_type(field.data_type()));
                reasons[row].get_or_insert_with(why);
            }
            if !field.is_nullable() && array.null_count() > 0 {
                for row in (0..rows).filter(|&r| array.is_null(r)) {
                    let why = || format!("column '{}': NULL in a column declared NOT NULL", field.name());
                    reasons[row].get_or_insert_with(why);
                }
            }
            arrays.push(array);
        }
        self.offset += rows as u64;
        let position = |offset| Position { offset, bytes: 0 };
        let (start, end) = (position(start), position(self.offset));
        if reasons.iter().all(Option::is_none) {
            return Ok(Chunk { rows: self.batch(arrays)?, offsets: None, start, end, refused: Vec::new() });
        }
        let keep = BooleanArray::from_iter(reasons.iter().map(|r| Some(r.is_none())));
        let filter = |a: &dyn Array| arrow::compute::filter(a, &keep).map_err(|e| internal(&e));
        let kept = arrays.iter().map(|a| filter(a)).collect::<Result<_>>()?;
        let offsets = (0..rows).filter(|&r| reasons[r].is_none()).map(|r| start.offset + r as u64).collect();
        let refuse =
            |(row, why): (usize, Option<String>)| Some(refused(start.offset + row as u64, why?, String::new()));
        let refused: Vec<Refused> = reasons.into_iter().enumerate().filter_map(refuse).collect();
        Ok(Chunk { rows: self.batch(kept)?, offsets: Some(offsets), start, end, refused })
    }

    fn batch(&self, arrays: Vec<arrow::array::ArrayRef>) -> Result<RecordBatch> {
        RecordBatch::try_new(self.schema.clone(), arrays).map_err(|e| internal(&e))
    }
}

impl Partition for ParquetPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        if self.offset >= self.rows() {
            return Ok(Read::End);
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.reopen()?,
        };
        match reader.next() {
            Some(Ok(batch)) => {
                let chunk = self.chunk(&batch)?;
                self.reader = Some(reader);
                Ok(Read::Chunk(chunk))
            }
            Some(Err(e)) => {
                Err(Error::corrupt(format!("{}: behind row {}: {e}", self.name, self.offset)).with_source(e))
            }
            None => Err(Error::corrupt(format!("{}: ends at row {} of {}", self.name, self.offset, self.rows()))),
        }
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        if to.offset > self.rows() {
            return Err(gone(&self.source, &self.name, to.offset));
        }
        self.reader = None;
        self.offset = to.offset;
        Ok(())
    }

    /// Always of the whole file: one that has grown is another.
    fn print(&self, _bytes: Option<u64>) -> Result<Option<Print>> {
        print::of(&open_file(&self.path)?, &self.path, None).map(Some)
    }
}

/// For each declared column its place in the projection and its conversion; and the file's columns to read, ascending.
fn find_columns(name: &str, declared: &SchemaRef, file: &SchemaRef) -> Result<(Found, Vec<usize>)> {
    let names = || file.fields().iter().map(|f| f.name().as_str());
    let mut found = Vec::with_capacity(declared.fields().len());
    for field in declared.fields() {
        let Some(at) = find_name(field.name(), names()) else {
            let hint = nearest(field.name(), names());
            return Err(Error::invalid(format!("{name}: the file has no column '{}'{hint}", field.name())));
        };
        let (from, to) = (file.field(at).data_type(), field.data_type());
        let conversion = Conversion::plan(from, to).ok_or_else(|| {
            let (column, to) = (field.name(), sql_type(to));
            Error::invalid(format!(
                "{name}: column '{column}' is {from} in the file and cannot be read as {to} without loss"
            ))
        })?;
        found.push((at, conversion));
    }
    let mut roots: Vec<usize> = found.iter().map(|f| f.0).collect();
    roots.sort_unstable();
    roots.dedup();
    for (at, _) in &mut found {
        *at = roots.binary_search(at).expect("every column found is among the roots");
    }
    Ok((found, roots))
}

fn damaged(name: &str, e: ParquetError) -> Error {
    Error::corrupt(format!("{name} is not a Parquet file that can be read: {e}")).with_source(e)
}

fn internal(e: &arrow::error::ArrowError) -> Error {
    Error::internal(format!("building a batch from Parquet columns: {e}"))
}
