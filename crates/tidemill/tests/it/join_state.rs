//! What waits in the label join: spilled, saved in parts, stopped at its bounds; killed, damaged and without room. What is
//! learned is always what a join in memory learns.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    kill::{asked, kill_and_compare, killed_at_each, outcome, seed},
    support::{Scratch, generated, generated_with_views, last_json, run, run_json, tidemill, with_disk_of},
};

/// Some 2,000 impressions wait, of about 300 bytes.
fn spilling(rows: u64, bytes_max: &str) -> String {
    generated(rows, &format!(", join.when_full = 'spill', join.bytes_max = '{bytes_max}'"))
}

fn checkpoint_files(data: &Path, end: &str) -> Vec<PathBuf> {
    let dir = data.join("models/ctr/job/checkpoints");
    let mut all: Vec<PathBuf> = fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect();
    all.retain(|path| path.to_str().unwrap().ends_with(end));
    all.sort();
    all
}

/// Killed by kill -9 with rows in spill files, a run ends as one that was never killed, and as one that never spilled.
#[test]
fn f1_killed_while_rows_are_spilled_a_run_ends_as_if_nothing_had_happened() {
    let scratch = Scratch::new("spill-kill");
    let spilled = kill_and_compare(&spilling(20_000, "64KiB"), &scratch, asked(6), seed());
    let in_memory = run_json(&generated(20_000, ""), &scratch.path("memory"), &[]);
    assert_eq!(spilled, outcome(&in_memory));
    let left = fs::read_dir(scratch.path("whole").join("models/ctr/job/spill")).into_iter().flatten().count();
    assert_eq!(left, 0, "a run that ends leaves no spill file");
}

#[test]
fn f2_killed_at_every_access_to_spill_files_a_run_ends_as_if_nothing_had_happened() {
    killed_at_each("spill", 1..=asked(8), &spilling(6_000, "64KiB").replace("'30ms'", "'5ms'"), 6);
}

/// F7, F10: a part with rows that is damaged, or missing, is named, and the checkpoint before it used.
#[test]
fn f7_f10_a_damaged_part_with_rows_is_named_and_the_checkpoint_before_it_used() {
    // The bound of what is in memory is no part of what is learned.
    let sql = spilling(20_000, "64KiB");
    a_damaged_part_is_named(Scratch::new("rows-part"), &sql, &sql.replace("64KiB", "1MiB"), 1);
}

/// F7, F10: the same of entries of feature views, which are written first.
#[test]
fn f7_f10_a_damaged_part_of_feature_views_is_named_and_the_checkpoint_before_it_used() {
    let sql = generated_with_views(20_000);
    a_damaged_part_is_named(Scratch::new("views-part"), &sql, &sql, 0);
}

/// Part `number` of the newest checkpoint of a run that was killed; `then` goes on with it.
fn a_damaged_part_is_named(scratch: Scratch, sql: &str, then: &str, number: u32) {
    let (sql, then) = (sql.replace("'30ms'", "'5ms'"), then.replace("'30ms'", "'5ms'"));
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    let data = scratch.path("data");
    let status = tidemill()
        .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
        .arg(&data)
        .env("TIDEMILL_FAILPOINT", "checkpoints:120")
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    let newest = checkpoint_files(&data, ".ck").pop().unwrap();
    let name = format!("{}-{number}.part", newest.file_stem().unwrap().to_str().unwrap());
    let part = newest.with_file_name(&name);
    let whole = fs::read(&part).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (damage, what) in
        [(Some(flipped), format!("its part {name}: chunk ")), (None, format!("its part {name} is missing"))]
    {
        match damage {
            Some(bytes) => fs::write(&part, bytes).unwrap(),
            None => fs::remove_file(&part).unwrap(),
        }
        let verified = tidemill().args(["checkpoints", "verify", "ctr", "--data-dir"]).arg(&data).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert_eq!(verified.status.code(), Some(4), "{said}");
        assert!(said.contains(&what), "{said}");
        let again = scratch.path("again");
        let _ = fs::remove_dir_all(&again);
        assert!(Command::new("cp").arg("-a").args([&data, &again]).status().unwrap().success());
        let ended = run_json(&then, &again, &[]);
        let mut compared = outcome(&ended);
        let warning = compared.as_object_mut().unwrap().remove("warning").unwrap();
        assert!(warning.as_str().is_some_and(|w| w.contains(&what) && w.contains("the one before")), "{warning}");
        let mut reference = reference.clone();
        reference.as_object_mut().unwrap().remove("warning");
        assert_eq!(compared, reference);
    }
}

/// F12: rows that find no room in memory nor on the disk end the job, and say so; with room it goes on.
#[test]
fn f12_without_room_for_rows_the_job_ends_and_goes_on_later() {
    let scratch = Scratch::new("spill-full");
    let sql = spilling(8_000, "64KiB");
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &[]));
    let data = scratch.path("data");
    let out = with_disk_of(700)
        .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(5), "{said}");
    assert!(
        said.contains("rows that wait find no room on the disk either: write ") && said.contains(".rows"),
        "{said}"
    );
    assert_eq!(outcome(&run_json(&sql, &data, &[])), reference);
}

/// A job that stops at a bound names it; once it is raised, the job goes on, and its versions are derived again.
#[test]
fn a_job_that_stops_at_a_bound_goes_on_once_it_is_raised() {
    let scratch = Scratch::new("stop");
    let stops = |count: u32| generated(8_000, &format!(", join.when_full = 'stop', join.pending_max = {count}"));
    let data = scratch.path("data");
    for _ in 0..2 {
        let out = run(&stops(500), &data, &[]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(5), "{said}");
        assert!(
            said.contains("join.pending_max is 500, and join.when_full is 'stop'; raise join.pending_max"),
            "{said}"
        );
    }
    let raised = last_json(&run(&stops(100_000), &data, &[]));
    let free = run_json(&generated(8_000, ""), &scratch.path("free"), &[]);
    assert_eq!(raised["state_hash"], free["state_hash"]);
    let verified = tidemill().args(["models", "verify", "ctr@1", "--data-dir"]).arg(&data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn spilling_wants_to_know_how_much_may_be_in_memory() {
    let scratch = Scratch::new("spill-unsaid");
    let out = run(&generated(100, ", join.when_full = 'spill'"), &scratch.path("data"), &[]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("say how many bytes of rows may be in memory, as in join.bytes_max = '1GiB'"), "{said}");
}
