//! Parquet files: declared columns by name, converted where nothing is lost.
//!
//! In: a file. Out: chunks whose offsets are row numbers, converted as [`super::table`] says. Seeking skips whole row
//! groups.

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
use arrow::datatypes::SchemaRef;
use tidemill_base::{Error, Result};

use super::{CHUNK_ROWS_MAX, Partition, Print, Read, compress::open_file, print, table::Table, text::gone};
use crate::Position;

/// A Parquet file as a partition.
pub(super) struct ParquetPartition {
    name: String,
    source: String,
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    table: Table,
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
        let (table, roots) = Table::find(&name, schema, metadata.schema())?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        Ok(Self { name, source: source.to_string(), path, metadata, table, mask, reader: None, offset: 0 })
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
                let position = |offset| Position { offset, bytes: 0 };
                let start = position(self.offset);
                self.offset += batch.num_rows() as u64;
                let chunk = self.table.chunk(&batch, start, position(self.offset))?;
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

fn damaged(name: &str, e: ParquetError) -> Error {
    Error::corrupt(format!("{name} is not a Parquet file that can be read: {e}")).with_source(e)
}
