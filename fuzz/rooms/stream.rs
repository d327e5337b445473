//! Rows as sources bring them: every byte is in a row, in a refused row, or between two.

use std::{fs, io::Write, path::PathBuf, sync::Arc, sync::OnceLock};

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    ipc::writer::{FileWriter, StreamWriter},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use tidemill_base::Result;
use tidemill_stream::source::{
    Connector, FileFormat, FileSettings, OnGap, Partition, Read, SourceSpec,
    feed::{Fed, Feed, FeedPartition},
    json::JsonDecoder,
    open, parse_properties, sparse_type,
};

/// Reads of a compressed file at most: a few bytes may stand for many rows, and not for any number.
const READS_MAX: usize = 1 << 20;

fn columns(sparse: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("user", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
        Field::new("seen", DataType::Boolean, true),
        Field::new("ts", DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None), true),
    ];
    if sparse {
        fields = vec![Field::new("label", DataType::Float64, true), Field::new("features", sparse_type(), true)];
    }
    Arc::new(Schema::new(fields))
}

/// Lines of JSON, as they are pushed.
pub fn json_lines(bytes: &[u8]) -> bool {
    let mut decoder = JsonDecoder::new(columns(false)).expect("types that it knows");
    let taken = bytes.split(|b| *b == b'\n').filter(|line| decoder.push_line(line).is_ok()).count();
    assert_eq!(decoder.finish().num_rows(), taken);
    taken > 0
}

/// Text between commas.
pub fn csv(bytes: &[u8]) -> bool {
    file(bytes, FileFormat::Delimited { delimiter: b',', header: true, null: String::new() }, columns(false))
}

/// `label index:value ...`.
pub fn libsvm(bytes: &[u8]) -> bool {
    file(bytes, FileFormat::Libsvm, columns(true))
}

/// Vowpal Wabbit's text.
pub fn vw(bytes: &[u8]) -> bool {
    file(bytes, FileFormat::Vw, columns(true))
}

/// A Parquet file.
pub fn parquet(bytes: &[u8]) -> bool {
    file(bytes, FileFormat::Parquet, columns(false))
}

/// An Arrow IPC file or stream.
pub fn arrow_file(bytes: &[u8]) -> bool {
    file(bytes, FileFormat::Arrow, columns(false))
}

/// The number of a way to compress, and a text between commas behind it.
pub fn compressed(bytes: &[u8]) -> bool {
    let Some((way, bytes)) = bytes.split_first() else { return false };
    let name = if way % 2 == 0 { "csv.gz" } else { "csv.zst" };
    let format = FileFormat::Delimited { delimiter: b',', header: true, null: String::new() };
    file_named(name, bytes, format, columns(false), READS_MAX)
}

/// Pairs for a client of a server, as a setting or a file has them.
pub fn properties(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(pairs) = parse_properties(text) else { return false };
    // What begins with # would say nothing.
    let written: String = pairs.iter().map(|(name, value)| format!(";{name}={value}")).collect();
    assert_eq!(parse_properties(&written).expect("what was read can be written"), pairs);
    !pairs.is_empty()
}

/// Events of a server, between bytes 255 that no text has; an empty one has no value, and 254 in front of one is a hole in
/// the numbers. The first byte says how they are written.
pub fn feed(bytes: &[u8]) -> bool {
    let Some((format, events)) = bytes.split_first() else { return false };
    let format = match format % 2 {
        0 => FileFormat::Json,
        _ => FileFormat::Delimited { delimiter: b',', header: false, null: "-".into() },
    };
    let (mut number, mut numbered) = (0, Vec::new());
    for event in events.split(|b| *b == 255) {
        let (holes, event) = event.split_at(event.iter().take_while(|b| **b == 254).count());
        number += 1 + holes.len() as u64;
        numbered.push((number, (!event.is_empty()).then(|| event.to_vec())));
    }
    let count = numbered.len();
    let feed = Box::new(Events(numbered.into_iter()));
    let spec = spec(Connector::Http, columns(false));
    let mut partition = FeedPartition::open(&spec, "clicks/3@0".into(), feed, &format, OnGap::Continue, 0, false)
        .expect("a format that feeds have");
    let (mut taken, mut refused) = (0, 0);
    while let Read::Chunk(chunk) = partition.read().expect("a feed that never fails") {
        taken += chunk.rows.num_rows();
        refused += chunk.refused.len();
    }
    assert_eq!(taken + refused, count, "an event is a row or refused");
    taken > 0
}

struct Events(std::vec::IntoIter<(u64, Option<Vec<u8>>)>);

impl Feed for Events {
    fn next(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Fed> {
        Ok(match self.0.next() {
            Some((number, event)) => {
                take(number, event.as_deref());
                Fed::Event
            }
            None => Fed::End,
        })
    }

    fn seek(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn is_behind(&self) -> bool {
        false
    }
}

fn spec(connector: Connector, columns: SchemaRef) -> SourceSpec {
    SourceSpec {
        name: "rows".into(),
        columns,
        primary_key: None,
        event_time_column: None,
        connector,
        push: false,
        watermark_bound_ms: 0,
        idle_timeout_ms: 10_000,
        ahead_max_ms: None,
        drift_max_ms: None,
        history: None,
    }
}

fn file(bytes: &[u8], format: FileFormat, columns: SchemaRef) -> bool {
    // No row is empty, so there are no more reads than bytes.
    file_named("txt", bytes, format, columns, bytes.len() + 1)
}

fn file_named(end: &str, bytes: &[u8], format: FileFormat, columns: SchemaRef, reads_max: usize) -> bool {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("tidemill-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a place for files");
        dir
    });
    let path = dir.join(format!("{:?}.{end}", std::thread::current().id()));
    fs::write(&path, bytes).expect("room for a small file");
    let file = FileSettings { path: path.display().to_string(), format, follow: false };
    let spec = spec(Connector::File(file), columns);
    let Ok(opened) = open(&spec, &[]) else { return false };
    let mut taken = 0;
    for mut one in opened {
        let mut reads = 0;
        while let Ok(Read::Chunk(chunk)) = one.partition.read() {
            taken += chunk.rows.num_rows();
            reads += 1;
            assert!(reads <= reads_max, "it does not end");
        }
    }
    taken > 0
}

pub fn json_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"id":1,"user":"a\u00e9\"b","price":1.5e3,"seen":true,"ts":1700000000000}"#,
        "{\"id\":null,\"extra\":[1,{\"a\":[]}]}\n{}\n{\"price\":-0.0,\"user\":\"\u{1F600}\"}\n",
        "{\"ts\":\"2026-11-21T10:00:00Z\",\"seen\":false}",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn csv_seeds() -> Vec<Vec<u8>> {
    [
        "id,user,price,seen,ts\n1,ann,2.5,true,1700000000000\n2,\"a,\"\"b\"\"\nc\",,false,\n",
        "\u{feff}user,id\r\nx,7\r\n\"never closed,8\r\n",
        "price,user,id,seen,ts\n1e300,,,,\n",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn compressed_seeds() -> Vec<Vec<u8>> {
    let text = &csv_seeds()[0];
    let mut gzip = flate2::write::GzEncoder::new(vec![0], flate2::Compression::default());
    gzip.write_all(text).expect("memory");
    let zstd = zstd::encode_all(&text[..], 3).expect("memory");
    vec![gzip.finish().expect("memory"), [&[1], &zstd[..]].concat()]
}

pub fn property_seeds() -> Vec<Vec<u8>> {
    ["a=1; b.c = x=y ;", "# words\nsasl.username=me\r\nsasl.password=p;q=\n"].map(|s| s.as_bytes().to_vec()).to_vec()
}

pub fn sparse_seeds() -> Vec<Vec<u8>> {
    ["1 1:0.5 7:2 9:-1e3\n0 3:4:5\n-1\n", "1 2.0 'tag|a x:1 y |b:0.5 z\n-1 |a x\n", "0 qid:3 1:1 # words\n\n"]
        .map(|s| s.as_bytes().to_vec())
        .to_vec()
}

fn batch() -> RecordBatch {
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("user", Arc::new(StringArray::from(vec![Some("ann"), Some("ann"), None]))),
        ("price", Arc::new(Float64Array::from(vec![1.5, -2.0, 0.0]))),
        ("seen", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).expect("columns alike")
}

pub fn parquet_seeds() -> Vec<Vec<u8>> {
    let seed = |compression, has_dictionary| {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_dictionary_enabled(has_dictionary)
            .set_max_row_group_row_count(Some(2))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch().schema(), Some(properties)).expect("memory");
        writer.write(&batch()).expect("memory");
        writer.into_inner().expect("memory")
    };
    vec![
        seed(Compression::UNCOMPRESSED, true),
        seed(Compression::SNAPPY, false),
        seed(Compression::ZSTD(ZstdLevel::default()), true),
    ]
}

pub fn arrow_seeds() -> Vec<Vec<u8>> {
    let mut file = FileWriter::try_new(Vec::new(), &batch().schema()).expect("memory");
    file.write(&batch()).expect("memory");
    let mut stream = StreamWriter::try_new(Vec::new(), &batch().schema()).expect("memory");
    stream.write(&batch()).expect("memory");
    vec![file.into_inner().expect("memory"), stream.into_inner().expect("memory")]
}

pub fn feed_seeds() -> Vec<Vec<u8>> {
    vec![
        b"\0{\"id\":1,\"user\":\"a\"}\xff\xff\xfe\xfe{\"price\":2.5,\"seen\":true}\xff{".to_vec(),
        b"\x011,ann,2.5,true,1700000000000\xff2,\"a,\"\"b\",-,false,-\xff\xfe3,-".to_vec(),
    ]
}
