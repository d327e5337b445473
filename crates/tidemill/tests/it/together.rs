//! Several models on one stream: each learns what it learns alone, to the bit, and one that fails stops alone.

use std::{collections::BTreeMap, path::Path, process::Output};

use serde_json::Value;

use super::support::{Scratch, Serving, eventually, run, send_signal, tidemill};

const FILES: &str = "
CREATE SOURCE impressions (
  imp_id BIGINT PRIMARY KEY, ts BIGINT, I1 BIGINT, I2 BIGINT, C1 STRING, C2 STRING, C3 STRING, C4 STRING, true_p DOUBLE,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.2' SECOND)
WITH (connector = 'generator', stream = 'impressions', seed = 3, rate = 20000, ROWS, click_delay = '100ms');
CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.2' SECOND)
WITH (connector = 'generator', stream = 'clicks', seed = 3, rate = 20000, ROWS, click_delay = '100ms');
CREATE STREAM samples AS
  SELECT i.*, (c.imp_id IS NOT NULL) AS clicked
  FROM impressions i LEFT JOIN clicks c
    ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' SECOND
  EMIT EARLY INTERVAL '0.3' SECOND CORRECT RETRACT;";

/// What the models are: two share their columns, one has others.
const MODELS: [(&str, &str); 3] = [
    ("a", "FTRLClassifier WITH publish.every = 5000 COLUMN I1, I2, C1, C2, C3"),
    (
        "b",
        "FMClassifier WITH publish.every = 7000, model.alpha = '0.1; C1=0.02', model.seed = 4 COLUMN I1, I2, C1, C2, C3",
    ),
    ("c", "DeepFMClassifier WITH model.layers = '8', validate.oracle = 'true_p' COLUMN C1, C4, CROSS([C2, C4])"),
];

fn program(rows: u64, models: &[&str]) -> String {
    let sources = FILES.replace("ROWS", &format!("rows = {rows}"));
    let train = |name: &&str| {
        let (_, learner) = MODELS.iter().find(|(model, _)| model == name).unwrap();
        format!("SELECT * FROM samples TO TRAIN {learner} LABEL clicked INTO {name};\n")
    };
    format!("{sources}\n{}", models.iter().map(train).collect::<String>())
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// The summaries of a run by model.
fn summaries(out: &Output) -> BTreeMap<String, Value> {
    let lines = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e} in {line}"));
    lines.lines().map(line).map(|summary| (summary["model"].as_str().unwrap().to_string(), summary)).collect()
}

/// What of a summary must be equal however the model was learned.
fn learned(summary: &Value) -> Value {
    let kept = ["state_hash", "samples", "positives", "logloss", "auc", "version", "entries", "mini_batch"];
    let kept: Vec<&Value> = kept.iter().map(|name| &summary[*name]).collect();
    assert!(summary["state_hash"].as_str().is_some_and(|hash| hash.len() == 32), "{summary}");
    serde_json::json!(kept)
}

fn alone(scratch: &Scratch, rows: u64) -> BTreeMap<&'static str, Value> {
    let one = |(model, _): &(&'static str, &str)| {
        let out = run(&program(rows, &[model]), &scratch.path(&format!("alone-{model}")), &[]);
        assert!(out.status.success(), "{}", text(&out));
        (*model, learned(&summaries(&out)[*model]))
    };
    MODELS.iter().map(one).collect()
}

fn verify(data: &Path, what: &str) {
    let out = tidemill().args(["models", "verify", what, "--data-dir"]).arg(data).output().unwrap();
    assert!(text(&out).contains("verified"), "{what}: {}", text(&out));
}

#[test]
fn models_on_one_stream_learn_what_they_learn_alone() {
    let scratch = Scratch::new("together");
    let alone = alone(&scratch, 20_000);
    for threads in ["1", "2", "8"] {
        let data = scratch.path(&format!("together-{threads}"));
        let out = run(&program(20_000, &["a", "b", "c"]), &data, &["--threads", threads]);
        assert!(out.status.success(), "{}", text(&out));
        let together = summaries(&out);
        assert_eq!(together.len(), 3);
        for (model, expected) in &alone {
            assert_eq!(learned(&together[*model]), *expected, "{model}, {threads} threads");
        }
        assert!(data.join("models/a/job/journal.log").exists());
        assert!(!data.join("models/b/job/journal.log").exists(), "one journal for all");
        // Derived again: by each model's own version, from the one journal.
        ["a@2", "b@1", "b@2", "c@1"].iter().for_each(|version| verify(&data, version));
        let out = tidemill().args(["checkpoints", "verify", "b", "--data-dir"]).arg(&data).output().unwrap();
        assert!(text(&out).contains(together["b"]["state_hash"].as_str().unwrap()), "{}", text(&out));
    }
}

/// Killed at accesses to any of the directories, and gone on with: all models are at one mini-batch again.
#[test]
fn a_kill_leaves_all_models_at_one_mini_batch() {
    let scratch = Scratch::new("together-killed");
    let alone = alone(&scratch, 15_000);
    let sql = program(15_000, &["a", "b", "c"]).replace("publish.every", "checkpoint.interval = '20ms', publish.every");
    for (i, places) in
        [["a/job/checkpoints:9", "c/job:14"], ["b/job/checkpoints:7", "journal.log:60"]].iter().enumerate()
    {
        let data = scratch.path(&format!("data-{i}"));
        for place in places {
            let mut command = tidemill();
            command.args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"]).arg(&data);
            command.env("TIDEMILL_FAILPOINT", place).output().unwrap();
        }
        let out = run(&sql, &data, &["--threads", "2"]);
        assert!(out.status.success(), "{}", text(&out));
        for (model, expected) in &alone {
            assert_eq!(learned(&summaries(&out)[*model]), *expected, "{model}");
        }
        verify(&data, "b@2");
    }
}

fn run_with_panic(sql: &str, data: &Path, panic: &str) -> Output {
    let mut command = tidemill();
    command.args(["run", "--json", "--quiet", "--no-serve", "-e", sql, "--data-dir"]).arg(data);
    command.env("TIDEMILL_FAILPOINT_MODEL", panic).output().unwrap()
}

/// Whichever it is, also the one whose job reads for all: the others end as if it had not been there, and it rests over
/// restarts, with its reason.
#[test]
fn a_model_that_panics_stops_alone() {
    let scratch = Scratch::new("together-panic");
    let alone = alone(&scratch, 15_000);
    for stopped in ["a", "b"] {
        let data = scratch.path(&format!("data-{stopped}"));
        let sql = program(15_000, &["a", "b", "c"]);
        for attempt in ["first", "again"] {
            // The second time nothing panics: it rests.
            let panic = if attempt == "first" { format!("{stopped}:40") } else { "nobody:1".into() };
            let out = run_with_panic(&sql, &data, &panic);
            assert!(
                !out.status.success() && text(&out).contains(&format!("model '{stopped}' has stopped: ")),
                "{}",
                text(&out)
            );
            let summaries = summaries(&out);
            for (model, expected) in alone.iter().filter(|(model, _)| **model != stopped) {
                assert_eq!(learned(&summaries[*model]), *expected, "{model} beside {stopped}, {attempt}");
            }
            assert!(summaries[stopped]["state"].as_str().unwrap().starts_with("stopped (it panicked: "), "{attempt}");
            assert!(summaries[stopped]["state_hash"].is_null(), "{}", summaries[stopped]);
            let out = tidemill().args(["jobs", "--data-dir"]).arg(&data).output().unwrap();
            let told = text(&out);
            assert!(
                told.lines().any(|line| line.starts_with(stopped) && line.contains("stopped: it panicked")),
                "{told}"
            );
            assert!(told.lines().any(|line| line.starts_with('c') && line.contains("finished")), "{told}");
        }
        verify(&data, "c@1");
    }
}

/// One that diverges publishes nothing and says so; the others do not notice.
#[test]
fn a_model_that_diverges_is_held_alone() {
    let scratch = Scratch::new("together-diverges");
    let one = run(&program(15_000, &["a"]), &scratch.path("alone"), &[]);
    let wild = "SELECT * FROM samples TO TRAIN LogisticRegression
        WITH model.optimizer = 'sgd', model.alpha = 1000, publish.every = 4000 COLUMN NUMERIC(I1), NUMERIC(I2), C1 LABEL clicked INTO wild;";
    let out = run(&(program(15_000, &["a"]) + wild), &scratch.path("together"), &[]);
    assert!(out.status.success(), "{}", text(&out));
    let (one, both) = (summaries(&one), summaries(&out));
    assert_eq!(learned(&both["a"]), learned(&one["a"]));
    assert_eq!(both["wild"]["version"], 0, "{}", both["wild"]);
    assert!(both["wild"]["warning"].as_str().unwrap().contains("the learner diverges"), "{}", both["wild"]);
}

/// All are served by one process, and it is told which has stopped.
#[test]
fn models_on_one_endless_stream_are_served_together() {
    let scratch = Scratch::new("together-served");
    let data = scratch.path("data");
    let sql = "CREATE SOURCE rows (user STRING, item STRING, stars DOUBLE, clicked BOOLEAN) WITH (connector = 'http');
        SELECT * FROM rows TO TRAIN FTRLClassifier COLUMN user, item LABEL clicked INTO clicks;
        SELECT * FROM rows TO TRAIN FMRegressor COLUMN user, item LABEL stars INTO stars;";
    let sql = scratch.write("served.sql", sql);
    let mut command = tidemill();
    command.args(["run", "--quiet"]).arg(&sql).arg("--data-dir").arg(&data);
    let serving = Serving::spawn(command.env("TIDEMILL_FAILPOINT_MODEL", "stars:3"));
    let push = |i: usize| {
        let row = format!(
            "{{\"user\": \"u{}\", \"item\": \"i{}\", \"stars\": {}, \"clicked\": true}}\n",
            i % 7,
            i % 3,
            i % 5
        );
        assert_eq!(serving.post("/v1/sources/rows", &row).0, 200);
        eventually("it is learned", || (serving.get_json("/v1/status")["events"].as_u64()? as usize > i).then_some(()));
    };
    push(0);
    let score = |model: &str| {
        let (status, body) =
            serving.post(&format!("/v1/models/{model}:predict"), r#"{"rows": [{"user": "u0", "item": "i0"}]}"#);
        assert_eq!(status, 200, "{body}");
        body
    };
    let (clicks, stars) = (score("clicks"), score("stars"));
    (1..12).for_each(push);
    eventually("it says so", || {
        serving.get("/metrics").1.contains("tidemill_model_stopped{model=\"stars\"} 1").then_some(())
    });
    let metrics = serving.get("/metrics").1;
    assert!(metrics.contains("tidemill_model_stopped{model=\"clicks\"} 0"), "{metrics}");
    assert_eq!(metrics.matches("# TYPE tidemill_events_total").count(), 1, "each name has one head");
    let status = serving.get_json("/v1/status");
    assert!(status["warning"].as_str().unwrap().contains("model 'stars' has stopped: it panicked"), "{status}");
    assert!(status["beside"][0]["state"].as_str().unwrap().starts_with("stopped: it panicked"), "{status}");
    assert_ne!(score("clicks"), clicks, "it goes on");
    // What it knew when it stopped still answers.
    let _ = (score("stars"), stars);
    let jobs = tidemill().args(["jobs", "--data-dir"]).arg(&data).output().unwrap();
    assert!(text(&jobs).lines().any(|line| line.starts_with("stars") && line.contains("stopped")), "{}", text(&jobs));
    send_signal(&serving.child, "-TERM");
}

#[test]
fn what_cannot_be_learned_together_is_refused_with_its_reason() {
    let scratch = Scratch::new("together-refused");
    let data = scratch.path("data");
    assert!(run(&program(3_000, &["a", "b"]), &data, &[]).status.success());
    let why = |sql: &str| {
        let out = run(sql, &data, &[]);
        assert!(!out.status.success(), "{}", text(&out));
        text(&out)
    };
    assert!(
        why(&program(3_000, &["b"])).contains("model 'b' is learned together with 'a', whose journal it stands on")
    );
    assert!(why(&program(3_000, &["b", "a"])).contains("whose journal it stands on"));
    assert!(run(&program(3_000, &["c"]), &data, &[]).status.success());
    assert!(why(&program(3_000, &["a", "b", "c"])).contains("model 'c' was learned alone, from a journal of its own"));
    // A model that comes later is derived from the journal's beginning, and one may be left out.
    let fresh = scratch.path("fresh");
    assert!(run(&program(3_000, &["a"]), &fresh, &[]).status.success());
    let later = run(&program(3_000, &["a", "b"]), &fresh, &[]);
    assert!(later.status.success(), "{}", text(&later));
    let both = summaries(&run(&program(3_000, &["a", "b"]), &scratch.path("both"), &[]));
    assert_eq!(learned(&summaries(&later)["b"]), learned(&both["b"]));
    assert_eq!(summaries(&later)["a"]["state_hash"], both["a"]["state_hash"]);
    // Endless streams with nothing in common want programs of their own, and it is said why.
    let endless = "CREATE SOURCE rows (user STRING, item STRING, clicked BOOLEAN) WITH (connector = 'http');
        SELECT * FROM rows TO TRAIN FTRLClassifier COLUMN user LABEL clicked INTO one;";
    for (next, reason) in [
        (
            "SELECT * FROM rows WHERE item <> 'x' TO TRAIN FTRLClassifier COLUMN user LABEL clicked INTO two",
            "do not select the same rows",
        ),
        (
            "SELECT user, LENGTH(item) AS n, clicked FROM rows TO TRAIN FTRLClassifier COLUMN n LABEL clicked INTO two",
            "do not select the same rows",
        ),
    ] {
        let text = why(&format!("{endless} {next};"));
        assert!(text.contains("not learned together with it") && text.contains(reason), "{text}");
    }
    let computed = "CREATE SOURCE rows (user STRING, item STRING, clicked BOOLEAN) WITH (connector = 'http');
        CREATE VIEW wide AS SELECT user, LENGTH(item) AS n, clicked FROM rows;
        SELECT * FROM wide TO TRAIN FTRLClassifier COLUMN user LABEL clicked INTO one;
        SELECT * FROM wide TO TRAIN FTRLClassifier COLUMN n LABEL clicked INTO two;";
    assert!(why(computed).contains("only 'two' needs column 'n', which is computed"));
}
