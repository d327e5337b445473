//! A rollout on live traffic: the program runs, people ask it, and a version that is worse or that fails goes back alone.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use serde_json::{Value, json};
use tidemill_base::{Rng, StateHash};
use tidemill_serve::registry::Registry;

use super::support::{Scratch, Serving, eventually, generated, tidemill};

fn command(args: &[&str], data: &Path) -> (Option<i32>, String) {
    let out = tidemill().args(args).arg("--data-dir").arg(data).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code(), text)
}

fn done(args: &[&str], data: &Path) -> String {
    let (code, text) = command(args, data);
    assert_eq!(code, Some(0), "{args:?}: {text}");
    text
}

/// Adds a version that is made of another one's parameters.
fn made_of(registry: &Registry, version: u64, change: impl Fn(f32) -> f32) -> u64 {
    let mut snapshot = registry.load(version).unwrap();
    snapshot.entries.params.iter_mut().for_each(|w| *w = change(*w));
    let mut meta = registry.meta(version).unwrap();
    meta.version = registry.next_version();
    meta.state_hash = StateHash(u128::from(meta.version));
    registry.add(&meta, &snapshot).unwrap();
    meta.version
}

fn model(s: &Serving) -> Value {
    s.get_json("/v1/models/ctr")
}

/// The newest verdict, once there are `n`.
fn verdict(s: &Serving, n: usize) -> Value {
    eventually("a verdict", || {
        let verdicts = model(s)["verdicts"].as_array().unwrap().clone();
        (verdicts.len() == n).then(|| verdicts[0].clone())
    })
}

fn metric(s: &Serving, line: &str) -> Option<f64> {
    let (status, text) = s.get("/metrics");
    assert_eq!(status, 200);
    text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
}

/// Asks until told to stop; requests that got no answer from the live version or the one on trial.
fn people(s: &Serving, stop: &AtomicBool, asked: &AtomicU64) -> u64 {
    let (mut rng, mut failed) = (Rng::seeded(5), 0);
    while !stop.load(Relaxed) {
        let row =
            json!({"I1": rng.below(20), "C1": format!("u{}", rng.below(500)), "C3": format!("x{}", rng.below(50))});
        let (status, _) = s.post("/v1/models/ctr:predict", &json!({"rows": [row]}).to_string());
        failed += u64::from(status != 200);
        asked.fetch_add(1, Relaxed);
    }
    failed
}

/// Learned from a stream of clicks at 3,000 a second, and asked all the time. A version with its parameters turned around is
/// worse though each answer is a number: the labels of the stream say so. One whose answers are no numbers fails: the
/// requests say so. Each goes back at once with its reason, everybody has the live version again, and it is counted.
#[test]
fn bad_versions_go_back_under_live_traffic() {
    let scratch = Scratch::new("live-rollout");
    let data = scratch.path("data");
    let sql = generated(0, ", publish.interval = '500ms'")
        .replace("rate = 2000, drift_every = '5s'", "rate = 3000, pace = 'realtime'");
    let sql = scratch.write("clicks.sql", sql);
    let args = ["run", sql.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let s = Serving::start(&args);
    let live = eventually("five versions", || model(&s)["versions"][0]["version"].as_u64().filter(|v| *v >= 5));
    assert_eq!(s.end("-TERM").0, Some(0));
    let registry = Registry::open("ctr", &data.join("models/ctr/versions")).unwrap();
    let worse = made_of(&registry, live, |w| -w);
    let broken = made_of(&registry, live, |_| f32::NAN);
    drop(registry);

    let s = Serving::start(&args);
    done(&["models", "rollback", &format!("ctr@{live}")], &data);
    // Nobody has asked yet, so nothing tells that the broken one cannot answer.
    done(
        &[
            "models",
            "rollout",
            &format!("ctr@{broken}"),
            "--start",
            "STAGES '20%, 100%', EACH '1m', GUARD (errors = 1)",
        ],
        &data,
    );
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let failed = std::thread::scope(|scope| {
        let asking = scope.spawn(|| people(&s, &stop, &asked));
        let began = Instant::now();
        let bad = verdict(&s, 1);
        assert!(began.elapsed().as_secs_f64() < 5.0, "{:?}", began.elapsed());
        assert_eq!((&bad["version"], &bad["outcome"]), (&json!(broken), &json!("rolled back")));
        assert!(bad["reason"].as_str().unwrap().starts_with("errors: "), "{bad}");
        assert_eq!(metric(&s, "tidemill_rollout_rollbacks_total{model=\"ctr\",guard=\"errors\"}"), Some(1.0));

        // Now that people have asked, the broken one is not even begun with.
        let name = format!("ctr@{broken}");
        let (code, text) = command(&["models", "rollout", &name, "--start", ""], &data);
        assert_eq!(code, Some(5), "{text}");
        assert!(text.contains("a score of a recent request is not a number"), "{text}");

        let plan = "STAGES '20%, 100%', EACH '1m', GUARD (logloss = 1.005)";
        done(&["models", "rollout", &format!("ctr@{worse}"), "--start", plan], &data);
        assert_eq!(metric(&s, "tidemill_rollout_stage{model=\"ctr\"}"), Some(1.0));
        assert_eq!(metric(&s, "tidemill_rollout_share_percent{model=\"ctr\"}"), Some(20.0));
        assert_eq!(s.get_json("/v1/status")["rollout"]["now"]["version"], worse);
        let shown = done(&["models", "rollout", "ctr"], &data);
        assert!(shown.contains(&format!("rollout of version {worse}: stage 1 of 2 (20%, 100%, 1m each)")), "{shown}");
        assert!(shown.lines().any(|l| l.starts_with("logloss ")), "{shown}");
        let bad = verdict(&s, 2);
        assert_eq!((&bad["version"], &bad["outcome"]), (&json!(worse), &json!("rolled back")));
        assert!(bad["reason"].as_str().unwrap().starts_with("logloss: "), "{bad}");
        assert_eq!(metric(&s, "tidemill_rollout_rollbacks_total{model=\"ctr\",guard=\"logloss\"}"), Some(1.0));
        assert_eq!(metric(&s, "tidemill_rollout_stage{model=\"ctr\"}"), Some(0.0));
        let after = model(&s);
        assert_eq!((&after["version"], &after["labels"], &after["split"]), (&json!(live), &json!({}), &json!({})));

        // One that is ended by hand.
        done(&["models", "rollout", "ctr", "--start", ""], &data);
        assert!(done(&["models", "rollout", "ctr", "--abort"], &data).contains("the live version answers everybody"));
        stop.store(true, Relaxed);
        asking.join().unwrap()
    });
    assert!(asked.load(Relaxed) > 100, "{asked:?}");
    assert_eq!(failed, 0, "a version on trial costs nobody an answer");
    let shown = done(&["models", "rollout", "ctr"], &data);
    let ends: Vec<&str> = shown.lines().skip(2).map(str::trim).collect();
    assert!(shown.starts_with("model 'ctr' has no rollout going on"), "{shown}");
    assert!(ends[0].contains(" ended: an operator ended the rollout"), "{shown}");
    assert!(ends[1].starts_with(&format!("version {worse} rolled back: logloss: ")), "{shown}");
    assert!(ends[2].starts_with(&format!("version {broken} rolled back: errors: ")), "{shown}");
    assert_eq!(s.end("-TERM").0, Some(0));
    let (code, text) = command(&["models", "rollout", "ctr", "--abort"], &data);
    assert_eq!(code, Some(5), "{text}");
    for plan in ["STAGES '1%'); SHOW MODELS; ALTER MODEL ctr SPLIT (live = 100", "STAGES '5%, 1%, 100%'"] {
        assert_eq!(command(&["models", "rollout", "ctr", "--start", plan], &data).0, Some(2), "{plan}");
    }
}
