//! B51 to B67 of the list of bad inputs: what comes in, the status, the sentence, and that nothing else is disturbed: after
//! each, the server is healthy and answers the next good request, and no request is left behind.

mod support;

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

use serde_json::json;
use support::{
    call::{Client, framed},
    row,
    site::{Answer, Site, connect, open, open_with, read_answer},
};
use tidemill_serve::server::Limits;

const PREDICT: &str = "POST /v1/models/ctr:predict";
const INFER: &str = "POST /v2/models/ctr/infer";

fn good() -> String {
    json!({"rows": [row()]}).to_string()
}

/// The server is as it was.
fn unharmed(site: &Site, id: &str) {
    assert_eq!((site.get("/healthz").status, site.get("/healthz").body), (200, "ok\n".to_string()), "{id}");
    assert_eq!(site.post("/v1/models/ctr:predict", &good()).status, 200, "{id}");
    let idle = || site.get("/metrics").body.lines().any(|l| l == "tidemill_http_requests_in_flight 1");
    assert!((0..20_000).any(|_| idle()), "{id}: a request is left behind");
}

fn message(answer: &Answer) -> String {
    let error = &answer.json()["error"];
    error.as_str().or(error["message"].as_str()).unwrap_or_else(|| panic!("{answer:?}")).to_string()
}

/// A request as a whole: what is wrong with it is in its line, its headers or its body.
#[test]
fn b51_to_b63_requests_that_are_wrong_get_their_status_and_sentence() {
    let site = open("bad-requests");
    let rows = |n: usize| json!({"rows": vec![row(); n]}).to_string();
    let deep = format!(r#"{{"rows":[{{"user":{}1{}}}]}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let deep_infer = format!(r#"{{"inputs":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let xml = "Content-Type: text/xml\r\n";
    let gzip = "Content-Encoding: gzip\r\n";
    let tensor = |shape: &str, datatype: &str, data: &str| {
        format!(r#"{{"inputs":[{{"name":"price","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#)
    };
    let cases: Vec<(&str, &str, &str, String, u16, &str)> = vec![
        ("B51", "GET /v1/models/ctr:predict", "", String::new(), 405, "GET is not taken here; use POST"),
        ("B51", "PUT /v1/models/ctr:rollback", "", "{}".into(), 405, "PUT is not taken here; use POST"),
        ("B52", "GET /v1/modles", "", String::new(), 404, "no route /v1/modles"),
        ("B52", "POST /v1/models/ctr:explode", "", "{}".into(), 404, "no route /v1/models/ctr:explode"),
        (
            "B52",
            "GET /v2/modles",
            "",
            String::new(),
            404,
            "no route /v2/modles; routes: /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME[/versions/VERSION], and behind it /ready and /infer",
        ),
        ("B53", "POST /v1/models/nope:predict", "", good(), 404, "no model 'nope' (have ctr)"),
        ("B53", "POST /v2/models/nope/infer", "", "{}".into(), 404, "no model 'nope' (have ctr)"),
        ("B54", "POST /v1/models/ctr@99:predict", "", good(), 404, "model 'ctr' has no version 99 (have 1-3)"),
        (
            "B54",
            "POST /v1/models/ctr@-1:predict",
            "",
            good(),
            404,
            "'-1' is neither a version nor a label, as in ctr@42 or ctr@canary",
        ),
        (
            "B54",
            "POST /v1/models/ctr:rollback",
            "",
            r#"{"version":99}"#.into(),
            404,
            "model 'ctr' has no version 99 (have 1-3)",
        ),
        ("B55", PREDICT, "", String::new(), 400, "request body is empty"),
        ("B55", "POST /v1/sources/clicks", "", " \n".into(), 400, "request body is empty; send one JSON object a line"),
        (
            "B56",
            PREDICT,
            xml,
            "<a/>".into(),
            415,
            "Content-Type 'text/xml' is not understood; send application/json or application/vnd.apache.arrow.stream",
        ),
        ("B56", INFER, xml, "<a/>".into(), 415, "Content-Type 'text/xml' is not understood; send application/json"),
        // What is compressed is not taken at all, so nothing expands.
        ("B60", PREDICT, gzip, "\x1f".into(), 415, "Content-Encoding 'gzip' is not understood; send the body as it is"),
        ("B61", PREDICT, "", r#"{"rows":[]}"#.into(), 400, "rows is empty"),
        ("B61", PREDICT, "", rows(1025), 400, "1,025 rows; the limit is 1,024"),
        (
            "B62",
            INFER,
            "",
            tensor("[1]", "FP64", "[1]"),
            400,
            "input 'user' is missing; the parameter \"missing_as_null\": true makes what is missing NULL",
        ),
        (
            "B63",
            PREDICT,
            "",
            r#"{"rows":[{},{},{},{"price":"x"}]}"#.into(),
            400,
            "rows[3].price: expected number, found string",
        ),
        ("B63", PREDICT, "", r#"{"rows":[{"price":NaN}]}"#.into(), 400, "rows[0]: expected value at byte 10"),
        ("B63", PREDICT, "", r#"{"rows":[{"price":1e999}]}"#.into(), 400, "rows[0]: number out of range at byte 14"),
        (
            "B63",
            INFER,
            "",
            tensor("[-1]", "FP64", "[1]"),
            400,
            "inputs[0]: shape holds -1; dimensions are whole numbers",
        ),
        ("B63", INFER, "", tensor("[2]", "FP64", "[1]"), 400, "input 'price' has 1 values; shape [2] says otherwise"),
        ("B63", INFER, "", tensor("[1]", "FP65", "[1]"), 400, "FP65"),
        ("B34", PREDICT, "", deep, 400, "rows[0]: nested deeper than 32"),
        ("B34", INFER, "", deep_infer, 400, "expected an object for each input, found an array at byte 11"),
        ("B35", PREDICT, "", r#"{"rows":[{"#.into(), 400, "request body ends where the end of rows[0] was expected"),
    ];
    let mut other: Vec<String> = Vec::new();
    for (id, request, headers, body, status, expected) in cases {
        let answer = site.send(request, headers, &body);
        let case = format!("{id} {request}: {answer:?}");
        let message = message(&answer);
        // Where the sentence lists what there is, its beginning or the bad word is enough.
        let fits = message == expected || (expected.len() < 8 && message.contains(expected));
        if !fits || answer.status != status {
            other.push(format!(
                "{id} {request}\n  expected {status} {expected}\n  found    {} {message}",
                answer.status
            ));
        }
        assert_eq!(answer.header("allow").is_some(), status == 405, "{case}");
        assert!(!answer.body.contains("panicked") && !answer.body.contains("/src/"), "{case}");
        unharmed(&site, id);
    }
    assert!(other.is_empty(), "{}", other.join("\n"));
    // B62: what the source does not have is not looked at, and named in the reply.
    let unknown = site.post("/v1/models/ctr:predict", r#"{"rows":[{"user":"u1","colour":"red"}]}"#);
    assert_eq!((unknown.status, &unknown.json()["unknown_columns"]), (200, &json!(["colour"])));
}

/// Bytes that are no request, or another one than they say.
#[test]
fn b57_to_b59_what_is_not_http_or_too_long_ends_its_connection() {
    let site = open("bad-bytes");
    let address = site.server.address();
    let head = |headers: &str| format!("{PREDICT} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    let too_long = "request body is longer than 4194304 bytes";
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", 5 << 20, " ".repeat(5 << 20));
    let both = "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n";
    let headers: String = (0..10_000).map(|i| format!("X-{i}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "a".repeat(1 << 20));
    let broken = "the request is not HTTP/1.1";
    let many = "the request's headers are too many or too long";
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("B57", head(&format!("Content-Length: {}\r\n", 5 << 20)) + &" ".repeat(5 << 20), 413, too_long),
        ("B57", head("Transfer-Encoding: chunked\r\n") + &chunk, 413, too_long),
        ("B58", head(both) + "0\r\n\r\n", 400, "request body is empty"),
        ("B58", head("Content-Length: 2\r\nContent-Length: 3\r\n") + "{}x", 400, broken),
        ("B58", head("Content-Length: -1\r\n"), 400, broken),
        ("B58", head("Content-Length: 5x\r\n"), 400, broken),
        ("B59", head(&headers), 431, many),
        ("B59", head(&long), 431, many),
        (
            "B59",
            format!("GET /{} HTTP/1.1\r\nHost: {address}\r\n\r\n", "a".repeat(70_000)),
            414,
            "the request's path is too long",
        ),
        ("B58", "\u{0}\u{1}\u{2}\r\n\r\n".into(), 400, broken),
    ];
    let mut other: Vec<String> = Vec::new();
    for (id, bytes, status, expected) in cases {
        let mut stream = connect(address);
        // Where it has answered already, the rest is not wanted.
        let _ = stream.write_all(bytes.as_bytes());
        let answer = read_answer(&mut stream);
        let shown: String = bytes.chars().take(160).collect();
        let found = message(&answer);
        if (answer.status, found.as_str()) != (status, expected) {
            other.push(format!("{id} {shown:?}\n  expected {status} {expected}\n  found    {} {found}", answer.status));
        }
        unharmed(&site, id);
    }
    assert!(other.is_empty(), "{}", other.join("\n"));
    // B58: of two lengths the chunks are taken, and the connection ends with the reply, so that nothing behind them can be
    // taken for a request.
    let body = good();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let behind = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let answer = site.raw(&(head(both) + &chunks + &behind));
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert_eq!(answer.body.matches("HTTP/1.1").count(), 0, "{answer:?}");
    unharmed(&site, "B58");
    // B58: a body that ends before its length says so is the end of the connection, and of nothing else.
    let mut stream = connect(address);
    stream.write_all((head("Content-Length: 100\r\n") + "{\"rows\":").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{reply}");
    unharmed(&site, "B58");
}

/// B64, B65: who is slow is told so, who is gone costs nothing.
#[test]
fn b64_b65_slow_and_vanished_callers_leave_nothing_behind() {
    let limits = Limits { body_timeout: Duration::from_millis(200), ..Limits::default() };
    let site = open_with("bad-slow", limits);
    let address = site.server.address();
    let mut slow = connect(address);
    slow.write_all(format!("{PREDICT} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100\r\n\r\n{{").as_bytes())
        .unwrap();
    let answer = read_answer(&mut slow);
    assert_eq!((answer.status, message(&answer).as_str()), (408, "the request body did not arrive within 200ms"));
    assert_eq!(answer.header("connection"), Some("close"));
    unharmed(&site, "B64");
    for _ in 0..50 {
        let mut gone = connect(address);
        let request = format!("{PREDICT} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100\r\n\r\n{{\"rows\"");
        gone.write_all(request.as_bytes()).unwrap();
    }
    unharmed(&site, "B65");
    let metrics = site.get("/metrics").body;
    assert!(metrics.lines().any(|l| l == r#"tidemill_http_refused_total{reason="slow"} 1"#), "{metrics}");
}

/// B66: control frames and resets without end close their connection, and are counted.
#[test]
fn b66_floods_of_http2_frames_end_their_connection() {
    let site = open("bad-frames");
    let client = Client::open(&site);
    let frame = |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0], payload].concat();
    let (settings, ping) = (frame(4, &[]), frame(6, &[0; 8]));
    // A request that is taken back at once, again and again, each on a stream of its own.
    let rapid_reset: Vec<u8> = (0..20_000u32)
        .flat_map(|i| {
            let stream = (2 * i + 1).to_be_bytes();
            // :method GET, :scheme http, :path /, all from the static table, and an empty :authority.
            let headers = [&[0, 0, 5, 1, 5], &stream[..], &[0x82, 0x86, 0x84, 0x01, 0x00]].concat();
            let reset = [&[0, 0, 4, 3, 0], &stream[..], &[0, 0, 0, 8]].concat();
            [headers, reset].concat()
        })
        .collect();
    for (what, flood) in
        [("settings", settings.repeat(20_000)), ("pings", ping.repeat(20_000)), ("rapid reset", rapid_reset)]
    {
        let mut stream = connect(site.server.address());
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
        let sent = stream.write_all(&begin).and_then(|()| stream.write_all(&flood));
        // Closed while it sends, or behind it: what counts is that it comes to an end.
        let mut sink = Vec::new();
        let read = stream.read_to_end(&mut sink);
        assert!(sent.is_err() || read.is_ok() || sink.len() < (1 << 20), "{what}: it goes on");
        unharmed(&site, what);
    }
    let metrics = site.get("/metrics").body;
    let line = metrics.lines().find(|l| l.contains(r#"reason="flood""#)).unwrap();
    let floods: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    // The library closes the connection by itself where resets outrun what it has taken up.
    assert!((2..=3).contains(&floods), "{line}");
    // A connection that was there before goes on.
    let reply = client.send("/inference.GRPCInferenceService/ServerLive", &[], framed(&[]));
    assert_eq!(reply.code, 0);
}

/// B67: what is no message of gRPC, or far too long, is the caller's mistake.
#[test]
fn b67_grpc_garbage_is_refused() {
    let site = open("bad-grpc");
    let client = Client::open(&site);
    let infer = "/inference.GRPCInferenceService/ModelInfer";
    for (body, code, text) in [
        (framed(&[0xff; 9]), 3, "the request cannot be read: "),
        // A field of another wire type: the model's name as a number.
        (framed(&[0x08, 0x01]), 3, "the request cannot be read: "),
        ([&[0][..], &(5u32 << 20).to_be_bytes()].concat(), 8, "request is longer than 4194304 bytes"),
        (framed(&[]), 5, "no model '' (have ctr)"),
    ] {
        client.send(infer, &[], body).refused(code, text);
        unharmed(&site, "B67");
    }
    // A frame that ends before its length: an error, whatever its code, and the connection goes on.
    assert_ne!(client.send(infer, &[], vec![0, 0, 0, 0, 9, 1]).code, 0);
    assert_ne!(client.send(infer, &[], vec![7; 64]).code, 0);
    unharmed(&site, "B67");
}
