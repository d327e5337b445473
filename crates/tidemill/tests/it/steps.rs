//! The figures of each step, where people look for them: `tidemill jobs`, `/metrics`, the page's status, the last line of
//! `--json`. Every row that comes into a step goes out of it or is told with the reason.

use serde_json::{Value, json};

use super::support::{Scratch, Serving, eventually, run_json, tidemill};

/// Two sources, a view over both, a join: of eight impressions one is unreadable, one has no time, one is left out by the
/// query, and one comes twice; of four clicks one is of an impression that never was.
fn program(scratch: &Scratch) -> String {
    let shown = scratch.write(
        "shown.csv",
        "imp_id,person,ts\n1,a,1000\n2,b,3000\n3,a,2000\nx,a,2500\n4,b,\n5,nobody,4000\n2,b,3000\n6,a,9000\n",
    );
    let clicked = scratch.write("clicked.csv", "imp_id,person,ts\n1,a,1500\n3,a,2500\n99,c,3000\n6,a,9100\n");
    let time = "rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '2' SECOND";
    format!(
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, person STRING, ts BIGINT, {time})
         WITH (connector = 'file', path = '{}', format = 'csv');
         CREATE SOURCE clicked (imp_id BIGINT, person STRING, ts BIGINT, {time})
         WITH (connector = 'file', path = '{}', format = 'csv');
         CREATE FEATURE VIEW seen KEYED BY person AS
           SELECT COUNT(s) OVER SAWTOOTH (INTERVAL '1' HOUR) AS imp_1h, COUNT(c) OVER SAWTOOTH (INTERVAL '1' HOUR) AS clk_1h
           FROM shown s, clicked c;
         SELECT i.person, f.*, (c.imp_id IS NOT NULL) AS clicked FROM shown i
           LEFT JOIN clicked c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' MINUTE
           LEFT JOIN seen FOR SYSTEM_TIME AS OF i.rt f ON f.person = i.person
           WHERE i.person <> 'nobody'
           EMIT ON WINDOW CLOSE
         TO TRAIN FTRLClassifier LABEL clicked INTO m;",
        shown.display(),
        clicked.display()
    )
}

fn step<'a>(steps: &'a [Value], step: &str, name: &str) -> &'a Value {
    let found = steps.iter().find(|s| s["step"] == step && s["name"] == name);
    found.unwrap_or_else(|| panic!("no {step} {name} in {steps:?}"))
}

/// The lines of `--json`.
fn jobs(args: &[&str]) -> Vec<Value> {
    let out = tidemill().arg("jobs").args(args).arg("--json").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_row_is_counted_in_the_step_that_it_does_not_leave() {
    let scratch = Scratch::new("steps");
    let data = scratch.path("data");
    let summary = run_json(&program(&scratch), &data, &[]);
    let told = summary["steps"].as_array().unwrap();
    let counts = |s: &Value| json!([s["in"], s["out"], s["dropped"]]);
    for (what, name, expected) in [
        ("source", "shown", json!([8, 7, {"unreadable": 1}])),
        ("source", "clicked", json!([4, 4, {}])),
        ("window", "shown", json!([7, 6, {"refused": 1}])),
        ("window", "clicked", json!([4, 4, {}])),
        // Views count what their sources let in, duplicates and those that the query leaves out included.
        ("view", "seen", json!([10, 6, {}])),
        ("join", "label join", json!([10, 4, {"filtered": 1, "duplicate impressions": 1, "unmatched feedback": 1}])),
        ("features", "features", json!([4, 4, {}])),
        ("learner", "FTRLClassifier", json!([4, 4, {}])),
    ] {
        assert_eq!(counts(step(told, what, name)), expected, "{what} {name}");
    }
    // By 0, 0, 1000, 0, 0 (of 4000), 1000 and 0 behind the largest before.
    let lateness = &step(told, "window", "shown")["lateness_ms"];
    assert_eq!(*lateness, json!({"p50": 0, "p99": 1000, "max": 1000, "sum": 2000}));

    // What is over is still told, with the same figures.
    let dir = data.display().to_string();
    let kept = jobs(&["m", "--data-dir", &dir]);
    assert_eq!(kept.iter().map(&counts).collect::<Vec<_>>()[..8], told.iter().map(&counts).collect::<Vec<_>>());
    let join = step(&kept, "join", "label join");
    assert_eq!((&join["pending"], join["state"]["index"].as_u64().is_some()), (&json!(0), true), "{join}");
    assert!(step(&kept, "learner", "FTRLClassifier")["state"]["parameters"].as_u64().unwrap() > 0);
    assert!(step(&kept, "view", "seen")["state_bytes"].as_u64().unwrap() > 0);
    let listed = jobs(&["--data-dir", &dir]);
    assert_eq!((listed.len(), &listed[0]["model"], &listed[0]["state"]), (1, &json!("m"), &json!("finished")));
    // Sources, windows, the view, the join, and so on; both windows feed the view, and the view feeds the join.
    assert_eq!(
        listed[0]["line"]["edges"],
        json!([[0, 2], [1, 3], [2, 5], [3, 5], [2, 4], [3, 4], [4, 5], [5, 6], [6, 7], [7, 8]])
    );
    let table = tidemill().args(["jobs", "m", "--data-dir", &dir]).output().unwrap();
    let table = String::from_utf8_lossy(&table.stdout);
    assert!(table.starts_with("m@1 finished: 10 events"), "{table}");
    assert!(table.contains("1 filtered, 1 duplicate impressions, 1 unmatched feedback"), "{table}");
}

/// While it runs the process itself is asked, and what is shown is a moment old; when it was killed that is told.
#[test]
fn a_running_job_tells_its_steps_and_a_killed_one_that_it_was() {
    let scratch = Scratch::new("steps-live");
    let dir = scratch.path("data").display().to_string();
    let time = "rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND";
    let sql = format!(
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, item STRING, ts BIGINT, {time}) WITH (connector = 'http');
         CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT, {time}) WITH (connector = 'http');
         SELECT i.item, (c.imp_id IS NOT NULL) AS clicked FROM shown i
           LEFT JOIN clicked c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' MINUTE
           EMIT IMMEDIATE CORRECT RETRACT
         TO TRAIN FTRLClassifier LABEL clicked INTO m"
    );
    let serving = Serving::start(&["run", "-e", &sql, "--data-dir", &dir]);
    let line = |id: u64, ts: u64| format!("{{\"imp_id\": {id}, \"item\": \"i\", \"ts\": {ts}}}\n");
    // The last moves the watermark past the others, so that these leave; it waits.
    let times = [1_700_000_010_000, 1_700_000_009_500, 1_700_000_010_000, 1_700_000_020_000];
    let body: String = (1..).zip(times).map(|(id, ts)| line(id, ts)).collect();
    assert_eq!(serving.post("/v1/sources/shown", &body).0, 200);
    // Of the one that waits; without it nobody would know how far clicks have come.
    assert_eq!(serving.post("/v1/sources/clicked", "{\"imp_id\": 4, \"ts\": 1700000020000}\n").0, 200);
    let steps = eventually("the events in the figures", || {
        Some(jobs(&["m", "--data-dir", &dir])).filter(|steps| step(steps, "learner", "FTRLClassifier")["in"] == 3)
    });
    let window = step(&steps, "window", "shown");
    assert_eq!((&window["lateness"]["max_ms"], &window["watermark_ms"]), (&json!(500), &json!(1_700_000_019_000i64)));
    assert_eq!(step(&steps, "join", "label join")["pending"], 4);
    // Nothing comes any more: that, and nothing else, is what the sources wait for.
    eventually("a second of silence", || {
        let steps = jobs(&["m", "--data-dir", &dir]);
        let waits = step(&steps, "source", "shown")["waits"].clone();
        (waits["nothing"].as_f64()? > 0.9).then_some(())
    });
    let (status, metrics) = serving.get("/metrics");
    assert_eq!(status, 200);
    let of = "model=\"m\",step=\"window\",name=\"shown\"";
    for line in [
        format!("tidemill_step_in_total{{{of}}} 4"),
        format!("tidemill_step_lateness_seconds_bucket{{{of},le=\"0.256\"}} 3"),
        format!("tidemill_step_lateness_seconds_bucket{{{of},le=\"1.024\"}} 4"),
        "tidemill_step_pending{model=\"m\",step=\"join\",name=\"label join\"} 4".into(),
        "tidemill_step_out_total{model=\"m\",step=\"features\",name=\"features\"} 3".into(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    assert!(
        metrics.contains("tidemill_step_wait_seconds_total{model=\"m\",step=\"source\",name=\"shown\",on=\"nothing\"}")
    );
    serving.end("-KILL");
    assert_eq!(jobs(&["--data-dir", &dir])[0]["state"], "killed");
}

#[test]
fn a_job_that_is_not_there_is_told_as_such() {
    let scratch = Scratch::new("steps-none");
    let dir = scratch.path("data").display().to_string();
    let out = tidemill().args(["jobs", "ctr", "--data-dir", &dir]).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no job 'ctr'"));
    let out = tidemill().args(["jobs", "--data-dir", &dir]).output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).starts_with("no jobs in "));
}
