//! Files that are not what they were when a job read them: put in place anew, cut, grown, or no files at all.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::support::{Scratch, eventually, generated, run, run_json, send_signal, tidemill};

fn csv(from: u32, rows: u32, label_of: impl Fn(u32) -> u32) -> String {
    (from..from + rows).map(|i| format!("{i},c{},{}\n", i % 7, label_of(i))).collect()
}

fn learn(path: &Path, format: &str, more: &str) -> String {
    format!(
        "CREATE SOURCE t (id BIGINT, colour STRING, label INT) WITH (connector = 'file', path = '{}', format = '{format}'{more});
         SELECT * FROM t TO TRAIN FTRLClassifier WITH checkpoint.interval = '20ms' COLUMN colour LABEL label INTO m;",
        path.display()
    )
}

fn refused(sql: &str, data: &Path, words: &[&str]) {
    let out = run(sql, data, &[]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' in {text}");
    }
}

const HEADER: &str = "id,colour,label\n";

/// A file written anew with as many rows, and as many bytes, is another file: nothing of it is mixed in. Put back, it is
/// the one that was read.
#[test]
fn a_file_written_anew_behind_a_finished_job_is_refused() {
    let scratch = Scratch::new("anew");
    let good = format!("{HEADER}{}", csv(0, 5_000, |i| i % 2));
    let other = format!("{HEADER}{}", csv(0, 5_000, |i| (i + 1) % 2));
    assert_eq!(good.len(), other.len());
    let path = scratch.write("rows.csv", &good);
    let (data, sql) = (scratch.path("data"), learn(&path, "csv", ""));
    let first = run_json(&sql, &data, &[]);
    fs::write(&path, &other).unwrap();
    refused(&sql, &data, &["rows.csv", "has changed", "put the file back", "--from-scratch"]);
    let verified = tidemill().args(["models", "verify", "m@1", "--data-dir"]).arg(&data).output().unwrap();
    assert_eq!(verified.status.code(), Some(4), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stderr).contains("has changed"), "{verified:?}");
    fs::write(&path, &good[..good.len() - 9]).unwrap();
    refused(&sql, &data, &["rows.csv", "bytes, and had"]);
    fs::write(&path, &good).unwrap();
    assert_eq!(run_json(&sql, &data, &[])["state_hash"], first["state_hash"]);
    fs::write(&path, &other).unwrap();
    assert_eq!(run_json(&sql, &data, &["--from-scratch"])["samples"], 5_000);
}

/// The same between a kill and the restart, with a checkpoint or before the first.
#[test]
fn a_file_written_anew_behind_a_killed_job_is_refused() {
    let scratch = Scratch::new("killed");
    let rows = 400_000;
    let path = scratch.write("rows.csv", format!("{HEADER}{}", csv(0, rows, |i| i % 2)));
    let other = format!("{HEADER}{}", csv(0, rows, |i| (i + 1) % 2));
    let data = scratch.path("data");
    let sql = learn(&path, "csv", "");
    let mut child = tidemill()
        .args(["run", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it reads", || {
        fs::metadata(data.join("models/m/job/journal.log")).ok().filter(|f| f.len() > 200).map(|_| ())
    });
    send_signal(&child, "-KILL");
    child.wait().unwrap();
    fs::write(&path, other).unwrap();
    refused(&sql, &data, &["rows.csv", "has changed"]);
}

/// A file that is cut while it is read does not end where it was cut, whoever reads ahead.
#[test]
fn a_file_that_is_cut_while_it_is_read_is_refused() {
    for threads in ["1", "2"] {
        let scratch = Scratch::new(&format!("cut-{threads}"));
        let whole = format!("{HEADER}{}", csv(0, 3_000_000, |i| i % 2));
        let path = scratch.write("rows.csv", &whole);
        let (data, sql) = (scratch.path("data"), learn(&path, "csv", ""));
        let child = tidemill()
            .args(["run", "--quiet", "--no-serve", "--threads", threads, "-e", &sql, "--data-dir"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("it reads", || {
            fs::metadata(data.join("models/m/job/journal.log")).ok().filter(|f| f.len() > 200).map(|_| ())
        });
        fs::File::options().write(true).open(&path).unwrap().set_len(whole.len() as u64 / 2).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(4), "{text}");
        assert!(text.contains("rows.csv': the file has changed: it has"), "{text}");
        // Put back, it is read to its end.
        fs::write(&path, &whole).unwrap();
        assert_eq!(run_json(&sql, &data, &[])["samples"], 3_000_000);
    }
}

#[test]
fn compressed_and_followed_files_are_known_again() {
    let scratch = Scratch::new("kinds");
    let rows = |flip: u32| format!("{HEADER}{}", csv(0, 3_000, |i| (i + flip) % 2));
    // Compressed.
    let plain = scratch.write("rows.csv", rows(0));
    let gzip = |name: &str| {
        let ok = Command::new("gzip").args(["-kf", name]).current_dir(&scratch.0).status();
        assert!(ok.is_ok_and(|s| s.success()), "gzip is part of every Debian");
    };
    gzip("rows.csv");
    let (sql, data) = (learn(&scratch.path("rows.csv.gz"), "csv", ""), scratch.path("gz"));
    run_json(&sql, &data, &[]);
    fs::write(&plain, rows(1)).unwrap();
    gzip("rows.csv");
    refused(&sql, &data, &["rows.csv.gz", "has changed"]);
    // Followed: what was appended is read and from then on known, too.
    let path = scratch.write("grows.csv", rows(0));
    let (sql, data) = (learn(&path, "csv", ", follow = true"), scratch.path("follow"));
    let read_to = |rows: u64| {
        let child = tidemill()
            .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(400));
        send_signal(&child, "-TERM");
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(super::support::last_json(&out)["samples"], rows);
    };
    read_to(3_000);
    let appended = csv(3_000, 2_000, |i| i % 2);
    fs::write(&path, rows(0) + &appended).unwrap();
    read_to(5_000);
    fs::write(&path, rows(0) + &csv(3_000, 2_000, |i| (i + 1) % 2)).unwrap();
    refused(&sql, &data, &["grows.csv", "has changed"]);
    fs::write(&path, rows(0) + &appended + "1,c1,1\n").unwrap();
    read_to(5_001);
}

/// A pipe or a device cannot be read again from any place; opening one would wait for ever.
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let scratch = Scratch::new("fifo");
    let fifo = scratch.path("rows.csv");
    assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()), "mkfifo is part of every Debian");
    for path in [fifo.as_path(), Path::new("/dev/zero")] {
        for format in ["csv", "parquet"] {
            let out = run(&learn(path, format, ""), &scratch.path("data"), &[]);
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(out.status.code(), Some(2), "{text}");
            assert!(text.contains("is not a regular file") && text.contains(path.to_str().unwrap()), "{text}");
        }
    }
}

/// Under format 1 the same records led to another state; going on would be neither the old one's nor the new one's.
#[test]
fn a_journal_of_an_older_format_is_refused_with_the_way_out() {
    let scratch = Scratch::new("older");
    let data = scratch.path("data");
    let sql = generated(2_000, "");
    let first = run_json(&sql, &data, &[]);
    let journal = data.join("models/ctr/job/journal.log");
    let mut bytes = fs::read(&journal).unwrap();
    assert_eq!(bytes[8], 3, "a new journal has the new format");
    bytes[8] = 1;
    fs::write(&journal, &bytes).unwrap();
    let out = run(&sql, &data, &[]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{text}");
    assert!(text.contains("has format 1 of an older program") && text.contains("--from-scratch"), "{text}");
    assert_eq!(fs::read(&journal).unwrap(), bytes, "nothing was changed");
    assert_eq!(run_json(&sql, &data, &["--from-scratch"])["state_hash"], first["state_hash"]);
    assert_eq!(fs::read(&journal).unwrap()[8], 3);
}
