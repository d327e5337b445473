//! Faults and bad rows by their number in the list of what must happen (F18: events that come twice; B33: a key twice in a
//! row; ...), each as a person meets it: input, what is said, and that what is good is learned all the same.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tidemill_base::Rng;

use super::{
    kill::outcome,
    support::{Scratch, Serving, eventually, generated, last_json, run, run_json, send_signal, tidemill},
};

/// What stands in the dead letter of model `m`.
fn letters(data: &Path) -> Vec<Value> {
    let text = fs::read_to_string(data.join("models/m/job/dead_letter.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reasons in the dead letter, in their order, each with the place it names.
fn reasons(data: &Path) -> Vec<String> {
    letters(data).iter().map(|letter| letter["reason"].as_str().unwrap().to_string()).collect()
}

fn table(path: &Path, columns: &str, learned: &str) -> String {
    format!(
        "CREATE SOURCE t ({columns}) WITH (connector = 'file', path = '{}');
         SELECT * FROM t TO TRAIN FTRLClassifier {learned} LABEL label INTO m;",
        path.display()
    )
}

/// B23, B26 to B36, B38, B42: every row that cannot be used costs itself alone and is kept with its reason; numbers in the
/// reasons count rows from 1 and bytes within the row from 0.
#[test]
fn b23_b26_to_b36_b38_b42_a_bad_row_is_kept_with_its_reason_and_costs_itself_alone() {
    let scratch = Scratch::new("rows");
    let row = |more: &str| format!("{{\"id\": 1, \"ts\": 1000, \"colour\": \"red\", {more}}}");
    let good = row("\"x\": 0.5, \"big\": 1, \"w\": 1, \"label\": 1");
    let with = |old: &str, new: &str| good.replace(old, new);
    let long = |n: usize| with("\"red\"", &format!("\"{}\"", "c".repeat(n)));
    // A row, and what is said of it; "" for one that is good.
    let cases: Vec<(&str, String, &str)> = vec![
        ("B23", with("\"big\": 1", "\"big\": 9223372036854775807"), "column 'twice': integer overflow in 'big * 2'"),
        ("B26", with("0.5", "\"NaN\""), "row 3: column 'x': expected number, found string"),
        ("B27", with("\"label\": 1", "\"label\": 2"), "label must be 0 or 1, got 2"),
        ("B28", with("\"label\": 1", "\"label\": null"), "label is missing"),
        ("B29", with("\"w\": 1", "\"w\": -1"), "weight must be a number from 0, got -1"),
        ("B30", with(", \"w\": 1", ", \"w\": 1, \"more\": {\"a\": [1, {\"b\": 2}]}"), ""),
        ("B31", with("0.5", "\"twelve\""), "row 8: column 'x': expected number, found string"),
        ("B32", with("0.5", "1e400"), "row 9: number out of range at byte 49"),
        (
            "B32",
            with("\"big\": 1", "\"big\": 99999999999999999999"),
            "row 10: column 'big': 1e20 is out of range of BIGINT",
        ),
        ("B33", with("\"id\": 1", "\"id\": 1, \"id\": 2"), "row 11: duplicate key 'id'"),
        (
            "B34",
            with(", \"w\": 1", &format!(", \"w\": 1, \"deep\": {}{}", "[".repeat(10_000), "]".repeat(10_000))),
            "row 12: deeper than 32 levels",
        ),
        ("B35", good[..good.len() - 1].to_string(), "row 13: unexpected end at byte "),
        ("B35", format!("{good} extra"), "row 14: trailing data at byte "),
        ("B36", with("red", "\\ud800"), "row 15: unexpected end of hex escape at byte "),
        ("B36", good.clone() + "\r", ""),
        ("B38", long(1_100_000), "row 17: longer than 1,048,576 bytes"),
        ("B42", with("\"ts\": 1000", "\"ts\": -5"), "event time 'rt' = -5 is before 1970"),
        ("B42", with("\"ts\": 1000", "\"ts\": 1700000000000000"), "is it in microseconds? milliseconds are expected"),
        ("B42", with("\"ts\": 1000, ", ""), "event time 'rt' is missing"),
    ];
    let mut text = format!("{good}\n");
    cases.iter().for_each(|(_, row, _)| text += &format!("{row}\n"));
    // B36: a mark at the beginning of the file, and no newline at its end.
    let path = scratch.write("rows.json", format!("\u{feff}{text}{good}"));
    let columns = "id BIGINT, ts BIGINT, colour STRING, x DOUBLE, big BIGINT, w DOUBLE, label INT, \
                   rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt";
    let learned = "WITH train.weight = 'w' COLUMN colour, x, twice";
    let sql = table(&path, columns, learned).replace("SELECT *", "SELECT *, big * 2 AS twice");
    let data = scratch.path("data");
    let out = run_json(&sql, &data, &[]);
    let said = reasons(&data);
    let good = 2 + cases.iter().filter(|(_, _, why)| why.is_empty()).count();
    let bad = cases.len() + 2 - good;
    for (id, _, why) in cases.iter().filter(|(_, _, why)| !why.is_empty()) {
        assert!(said.iter().any(|reason| reason.contains(why)), "{id}: '{why}' in {said:#?}");
    }
    assert_eq!((out["samples"].as_u64(), said.len()), (Some(good as u64), bad), "{said:#?}");
    assert_eq!(out["counters"]["refused"], json!(bad));
    assert!(letters(&data).iter().all(|letter| letter.to_string().len() < 2_000), "an excerpt is an excerpt");
}

/// B36, B37: what is legal in CSV is read; a quote that is never closed and bytes that are no text are named.
#[test]
fn b36_b37_a_quote_never_closed_and_what_is_not_utf8_are_named() {
    let scratch = Scratch::new("csv");
    let cases: [(&[u8], u64, &[&str]); 2] = [
        (b"id,colour,label\n1,red,1\n2,\"blue,0\n3,green,1\n", 2, &["row 2: quote opened at byte 26 never closed"]),
        (
            b"\xef\xbb\xbfid,colour,label\r\n1,red,1\r\n2,b\x00lue,0\r\n3,\xff\xfe,1\r\n",
            2,
            &["row 3: byte 3 of the row is not UTF-8"],
        ),
    ];
    for (i, (bytes, samples, expected)) in cases.into_iter().enumerate() {
        let path = scratch.write(&format!("{i}.csv"), bytes);
        let data = scratch.path(&format!("data-{i}"));
        let out = run_json(&table(&path, "id BIGINT, colour STRING, label INT", "COLUMN colour"), &data, &[]);
        assert_eq!(
            (out["samples"].as_u64(), reasons(&data)),
            (Some(samples), expected.iter().map(|s| s.to_string()).collect())
        );
    }
}

/// B38: a row of a GiB costs itself and no memory.
#[test]
fn b38_a_row_of_a_gib_costs_itself_and_no_memory() {
    let scratch = Scratch::new("gib");
    let path = scratch.write("rows.csv", "id,colour,label\n1,red,1\n");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // A hole: it takes no room on the disk, and reads as zeros.
    file.set_len(1 << 30).unwrap();
    drop(file);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"\n2,blue,0\n").unwrap();
    let data = scratch.path("data");
    let out = run_json(&table(&path, "id BIGINT, colour STRING, label INT", "COLUMN colour"), &data, &[]);
    assert_eq!(out["samples"], 2, "{out}");
    assert_eq!(reasons(&data), ["row 2: longer than 1,048,576 bytes"]);
    let peak = out["peak_rss_bytes"].as_u64().unwrap();
    assert!(peak < 400 << 20, "{peak} bytes");
}

/// B31 and a schema that changes in mid-stream: columns are found by their names in each file; one that is gone ends the start
/// and is named.
#[test]
fn b31_a_schema_that_changes_from_file_to_file_is_read_by_name_or_refused() {
    let scratch = Scratch::new("schema");
    scratch.write("a.csv", "id,colour,label\n1,red,1\n2,red,0\n");
    scratch.write("b.csv", "label,more,colour,id\n1,x,blue,3\nzero,x,blue,4\n");
    let sql = table(&scratch.path("*.csv"), "id BIGINT, colour STRING, label INT", "COLUMN colour");
    let data = scratch.path("data");
    assert_eq!(run_json(&sql, &data, &[])["samples"], 3);
    assert_eq!(reasons(&data), ["row 2: column 'label': 'zero' is not a INT"]);
    let c = scratch.write("c.csv", "id,colour\n5,red\n");
    let out = run(&sql, &scratch.path("other"), &[]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{text}");
    assert!(text.contains(&format!("{}: the header has no column 'label'", c.display())), "{text}");
}

/// A stream of impressions and clicks as files, made worse as the caller says.
struct Streams {
    scratch: Scratch,
}

/// Event time of the first impression.
const BEGIN_MS: i64 = 1_700_000_000_000;
const IMPRESSIONS: i64 = 2_000;

/// When, and the line.
type Event = (i64, String);

impl Streams {
    fn new(name: &str) -> Self {
        Self { scratch: Scratch::new(name) }
    }

    /// Impressions (time, row) and clicks; a third is clicked, within 400 ms.
    fn events() -> (Vec<Event>, Vec<Event>) {
        let mut rng = Rng::seeded(3);
        let (mut shown, mut clicked) = (Vec::new(), Vec::new());
        for id in 0..IMPRESSIONS {
            let ts = BEGIN_MS + id * 10;
            let row = json!({"id": id, "ts": ts, "item": format!("i{}", rng.below(20))});
            shown.push((ts, row.to_string()));
            if rng.below(3) == 0 {
                let at = ts + rng.below(400) as i64;
                clicked.push((at, json!({"id": id, "ts": at}).to_string()));
            }
        }
        clicked.sort();
        (shown, clicked)
    }

    fn file(&self, name: &str, rows: &[(i64, String)]) -> PathBuf {
        let text: String = rows.iter().map(|(_, row)| format!("{row}\n")).collect();
        self.scratch.write(name, text)
    }

    fn learn(&self, name: &str, shown: &[(i64, String)], clicked: &[(i64, String)], more: &str) -> Value {
        let source = |what: &str, columns: &str, path: PathBuf| {
            format!(
                "CREATE SOURCE {what} ({columns}, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts),
                   WATERMARK FOR rt AS rt - INTERVAL '0.1' SECOND) WITH (connector = 'file', path = '{}');",
                path.display()
            )
        };
        let sql = format!(
            "{}{}SELECT i.*, (c.id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
               ON i.id = c.id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '0.5' SECOND EMIT ON WINDOW CLOSE
             TO TRAIN FTRLClassifier WITH train.batch_size = 1 {more} COLUMN item LABEL label INTO m;",
            source("shown", "id BIGINT PRIMARY KEY, item STRING", self.file(&format!("{name}-shown.json"), shown)),
            source("clicked", "id BIGINT", self.file(&format!("{name}-clicked.json"), clicked)),
        );
        run_json(&sql, &self.scratch.path(name), &[])
    }
}

fn counter(out: &Value, name: &str) -> u64 {
    out["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {out}"))
}

/// F18, F19: an event that comes again is counted and not learned, whatever the second copy says: the first one wins.
#[test]
fn f18_f19_half_of_all_events_twice_with_other_contents_change_no_count() {
    let streams = Streams::new("twice");
    let (shown, clicked) = Streams::events();
    let once = streams.learn("once", &shown, &clicked, "");
    let mut twice = Vec::new();
    for (i, (ts, row)) in shown.iter().enumerate() {
        twice.push((*ts, row.clone()));
        if i % 2 == 0 {
            twice.push((*ts, row.replace("\"item\":\"i", "\"item\":\"other-")));
        }
    }
    let out = streams.learn("twice", &twice, &clicked, "");
    assert_eq!(counter(&out, "duplicate"), IMPRESSIONS as u64 / 2);
    for what in ["samples", "positives", "entries"] {
        assert_eq!(out[what], once[what], "{what}");
    }
}

/// F20: events out of their order, but within the bound, are joined as in their order: not one is late.
#[test]
fn f20_events_out_of_order_within_the_bound_are_joined_as_in_order() {
    let streams = Streams::new("shuffled");
    let (mut shown, mut clicked) = Streams::events();
    let ordered = streams.learn("ordered", &shown, &clicked, "");
    let mut rng = Rng::seeded(5);
    for events in [&mut shown, &mut clicked] {
        events.sort_by_cached_key(|(ts, _)| ts + rng.below(90) as i64);
    }
    let out = streams.learn("shuffled", &shown, &clicked, "");
    assert_eq!((counter(&out, "late"), counter(&out, "late_feedback")), (0, 0));
    for what in ["samples", "positives", "entries"] {
        assert_eq!(out[what], ordered[what], "{what}");
    }
}

/// F21, F22: every event is accounted for: learned, late, doubled, refused or without a partner, and none twice.
#[test]
fn f21_f22_every_event_is_learned_or_counted_with_its_reason() {
    let streams = Streams::new("accounts");
    let (mut shown, mut clicked) = Streams::events();
    let mut rng = Rng::seeded(7);
    // Far out of order, so that some are late; clicks behind their window; clicks of nothing.
    for events in [&mut shown, &mut clicked] {
        events.sort_by_cached_key(|(ts, _)| ts + if rng.below(10) == 0 { 900 } else { 0 });
    }
    for id in 0..50 {
        let at = BEGIN_MS + id * 300;
        clicked.push((at, json!({"id": 1_000_000 + id, "ts": at}).to_string()));
        let at = BEGIN_MS + id * 10 + 501;
        clicked.push((at, json!({"id": id, "ts": at}).to_string()));
    }
    clicked.sort_by_key(|(ts, _)| *ts);
    let out = streams.learn("data", &shown, &clicked, "");
    let late = counter(&out, "late");
    assert!(late > 0, "some impressions are late: {out}");
    assert_eq!(out["samples"].as_u64().unwrap() + late, IMPRESSIONS as u64, "{out}");
    assert_eq!(out["events"].as_u64().unwrap(), (shown.len() + clicked.len()) as u64);
    assert!(counter(&out, "unmatched") >= 50, "{out}");
}

/// A key with nine tenths of all events, in its view too: learned as by one thread, in time.
#[test]
fn a_key_with_ninety_percent_of_all_events_is_learned_alike_by_two_threads() {
    let streams = Streams::new("hot");
    let (mut shown, clicked) = Streams::events();
    for (i, (_, row)) in shown.iter_mut().enumerate() {
        if i % 10 != 0 {
            let end = row.find("\"item\"").unwrap();
            *row = format!("{}\"item\":\"hot\"}}", &row[..end]);
        }
    }
    let out = streams.learn("hot", &shown, &clicked, "");
    assert_eq!(out["samples"], IMPRESSIONS);
    let again = streams.learn("again", &shown, &clicked, ", publish.every = 500");
    assert_eq!(again["state_hash"], out["state_hash"]);
}

/// F16: where nothing can be written the start says what it tried and where.
#[test]
fn f16_a_place_that_cannot_be_written_is_refused_at_the_start() {
    for place in ["/proc/nowhere/data", "/sys/tidemill"] {
        let out = run(&generated(100, ""), Path::new(place), &[]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(matches!(out.status.code(), Some(3 | 5)), "{text}");
        assert!(text.contains(&format!("create data directory {place}: ")), "{text}");
    }
}

fn in_bash(script: &str, sql: &str, data: &Path) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_tidemill"), "run", "-e", sql, "--data-dir"]).arg(data);
    command
}

/// F17: with 40 files at most and callers that take them all, the job learns on, saves, and ends well.
#[test]
fn f17_out_of_files_it_learns_on_and_saves() {
    let scratch = Scratch::new("files");
    let data = scratch.path("data");
    let sql = scratch.write(
        "p.sql",
        "
        CREATE SOURCE t (id BIGINT, colour STRING, label INT) WITH (connector = 'http');
        SELECT * FROM t TO TRAIN FTRLClassifier WITH checkpoint.interval = '50ms' COLUMN colour LABEL label INTO m;",
    );
    let script = "ulimit -n 40; exec \"$0\" \"$@\"";
    let mut command = Command::new("bash");
    let args = ["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    command.args(["-c", script, env!("CARGO_BIN_EXE_tidemill")]).args(args);
    let serving = Serving::spawn(&mut command);
    let push = || serving.post("/v1/sources/t", &json!({"id": 1, "colour": "red", "label": 1}).to_string()).0;
    assert_eq!(push(), 200);
    let held: Vec<_> = (0..60).filter_map(|_| std::net::TcpStream::connect(&serving.address).ok()).collect();
    assert!(held.len() >= 40, "{} connections", held.len());
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    drop(held);
    eventually("it answers again", || (push() == 200).then_some(()));
    eventually("both are learned", || Some(serving.get_json("/v1/status")).filter(|s| s["samples"] == 2));
    let (code, _) = serving.end("-TERM");
    assert_eq!(code, Some(0));
    assert!(fs::read_dir(data.join("models/m/job/checkpoints")).unwrap().count() > 0);
}

/// F33: stopped and continued, a process goes on where it was.
#[test]
fn f33_stopped_and_continued_it_goes_on_where_it_was() {
    let scratch = Scratch::new("sigstop");
    let sql = generated(60_000, "");
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    let mut command = tidemill();
    command.args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"]).arg(scratch.path("data"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..3 {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        send_signal(&child, "-STOP");
        std::thread::park_timeout(std::time::Duration::from_millis(400));
        send_signal(&child, "-CONT");
    }
    let out = child.wait_with_output().unwrap();
    assert_eq!(outcome(&last_json(&out)), reference);
}

/// F44: a second signal ends it at once, which is as safe as a crash.
#[test]
fn f44_a_second_signal_ends_it_at_once_and_costs_nothing() {
    let scratch = Scratch::new("twice-term");
    let sql = generated(60_000, "");
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    let data = scratch.path("data");
    for pause_ms in [0, 2, 20] {
        let mut command = tidemill();
        command.args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"]).arg(&data);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("it has begun", || data.join("models/ctr/job/journal.log").exists().then_some(()));
        for _ in 0..2 {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).stderr(Stdio::null()).status();
            std::thread::park_timeout(std::time::Duration::from_millis(pause_ms));
        }
        let out = child.wait_with_output().unwrap();
        // Before it listens for signals they end it as any other program.
        assert!(matches!(out.status.code(), Some(0 | 130) | None), "{:?}", out.status);
    }
    assert_eq!(outcome(&run_json(&sql, &data, &[])), reference);
}

/// F45: where nobody takes what it says, the program learns all the same.
#[test]
fn f45_a_full_or_closed_terminal_does_not_stop_the_learning() {
    let scratch = Scratch::new("terminal");
    let sql = generated(5_000, "");
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    for (i, script) in [
        "\"$0\" \"$@\" --no-serve 2>/dev/full",
        "\"$0\" \"$@\" --no-serve 2>&- >&-",
        "\"$0\" \"$@\" --no-serve 2>&1 | true",
    ]
    .iter()
    .enumerate()
    {
        let data = scratch.path(&format!("{i}"));
        let out: Output = in_bash(script, &sql, &data).stdin(Stdio::null()).output().unwrap();
        assert!(i == 2 || out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(outcome(&run_json(&sql, &data, &[])), reference, "{script}");
    }
}
