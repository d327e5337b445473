//! Bulk prediction over Arrow IPC: the numbers of `:predict`, types that lose nothing, and bytes that are no stream.

mod support;

use std::{
    io::{Read, Write},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, AsArray, DictionaryArray, Float32Array, Float64Array, Int64Array, LargeStringArray, RecordBatch,
        StringArray, StringViewArray, UInt64Array,
    },
    datatypes::{Float32Type, Int32Type},
    ipc::{
        CompressionType,
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
};
use bytes::Bytes;
use serde_json::json;
use support::{
    FakeHost, row,
    site::{Site, connect, open},
};
use tidemill_base::Rng;

const ARROW: &str = "application/vnd.apache.arrow.stream";

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, column)| (*name, column.clone(), true)))
        .unwrap()
}

/// Rows like [`row`], as many as are asked for.
fn rows(n: usize) -> RecordBatch {
    batch(&[
        ("user", Arc::new(StringArray::from(vec!["u1"; n]))),
        ("item", Arc::new(StringArray::from(vec!["i1"; n]))),
        ("price", Arc::new(Float64Array::from(vec![2.0; n]))),
    ])
}

fn stream_with(batches: &[RecordBatch], options: IpcWriteOptions) -> Vec<u8> {
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.into_inner().unwrap()
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    stream_with(batches, IpcWriteOptions::default())
}

/// Status, head and body.
fn post(site: &Site, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut connection = connect(site.server.address());
    let head = format!(
        "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {ARROW}\r\nContent-Length: {}\r\n\r\n",
        site.server.address(),
        body.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(body).unwrap();
    let mut reply = Vec::new();
    connection.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(reply[..end].to_vec()).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, reply[end..].to_vec())
}

fn read(bytes: &[u8]) -> RecordBatch {
    let mut reader = StreamReader::try_new(bytes, None).unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert!(reader.next().is_none());
    batch
}

#[test]
fn a_stream_gets_the_predictions_of_its_rows() {
    let site = open("arrow");
    let json = site.post("/v1/models/ctr:predict", &json!({"rows": [row()]}).to_string()).json();
    let p = json["predictions"][0]["probability"].as_f64().unwrap() as f32;
    let (status, head, body) = post(&site, &stream(&[rows(3), rows(2500)]));
    assert!(status == 200 && head.contains(&format!("content-type: {ARROW}")), "{head}");
    let reply = read(&body);
    let metadata = reply.schema().metadata().clone();
    let word = |name: &str| metadata.get(name).map(String::as_str);
    assert_eq!((word("model"), word("version"), word("mini_batch")), (Some("ctr"), Some("3"), Some("300")));
    assert_eq!((reply.num_rows(), word("unknown_columns")), (2503, None));
    let values = reply.column_by_name("probability").unwrap().as_primitive::<Float32Type>();
    assert!(values.values().iter().all(|v| *v == p), "{:?}", values.value(0));
    assert!(site.get("/metrics").body.contains("tidemill_predicted_rows_total 2504"));
}

/// Types of other programs: large texts, dictionaries, views, smaller numbers; columns missing, in another order, unknown.
#[test]
fn columns_of_other_types_are_taken_where_nothing_is_lost() {
    let host = FakeHost::open("arrow-types");
    let predictor = host.served.predictor();
    let ask = |columns: &[(&str, ArrayRef)]| {
        let reply = predictor.predict_arrow(Bytes::from(stream(&[batch(columns)])), None).map(|r| read(&r.bytes));
        reply.map(|b| (b.column(0).as_primitive::<Float32Type>().value(0), b)).map_err(|e| e.message().to_string())
    };
    let expected = predictor.predict(json!({"rows": [row()]}).to_string().as_bytes(), None).unwrap();
    let expected = expected.predictions[0].number() as f32;
    let dictionary: DictionaryArray<Int32Type> = vec!["u1"].into_iter().collect();
    let (large, view) = (LargeStringArray::from(vec!["i1"]), StringViewArray::from(vec!["i1"]));
    let price: ArrayRef = Arc::new(Float32Array::from(vec![2.0]));
    let whole: ArrayRef = Arc::new(UInt64Array::from(vec![2]));
    for (item, price) in [(Arc::new(large) as ArrayRef, price), (Arc::new(view), whole)] {
        let columns = [("price", price), ("user", Arc::new(dictionary.clone()) as ArrayRef), ("item", item)];
        assert_eq!(ask(&columns).unwrap().0, expected);
    }
    let text = |t: &str| Arc::new(StringArray::from(vec![t])) as ArrayRef;
    let (_, some) = ask(&[("user", text("u1")), ("colour", text("red"))]).unwrap();
    assert_eq!(some.schema().metadata().get("unknown_columns").map(String::as_str), Some("[\"colour\"]"));
    for (columns, message) in [
        (vec![("price", text("cheap"))], "column 'price': expected Float64, found Utf8"),
        (vec![("user", Arc::new(Int64Array::from(vec![1])) as ArrayRef)], "column 'user': expected Utf8, found Int64"),
        (
            vec![("price", Arc::new(Float64Array::from(vec![-1.0])) as ArrayRef)],
            "rows[0].price: logarithm of a negative number",
        ),
        (
            vec![("imp_id", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef)],
            "column 'imp_id': Cast error: Can't cast value 18446744073709551615 to type Int64",
        ),
    ] {
        assert_eq!(ask(&columns).err().as_deref(), Some(message));
    }
    let nan = ask(&[("price", Arc::new(Float64Array::from(vec![f64::NAN])))]).unwrap_err();
    assert!(nan.starts_with("rows[0]") && nan.contains("NaN"), "{nan}");
    // The number of a row counts through all batches and pieces.
    let mut prices = vec![1.0; 1500];
    prices[1400] = -1.0;
    let late = stream(&[rows(10).project(&[2]).unwrap(), batch(&[("price", Arc::new(Float64Array::from(prices)))])]);
    let e = predictor.predict_arrow(Bytes::from(late), None).unwrap_err();
    assert_eq!(e.message(), "rows[1410].price: logarithm of a negative number");
}

#[test]
fn bytes_that_are_no_stream_are_refused() {
    let site = open("arrow-bad");
    let good = stream(&[rows(2)]);
    let compressed = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME));
    let none = rows(0);
    // One long text that a thousand rows point to.
    let keys: Vec<Option<&str>> = vec![Some("x"); 1024];
    let long = "y".repeat(1 << 20);
    let bomb: DictionaryArray<Int32Type> = keys.into_iter().map(|_| Some(long.as_str())).collect();
    let cut = good[..good.len() - 100].to_vec();
    let mut trailing = good.clone();
    trailing.extend_from_slice(b"more");
    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "request body is empty"),
        (b"{\"rows\":[{}]}".to_vec(), "not an Arrow IPC stream: a message that is cut off at byte 0"),
        (vec![1], "not an Arrow IPC stream: a length that is cut off at byte 0"),
        (cut, "not an Arrow IPC stream: "),
        (trailing, "not an Arrow IPC stream: bytes behind the stream's end at byte "),
        (stream(&[none]), "the stream has no rows"),
        (stream(&[rows(65_537)]), "65537 rows; the limit of a stream is 65,536"),
        (
            stream(&[batch(&[("user", Arc::new(bomb))])]),
            "column 'user': 1,024 rows of text are more than 16777216 bytes",
        ),
    ];
    // The library may have been built without any.
    if let Ok(options) = compressed
        && let Ok(bytes) = std::panic::catch_unwind(|| stream_with(&[rows(1000)], options))
    {
        cases.push((bytes, "not an Arrow IPC stream: compressed data, which is not taken; write the stream without"));
    }
    for (bytes, message) in cases {
        let (status, _, body) = post(&site, &bytes);
        let text = String::from_utf8_lossy(&body).into_owned();
        let found = serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"]["message"].clone();
        assert!(status == 400 && found.as_str().unwrap().starts_with(message), "{message}: {status} {text}");
        assert_eq!(post(&site, &good).0, 200);
    }
}

/// A flipped bit or a cut anywhere: an answer or a refusal, never our own mistake.
#[test]
fn damaged_streams_are_answered_or_refused() {
    let host = FakeHost::open("arrow-damaged");
    let predictor = host.served.predictor();
    let dictionary: DictionaryArray<Int32Type> = vec!["u1", "u2", "u1"].into_iter().collect();
    let good = stream(&[batch(&[
        ("user", Arc::new(dictionary)),
        ("item", Arc::new(StringArray::from(vec![Some("i1"), None, Some("i3")]))),
        ("price", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]))),
    ])]);
    tidemill_base::contained::keep_contained_panics_quiet();
    let mut rng = Rng::seeded(17);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = rng.below(256) as u8,
                _ => bytes[at] ^= 1 << rng.below(8),
            }
        }
        match predictor.predict_arrow(Bytes::from(bytes), None) {
            Ok(_) => taken += 1,
            Err(e) => {
                assert_eq!(e.kind(), tidemill_base::Kind::Invalid, "{e}");
                refused += 1;
            }
        }
    }
    assert!(taken > 100 && refused > 1000, "{taken} {refused}");
}
