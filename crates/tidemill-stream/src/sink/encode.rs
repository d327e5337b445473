//! Rows to bytes: JSON, CSV and Arrow's own, the last for rows that become Parquet later.
//!
//! In: rows. Out: for the same rows always the same bytes. Values are written as the sources of this crate read them: a NULL
//! is `null` in JSON and nothing in CSV.

use std::io::{self, Cursor};

use arrow::{
    array::RecordBatch,
    csv,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
    json::{WriterBuilder, writer::LineDelimited},
};
use tidemill_base::{Error, Result};

use super::RowFormat;

fn failed(e: ArrowError) -> Error {
    Error::internal(format!("rows of a sink: {e}"))
}

/// One JSON object a line.
pub fn json_lines(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(rows.num_rows() * 64);
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut out);
    writer.write(rows).and_then(|()| writer.finish()).map_err(failed)?;
    Ok(out)
}

/// Comma-separated lines, without a line of names.
pub fn csv_lines(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(rows.num_rows() * 64);
    csv::WriterBuilder::new().with_header(false).build(&mut out).write(rows).map_err(failed)?;
    Ok(out)
}

/// The line of names in front of [`csv_lines`].
pub fn csv_names(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let none = rows.slice(0, 0);
    csv::WriterBuilder::new().with_header(true).build(&mut out).write(&none).map_err(failed)?;
    Ok(out)
}

/// Each row's bytes, without the end of its line: what a row is as an event.
pub fn lines(rows: &RecordBatch, format: RowFormat) -> Result<Vec<Vec<u8>>> {
    match format {
        RowFormat::Json => {
            let all = json_lines(rows)?;
            Ok(all.split_inclusive(|byte| *byte == b'\n').map(|line| line[..line.len() - 1].to_vec()).collect())
        }
        // A quoted value may hold the end of a line.
        _ => (0..rows.num_rows())
            .map(|i| {
                let mut line = csv_lines(&rows.slice(i, 1))?;
                line.pop();
                Ok(line)
            })
            .collect(),
    }
}

/// A whole Arrow IPC stream of these rows.
pub(super) fn ipc(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &rows.schema()).map_err(failed)?;
    writer.write(rows).and_then(|()| writer.finish()).map_err(failed)?;
    drop(writer);
    Ok(out)
}

/// Gives the rows of [`ipc`] streams, one behind the other, to `take`.
pub(super) fn each_ipc(bytes: &[u8], mut take: impl FnMut(RecordBatch) -> io::Result<()>) -> io::Result<()> {
    let broken = |e: ArrowError| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut from = Cursor::new(bytes);
    while from.position() < bytes.len() as u64 {
        let mut reader = StreamReader::try_new(&mut from, None).map_err(broken)?;
        for rows in &mut reader {
            take(rows.map_err(broken)?)?;
        }
    }
    Ok(())
}
