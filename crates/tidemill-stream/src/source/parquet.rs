//! Parquet files: declared columns by name, converted where nothing is lost.
//!
//! In: a file or an object. Out: chunks whose offsets are row numbers, converted as [`super::table`] says. Seeking skips whole row
//! groups.

use std::ops::Range;

use ::parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        },
    },
    errors::ParquetError,
    file::reader::ChunkReader,
};
use arrow::datatypes::SchemaRef;
use tidemill_base::{Error, Result};

use super::{
    CHUNK_ROWS_MAX, Partition, Print, Read, compress::open_file, object::ObjectColumns, origin::Origin, table::Table,
    text::gone,
};
use crate::{Position, contained::contained};

/// A Parquet file as a partition.
pub(super) struct ParquetPartition {
    name: String,
    source: String,
    origin: Origin,
    metadata: ArrowReaderMetadata,
    table: Table,
    mask: ProjectionMask,
    /// `None` after a seek or an error: opened again at `offset`.
    reader: Option<ParquetRecordBatchReader>,
    offset: u64,
}

impl ParquetPartition {
    /// Opens the file, finds the declared columns and checks that each can be converted.
    pub(super) fn open(source: &str, name: String, origin: Origin, schema: SchemaRef) -> Result<Self> {
        let load = || {
            let metadata = match &origin {
                Origin::File(path) => ArrowReaderMetadata::load(&open_file(path)?, ArrowReaderOptions::new()),
                Origin::Object(object, failure) => {
                    let footer = ObjectColumns::new(object.clone(), failure.clone(), Vec::new());
                    ArrowReaderMetadata::load(&footer, ArrowReaderOptions::new())
                }
            };
            metadata.map_err(|e| damaged(&origin, e))
        };
        let metadata = contained(&origin, load)?;
        let (table, roots) = Table::find(&name, schema, metadata.schema())?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        Ok(Self { name, source: source.to_string(), origin, metadata, table, mask, reader: None, offset: 0 })
    }

    fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// A reader whose first row is `self.offset`.
    fn reopen(&self) -> Result<ParquetRecordBatchReader> {
        let (mut groups, mut skip) = (Vec::new(), self.offset);
        for (i, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let rows = group.num_rows().max(0) as u64;
            if groups.is_empty() && skip >= rows {
                skip -= rows;
            } else {
                groups.push(i);
            }
        }
        let built = match &self.origin {
            Origin::File(path) => self.build(open_file(path)?, groups, skip),
            Origin::Object(object, failure) => {
                let columns = ObjectColumns::new(object.clone(), failure.clone(), self.chunks(&groups));
                self.build(columns, groups, skip)
            }
        };
        built.map_err(|e| damaged(&self.origin, e))
    }

    fn build<T: ChunkReader + 'static>(
        &self,
        file: T,
        groups: Vec<usize>,
        skip: u64,
    ) -> Result<ParquetRecordBatchReader, ParquetError> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(self.mask.clone())
            .with_row_groups(groups)
            .with_offset(skip as usize)
            .with_batch_size(CHUNK_ROWS_MAX)
            .build()
    }

    /// Where the columns that are read lie in these row groups.
    fn chunks(&self, groups: &[usize]) -> Vec<Range<u64>> {
        let of_group = |&group: &usize| {
            let columns = self.metadata.metadata().row_group(group).columns().iter().enumerate();
            columns.filter(|(leaf, _)| self.mask.leaf_included(*leaf)).map(|(_, column)| {
                let (start, bytes) = column.byte_range();
                start..start + bytes
            })
        };
        groups.iter().flat_map(of_group).collect()
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
        let reader = self.reader.take();
        let (reader, next) = contained(&self.name, || {
            let mut reader = reader.map_or_else(|| self.reopen(), Ok)?;
            let next = reader.next();
            Ok((reader, next))
        })?;
        match next {
            Some(Ok(batch)) => {
                let position = |offset| Position { offset, bytes: 0 };
                let start = position(self.offset);
                self.offset += batch.num_rows() as u64;
                let chunk = self.table.chunk(&batch, start, position(self.offset))?;
                self.reader = Some(reader);
                Ok(Read::Chunk(chunk))
            }
            Some(Err(e)) => {
                let damage = Error::corrupt(format!("{}: behind row {}: {e}", self.name, self.offset));
                Err(self.origin.or_failure(damage.with_source(e)))
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

    fn is_all_there(&self) -> bool {
        true
    }

    /// Always of the whole file: one that has grown is another.
    fn print(&self, _bytes: Option<u64>) -> Result<Option<Print>> {
        self.origin.open()?.print(&self.origin, None)
    }
}

fn damaged(origin: &Origin, e: ParquetError) -> Error {
    let damage = Error::corrupt(format!("{origin} is not a Parquet file that can be read: {e}"));
    origin.or_failure(damage.with_source(e))
}
