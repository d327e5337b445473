//! Every emission policy through the real binary: SQL in, figures and versions out.

use std::process::Stdio;

use serde_json::Value;
use tidemill_base::Rng;

use super::support::{Scratch, run, run_json, tidemill};

const IMPRESSIONS: u64 = 4_000;

/// Impressions every half second; clicks and purchases, some of them several times, up to a quarter of an hour later.
fn streams(scratch: &Scratch) -> String {
    let mut rng = Rng::seeded(5);
    let (mut shown, mut clicks, mut buys) = (String::from("imp_id,ts,person,item\n"), Vec::new(), Vec::new());
    for i in 0..IMPRESSIONS {
        let ts = 1_700_000_000_000 + i * 500;
        let person = rng.below(50);
        shown += &format!("{i},{ts},{person},i{}\n", rng.below(30));
        let often = if person.is_multiple_of(5) { 3 } else { 12 };
        while rng.below(often) == 0 {
            clicks.push((ts + rng.below(400_000), i));
        }
        while rng.below(2 * often) == 0 {
            buys.push((ts + rng.below(900_000), i, rng.below(100)));
        }
    }
    clicks.sort_unstable();
    buys.sort_unstable();
    let clicks: String = clicks.iter().map(|(ts, i)| format!("{i},{ts}\n")).collect();
    let buys: String = buys.iter().map(|(ts, i, price)| format!("{i},{ts},{price}\n")).collect();
    scratch.write("shown.csv", shown);
    scratch.write("clicks.csv", format!("imp_id,ts\n{clicks}"));
    scratch.write("buys.csv", format!("imp_id,ts,price\n{buys}"));
    let source = |name: &str, columns: &str| {
        format!(
            "CREATE SOURCE {name} ({columns}, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '1' SECOND)
             WITH (connector = 'file', path = '{}');\n",
            scratch.path(&format!("{name}.csv")).display()
        )
    };
    [
        source("shown", "imp_id BIGINT PRIMARY KEY, person BIGINT, item STRING"),
        source("clicks", "imp_id BIGINT"),
        source("buys", "imp_id BIGINT, price BIGINT"),
    ]
    .concat()
}

fn program(streams: &str, emit: &str, learner: &str, label: &str, with: &str) -> String {
    format!(
        "{streams}CREATE STREAM samples AS SELECT i.*, (c.imp_id IS NOT NULL) AS clicked, COUNT(c.imp_id) AS clicks,
           COALESCE(SUM(b.price), 0) AS spent, COALESCE(MAX(b.price), 0) + 10 * COUNT(c.imp_id) AS worth
         FROM shown i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '5' MINUTE
           LEFT JOIN buys b ON i.imp_id = b.imp_id AND b.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE {emit};
         SELECT * FROM samples TO TRAIN {learner} WITH model.optimizer = 'adagrad'{with} COLUMN person, item LABEL {label} INTO m;"
    )
}

const EARLY: &str = "EMIT EARLY INTERVAL '20' SECOND";

/// The same bits on one and on three threads, and the same labels whatever the policy; every impression is scored once.
#[test]
fn every_policy_learns_alike_on_any_number_of_threads() {
    let scratch = Scratch::new("policies");
    let streams = streams(&scratch);
    let mut positives = Vec::new();
    for (i, (emit, learner, label)) in [
        ("EMIT ON WINDOW CLOSE", "LogisticRegression", "clicked"),
        ("EMIT ON MATCH", "LogisticRegression", "clicked"),
        (EARLY, "LogisticRegression", "clicked"),
        (&format!("{EARLY} CORRECT FNW"), "LogisticRegression", "clicked"),
        (&format!("{EARLY} CORRECT ELAPSED"), "LogisticRegression", "clicked"),
        ("EMIT IMMEDIATE CORRECT NONE", "LogisticRegression", "clicked"),
        (&format!("{EARLY} NEGATIVE SAMPLE 0.2"), "LogisticRegression", "clicked"),
        ("NEGATIVE SAMPLE 0.2 CORRECT BY LOGIT", "FMClassifier", "clicked"),
    ]
    .into_iter()
    .enumerate()
    {
        let sql = program(&streams, emit, learner, label, "");
        let one = run_json(&sql, &scratch.path(&format!("{i}-1")), &["--threads", "1"]);
        let three = run_json(&sql, &scratch.path(&format!("{i}-3")), &["--threads", "3"]);
        assert_eq!(one["state_hash"], three["state_hash"], "{emit}");
        assert_eq!((&one["samples"], &one["logloss"]), (&Value::from(IMPRESSIONS), &three["logloss"]), "{emit}");
        positives.push(one["positives"].as_u64().unwrap());
    }
    assert!(positives.iter().all(|n| *n == positives[0] && *n > 300), "{positives:?}");
}

/// Numbers made of all feedback: whatever the policy, the labels that are scored are those of the closed windows.
#[test]
fn aggregates_are_labels_of_regressions() {
    let scratch = Scratch::new("aggregates");
    let streams = streams(&scratch);
    for label in ["clicks", "spent", "worth"] {
        let of = |i: usize, emit: &str| {
            let data = scratch.path(&format!("{label}-{i}"));
            let done = run_json(&program(&streams, emit, "LinearRegression", label, ""), &data, &[]);
            assert_eq!(done["samples"], IMPRESSIONS, "{done}");
            (done["mean_label"].clone(), done["counters"]["corrections"].as_u64().unwrap())
        };
        let (closed, none) = of(0, "EMIT ON WINDOW CLOSE");
        let (early, some) = of(1, EARLY);
        assert_eq!(closed, early, "{label}");
        // Of some 270 purchases two in three come within the window, nearly all of them after the wait.
        assert!(none == 0 && some > 150, "{label}: {none}, {some}");
    }
}

/// What does not go together is said before anything runs, and what is dangerous is said too.
#[test]
fn policies_that_do_not_fit_the_learner_are_refused_and_biased_ones_are_named() {
    let scratch = Scratch::new("misfits");
    let streams = streams(&scratch);
    for (emit, learner, label, words) in [
        (format!("{EARLY} CORRECT FNW"), "LinearRegression", "clicked", "write CORRECT RETRACT"),
        ("NEGATIVE SAMPLE 0.1 CORRECT BY LOGIT".to_string(), "LinearRegression", "clicked", "write CORRECT BY WEIGHT"),
        (String::new(), "LogisticRegression", "clicks", "(COUNT(...) > 0) AS clicks"),
    ] {
        let out = run(&program(&streams, &emit, learner, label, ""), &scratch.path("d"), &[]);
        let text = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(!out.status.success() && text.contains(words), "{emit}: {text}");
    }
    for (emit, words) in [("EMIT ON MATCH", "predictions are too high"), ("EMIT IMMEDIATE CORRECT NONE", "too low")] {
        let sql = scratch.write("p.sql", program(&streams, emit, "LogisticRegression", "clicked", ""));
        let out = tidemill().arg("check").arg(&sql).stdout(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).to_string();
        assert!(out.status.success() && text.contains(words), "{emit}: {text}");
    }
}
