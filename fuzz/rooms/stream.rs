//! Rows as sources bring them: every byte is in a row, in a refused row, or between two.

use std::{fs, path::PathBuf, sync::Arc, sync::OnceLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_stream::source::{
    Connector, FileFormat, FileSettings, Read, SourceSpec, json::JsonDecoder, open, sparse_type,
};

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

fn file(bytes: &[u8], format: FileFormat, columns: SchemaRef) -> bool {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("tidemill-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a place for files");
        dir
    });
    let path = dir.join(format!("{:?}.txt", std::thread::current().id()));
    fs::write(&path, bytes).expect("room for a small file");
    let spec = SourceSpec {
        name: "rows".into(),
        columns,
        primary_key: None,
        event_time_column: None,
        connector: Connector::File(FileSettings { path: path.display().to_string(), format, follow: false }),
        push: false,
        watermark_bound_ms: 0,
        idle_timeout_ms: 10_000,
        ahead_max_ms: None,
        drift_max_ms: None,
        history: None,
    };
    let Ok(opened) = open(&spec, &[]) else { return false };
    let mut taken = 0;
    for mut one in opened {
        // No row is empty, so there are no more reads than bytes.
        let mut reads = 0;
        while let Ok(Read::Chunk(chunk)) = one.partition.read() {
            taken += chunk.rows.num_rows();
            reads += 1;
            assert!(reads <= bytes.len() + 1, "it does not end");
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

pub fn sparse_seeds() -> Vec<Vec<u8>> {
    ["1 1:0.5 7:2 9:-1e3\n0 3:4:5\n-1\n", "1 2.0 'tag|a x:1 y |b:0.5 z\n-1 |a x\n", "0 qid:3 1:1 # words\n\n"]
        .map(|s| s.as_bytes().to_vec())
        .to_vec()
}
