//! Back-fill as one statement: history, then the stream behind it, without a gap or an overlap.
//!
//! History and a bounded stream together must be learned to the bit as one file that holds both. A stream that never ends
//! is cut by what arrives; there the same samples must come.

use std::{
    fs,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidemill_base::Rng;

use super::{
    kill::{asked, killed, outcome, seed},
    support::{Scratch, eventually, last_json, run, run_json, send_signal, tidemill},
};

pub const FROM: i64 = 1_700_000_000_000;

/// Impressions and clicks as JSON lines with their times, in the order of these.
pub fn events(count: i64) -> [Vec<(i64, String)>; 2] {
    let (mut impressions, mut clicks) = (Vec::new(), Vec::new());
    let mut rng = Rng::seeded(5);
    for n in 0..count {
        let (ts, item) = (FROM + n * 20, rng.below(50));
        let text = format!("{{\"imp_id\": {n}, \"ts\": {ts}, \"item\": \"i{item}\", \"user\": {}}}\n", rng.below(300));
        impressions.push((ts, text));
        if rng.below(50) < item {
            let ts = ts + 100 + rng.below(3) as i64 * 400;
            clicks.push((ts, format!("{{\"imp_id\": {n}, \"ts\": {ts}}}\n")));
        }
    }
    clicks.sort_by_key(|click| click.0);
    [impressions, clicks]
}

pub fn text(events: &[(i64, String)], keep: impl Fn(i64) -> bool) -> String {
    events.iter().filter(|(ts, _)| keep(*ts)).map(|(_, text)| text.as_str()).collect()
}

/// The two sources, as one file each, or as history and stream.
pub fn program(dir: &Path, switch: Option<(&str, &str)>) -> String {
    let file = |name: &str| {
        format!("connector = 'file', format = 'json', path = '{}'", dir.join(format!("{name}-live.jsonl")).display())
    };
    match switch {
        None => program_with(dir, None),
        Some((at, with)) => program_with(dir, Some((at, &|name| file(name) + with))),
    }
}

/// What is written behind WITH for a stream, by the name of its history.
type Live<'a> = &'a dyn Fn(&str) -> String;

/// The same, with streams of any kind: where they take over, and what they are.
pub fn program_with(dir: &Path, switch: Option<(&str, Live)>) -> String {
    let columns = ["imp_id BIGINT PRIMARY KEY, ts BIGINT, item STRING, user BIGINT", "imp_id BIGINT, ts BIGINT"];
    let mut sql = String::new();
    for (name, columns) in ["impressions", "clicks"].into_iter().zip(columns) {
        let columns = format!("({columns}, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '2' SECOND)");
        let file = |which: &str| {
            format!(
                "connector = 'file', format = 'json', path = '{}'",
                dir.join(format!("{name}-{which}.jsonl")).display()
            )
        };
        sql += &match switch {
            None => format!("CREATE SOURCE {name} {columns} WITH ({});\n", file("whole")),
            Some((at, live)) => format!(
                "CREATE SOURCE {name}_live {columns} WITH ({});
                 CREATE SOURCE {name} {columns} WITH ({}) SWITCH TO {name}_live {at};\n",
                live(name),
                file("history")
            ),
        };
    }
    sql + "CREATE STREAM samples AS SELECT i.*, (c.imp_id IS NOT NULL) AS clicked FROM impressions i LEFT JOIN clicks c
             ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' SECOND
             EMIT EARLY INTERVAL '0.3' SECOND CORRECT RETRACT;
           SELECT * FROM samples TO TRAIN FTRLClassifier WITH checkpoint.interval = '20ms'
             COLUMN item, user, CROSS([item, user]) LABEL clicked INTO ctr;"
}

/// Writes both sources whole, as history up to `end`, and as a stream from `begin` on.
pub fn write(dir: &Path, count: i64, end: i64, begin: i64) {
    fs::create_dir_all(dir).unwrap();
    for (name, events) in ["impressions", "clicks"].into_iter().zip(events(count)) {
        fs::write(dir.join(format!("{name}-whole.jsonl")), text(&events, |_| true)).unwrap();
        fs::write(dir.join(format!("{name}-history.jsonl")), text(&events, |ts| ts < end)).unwrap();
        fs::write(dir.join(format!("{name}-live.jsonl")), text(&events, |ts| ts >= begin)).unwrap();
    }
}

pub fn learned(summary: &Value) -> Value {
    let mut kept = outcome(summary);
    kept.as_object_mut().unwrap().remove("mini_batch");
    // A source with a history has the name of the stream behind it.
    for step in kept["steps"].as_array_mut().unwrap() {
        step["name"] = step["name"].as_str().unwrap_or_default().replace("_live", "").into();
    }
    kept
}

#[test]
fn history_and_the_stream_behind_it_are_learned_as_one_file() {
    let scratch = Scratch::new("switch");
    let dir = scratch.path("in");
    let boundary = FROM + 70_001;
    // The stream begins long before the history ends: where they overlap, events are taken once.
    write(&dir, 6_000, boundary, FROM + 30_000);
    let whole = learned(&run_json(&program(&dir, None), &scratch.path("whole"), &[]));
    let at = format!("AT TIMESTAMP {boundary}");
    for (name, at) in [("end", ""), ("time", at.as_str()), ("text", "AT TIMESTAMP '2023-11-14T22:14:30.001Z'")] {
        for threads in ["1", "2"] {
            let data = scratch.path(&format!("{name}-{threads}"));
            let got = learned(&run_json(&program(&dir, Some((at, ""))), &data, &["--threads", threads]));
            assert_eq!(got, whole, "{name}");
        }
    }
    // A history that goes on beyond the time of the switch: there the stream's events are taken.
    write(&dir, 6_000, boundary + 20_000, FROM + 30_000);
    assert_eq!(learned(&run_json(&program(&dir, Some((&at, ""))), &scratch.path("beyond"), &[])), whole);
}

#[test]
fn the_stream_can_begin_at_an_offset() {
    let scratch = Scratch::new("switch-offset");
    let dir = scratch.path("in");
    write(&dir, 4_000, FROM + 40_000, FROM);
    let whole = learned(&run_json(&program(&dir, None), &scratch.path("whole"), &[]));
    let lines = |name: &str| fs::read_to_string(dir.join(name)).unwrap().lines().count();
    let mut sql = program(&dir, Some(("AT OFFSET 0", "")));
    for name in ["impressions", "clicks"] {
        let offset = lines(&format!("{name}-history.jsonl"));
        sql = sql.replace(&format!("{name}_live AT OFFSET 0"), &format!("{name}_live AT OFFSET {offset}"));
    }
    assert_eq!(learned(&run_json(&sql, &scratch.path("switched"), &[])), whole);
}

/// Killed in front of the switch, at it and behind it, the run ends as if nothing had happened.
#[test]
fn f1_killed_around_the_switch_a_run_ends_as_if_nothing_had_happened() {
    let scratch = Scratch::new("switch-kill");
    let dir = scratch.path("in");
    write(&dir, 8_000, FROM + 80_000, FROM + 60_000);
    let sql = program(&dir, Some(("", "")));
    let started = Instant::now();
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &["--threads", "1"]));
    let undisturbed = started.elapsed();
    let (mut left, mut round, mut rng) = (asked(8), 0, Rng::seeded(seed()));
    while left > 0 {
        let now = left.min(1 + rng.below(4) as u32);
        let data = scratch.path(&format!("killed-{round}"));
        let (ended, landed) = killed(&sql, &data, now, seed() + round, undisturbed);
        assert_eq!(outcome(&ended), reference, "round {round}; repeat with TIDEMILL_SEED={}", seed());
        (left, round) = (left - landed, round + 1);
    }
}

/// A stream that never ends: what arrives behind the history is learned, through a kill, and not one event twice.
#[test]
fn a_stream_that_grows_goes_on_where_history_ended() {
    let scratch = Scratch::new("switch-live");
    let (dir, data) = (scratch.path("in"), scratch.path("data"));
    let (count, boundary) = (3_000, FROM + 30_000);
    write(&dir, count, boundary, FROM + 20_000);
    // The stream's files begin with the overlap and a little more, and grow.
    let all = events(count);
    for (name, events) in ["impressions", "clicks"].into_iter().zip(&all) {
        let begun = text(events, |ts| (FROM + 20_000..boundary + 5_000).contains(&ts));
        fs::write(dir.join(format!("{name}-live.jsonl")), begun).unwrap();
    }
    let out = scratch.path("out");
    let sink = format!(
        "CREATE SINK seen AS SELECT imp_id, label, sample_weight FROM ctr WITH (connector = 'file', path = '{}', roll.interval = '100ms');",
        out.display()
    );
    let sql = program(&dir, Some(("", ", follow = true, idle_timeout = '300ms'"))) + &sink;
    let start = || {
        let mut command = tidemill();
        command.args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"]).arg(&data);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut first = start();
    eventually("history is there and the switch is behind us", || {
        let text =
            fs::read_dir(&out).ok()?.flatten().filter_map(|e| fs::read_to_string(e.path()).ok()).collect::<String>();
        text.contains("\"imp_id\":1510").then_some(())
    });
    first.kill().unwrap();
    first.wait().unwrap();
    let second = start();
    for (name, events) in ["impressions", "clicks"].into_iter().zip(&all) {
        let mut file = fs::OpenOptions::new().append(true).open(dir.join(format!("{name}-live.jsonl"))).unwrap();
        file.write_all(text(events, |ts| ts >= boundary + 5_000).as_bytes()).unwrap();
    }
    let whole = run_json(&program(&dir, None), &scratch.path("whole"), &[]);
    eventually("all of it came", || {
        let text =
            fs::read_dir(&out).ok()?.flatten().filter_map(|e| fs::read_to_string(e.path()).ok()).collect::<String>();
        text.contains(&format!("\"imp_id\":{}", count - 200)).then_some(())
    });
    std::thread::park_timeout(Duration::from_millis(500));
    send_signal(&second, "-INT");
    let ended = second.wait_with_output().unwrap();
    let summary = last_json(&ended);
    assert_eq!(summary["events"], whole["events"], "{summary}");
    assert_eq!(summary["counters"]["duplicate"], 0, "the overlap was passed over, not recognised: {summary}");
    assert_eq!(summary["counters"]["late"], 0, "{summary}");
}

#[test]
fn what_cannot_be_switched_is_refused() {
    let scratch = Scratch::new("switch-refused");
    let dir = scratch.path("in");
    write(&dir, 200, FROM + 2_000, FROM + 1_000);
    let good = program(&dir, Some(("", "")));
    let refusals = [
        (
            good.replace("SWITCH TO clicks_live", "SWITCH TO click_live"),
            "source 'click_live' not found; did you mean 'clicks_live'?",
        ),
        (good.replace("SWITCH TO clicks_live", "SWITCH TO impressions"), "is a history itself"),
        (good.replace("SWITCH TO clicks_live", "SWITCH TO clicks_live AT NOON"), "expected TIMESTAMP or OFFSET"),
        (good.replace("SWITCH TO clicks_live", "SWITCH TO clicks_live AT TIMESTAMP 'noon'"), "'noon' is no time"),
        (good.replace("SWITCH TO clicks_live", "SWITCH TO impressions_live"), "differ in column"),
        (good.replace("clicks-history.jsonl'", "clicks-history.jsonl', follow = true"), "never ends"),
        (good.replacen("INTERVAL '2' SECOND", "INTERVAL '3' SECOND", 1), "differ in WATERMARK"),
    ];
    for (sql, words) in refusals {
        let out = run(&sql, &scratch.path("data"), &[]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains(words), "{words}: {said}");
    }
}
