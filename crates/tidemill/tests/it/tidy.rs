//! The house rules that a machine can check: floors, headers, lengths, formatting, what may not be said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root().join("crates"), &mut found);
    found.sort();
    assert!(found.len() > 50);
    found
}

/// Crates import downwards only, never sideways.
#[test]
fn floors_are_kept() {
    let floors: [&[&str]; 4] = [
        &["tidemill-base"],
        &["tidemill-stream", "tidemill-model"],
        &["tidemill-sql", "tidemill-train", "tidemill-serve", "tidemill-connect"],
        &["tidemill"],
    ];
    let floor_of = |name: &str| floors.iter().position(|f| f.contains(&name));
    for (floor, crates) in floors.iter().enumerate() {
        for name in *crates {
            let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
            let normal = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
            for line in normal.lines() {
                let dependency = line.split(['.', ' ', '=']).next().unwrap_or("");
                if let Some(other) = floor_of(dependency) {
                    assert!(other < floor, "{name} (floor {floor}) may not depend on {dependency} (floor {other})");
                }
            }
            if *name != "tidemill-sql" {
                assert!(!normal.contains("datafusion"), "only tidemill-sql knows DataFusion, not {name}");
            }
        }
    }
    let members = fs::read_dir(root().join("crates")).unwrap().count();
    assert_eq!(members, floors.iter().map(|f| f.len()).sum::<usize>(), "a new crate needs its floor here");
}

/// Every file says first what comes in, what goes out and what must stay true.
#[test]
fn every_file_begins_with_its_header() {
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} begins without `//!`", path.display());
    }
}

/// Words that STYLE bans, promises instead of limits, and words of other workshops.
#[test]
fn banned_words_stay_out() {
    let banned = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for word in &banned {
            let found = text.lines().position(|l| l.split(|c: char| !c.is_alphanumeric()).any(|w| w == word));
            assert_eq!(found, None, "{} in {}", word, path.display());
        }
    }
}

#[test]
fn long_files_are_tables_or_one_algorithm() {
    for path in rust_files() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 900, "{} has {lines} lines: it wants rooms of its own", path.display());
    }
}

/// The nine steps stand in the same order wherever they are told.
#[test]
fn the_line_is_told_alike_everywhere() {
    let steps = [
        "stream/source",
        "stream/window",
        "stream/join",
        "model/feature",
        "train/update",
        "model/params",
        "train/publish",
        "serve/registry",
        "serve/predict",
    ];
    for file in
        ["README.md", "ARCHITECTURE.md", "crates/tidemill/src/engine.rs", "crates/tidemill/examples/one_event.rs"]
    {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let mut from = 0;
        for step in steps {
            let at = text[from..].find(step).unwrap_or_else(|| panic!("{file}: {step} is missing or out of order"));
            from += at + step.len();
        }
    }
}

#[test]
fn the_code_is_formatted() {
    let out = Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(root()).output().unwrap();
    assert!(out.status.success(), "run cargo fmt\n{}", String::from_utf8_lossy(&out.stdout));
}
