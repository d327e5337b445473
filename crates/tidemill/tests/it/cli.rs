//! Programs over files, and the commands around them.

use std::fs;

use super::support::{Scratch, generated, last_json, run, run_json, tidemill};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// 4,000 rows whose label follows from two columns.
fn rows() -> Vec<(u32, &'static str, f64, u32)> {
    let mut rng = tidemill_base::Rng::seeded(3);
    let colours = ["red", "green", "blue"];
    (0..4_000)
        .map(|_| {
            let (user, colour, x) = (rng.below(20) as u32, colours[rng.below(3) as usize], rng.next_f64());
            let p = if colour == "red" { 0.9 } else { 0.1 };
            (user, colour, x, (rng.next_f64() < p) as u32)
        })
        .collect()
}

fn learn(path: &str, more: &str) -> String {
    format!(
        "CREATE SOURCE t (user BIGINT, colour STRING, x DOUBLE, label INT) WITH (connector = 'file', path = '{path}'{more});
         SELECT * FROM t TO TRAIN FTRLClassifier COLUMN user, colour, NUMERIC(x), BUCKET(x, [0.25, 0.5, 0.75]) LABEL label INTO m;"
    )
}

/// The same rows in every text format, plain and compressed, give the same model to the last bit.
#[test]
fn every_file_format_gives_the_same_model() {
    let scratch = Scratch::new("formats");
    let mut csv = String::from("user,colour,x,label\n");
    let (mut tsv, mut json) = (String::new(), String::new());
    for (user, colour, x, label) in rows() {
        csv += &format!("{user},{colour},{x},{label}\n");
        tsv += &format!("{user}\t{colour}\t{x}\t{label}\n");
        json += &format!("{{\"user\":{user},\"colour\":\"{colour}\",\"x\":{x},\"label\":{label}}}\n");
    }
    let csv = scratch.write("rows.csv", csv);
    let (dir, of) = (&scratch.0, |name: &str| scratch.path(name).display().to_string());
    scratch.write("rows.tsv", tsv);
    scratch.write("rows.jsonl", json);
    for tool in [["gzip", "-k"], ["zstd", "-qk"]] {
        let ok = std::process::Command::new(tool[0]).arg(tool[1]).arg(&csv).current_dir(dir).status();
        assert!(ok.is_ok_and(|s| s.success()), "{} is part of every Debian", tool[0]);
    }
    let reference = run_json(&learn(&of("rows.csv"), ""), &scratch.path("d0"), &[]);
    assert_eq!((reference["samples"].as_u64(), reference["state"].as_str()), (Some(4_000), Some("finished")));
    assert!(reference["auc"].as_f64().unwrap() > 0.8, "{reference}");
    let others = [("rows.tsv", ", header = false"), ("rows.jsonl", ""), ("rows.csv.gz", ""), ("rows.csv.zst", "")];
    for (i, (file, more)) in others.iter().enumerate() {
        let got = run_json(&learn(&of(file), more), &scratch.path(&format!("d{}", i + 1)), &[]);
        assert_eq!(got["state_hash"], reference["state_hash"], "{file}");
    }
}

/// What is done stays done: the same program on the same directory says the same and learns nothing twice; another program
/// under the same name is refused until told to forget.
#[test]
fn a_finished_program_run_again_says_the_same() {
    let scratch = Scratch::new("again");
    let data = scratch.path("data");
    let sql = generated(6_000, "");
    let first = run_json(&sql, &data, &[]);
    let again = run_json(&sql, &data, &[]);
    for key in ["state_hash", "samples", "positives", "logloss", "auc", "version", "counters"] {
        assert_eq!(first[key], again[key], "{key}");
    }
    let other = sql.replace("CROSS([C1, C3])", "CROSS([C1, C2])");
    let refused = run(&other, &data, &[]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--from-scratch"));
    let forgotten = run_json(&other, &data, &["--from-scratch"]);
    assert_ne!(forgotten["state_hash"], first["state_hash"]);
    assert_eq!(forgotten["version"], 2, "versions go on, they are never taken back");
}

#[test]
fn versions_are_listed_shown_verified_and_evaluated() {
    let scratch = Scratch::new("versions");
    let data = scratch.path("data");
    let sql = generated(8_000, ", publish.every = 1500");
    let done = run_json(&sql, &data, &[]);
    // 8,000 rows, most of the last of them at the very end, when all that waits is decided.
    assert!((3..=6).contains(&done["version"].as_u64().unwrap()), "two or more by count and one at the end: {done}");
    let last = done["version"].to_string();
    let models = |args: &[&str]| tidemill().arg("models").args(args).arg("--data-dir").arg(&data).output().unwrap();
    let list = text(&models(&["list"]).stdout);
    assert!(list.contains("ctr") && list.lines().count() == 2, "{list}");
    let all = text(&models(&["show", "ctr"]).stdout);
    assert!(
        all.lines().count() == 1 + last.parse::<usize>().unwrap()
            && all.contains("live")
            && all.contains(done["state_hash"].as_str().unwrap()),
        "{all}"
    );
    let one: serde_json::Value = serde_json::from_str(&text(&models(&["show", "ctr@2"]).stdout)).unwrap();
    assert_eq!(one["version"], 2);
    for version in ["1", &last] {
        let out = models(&["verify", &format!("ctr@{version}")]);
        assert!(out.status.success() && text(&out.stdout).contains("verified"), "{}", text(&out.stderr));
    }
    let none = models(&["show", "ctr@9"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(text(&none.stderr).contains(&format!("no version 9 (have 1-{last})")), "{}", text(&none.stderr));
    let rolled = models(&["rollback", "ctr@1"]);
    assert!(rolled.status.success() && text(&models(&["list"]).stdout).contains("1 (pinned)"));

    // A changed byte in the registry's claim is found by deriving the version again.
    let shown = run("SHOW MODELS;", &data, &[]);
    assert!(shown.status.success() && text(&shown.stdout).contains("ctr"), "{}", text(&shown.stderr));
}

/// Every statement has its line, in the order in which they were written.
#[test]
fn with_json_each_statement_prints_its_line() {
    let scratch = Scratch::new("lines");
    let path = scratch.write("rows.csv", "id,colour,x,label\n1,red,0.5,1\n2,blue,0.5,0\n");
    let sql = format!(
        "CREATE SOURCE t (id BIGINT, colour STRING, x DOUBLE, label INT) WITH (connector = 'file', path = '{}');
         SELECT * FROM t TO TRAIN FTRLClassifier COLUMN colour LABEL label INTO one;
         SELECT * FROM t TO TRAIN FTRLClassifier COLUMN x LABEL label INTO two;",
        path.display()
    );
    let out = run(&sql, &scratch.path("data"), &[]);
    let lines: Vec<serde_json::Value> = text(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["model"].clone()).collect::<Vec<_>>(), ["one", "two"]);
}

/// A damaged version is named and passed over; the program, the list and the other versions go on.
#[test]
fn a_damaged_version_does_not_stand_in_the_way_of_the_others() {
    let scratch = Scratch::new("damaged");
    let data = scratch.path("data");
    let sql = generated(8_000, ", publish.every = 1500");
    let done = run_json(&sql, &data, &[]);
    let versions = data.join("models/ctr/versions");
    let models = |args: &[&str]| tidemill().arg("models").args(args).arg("--data-dir").arg(&data).output().unwrap();
    // The weights of one, the manifest of another.
    let flip = |name: &str| {
        let path = versions.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip("000001.snapshot");
    flip("000002.manifest");
    for (args, file) in [
        (["rollback", "ctr@1"], "000001.snapshot"),
        (["verify", "ctr@1"], "000001.snapshot"),
        (["rollback", "ctr@2"], "000002.manifest"),
        (["verify", "ctr@2"], "000002.manifest"),
    ] {
        let out = models(&args);
        assert_eq!(out.status.code(), Some(4), "{args:?} {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(file), "{args:?} {}", text(&out.stderr));
    }
    let list = models(&["list"]);
    assert!(list.status.success() && text(&list.stdout).contains("and 1 damaged"), "{list:?}");
    assert!(text(&list.stderr).contains("warning: ctr@2 is passed over"), "{list:?}");
    assert!(text(&models(&["show", "ctr"]).stdout).contains("\n2        damaged"));
    let verified = models(&["verify", &format!("ctr@{}", done["version"])]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let again = run_json(&sql, &data, &[]);
    assert_eq!((&again["state_hash"], &again["version"]), (&done["state_hash"], &done["version"]));
    assert!(again["warning"].as_str().is_some_and(|w| w.contains("000002.manifest")), "{again}");
}

#[test]
fn a_model_is_evaluated_on_rows_it_did_not_learn() {
    let scratch = Scratch::new("evaluate");
    let all = rows();
    let csv = |rows: &[(u32, &str, f64, u32)]| {
        let lines = rows.iter().map(|(u, c, x, l)| format!("{u},{c},{x},{l}\n"));
        std::iter::once("user,colour,x,label\n".to_string()).chain(lines).collect::<String>()
    };
    let train = scratch.write("train.csv", csv(&all[..3_000]));
    let test = scratch.write("test.csv", csv(&all[3_000..]));
    let sql = format!(
        "{}\nCREATE SOURCE held (user BIGINT, colour STRING, x DOUBLE, label INT) WITH (connector = 'file', path = '{}');
         SELECT * FROM held TO EVALUATE m LABEL label;",
        learn(train.to_str().unwrap(), ""),
        test.display()
    );
    let out = run_json(&sql, &scratch.path("data"), &[]);
    // Entropy of a label that is right nine times in ten: -0.9 ln 0.9 - 0.1 ln 0.1 = 0.325.
    let logloss = out["logloss"].as_f64().unwrap();
    assert!(out["samples"] == 1_000 && (0.28..0.40).contains(&logloss), "{out}");
}

/// What is promised elsewhere and not kept here is said, not passed over.
#[test]
fn a_key_that_nothing_watches_is_warned_about() {
    let scratch = Scratch::new("key");
    let path = scratch.write("rows.csv", "user,colour,x,label\n1,red,0.5,1\n1,red,0.5,1\n");
    let sql = learn(path.to_str().unwrap(), "").replace("user BIGINT", "user BIGINT PRIMARY KEY");
    let out = run_json(&sql, &scratch.path("data"), &[]);
    assert!(out["samples"] == 2 && out["warning"].as_str().unwrap().contains("PRIMARY KEY of 't'"), "{out}");
}

/// A job that has ended says so when its source has more, instead of ending again as if all were learned.
#[test]
fn rows_behind_the_end_of_a_finished_job_are_not_passed_over_in_silence() {
    use std::io::Write;
    let scratch = Scratch::new("grown");
    let path = scratch.write("rows.csv", "user,colour,x,label\n1,red,0.5,1\n");
    let sql = learn(path.to_str().unwrap(), "");
    let data = scratch.path("data");
    assert!(run_json(&sql, &data, &[])["warning"].is_null());
    assert!(run_json(&sql, &data, &[])["warning"].is_null(), "nothing has changed");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"2,red,0.5,1\n").unwrap();
    let again = run_json(&sql, &data, &[]);
    assert!(again["samples"] == 1 && again["warning"].as_str().unwrap().contains("has grown"), "{again}");

    let joined = generated(2_000, "");
    let data = scratch.path("joined");
    run_json(&joined, &data, &[]);
    let pushed = joined.replace("stream = 'impressions',", "stream = 'impressions', push = true,");
    let out = run(&pushed, &data, &[]);
    assert_eq!(out.status.code(), Some(4));
    assert!(text(&out.stderr).contains("has finished"), "{}", text(&out.stderr));
}

#[test]
fn check_binds_and_runs_nothing() {
    let scratch = Scratch::new("check");
    let good = tidemill().args(["check", "-e", &generated(10, "")]).current_dir(&scratch.0).output().unwrap();
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing was written");
    let bad =
        tidemill().args(["check", "-e", "SELECT * FORM t TO TRAIN FTRLClassifier LABEL y INTO m"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("line 1"), "{}", text(&bad.stderr));
    // Each setting by itself is good; together they are not, and that too is known before anything runs.
    let odd = generated(10, ", model.schedule = 'halve:100'");
    let odd = tidemill().args(["check", "-e", &odd]).output().unwrap();
    assert_eq!(odd.status.code(), Some(2));
    assert!(text(&odd.stderr).contains("use another model.optimizer"), "{}", text(&odd.stderr));
}

/// A file that grows is followed, whole lines only, until the program is told to stop; then it goes on where it was.
#[test]
fn a_followed_file_is_learned_as_it_grows() {
    use std::io::Write;
    let scratch = Scratch::new("follow");
    let path = scratch.write("grow.csv", "user,colour,x,label\n1,red,0.5,1\n2,blue,0.5,0\n3,gre");
    let sql = learn(path.to_str().unwrap(), ", follow = true");
    let data = scratch.path("data");
    let serving =
        || super::support::Serving::start(&["run", "-e", &sql, "--json", "--data-dir", data.to_str().unwrap()]);
    let s = serving();
    super::support::eventually("two whole lines", || (s.get_json("/v1/status")["samples"] == 2).then_some(()));
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"en,0.1,0\n4,red,0.9,1\n").unwrap();
    super::support::eventually("four", || (s.get_json("/v1/status")["samples"] == 4).then_some(()));
    let (code, out) = s.end("-INT");
    assert_eq!(code, Some(0));
    let stopped: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(stopped["state"], "stopped");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"5,red,0.9,1\n").unwrap();
    let s = serving();
    super::support::eventually("five", || (s.get_json("/v1/status")["samples"] == 5).then_some(()));
}

/// The demo ends by itself, and its seed repeats it.
#[test]
fn the_demo_repeats_itself_by_seed() {
    let scratch = Scratch::new("demo");
    let demo = |seed: &str, dir: &str| {
        let args =
            ["demo", "--for", "4s", "--rate", "2000", "--fast", "--no-serve", "--json", "--quiet", "--seed", seed];
        let out = tidemill().args(args).arg("--data-dir").arg(scratch.path(dir)).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        last_json(&out)
    };
    let (one, same, other) = (demo("1", "a"), demo("1", "b"), demo("2", "c"));
    assert_eq!((one["samples"].as_u64(), &one["state_hash"]), (Some(8_000), &same["state_hash"]));
    assert_ne!(one["state_hash"], other["state_hash"]);
    assert!(one["best_logloss"].as_f64().unwrap() < one["logloss"].as_f64().unwrap());
}
