//! What every source owes the rest of the line, tested at the room's border: files go in, chunks come out.

mod arrow_files;
mod files;
mod json_lines;
mod replay;
mod sparse_text;
mod tables;

use std::{fs, path::PathBuf, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    util::display::array_value_to_string,
};

use super::*;
use crate::Refused;

/// An empty directory of its own for one test.
fn dir(name: &str) -> PathBuf {
    let d = std::env::temp_dir().join(format!("tidemill-source-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&d);
    fs::create_dir_all(&d).unwrap();
    d
}

/// A schema written as `name TYPE, name TYPE NOT NULL`.
pub(super) fn columns(text: &str) -> SchemaRef {
    let field = |part: &str| {
        let (name, ty) = part.trim().split_once(' ').unwrap();
        let (ty, nullable) = ty.strip_suffix(" NOT NULL").map_or((ty, true), |ty| (ty, false));
        let ty = match ty {
            "BIGINT" => DataType::Int64,
            "INT" => DataType::Int32,
            "DOUBLE" => DataType::Float64,
            "FLOAT" => DataType::Float32,
            "STRING" => DataType::Utf8,
            "BOOLEAN" => DataType::Boolean,
            "TIMESTAMP" => DataType::Timestamp(TimeUnit::Millisecond, None),
            "SPARSE" => sparse_type(),
            _ => panic!("no type {ty}"),
        };
        Field::new(name, ty, nullable)
    };
    Arc::new(Schema::new(text.split(',').map(field).collect::<Vec<_>>()))
}

fn csv() -> FileFormat {
    FileFormat::Delimited { delimiter: b',', header: true, null: String::new() }
}

fn file_spec(path: &str, format: FileFormat, follow: bool, schema: &SchemaRef) -> SourceSpec {
    source(Connector::File(FileSettings { path: path.into(), format, follow }), schema)
}

fn source(connector: Connector, schema: &SchemaRef) -> SourceSpec {
    SourceSpec::new("clicks", schema.clone(), connector)
}

/// The only partition of a source.
fn open_one(spec: &SourceSpec) -> Result<Box<dyn Partition>> {
    let mut opened = open(spec, &[])?;
    assert_eq!(opened.len(), 1);
    Ok(opened.pop().unwrap().partition)
}

/// Rows by offset as text, refused rows by offset with their reasons, and where chunks began and ended.
#[derive(Debug, Default, PartialEq, Clone)]
struct Seen {
    rows: Vec<(u64, String)>,
    refused: Vec<(u64, String)>,
    places: Vec<Position>,
}

impl Seen {
    /// Reads until nothing more comes; checks that chunks and offsets fit together.
    fn read(&mut self, partition: &mut dyn Partition) -> Result<()> {
        while let Read::Chunk(chunk) = partition.read()? {
            assert!(chunk.end.offset > chunk.start.offset, "a chunk holds at least one row");
            if let Some(last) = self.places.last() {
                assert_eq!(last.offset, chunk.start.offset, "chunks follow one another");
            }
            let rows = (0..chunk.rows.num_rows()).map(|i| (chunk.offset(i), row(&chunk.rows, i)));
            self.rows.extend(rows);
            self.refused.extend(chunk.refused.iter().map(|Refused { offset, reason, .. }| (*offset, reason.clone())));
            let count = chunk.rows.num_rows() + chunk.refused.len();
            assert_eq!(count as u64, chunk.end.offset - chunk.start.offset, "every offset is a row or refused");
            self.places.extend([chunk.start, chunk.end]);
        }
        Ok(())
    }

    /// What lies before `to`.
    fn before(&self, to: u64) -> Self {
        let mut head = self.behind(0);
        head.rows.retain(|r| r.0 < to);
        head.refused.retain(|r| r.0 < to);
        head
    }

    /// What lies at `from` and behind it.
    fn behind(&self, from: u64) -> Self {
        let mut tail = self.clone();
        tail.rows.retain(|r| r.0 >= from);
        tail.refused.retain(|r| r.0 >= from);
        tail.places.clear();
        tail
    }
}

fn read_all(partition: &mut dyn Partition) -> Seen {
    let mut seen = Seen::default();
    seen.read(partition).unwrap();
    seen
}

/// Going back to any place that was seen must bring the very same rows.
fn check_replay(partition: &mut dyn Partition, seen: &Seen) {
    for place in &seen.places {
        partition.seek(*place).unwrap();
        assert_eq!(read_all(partition).behind(0), seen.behind(place.offset), "from {place:?}");
    }
}

fn row(batch: &RecordBatch, i: usize) -> String {
    let value = |c: &arrow::array::ArrayRef| match c.is_null(i) {
        true => "NULL".to_string(),
        false => array_value_to_string(c, i).unwrap(),
    };
    batch.columns().iter().map(value).collect::<Vec<_>>().join("|")
}

/// Rows and refusals, one a line, as a test expects them.
fn listing(seen: &Seen) -> String {
    let mut lines: Vec<(u64, String)> = seen.rows.clone();
    lines.extend(seen.refused.iter().map(|(o, r)| (*o, format!("refused: {r}"))));
    lines.sort();
    lines.into_iter().map(|(o, l)| format!("{o}: {}\n", l.replace('\r', "\\r"))).collect()
}
