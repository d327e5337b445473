//! Rows that this program put on a disk itself, and what stands beside them: the log of pushed events, and a sink's files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use tidemill_base::{Kind, Result, codec::Encoder};
use tidemill_stream::{
    Position,
    sink::{FileOutlet, FileSinkSettings, Outlet, Owner, RowFormat, SinkRows},
    source::{Partition, Read, push},
};

use super::base;

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tidemill-fuzz-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a place for files");
    dir
}

fn columns() -> SchemaRef {
    let fields = vec![Field::new("ts", DataType::Int64, true), Field::new("user", DataType::Utf8, true)];
    Arc::new(Schema::new(fields))
}

/// The log of a source that events are pushed to, whose checksums are made right: read, and read again from a place within.
pub fn push_log(bytes: &[u8]) -> bool {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| dir("push"));
    fs::write(dir.join("push.log"), base::sealed_log(bytes)).expect("room for a small file");
    let Ok(mut log) = push::read(dir, columns(), "clicks", Some(0)) else { return false };
    let (mut taken, mut last) = (0, None);
    while let Ok(Read::Chunk(chunk)) = log.read() {
        let rows = chunk.rows.num_rows();
        assert_eq!((rows + chunk.refused.len()) as u64, chunk.end.offset - chunk.start.offset, "a row or refused");
        taken += rows;
        last = Some((chunk.start, rows));
    }
    let Some((start, rows)) = last else { return false };
    for place in [start, Position { bytes: 0, ..start }] {
        log.seek(place).expect("it was there before");
        let Ok(Read::Chunk(again)) = log.read() else { panic!("it was there before") };
        assert!(again.start.offset == start.offset && (place.bytes == 0 || again.rows.num_rows() == rows));
    }
    taken > 0
}

const SINK: &str = "out";
/// Whose rows they are, the rows of a file that is not complete, and what a checkpoint keeps of the file behind it.
const PIECES: [&str; 2] = [".out.sink", ".out-000000000001.open"];

fn outlet(dir: &Path, roll_bytes: u64) -> Result<FileOutlet> {
    let settings = FileSinkSettings { path: dir.display().to_string(), roll_bytes, roll_interval_ms: None };
    let owner = Owner { lineage: 7, model: "ctr".into(), sink: SINK.into() };
    FileOutlet::open(&settings, RowFormat::Parquet, &owner, &columns())
}

fn rows() -> RecordBatch {
    let times: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None]));
    let users: ArrayRef = Arc::new(StringArray::from(vec![Some("ann"), Some("")]));
    RecordBatch::try_new(columns(), vec![times, users]).expect("columns alike")
}

/// What a sink leaves that was ended between two files.
fn left() -> &'static [Vec<u8>; 2] {
    static LEFT: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    LEFT.get_or_init(|| {
        let dir = dir("left");
        let mut outlet = outlet(&dir, 1 << 20).expect("an empty directory");
        outlet.resume(0, None).expect("an empty directory");
        let group = |mini_batch| SinkRows { mini_batch, rows: rows(), numbers: vec![0, 1] };
        outlet.deliver(&[group(1), group(2)]).expect("room for a small file");
        outlet.sync(2).expect("room for a small file");
        PIECES.map(|name| fs::read(dir.join(name)).expect("it was kept"))
    })
}

/// The number of a piece of what a sink keeps, and what is in it.
pub fn sink(bytes: &[u8]) -> bool {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| dir("sink"));
    let Some((number, content)) = bytes.split_first() else { return false };
    for file in fs::read_dir(dir).expect("it is there").flatten() {
        fs::remove_file(file.path()).expect("it is there");
    }
    let number = usize::from(*number) % (PIECES.len() + 1);
    for (i, (name, left)) in PIECES.iter().zip(left()).enumerate() {
        fs::write(dir.join(name), if i == number { content } else { left }).expect("room for a small file");
    }
    // The file before is complete where there is one behind it.
    fs::write(dir.join(".out-000000000003.open"), b"").expect("room for a small file");
    let mut state = Encoder::new();
    state.put_u64(3).put_u64(0).put_u64(0);
    let state = if number == PIECES.len() { content.to_vec() } else { state.finish() };
    let resume = || -> Result<()> {
        let mut outlet = outlet(dir, 1)?;
        if outlet.can_resume(3, Some(&state)) {
            outlet.resume(3, Some(&state))?;
            outlet.deliver(&[SinkRows { mini_batch: 4, rows: rows(), numbers: vec![0, 1] }])?;
        }
        Ok(())
    };
    match resume() {
        Ok(()) => true,
        Err(e) => {
            assert_ne!(e.kind(), Kind::Internal, "{e}");
            false
        }
    }
}

pub fn push_seeds() -> Vec<Vec<u8>> {
    let record = |arrival: i64, line: &str| [&arrival.to_le_bytes(), line.as_bytes()].concat();
    let records = [
        record(1000, r#"{"ts":5,"user":"ann"}"#),
        record(i64::MAX, r#"{"user":"b\u00e9"}"#),
        record(-1, r#"{"ts":"x"}"#),
        record(2000, r#"{"ts":7,"user":null}"#),
    ];
    vec![base::log_of(1, &records)]
}

pub fn sink_seeds() -> Vec<Vec<u8>> {
    let mut state = Encoder::new();
    state.put_u64(3).put_u64(0).put_u64(0);
    let mut seeds: Vec<Vec<u8>> = left().iter().zip(0u8..).map(|(left, i)| [&[i], &left[..]].concat()).collect();
    seeds.push([&[2], state.as_slice()].concat());
    seeds
}
