//! What people get wrong, and what they are told. One table, one line an input: exit code and the words of the answer.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::support::{Scratch, eventually, generated, run, run_json, send_signal, tidemill, with_disk_of};

/// Header, then rows that each have something.
const ROWS: &str = "id,colour,x,label\n1,red,0.5,1\n2,blue,abc,0\n3,green,0.5\n4,red,0.5,2\n5,red,0.5,\n6,red,1e999,1\n7,\"red,0.5,1\n8,red,0.5,1\n";

fn source(path: &str, more: &str) -> String {
    format!(
        "CREATE SOURCE t (id BIGINT, colour STRING, x DOUBLE, label INT) WITH (connector = 'file', path = '{path}'{more});
         SELECT * FROM t TO TRAIN FTRLClassifier COLUMN colour, x LABEL label INTO m;"
    )
}

/// A single bad event costs that event: counted, kept with its reason, and the rest is learned.
#[test]
fn a_bad_row_is_counted_kept_and_passed_over() {
    let scratch = Scratch::new("rows");
    let path = scratch.write("rows.csv", ROWS);
    let out = run_json(&source(path.to_str().unwrap(), ""), &scratch.path("data"), &[]);
    let letters = fs::read_to_string(scratch.path("data/models/m/job/dead_letter.jsonl")).unwrap();
    assert_eq!(out["samples"], 2, "the first row and the last\n{letters}");
    for expected in [
        "'abc' is not a DOUBLE",
        "row 3: 3 fields, header has 4",
        "label must be 0 or 1, got 2",
        "label is missing",
        "never closed",
    ] {
        assert!(letters.contains(expected), "{expected} in\n{letters}");
    }
    assert!(out["counters"]["refused"].as_u64().unwrap() >= 6, "{out}");
}

/// Nothing to read is no fault, and nobody means it: that is said.
#[test]
fn a_source_without_events_is_told_of() {
    let scratch = Scratch::new("nothing");
    let path = scratch.write("rows.csv", "id,colour,x,label\n");
    let out = run_json(&source(path.to_str().unwrap(), ""), &scratch.path("data"), &[]);
    assert!(out["warning"].as_str().is_some_and(|warning| warning.contains("no event came")), "{out}");
}

#[test]
fn what_cannot_be_run_is_refused_with_the_place_and_the_way_out() {
    let scratch = Scratch::new("refused");
    let csv = scratch.write("rows.csv", "id,colour,x,label\n1,red,0.5,1\n");
    let semicolons = scratch.write("semi.csv", "id;colour;x;label\n1;red;0.5;1\n");
    let other = scratch.write("other.csv", "id,color,x,label\n1,red,0.5,1\n");
    scratch.write("not.csv.gz", "this is not gzip");
    let (csv, semicolons, other) = (csv.to_str().unwrap(), semicolons.to_str().unwrap(), other.to_str().unwrap());
    let gz = scratch.path("not.csv.gz").display().to_string();
    let dir = scratch.0.display().to_string();
    let train = |what: &str| {
        format!(
            "CREATE SOURCE t (id BIGINT, colour STRING, x DOUBLE, label INT) WITH (connector = 'file', path = '{csv}');\n{what}"
        )
    };
    let cases: Vec<(String, i32, &[&str])> = vec![
        (source("/nowhere/rows.csv", ""), 3, &["/nowhere/rows.csv"]),
        (source(semicolons, ""), 2, &["semi.csv", "delimiter", ";"]),
        (source(other, ""), 2, &["other.csv", "colour", "color"]),
        (source(&gz, ""), 4, &["not.csv.gz"]),
        (source(&dir, ", format = 'csv'"), 2, &["tidemill-it-refused"]),
        (
            train("SELECT * FROM t TO TRAIN FTRLClassifier COLUMN colour LABEL lable INTO m"),
            2,
            &["lable", "label", "line 2"],
        ),
        (
            train("SELECT * FROM t TO TRAIN FTRLClassifier COLUMN colour LABEL label INTO \"../../x\""),
            2,
            &["model name may hold"],
        ),
        (train("SELECT * FROM t TO TRAIN FTRLClasifier COLUMN colour LABEL label INTO m"), 2, &["FTRLClassifier"]),
        (
            train("SELECT * FROM t TO TRAIN FTRLClassifier WITH model.alfa = 1 COLUMN colour LABEL label INTO m"),
            2,
            &["model.alpha"],
        ),
        (
            train("SELECT * FROM t TO TRAIN FTRLClassifier WITH model.alpha = -1 COLUMN colour LABEL label INTO m"),
            2,
            &["model.alpha must be in"],
        ),
        (
            train("SELECT * FROM tt TO TRAIN FTRLClassifier COLUMN colour LABEL label INTO m"),
            2,
            &["tt", "did you mean", "t"],
        ),
        (train("SELECT * FROM t TO TRAIN FTRLClassifier COLUMN label LABEL label INTO m"), 2, &["leaks"]),
        (train("SELECT * FROM t TO EVALUATE nobody LABEL label"), 2, &["nobody"]),
        (
            train("SELECT * FROM t TO EVALUATE m@1 LABEL label"),
            2,
            &["live version", "TO EVALUATE m;", "models rollback m@1"],
        ),
        (
            train("SELECT * FROM t WHERE colour ~ '(' TO TRAIN FTRLClassifier COLUMN x LABEL label INTO m"),
            2,
            &["not a regular expression: unclosed group"],
        ),
        (source(csv, ", delimiter = 'ab'"), 2, &["delimiter expects one byte, got 'ab'", "^^^^\n"]),
    ];
    for (sql, code, words) in cases {
        let out = run(&sql, &scratch.path("data"), &[]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{sql}\n{text}");
        for word in words {
            assert!(text.contains(word), "'{word}' in the answer to\n{sql}\n{text}");
        }
        assert!(!text.contains("panicked") && text.starts_with("error["), "{text}");
    }
}

/// Where every row is refused the run says so at its end, and leaves no version that knows nothing.
#[test]
fn a_run_that_can_use_no_row_ends_with_the_first_reason_and_no_version() {
    let scratch = Scratch::new("none");
    let path = scratch.write("rows.csv", "id,colour,x,label\n1,red,abc,1\n2,red,def,1\n3,red,0.5,7\n");
    let (sql, data) = (source(path.to_str().unwrap(), ""), scratch.path("data"));
    // Run again it says the same: what is done is done.
    for _ in 0..2 {
        let out = run(&sql, &data, &[]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{text}");
        for words in ["no usable row", "3 refused", "'abc' is not a DOUBLE", "dead_letter.jsonl"] {
            assert!(text.contains(words), "'{words}' in {text}");
        }
        let summary = super::support::last_json(&out);
        assert_eq!((&summary["version"], &summary["counters"]["refused"]), (&0.into(), &3.into()), "{summary}");
        assert_eq!(fs::read_dir(data.join("models/m/versions")).unwrap().count(), 0);
    }
}

/// B81: a directory of a newer version is refused, not guessed at.
#[test]
fn b81_a_data_directory_of_a_newer_version_is_refused() {
    let scratch = Scratch::new("newer");
    scratch.write("format", "9\n");
    let out = run(&generated(100, ""), &scratch.0, &[]);
    assert_eq!(out.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&out.stderr).contains("format 9 is newer than this binary (1)"));
}

#[test]
fn b89_a_directory_that_cannot_be_written_is_named() {
    let scratch = Scratch::new("readonly");
    let file = scratch.write("file", "");
    let out = run(&generated(100, ""), &file.join("data"), &[]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains(file.to_str().unwrap()), "{text}");
}

/// A start on a full disk names the file that found no room, whichever is the first.
#[test]
fn b89_a_start_on_a_full_disk_is_refused() {
    let scratch = Scratch::new("full-start");
    let sql = generated(100, "");
    let start = |data: &std::path::Path| {
        with_disk_of(0).args(["run", "--no-serve", "-e", &sql, "--data-dir"]).arg(data).output().unwrap()
    };
    let began = scratch.path("began");
    run_json(&sql, &began, &[]);
    for data in [scratch.path("new"), began] {
        let out = start(&data);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(5), "{text}");
        assert!(text.starts_with("error[exhausted]") && text.contains(data.to_str().unwrap()), "{text}");
    }
}

/// F7, F8: a damaged checkpoint is passed over for the one before it, and the end is the same.
#[test]
fn f8_a_flipped_byte_in_a_checkpoint_changes_nothing_but_a_warning() {
    let scratch = Scratch::new("flip");
    let data = scratch.path("data");
    let sql = generated(40_000, "");
    let whole = run_json(&sql, &data, &[]);
    let dir = data.join("models/ctr/job/checkpoints");
    let mut all: Vec<_> = fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()).collect();
    all.sort();
    let newest = all.last().unwrap();
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(newest, &bytes).unwrap();
    let again = run_json(&sql, &data, &[]);
    assert_eq!(again["state_hash"], whole["state_hash"]);
    assert!(again["warning"].as_str().is_some_and(|w| w.contains("chunk")), "{again}");
}

/// A damaged journal is never skipped over: what stands in it decided what was learned.
#[test]
fn a_flipped_byte_in_the_journal_stops_the_start_and_names_the_place() {
    let scratch = Scratch::new("journal");
    let data = scratch.path("data");
    let sql = generated(5_000, "");
    run_json(&sql, &data, &[]);
    let path = data.join("models/ctr/job/journal.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let out = run(&sql, &data, &[]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{text}");
    assert!(text.contains("journal.log") && text.contains("at byte") && text.contains("--from-scratch"), "{text}");
}

/// F12: where the disk ends the program waits and says so, loses nothing, and goes on to the same end once there is room.
#[test]
fn f12_a_full_disk_is_waited_out_and_the_run_goes_on_once_there_is_room() {
    let scratch = Scratch::new("full");
    let sql = generated(60_000, "");
    let whole = run_json(&sql, &scratch.path("whole"), &[]);
    let data = scratch.path("data");
    // A limit on file size is the disk's end as seen by one process; the signal is ignored so that the write fails instead.
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\"";
    let child = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_tidemill"), "run", "--no-serve", "-e", &sql, "--data-dir"])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let journal = data.join("models/ctr/job/journal.log");
    let mut last = 0;
    eventually("the journal is as long as it may be", || {
        std::thread::park_timeout(std::time::Duration::from_millis(300));
        let len = fs::metadata(&journal).map_or(0, |m| m.len());
        (std::mem::replace(&mut last, len) == len && len > 3_000).then_some(())
    });
    send_signal(&child, "-TERM");
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(5), "{text}");
    assert!(text.contains("waiting: append to") && text.contains("error[exhausted]"), "{text}");
    let resumed = run_json(&sql, &data, &[]);
    assert_eq!(resumed["state_hash"], whole["state_hash"]);
    assert_eq!(resumed["samples"], whole["samples"]);
}

/// F12: a version that finds no room does not end a live job; it is said and tried again.
#[test]
fn f12_a_version_that_finds_no_room_does_not_end_a_live_job() {
    let scratch = Scratch::new("no-room");
    let sql = generated(5_000, ", publish.interval = '100ms'")
        .replace("drift_every = '5s'", "drift_every = '5s', pace = 'realtime'");
    // Eight KiB hold the journal of these two and a half seconds, and no snapshot.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let out = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_tidemill"), "run", "--no-serve", "-e", &sql, "--data-dir"])
        .arg(scratch.path("data"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("version not published") && text.contains("trying again"), "{text}");
    // It went on to its end, and only there the version that could not be written is an error.
    assert!(text.contains("5,000 samples") && out.status.code() == Some(5), "{text}");
}

#[test]
fn help_and_unknown_words_are_answered() {
    let help = tidemill().arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in ["demo", "run", "check", "models"] {
        assert!(text.contains(word), "{text}");
    }
    let out = tidemill().args(["run", "--thread", "2"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--threads"));
}
