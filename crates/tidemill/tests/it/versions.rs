//! Which version answers, through the program: labels by command and SQL, rollouts judged by the stream, versions that are held.

use std::{fmt::Write, path::Path, process::Output, time::Instant};

use serde_json::{Value, json};
use tidemill_base::Rng;

use super::support::{Scratch, Serving, eventually, generated, last_json, run, tidemill};

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn command(args: &[&str], data: &Path) -> Output {
    tidemill().args(args).arg("--data-dir").arg(data).output().unwrap()
}

fn done(args: &[&str], data: &Path) -> String {
    let out = command(args, data);
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    text(&out)
}

fn alter(sql: &str, data: &Path) -> Output {
    command(&["run", "-e", sql], data)
}

/// Rows with a label, as JSON lines.
fn rows(rng: &mut Rng, out: &mut String, count: u64, rate: f64) {
    for _ in 0..count {
        let (item, clicked) = (rng.below(50), rng.next_f64() < rate);
        writeln!(out, "{}", json!({"item": format!("i{item}"), "clicked": clicked})).unwrap();
    }
}

fn labelled(scratch: &Scratch, lines: &str, with: &str) -> String {
    let path = scratch.write("rows.jsonl", lines);
    format!(
        "CREATE SOURCE rows (item STRING, clicked BOOLEAN) WITH (connector = 'file', path = '{}');
         SELECT * FROM rows TO TRAIN FTRLClassifier WITH {with} COLUMN item LABEL clicked INTO ctr;",
        path.display()
    )
}

/// Without a process that serves, labels are kept for the next one; a rollout needs one that does.
#[test]
fn labels_are_kept_on_disk_by_command_and_sql() {
    let scratch = Scratch::new("labels");
    let data = scratch.path("data");
    let mut lines = String::new();
    rows(&mut Rng::seeded(1), &mut lines, 4_000, 0.2);
    assert!(run(&labelled(&scratch, &lines, "publish.every = 1000"), &data, &[]).status.success());
    assert!(done(&["models", "labels", "ctr"], &data).contains("ctr has no labels"));
    assert_eq!(done(&["models", "labels", "ctr", "canary", "2"], &data), "ctr@canary is version 2\n");
    let out = alter(
        "ALTER MODEL ctr LABEL blue VERSION 3; ALTER MODEL ctr SPLIT (live = 75, canary = 25); SHOW MODELS",
        &data,
    );
    assert!(out.status.success() && text(&out).contains("canary 2"), "{}", text(&out));
    let shown = done(&["models", "show", "ctr"], &data);
    assert!(shown.lines().any(|l| l.starts_with("2 ") && l.contains("canary")), "{shown}");
    assert!(shown.contains("blue") && shown.contains("traffic: live 75%, canary 25%"), "{shown}");
    assert!(done(&["models", "show", "ctr@canary"], &data).contains("\"version\": 2"));
    assert_eq!(done(&["models", "labels", "ctr"], &data), "blue 3\ncanary 2\n");
    for (args, code, message) in [
        (vec!["models", "labels", "ctr", "canary", "99"], 3, "model 'ctr' has no version 99"),
        (
            vec!["models", "labels", "ctr", "green", "--remove"],
            3,
            "model 'ctr' has no label 'green' (have live, blue, canary)",
        ),
        (vec!["models", "labels", "ctr", "canary"], 2, "say which version"),
        (vec!["models", "labels", "ctr", "7up", "2"], 2, "label '7up': a label begins with a letter"),
        (vec!["models", "split", "ctr", "live=100", "canary=10"], 2, "weights must sum to 100, got 110"),
        (vec!["models", "split", "ctr", "live=NaN", "canary=10"], 2, "weight of 'live' must be from 0 to 100, got NaN"),
        (vec!["models", "split", "ctr", "live=90", "green=10"], 3, "model 'ctr' has no label 'green'"),
        (vec!["run", "-e", "ALTER MODEL ctr ROLLOUT VERSION 2"], 5, "no process serves model 'ctr'"),
        (vec!["run", "-e", "ALTER MODEL ctx LABEL canary VERSION 2"], 2, "no model 'ctx'"),
    ] {
        let out = command(&args, &data);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", text(&out));
        assert!(text(&out).contains(message), "{args:?}: {}", text(&out));
    }
    // The weights of a version are gone: the label stays where it was.
    let snapshot = data.join("models/ctr/versions/000001.snapshot");
    let whole = std::fs::read(&snapshot).unwrap();
    std::fs::write(&snapshot, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(command(&["models", "labels", "ctr", "canary", "1"], &data).status.code(), Some(4));
    assert!(done(&["models", "labels", "ctr"], &data).contains("canary 2"));
    assert!(done(&["models", "labels", "ctr", "canary", "--remove"], &data).contains("no label canary any more"));
    assert_eq!(done(&["models", "labels", "ctr"], &data), "blue 3\n");
}

/// B48: a flood of positives is held and told, learning goes on, and what follows is published again.
#[test]
fn b48_a_flood_of_positives_is_not_published() {
    let scratch = Scratch::new("flood");
    let data = scratch.path("data");
    let (mut rng, mut lines) = (Rng::seeded(2), String::new());
    // Mini-batches are of 256 rows, so versions are due each 5,120; the last comes at the end.
    rows(&mut rng, &mut lines, 20_480, 0.012);
    rows(&mut rng, &mut lines, 5_120, 0.6);
    rows(&mut rng, &mut lines, 10_240, 0.012);
    // Calibration would hold it as well, and what comes after the flood.
    let sql = labelled(&scratch, &lines, "publish.every = 5000, publish.calibration = 1000");
    let out = run(&sql, &data, &[]);
    assert!(out.status.success(), "{}", text(&out));
    let shown = done(&["models", "show", "ctr"], &data);
    assert!(shown.contains("version 5 held: label rate 0.61 vs baseline 0.012 (gate 5x)"), "{shown}");
    let summary = last_json(&out);
    assert_eq!((&summary["samples"], &summary["version"]), (&json!(35_840), &json!(7)), "{shown}");
    assert_eq!(shown.lines().filter(|l| l.contains(" held: ")).count(), 1, "{shown}");
    assert!(summary.get("warning").is_none(), "what was published since is good: {summary}");
}

/// F42: one of two sources begins to say the opposite: what is learned from it is not published, and every version that was
/// is good.
#[test]
fn f42_labels_flipped_by_one_source_are_not_published() {
    let scratch = Scratch::new("flipped");
    let data = scratch.path("data");
    let (mut rng, mut lines) = (Rng::seeded(6), String::new());
    rows(&mut rng, &mut lines, 40_960, 0.05);
    for _ in 0..2_560 {
        rows(&mut rng, &mut lines, 1, 0.05);
        rows(&mut rng, &mut lines, 1, 0.95);
    }
    rows(&mut rng, &mut lines, 40_960, 0.05);
    let out = run(&labelled(&scratch, &lines, "publish.every = 5000"), &data, &[]);
    assert!(out.status.success(), "{}", text(&out));
    let shown = done(&["models", "show", "ctr"], &data);
    let held: Vec<&str> = shown.lines().filter(|line| line.contains(" held: ")).collect();
    assert!(!held.is_empty() && held[0].contains("version 9 held: label rate 0.5"), "{shown}");
    let s = Serving::start(&["serve", "--data-dir", data.to_str().unwrap()]);
    let versions = model(&s)["versions"].as_array().unwrap().clone();
    assert!(versions.len() > 9, "versions were published before the flood and behind it: {shown}");
    for version in versions {
        let path = format!("/v1/models/ctr@{}:predict", version["version"]);
        let rows: Vec<Value> = (0..50).map(|item| json!({"item": format!("i{item}")})).collect();
        let (status, reply) = s.post(&path, &json!({"rows": rows}).to_string());
        let reply: Value = serde_json::from_str(&reply).unwrap();
        let all = reply["predictions"].as_array().unwrap_or_else(|| panic!("{status} {reply}"));
        let mean = all.iter().map(|p| p["probability"].as_f64().unwrap()).sum::<f64>() / all.len() as f64;
        assert!((0.025..0.15).contains(&mean), "{path}: {mean}");
    }
}

/// B47: labels that are all the same are learned and told, and no version is made of them.
#[test]
fn b47_one_label_only_is_not_published() {
    let scratch = Scratch::new("one-label");
    let data = scratch.path("data");
    let mut lines = String::new();
    rows(&mut Rng::seeded(3), &mut lines, 3_000, 0.0);
    let out = run(&labelled(&scratch, &lines, "validate.window = 1000"), &data, &[]);
    assert!(out.status.success(), "{}", text(&out));
    let summary = last_json(&out);
    assert_eq!((&summary["samples"], &summary["version"]), (&json!(3_000), &json!(0)));
    let warning = summary["warning"].as_str().unwrap();
    assert!(warning.contains("only label 0 in the last 3,000 samples: version 1 not published"), "{warning}");
}

/// Versions older than they may be go; the newest stays.
#[test]
fn versions_are_retained_by_count_and_age() {
    let scratch = Scratch::new("retain");
    let mut lines = String::new();
    rows(&mut Rng::seeded(4), &mut lines, 6_000, 0.2);
    for (with, kept) in [("publish.keep = 3", 3), ("publish.keep_for = '0ms'", 1), ("publish.keep_for = '1h'", 6)] {
        let data = scratch.path(&format!("data-{kept}"));
        assert!(
            run(&labelled(&scratch, &lines, &format!("publish.every = 1000, {with}")), &data, &[]).status.success()
        );
        let shown = done(&["models", "show", "ctr"], &data);
        assert_eq!(shown.lines().count(), 1 + kept, "{with}: {shown}");
        assert!(shown.contains("\n6 "), "the newest stays: {shown}");
    }
}

/// A version of half the bits has another format, the same state hash, and is derived again like any other.
#[test]
fn versions_hold_parameters_as_exactly_as_is_asked_for() {
    let scratch = Scratch::new("precision");
    let mut lines = String::new();
    rows(&mut Rng::seeded(5), &mut lines, 3_000, 0.2);
    let with = |precision: &str| {
        let with = format!("publish.precision = '{precision}'");
        labelled(&scratch, &lines, &with).replace("FTRLClassifier", "FMClassifier")
    };
    let mut states = Vec::new();
    for (precision, format) in [("f32", 4), ("f16", 5), ("f32; item=int8", 5)] {
        let data = scratch.path(&format!("data-{}", states.len()));
        let out = run(&with(precision), &data, &[]);
        assert!(out.status.success(), "{}", text(&out));
        states.push(last_json(&out)["state_hash"].clone());
        let snapshot = std::fs::read(data.join("models/ctr/versions/000001.snapshot")).unwrap();
        assert_eq!(snapshot[8..12], u32::to_le_bytes(format), "{precision}");
        assert!(done(&["models", "verify", "ctr@1"], &data).contains("verified"));
    }
    assert!(states.iter().all(|state| state.is_string() && *state == states[0]), "{states:?}");
    for (precision, why) in [
        ("f16; itm=f32", "publish.precision: no slot 'itm' (have bias, item)"),
        ("half", "publish.precision: 'half' is none of f32, f16, int8"),
    ] {
        let out = run(&with(precision), &scratch.path("refused"), &[]);
        assert_eq!(out.status.code(), Some(2));
        assert!(text(&out).contains(why), "{}", text(&out));
    }
}

/// Rankings by SQL: on disk where nobody serves, at once where somebody does; checked either way.
#[test]
fn rankings_are_made_by_sql() {
    let scratch = Scratch::new("rankings");
    let data = scratch.path("data");
    let mut lines = String::new();
    rows(&mut Rng::seeded(6), &mut lines, 2_000, 0.2);
    assert!(run(&labelled(&scratch, &lines, "publish.every = 500"), &data, &[]).status.success());
    let sql = |sql: &str| {
        let out = alter(sql, &data);
        (out.status.code(), text(&out))
    };
    let by_bid = r#"CREATE RANKING feed FOR ctr AS '{"defaults": {"bid": 1}, "score": "bid"}'"#;
    assert_eq!(sql(by_bid), (Some(0), "ctr has the ranking feed\n".into()));
    let own = r#"CREATE RANKING feed FOR MODEL ctr VERSION 2 AS '{"defaults": {"bid": 1}, "score": "-bid"}'"#;
    assert_eq!(sql(own), (Some(0), "ctr has the ranking feed@2\n".into()));
    let s = Serving::start(&["serve", "--data-dir", data.to_str().unwrap()]);
    let ranked = |s: &Serving| {
        let request = json!({"candidates": [{"id": 1, "bid": 1}, {"id": 2, "bid": 2}], "ranking": "feed"});
        let (status, body) = s.post("/v1/models/ctr:rank", &request.to_string());
        let items = serde_json::from_str::<Value>(&body).unwrap_or_else(|_| panic!("{status} {body}"))["items"].clone();
        items
            .as_array()
            .unwrap_or_else(|| panic!("{status} {body}"))
            .iter()
            .map(|i| i["id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ranked(&s), [2, 1]);
    done(&["models", "rollback", "ctr@2"], &data);
    assert_eq!(ranked(&s), [1, 2]);
    assert_eq!(sql("ALTER MODEL ctr DROP RANKING feed VERSION 2").0, Some(0));
    assert_eq!(ranked(&s), [2, 1]);
    let (code, told) = sql(by_bid);
    assert!(code == Some(4) && told.contains("write CREATE OR REPLACE RANKING"), "{code:?} {told}");
    let less = by_bid.replace("CREATE", "CREATE OR REPLACE").replace("\"bid\"}", "\"1 / bid\"}");
    assert_eq!(sql(&less).0, Some(0));
    assert_eq!(ranked(&s), [1, 2]);
    for (statement, code, why) in [
        (r#"CREATE RANKING a FOR ctr AS '{"score": "bid"}'"#, 2, "score, character 1: no column 'bid'"),
        (r#"CREATE RANKING a FOR ctx AS '{"score": "1"}'"#, 2, "no model 'ctx'"),
        (r#"CREATE RANKING a FOR ctr AS score"#, 2, "the ranking as JSON in quotes"),
        (r#"CREATE RANKING a FOR ctr AS '{"score": "1"}' AND"#, 2, "the end of the statement"),
        ("CREATE RANKING a FOR ctr AS '{'", 2, "ranking is not JSON"),
        ("ALTER MODEL ctr DROP RANKING b", 3, "model 'ctr' has no ranking 'b'"),
    ] {
        let (got, told) = sql(statement);
        assert!(got == Some(code) && told.contains(why), "{statement}: {got:?} {told}");
    }
    assert_eq!(s.end("-TERM").0, Some(0));
    assert_eq!(sql("ALTER MODEL ctr DROP RANKING feed").0, Some(0));
    assert_eq!(sql("ALTER MODEL ctr DROP RANKING feed").0, Some(3));
}

fn model(s: &Serving) -> Value {
    s.get_json("/v1/models/ctr")
}

/// A version that has learned next to nothing is worse on the samples whose window has passed: it is rolled back for that,
/// alone and told. One that has learned more passes every stage. Nobody but the rollout changes what answers.
#[test]
fn a_rollout_is_judged_by_matured_samples_of_the_stream() {
    let scratch = Scratch::new("rollout");
    let data = scratch.path("data");
    let sql = generated(0, ", publish.interval = '500ms'")
        .replace("rate = 2000, drift_every = '5s'", "rate = 3000, pace = 'realtime'");
    let sql = scratch.write("clicks.sql", sql);
    let s = Serving::start(&["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
    let newest = |s: &Serving| model(s)["versions"][0]["version"].as_u64();
    let live = eventually("nine versions", || newest(&s).filter(|v| *v >= 9));
    let began = Instant::now();
    done(&["models", "rollback", &format!("ctr@{live}")], &data);
    assert!(began.elapsed().as_secs_f64() < 1.0, "{:?}", began.elapsed());
    let guards = "GUARD (logloss = 1.005, calibration = 1.5)";
    let out = alter(&format!("ALTER MODEL ctr ROLLOUT VERSION 1 (STAGES '20%, 100%', EACH '2s', {guards})"), &data);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(
        (&model(&s)["labels"], &model(&s)["split"]),
        (&json!({"canary": 1}), &json!({"live": 80.0, "canary": 20.0}))
    );
    let two = alter("ALTER MODEL ctr ROLLOUT VERSION 2", &data);
    assert_eq!(two.status.code(), Some(4), "{}", text(&two));
    assert!(
        text(&two).contains("version 1 of model 'ctr' is being rolled out: one rollout at a time"),
        "{}",
        text(&two)
    );
    let verdict = |s: &Serving, n: usize| {
        eventually("a verdict", || {
            let verdicts = model(s)["verdicts"].as_array().unwrap().clone();
            (verdicts.len() == n).then(|| verdicts[0].clone())
        })
    };
    let bad = verdict(&s, 1);
    assert_eq!((&bad["version"], &bad["outcome"]), (&json!(1), &json!("rolled back")));
    let reason = bad["reason"].as_str().unwrap();
    assert!(reason.starts_with("logloss: ") || reason.starts_with("calibration: "), "{reason}");
    let after = model(&s);
    assert_eq!((&after["version"], &after["labels"], &after["split"]), (&json!(live), &json!({}), &json!({})));
    let shown = done(&["models", "show", "ctr"], &data);
    assert!(shown.contains(&format!("version 1 rolled back: {reason}")), "{shown}");
    eventually("it is warned of", || {
        s.get_json("/v1/status")["warning"].as_str().filter(|w| w.contains("version 1 was rolled back")).map(|_| ())
    });
    // Some seconds of learning later.
    let better = eventually("newer versions", || newest(&s).filter(|v| *v >= live + 4));
    let sql =
        format!("ALTER MODEL ctr ROLLOUT VERSION {better} (STAGES '20%, 100%', EACH '500ms', GUARD (logloss = 1.02))");
    let out = alter(&sql, &data);
    assert!(out.status.success(), "{}", text(&out));
    let good = verdict(&s, 2);
    assert_eq!((&good["version"], &good["outcome"]), (&json!(better), &json!("promoted")), "{good}");
    assert_eq!(model(&s)["live"], format!("pinned {better}"));
    assert_eq!(s.end("-TERM").0, Some(0));
    assert!(done(&["models", "show", "ctr"], &data).contains("it passed every stage"));
}
