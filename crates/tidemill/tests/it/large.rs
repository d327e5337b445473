//! `tidemill serve` from a snapshot of gigabytes: how long until the first prediction. By command only:
//! `TIDEMILL_SNAPSHOT_GIB=4 cargo test --release -p tidemill --test it -- --ignored --nocapture large_snapshot`.

use std::{process::Command, time::Instant};

use tidemill_base::rng::mix64;
use tidemill_model::{entries::Entries, snapshot::Snapshot};
use tidemill_serve::registry::Registry;

use super::support::{Scratch, Serving, run_json};

/// Every 64 bytes hold four entries on average.
const ENTRIES_PER_GIB: u64 = (1 << 30) / 16;

#[test]
#[ignore = "writes gigabytes"]
fn the_first_prediction_from_a_large_snapshot() {
    let gib: f64 = std::env::var("TIDEMILL_SNAPSHOT_GIB").ok().and_then(|gib| gib.parse().ok()).unwrap_or(0.25);
    let scratch = Scratch::new("large");
    let data = scratch.path("data");
    let rows: Vec<String> =
        (0..300).map(|i| format!("{{\"item\": \"i{}\", \"label\": {}}}", i % 5, i % 5 == 0)).collect();
    let file = scratch.write("rows.jsonl", rows.join("\n"));
    let sql = format!(
        "CREATE SOURCE rows (item STRING, label BOOLEAN) WITH (connector = 'file', path = '{}');
         SELECT * FROM rows TO TRAIN FTRLClassifier COLUMN item LABEL label INTO ctr;",
        file.display()
    );
    run_json(&sql, &data, &[]);
    let versions = data.join("models/ctr/versions");
    let (small, meta) = {
        let registry = Registry::open("ctr", &versions).unwrap();
        (registry.load(1).unwrap(), registry.meta(1).unwrap())
    };
    {
        let mut keys: Vec<u64> = (0..(gib * ENTRIES_PER_GIB as f64) as u64).map(|i| mix64(i) | 1).collect();
        keys.extend(&small.entries.keys);
        keys.sort_unstable();
        keys.dedup();
        let params = keys.iter().map(|key| *key as u32 as f32 * 1e-12).collect();
        let mut entries = Entries { width: 1, keys, params };
        for (key, params) in small.entries.iter() {
            let at = entries.keys.binary_search(&key).unwrap();
            entries.params[at] = params[0];
        }
        let registry = Registry::open("ctr", &versions).unwrap();
        let meta = tidemill_serve::registry::VersionMeta { version: 2, ..meta };
        registry.add(&meta, &Snapshot { entries, ..small }).unwrap();
    }
    let snapshot = versions.join("000002.snapshot");
    let ask = |s: &Serving, model: &str| {
        let (status, body) = s.post(&format!("/v1/models/{model}:predict"), r#"{"rows": [{"item": "i0"}]}"#);
        assert_eq!(status, 200, "{body}");
        let at = body.find("\"predictions\"").unwrap();
        body[at..].to_string()
    };
    let gib = snapshot.metadata().unwrap().len() as f64 / (1u64 << 30) as f64;
    for (how, forget) in [("its pages in memory", false), ("its pages forgotten", true), ("its pages forgotten", true)]
    {
        if forget {
            let of = format!("if={}", snapshot.display());
            assert!(Command::new("dd").args([&of, "iflag=nocache", "count=0"]).status().unwrap().success());
        }
        let began = Instant::now();
        let s = Serving::start(&["serve", "--data-dir", data.to_str().unwrap()]);
        let up = began.elapsed();
        let answer = ask(&s, "ctr");
        let first = began.elapsed();
        println!("{gib:.2} GiB, {how}: serving after {up:.1?}, first prediction {first:.1?} after the start");
        assert_eq!(answer, ask(&s, "ctr@1"), "the small version holds the same weights of this item");
    }
}
