//! Which version answers: labels, split, shadow and rollout, over HTTP and after a restart.

mod support;

use std::{fs, sync::Arc};

use serde_json::{Value, json};
use support::{
    FakeHost, meta, row,
    site::{Site, of, open},
    snapshot, temp_dir,
};
use tidemill_base::Kind;
use tidemill_serve::{
    live::Which,
    registry::Registry,
    server::{Border, Limits},
};

fn body() -> String {
    json!({"rows": [row()]}).to_string()
}

/// The version that answers `path`, with these headers.
fn version(site: &Site, path: &str, headers: &str) -> u64 {
    let answer = site.send(&format!("POST {path}"), headers, &body());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["version"].as_u64().unwrap()
}

fn done(site: &Site, path: &str, body: Value) -> Value {
    let answer = site.post(path, &body.to_string());
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    answer.json()
}

#[test]
fn a_label_is_asked_by_every_protocol() {
    let site = open("labels");
    let model = done(&site, "/v1/models/ctr:label", json!({"label": "canary", "version": 2}));
    assert_eq!(model["labels"], json!({"canary": 2}));
    assert_eq!(version(&site, "/v1/models/ctr:predict", ""), 3);
    assert_eq!(version(&site, "/v1/models/ctr@canary:predict", ""), 2);
    assert_eq!(version(&site, "/v1/models/ctr@2:predict", ""), 2, "a version under a label is loaded");
    assert_eq!(version(&site, "/v1/models/ctr@live:predict", ""), 3);
    assert_eq!(site.get("/v1/models/ctr@canary").json()["version"], 2);
    let rank = json!({"candidates": [{"id": 1, "item": "i1"}], "context": {"user": "u1"}}).to_string();
    assert_eq!(site.post("/v1/models/ctr@canary:rank", &rank).json()["version"], 2);
    let infer = json!({"inputs": [
        {"name": "user", "datatype": "BYTES", "shape": [1], "data": ["u1"]},
        {"name": "item", "datatype": "BYTES", "shape": [1], "data": ["i1"]},
        {"name": "price", "datatype": "FP64", "shape": [1], "data": [2.0]},
    ]})
    .to_string();
    for path in ["/v2/models/ctr@canary/infer", "/v2/models/ctr/versions/canary/infer"] {
        let answer = site.post(path, &infer);
        assert_eq!((answer.status, answer.json()["model_version"].clone()), (200, json!("2")), "{path}: {answer:?}");
    }
    assert_eq!(site.get("/v2/models/ctr/versions/canary/ready").status, 200);
    assert_eq!(site.get("/v2/models/ctr").json()["versions"], json!(["3", "2"]));
    done(&site, "/v1/models/ctr:label", json!({"label": "canary", "version": null}));
    let gone = "model 'ctr' has no label 'canary' (have live)";
    site.refuses("POST /v1/models/ctr@canary:predict", "", &body(), 404, gone);
    assert_eq!(site.post("/v2/models/ctr@canary/infer", &infer).json(), json!({"error": gone}));
}

/// The label `live` is what rollback and promote move.
#[test]
fn the_label_live_makes_a_version_live() {
    let site = open("labels-live");
    done(&site, "/v1/models/ctr:label", json!({"label": "live", "version": 1}));
    assert_eq!(version(&site, "/v1/models/ctr:predict", ""), 1);
    assert_eq!(site.get("/v1/models/ctr").json()["live"], "pinned 1");
    done(&site, "/v1/models/ctr:label", json!({"label": "live", "version": null}));
    assert_eq!(version(&site, "/v1/models/ctr:predict", ""), 3);
}

#[test]
fn a_label_points_at_what_can_be_loaded_or_stays() {
    let dir = temp_dir("labels-damaged");
    let host = FakeHost::open_in(&dir);
    let versions = host.served.versions();
    versions.set_label("canary", 2).unwrap();
    let damaged = dir.join("000001.snapshot");
    let whole = fs::read(&damaged).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let failed = versions.set_label("canary", 1).unwrap_err();
    assert_eq!(failed.kind(), Kind::Corrupt);
    assert_eq!(host.served.predict(body().as_bytes(), Which::Label("canary")).unwrap().version, 2);
    assert_eq!(host.served.registry().routing().labels["canary"], 2);
    for (label, version, kind, message) in [
        ("canary", 9, Kind::NotFound, "model 'ctr' has no version 9 (have 1-3)"),
        (
            "7",
            2,
            Kind::Invalid,
            "label '7': a label begins with a letter and holds lower-case letters, digits, '-' and '_', at most 32",
        ),
    ] {
        let refused = versions.set_label(label, version).unwrap_err();
        assert_eq!((refused.kind(), refused.message()), (kind, message));
    }
    let refused = versions.remove_label("blue").unwrap_err();
    assert_eq!(refused.message(), "model 'ctr' has no label 'blue' (have live, canary)");
    for i in 0..15 {
        versions.set_label(&format!("own-{i}"), 2).unwrap();
    }
    assert_eq!(versions.set_label("one-more", 2).unwrap_err().kind(), Kind::Exhausted);
}

/// A process whose model was rolled back to a version that was damaged since starts with the one before it, says so, and keeps
/// the decision; where there is none it does not start, and says what to do.
#[test]
fn a_damaged_version_that_was_rolled_back_to_gives_way_to_the_one_before() {
    let dir = temp_dir("pinned-damaged");
    FakeHost::open_in(&dir).served.rollback(2).unwrap();
    fs::write(dir.join("000002.snapshot"), "short").unwrap();
    let host = FakeHost::open_in(&dir);
    assert_eq!(host.served.predict(body().as_bytes(), None).unwrap().version, 1);
    let json = host.served.to_json();
    let trouble = "version 1 answers instead of version 2, to which the model was rolled back: ";
    assert!(json["troubles"][0].as_str().unwrap().starts_with(trouble), "{json}");
    assert_eq!((&json["version"], &json["live"]), (&json!(1), &json!("pinned 2")));
    let metrics = of(host.clone(), Limits::default(), Border::default()).get("/metrics").body;
    assert!(metrics.contains("tidemill_version_troubles{model=\"ctr\"} 1"), "{metrics}");
    host.served.promote().unwrap();
    assert_eq!(host.served.predict(body().as_bytes(), None).unwrap().version, 3);
    assert_eq!(host.served.to_json().get("troubles"), None, "it is over");
    host.served.rollback(1).unwrap();
    drop(host);
    fs::write(dir.join("000001.snapshot"), "short").unwrap();
    // None before it can be read: the next one behind it, rather than none.
    let host = FakeHost::open_in(&dir);
    assert_eq!(host.served.predict(body().as_bytes(), None).unwrap().version, 3);
    drop(host);
    fs::write(dir.join("000003.snapshot"), "short").unwrap();
    let refused = std::panic::catch_unwind(|| FakeHost::open_in(&dir)).err().unwrap();
    let said = refused.downcast_ref::<String>().unwrap();
    assert!(said.contains("restore it from a copy or roll back to another version"), "{said}");
}

/// Labels and split are on disk before they hold, and a restart finds them; a version that was damaged meanwhile costs its
/// label only.
#[test]
fn a_restart_keeps_labels_and_split() {
    let dir = temp_dir("labels-restart");
    let host = FakeHost::open_in(&dir);
    host.served.versions().set_label("canary", 2).unwrap();
    host.served.versions().set_label("blue", 1).unwrap();
    host.served.versions().split(&[("live".into(), 0.0), ("canary".into(), 100.0)]).unwrap();
    drop(host);
    let again = FakeHost::open_in(&dir);
    assert_eq!(again.served.predict(body().as_bytes(), None).unwrap().version, 2);
    assert_eq!(again.served.predict(body().as_bytes(), Which::Label("blue")).unwrap().version, 1);
    drop(again);
    fs::write(dir.join("000001.snapshot"), "short").unwrap();
    let damaged = FakeHost::open_in(&dir);
    let json = damaged.served.to_json();
    assert!(json["troubles"][0].as_str().unwrap().starts_with("label 'blue' is left out: "), "{json}");
    assert_eq!(damaged.served.predict(body().as_bytes(), Which::Label("canary")).unwrap().version, 2);
    drop(damaged);
    fs::write(dir.join("routing.json"), "{").unwrap();
    let refused = Registry::open("ctr", &dir).unwrap_err();
    assert!(refused.message().contains("remove it to go on without labels"), "{refused}");
}

/// Retention never takes a version away that something points at.
#[test]
fn what_is_pointed_at_is_retained() {
    let dir = temp_dir("labels-retain");
    let registry = Registry::open("ctr", &dir).unwrap();
    (1..=6).for_each(|v| registry.add(&meta(v), &snapshot(&row(), v as f32)).unwrap());
    registry.set_label("canary", 2).unwrap();
    // Versions were made a second apart, from 1,700,000,001 on: by age those before the fourth go.
    assert_eq!(registry.retain_since(50, meta(4).created_ms).unwrap(), [1, 3]);
    assert_eq!(registry.retain_since(2, i64::MIN).unwrap(), [4]);
    assert_eq!(registry.retain_since(50, i64::MAX).unwrap(), [5], "the newest stays, however old");
    registry.remove_label("canary").unwrap();
    assert_eq!(registry.retain(1).unwrap(), [2]);
}

#[test]
fn traffic_is_split_by_key() {
    let site = open("split");
    done(&site, "/v1/models/ctr:label", json!({"label": "canary", "version": 2}));
    let model = done(&site, "/v1/models/ctr:split", json!({"live": 70, "canary": 30}));
    assert_eq!(model["split"], json!({"live": 70.0, "canary": 30.0}));
    let of = |i: usize| version(&site, "/v1/models/ctr:predict", &format!("X-Routing-Key: user-{i}\r\n"));
    let before: Vec<u64> = (0..60).map(of).collect();
    let canaries = before.iter().filter(|v| **v == 2).count();
    // 18 expected, with a deviation of 3.5.
    assert!((6..=30).contains(&canaries), "{canaries}");
    assert!((0..60).all(|i| of(i) == before[i]), "a key stays where it is");
    done(&site, "/v1/models/ctr:split", json!({"live": 40, "canary": 60}));
    assert!((0..60).all(|i| before[i] == 3 || of(i) == 2), "whoever had the canary has it still");
    assert_eq!(version(&site, "/v1/models/ctr@3:predict", "X-Routing-Key: user-1\r\n"), 3, "a version is that version");
    for (body, status, message) in [
        (r#"{"live":100,"canary":10}"#, 400, "weights must sum to 100, got 110"),
        (r#"{"live":110,"canary":-10}"#, 400, "weight of 'live' must be from 0 to 100, got 110"),
        (r#"{"live":"x","canary":10}"#, 400, "weight of 'live': expected a number of percent"),
        (r#"{"live":NaN}"#, 400, r#"say the percentages, live among them: {"live":90,"canary":10}"#),
        (r#"{"live":90,"blue":10}"#, 404, "model 'ctr' has no label 'blue' (have live, canary)"),
    ] {
        site.refuses("POST /v1/models/ctr:split", "", body, status, message);
    }
    assert_eq!(
        site.get("/v1/models/ctr").json()["split"],
        json!({"live": 40.0, "canary": 60.0}),
        "nothing was changed"
    );
    done(&site, "/v1/models/ctr:split", json!({"live": 100}));
    assert!((0..20).all(|i| of(i) == 3));
}

/// A shadow scores what others answer, and the answers do not change.
#[test]
fn a_shadow_is_compared_request_by_request() {
    let host = FakeHost::open("shadow");
    let plain = host.served.predict(body().as_bytes(), None).unwrap();
    host.served.versions().set_label("shadow", 1).unwrap();
    let of_shadow = host.served.predict(body().as_bytes(), Which::Label("shadow")).unwrap();
    let expected = of_shadow.predictions[0].number() - plain.predictions[0].number();
    for _ in 0..20 {
        assert_eq!(host.served.predict(body().as_bytes(), None).unwrap(), plain);
    }
    let figures = || host.served.to_json()["shadow"]["figures"].clone();
    let scored = eventually(|| {
        let paired = figures()["paired"].clone();
        let n = paired["rows"].as_u64().unwrap() + paired["passed_over"].as_u64().unwrap();
        (n == 21 - 1).then_some(paired)
    });
    let mean = scored["mean_difference"].as_f64().unwrap();
    assert!((mean - expected).abs() < 1e-6, "{mean} {expected}");
    assert_eq!(figures()["live"]["requests"], 20);
    host.served.versions().remove_label("shadow").unwrap();
    assert_eq!(host.served.to_json().get("shadow"), None);
}

/// Waits, at most half a minute.
fn eventually<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    panic!("not within 30 s");
}

/// Only what these figures can say is asked of them; the stages are short.
fn short(version: u64) -> Value {
    json!({"version": version, "stages": "10%, 100%", "each": "300ms", "errors": 1, "requests_min": 1})
}

fn ask(host: &Arc<FakeHost>, times: usize) {
    for i in 0..times {
        host.served.predict(body().as_bytes(), Which::Key(format!("user-{i}").as_bytes())).unwrap();
    }
}

#[test]
fn a_good_version_is_rolled_out_stage_by_stage() {
    let site = open("rollout");
    let unpinned = "model 'ctr' serves the newest weights as they are learned, and a rollout compares with a version that \
                    stays; make one live first: tidemill models rollback ctr@VERSION";
    site.refuses("POST /v1/models/ctr:rollout", "", &short(2).to_string(), 409, unpinned);
    done(&site, "/v1/models/ctr:rollback", json!({"version": 1}));
    let model = done(&site, "/v1/models/ctr:rollout", short(2));
    assert_eq!((&model["rollout"]["version"], &model["rollout"]["stage"]), (&json!(2), &json!(1)));
    assert_eq!((&model["labels"], &model["split"]), (&json!({"canary": 2}), &json!({"live": 90.0, "canary": 10.0})));
    let going = "version 2 of model 'ctr' is being rolled out: ";
    for (path, body, why) in [
        ("rollout", short(3), "one rollout at a time; ABORT it first"),
        ("split", json!({"live": 100}), "its traffic is split by that"),
        ("label", json!({"label": "canary", "version": 3}), "the label 'canary' is its own"),
    ] {
        site.refuses(&format!("POST /v1/models/ctr:{path}"), "", &body.to_string(), 409, &format!("{going}{why}"));
    }
    let ended = eventually(|| {
        ask(&site.host, 50);
        let model = site.get("/v1/models/ctr").json();
        (model.get("rollout").is_none() && model["verdicts"][0].is_object()).then_some(model)
    });
    assert_eq!((&ended["live"], &ended["labels"], &ended["split"]), (&json!("pinned 2"), &json!({}), &json!({})));
    assert_eq!(ended["verdicts"][0]["outcome"], "promoted");
    assert_eq!(version(&site, "/v1/models/ctr:predict", ""), 2);
}

/// A version whose predictions are no numbers fails: everybody gets the live one again, nothing else changes, and the reason
/// stays on disk.
#[test]
fn a_version_that_fails_is_rolled_back_at_once_and_alone() {
    let dir = temp_dir("rollout-fails");
    let registry = Registry::open("ctr", &dir).unwrap();
    registry.add(&meta(1), &snapshot(&row(), 0.1)).unwrap();
    registry.add(&meta(2), &snapshot(&row(), f32::NAN)).unwrap();
    drop(registry);
    let host = FakeHost::open_in(&dir);
    let versions = host.served.versions();
    versions.rollback(1).unwrap();
    versions.set_label("blue", 3).unwrap();
    let plan = json!({"stages": "50%, 100%", "each": "1h", "errors": 1});
    versions.roll_out(Some(2), tidemill_serve::rollout::Plan::from_json(plan.as_object().unwrap()).unwrap()).unwrap();
    let began = tidemill_base::SystemClock::new();
    let model = eventually(|| {
        ask(&host, 100);
        let model = host.served.to_json();
        // First the requests, then the reason.
        (model.get("rollout").is_none() && model["verdicts"][0].is_object()).then_some(model)
    });
    let took = tidemill_base::Clock::elapsed(&began);
    assert!(took.as_secs_f64() < 2.0, "{took:?}");
    let verdict = &model["verdicts"][0];
    assert_eq!((&verdict["outcome"], &verdict["version"]), (&json!("rolled back"), &json!(2)));
    assert!(verdict["reason"].as_str().unwrap().starts_with("errors: "), "{verdict}");
    assert_eq!(
        (&model["live"], &model["labels"], &model["split"]),
        (&json!("pinned 1"), &json!({"blue": 3}), &json!({}))
    );
    ask(&host, 100);
    drop(host);
    let again = Registry::reading("ctr", &dir).unwrap().routing();
    assert_eq!((again.rollout, again.verdicts.len()), (None, 1));
}

#[test]
fn a_rollout_ends_by_hand_and_goes_on_after_a_restart() {
    let dir = temp_dir("rollout-restart");
    let host = FakeHost::open_in(&dir);
    let versions = host.served.versions();
    assert_eq!(versions.abort().unwrap_err().message(), "model 'ctr' has no rollout to end");
    versions.rollback(1).unwrap();
    let mut plan = short(0);
    plan["each"] = json!("1h");
    let plan = tidemill_serve::rollout::Plan::from_json(plan.as_object().unwrap()).unwrap();
    let roll_out = |host: &FakeHost, version| host.served.versions().roll_out(Some(version), plan.clone());
    let refused = roll_out(&host, 9).unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (Kind::NotFound, "model 'ctr' has no version 9 (have 1-3)"));
    assert_eq!(roll_out(&host, 1).unwrap_err().message(), "version 1 of model 'ctr' is live already");
    roll_out(&host, 2).unwrap();
    drop(host);
    let again = FakeHost::open_in(&dir);
    assert_eq!(again.served.to_json()["rollout"]["version"], 2);
    assert_eq!(again.served.predict(body().as_bytes(), Which::Label("canary")).unwrap().version, 2);
    // An operator who makes another version live has the last word.
    again.served.versions().rollback(3).unwrap();
    let model = again.served.to_json();
    assert_eq!((model.get("rollout"), &model["labels"]), (None, &json!({})));
    assert_eq!(model["verdicts"][0]["reason"], "an operator made version 3 live");
    roll_out(&again, 2).unwrap();
    again.served.versions().abort().unwrap();
    assert_eq!(again.served.to_json()["verdicts"][0]["reason"], "an operator ended the rollout");
    assert_eq!(again.served.predict(body().as_bytes(), None).unwrap().version, 3);
}

/// Whoever comes while another changes what answers is told which change is going on.
#[test]
fn one_change_at_a_time() {
    let site = open("changes");
    let (host, path) = (site.host.clone(), "/v1/models/ctr:label");
    let counts: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let change = || {
            let answers: Vec<_> =
                (0..30).map(|_| site.post(path, &json!({"label": "canary", "version": 2}).to_string())).collect();
            let refused: Vec<_> = answers.iter().filter(|a| a.status == 409).collect();
            for answer in &refused {
                let message = answer.json()["error"]["message"].as_str().unwrap().to_string();
                assert!(
                    message.starts_with("operation ")
                        && message.contains("(label canary) of model 'ctr' is in progress")
                );
            }
            (answers.iter().filter(|a| a.status == 200).count(), refused.len())
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(change)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(counts.iter().all(|(done, refused)| done + refused == 30), "{counts:?}");
    assert!(counts.iter().any(|(done, _)| *done > 0));
    assert_eq!(host.served.registry().routing().labels["canary"], 2);
}

/// Stage, share, pairs, guards and what became of versions stand in the metrics, model by model.
#[test]
fn a_rollout_stands_in_the_metrics() {
    let site = open("rollout-metrics");
    let has = |line: &str| {
        let text = site.get("/metrics").body.clone();
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    };
    has("tidemill_rollout_stage{model=\"ctr\"} 0");
    has("tidemill_rollout_verdicts_total{model=\"ctr\",outcome=\"rolled_back\"} 0");
    done(&site, "/v1/models/ctr:rollback", json!({"version": 1}));
    let plan = json!({"version": 2, "stages": "10%, 100%", "each": "1h", "errors": 2, "psi": 0.25});
    let model = done(&site, "/v1/models/ctr:rollout", plan);
    let guards = model["rollout"]["guards"].as_array().unwrap();
    assert_eq!(guards[0], json!({"guard": "errors", "figure": null, "bound": 2.0, "evidence": 0.0}));
    assert_eq!((guards.len(), &guards[1]["guard"]), (2, &json!("psi")));
    ask(&site.host, 50);
    for line in [
        "tidemill_rollout_stage{model=\"ctr\"} 1",
        "tidemill_rollout_stages{model=\"ctr\"} 2",
        "tidemill_rollout_version{model=\"ctr\"} 2",
        "tidemill_rollout_share_percent{model=\"ctr\"} 10",
        "tidemill_rollout_matured_pairs{model=\"ctr\"} 0",
        "tidemill_rollout_errors{model=\"ctr\",arm=\"version\"} 0",
        "tidemill_rollout_guard_bound{model=\"ctr\",guard=\"errors\"} 2",
        "tidemill_rollout_guard_evidence{model=\"ctr\",guard=\"psi\"} 0",
    ] {
        has(line);
    }
    done(&site, "/v1/models/ctr:rollout", json!({"abort": true}));
    has("tidemill_rollout_verdicts_total{model=\"ctr\",outcome=\"ended\"} 1");
    has("tidemill_rollout_stage{model=\"ctr\"} 0");
    done(&site, "/v1/models/ctr:label", json!({"label": "shadow", "version": 2}));
    has("tidemill_shadow_version{model=\"ctr\"} 2");
    has("tidemill_shadow_paired_rows{model=\"ctr\"} 0");
    // A metric is told about once, whatever the models.
    let text = site.get("/metrics").body.clone();
    let told: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let mut once = told.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(told.len(), once.len());
}
