//! The benchmarks in their short form: they must run, and what they count must be right. How fast is no test's business.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;

use super::support::tidemill;

fn bench(args: &[&str]) -> Vec<Value> {
    let out = tidemill().arg("bench").args(args).args(["--rounds", "1", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(lines: &[Value], bench: &str) {
    assert!(!lines.is_empty());
    for line in lines {
        let is_text = |name: &str| line[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(line["bench"] == bench && is_text("case") && is_text("unit"), "{line}");
        // Of a short run not one request may have been slow.
        let least = if line["unit"] == "%" { 0.0 } else { f64::MIN_POSITIVE };
        assert!(line["value"].as_f64().is_some_and(|value| value >= least), "{line}");
    }
}

/// The command itself refuses to tell a speed when the samples are not those that are right.
#[test]
fn the_join_gives_every_sample_once_and_tells_its_speed() {
    let lines = bench(&["join", "--rows", "3000"]);
    check(&lines, "join");
    let cases = lines.iter().filter(|line| line["unit"] == "events/s").count();
    let expected = "two files on one core and on two, an hour that waits in memory and in spill files, each with checkpoints too, and one as they arrived";
    assert_eq!(cases, 8, "{expected}");
}

#[test]
fn learning_tells_speed_and_accuracy_together() {
    let lines = bench(&["train", "--rows", "2000", "--only", "lr from"]);
    check(&lines, "train");
    assert!(lines.iter().any(|line| line["unit"] == "test log loss"));
    assert!(lines.iter().any(|line| line["ceiling"].as_f64().is_some_and(|ceiling| ceiling > 0.0)));
}

/// Counts through SQL and in memory are those of a plain count, or the command says so instead of a speed.
#[test]
fn windows_are_counted_right_and_tell_their_speed() {
    let lines = bench(&["window", "--rows", "20000"]);
    check(&lines, "window");
    let (speeds, stops): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["unit"] != "longest stop, ms");
    assert_eq!(speeds.len(), 5, "in memory, with checkpoints, from CSV, and looked up one by one and together");
    assert!(
        speeds.iter().all(|line| line["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0)),
        "each beside its ceiling"
    );
    assert_eq!(stops.len(), 1, "of the case with checkpoints");
}

#[test]
fn events_come_in_and_tell_their_speed() {
    let lines = bench(&["ingest", "--rows", "3000"]);
    check(&lines, "ingest");
    let kafka = if cfg!(feature = "kafka") { 2 } else { 0 };
    assert_eq!(lines.len(), 2 + kafka, "JSON lines into columns and samples, and Kafka by the clock and a core");
    assert!(
        lines.iter().all(|line| line["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0)),
        "each beside its ceiling"
    );
}

#[test]
fn a_case_that_is_not_there_is_named() {
    let out = tidemill().args(["bench", "join", "--rows", "1000", "--only", "flink"]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("cases are csv, two files;"));
}

fn named<'a>(lines: &'a [Value], name: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["case"].as_str().is_some_and(|case| case.starts_with(name))).collect()
}

/// Every case answers, and the model learns while it is asked.
#[test]
fn serving_tells_its_speed_beside_bare_hyper() {
    // So few impressions that a build without optimisations keeps up with them beside all other tests.
    let lines = bench(&["serve", "--seconds", "0.1", "--impressions", "1000"]);
    check(&lines, "serve");
    let with_ceiling = |unit: &str| {
        let of_unit = lines.iter().filter(|line| line["unit"] == unit);
        of_unit.filter(|line| line["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0)).count()
    };
    assert_eq!(with_ceiling("requests/s"), 2, "inference and prediction beside hyper");
    assert_eq!(with_ceiling("us"), 4, "times while learning beside those at rest, from a file and from pushes");
    assert_eq!(with_ceiling("samples/s"), 1, "look-ups beside those that need no search");
    assert!(lines.iter().any(|line| line["unit"] == "deltas/s"));
    for (name, cases) in [
        ("infer at half load, beyond", 1),
        ("infer at half load while learning, beyond", 1),
        ("infer at half load while pushes are learned, beyond", 1),
        ("rank 1,000 candidates", 2),
        ("click to changed prediction", 3),
        ("first reply of a process, model of 100 MB", 2),
        ("score a CSV file", 2),
        ("ranking expression", 1),
        ("mlp 400-400", 2),
    ] {
        assert_eq!(named(&lines, name).len(), cases, "{name}");
    }
    assert!(named(&lines, "infer at half load, p99")[0]["rounds"].as_u64() >= Some(2), "a figure for each slice");
    assert!(named(&lines, "first reply of a process, model of 4 GiB").is_empty(), "gigabytes by name only");
    let log_loss = lines.iter().find(|line| line["unit"] == "log loss").unwrap()["value"].as_f64().unwrap();
    assert!((0.3..0.8).contains(&log_loss), "what was written are predictions: {log_loss}");
}

/// One generator asks ours and others.
#[test]
fn another_server_is_asked_the_same() {
    let mut server = tidemill();
    server.args(["bench", "bare-server"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let url = format!("{}v2/models/bench/infer", said.trim().rsplit_once(' ').unwrap().1);
    let lines = bench(&["serve", "--seconds", "0.1", "--against", &url]);
    check(&lines, "serve");
    assert_eq!(lines.iter().map(|line| line["unit"].as_str().unwrap()).collect::<Vec<_>>(), ["requests/s", "us", "us"]);
    drop(server.stdin.take());
    server.wait().unwrap();
    let wrong = tidemill().args(["bench", "serve", "--against", "localhost"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
