//! A version answers the last live requests before it takes traffic; weights that lie on disk are read by that.

mod support;

use serde_json::json;
use support::{FakeHost, meta, row, snapshot};
use tidemill_model::entries::Entries;

#[test]
fn a_version_that_cannot_answer_recent_requests_takes_no_traffic() {
    let host = FakeHost::open("warm-up");
    let registry = host.served.registry();
    registry.add(&meta(4), &snapshot(&row(), f32::NAN)).unwrap();
    let body = json!({"rows": [row(), {"user": "somebody else"}]}).to_string();
    for _ in 0..3 {
        host.served.predict(body.as_bytes(), None).unwrap();
    }
    let before = host.served.predict(body.as_bytes(), None).unwrap();
    let refused = host.served.rollback(4).unwrap_err();
    assert!(refused.message().contains("recent request is not a number"), "{refused}");
    assert_eq!(host.served.predict(body.as_bytes(), None).unwrap(), before, "the other one goes on");
    assert_eq!(registry.live().to_string(), "latest", "and after a restart, too");
    host.served.rollback(1).unwrap();
    assert_eq!(host.served.predict(body.as_bytes(), None).unwrap().version, 1);
}

#[test]
fn the_last_requests_are_kept_and_no_more() {
    let host = FakeHost::open("warm-up-bound");
    let weights = host.served.registry().open_weights(3).unwrap();
    let predictor = host.served.predictor();
    assert_eq!(predictor.warm_up(&weights).unwrap(), 0);
    let untouched = weights.bytes();
    let rows: Vec<_> = (0..20).map(|i| json!({"user": format!("u{i}")})).collect();
    let body = json!({ "rows": rows }).to_string();
    host.served.predict(body.as_bytes(), None).unwrap();
    assert_eq!(predictor.warm_up(&weights).unwrap(), 8, "a large request does not stand for all");
    assert!(weights.bytes() > untouched, "pages are read");
    for _ in 0..100 {
        host.served.predict(body.as_bytes(), None).unwrap();
    }
    assert_eq!(predictor.warm_up(&weights).unwrap(), 256);
}

/// A mapped version whose page is damaged answers with an error that names the file, and the live one goes on.
#[test]
fn damage_in_a_mapped_version_is_told_to_whoever_touches_it() {
    let dir = support::temp_dir("mapped-damage");
    let host = FakeHost::open_in(&dir);
    let path = dir.join("000002.snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    let weights = host.served.registry().open_weights(2).unwrap();
    assert!(weights.damage().is_none());
    drop(weights);
    // The parameter of some key: the last word that is not 0 before the checksums at the end.
    let at = (0..bytes.len() - 24).rev().find(|at| bytes[*at] != 0).unwrap();
    bytes[at] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let weights = host.served.registry().open_weights(2).unwrap();
    let body = json!({"rows": [row()]}).to_string();
    host.live.keep(weights, 2, 200);
    let refused = host.served.predict(body.as_bytes(), Some(2)).unwrap_err();
    assert!(refused.message().contains("000002.snapshot: section lines (bytes"), "{refused}");
    let explained = host.served.explain(body.as_bytes(), Some(2)).unwrap_err();
    assert!(explained.message().contains("000002.snapshot: section lines (bytes"), "{explained}");
    assert_eq!(host.served.predict(body.as_bytes(), None).unwrap().version, 3);
    bytes.pop();
    std::fs::write(&path, &bytes).unwrap();
    let message = host.served.registry().open_weights(2).map(drop).unwrap_err();
    assert!(message.message().contains("bytes; restore it from a copy"), "{message}");
}

/// Labels and rollouts take a version only once it has answered the last live requests; a stage asks it again.
#[test]
fn labels_and_rollouts_warm_a_version_up() {
    let host = FakeHost::open("warm-up-labels");
    let (registry, versions) = (host.served.registry(), host.served.versions());
    // It fails for one user only.
    let rare = json!({"user": "rare"});
    let others = support::keys(&json!({"user": "u0"}));
    let mut fails = snapshot(&rare, f32::NAN);
    fails.entries = Entries::pairs(fails.entries.iter().map(|(k, w)| (k, w[0])).filter(|(k, _)| !others.contains(k)));
    registry.add(&meta(4), &fails).unwrap();
    let ask = |row: &serde_json::Value| host.served.predict(json!({"rows": [row]}).to_string().as_bytes(), None);
    versions.rollback(1).unwrap();
    versions.set_label("blue", 2).unwrap();
    let plan = json!({"stages": "1%, 100%", "each": "100ms", "errors": 1, "requests_min": 0});
    let plan = tidemill_serve::rollout::Plan::from_json(plan.as_object().unwrap()).unwrap();
    ask(&rare).unwrap();
    let why = "version 4 of model 'ctr': a score of a recent request is not a number";
    for refused in
        [versions.set_label("blue", 4), versions.set_label("live", 4), versions.roll_out(Some(4), plan.clone())]
    {
        assert_eq!(refused.unwrap_err().message(), why);
    }
    let model = host.served.to_json();
    assert_eq!((&model["labels"], &model["live"]), (&json!({"blue": 2}), &json!("pinned 1")), "all stays as it was");
    assert!(model.get("rollout").is_none());
    // Once nobody has asked for that user lately it is let in, and found out before the next stage.
    let others: Vec<_> = (0..256).map(|i| json!({"user": format!("u{i}")})).collect();
    for eight in others.chunks(8) {
        host.served.predict(json!({"rows": eight}).to_string().as_bytes(), None).unwrap();
    }
    versions.roll_out(Some(4), plan).unwrap();
    // By whoever the live version answers.
    host.served.predict(json!({"rows": [rare]}).to_string().as_bytes(), tidemill_serve::live::Which::Live).unwrap();
    let verdict = (0..3_000).find_map(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
        registry.routing().verdicts.pop()
    });
    let verdict = verdict.expect("a verdict within 30 s");
    assert_eq!((verdict.version, verdict.outcome.word(), verdict.guard()), (4, "rolled back", "warm_up"));
    assert_eq!(verdict.reason, format!("warm_up: {why}"));
    assert_eq!(host.served.to_json()["live"], "pinned 1");
}
