//! `tidemill serve`: models of a data directory answer without a job, as many as there are, in the memory they are given.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::support::{Scratch, Serving, run_json, send_signal, tidemill};

/// Learns `rows` rows of a model called `ctr`, with a version every hundred.
fn learn(scratch: &Scratch, data: &Path) {
    let rows: Vec<String> =
        (0..600).map(|i| json!({"item": format!("i{}", i % 5), "label": i % 5 == 0 && i > 255}).to_string()).collect();
    let file = scratch.write("rows.jsonl", rows.join("\n"));
    let sql = format!(
        "CREATE SOURCE rows (item STRING, label BOOLEAN) WITH (connector = 'file', path = '{}');
         SELECT * FROM rows TO TRAIN FTRLClassifier WITH publish.every = 100 COLUMN item LABEL label INTO ctr;",
        file.display()
    );
    run_json(&sql, data, &[]);
}

fn ask(s: &Serving, model: &str) -> (u16, Value) {
    let (status, body) = s.post(&format!("/v1/models/{model}:predict"), r#"{"rows": [{"item": "i0"}]}"#);
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")))
}

fn probability(s: &Serving, model: &str) -> f64 {
    let (status, reply) = ask(s, model);
    assert_eq!(status, 200, "{reply}");
    reply["predictions"][0]["probability"].as_f64().unwrap()
}

fn metric(s: &Serving, name: &str) -> u64 {
    let (_, text) = s.get("/metrics");
    let line = text.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}: {text}"));
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => copy(&path, &to.join(entry.file_name())),
            path => drop(fs::copy(&path, to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn every_version_of_a_learned_model_can_be_asked_without_a_job() {
    let scratch = Scratch::new("serve");
    let data = scratch.path("data");
    learn(&scratch, &data);
    let args = ["serve", "--data-dir", data.to_str().unwrap()];
    let s = Serving::start(&args);
    let by_version: Vec<f64> = (1..=3).map(|v| probability(&s, &format!("ctr@{v}"))).collect();
    assert!(by_version[0] < by_version[1] && by_version[1] < by_version[2], "{by_version:?}");
    assert_eq!(probability(&s, "ctr"), by_version[2], "the newest is live");
    let (status, reply) = ask(&s, "ctr@9");
    assert_eq!((status, reply["error"]["message"].as_str()), (404, Some("model 'ctr' has no version 9 (have 1-3)")));
    let (status, reply) = ask(&s, "nobody");
    assert_eq!((status, reply["error"]["message"].as_str()), (404, Some("no model 'nobody' (have ctr)")));
    assert_eq!(s.get("/v2/models/ctr/versions/2/ready").0, 200);
    assert_eq!(s.get("/v2/health/ready").0, 200);
    let (status, body) = s.post("/v1/sources/rows", "{}");
    assert!(status == 409 && body.contains("serves what was learned"), "{body}");
    // What an operator does is in effect at once, and after a restart.
    let rolled = tidemill().args(["models", "rollback", "ctr@1", "--data-dir"]).arg(&data).output().unwrap();
    assert!(rolled.status.success(), "{}", String::from_utf8_lossy(&rolled.stderr));
    assert_eq!(probability(&s, "ctr"), by_version[0]);
    send_signal(&s.child, "-KILL");
    drop(s);
    let s = Serving::start(&args);
    assert_eq!(probability(&s, "ctr"), by_version[0]);
    assert_eq!(s.post("/v1/models/ctr:promote", "").0, 200);
    assert_eq!(probability(&s, "ctr"), by_version[2]);
    assert_eq!(s.end("-INT").0, Some(0));
}

/// A thousand models in one process, in room for a few of them: all answer, and the memory keeps its bound.
#[test]
fn a_thousand_models_are_loaded_on_demand_and_leave_for_others() {
    let scratch = Scratch::new("serve-thousand");
    let (one, data) = (scratch.path("one"), scratch.path("data"));
    learn(&scratch, &one);
    for i in 0..1000 {
        copy(&one.join("models/ctr/versions"), &data.join(format!("models/m{i}/versions")));
        let job = data.join(format!("models/m{i}/job"));
        fs::create_dir_all(&job).unwrap();
        fs::copy(one.join("models/ctr/job/program.sql"), job.join("program.sql")).unwrap();
    }
    let s = Serving::start(&["serve", "--data-dir", data.to_str().unwrap(), "--model-bytes-max", "4MiB"]);
    assert_eq!((metric(&s, "tidemill_models"), metric(&s, "tidemill_models_loaded")), (1000, 0), "nothing is read yet");
    let first = probability(&s, "m0");
    for i in 1..1000 {
        assert_eq!(probability(&s, &format!("m{i}")), first, "m{i}");
    }
    let (loaded, bytes) = (metric(&s, "tidemill_models_loaded"), metric(&s, "tidemill_model_bytes"));
    assert!(bytes <= 4 << 20 && loaded > 20 && loaded < 100, "{loaded} models of {bytes} bytes");
    assert_eq!(metric(&s, "tidemill_model_evictions_total"), 1000 - loaded);
    assert_eq!(probability(&s, "m999"), first);
    assert_eq!(metric(&s, "tidemill_model_loads_total"), 1000, "the last one was still there");
    assert_eq!(s.get_json("/v1/models")["models"].as_array().unwrap().len(), 1000);
    // Many at once, each of another model, none of which is in memory.
    std::thread::scope(|scope| {
        for t in 0..8 {
            let s = &s;
            scope.spawn(move || (0..20).for_each(|i| assert_eq!(probability(s, &format!("m{}", t * 20 + i)), first)));
        }
    });
}

/// A damaged model costs those who ask for it.
#[test]
fn a_model_that_cannot_be_loaded_is_named_and_the_others_answer() {
    let scratch = Scratch::new("serve-damaged");
    let data = scratch.path("data");
    learn(&scratch, &data);
    copy(&data.join("models/ctr"), &data.join("models/broken"));
    fs::write(data.join("models/broken/versions/000003.snapshot"), "no snapshot").unwrap();
    let s = Serving::start(&["serve", "--data-dir", data.to_str().unwrap()]);
    let (status, reply) = ask(&s, "broken");
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(status == 500 && message.contains("000003.snapshot") && message.contains("roll back"), "{message}");
    assert_eq!(ask(&s, "ctr").0, 200);
    assert!(s.get_json("/v1/status")["warning"].as_str().unwrap().contains("000003.snapshot"));
}

#[test]
fn a_directory_without_models_is_refused_with_the_way_out() {
    let scratch = Scratch::new("serve-none");
    let fails = |args: &[&str]| {
        let out = tidemill().args(["serve", "--port", "0"]).args(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let none = scratch.path("none");
    let (code, text) = fails(&["--data-dir", none.to_str().unwrap()]);
    assert!(code == Some(3) && text.contains("no data directory") && !none.exists(), "{text}");
    let (code, text) = fails(&["--data-dir", scratch.0.to_str().unwrap()]);
    assert!(code == Some(3) && text.contains("train one into it"), "{text}");
    let data = scratch.path("data");
    learn(&scratch, &data);
    let (code, text) = fails(&["--data-dir", data.to_str().unwrap(), "--model", "nobody"]);
    assert!(code == Some(3) && text.contains("no model 'nobody'") && text.contains("have ctr"), "{text}");
    let (code, text) = fails(&["--data-dir", data.to_str().unwrap(), "--model-bytes-max", "much"]);
    assert!(code == Some(2) && text.contains("64KiB"), "{text}");
}
