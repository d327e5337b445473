//! A version answers the last live requests before it takes traffic; weights that lie on disk are read by that.

mod support;

use serde_json::json;
use support::{FakeHost, meta, row, snapshot};

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
    assert_eq!(host.served.predict(body.as_bytes(), None).unwrap().version, 3);
    bytes.pop();
    std::fs::write(&path, &bytes).unwrap();
    let message = host.served.registry().open_weights(2).map(drop).unwrap_err();
    assert!(message.message().contains("bytes; restore it from a copy"), "{message}");
}
