//! The seeded click stream of the demo: what was shown, and what was clicked, later.
//!
//! In: the settings. Out: two streams over one world. Impressions in order of their number, one every `1000 / rate` ms of
//! event time; clicks in order of event time, then number. The same seed gives the same rows from any place, in any
//! chunking. Nothing here waits: with `pace = 'realtime'` chunks are cut small and the reader paces itself by event time.

mod clicks;
mod weights;
mod world;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray},
    buffer::{OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use tidemill_base::{Error, Result};

use super::{
    CHUNK_ROWS_MAX, GeneratorSettings, GeneratorStream, Opened, Partition, Read, SourceSpec,
    text::gone,
    words::{find_name, nearest, sql_type},
};
use crate::{Chunk, Position};
use clicks::Clicks;
use world::{CATEGORIES, Draw, NUMBERS, number_value};
pub use world::{Impression, World};

/// The name of the generator's only partition.
const NAME: &str = "generator";

/// The columns a generator's stream has.
pub fn generator_columns(stream: GeneratorStream) -> Schema {
    let mut fields = vec![Field::new("imp_id", DataType::Int64, false), Field::new("ts", DataType::Int64, false)];
    if stream == GeneratorStream::Impressions {
        fields.extend((1..=NUMBERS).map(|i| Field::new(format!("I{i}"), DataType::Int64, true)));
        fields.extend((1..=CATEGORIES).map(|i| Field::new(format!("C{i}"), DataType::Utf8, false)));
        fields.push(Field::new("true_p", DataType::Float64, false));
    }
    Schema::new(fields)
}

/// Opens the stream of a declared generator source.
pub(super) fn open(spec: &SourceSpec, settings: &GeneratorSettings) -> Result<Vec<Opened>> {
    let columns = find_columns(spec, settings.stream)?;
    let partition: Box<dyn Partition> = match settings.stream {
        GeneratorStream::Impressions => Box::new(Impressions {
            source: spec.name.clone(),
            world: World::new(settings),
            schema: spec.columns.clone(),
            columns,
            rows: settings.rows,
            chunk_rows: chunk_rows(settings),
            next: 0,
            draws: Vec::new(),
        }),
        GeneratorStream::Clicks => Box::new(Clicks::new(spec, settings, columns)?),
    };
    Ok(vec![Opened { partition, ordered: true }])
}

/// Impressions in a chunk: five milliseconds of event time when somebody watches, else as many as fit.
fn chunk_rows(settings: &GeneratorSettings) -> u64 {
    match settings.realtime {
        true => (settings.rate / 200).clamp(1, CHUNK_ROWS_MAX as u64),
        false => CHUNK_ROWS_MAX as u64,
    }
}

/// What a declared column is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Id,
    Ts,
    Number(usize),
    Category(usize),
    TrueP,
}

fn find_columns(spec: &SourceSpec, stream: GeneratorStream) -> Result<Vec<Column>> {
    let there = generator_columns(stream);
    let names = || there.fields().iter().map(|f| f.name().as_str());
    let refuse = |why: String| {
        let list = match stream {
            GeneratorStream::Impressions => "imp_id BIGINT, ts BIGINT, I1..I13 BIGINT, C1..C26 STRING, true_p DOUBLE",
            GeneratorStream::Clicks => "imp_id BIGINT, ts BIGINT",
        };
        Error::invalid(format!("source {}: {why}; the generator's columns are {list}", spec.name))
    };
    let find = |field: &Arc<Field>| {
        let name = field.name();
        let at =
            find_name(name, names()).ok_or_else(|| refuse(format!("no column '{name}'{}", nearest(name, names()))))?;
        if field.data_type() != there.field(at).data_type() {
            return Err(refuse(format!("column '{name}' is declared {}", sql_type(field.data_type()))));
        }
        Ok(match at {
            0 => Column::Id,
            1 => Column::Ts,
            _ if at < 2 + NUMBERS => Column::Number(at - 2),
            _ if at < 2 + NUMBERS + CATEGORIES => Column::Category(at - 2 - NUMBERS),
            _ => Column::TrueP,
        })
    };
    spec.columns.fields().iter().map(find).collect()
}

/// What was shown.
struct Impressions {
    source: String,
    world: World,
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: Option<u64>,
    chunk_rows: u64,
    next: u64,
    draws: Vec<Draw>,
}

impl Impressions {
    fn column(&self, column: Column, first: u64) -> ArrayRef {
        let draws = &self.draws;
        match column {
            Column::Id => Arc::new(Int64Array::from_iter_values((first..self.next).map(|k| k as i64))),
            Column::Ts => Arc::new(Int64Array::from_iter_values((first..self.next).map(|k| self.world.ts(k)))),
            Column::Number(i) => Arc::new(Int64Array::from_iter(draws.iter().map(|d| number_value(i, d.codes[i])))),
            Column::Category(c) => Arc::new(strings(self.world.names(c), draws.iter().map(|d| d.codes[NUMBERS + c]))),
            Column::TrueP => Arc::new(Float64Array::from_iter_values(draws.iter().map(|d| d.true_p))),
        }
    }
}

/// A text column of values by code; all names have one length, so the offsets need no look at them.
fn strings(names: &[String], codes: impl ExactSizeIterator<Item = u8>) -> StringArray {
    let (rows, width) = (codes.len(), names[0].len());
    let mut bytes = Vec::with_capacity(rows * width);
    codes.for_each(|code| bytes.extend_from_slice(names[code as usize].as_bytes()));
    let offsets: Vec<i32> = (0..=rows).map(|i| (i * width) as i32).collect();
    StringArray::new(OffsetBuffer::new(ScalarBuffer::from(offsets)), bytes.into(), None)
}

impl Partition for Impressions {
    fn name(&self) -> &str {
        NAME
    }

    fn read(&mut self) -> Result<Read> {
        let first = self.next;
        let last = self.rows.unwrap_or(u64::MAX).min(first + self.chunk_rows);
        if first >= last {
            return Ok(Read::End);
        }
        self.draws.clear();
        for number in first..last {
            let draw = self.world.draw(number);
            self.draws.push(draw);
        }
        self.next = last;
        let arrays = self.columns.iter().map(|&c| self.column(c, first)).collect();
        let rows = RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|e| Error::internal(format!("building generated columns: {e}")))?;
        let position = |offset| Position { offset, bytes: 0 };
        Ok(Read::Chunk(Chunk { rows, offsets: None, start: position(first), end: position(last), refused: Vec::new() }))
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        if self.rows.is_some_and(|rows| to.offset > rows) {
            return Err(gone(&self.source, NAME, to.offset));
        }
        self.next = to.offset;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
