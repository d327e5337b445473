//! Back-fill from files that goes on as a stream of a server: Kafka's protocol, a real NATS server, and events that are pushed.
//!
//! What a server holds of a bounded stream is learned with the history before it, to the bit, as one file that holds both;
//! of a stream that never ends the same events come, each once, through a kill.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    connect::{filled_kafka, filled_nats},
    kill::{asked, kill_and_compare, seed},
    support::{Scratch, Serving, eventually, run_json, send_signal},
    switch::{FROM, events, learned, program, program_with, text, write},
};

const NAMES: [&str; 2] = ["impressions", "clicks"];

/// Events of both sources from a time on, as a server gets them.
fn behind(count: i64, begin: i64) -> [Vec<String>; 2] {
    events(count).map(|all| all.into_iter().filter(|e| e.0 >= begin).map(|e| e.1.trim_end().to_string()).collect())
}

/// Learned whole, then with each way to say where the stream takes over; `live` is what a source of the server says.
fn check(scratch: &Scratch, dir: &Path, boundary: i64, live: &dyn Fn(&str) -> String) {
    let whole = learned(&run_json(&program(dir, None), &scratch.path("as-one-file"), &[]));
    let at = format!("AT TIMESTAMP {boundary}");
    for (name, at) in [("end", ""), ("time", at.as_str())] {
        for threads in ["1", "2"] {
            let sql = program_with(dir, Some((at, live)));
            let got = learned(&run_json(&sql, &scratch.path(&format!("{name}-{threads}")), &["--threads", threads]));
            assert_eq!(got, whole, "{name}");
        }
    }
    kill_and_compare(&program_with(dir, Some((&at, live))), scratch, asked(6), seed());
}

#[test]
fn f1_history_goes_on_as_a_topic_of_kafka_through_kills() {
    let scratch = Scratch::new("switch-kafka");
    let (dir, boundary, count) = (scratch.path("in"), FROM + 40_001, 4_000);
    write(&dir, count, boundary, FROM);
    // The topics begin long before the history ends.
    let [impressions, clicks] = behind(count, FROM + 15_000);
    let mock = filled_kafka(&[("impressions", 1, impressions), ("clicks", 1, clicks)]);
    let servers = mock.bootstrap_servers();
    let live = |name: &str| format!("connector = 'kafka', brokers = '{servers}', topic = '{name}', bounded = true");
    check(&scratch, &dir, boundary, &live);
    // By the offset of each topic's first event that history has not.
    let whole = learned(&run_json(&program(&dir, None), &scratch.path("as-one-file-again"), &[]));
    let mut sql = program_with(&dir, Some(("AT OFFSET 0", &live)));
    for (name, all) in NAMES.into_iter().zip(events(count)) {
        let offset = all.iter().filter(|e| (FROM + 15_000..boundary).contains(&e.0)).count();
        sql = sql.replace(&format!("{name}_live AT OFFSET 0"), &format!("{name}_live AT OFFSET {offset}"));
    }
    assert_eq!(learned(&run_json(&sql, &scratch.path("offset"), &[])), whole);
}

#[test]
fn f1_history_goes_on_as_a_subject_of_nats_through_kills() {
    let scratch = Scratch::new("switch-nats");
    let (dir, boundary, count) = (scratch.path("in"), FROM + 40_001, 4_000);
    write(&dir, count, boundary, FROM);
    let [impressions, clicks] = behind(count, FROM + 15_000);
    let (_server, url) = filled_nats(&scratch, [("shop.impressions", impressions), ("shop.clicks", clicks)]);
    let live = |name: &str| format!("connector = 'nats', url = '{url}', subject = 'shop.{name}', bounded = true");
    check(&scratch, &dir, boundary, &live);
}

/// A stream that is pushed and never ends: what was pushed before the history's end is passed over, the rest is learned once,
/// through a kill in the midst of it.
#[test]
fn f1_history_goes_on_as_pushed_events_through_a_kill() {
    let scratch = Scratch::new("switch-push");
    let (dir, data, boundary, count) = (scratch.path("in"), scratch.path("data"), FROM + 20_001, 2_000);
    write(&dir, count, boundary, FROM);
    let whole = run_json(&program(&dir, None), &scratch.path("whole"), &[]);
    let live = |_: &str| "connector = 'http', idle_timeout = '1h'".to_string();
    let sql = scratch.write("p.sql", program_with(&dir, Some((&format!("AT TIMESTAMP {boundary}"), &live))));
    let start = || Serving::start(&["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
    let all = events(count);
    let push = |s: &Serving, from: i64, to: i64| {
        for (name, events) in NAMES.into_iter().zip(&all) {
            let lines = text(events, |ts| (from..to).contains(&ts));
            let (status, reply) = s.post(&format!("/v1/sources/{name}_live"), &lines);
            let reply: Value = serde_json::from_str(&reply).unwrap();
            assert_eq!((status, &reply["accepted"]), (200, &json!(lines.lines().count())), "{name}: {reply}");
        }
    };
    // Pushed while the history is read, and an overlap with it.
    let s = start();
    push(&s, FROM + 10_000, FROM + 25_000);
    let before =
        text(&all[0], |ts| ts < FROM + 25_000).lines().count() + text(&all[1], |ts| ts < FROM + 25_000).lines().count();
    let come = |s: &Serving, count: usize| {
        eventually("all that was pushed is learned", || (s.get_json("/v1/status")["events"] == count).then_some(()));
    };
    come(&s, before);
    push(&s, FROM + 25_000, FROM + 30_000);
    // Acknowledged, and perhaps not learned yet.
    send_signal(&s.child, "-KILL");
    drop(s);
    let s = start();
    push(&s, FROM + 30_000, i64::MAX);
    come(&s, whole["events"].as_u64().unwrap() as usize);
    let status = s.get_json("/v1/status");
    for what in ["duplicate", "late", "refused", "unmatched"] {
        assert_eq!(status["counters"][what], 0, "{what}: {status}");
    }
    let (code, summary) = s.end("-INT");
    assert_eq!(code, Some(0), "{summary}");
}
