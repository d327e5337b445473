//! Events without a time, and events from the far future: refused where they come in, counted, kept, and told to whoever
//! sent them; time does not move for the others.

use std::{fs, process::Stdio};

use serde_json::{Value, json};

use super::support::{Scratch, Serving, eventually, last_json, run_json, send_signal, tidemill};

const YEAR_2100_MS: i64 = 4_102_444_800_000;

fn pushed(event_time: &str) -> String {
    format!(
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, item STRING{event_time}) WITH (connector = 'http', idle_timeout = '1h');
         CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT{event_time}) WITH (connector = 'http', idle_timeout = '1h');
         SELECT i.*, (c.imp_id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
           ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' HOUR EMIT IMMEDIATE CORRECT RETRACT
         TO TRAIN FTRLClassifier COLUMN item LABEL label INTO ctr;"
    )
}

/// Replayed history keeps its time: neither an event without a time nor one from the far future moves the watermark.
#[test]
fn b42_a_pushed_event_without_a_time_or_far_ahead_is_refused_and_moves_nothing() {
    let scratch = Scratch::new("time");
    let sql = scratch.write("p.sql", pushed(", rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt"));
    let data = scratch.path("data");
    let s = Serving::start(&["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
    let body = [
        json!({"imp_id": 1, "ts": 1_000, "item": "a"}),
        json!({"imp_id": 2, "item": "a"}),
        json!({"imp_id": 3, "ts": null, "item": "a"}),
        json!({"imp_id": 4, "ts": YEAR_2100_MS, "item": "a"}),
        json!({"imp_id": 5, "ts": 2_000, "item": "a"}),
    ]
    .map(|e| e.to_string())
    .join("\n");
    let (status, reply) = s.post("/v1/sources/shown", &body);
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((status, &reply["accepted"]), (200, &json!(2)), "{reply}");
    let lines: Vec<_> = reply["refused"].as_array().unwrap().iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4], "{reply}");
    for (i, words) in [(0, "'rt' is missing"), (2, "time.ahead_max")] {
        assert!(reply["refused"][i]["reason"].as_str().unwrap().contains(words), "{reply}");
    }
    for click in [json!({"imp_id": 1, "ts": 1_500}), json!({"imp_id": 99, "ts": 2_500})] {
        assert_eq!(s.post("/v1/sources/clicked", &click.to_string()).0, 200);
    }
    let shown = eventually("all of it", || Some(s.get_json("/v1/status")).filter(|j| j["events"] == 4));
    assert_eq!(shown["watermark_ms"], 2_000, "{shown}");
    assert_eq!(shown["counters"]["refused"], 3, "{shown}");
    // The second impression has no label yet: it is not scored, and that is said.
    let awaiting =
        eventually("predictions wait", || s.get_json("/v1/status")["awaiting_score"].as_u64().filter(|n| *n > 0));
    assert_eq!(awaiting, 1);
    assert!(s.get("/metrics").1.contains("tidemill_predictions_awaiting_score{model=\"ctr\"} 1"));
    assert_eq!(s.end("-TERM").0, Some(0));
    let letters = fs::read_to_string(data.join("models/ctr/job/dead_letter.jsonl")).unwrap();
    assert_eq!(letters.lines().filter(|l| l.contains("pushed to shown")).count(), 3, "{letters}");
    assert!(letters.contains("imp_id\\\":4") || letters.contains("4102444800000"), "{letters}");
}

/// Over a file that is followed the clock decides, once: what it refused is refused again by a restart and by verify.
/// History that has all come already may have any gap.
#[test]
fn b42_a_row_far_ahead_in_a_followed_file_is_refused_and_a_gap_in_history_is_not() {
    let scratch = Scratch::new("ahead");
    let row = |i: i64, ts: i64| format!("{i},{ts},c{},{}\n", i % 5, i % 2);
    let mut text = String::from("id,ts,colour,label\n");
    for i in 0..3_000 {
        text += &row(i, if i == 1_500 { YEAR_2100_MS } else { 1_000 + i });
    }
    let path = scratch.write("rows.csv", text);
    let sql = |more: &str| {
        format!(
            "CREATE SOURCE t (id BIGINT, ts BIGINT, colour STRING, label INT, rt AS TO_TIMESTAMP_MS(ts),
               WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) WITH (connector = 'file', path = '{}'{more});
             SELECT * FROM t TO TRAIN FTRLClassifier WITH checkpoint.interval = '1h' COLUMN colour LABEL label INTO m;",
            path.display()
        )
    };
    let bounded = run_json(&sql(""), &scratch.path("bounded"), &[]);
    assert_eq!((bounded["samples"].as_u64(), bounded["counters"]["refused"].as_u64()), (Some(3_000), Some(0)));
    let any = run_json(&sql(", time.ahead_max = '0s'"), &scratch.path("any"), &[]);
    assert_eq!(any["state_hash"], bounded["state_hash"]);

    let data = scratch.path("follow");
    let follow = |signal: &str| {
        let child = tidemill()
            .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql(", follow = true"), "--data-dir"])
            .arg(&data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(400));
        send_signal(&child, signal);
        child.wait_with_output().unwrap()
    };
    // No checkpoint is written before the kill: all of it is replayed from the journal.
    follow("-KILL");
    for _ in 0..2 {
        let out = last_json(&follow("-TERM"));
        assert_eq!((out["samples"].as_u64(), out["counters"]["refused"].as_u64()), (Some(2_999), Some(1)), "{out}");
        let letters = fs::read_to_string(data.join("models/m/job/dead_letter.jsonl")).unwrap();
        assert!(letters.lines().count() == 1 && letters.contains("4102444800000"), "{letters}");
    }
    let verified = tidemill().args(["models", "verify", "m@1", "--data-dir"]).arg(&data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
