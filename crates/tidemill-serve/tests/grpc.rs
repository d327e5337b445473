//! The Open Inference Protocol over gRPC as a client meets it: bytes of HTTP/2 on the port of HTTP, every call, every code.

#[path = "../src/server/grpc/inference.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod inference;
mod support;

use std::{
    io::{Read, Write},
    sync::atomic::Ordering::SeqCst,
};

use bytes::Bytes;
use hyper::Request;
use inference::{infer_parameter::ParameterChoice, model_infer_request::*, *};
use prost::Message;
use serde_json::json;
use support::{
    call::{Client, OK, framed},
    row,
    site::{Site, connect, open},
};

const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;

fn input(name: &str, datatype: &str, contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        contents: Some(contents),
        ..InferInputTensor::default()
    }
}

fn texts(text: &str) -> InferTensorContents {
    InferTensorContents { bytes_contents: vec![text.into()], ..InferTensorContents::default() }
}

fn request() -> ModelInferRequest {
    let price = InferTensorContents { fp64_contents: vec![2.0], ..InferTensorContents::default() };
    ModelInferRequest {
        model_name: "ctr".into(),
        id: "seven".into(),
        inputs: vec![
            input("user", "BYTES", texts("u1")),
            input("item", "BYTES", texts("i1")),
            input("price", "FP64", price),
        ],
        ..ModelInferRequest::default()
    }
}

fn raw() -> ModelInferRequest {
    let mut request = request();
    request.inputs.iter_mut().for_each(|i| i.contents = None);
    let text = |t: &[u8]| Bytes::from([&2u32.to_le_bytes()[..], t].concat());
    request.raw_input_contents = vec![text(b"u1"), text(b"i1"), 2f64.to_le_bytes().to_vec().into()];
    request
}

fn probability(site: &Site) -> f32 {
    let reply = site.post("/v1/models/ctr:predict", &json!({"rows": [row()]}).to_string()).json();
    reply["predictions"][0]["probability"].as_f64().unwrap() as f32
}

#[test]
fn health_and_metadata_are_those_of_http() {
    let site = open("grpc-health");
    let client = Client::open(&site);
    assert!(client.call("ServerLive", &ServerLiveRequest {}).read::<ServerLiveResponse>().live);
    assert!(client.call("ServerReady", &ServerReadyRequest {}).read::<ServerReadyResponse>().ready);
    let server: ServerMetadataResponse = client.call("ServerMetadata", &ServerMetadataRequest {}).read();
    assert_eq!((server.name.as_str(), server.extensions), ("tidemill", vec!["binary_tensor_data".to_string()]));
    let ready = |name: &str, version: &str| {
        client.call("ModelReady", &ModelReadyRequest { name: name.into(), version: version.into() })
    };
    assert!(ready("ctr", "").read::<ModelReadyResponse>().ready);
    assert!(ready("ctr", "3").read::<ModelReadyResponse>().ready);
    assert!(ready("ctr@1", "").read::<ModelReadyResponse>().ready, "it is loaded when it is asked for");
    ready("ctx", "").refused(NOT_FOUND, "no model 'ctx' (have ctr)");
    ready("ctr", "9").refused(NOT_FOUND, "model 'ctr' has no version 9 (have 1-3)");
    ready("ctr", "new").refused(NOT_FOUND, "model 'ctr' has no label 'new' (have live)");
    let metadata = ModelMetadataRequest { name: "ctr".into(), version: String::new() };
    let ctr: ModelMetadataResponse = client.call("ModelMetadata", &metadata).read();
    let inputs: Vec<_> = ctr.inputs.iter().map(|i| (i.name.as_str(), i.datatype.as_str(), i.shape[0])).collect();
    assert_eq!(inputs, [("user", "BYTES", -1), ("item", "BYTES", -1), ("price", "FP64", -1)]);
    assert_eq!(
        (ctr.name.as_str(), ctr.versions, ctr.outputs[0].name.as_str()),
        ("ctr", vec!["3".to_string()], "prediction")
    );
    site.host.hidden.store(true, SeqCst);
    assert!(!client.call("ServerReady", &ServerReadyRequest {}).read::<ServerReadyResponse>().ready);
    client.send("/inference.GRPCInferenceService/Explode", &[], framed(&[])).refused(UNIMPLEMENTED, "no call /inf");
}

#[test]
fn tensors_get_the_predictions_of_rows() {
    let site = open("grpc-infer");
    let client = Client::open(&site);
    let p = probability(&site);
    let reply: ModelInferResponse = client.call("ModelInfer", &request()).read();
    assert_eq!((reply.model_name.as_str(), reply.model_version.as_str(), reply.id.as_str()), ("ctr", "3", "seven"));
    assert_eq!(reply.parameters["mini_batch"].parameter_choice, Some(ParameterChoice::Int64Param(300)));
    assert_eq!(reply.outputs[0].contents.as_ref().unwrap().fp32_contents, [p]);
    assert_eq!((reply.outputs[0].shape.as_slice(), reply.raw_output_contents.len()), (&[1][..], 0));
    let reply: ModelInferResponse = client.call("ModelInfer", &raw()).read();
    assert_eq!(reply.raw_output_contents, [p.to_le_bytes().to_vec()]);
    assert_eq!(reply.outputs[0].contents, None);
    // A version by number, an output by name, an input left out as NULL.
    let mut some = request();
    some.model_version = "3".into();
    some.inputs.pop();
    some.outputs = vec![InferRequestedOutputTensor { name: "prediction".into(), ..Default::default() }];
    let truth = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    some.parameters.insert("missing_as_null".into(), truth);
    let reply: ModelInferResponse = client.call("ModelInfer", &some).read();
    assert_ne!(reply.outputs[0].contents.as_ref().unwrap().fp32_contents, [p]);
    assert!(site.get("/metrics").body.contains(r#"tidemill_http_requests_total{route="grpc",status="2xx"} 3"#));
}

/// Labels stand where versions do, and a split tells calls apart by `routing_key`, by their id, or by all they say.
#[test]
fn labels_and_splits_hold_for_calls() {
    let site = open("grpc-labels");
    let client = Client::open(&site);
    site.host.served.versions().set_label("canary", 2).unwrap();
    let answered_by = |call: &ModelInferRequest| {
        client.call("ModelInfer", call).read::<ModelInferResponse>().model_version.parse::<u64>().unwrap()
    };
    let named = ModelInferRequest { model_version: "canary".into(), ..request() };
    assert_eq!([answered_by(&named), answered_by(&request())], [2, 3]);
    let label = ModelInferRequest { model_name: "ctr@canary".into(), ..raw() };
    assert_eq!(answered_by(&label), 2);
    site.host.served.versions().split(&[("live".into(), 50.0), ("canary".into(), 50.0)]).unwrap();
    let keyed = |key: &str, id: &str| {
        let mut call = ModelInferRequest { id: id.into(), ..request() };
        let key = InferParameter { parameter_choice: Some(ParameterChoice::StringParam(key.into())) };
        call.parameters.insert("routing_key".into(), key);
        answered_by(&call)
    };
    let by_key: Vec<u64> = (0..20).map(|i| keyed(&format!("user-{i}"), "")).collect();
    assert!(by_key.contains(&2) && by_key.contains(&3), "{by_key:?}");
    assert!((0..20).all(|i| keyed(&format!("user-{i}"), &format!("call-{i}")) == by_key[i]), "the key comes first");
    let by_id = |i: usize| answered_by(&ModelInferRequest { id: format!("call-{i}"), ..request() });
    let ids: Vec<u64> = (0..20).map(by_id).collect();
    assert!(ids.contains(&2) && ids.contains(&3), "{ids:?}");
    let by_all = |i: usize| {
        let mut call = ModelInferRequest { id: String::new(), ..request() };
        call.inputs[0].contents.as_mut().unwrap().bytes_contents = vec![format!("u{i}").into_bytes()];
        answered_by(&call)
    };
    let all: Vec<u64> = (0..20).map(by_all).collect();
    assert!(all.contains(&2) && all.contains(&3), "{all:?}");
}

#[test]
fn what_is_wrong_with_a_call_is_said() {
    let site = open("grpc-errors");
    let client = Client::open(&site);
    type Change = fn(&mut ModelInferRequest);
    let changes: [(Change, i32, &str); 19] = [
        (|r| r.model_name = "ctx".into(), NOT_FOUND, "no model 'ctx' (have ctr)"),
        (|r| r.model_version = "9".into(), NOT_FOUND, "model 'ctr' has no version 9 (have 1-3)"),
        (|r| r.inputs.clear(), INVALID_ARGUMENT, "inputs is empty"),
        (|r| drop(r.inputs.pop()), INVALID_ARGUMENT, "input 'price' is missing"),
        (
            |r| r.inputs[0].name = "colour".into(),
            INVALID_ARGUMENT,
            "unknown input 'colour'; inputs are user, item, price",
        ),
        (|r| r.inputs[0].datatype = "TEXT".into(), INVALID_ARGUMENT, "input 'user': unknown datatype 'TEXT'"),
        (
            |r| r.inputs[0].datatype = "INT64".into(),
            INVALID_ARGUMENT,
            "input 'user': bytes_contents of datatype INT64; send int64_contents",
        ),
        (
            |r| r.inputs[2].contents.as_mut().unwrap().fp32_contents = vec![1.0],
            INVALID_ARGUMENT,
            "input 'price': fp32_contents of datatype FP64; send fp64_contents",
        ),
        (|r| r.inputs[0].shape = vec![2], INVALID_ARGUMENT, "input 'user': 1 values; shape [2] says otherwise"),
        (|r| r.inputs[0].shape = vec![-1], INVALID_ARGUMENT, "input 'user': shape holds -1; none is negative"),
        (|r| r.inputs[0].shape = vec![1; 9], INVALID_ARGUMENT, "input 'user': shape has more than 8 dimensions"),
        (|r| r.inputs[0].shape = vec![1; 3], INVALID_ARGUMENT, "input 'user' has shape [1,1,1]; send [n] or [n,1]"),
        (
            |r| r.inputs[2].datatype = "FP16".into(),
            INVALID_ARGUMENT,
            "input 'price': fp64_contents of datatype FP16; send raw_input_contents",
        ),
        (
            |r| {
                r.inputs[2].datatype = "FP16".into();
                r.inputs[2].contents = Some(InferTensorContents::default());
            },
            INVALID_ARGUMENT,
            "input 'price': contents has no list for FP16; send raw_input_contents",
        ),
        (|r| r.inputs[0].contents = None, INVALID_ARGUMENT, "input 'user': neither contents nor raw_input_contents"),
        (|r| r.raw_input_contents = vec![Bytes::new()], INVALID_ARGUMENT, "3 inputs and 1 raw_input_contents"),
        (|r| r.raw_input_contents = vec![Bytes::new(); 3], INVALID_ARGUMENT, "input 'user': both contents and raw"),
        (
            |r| r.inputs[2].contents.as_mut().unwrap().fp64_contents[0] = f64::NAN,
            INVALID_ARGUMENT,
            "input 'price': value 0 is NaN",
        ),
        (
            |r| r.outputs = vec![InferRequestedOutputTensor { name: "score".into(), ..Default::default() }],
            INVALID_ARGUMENT,
            "model 'ctr' has no output 'score' (have prediction)",
        ),
    ];
    for (change, code, text) in changes {
        let mut request = request();
        change(&mut request);
        client.call("ModelInfer", &request).refused(code, text);
    }
    let infer = "/inference.GRPCInferenceService/ModelInfer";
    let good = framed(&request().encode_to_vec());
    client.send(infer, &[], framed(&[0xff; 9])).refused(INVALID_ARGUMENT, "the request cannot be read: ");
    client
        .send(infer, &[("grpc-timeout", "0n")], good.clone())
        .refused(DEADLINE_EXCEEDED, "the call did not end before");
    // What is too short for any call: the answer that was found in the meantime is not passed off as one in time.
    for _ in 0..20 {
        let hasty = client.send(infer, &[("grpc-timeout", "1u")], good.clone());
        assert!([DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED].contains(&hasty.code), "{hasty:?}");
    }
    client
        .send(infer, &[("grpc-timeout", "soon")], good.clone())
        .refused(INVALID_ARGUMENT, "grpc-timeout 'soon' is not");
    client.send(infer, &[("grpc-encoding", "gzip")], good.clone()).refused(UNIMPLEMENTED, "");
    let huge = [&[0][..], &(5u32 << 20).to_be_bytes()].concat();
    client.send(infer, &[], huge).refused(RESOURCE_EXHAUSTED, "request is longer than 4194304 bytes");
    assert_eq!(client.send(infer, &[("grpc-timeout", "20S")], good).code, OK, "others go on");
}

/// One port for both: HTTP/1.1 goes on beside it, whatever its first bytes have in common with HTTP/2's.
#[test]
fn both_protocols_share_a_port() {
    let site = open("grpc-port");
    let client = Client::open(&site);
    assert_eq!(client.call("ModelInfer", &request()).code, OK);
    let body = json!({"rows": [row()]}).to_string();
    let mut slow = connect(site.server.address());
    let address = site.server.address();
    let head = format!("POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    slow.write_all(&text.as_bytes()[..1]).unwrap();
    slow.flush().unwrap();
    // Meanwhile the server has looked at that byte.
    (0..20).for_each(|_| assert_eq!(client.call("ModelInfer", &request()).code, OK));
    slow.write_all(&text.as_bytes()[1..]).unwrap();
    let mut reply = String::new();
    slow.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    // Routes of HTTP answer on a connection of HTTP/2 too.
    client.runtime.block_on(async {
        let mut send = client.send.clone().ready().await.unwrap();
        let get = Request::get("http://localhost/v2/health/live").body(()).unwrap();
        let reply = send.send_request(get, true).unwrap().0.await.unwrap();
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
    });
    assert_eq!(client.call("ModelInfer", &request()).code, OK);
    assert!(site.server.stop(), "an open connection must not hold up the end");
}
