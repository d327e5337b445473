//! Rows to bytes: JSON, CSV and Arrow's own, the last for rows that become Parquet later.
//!
//! In: rows. Out: for the same rows always the same bytes. Values are written as the sources of this crate read them: a NULL
//! is `null` in JSON and nothing in CSV.

use std::io::Cursor;

use arrow::{
    array::RecordBatch,
    csv,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
    json::{WriterBuilder, writer::LineDelimited},
};
use tidemill_base::{Error, Result};

use super::RowFormat;
use crate::{contained::contained, source::Within};

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

/// Gives the rows of [`ipc`] streams, one behind the other, to `take`. Bytes that are none are damage of `place`.
pub(super) fn each_ipc(bytes: &[u8], place: &str, mut take: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    let broken = |e: ArrowError| Error::corrupt(format!("{place}: {e}"));
    let mut from = Cursor::new(bytes);
    contained(&place, || {
        while from.position() < bytes.len() as u64 {
            let left = bytes.len() as u64 - from.position();
            let reader = StreamReader::try_new(Within::new(&mut from, left), None).map_err(broken)?;
            for rows in reader {
                take(rows.map_err(broken)?)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use tidemill_base::Kind;

    use super::*;

    /// Rows that wait for their file have no checksums: whatever a disk makes of a byte, it is rows or it is told.
    #[test]
    fn damaged_rows_are_told_and_end_nothing() {
        let users: ArrayRef = Arc::new(StringArray::from(vec![Some("ann"), None, Some("bob")]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None, Some(7)]));
        let rows = RecordBatch::try_from_iter([("user", users), ("x", numbers)]).unwrap();
        let bytes = [ipc(&rows).unwrap(), ipc(&rows.slice(1, 2)).unwrap()].concat();
        let read = |bytes: &[u8]| {
            let mut count = 0;
            each_ipc(bytes, "sink 'out'", |rows| {
                count += rows.num_rows();
                Ok(())
            })
            .map(|()| count)
        };
        assert_eq!(read(&bytes).unwrap(), 5);
        let mut refused = 0;
        for (at, value) in (0..bytes.len()).flat_map(|at| [0, 1, 0x7f, 0xff].map(|value| (at, value))) {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            if let Err(e) = read(&bytes) {
                assert_eq!((e.kind(), e.message().contains("sink 'out'")), (Kind::Corrupt, true), "byte {at}: {e}");
                refused += 1;
            }
        }
        assert!(refused > 100);
    }
}
