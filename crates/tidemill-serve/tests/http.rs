//! The server as strangers meet it: every route and every refusal, over real sockets on a free port.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    FakeHost, Handle, row,
    site::{connect, open, open_with, read_answer},
};
use tidemill_base::Kind;
use tidemill_serve::server::{Limits, start};

fn rows(n: usize) -> String {
    json!({ "rows": vec![row(); n] }).to_string()
}

/// sigmoid of the weights of one row: user, item, cross, bias at 1 and price at 2.
fn probability(w: f64) -> f64 {
    1.0 / (1.0 + (-6.0 * w).exp())
}

#[test]
fn rows_get_predictions_and_the_version_that_made_them() {
    let site = open("predict");
    let answer = site.post("/v1/models/ctr:predict", &rows(2));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    let reply = answer.json();
    assert_eq!((&reply["model"], &reply["version"], &reply["mini_batch"]), (&json!("ctr"), &json!(3), &json!(300)));
    let p = reply["predictions"][1]["probability"].as_f64().unwrap();
    assert!((p - probability(0.3)).abs() < 1e-6, "{p}");
    assert_eq!(reply.get("unknown_columns"), None);
    // What `curl -d` sends, a client that encodes its path, and a version by number.
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for path in ["/v1/models/ctr:predict", "/v1/models/ctr%3Apredict?x=1", "/v1/models/ctr@3:predict"] {
        assert_eq!(site.send(&format!("POST {path}"), form, &rows(2)).json(), reply, "{path}");
    }
    let unknown =
        site.post("/v1/models/ctr:predict", r#"{"rows":[{"user":"u1","colour":"red","size":{"a":[1]}},{"colour":1}]}"#);
    assert_eq!(unknown.json()["unknown_columns"], json!(["colour", "size"]));
    assert_eq!(site.post("/v1/models/ctr:predict", &rows(1024)).json()["predictions"].as_array().unwrap().len(), 1024);
}

/// Every message a person may get for a request of theirs, with its status.
#[test]
fn what_is_wrong_with_a_prediction_request_is_said() {
    let site = open("predict-errors");
    let deep = format!(r#"{{"rows":[{{"user":{}1{}}}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let predict = "POST /v1/models/ctr:predict";
    for (body, message) in [
        ("", "request body is empty"),
        (r#"{"rows":[]}"#, "rows is empty"),
        (rows(1025).as_str(), "1,025 rows; the limit is 1,024"),
        (r#"{"rows":[{},{},{},{"price":"cheap"}]}"#, "rows[3].price: expected number, found string"),
        (r#"{"rows":[{"user":7}]}"#, "rows[0].user: expected string, found number"),
        (r#"{"rows":[{"price":[1]}]}"#, "rows[0].price: expected number, found array"),
        (r#"{"rows":[{"price":1,"price":2}]}"#, "rows[0]: duplicate key 'price'"),
        (r#"{"rows":[{"price":1e999}]}"#, "rows[0]: number out of range at byte 14"),
        (r#"{"rows":[{"price":NaN}]}"#, "rows[0]: expected value at byte 10"),
        (r#"{"rows":[{"price":-1}]}"#, "rows[0].price: logarithm of a negative number"),
        (r#"{"rows":[{"price":1e300}]}"#, "rows[0]: slot 'price': value is 1e300, beyond what a 32-bit float holds"),
        (r#"{"rows":[{"imp_id":1.5}]}"#, "rows[0].imp_id: expected a whole number, found 1.5"),
        (deep.as_str(), "rows[0]: nested deeper than 32"),
        (r#"{"instances":[{}]}"#, r#"unknown name "instances" in the request; send {"rows":[{...}]}"#),
    ] {
        site.refuses(predict, "", body, 400, message);
    }
    let xml = "Content-Type: text/xml\r\n";
    site.refuses(
        predict,
        xml,
        "<a/>",
        415,
        "Content-Type 'text/xml' is not understood; send application/json or application/vnd.apache.arrow.stream",
    );
    let gzip = "Content-Encoding: gzip\r\n";
    site.refuses(predict, gzip, "abc", 415, "Content-Encoding 'gzip' is not understood; send the body as it is");
    site.refuses("POST /v1/models/ctx:predict", "", &rows(1), 404, "no model 'ctx' (have ctr)");
    site.refuses("POST /v1/models/ctr@99:predict", "", &rows(1), 404, "model 'ctr' has no version 99 (have 1-3)");
    let earlier = site.post("/v1/models/ctr@1:predict", &rows(1));
    assert_eq!((earlier.status, &earlier.json()["version"]), (200, &json!(1)), "it is loaded when it is asked for");
    assert!(site.post("/v1/models/ctr:predict", &rows(1)).body.ends_with("}\n"), "fit for a terminal");
    site.refuses("POST /v1/models/ctr@new:predict", "", &rows(1), 404, "model 'ctr' has no label 'new' (have live)");
    let neither = "'New' is neither a version nor a label, as in ctr@42 or ctr@canary";
    site.refuses("POST /v1/models/ctr@New:predict", "", &rows(1), 404, neither);
}

#[test]
fn an_unknown_route_and_a_wrong_method_are_told_what_there_is() {
    let site = open("routes");
    let answer = site.refuses("GET /v1/modles", "", "", 404, "no route /v1/modles");
    assert!(answer.json()["error"]["hint"].as_str().unwrap().contains("/v1/models/NAME:predict"));
    site.refuses("POST /v1/modles", "", "{}", 404, "no route /v1/modles");
    site.refuses("GET /v1/models/nope", "", "", 404, "no model 'nope' (have ctr)");
    site.refuses("GET /v1/models/ctr@9", "", "", 404, "model 'ctr' has no version 9 (have 1-3)");
    site.refuses("GET /%ff", "", "", 404, "no route /%ff");
    site.refuses("GET /v1/feed", "", "", 404, "no feed is shown here; the demo has one");
    for (request, allow) in [
        ("GET /v1/models/ctr:predict", "POST"),
        ("DELETE /v1/sources/clicks", "POST"),
        ("OPTIONS /v1/models/ctr:rollback", "POST"),
        ("POST /v1/models", "GET, HEAD"),
        ("POST /", "GET, HEAD"),
        ("PUT /v1/models/ctr", "GET, HEAD"),
    ] {
        let method = request.split(' ').next().unwrap();
        let message = format!("{method} is not taken here; use {}", allow.replace(", ", " or "));
        let answer = site.refuses(request, "", "", 405, &message);
        assert_eq!(answer.header("allow"), Some(allow));
    }
}

/// Where the data lies on this machine is nobody's business: files are named by where they lie in it.
#[test]
fn paths_of_the_machine_are_told_to_nobody() {
    let site = open("paths");
    let status = |warning: &str| json!({"line": [{"warning": warning}], "warning": warning});
    *site.host.status.lock().unwrap() = status("/srv/tidemill/journal/7: no space left on device");
    let told = status("journal/7: no space left on device");
    assert_eq!(site.get("/v1/status").json(), told);
    let mut events = connect(site.server.address());
    events.write_all(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let mut said = String::new();
    while !said.ends_with("\n\n") || !said.contains("data: ") {
        let mut some = [0; 4096];
        let n = events.read(&mut some).unwrap();
        assert!(n > 0, "{said}");
        said.push_str(std::str::from_utf8(&some[..n]).unwrap());
        said = said.replace("\r\n", "\n");
    }
    assert!(said.contains(&format!("data: {told}")), "{said}");
}

#[test]
fn what_is_served_can_be_read() {
    let site = open("read");
    assert_eq!((site.get("/healthz").status, site.get("/healthz").body), (200, "ok\n".to_string()));
    assert_eq!(site.get("/v1/status").json(), json!({"state": "learning", "model": "ctr"}));
    let models = site.get("/v1/models").json();
    assert_eq!(models["models"][0], site.get("/v1/models/ctr").json());
    let ctr = &models["models"][0];
    assert_eq!((&ctr["name"], &ctr["version"], &ctr["live"]), (&json!("ctr"), &json!(3), &json!("latest")));
    let versions: Vec<_> =
        ctr["versions"].as_array().unwrap().iter().map(|v| (v["version"].clone(), v["live"].clone())).collect();
    assert_eq!(versions, [(json!(3), json!(true)), (json!(2), json!(false)), (json!(1), json!(false))]);
    assert_eq!(site.get("/v1/models/ctr@2").json()["state_hash"], ctr["versions"][1]["state_hash"]);
    let head = site.send("HEAD /v1/models", "", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("access-control-allow-origin").is_none());
    *site.host.feed.lock().unwrap() = Some(json!({"model": "ctr", "items": []}));
    assert_eq!(site.get("/v1/feed").json(), json!({"model": "ctr", "items": []}));
}

#[test]
fn the_page_is_compiled_in_and_loads_nothing_from_elsewhere() {
    let site = open("page");
    let page = site.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    let (mut loaded, mut rest) = (0, page.body.as_str());
    while let Some((_, tail)) = rest.split_once("=\"/assets/") {
        let (path, tail) = tail.split_once('"').unwrap();
        let asset = site.get(&format!("/assets/{path}"));
        assert_eq!(asset.status, 200, "{path}");
        assert!(!asset.body.contains("http://") || path.contains("vendor") || path.ends_with("svg"), "{path}");
        (loaded, rest) = (loaded + 1, tail);
    }
    assert!(loaded >= 5 && !page.body.contains("https://"), "{loaded}");
    assert_eq!(site.get("/assets/nothing.js").status, 404);
    assert_eq!(site.get("/assets/../src/lib.rs").status, 404);
}

#[test]
fn an_operator_rolls_back_and_promotes_while_the_model_learns_on() {
    let site = open("rollback");
    let p = || site.post("/v1/models/ctr:predict", &rows(1)).json()["predictions"][0]["probability"].as_f64().unwrap();
    let back = site.post("/v1/models/ctr:rollback", r#"{"version":1}"#);
    assert_eq!(
        (back.status, &back.json()["live"], &back.json()["version"]),
        (200, &json!("pinned 1"), &json!(1)),
        "{back:?}"
    );
    assert!((p() - probability(0.1)).abs() < 1e-6);
    site.host.nudge(&support::keys(&row()), 0.2, 4);
    assert!((p() - probability(0.1)).abs() < 1e-6, "a delta must not show while a version is pinned");
    assert_eq!(
        site.post("/v1/models/ctr@4:predict", &rows(1)).json()["version"],
        4,
        "the hidden newest can be asked for"
    );
    let promoted = site.post("/v1/models/ctr:promote", "");
    assert_eq!((promoted.status, &promoted.json()["live"]), (200, &json!("latest")));
    assert!((p() - probability(0.5)).abs() < 1e-6);

    let rollback = "POST /v1/models/ctr:rollback";
    site.refuses(rollback, "", r#"{"version":99}"#, 404, "model 'ctr' has no version 99 (have 1-3)");
    for body in ["", "{}", "41", r#"{"version":-1}"#, r#"{"version":"1"}"#] {
        site.refuses(rollback, "", body, 400, r#"say to which version: {"version":41}"#);
    }
    site.refuses("POST /v1/models/nope:promote", "", "", 404, "no model 'nope' (have ctr)");
}

/// What changes what is live is not guessed.
#[test]
fn bodies_that_change_versions_are_read_strictly() {
    let site = open("strict");
    let before = site.get("/v1/models/ctr").json();
    let twice = "the name 'version' is there twice at line 1 column 22";
    site.refuses("POST /v1/models/ctr:rollback", "", r#"{"version":1,"version":2}"#, 400, twice);
    let unknown = r#"unknown name "nonsense"; known are version"#;
    site.refuses("POST /v1/models/ctr:rollback", "", r#"{"version":1,"nonsense":1}"#, 400, unknown);
    site.refuses(
        "POST /v1/models/ctr:promote",
        "",
        "hello",
        400,
        "the newest version is promoted; send no body, or {}",
    );
    site.refuses(
        "POST /v1/models/ctr:promote",
        "",
        r#"{"version":1}"#,
        400,
        r#"unknown name "version"; nothing is said here"#,
    );
    let label = r#"{"label":"q","label":"w","version":1}"#;
    site.refuses("POST /v1/models/ctr:label", "", label, 400, "the name 'label' is there twice at line 1 column 20");
    let split = r#"{"live":10,"w":10,"live":90}"#;
    site.refuses("POST /v1/models/ctr:split", "", split, 400, "the name 'live' is there twice at line 1 column 24");
    for verb in ["rollback", "promote", "label", "split", "rollout"] {
        let route = format!("POST /v1/models/ctr:{verb}");
        let message = "Content-Type 'text/plain' is not understood; send application/json";
        site.refuses(&route, "Content-Type: text/plain\r\n", r#"{"version":1}"#, 415, message);
    }
    let ranking = r#"{"candidates":[{"id":1}],"ranking":{"score":"score0","score":"-score0"}}"#;
    site.refuses(
        "POST /v1/models/ctr:rank",
        "",
        ranking,
        400,
        "ranking: the name 'score' is there twice at line 1 column 25",
    );
    assert_eq!(site.get("/v1/models/ctr").json(), before);
}

#[test]
fn a_rolled_back_version_is_served_again_after_a_restart() {
    let dir = support::temp_dir("restart");
    FakeHost::open_in(&dir).served.rollback(2).unwrap();
    let host = FakeHost::open_in(&dir);
    assert_eq!((host.live.read().version, host.live.newest().version), (2, 3));
    host.served.promote().unwrap();
    assert_eq!(FakeHost::open_in(&dir).live.read().version, 3);
}

#[test]
fn pushed_events_are_answered_line_by_line() {
    let site = open("push");
    let push = |body| site.post("/v1/sources/clicks", body);
    let all = push("{\"imp_id\":1}\n{\"imp_id\":2}\n");
    assert_eq!((all.status, all.json()), (200, json!({"accepted": 2, "refused": [], "first_offset": 0})));
    let some = push("{\"imp_id\":3}\n{\"imp\":4}\nnot json\n{\"imp_id\":5}");
    let lines: Vec<_> = some.json()["refused"].as_array().unwrap().iter().map(|r| r["line"].clone()).collect();
    assert_eq!((some.status, &some.json()["accepted"], &some.json()["first_offset"]), (200, &json!(2), &json!(2)));
    assert_eq!(lines, [json!(2), json!(3)]);
    let none =
        site.refuses("POST /v1/sources/clicks", "", "{}\n{}", 400, "no line was accepted; line 1: imp_id is missing");
    assert_eq!((&none.json()["accepted"], none.json()["refused"].as_array().unwrap().len()), (&json!(0), 2));
    let many = push(&"{}\n".repeat(500));
    assert_eq!((many.json()["refused"].as_array().unwrap().len(), &many.json()["refused_count"]), (100, &json!(500)));
    site.refuses("POST /v1/sources/clicks", "", "", 400, "request body is empty; send one JSON object a line");
    site.refuses("POST /v1/sources/clocks", "", "{}", 404, "no source 'clocks' (have impressions, clicks, history)");
    site.refuses(
        "POST /v1/sources/history",
        "",
        "{}",
        409,
        "source 'history' takes no pushed events; declare it with push = 'true'",
    );
    let full =
        site.refuses("POST /v1/sources/full", "", "{}", 429, "write sources/full/push.log: no space left on device");
    assert_eq!(full.header("retry-after"), Some("1"));
}

/// The promise of the page: a click is an event, and the next prediction knows it.
#[test]
fn a_click_changes_the_prediction() {
    let site = open("click");
    let p = || site.post("/v1/models/ctr:predict", &rows(1)).json()["predictions"][0]["probability"].as_f64().unwrap();
    let before = p();
    let mut impression = row();
    impression["imp_id"] = 77.into();
    assert_eq!(site.post("/v1/sources/impressions", &impression.to_string()).status, 200);
    assert_eq!(p(), before);
    assert_eq!(site.post("/v1/sources/clicks", r#"{"imp_id":77}"#).status, 200);
    assert!(p() > before + 0.05);
}

#[test]
fn other_sites_are_kept_out() {
    let site = open("origin");
    let own = format!("Origin: http://{}\r\n", site.server.address());
    assert_eq!(site.send("POST /v1/sources/clicks", &own, r#"{"imp_id":1}"#).status, 200);
    for request in ["POST /v1/sources/clicks", "POST /v1/models/ctr:rollback", "POST /v1/models/ctr:promote"] {
        let message = "requests from 'http://evil.example' are not taken here";
        site.refuses(request, "Origin: http://evil.example\r\n", r#"{"imp_id":1}"#, 403, message);
    }
    assert_eq!(site.raw("GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").status, 403);
}

#[test]
fn metrics_name_and_type_every_line() {
    let site = open("metrics");
    site.post("/v1/models/ctr:predict", &rows(3));
    site.get("/nowhere");
    let answer = site.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut typed: Vec<&str> = Vec::new();
    for line in answer.body.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(of) => typed.push(of.split(' ').next().unwrap()),
            None if line.starts_with("# HELP ") => {}
            None => {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(typed.iter().any(|t| name.starts_with(t)), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }
    for expected in [
        "tidemill_events_total 7",
        "tidemill_predicted_rows_total 3",
        "tidemill_predict_seconds_count 1",
        r#"tidemill_http_requests_total{route="predict",status="2xx"} 1"#,
        r#"tidemill_http_requests_total{route="none",status="4xx"} 1"#,
    ] {
        assert!(answer.body.lines().any(|l| l == expected), "{expected} in\n{}", answer.body);
    }
}

/// One status at once, the next when it comes, and an end when the server stops.
#[test]
fn the_status_is_streamed_to_whoever_watches() {
    let site = open("events");
    let mut stream = connect(site.server.address());
    stream.write_all(format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", site.server.address()).as_bytes()).unwrap();
    let mut text = String::new();
    let mut read_until = |wanted: &str| {
        let mut piece = [0; 4096];
        while !text.contains(wanted) {
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "ended without {wanted}: {text}");
            text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
        }
    };
    read_until("content-type: text/event-stream");
    read_until("data: {\"state\":\"learning\",\"model\":\"ctr\"}\n\n");
    *site.host.status.lock().unwrap() = json!({"state": "finished"});
    read_until("data: {\"state\":\"finished\"}\n\n");
    assert!(site.server.stop(), "an open stream must not hold up the end");
}

#[test]
fn a_bug_costs_one_request() {
    let site = open("bug");
    site.host.broken.store(true, SeqCst);
    let message = "a bug in tidemill ended this request; others go on";
    site.refuses("GET /v1/status", "", "", 500, message);
    site.refuses("POST /v1/sources/clicks", "", r#"{"imp_id":1}"#, 500, message);
    site.host.broken.store(false, SeqCst);
    assert_eq!(site.get("/v1/status").status, 200);
    assert_eq!(site.post("/v1/sources/clicks", r#"{"imp_id":1}"#).status, 200);
}

/// A caller that asks first is told before it sends, and the reply does not wait for the body.
#[test]
fn a_caller_that_waits_for_100_continue_is_told_at_once() {
    let site = open("expect");
    let headers = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", 100 << 20);
    let answer = site.send("POST /v1/models/ctr:predict", &headers, "");
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[test]
fn slow_callers_are_cut_off() {
    let short = Duration::from_millis(200);
    let site = open_with("slow", Limits { header_timeout: short, body_timeout: short, ..Limits::default() });
    let head = "the request's headers did not arrive in time";
    let answer = site.raw("GET /v1/status HTTP/1.1\r\nHost: 127");
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (408, &json!(head)));
    let answer = site.send("POST /v1/models/ctr:predict", "Content-Length: 10\r\n", "");
    assert_eq!(
        (answer.status, &answer.json()["error"]["message"]),
        (408, &json!("the request body did not arrive within 200ms"))
    );
    // An idle connection is closed without a word.
    let mut idle = connect(site.server.address());
    assert_eq!(idle.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn too_many_headers_and_too_long_ones_are_refused() {
    let site = open("headers");
    let many: String = (0..10_000).map(|i| format!("X-{i}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "a".repeat(1 << 20));
    for headers in [many, long] {
        let mut stream = connect(site.server.address());
        let _ =
            stream.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", site.server.address()).as_bytes());
        let answer = read_answer(&mut stream);
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (431, Some("invalid")));
    }
    let answer = site.raw("nonsense\r\n\r\n");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["message"], "the request is not HTTP/1.1");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(site.get("/healthz").status, 200);
}

#[test]
fn connections_beyond_the_limit_get_503_and_the_others_go_on() {
    let site = open_with("crowd", Limits { connections_max: 3, ..Limits::default() });
    let held: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = connect(site.server.address());
            stream
                .write_all(format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", site.server.address()).as_bytes())
                .unwrap();
            assert!(stream.read(&mut [0; 512]).unwrap() > 0);
            stream
        })
        .collect();
    let mut turned_away = connect(site.server.address());
    let answer = read_answer(&mut turned_away);
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (503, &json!("too many connections; try again")));
    drop(held);
    // The server learns of the closed connections in its own time.
    let served = (0..200).any(|_| {
        let mut stream = connect(site.server.address());
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", site.server.address());
        let _ = stream.write_all(request.as_bytes());
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.contains(" 200 OK")
    });
    assert!(served);
}

/// F54: whoever opens all connections and says nothing, or half a request, keeps nobody else out.
#[test]
fn f54_connections_that_say_nothing_make_room() {
    let site = open_with("silent", Limits { connections_max: 8, ..Limits::default() });
    let mut held: Vec<TcpStream> = (0..8).map(|_| connect(site.server.address())).collect();
    held.iter_mut().step_by(2).for_each(|stream| stream.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap());
    let half = "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
    held.iter_mut().skip(1).step_by(2).for_each(|stream| stream.write_all(half.as_bytes()).unwrap());
    for _ in 0..20 {
        // Those that have just come are given a moment; until then there is no room.
        let served = (0..100).any(|_| {
            let mut stream = connect(site.server.address());
            let close =
                format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", site.server.address());
            let _ = stream.write_all(close.as_bytes());
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            std::thread::park_timeout(Duration::from_millis(10));
            text.contains(" 200 OK")
        });
        assert!(served);
        held.push(connect(site.server.address()));
    }
    drop(held);
    let closed = "tidemill_http_connections_closed_for_others_total ";
    let counted = || site.get("/metrics").body.lines().find_map(|line| line.strip_prefix(closed)?.parse::<u64>().ok());
    let counted = (0..200).find_map(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        counted()
    });
    assert!(counted.unwrap() >= 20, "{counted:?}");
}

#[test]
fn a_port_in_use_is_named_and_free_ones_are_found() {
    let site = open("port");
    let address = site.server.address();
    assert_ne!(address.port(), 0);
    let taken = start(address, Arc::new(Handle(site.host.clone()))).err().unwrap();
    assert_eq!(taken.kind(), Kind::Conflict);
    assert_eq!(taken.message(), format!("{address} already in use; use --port N, or --port 0 for any free one"));
    assert!(site.server.stop());
    let again = start(address, Arc::new(Handle(site.host.clone()))).unwrap();
    assert_eq!(again.address(), address);
}

/// A watcher that never reads is cut off: it may hold neither memory nor its place for good.
#[test]
fn a_caller_that_does_not_read_is_cut_off_and_watchers_have_a_bound() {
    let site = open_with("stalled", Limits { write_timeout: Duration::from_millis(200), ..Limits::default() });
    let watch = || {
        let mut stream = connect(site.server.address());
        stream
            .write_all(format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", site.server.address()).as_bytes())
            .unwrap();
        stream
    };
    let open_connections = || {
        let text = site.get("/metrics").body;
        let line = text.lines().find(|l| l.starts_with("tidemill_http_connections ")).unwrap().to_string();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    *site.host.status.lock().unwrap() = json!({"filler": "x".repeat(32 << 20)});
    let stalled = watch();
    assert!((0..20_000).any(|_| open_connections() == 2), "it was never there");
    assert!((0..20_000).any(|_| open_connections() == 1), "it was not cut off");
    drop(stalled);
    *site.host.status.lock().unwrap() = json!({});
    let mut watchers: Vec<TcpStream> = (0..64).map(|_| watch()).collect();
    watchers.iter_mut().for_each(|w| assert!(w.read(&mut [0; 64]).unwrap() > 0));
    site.refuses("GET /v1/events", "", "", 503, "64 streams of events are open, which is the limit");
}

/// A length told twice, in two ways, is how requests are smuggled past a proxy.
#[test]
fn a_request_with_two_lengths_does_not_become_two_requests() {
    let site = open("smuggle");
    let address = site.server.address();
    let body = "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = format!(
        "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = site.raw(&both);
    assert_eq!(answer.body.matches("HTTP/1.1").count(), 0, "{answer:?}");
    assert_eq!(answer.status, 400);
    let twice = format!(
        "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}x"
    );
    assert_eq!(site.raw(&twice).status, 400);
}

/// Many callers on kept connections, while deltas come: every reply is whole and of one version.
#[test]
fn many_callers_at_once_each_get_their_own_answer() {
    let site = open("many");
    let address = site.server.address();
    let body = rows(3);
    let request = format!(
        "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = connect(address);
                for _ in 0..200 {
                    stream.write_all(request.as_bytes()).unwrap();
                    let mut text = String::new();
                    while !text.ends_with("}\n") {
                        let mut piece = [0; 2048];
                        let n = stream.read(&mut piece).unwrap();
                        text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
                    }
                    let reply: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
                    let predictions = reply["predictions"].as_array().unwrap();
                    assert!(predictions.len() == 3 && predictions.iter().all(|p| p == &predictions[0]), "{reply}");
                }
            });
        }
        let keys = support::keys(&row());
        for _ in 0..300 {
            site.host.nudge(&keys, 0.001, 3);
        }
    });
}

/// B72: a push that is sent again under its key is answered as the first was and stored once; another body under that key is
/// refused. What was refused may be tried again.
#[test]
fn b72_a_push_with_a_key_is_stored_once() {
    let site = open("idempotency");
    let path = "/v1/sources/impressions";
    let push = |key: &str, body: &str| site.send(&format!("POST {path}"), &format!("Idempotency-Key: {key}\r\n"), body);
    let event = |id: i64| json!({"imp_id": id, "user": "u1"}).to_string();
    let first = push("k1", &event(1));
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None), "{first:?}");
    let again = push("k1", &event(1));
    assert_eq!((again.status, again.header("idempotency-replayed"), &again.body), (200, Some("true"), &first.body));
    assert_eq!(site.host.offsets.load(std::sync::atomic::Ordering::SeqCst), 1, "stored once");
    let headers = "Idempotency-Key: k1\r\n";
    site.refuses(
        &format!("POST {path}"),
        headers,
        &event(2),
        409,
        "idempotency key 'k1' came with another body before",
    );
    assert_eq!(site.send("POST /v1/sources/clicks", headers, &event(2)).status, 200, "a key is of one source");
    assert_eq!(push("k2", "{}").status, 400);
    assert_eq!(push("k2", &event(2)).status, 200, "what failed left no key behind");
    assert_eq!(site.post(path, &event(1)).status, 200, "without a key it is another event");
}
