//! Rows that leave: every sample once, as it was predicted before it was learned, whatever happened to the process; and
//! nothing that is learned depends on them.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidemill_base::Rng;

use super::{
    kill::{asked, kill_once, killed, outcome, seed},
    support::{Scratch, generated, generated_with_views, run, run_json, with_disk_of},
};

/// The click stream with a sink into `dir`.
fn with_sink(rows: u64, select: &str, dir: &Path, with: &str) -> String {
    let sql = generated(rows, ", publish.every = 40000");
    format!("{sql}\nCREATE SINK scored {select} WITH (connector = 'file', path = '{}'{with});", dir.display())
}

const COLUMNS: &str = "AS SELECT imp_id, C1, I2 + 1 AS more, rt AS shown, prediction, label, clicked, sample_weight, \
                       sample_kind, event_time, mini_batch, mini_batch_row FROM ctr";

/// What the directory shows, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let seen = names.filter(|name| !name.starts_with('.'));
    seen.map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

fn rows(dir: &Path) -> Vec<Value> {
    let text: Vec<u8> = files(dir).into_values().flatten().collect();
    String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_sample_leaves_as_it_was_predicted_before_it_was_learned() {
    let scratch = Scratch::new("sink");
    let (dir, rows_in) = (scratch.path("out"), 20_000);
    let without = run_json(&generated(rows_in, ", publish.every = 40000"), &scratch.path("without"), &[]);
    let summary = run_json(&with_sink(rows_in, COLUMNS, &dir, ", roll.bytes = '256KiB'"), &scratch.path("data"), &[]);
    assert_eq!(summary["state_hash"], without["state_hash"], "a sink changes nothing that is learned");
    let rows = rows(&dir);
    assert_eq!(summary["sinks"][0]["rows"], rows.len(), "{summary}");
    assert!(files(&dir).len() > 3, "files roll by their bytes");

    // Numbers name rows, in the order in which they left.
    let places: Vec<(i64, i64)> =
        rows.iter().map(|r| (r["mini_batch"].as_i64().unwrap(), r["mini_batch_row"].as_i64().unwrap())).collect();
    assert!(places.windows(2).all(|w| w[0] < w[1]));
    // The signed weights of an impression add up to one, and those of its positive rows to its label.
    let mut weights: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    let (mut loss, mut first) = (0.0, 0);
    let mut last_label: BTreeMap<i64, f64> = BTreeMap::new();
    let mut predicted: BTreeMap<i64, f64> = BTreeMap::new();
    for row in &rows {
        let (id, weight, label) =
            (row["imp_id"].as_i64().unwrap(), row["sample_weight"].as_f64().unwrap(), row["label"].as_f64().unwrap());
        assert_eq!(row["clicked"], label == 1.0);
        assert!(row["event_time"] == row["shown"] && row["shown"].is_string(), "{row}");
        let entry = weights.entry(id).or_default();
        *entry = (entry.0 + weight, entry.1 + weight * label);
        predicted.entry(id).or_insert_with(|| row["prediction"].as_f64().unwrap());
        last_label.insert(id, label);
        first += usize::from(matches!(row["sample_kind"].as_str().unwrap(), "early" | "final"));
    }
    assert_eq!(weights.len() as u64, rows_in);
    assert_eq!(first as u64, rows_in);
    assert!(weights.iter().all(|(id, (all, positive))| *all == 1.0 && *positive == last_label[id]));
    // The first prediction of each impression is what progressive validation scored.
    for (id, p) in &predicted {
        let p = if last_label[id] == 1.0 { *p } else { 1.0 - *p };
        loss -= p.clamp(1e-7, 1.0 - 1e-7).ln();
    }
    let loss = loss / rows_in as f64;
    assert!((loss - summary["logloss"].as_f64().unwrap()).abs() < 1e-4, "{loss} {}", summary["logloss"]);
}

/// Runs it whole, then killed again and again: both directories must hold the same files with the same bytes.
fn check(format: &str, sql: impl Fn(&Path) -> String, kills: u32) {
    let scratch = Scratch::new("sink-kill");
    let started = Instant::now();
    let whole = scratch.path("whole-out");
    let reference = outcome(&run_json(&sql(&whole), &scratch.path("whole"), &["--threads", "1"]));
    let undisturbed = started.elapsed();
    let expected = files(&whole);
    assert!(expected.len() > 3 && expected.keys().all(|name| name.ends_with(format)), "{:?}", expected.keys());
    let (mut left, mut round, mut rng) = (kills, 0, Rng::seeded(seed()));
    while left > 0 {
        let now = left.min(1 + rng.below(4) as u32);
        let (data, out) = (scratch.path(&format!("killed-{round}")), scratch.path(&format!("out-{round}")));
        let (ended, landed) = killed(&sql(&out), &data, now, seed() + round, undisturbed);
        let got = outcome(&ended);
        assert_eq!(got["state_hash"], reference["state_hash"], "round {round}; repeat with TIDEMILL_SEED={}", seed());
        let there = files(&out);
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&there), names(&expected), "round {round}; repeat with TIDEMILL_SEED={}", seed());
        for (name, bytes) in &there {
            assert!(*bytes == expected[name], "{name}, round {round}; repeat with TIDEMILL_SEED={}", seed());
        }
        fs::remove_dir_all(data).unwrap();
        (left, round) = (left - landed, round + 1);
    }
}

#[test]
fn f1_killed_at_random_moments_json_files_are_those_of_an_undisturbed_run() {
    let sql = |dir: &Path| with_sink(30_000, COLUMNS, dir, ", roll.bytes = '300KiB', roll.interval = '0s'");
    check("jsonl", sql, asked(10));
}

#[test]
fn f1_killed_at_random_moments_csv_files_are_those_of_an_undisturbed_run() {
    let sql = |dir: &Path| {
        let select = format!("{COLUMNS} WHERE sample_kind <> 'retract' AND prediction > 0.05");
        with_sink(20_000, &select, dir, ", format = 'csv', roll.bytes = '40KiB', roll.interval = '0s'")
    };
    check("csv", sql, asked(5));
}

#[test]
fn f1_killed_at_random_moments_parquet_files_are_those_of_an_undisturbed_run() {
    let sql = |dir: &Path| {
        let with = ", format = 'parquet', roll.bytes = '600KiB', roll.interval = '0s'";
        let sink = format!("CREATE SINK scored FROM ctr WITH (connector = 'file', path = '{}'{with});", dir.display());
        format!("{}\n{sink}", generated_with_views(8_000))
    };
    check("parquet", sql, asked(5));
}

/// F2 of sinks: killed at every access to its directory: each file made, written, synced, renamed, swept away.
#[test]
fn f2_killed_at_every_access_of_a_sink_its_files_are_those_of_an_undisturbed_run() {
    let scratch = Scratch::new("sink-phases");
    for (format, accesses) in [("jsonl", asked(24)), ("parquet", asked(12))] {
        let with =
            format!(", format = '{}', roll.bytes = '120KiB', roll.interval = '0s'", format.replace("jsonl", "json"));
        // In the data directory, so that the failpoint stands before it.
        let sql = |data: &Path| with_sink(3_000, COLUMNS, &data.join("out"), &with).replace("'30ms'", "'5ms'");
        let whole = scratch.path(&format!("{format}-whole"));
        let reference = run_json(&sql(&whole), &whole, &["--threads", "1"]);
        let expected = files(&whole.join("out"));
        assert!(expected.len() > 2 && expected.keys().all(|name| name.ends_with(format)), "{:?}", expected.keys());
        let mut landed = 0;
        for n in 1..=accesses {
            let data = scratch.path(&format!("{format}-{n}"));
            let ended = kill_once(&sql(&data), &data, "2", Err(format!("/out:{n}")));
            landed += u32::from(ended.is_none());
            let got = ended.unwrap_or_else(|| run_json(&sql(&data), &data, &["--threads", "1"]));
            assert_eq!(got["state_hash"], reference["state_hash"], "access {n}");
            assert!(files(&data.join("out")) == expected, "{format}, access {n}");
            fs::remove_dir_all(data).unwrap();
        }
        println!("{landed} kills at accesses to a sink of {format}");
        assert!(landed >= 10, "{landed} kills landed");
    }
}

/// A sink that is declared when the job has long begun gets every row all the same, and nothing is learned otherwise.
#[test]
fn a_sink_added_later_gets_all_rows_from_the_beginning() {
    let scratch = Scratch::new("sink-later");
    let (sql, data) = (generated(20_000, ", publish.every = 40000"), scratch.path("data"));
    let before = run_json(&sql, &data, &[]);
    let (first, second) = (scratch.path("first"), scratch.path("second"));
    let with = with_sink(20_000, COLUMNS, &first, "");
    let after = run_json(&with, &data, &[]);
    assert_eq!((&after["state_hash"], &after["version"]), (&before["state_hash"], &before["version"]));
    assert!(after["warning"].as_str().unwrap().contains("derived again from the journal"), "{after}");
    let again = run_json(&with, &data, &[]);
    assert_eq!(again["sinks"][0]["rows"], 0, "what is there is not written again: {again}");
    // A second one; the first keeps what it has.
    let both =
        with.clone() + &format!("CREATE SINK other FROM ctr WITH (connector = 'file', path = '{}');", second.display());
    let third = run_json(&both, &data, &[]);
    assert_eq!(third["state_hash"], before["state_hash"]);
    assert_eq!(third["sinks"][0]["rows"], 0, "{third}");
    assert_eq!(rows(&first).len(), rows(&second).len());
    assert!(rows(&second)[0].as_object().unwrap().len() > 40, "all columns of the model's SELECT");
    // Without them the job goes on as it was.
    assert_eq!(run_json(&sql, &data, &[])["state_hash"], before["state_hash"]);
    let verified =
        super::support::tidemill().args(["models", "verify", "ctr@1", "--data-dir"]).arg(&data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// Complete files may be taken away by whoever reads them: they do not come again.
#[test]
fn files_that_were_taken_away_do_not_come_again() {
    let scratch = Scratch::new("sink-taken");
    let (dir, data) = (scratch.path("out"), scratch.path("data"));
    let sql = with_sink(10_000, COLUMNS, &dir, ", roll.bytes = '100KiB'");
    run_json(&sql, &data, &[]);
    let whole = files(&dir);
    whole.keys().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
    run_json(&sql, &data, &[]);
    assert!(files(&dir).is_empty());
    // The directory gone as a whole is a sink that has had nothing.
    fs::remove_dir_all(&dir).unwrap();
    run_json(&sql, &data, &[]);
    assert_eq!(files(&dir), whole);
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let scratch = Scratch::new("sink-refused");
    let (dir, data) = (scratch.path("out"), scratch.path("data"));
    let sql = with_sink(2_000, COLUMNS, &dir, "");
    run_json(&sql, &data, &[]);
    let refusals = [
        (sql.replace("INTO ctr", "INTO other").replace("FROM ctr", "FROM other"), vec![], "of model \\\"ctr\\\""),
        (sql.replace("imp_id, C1,", "C1,"), vec![], "in other columns"),
        (sql.replace(&dir.display().to_string(), "/dev/null"), vec![], "is no directory"),
        (sql.replace(&dir.display().to_string(), "/proc/nowhere/out"), vec![], "/proc/nowhere"),
        (sql.clone(), vec!["--from-scratch"], "an earlier lineage"),
    ];
    for (sql, more, words) in refusals {
        let out = run(&sql, &data, &more);
        let said = String::from_utf8_lossy(&out.stderr).replace('"', "\\\"");
        assert!(!out.status.success() && said.contains("sink scored") && said.contains(words), "{words}: {said}");
    }
    // What was refused has done no harm.
    let still = scratch.path("data-2");
    let dir = scratch.path("out-2");
    assert_eq!(run_json(&with_sink(2_000, COLUMNS, &dir, ""), &still, &[])["sinks"][0]["refused"], 0);
}

/// A row on which a sink's expression fails is missing there, and learned all the same.
#[test]
fn a_row_that_cannot_be_computed_is_left_out_and_counted() {
    let scratch = Scratch::new("sink-fails");
    let dir = scratch.path("out");
    let select = "AS SELECT imp_id, 100 / (imp_id % 10) AS share FROM ctr WHERE sample_weight > 0";
    let summary = run_json(&with_sink(3_000, select, &dir, ""), &scratch.path("data"), &[]);
    let without = run_json(&generated(3_000, ", publish.every = 40000"), &scratch.path("without"), &[]);
    assert_eq!(summary["state_hash"], without["state_hash"]);
    let sink = &summary["sinks"][0];
    assert!(sink["refused"].as_u64().unwrap() >= 300 && sink["rows"].as_u64().unwrap() >= 2_700, "{sink}");
    assert!(summary["warning"].as_str().unwrap().contains("is left out"), "{summary}");
    assert!(rows(&dir).iter().all(|row| row["imp_id"].as_i64().unwrap() % 10 != 0));
}

/// F6 of sinks: on a full disk the job waits and says so; with room again nothing is missing.
#[test]
fn f6_a_full_disk_is_waited_out_and_nothing_is_lost() {
    let scratch = Scratch::new("sink-full");
    let (dir, data) = (scratch.path("out"), scratch.path("data"));
    let sql =
        with_sink(20_000, COLUMNS, &dir, ", roll.bytes = '400KiB', roll.interval = '0s', buffer.bytes = '100KiB'");
    // No file grows beyond 200 KiB: the open one cannot be filled.
    let mut child = with_disk_of(200)
        .args([
            "run",
            "--json",
            "--quiet",
            "--no-serve",
            "-e",
            &sql.replace("checkpoint.interval = '30ms'", "checkpoint.interval = '1h'"),
            "--data-dir",
        ])
        .arg(&data)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::park_timeout(Duration::from_secs(3));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    assert!(files(&dir).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    run_json(&sql, &data, &[]);
    let whole = scratch.path("whole");
    run_json(&sql.replace(&dir.display().to_string(), &whole.display().to_string()), &scratch.path("data-2"), &[]);
    assert_eq!(files(&dir), files(&whole));
}
