//! Arrow IPC in both its formats: the same rows, from any place on; conversions and damage.

use std::io::Write;

use arrow::{
    array::{Int64Array, StringArray},
    ipc::writer::{FileWriter, StreamWriter},
};
use expect_test::expect;

use super::*;

/// Batches of these many rows: (id, name, something nobody declared).
fn batches(rows: &[usize]) -> Vec<RecordBatch> {
    let mut next = 0;
    let batch = |&n: &usize| {
        let ids: Vec<i64> = (next..next + n as i64).collect();
        next += n as i64;
        let names = StringArray::from_iter(ids.iter().map(|i| (i % 5 != 0).then(|| format!("n{i}"))));
        RecordBatch::try_from_iter([
            ("extra", Arc::new(Int64Array::from(vec![1; n])) as _),
            ("name", Arc::new(names) as _),
            ("id", Arc::new(Int64Array::from(ids)) as _),
        ])
        .unwrap()
    };
    rows.iter().map(batch).collect()
}

fn file_format(out: impl Write, batches: &[RecordBatch]) {
    let mut writer = FileWriter::try_new(out, &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
}

fn stream_format(out: impl Write, batches: &[RecordBatch]) {
    let mut writer = StreamWriter::try_new(out, &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
}

fn open_bytes(name: &str, bytes: &[u8], schema: &str) -> Result<Box<dyn Partition>> {
    let path = dir(name).join("x.arrow");
    fs::write(&path, bytes).unwrap();
    open_one(&file_spec(path.to_str().unwrap(), FileFormat::Arrow, false, &columns(schema)))
}

/// Places lie within batches, at their borders and behind empty ones; the hint may be absent.
#[test]
fn both_formats_give_the_same_rows_from_any_place_on() {
    let batches = batches(&[3, 0, CHUNK_ROWS_MAX + 5, 1, 0]);
    let (mut file, mut stream) = (Vec::new(), Vec::new());
    file_format(&mut file, &batches);
    stream_format(&mut stream, &batches);
    let total = CHUNK_ROWS_MAX as u64 + 9;
    for (name, bytes) in [("arrow-file", file), ("arrow-stream", stream)] {
        let mut partition = open_bytes(name, &bytes, "id BIGINT, name STRING").unwrap();
        let seen = read_all(&mut *partition);
        assert_eq!(seen.rows.len() as u64, total);
        assert_eq!((&*seen.rows[5].1, &*seen.rows[6].1), ("5|NULL", "6|n6"));
        check_replay(&mut *partition, &seen);
        for offset in [0, 1, 3, 4, 5000, total - 1, total] {
            partition.seek(Position { offset, bytes: 0 }).unwrap();
            assert_eq!(read_all(&mut *partition).behind(0), seen.behind(offset), "{name} from {offset}");
        }
        let beyond = Position { offset: total + 1, bytes: 0 };
        assert_eq!(partition.seek(beyond).unwrap_err().kind(), tidemill_base::Kind::Conflict);
    }
}

#[test]
fn columns_are_converted_where_nothing_is_lost() {
    let ids = Int64Array::from(vec![Some(1), Some(3_000_000_000), None]);
    let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as _)]).unwrap();
    let mut bytes = Vec::new();
    stream_format(&mut bytes, &[batch]);
    let mut partition = open_bytes("arrow-convert", &bytes, "id INT").unwrap();
    expect![[r#"
        0: 1
        1: refused: row 2: column 'id': 3000000000 does not fit INT
        2: NULL
    "#]]
    .assert_eq(&listing(&read_all(&mut *partition)));
    let e = open_bytes("arrow-type", &bytes, "id BOOLEAN").err().unwrap();
    assert!(e.message().contains("column 'id' is Int64 in the file and cannot be read as BOOLEAN"), "{e}");
    let e = open_bytes("arrow-name", &bytes, "ids BIGINT").err().unwrap();
    assert!(e.message().contains("the file has no column 'ids'; did you mean 'id'?"), "{e}");
}

#[test]
fn what_is_no_arrow_file_or_is_cut_off_is_named() {
    let mut whole = Vec::new();
    stream_format(&mut whole, &batches(&[100]));
    let e = open_bytes("arrow-not", b"id,name\n1,a\n", "id BIGINT").err().unwrap();
    assert_eq!(e.kind(), tidemill_base::Kind::Corrupt, "{e}");
    let mut cut = open_bytes("arrow-cut", &whole[..whole.len() - 200], "id BIGINT").unwrap();
    let e = cut.read().unwrap_err();
    assert_eq!(e.kind(), tidemill_base::Kind::Corrupt, "{e}");
    assert!(e.message().contains("is not an Arrow IPC file that can be read"), "{e}");
}

/// The library makes room for lengths as they stand: a gigabyte for a text, and more than there is for a damaged footer, which
/// ended the process.
#[test]
fn lengths_that_lead_out_of_a_file_are_refused_before_there_is_room_for_them() {
    let read = |bytes: &[u8]| -> Result<()> {
        let mut partition = open_bytes("arrow-lengths", bytes, "id BIGINT, name STRING")?;
        while !matches!(partition.read()?, Read::End) {}
        Ok(())
    };
    let refused = |bytes: &[u8], why: &str| {
        let e = read(bytes).unwrap_err();
        assert!(e.kind() == tidemill_base::Kind::Corrupt && e.message().contains(why), "{e}");
    };
    refused(b"id,name\n1,ann\n2,bob\n", "a message of 1848403049 bytes, where 16 are left");
    let (mut file, mut stream) = (Vec::new(), Vec::new());
    file_format(&mut file, &batches(&[3]));
    stream_format(&mut stream, &batches(&[3]));
    let mut footer = file.clone();
    let at = file.len() - 10;
    footer[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    refused(&footer, "a footer of 2147483647 bytes in a file of");
    // Whichever length it is that is damaged.
    let (mut outside, huge) = (0, i64::MAX.to_le_bytes());
    for whole in [file, stream] {
        for at in (0..whole.len() - huge.len()).step_by(4) {
            let mut bad = whole.clone();
            bad[at..at + huge.len()].copy_from_slice(&huge);
            outside += usize::from(read(&bad).is_err_and(|e| e.message().contains(" bytes")));
        }
    }
    assert!(outside > 4, "{outside}");
}
