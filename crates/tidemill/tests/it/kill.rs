//! F1, F43, F44: killed at any moment and started again, the program ends as if nothing had happened.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidemill_base::Rng;

use super::support::{Scratch, generated, generated_with_views, last_json, run_json, send_signal, tidemill};

/// What must be equal to the last digit.
pub fn outcome(summary: &Value) -> Value {
    let mut kept = summary.clone();
    for what in ["events_per_s", "peak_rss_bytes", "version", "table_bytes"] {
        kept.as_object_mut().unwrap().remove(what);
    }
    assert!(kept["state_hash"].as_str().is_some_and(|h| h.len() == 32), "{kept}");
    kept
}

/// Starts the program again and again in one data directory, killing it `kills` times at random moments, then lets it end.
pub fn killed(sql: &str, data: &Path, kills: u32, seed: u64, undisturbed: Duration) -> Value {
    let mut rng = Rng::seeded(seed);
    let mut landed = 0;
    while landed < kills {
        let mut child = tidemill()
            .args(["run", "--json", "--quiet", "--no-serve", "-e", sql, "--data-dir"])
            .arg(data)
            .args(["--threads", if rng.below(2) == 0 { "1" } else { "2" }])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let until = Duration::from_micros(rng.below(undisturbed.as_micros() as u64 / 2 + 20_000));
        std::thread::park_timeout(until);
        if child.try_wait().unwrap().is_some() {
            // It got to the end before the kill: what is left of the kills goes into a directory of its own.
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            return last_json(&out);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        landed += 1;
    }
    run_json(sql, data, &[])
}

/// Kills spread over as many directories as it takes; every one of them must end alike.
fn check(events: u64, kills: u32, seed: u64) {
    check_sql(&generated(events * 5 / 6, ", publish.every = 40000"), "kill", kills, seed);
}

fn check_sql(sql: &str, name: &str, kills: u32, seed: u64) {
    let scratch = Scratch::new(name);
    let started = Instant::now();
    let reference = outcome(&run_json(sql, &scratch.path("whole"), &["--threads", "1"]));
    let undisturbed = started.elapsed();
    let mut rng = Rng::seeded(seed);
    let mut left = kills;
    let mut round = 0;
    while left > 0 {
        let now = left.min(1 + rng.below(6) as u32);
        let data = scratch.path(&format!("killed-{round}"));
        let got = outcome(&killed(sql, &data, now, seed + round, undisturbed));
        assert_eq!(got, reference, "seed {seed}, round {round}; repeat with TIDEMILL_SEED={seed}");
        std::fs::remove_dir_all(data).unwrap();
        left -= now;
        round += 1;
    }
    println!("{kills} kills in {round} runs of {} events: state {}", reference["events"], reference["state_hash"]);
}

pub fn seed() -> u64 {
    std::env::var("TIDEMILL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7)
}

/// No sample lost or doubled, not one bit different.
#[test]
fn f1_killed_at_random_moments_a_run_ends_as_if_nothing_had_happened() {
    check(60_000, 12, seed());
}

/// What feature views have counted is part of the state: killed at any moment, an impression reads what it would have read.
#[test]
fn f1_killed_with_feature_views_a_run_ends_as_if_nothing_had_happened() {
    check_sql(&generated_with_views(30_000), "kill-views", 6, seed());
}

/// The long form: `cargo test --release -p tidemill --test it -- --ignored --nocapture two_hundred_kills`.
#[test]
#[ignore = "takes minutes; the short form runs always"]
fn f1_two_hundred_kills_of_runs_of_200_000_events() {
    check(200_000, 200, seed());
}

#[test]
fn one_thread_or_two_learn_the_same_bits() {
    let scratch = Scratch::new("threads");
    let sql = generated(30_000, "");
    let one = outcome(&run_json(&sql, &scratch.path("one"), &["--threads", "1"]));
    let two = outcome(&run_json(&sql, &scratch.path("two"), &["--threads", "2"]));
    assert_eq!(one, two);
}

#[test]
fn one_thread_or_two_read_the_same_feature_views() {
    let scratch = Scratch::new("threads-views");
    let sql = generated_with_views(20_000);
    let one = outcome(&run_json(&sql, &scratch.path("one"), &["--threads", "1"]));
    let two = outcome(&run_json(&sql, &scratch.path("two"), &["--threads", "2"]));
    assert_eq!(one, two);
    let without = outcome(&run_json(&generated(20_000, ""), &scratch.path("without"), &[]));
    assert_ne!(one["state_hash"], without["state_hash"], "the views' columns are learned");
}

/// F43: a stop saves; what is started again goes on from there.
#[test]
fn f43_stopped_by_a_signal_it_saves_and_goes_on_later() {
    let scratch = Scratch::new("stop");
    let sql = generated(120_000, "");
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    for signal in ["-INT", "-TERM"] {
        let data = scratch.path(&format!("stopped{signal}"));
        let child = tidemill()
            .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        super::support::eventually("the first checkpoint", || {
            let dir = data.join("models/ctr/job/checkpoints");
            std::fs::read_dir(dir).ok()?.flatten().next().map(|_| ())
        });
        send_signal(&child, signal);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        let stopped = last_json(&out);
        assert!(stopped["state"] == "stopped" || stopped["state"] == "finished", "{stopped}");
        assert_eq!(outcome(&run_json(&sql, &data, &[])), reference);
    }
}
