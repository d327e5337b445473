//! What strangers send to the server: requests, tensors, rankings, streams, and the files of its border.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{ArrayRef, Float64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    ipc::writer::StreamWriter,
};
use bytes::Bytes;
use serde_json::json;
use tidemill_base::{Kind, Result};
use tidemill_model::{
    entries::Entries,
    feature::{ColumnSpec, Extractor},
    snapshot::Snapshot,
};
use tidemill_serve::{
    live::LiveModel,
    predict::{
        Predictor,
        tensor::{Datatype, Shape, Values},
    },
    registry::Registry,
    server::{Access, Pem, ServedModel, Tls, check_infer_json, infer_message},
};
use tidemill_stream::{Transform, Transformed};

struct Same(SchemaRef);

impl Transform for Same {
    fn output(&self) -> SchemaRef {
        self.0.clone()
    }

    fn apply(&self, rows: &RecordBatch) -> Result<Transformed> {
        Ok(Transformed { rows: rows.clone(), kept: None, refused: Vec::new() })
    }
}

pub fn schema() -> SchemaRef {
    let fields = vec![
        Field::new("user", DataType::Utf8, true),
        Field::new("item", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
    ];
    Arc::new(Schema::new(fields))
}

/// A directory of this process, empty at first.
pub fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tidemill-fuzz-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a place for files");
    dir
}

pub fn predictor() -> Predictor {
    let entries = Entries::pairs((1..100u64).map(|key| (key, 0.1)));
    predictor_of(LiveModel::open(&Snapshot { entries, ..Snapshot::default() }, 1, 1))
}

pub fn predictor_of(live: LiveModel) -> Predictor {
    let columns = [
        ColumnSpec::Plain { column: "user".into() },
        ColumnSpec::Plain { column: "item".into() },
        ColumnSpec::Numeric { column: "price".into() },
    ];
    let extractor = Extractor::bind(&columns, &schema()).expect("columns that are there");
    Predictor::new("m", schema(), Arc::new(Same(schema())), extractor, Arc::new(live)).expect("a model")
}

fn model() -> &'static ServedModel {
    static MODEL: OnceLock<ServedModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let registry = Registry::open("m", &dir("serve")).expect("an empty registry");
        ServedModel::open(predictor(), Arc::new(registry)).expect("a model without versions")
    })
}

/// Whatever a stranger sends is his mistake, never ours.
fn not_ours<T>(answer: Result<T>) -> bool {
    if let Err(e) = &answer {
        assert!(matches!(e.kind(), Kind::Invalid | Kind::NotFound | Kind::Conflict | Kind::Exhausted), "{e}");
    }
    answer.is_ok()
}

/// A request of the Open Inference Protocol as JSON; what stands behind a zero byte are its tensors as bytes.
pub fn infer_json(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    not_ours(check_infer_json(&bytes[..end], bytes.get(end + 1..).unwrap_or_default()))
}

/// Values of a tensor: its datatype, its shape, and then the bytes.
pub fn tensor(bytes: &[u8]) -> bool {
    const NAMES: [&str; 12] =
        ["FP32", "FP64", "INT64", "INT32", "BYTES", "BOOL", "INT16", "INT8", "UINT8", "UINT16", "UINT32", "UINT64"];
    let [kind, rank, rest @ ..] = bytes else { return false };
    let datatype = Datatype::parse(NAMES[usize::from(*kind) % NAMES.len()]).expect("a name of the table");
    let rank = usize::from(*rank) % 3;
    let Some((dims, rest)) = rest.split_at_checked(rank * 8) else { return false };
    let dims: Vec<u64> = dims.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let shape = Shape::new(&dims).expect("few dimensions");
    let values = Values::from_bytes(datatype, &shape, rest);
    if let Ok(values) = &values {
        assert_eq!(Some(values.len()), shape.count());
    }
    not_ours(values.and_then(|values| values.check_finite()))
}

/// Rows as JSON.
pub fn predict_json(bytes: &[u8]) -> bool {
    let taken = not_ours(model().predict(bytes, None));
    assert!(taken || !not_ours(model().explain(bytes, None)), "what cannot be predicted cannot be explained");
    taken
}

/// Candidates with a ranking: JSON, the expression in it, and what it computes.
pub fn rank_json(bytes: &[u8]) -> bool {
    not_ours(model().rank(bytes, None, 1_700_000_000_000))
}

/// The expression of a ranking, as it stands in a request.
pub fn expression(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let request = json!({
        "context": {"user": "ann", "level": 3},
        "candidates": [{"id": 1, "item": "a", "bid": 0.5, "a": {"b": 2}}, {"id": "x", "item": "b", "bid": -2, "time": 1}],
        "ranking": {
            "functions": {"fresh": {"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": 0.3}},
            "defaults": {"bid": 0, "time": 0},
            "score": text,
        },
        "external": {"w": 2},
        "seed": 7,
    });
    rank_json(request.to_string().as_bytes())
}

/// The message of a call over gRPC.
pub fn grpc(bytes: &[u8]) -> bool {
    not_ours(infer_message(model(), bytes))
}

/// An Arrow IPC stream.
pub fn arrow_stream(bytes: &[u8]) -> bool {
    not_ours(model().predict_arrow(Bytes::copy_from_slice(bytes), None))
}

/// A token file, and the files of TLS.
pub fn border(bytes: &[u8]) -> bool {
    let pem = Pem { name: "pem", bytes };
    let taken = not_ours(Access::read("tokens", bytes));
    not_ours(Tls::new(pem, pem, 1_700_000_000_000)) || taken
}

pub fn infer_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"id":"1","inputs":[{"name":"user","shape":[2,1],"datatype":"BYTES","data":["a",["b"]]},{"name":"price","datatype":"FP64","shape":[2],"data":[1.5,null]}],"outputs":[{"name":"prediction","parameters":{"binary_data":true}}],"parameters":{"missing_as_null":true}}"#,
        "{\"inputs\":[{\"name\":\"features\",\"shape\":[1,2],\"datatype\":\"FP32\",\"parameters\":{\"binary_data_size\":8}}]}\0\x01\x02\x03\x04\x05\x06\x07\x08",
        r#"{"inputs":[{"data":[true,-9e18,18446744073709551615],"name":"x","shape":[3],"datatype":"UINT64"}],"binary_data_output":false}"#,
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn tensor_seeds() -> Vec<Vec<u8>> {
    let seed = |kind: u8, dims: &[u64], data: &[u8]| {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        [&[kind, dims.len() as u8][..], &dims_bytes, data].concat()
    };
    vec![
        seed(0, &[2], &[0, 0, 128, 63, 0, 0, 0, 64]),
        seed(4, &[2], b"\x02\0\0\0ab\0\0\0\0"),
        seed(5, &[3, 1], &[0, 1, 1]),
        seed(11, &[1], &[255; 8]),
    ]
}

pub fn predict_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"rows":[{"user":"ann","item":"i1","price":2.5},{"user":null,"colour":{"a":[1]}}]}"#,
        r#" { "rows" : [ {} , {"price":-1e-7,"item":"\u00e9\"]}"} ] } "#,
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn rank_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"context":{"user":"ann"},"candidates":[{"id":1,"item":"a","bid":0.5,"time":"2026-11-20T08:00:00Z"},{"id":"x","item":"b","bid":2,"time":1}],"ranking":{"functions":{"fresh":{"base":"decay_gauss","scale":"5d","offset":"1d","decay":0.3}},"defaults":{"bid":0},"score":"pctr ^ 0.8 * bid * fresh(time)"},"k":2,"diversity":{"by":"item","max":1}}"#,
        r#"{"candidates":[{"id":1,"bid":1},{"id":2,"bid":3}],"score":"bid > 1 && !(bid == 2) ? ln(bid + 1) - min(bid, 2) ^ 2 : rand()","now":1700000000000,"seed":7}"#,
        r#"{"candidates":[{"id":1,"a":{"b":1.5},"item":"x"}],"score":"a.b * external.w + trunc(sin(1)) || item == 'x' ? dist(1, 2, 3, 4, 'M') : -2^2","external":{"w":2}}"#,
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn arrow_seeds() -> Vec<Vec<u8>> {
    let columns: [(&str, ArrayRef); 2] = [
        ("user", Arc::new(StringArray::from(vec![Some("ann"), None]))),
        ("price", Arc::new(Float64Array::from(vec![1.0, 2.0]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).expect("columns alike");
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("memory");
    writer.write(&batch).expect("memory");
    vec![writer.into_inner().expect("memory")]
}

pub fn border_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"tenants":[{"name":"a","models":["ctr*"],"sources":["*"],"requests_per_second":5,"burst":9}],"tokens":[{"name":"t","tenant":"a","roles":["predict","admin"],"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","expires":"2027-01-01","not_before":"2026-01-01T00:00:00Z"}]}"#,
        "-----BEGIN CERTIFICATE-----\nMIIBMDCB16ADAgECAgEBMAoGCCqGSM49BAMCMA==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nMEECAQAwEwYHKoZIzj0CAQ==\n-----END PRIVATE KEY-----\n",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn expression_seeds() -> Vec<Vec<u8>> {
    [
        "pctr ^ 0.8 * bid * fresh(time)",
        "bid > 1 && !(bid == 2) ? ln(bid + 1) - min(bid, 2) ^ 2 : rand()",
        "a.b * external.w + trunc(sin(1)) || item == 'x' ? dist(1, 2, 3, 4, 'M') : -2^2",
        "decay_linear(time, '10d', \"1h\", 0.5, now) + to_unix_timestamp('2026-01-01T00:00:00Z') / 1e3",
        "log(max(bid, 1e-9, level)) - round(rand_normal() * 10) / 3",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

/// Messages of two inputs: values in lists, and as bytes behind one another.
pub fn grpc_seeds() -> Vec<Vec<u8>> {
    let part = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat();
    let input = |name: &str, datatype: &str, contents: &[u8]| {
        part(5, &[part(1, name.as_bytes()), part(2, datatype.as_bytes()), part(3, &[2]), contents.to_vec()].concat())
    };
    let texts = part(5, &[part(8, b"ann"), part(8, b"bob")].concat());
    let prices = part(5, &part(7, &[1f64.to_le_bytes(), 2f64.to_le_bytes()].concat()));
    let flag = part(4, &[part(1, b"missing_as_null"), part(2, &[8, 1])].concat());
    let listed =
        [part(1, b"m"), part(3, b"id 7"), flag, input("user", "BYTES", &texts), input("price", "FP64", &prices)];
    let raw = [
        part(1, b"m"),
        input("item", "BYTES", &[]),
        input("price", "FP64", &[]),
        part(6, &part(1, b"prediction")),
        part(7, b"\x01\0\0\0a\x01\0\0\0b"),
        part(7, &[0; 16]),
    ];
    vec![listed.concat(), raw.concat()]
}
