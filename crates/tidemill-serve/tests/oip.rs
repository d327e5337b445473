//! The Open Inference Protocol as a client meets it over HTTP: health, metadata, inference, and every way to be refused.

mod support;

use std::io::{Read, Write};

use serde_json::{Value, json};
use support::{
    row,
    site::{Site, connect, open},
};

const INFER: &str = "POST /v2/models/ctr/infer";

fn tensors(n: usize) -> Value {
    json!([
        {"name": "user", "shape": [n], "datatype": "BYTES", "data": vec!["u1"; n]},
        {"name": "item", "shape": [n, 1], "datatype": "BYTES", "data": vec!["i1"; n]},
        {"name": "price", "shape": [n], "datatype": "FP64", "data": vec![2.0; n]},
    ])
}

fn infer(site: &Site, request: &Value) -> Value {
    let answer = site.post("/v2/models/ctr/infer", &request.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn probability(site: &Site) -> f32 {
    let reply = site.post("/v1/models/ctr:predict", &json!({"rows": [row()]}).to_string()).json();
    reply["predictions"][0]["probability"].as_f64().unwrap() as f32
}

/// Bytes as they come over the wire: a reply with tensors behind its JSON is no text.
fn exchange(site: &Site, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = connect(site.server.address());
    let host = site.server.address();
    let head = format!("{INFER} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(reply[..end].to_vec()).unwrap(), reply[end..].to_vec())
}

#[test]
fn health_follows_the_server() {
    let site = open("oip-health");
    assert_eq!(site.get("/v2/health/live").json(), json!({"live": true}));
    assert_eq!(site.get("/v2/health/ready").json(), json!({"ready": true, "live": true}));
    let ready = site.get("/v2/models/ctr/ready");
    assert_eq!((ready.status, ready.json()), (200, json!({"name": "ctr", "ready": true})));
    assert_eq!(site.get("/v2/models/ctr/versions/3/ready").status, 200);
    assert_eq!(site.get("/v2/models/ctr/versions/1/ready").status, 200, "it is loaded when it is asked for");
    for (path, error) in [
        ("/v2/models/ctx/ready", "no model 'ctx' (have ctr)"),
        ("/v2/models/ctr/versions/9/ready", "model 'ctr' has no version 9 (have 1-3)"),
        ("/v2/models/ctr/versions/-1", "'-1' is neither a version nor a label"),
        ("/v2/models/ctr/versions/new", "model 'ctr' has no label 'new' (have live)"),
    ] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.json()), (404, json!({"error": error})), "{path}");
    }
}

/// A server without a model lives and is not ready.
#[test]
fn a_server_without_a_model_is_not_ready() {
    let site = open("oip-empty");
    site.host.hidden.store(true, std::sync::atomic::Ordering::SeqCst);
    let ready = site.get("/v2/health/ready");
    assert_eq!((ready.status, ready.json()), (503, json!({"ready": false, "live": true})));
    assert_eq!(site.get("/v2/health/live").status, 200);
    assert_eq!(site.get("/v2/models/ctr/ready").json(), json!({"error": "no model 'ctr'; none is served yet"}));
}

/// A model whose process is still reading it is not one that nobody knows: who asks comes again.
#[test]
fn a_model_that_is_on_its_way_is_unavailable() {
    let site = open("oip-coming");
    site.host.hidden.store(true, std::sync::atomic::Ordering::SeqCst);
    site.host.named.store(true, std::sync::atomic::Ordering::SeqCst);
    for path in ["/v1/models/ctr", "/v2/models/ctr", "/v2/models/ctr/ready"] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{path}");
        assert!(answer.body.contains("model 'ctr' is not here yet"), "{}", answer.body);
    }
    assert_eq!(site.get("/v1/models/other").status, 404);
}

#[test]
fn metadata_says_what_goes_in_and_out() {
    let site = open("oip-metadata");
    let server = site.get("/v2").json();
    assert_eq!((&server["name"], &server["extensions"]), (&json!("tidemill"), &json!(["binary_tensor_data"])));
    let ctr = json!({
        "name": "ctr", "versions": ["3"], "platform": "tidemill",
        "inputs": [
            {"name": "user", "datatype": "BYTES", "shape": [-1]},
            {"name": "item", "datatype": "BYTES", "shape": [-1]},
            {"name": "price", "datatype": "FP64", "shape": [-1]},
        ],
        "outputs": [{"name": "prediction", "datatype": "FP32", "shape": [-1]}],
    });
    for path in ["/v2/models/ctr", "/v2/models/ctr/versions/3", "/v2/models/ctr@3", "/v2/models/ctr%403"] {
        assert_eq!(site.get(path).json(), ctr, "{path}");
    }
    site.host.served.rollback(1).unwrap();
    assert_eq!(site.get("/v2/models/ctr").json()["versions"], json!(["3", "1"]));
    assert_eq!(site.get("/v2/models/ctr/versions/2").json()["versions"], json!(["2"]));
    assert_eq!(site.get("/v2/models/ctr/versions/02").status, 404);
}

#[test]
fn tensors_get_the_predictions_of_rows() {
    let site = open("oip-infer");
    let p = probability(&site);
    let reply = infer(&site, &json!({"id": "a \"quoted\" id", "inputs": tensors(2)}));
    let expected = json!({
        "model_name": "ctr", "model_version": "3", "id": "a \"quoted\" id", "parameters": {"mini_batch": 300},
        "outputs": [{"name": "prediction", "datatype": "FP32", "shape": [2], "data": [p, p]}],
    });
    let data = |reply: &Value| -> Vec<f32> {
        reply["outputs"][0]["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    assert_eq!(data(&reply), [p, p]);
    assert_eq!(reply["outputs"][0]["shape"], expected["outputs"][0]["shape"]);
    for name in ["model_name", "model_version", "id", "parameters"] {
        assert_eq!(reply[name], expected[name]);
    }
    assert_eq!(infer(&site, &json!({"inputs": tensors(1)})).get("id"), None);
    // Another order, another datatype, nested data, data before shape, the output by name, a version by number.
    let variant = json!({
        "outputs": [{"name": "prediction"}],
        "inputs": [
            {"data": [[2], [2]], "datatype": "INT8", "shape": [2, 1], "name": "price"},
            {"name": "features2", "shape": [2], "datatype": "BYTES", "data": ["i1", "i1"]},
            {"name": "user", "shape": [2, 1], "datatype": "BYTES", "data": [["u1"], ["\u{75}1"]]},
        ],
    });
    let variant = variant.to_string().replace("features2", "item").replace("[\"u1\"]]", "[\"\\u00751\"]]");
    for path in ["/v2/models/ctr/infer", "/v2/models/ctr/versions/3/infer", "/v2/models/ctr@3/infer"] {
        assert_eq!(data(&site.post(path, &variant).json()), [p, p], "{path}");
    }
    // All floating-point inputs as one tensor: here it is one.
    let all = json!({"inputs": [
        tensors(1)[0], tensors(1)[1], {"name": "features", "shape": [1, 1], "datatype": "FP32", "data": [2.0]},
    ]});
    assert_eq!(data(&infer(&site, &all)), [p]);
    // A number of 16 bits is the same as text and as bytes: 2.0004 is 2 then.
    let fp16 = json!({"inputs": [tensors(1)[0], tensors(1)[1], {"name": "price", "shape": [1], "datatype": "FP16", "data": [2.0004]}]});
    assert_eq!(data(&infer(&site, &fp16)), [p]);
    // NULL, by value and by leaving the input out.
    let null = json!({"inputs": [tensors(1)[0], tensors(1)[1], {"name": "price", "shape": [1], "datatype": "FP32", "data": [null]}]});
    let missing = json!({"parameters": {"missing_as_null": true}, "inputs": [tensors(1)[0], tensors(1)[1]]});
    assert_eq!(data(&infer(&site, &null)), data(&infer(&site, &missing)));
    assert_ne!(data(&infer(&site, &null)), [p]);
}

/// B45: a vector of more or fewer numbers than there are columns is refused with both numbers, and one that is not as long as
/// its shape says.
#[test]
fn b45_a_vector_of_another_length_is_refused() {
    let site = open("oip-vector");
    for (shape, data, error) in [
        (json!([1, 2]), json!([1.0, 2.0]), "input 'features' has shape [1,2]; send [n,1], a column for each"),
        (json!([2]), json!([1.0, 2.0]), "input 'features' has shape [2]; send [n,1], a column for each"),
        (json!([1, 0]), json!([]), "input 'features' has shape [1,0]; send [n,1], a column for each"),
        (json!([1, 1]), json!([1.0, 2.0]), "input 'features' has 2 values; shape [1,1] says otherwise"),
        (json!([128, 1]), json!(vec![0.5; 127]), "input 'features' has 127 values; shape [128,1] says otherwise"),
    ] {
        let vector = json!({"name": "features", "shape": shape, "datatype": "FP32", "data": data});
        let body = json!({"inputs": [tensors(1)[0], tensors(1)[1], vector]}).to_string();
        let answer = site.post("/v2/models/ctr/infer", &body);
        let told = answer.json()["error"].as_str().unwrap_or_default().to_string();
        assert!(answer.status == 400 && told.starts_with(error), "{error}: {} {told}", answer.status);
    }
}

/// Every field wrong in turn: one sentence and 400.
#[test]
fn what_is_wrong_with_a_request_is_said() {
    let site = open("oip-errors");
    let good = tensors(1).to_string();
    let with = |from: &str, to: &str| {
        let inputs = good.replace(from, to);
        assert_ne!(inputs, good, "{from}");
        format!(r#"{{"inputs":{inputs}}}"#)
    };
    let price = r#""data":[2.0],"datatype":"FP64","name":"price","shape":[1]"#;
    let price = match good.contains(price) {
        true => price.to_string(),
        false => r#""name":"price","shape":[1],"datatype":"FP64","data":[2.0]"#.to_string(),
    };
    let deep = format!(r#"{{"parameters":{}1{},"inputs":{good}}}"#, "{\"a\":".repeat(40), "}".repeat(40));
    for (body, error) in [
        (String::new(), "request body is empty"),
        ("[]".into(), r#"expected an object like {"inputs":[{...}]}, found an array at byte 0"#),
        ("{}".into(), "no \"inputs\" in the request"),
        (r#"{"inputs":[]}"#.into(), "inputs is empty"),
        (r#"{"inputs":{}}"#.into(), "expected an array of inputs, found an object at byte 10"),
        (r#"{"inputs":[7]}"#.into(), "expected an object for each input, found '7' at byte 11"),
        (format!(r#"{{"inputs":{good},"inputs":{good}}}"#), "\"inputs\" is there twice"),
        (
            format!(r#"{{"rows":{good}}}"#),
            "unknown name 'rows' in the request; names are id, parameters, inputs, outputs",
        ),
        (format!(r#"{{"id":7,"inputs":{good}}}"#), "expected a string for id, found '7' at byte 6"),
        (format!(r#"{{"id":"a{}","inputs":{good}}}"#, '\u{1}'), "a control character in a string, at byte 8"),
        (format!(r#"{{"inputs":{good}"#), "request body ends where ',' or '}' was expected"),
        (format!(r#"{{"inputs":{good}}} x"#), "bytes behind the request's end, at byte "),
        (
            format!(r#"{{"parameters":[],"inputs":{good}}}"#),
            "expected an object of parameters, found an array at byte 14",
        ),
        (deep, "nested deeper than 32 at byte "),
        (
            format!(r#"{{"parameters":{{"missing_as_null":1}},"inputs":{good}}}"#),
            "parameters: missing_as_null is true or false",
        ),
        (with("\"price\"", "\"prize\""), "unknown input 'prize'; inputs are user, item, price"),
        (with("\"price\"", "\"user\""), "input 'user' is there twice"),
        (
            with("\"price\"", "\"features\""),
            "input 'features' has shape [1]; send [n,1], a column for each floating-point input",
        ),
        (with("\"price\"", "7"), "expected a string for name, found '7' at byte "),
        (
            format!(r#"{{"inputs":[{},{}]}}"#, tensors(1)[0], tensors(1)[1]),
            "input 'price' is missing; the parameter \"missing_as_null\": true makes what is missing NULL",
        ),
        (with(&price, r#""shape":[1],"datatype":"FP64","data":[2.0]"#), "inputs[2] has no \"name\""),
        (with(&price, r#""name":"price","datatype":"FP64","data":[2.0]"#), "input 'price' has no \"shape\""),
        (with(&price, r#""name":"price","shape":[1],"data":[2.0]"#), "input 'price' has no \"datatype\""),
        (with(&price, r#""name":"price","shape":[1],"datatype":"FP64""#), "input 'price' has no \"data\""),
        (
            with(&price, &format!(r#"{price},"colour":1"#)),
            "inputs[2]: unknown name 'colour'; names are name, shape, datatype, parameters, data",
        ),
        (with(&price, &format!(r#"{price},"data":[2.0]"#)), "inputs[2]: \"data\" is there twice"),
        (with(&price, &price.replace("[1]", "[2]")), "input 'price' has 1 values; shape [2] says otherwise"),
        (with(&price, &price.replace("[1]", "[1,1,1]")), "input 'price' has shape [1,1,1]; send [n] or [n,1]"),
        (with(&price, &price.replace("[1]", "[]")), "input 'price' has shape []; send [n] or [n,1]"),
        (with(&price, &price.replace("[1]", "[-1]")), "inputs[2]: shape holds -1; dimensions are whole numbers"),
        (with(&price, &price.replace("[1]", "[1.0]")), "inputs[2]: shape holds 1.0; dimensions are whole numbers"),
        (with(&price, &price.replace("[1]", "1")), "expected an array of numbers for a shape, found '1' at byte "),
        (
            with(&price, &price.replace("[1]", "[1,1,1,1,1,1,1,1,1]")),
            "inputs[2]: shape has more than 8 dimensions; a model takes one or two",
        ),
        (
            with(&price, &price.replace("[1]", "[18446744073709551615,18446744073709551615]")),
            "input 'price' has 1 values; shape [18446744073709551615,18446744073709551615] says otherwise",
        ),
        (with(&price, &price.replace("[1]", "[0]").replace("[2.0]", "[]")), "input 'price' has no rows"),
        (
            with(&price, &price.replace("[1]", "[2]").replace("[2.0]", "[1,2]")),
            "input 'price' has 2 rows, input 'user' has 1; all must have the same number",
        ),
        (with("FP64", "FP65"), "inputs[2]: unknown datatype 'FP65'; datatypes are FP32, FP64, INT64, "),
        (with("FP64", "BYTES"), "expected a string for a value, found '2' at byte "),
        (with("FP64", "INT64").replace("2.0", "2.5"), "input 'price': 2.5 is not a whole number of 64 bits"),
        (with("FP64", "FP16").replace("2.0", "65520"), "input 'price': value 0 is inf; numbers must be finite"),
        (with("FP64", "INT8").replace("2.0", "200"), "input 'price': 200 is out of range of INT8"),
        (with("FP64", "UINT8").replace("2.0", "-1"), "input 'price': -1 is out of range of UINT8"),
        (with("FP64", "BOOL").replace("2.0", "1"), "expected true or false for input 'price', found '1' at byte "),
        (
            with("FP64", "BOOL").replace("2.0", "true"),
            "input 'price' has datatype BOOL; send FP64, FP32 or a whole number",
        ),
        (with("2.0", "\"2\""), "expected a number for input 'price', found a string at byte "),
        (with("2.0", "[[2]]"), "expected a number for input 'price', found an array at byte "),
        (with("2.0", "NaN"), "expected a number for input 'price', found 'N' at byte "),
        (with("2.0", "1e999"), "input 'price': 1e999 is beyond what its datatype holds"),
        (with("2.0", "02"), "expected a number for input 'price', found '0' at byte "),
        (with("2.0", "2 2"), "expected ',' or ']' in the data, found '2' at byte "),
        (with("2.0", "-1"), "rows[0].price: logarithm of a negative number"),
        (with("2.0", "1e300"), "rows[0]: slot 'price': value is 1e300, beyond what a 32-bit float holds"),
        (with("\"u1\"", "7"), "expected a string for a value, found '7' at byte "),
        (with("\"u1\"", "\"\\ud800\""), "string for a value at byte "),
        (
            with(&price, &format!(r#"{price},"parameters":{{"binary_data_size":8}}"#)),
            "input 'price' has both data and binary_data_size; send one of them",
        ),
        (
            with(&price, r#""name":"price","shape":[1],"datatype":"FP64","parameters":{"binary_data_size":8}"#),
            "input 'price' has binary_data_size 8, and 0 bytes are left in the body",
        ),
        (
            with(&price, r#""name":"price","shape":[1],"datatype":"FP64","parameters":{"binary_data_size":-8}"#),
            "inputs[2]: binary_data_size is a whole number of bytes",
        ),
        (
            with(&price, &format!(r#"{price},"parameters":{{"shared_memory_region":"x"}}"#)),
            "inputs[2]: shared memory is not offered; send the data itself",
        ),
        (
            format!(r#"{{"outputs":[{{"name":"score"}}],"inputs":{good}}}"#),
            "model 'ctr' has no output 'score' (have prediction)",
        ),
        (format!(r#"{{"outputs":[{{}}],"inputs":{good}}}"#), "outputs[0] has no \"name\""),
        (
            format!(r#"{{"outputs":[{{"name":"prediction"}},{{"name":"prediction"}}],"inputs":{good}}}"#),
            "output 'prediction' is asked for twice",
        ),
        (
            format!(r#"{{"outputs":[{{"name":"prediction","parameters":{{"classification":2}}}}],"inputs":{good}}}"#),
            "outputs[0]: classification is not offered",
        ),
        (json!({"inputs": tensors(1025)}).to_string(), "1025 rows; the limit is 1,024"),
    ] {
        let answer = site.send(INFER, "", &body);
        let case: String = body.chars().take(400).collect();
        assert_eq!(answer.status, 400, "{case}: {answer:?}");
        let reply = answer.json();
        let said = reply["error"].as_str().unwrap_or_else(|| panic!("{case}: {reply}"));
        assert!(said.starts_with(error), "{case}\n  {said}\n  {error}");
        assert_eq!(reply.as_object().unwrap().len(), 1, "{reply}");
    }
    assert_eq!(infer(&site, &json!({"inputs": tensors(1024)}))["outputs"][0]["shape"], json!([1024]));
}

#[test]
fn statuses_are_those_of_other_routes_and_errors_are_one_sentence() {
    let site = open("oip-status");
    let body = json!({"inputs": tensors(1)}).to_string();
    for (request, headers, status, error) in [
        ("POST /v2/models/ctx/infer", "", 404, "no model 'ctx' (have ctr)"),
        ("POST /v2/models/ctr/versions/9/infer", "", 404, "model 'ctr' has no version 9 (have 1-3)"),
        ("POST /v2/models/ctr@2/versions/1/infer", "", 400, "version 2 in the name and version 1 beside it; send one"),
        ("GET /v2/models/ctr/infer", "", 405, "GET is not taken here; use POST"),
        ("POST /v2/health/live", "", 405, "POST is not taken here; use GET or HEAD"),
        ("GET /v2/nowhere", "", 404, "no route /v2/nowhere; routes: /v2, /v2/health/live"),
        (INFER, "Content-Type: text/xml\r\n", 415, "Content-Type 'text/xml' is not understood; send application/json"),
        (INFER, "Content-Encoding: gzip\r\n", 415, "Content-Encoding 'gzip' is not understood; send the body as it is"),
        (INFER, "Origin: http://evil.example\r\n", 403, "requests from 'http://evil.example' are not taken here"),
        (
            INFER,
            "Inference-Header-Content-Length: x\r\n",
            400,
            "Inference-Header-Content-Length 'x' is not a number of",
        ),
        (
            INFER,
            "Inference-Header-Content-Length: 999999\r\n",
            400,
            "Inference-Header-Content-Length is 999999, and the",
        ),
        (INFER, "Inference-Header-Content-Length: 1\r\n", 400, "request body ends where a name in quotes was expected"),
    ] {
        let sent = if request.starts_with("POST") { body.as_str() } else { "" };
        let answer = site.send(request, headers, sent);
        let reply = answer.json();
        assert_eq!(answer.status, status, "{request} {headers}: {answer:?}");
        assert!(reply["error"].as_str().is_some_and(|said| said.starts_with(error)), "{request} {headers}: {reply}");
    }
}

/// The binary extension: tensors behind the JSON, in both directions.
#[test]
fn tensors_travel_as_bytes() {
    let site = open("oip-bytes");
    let p = probability(&site);
    let request = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [
            {"name": "price", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "user", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 12}},
            {"name": "item", "shape": [2], "datatype": "BYTES", "data": ["i1", "i1"]},
        ],
    })
    .to_string();
    let bytes = [&2f32.to_le_bytes()[..], &2f32.to_le_bytes(), b"\x02\0\0\0u1\x02\0\0\0u1"].concat();
    let headers =
        format!("Inference-Header-Content-Length: {}\r\nContent-Type: application/octet-stream\r\n", request.len());
    let body = [request.as_bytes(), &bytes].concat();
    let (head, reply) = exchange(&site, &headers, &body);
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {}", String::from_utf8_lossy(&reply));
    let length = head.lines().find_map(|l| l.strip_prefix("inference-header-content-length: ")).unwrap();
    let (json, tail) = reply.split_at(length.parse().unwrap());
    let json: Value = serde_json::from_slice(json).unwrap();
    let output = json!({"name": "prediction", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}});
    assert_eq!(json["outputs"], json!([output]));
    assert_eq!(tail, [p.to_le_bytes(), p.to_le_bytes()].concat());
    // An output says for itself.
    let text = request.replace(
        "\"parameters\":{\"binary_data_output\":true}",
        "\"outputs\":[{\"name\":\"prediction\",\"parameters\":{\"binary_data\":false}}]",
    );
    assert_ne!(text, request);
    let headers = format!("Inference-Header-Content-Length: {}\r\n", text.len());
    let (head, reply) = exchange(&site, &headers, &[text.as_bytes(), &bytes].concat());
    assert!(head.contains("content-type: application/json") && reply.ends_with(b"]}\n"), "{head}");
    for (bytes, error) in [
        (&bytes[..19], "input 'user' has binary_data_size 12, and 11 bytes are left in the body"),
        (&[&bytes[..], b"x"].concat()[..], "21 bytes behind the JSON; inputs take 20 of them by binary_data_size"),
        (&[&f32::NAN.to_le_bytes()[..], &bytes[4..]].concat(), "input 'price': value 0 is NaN; numbers must be finite"),
        (
            &[&bytes[..8], b"\x03\0\0\0u1\x02\0\0\0u1"].concat(),
            "input 'user': the text at byte 7 ends beyond the data; ",
        ),
        (&[&bytes[..8], b"\x02\0\0\0u\xff\x02\0\0\0u1"].concat(), "input 'user': value 0 is not UTF-8 at its byte 1"),
    ] {
        let headers = format!("Inference-Header-Content-Length: {}\r\n", request.len());
        let (head, reply) = exchange(&site, &headers, &[request.as_bytes(), bytes].concat());
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert!(head.starts_with("HTTP/1.1 400") && reply["error"].as_str().unwrap().starts_with(error), "{reply}");
    }
}
