//! The API beside a running job: predictions that already know the last event, events that are stored before they are
//! acknowledged, versions that can be gone back to.

use std::time::Instant;

use serde_json::{Value, json};

use super::support::{Scratch, Serving, eventually, run, send_signal, tidemill};

pub const PUSHED: &str = "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, user STRING, item STRING,
       rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http', idle_timeout = '50ms');
     CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http', idle_timeout = '50ms');
     SELECT i.*, (c.imp_id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
       ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' HOUR EMIT IMMEDIATE CORRECT RETRACT
     TO TRAIN FTRLClassifier WITH publish.interval = '100ms', checkpoint.interval = '100ms' COLUMN user, item, CROSS([user, item]) LABEL label INTO ctr;";

fn start(scratch: &Scratch) -> Serving {
    let sql = scratch.write("pushed.sql", PUSHED);
    let data = scratch.path("data");
    Serving::start(&["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()])
}

fn probability(s: &Serving, item: &str) -> f64 {
    let (status, body) =
        s.post("/v1/models/ctr:predict", &json!({"rows": [{"user": "ann", "item": item}]}).to_string());
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["predictions"][0]["probability"].as_f64().unwrap()
}

/// The probability once it stands still.
fn settled(s: &Serving, item: &str) -> f64 {
    let mut last = f64::NAN;
    eventually("it stands still", || {
        std::thread::park_timeout(std::time::Duration::from_millis(150));
        let now = probability(s, item);
        (std::mem::replace(&mut last, now) == now).then_some(now)
    })
}

fn show_and_click(s: &Serving) {
    let lines: Vec<String> = (0..40)
        .map(|i| json!({"imp_id": i, "ts": 1_000 + i, "user": "ann", "item": format!("i{}", i % 4)}).to_string())
        .collect();
    let (status, body) = s.post("/v1/sources/shown", &lines.join("\n"));
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["accepted"].as_u64()), (200, Some(40)), "{body}");
    let clicks: Vec<String> = (0..40).step_by(4).map(|i| json!({"imp_id": i, "ts": 2_000 + i}).to_string()).collect();
    assert_eq!(s.post("/v1/sources/clicked", &clicks.join("\n")).0, 200);
}

#[test]
fn a_click_changes_the_prediction_and_survives_kill_9() {
    let scratch = Scratch::new("push");
    let s = start(&scratch);
    assert_eq!(probability(&s, "i0"), 0.5, "nothing learned, nothing known");
    show_and_click(&s);
    eventually("the clicked item ranks first", || (probability(&s, "i0") > probability(&s, "i1") + 0.1).then_some(()));
    // What was acknowledged is there after a crash, and learned once: the same bits as without the crash.
    eventually("all is learned", || (s.get_json("/v1/status")["events"] == 50).then_some(()));
    let before = settled(&s, "i0");
    send_signal(&s.child, "-KILL");
    drop(s);
    let s = start(&scratch);
    eventually("learned again", || (s.get_json("/v1/status")["events"] == 50).then_some(()));
    assert_eq!(settled(&s, "i0"), before, "the same bits");
    // A bad line is refused with its number, the good ones beside it are taken.
    let (status, body) = s.post(
        "/v1/sources/shown",
        "{\"imp_id\": 100, \"ts\": 5000, \"user\": \"bob\", \"item\": \"i1\"}\n{\"imp_id\": \"x\"}\n",
    );
    let reply: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &reply["accepted"], &reply["refused"][0]["line"]), (200, &json!(1), &json!(2)), "{body}");
    let (code, _) = s.end("-TERM");
    assert_eq!(code, Some(0));
}

/// F12: on a full disk a live job refuses events and says why, goes on serving, and has learned every event that it
/// acknowledged: before and after a kill, and once there is room.
#[test]
fn f12_a_live_job_on_a_full_disk_loses_nothing_it_acknowledged() {
    let scratch = Scratch::new("live-full");
    // So much in one checkpoint that it finds no room where what is pushed still did.
    let rarely = PUSHED.replace("checkpoint.interval = '100ms'", "checkpoint.interval = '5s'");
    let sql = scratch.write("pushed.sql", rarely);
    let data = scratch.path("data");
    let args = ["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let s = Serving::start_with_disk_of(16, &args);
    let body = |i: u64| {
        let line =
            |n: u64| json!({"imp_id": n, "ts": 1_000 + n, "user": "ann", "item": format!("i{}", n % 4)}).to_string();
        (10 * i..10 * (i + 1)).map(line).collect::<Vec<_>>().join("\n")
    };
    let learned = |s: &Serving, events: u64| {
        eventually("all that was acknowledged", || (s.get_json("/v1/status")["events"] == events).then_some(()));
    };
    let mut accepted = 0;
    let refusal = loop {
        let (status, reply) = s.post("/v1/sources/shown", &body(accepted / 10));
        match status {
            200 => accepted += 10,
            _ => break (status, reply),
        }
        // Each push is a mini-batch of its own: rows that wait take more in many than in few.
        learned(&s, accepted);
    };
    assert!(accepted > 0 && refusal.0 == 503, "{refusal:?}");
    assert!(refusal.1.contains("not stored") && refusal.1.contains("push.log"), "{refusal:?}");
    assert_eq!(s.post("/v1/sources/shown", &body(accepted / 10)).0, 503, "it stays so, and is told each time");
    learned(&s, accepted);
    assert!(probability(&s, "i0") > 0.0, "it serves");
    eventually("the checkpoint is missed", || {
        s.get_json("/v1/status")["warning"].as_str().filter(|w| w.contains("checkpoint not written")).map(|_| ())
    });
    send_signal(&s.child, "-KILL");
    drop(s);
    let s = Serving::start(&args);
    learned(&s, accepted);
    assert_eq!(s.post("/v1/sources/shown", &body(accepted / 10)).0, 200);
    learned(&s, accepted + 10);
}

#[test]
fn the_api_says_what_is_wrong_and_goes_on() {
    let scratch = Scratch::new("api");
    let s = start(&scratch);
    assert_eq!(s.get("/healthz").0, 200);
    let (status, metrics) = s.get("/metrics");
    assert!(status == 200 && metrics.contains("# TYPE tidemill_events_total counter"), "{metrics}");
    assert!(s.get("/").1.contains("<title"), "the page is compiled in");
    for (path, body, expected) in [
        ("/v1/models/nobody:predict", r#"{"rows":[{}]}"#, (404, "nobody")),
        ("/v1/models/ctr@99:predict", r#"{"rows":[{}]}"#, (404, "no version")),
        ("/v1/models/ctr:predict", "", (400, "empty")),
        ("/v1/models/ctr:predict", "{", (400, "")),
        ("/v1/models/ctr:predict", r#"{"rows":[]}"#, (400, "empty")),
        ("/v1/models/ctr:predict", r#"{"rows":[{"user":7}]}"#, (400, "rows[0].user")),
        ("/v1/models/ctr:rollback", r#"{"version":99}"#, (404, "")),
        ("/v1/sources/nowhere", "{}", (404, "nowhere")),
        ("/v1/modles", "{}", (404, "no route")),
    ] {
        let (status, text) = s.post(path, body);
        let error: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"));
        let message = error["error"]["message"].as_str().unwrap_or_else(|| panic!("{path}: {text}"));
        assert_eq!(status, expected.0, "{path} {body}: {text}");
        assert!(message.contains(expected.1), "{path} {body}: {message}");
        assert_eq!(s.get("/healthz").0, 200);
    }
    let deep = "[".repeat(10_000);
    assert_eq!(s.post("/v1/models/ctr:predict", &format!("{{\"rows\":{deep}")).0, 400);
    let long = "x".repeat(5 << 20);
    assert_eq!(s.post("/v1/models/ctr:predict", &long).0, 413);
    assert_eq!(s.get("/healthz").0, 200);
}

#[test]
fn an_operator_can_go_back_to_a_version_and_forward_again() {
    let scratch = Scratch::new("rollback");
    let s = start(&scratch);
    let data = scratch.path("data");
    let data = data.to_str().unwrap();
    show_and_click(&s);
    eventually("a version", || {
        s.get_json("/v1/models/ctr")["versions"].as_array().filter(|v| !v.is_empty()).map(|_| ())
    });
    let old = probability(&s, "i0");
    let more: Vec<String> =
        (100..140).map(|i| json!({"imp_id": i, "ts": 9_000 + i, "user": "ann", "item": "i0"}).to_string()).collect();
    assert_eq!(s.post("/v1/sources/shown", &more.join("\n")).0, 200);
    let clicks: Vec<String> = (100..140).map(|i| json!({"imp_id": i, "ts": 9_500 + i}).to_string()).collect();
    assert_eq!(s.post("/v1/sources/clicked", &clicks.join("\n")).0, 200);
    eventually("a second version", || (s.get_json("/v1/models/ctr")["versions"].as_array()?.len() >= 2).then_some(()));
    let new = eventually("it has learned more", || Some(probability(&s, "i0")).filter(|p| *p > old + 0.05));

    let started = Instant::now();
    let out = tidemill().args(["models", "rollback", "ctr@1", "--data-dir", data]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(probability(&s, "i0") < new && started.elapsed().as_millis() < 1_000, "in effect at once");
    let list = tidemill().args(["models", "list", "--data-dir", data]).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("1 (pinned)"), "{list:?}");
    let out = tidemill().args(["models", "promote", "ctr", "--data-dir", data]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    eventually("the newest again", || (probability(&s, "i0") >= new).then_some(()));
    // While it runs, and from what it pushed, a version is derived again.
    let out = tidemill().args(["models", "verify", "ctr@1", "--data-dir", data]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// B87, B90: one owner per directory, one server per port, and both say who is in the way.
#[test]
fn b87_b90_a_second_process_is_refused_and_told_why() {
    let scratch = Scratch::new("owner");
    let s = start(&scratch);
    let out = run(PUSHED, &scratch.path("data"), &[]);
    assert_eq!(out.status.code(), Some(4));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains(&format!("is locked by pid {}", s.child.id())), "{text}");
    let port = s.address.rsplit(':').next().unwrap();
    let out = tidemill()
        .args(["run", "-e", PUSHED, "--port", port, "--data-dir"])
        .arg(scratch.path("other"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("already in use; use --port N"), "{text}");
}
