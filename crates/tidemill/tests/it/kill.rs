//! F1 to F6, F43, F44: killed at any moment and started again, the program ends as if nothing had happened.
//!
//! Some kills come at a random moment, from outside; some when the program comes to a chosen access to its disk
//! (`failpoint.rs`), so that every phase of a checkpoint, of a publication and of a start is met.

use std::{
    os::unix::process::ExitStatusExt,
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

/// Parts of the data directory whose accesses are places to be killed at.
const PLACES: [&str; 4] = ["checkpoints", "versions", "journal.log", "job"];

/// Starts the program in this directory and kills it: at a moment, or at an access to its disk. `Some`: it came to its end.
pub fn kill_once(sql: &str, data: &Path, threads: &str, at: Result<Duration, String>) -> Option<Value> {
    let mut command = tidemill();
    command.args(["run", "--json", "--quiet", "--no-serve", "-e", sql, "--data-dir"]).arg(data);
    if let Err(failpoint) = &at {
        command.env("TIDEMILL_FAILPOINT", failpoint);
    }
    let command = command.args(["--threads", threads]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if let Ok(moment) = &at {
        std::thread::park_timeout(*moment);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
    }
    let out = child.wait_with_output().unwrap();
    match out.status.signal() {
        Some(6 | 9) => None,
        _ => {
            assert!(out.status.success(), "{at:?}: {}", String::from_utf8_lossy(&out.stderr));
            Some(last_json(&out))
        }
    }
}

/// Starts the program again and again in one data directory, killing it `kills` times, then lets it end; with how it ended
/// come the kills that landed.
pub fn killed(sql: &str, data: &Path, kills: u32, seed: u64, undisturbed: Duration) -> (Value, u32) {
    let mut rng = Rng::seeded(seed);
    for landed in 0..kills {
        let threads = ["1", "2"][rng.below(2) as usize];
        let at = match rng.below(2) {
            0 => Ok(Duration::from_micros(rng.below(undisturbed.as_micros() as u64 / 2 + 20_000))),
            _ => Err(format!("{}:{}", PLACES[rng.below(4) as usize], 1 + rng.below(40))),
        };
        if let Some(ended) = kill_once(sql, data, threads, at) {
            // It got to the end before the kill: what is left of the kills goes into a directory of its own.
            return (ended, landed);
        }
    }
    (run_json(sql, data, &[]), kills)
}

/// Kills asked for in the environment: `TIDEMILL_KILLS=1000`.
pub fn asked(short: u32) -> u32 {
    let asked = std::env::var("TIDEMILL_KILLS").ok();
    asked.map_or(short, |text| text.parse().unwrap_or_else(|e| panic!("TIDEMILL_KILLS: '{text}': {e}")))
}

/// Kills as often as asked, in as many directories as it takes; every one of them must end alike.
pub fn kill_and_compare(sql: &str, scratch: &Scratch, kills: u32, seed: u64) -> Value {
    let started = Instant::now();
    let reference = outcome(&run_json(sql, &scratch.path("whole"), &["--threads", "1"]));
    let undisturbed = started.elapsed();
    let (mut left, mut round, mut rng) = (kills, 0, Rng::seeded(seed));
    while left > 0 {
        let data = scratch.path(&format!("killed-{round}"));
        let (got, landed) = killed(sql, &data, left.min(1 + rng.below(6) as u32), seed + round, undisturbed);
        assert_eq!(outcome(&got), reference, "round {round}; repeat with TIDEMILL_SEED={seed}");
        let _ = std::fs::remove_dir_all(data);
        (left, round) = (left - landed, round + 1);
    }
    println!("{kills} kills in {round} runs of {} events: state {}", reference["events"], reference["state_hash"]);
    reference
}

fn check(sql: &str, name: &str, kills: u32) {
    kill_and_compare(sql, &Scratch::new(name), kills, seed());
}

pub fn seed() -> u64 {
    std::env::var("TIDEMILL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7)
}

/// No sample lost or doubled, not one bit different.
#[test]
fn f1_killed_at_random_moments_a_run_ends_as_if_nothing_had_happened() {
    check(&generated(50_000, ", publish.every = 40000"), "kill", asked(12));
}

/// What feature views have counted is part of the state: killed at any moment, an impression reads what it would have read.
#[test]
fn f1_killed_with_feature_views_a_run_ends_as_if_nothing_had_happened() {
    check(&generated_with_views(30_000), "kill-views", asked(6));
}

/// One kill at each of the first accesses of a kind; after each the run goes on to its end in one go.
pub fn killed_at_each(place: &str, accesses: std::ops::RangeInclusive<u32>, sql: &str, at_least: u32) {
    let scratch = Scratch::new("phases");
    let reference = outcome(&run_json(sql, &scratch.path("whole"), &["--threads", "1"]));
    let mut landed = 0;
    for n in accesses {
        let data = scratch.path(&format!("{n}"));
        let ended = kill_once(sql, &data, "2", Err(format!("{place}:{n}")));
        landed += u32::from(ended.is_none());
        let got = ended.unwrap_or_else(|| run_json(sql, &data, &["--threads", "1"]));
        assert_eq!(outcome(&got), reference, "{place}:{n}");
        std::fs::remove_dir_all(data).unwrap();
    }
    println!("{landed} kills at accesses to {place}");
    assert!(landed >= at_least, "{landed} kills landed at accesses to {place}");
}

fn small() -> String {
    generated(6_000, ", publish.every = 2000").replace("'30ms'", "'5ms'")
}

/// F2: at every access of a checkpoint: each file opened, written, synced, linked, swept away, and the directory synced.
/// (F3 too: between the entries' part and the file that names it.)
#[test]
fn f2_f3_killed_at_every_access_of_a_checkpoint_a_run_ends_as_if_nothing_had_happened() {
    killed_at_each("checkpoints", 1..=asked(22), &small(), 12);
}

/// F5: before, in and behind every access of a publication.
#[test]
fn f5_killed_at_every_access_of_a_publication_a_run_ends_as_if_nothing_had_happened() {
    killed_at_each("versions", 1..=asked(16), &small(), 12);
}

/// F4: killed in recovery again and again, then left alone.
#[test]
fn f4_killed_in_recovery_again_and_again_a_run_ends_as_if_nothing_had_happened() {
    let scratch = Scratch::new("recovery");
    let sql = small();
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &["--threads", "1"]));
    let data = scratch.path("data");
    assert!(kill_once(&sql, &data, "1", Err("checkpoints:30".into())).is_none(), "it was not killed");
    for n in 1..=asked(12) {
        // The first accesses of a start: directories, the journal's tail, what a crash left, the dead letter.
        let ended = kill_once(&sql, &data, "1", Err(format!("data:{}", 1 + n % 14)));
        assert!(ended.is_none(), "it came to its end at access {n}");
    }
    assert_eq!(outcome(&run_json(&sql, &data, &[])), reference);
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

/// What `examples/kill_it.sh` shows to a reader: a stream of a real server, kills, and two hashes that are equal.
#[test]
fn the_example_that_kills_shows_equal_hashes() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/kill_it.sh");
    let mut command = std::process::Command::new(script);
    command.arg("3").env("TIDEMILL", env!("CARGO_BIN_EXE_tidemill")).env("PORT", port).env("EVENTS", "40000");
    let out = command.stdin(Stdio::null()).output().unwrap();
    let (said, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}\n{err}");
    let states: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("state, ")?.split_whitespace().last()).collect();
    assert!(states.len() == 2 && states[0].len() == 32 && states[0] == states[1], "{said}");
    assert!(said.contains("kill -9 after ") && said.ends_with("equal, with every count\n"), "{said}");
}
