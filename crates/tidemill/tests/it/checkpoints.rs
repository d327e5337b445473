//! Checkpoints of what changed, and `tidemill checkpoints`: what is told of them, checked and written out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    kill::outcome,
    support::{Scratch, generated, generated_with_views, run_json, tidemill},
};

/// What `tidemill checkpoints` prints as JSON, and its exit code.
fn checkpoints(words: &[&str], data: &Path) -> (Vec<Value>, Option<i32>, String) {
    let out = tidemill().arg("checkpoints").args(words).arg("--json").arg("--data-dir").arg(data).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, out.status.code(), String::from_utf8(out.stderr).unwrap())
}

/// Files of a kind in the model's checkpoint directory, by name.
fn files(data: &Path, end: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(data.join("models/ctr/job/checkpoints")).unwrap().flatten().map(|e| e.path()).collect();
    all.retain(|path| path.to_str().unwrap().ends_with(end));
    all.sort();
    all
}

/// A run with many checkpoints; its learner goes round a few keys, so that little changes between two of them.
fn run(scratch: &Scratch, sql: &str) -> (PathBuf, Value) {
    let data = scratch.path("data");
    let whole = run_json(sql, &data, &["--threads", "2"]);
    (data, whole)
}

#[test]
fn what_is_listed_verifies_and_can_be_written_out() {
    let scratch = Scratch::new("checkpoints");
    let (data, whole) = run(&scratch, &generated(40_000, ""));
    let (listed, code, _) = checkpoints(&["ls", "ctr"], &data);
    assert_eq!(code, Some(0));
    assert!(listed.len() >= 2 && listed.iter().all(|line| line["parts"].as_u64() >= Some(1)), "{listed:?}");
    let (verified, code, err) = checkpoints(&["verify", "ctr"], &data);
    assert_eq!((code, verified.len()), (Some(0), listed.len()), "{err}");
    let newest = verified.last().unwrap();
    assert_eq!(newest["state_hash"], whole["state_hash"]);
    assert_eq!(newest["mini_batch"], listed.last().unwrap()["mini_batch"]);
    for file in ["entries.csv", "entries.parquet"] {
        let to = scratch.path(file);
        let (exported, code, err) = checkpoints(&["export", "ctr", "--to", to.to_str().unwrap()], &data);
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(exported[0]["entries"], newest["entries"]);
        let text = fs::read(&to).unwrap();
        if file.ends_with("csv") {
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with("key,slot,weight,state_0,state_1\n"), "{}", &text[..80]);
            assert_eq!(text.lines().count() as u64, 1 + newest["entries"].as_u64().unwrap());
        } else {
            assert!(text.starts_with(b"PAR1") && text.ends_with(b"PAR1"));
        }
    }
    let (_, code, err) = checkpoints(&["export", "ctr", "--to", "entries.txt"], &data);
    assert_eq!(code, Some(2));
    assert!(err.contains("entries.txt: give a name that ends in .csv or .parquet"), "{err}");
    let (_, code, err) = checkpoints(&["verify", "ctr@7"], &data);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("model 'ctr' has no checkpoint at mini-batch 7; there are "), "{err}");
}

/// F7, F8, F10: damage to any part is named, by `verify` and by the start, which goes on from the checkpoint before it.
#[test]
fn f7_a_damaged_part_is_named_and_the_checkpoint_before_it_used() {
    let scratch = Scratch::new("part");
    let sql = generated(40_000, "");
    let (data, whole) = run(&scratch, &sql);
    let newest = files(&data, ".part").pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let name = newest.file_name().unwrap().to_str().unwrap();
    for (damage, what) in [
        (flipped, format!("its part {name}: chunk ")),
        (bytes[..bytes.len() - 5].to_vec(), format!("its part {name} is {} of {} bytes", bytes.len() - 5, bytes.len())),
    ] {
        fs::write(&newest, damage).unwrap();
        let (verified, code, err) = checkpoints(&["verify", "ctr"], &data);
        assert_eq!(code, Some(4), "{err}");
        assert!(err.contains(&what), "{err}");
        assert!(verified.iter().any(|line| line["damaged"].as_str().is_some_and(|why| why.contains(&what))));
        let again = scratch.path("again");
        let _ = fs::remove_dir_all(&again);
        assert!(std::process::Command::new("cp").arg("-a").args([&data, &again]).status().unwrap().success());
        let again = run_json(&sql, &again, &["--threads", "1"]);
        assert_eq!(again["state_hash"], whole["state_hash"]);
        assert!(
            again["warning"].as_str().is_some_and(|w| w.contains(&what) && w.contains("the one before")),
            "{again}"
        );
    }
}

/// A run of small changes to a large state: most checkpoints hold what changed, and a restart from any of them, on another
/// number of threads, ends with the same bits.
#[test]
fn checkpoints_hold_what_changed_and_a_restart_from_each_ends_alike() {
    let scratch = Scratch::new("chain");
    let sql = generated_with_views(40_000);
    let reference = outcome(&run_json(&sql, &scratch.path("whole"), &["--threads", "1"]));
    let data = scratch.path("data");
    let mut chained = 0;
    for (i, signal) in ["-TERM", "-KILL", "-KILL", "-INT"].into_iter().enumerate() {
        let mut child = tidemill()
            .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
            .arg(&data)
            .args(["--threads", if i % 2 == 0 { "2" } else { "1" }])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        super::support::eventually("a checkpoint of changes, or the end", || {
            let (listed, ..) = checkpoints(&["ls", "ctr"], &data);
            let parts = listed.iter().filter_map(|line| line["parts"].as_u64()).max().unwrap_or(0);
            (parts > 1 || child.try_wait().unwrap().is_some()).then(|| chained += u32::from(parts > 1))
        });
        if child.try_wait().unwrap().is_none() {
            super::support::send_signal(&child, signal);
        }
        child.wait().unwrap();
    }
    assert!(chained >= 1, "no checkpoint of changes was seen");
    assert_eq!(outcome(&run_json(&sql, &data, &[])), reference);
}
