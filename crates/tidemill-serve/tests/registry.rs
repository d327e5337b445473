//! Versions on disk: kept as they were put, named when they are damaged, live as the operator said.

mod support;

use std::fs;

use support::{meta, row, snapshot, temp_dir};
use tidemill_base::{Kind, Result, StateHash};
use tidemill_serve::registry::{Live, Registry};

fn with_versions(name: &str, versions: impl Iterator<Item = u64>) -> (std::path::PathBuf, Registry) {
    let dir = temp_dir(&format!("registry-{name}"));
    let registry = Registry::open("ctr", &dir).unwrap();
    versions.for_each(|v| registry.add(&meta(v), &snapshot(&row(), v as f32)).unwrap());
    (dir, registry)
}

fn message<T>(result: Result<T>) -> String {
    result.err().map_or("no error".into(), |e| e.message().to_string())
}

/// What is wrong with the one version that is passed over.
fn damage(dir: &std::path::Path) -> String {
    let damaged = Registry::open("ctr", dir).unwrap().damaged();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    damaged[0].reason.clone()
}

#[test]
fn a_version_comes_back_as_it_was_put() {
    let (dir, registry) = with_versions("back", 1..=3);
    let again = Registry::open("ctr", &dir).unwrap();
    // Metrics to their last bit, in this process and in the next.
    assert_eq!(again.list(), registry.list());
    assert_eq!(again.list(), (1..=3).map(meta).collect::<Vec<_>>());
    assert_eq!(again.load(2).unwrap(), snapshot(&row(), 2.0));
    assert_eq!(message(again.load(9)), "model 'ctr' has no version 9 (have 1-3)");
    let nan = support::temp_dir("registry-nan");
    let mut without_samples = meta(1);
    (without_samples.logloss, without_samples.auc) = (f64::NAN, f64::NAN);
    Registry::open("ctr", &nan).unwrap().add(&without_samples, &snapshot(&row(), 1.0)).unwrap();
    assert!(Registry::open("ctr", &nan).unwrap().list()[0].logloss.is_nan());
}

/// A job that is killed and restored publishes again what it had published; that must change nothing, and something else
/// must not slip in under the same number.
#[test]
fn a_version_never_changes() {
    let (_, registry) = with_versions("immutable", 1..=2);
    let mut again = meta(2);
    again.created_ms += 5000;
    registry.add(&again, &snapshot(&row(), 2.0)).unwrap();
    assert_eq!(registry.meta(2).unwrap().created_ms, meta(2).created_ms);
    again.state_hash = StateHash(7);
    let refused = registry.add(&again, &snapshot(&row(), 9.0)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.message().starts_with("version 2 of model 'ctr' is there already with state 3c"), "{refused}");
    assert_eq!(registry.load(2).unwrap(), snapshot(&row(), 2.0));
}

/// One damaged version costs that version: it is named, its files are left alone, and its number is not given again.
#[test]
fn a_damaged_version_is_passed_over_and_the_others_stay_usable() {
    let (dir, _) = with_versions("passed", 1..=3);
    for damaged in [2, 3] {
        let path = dir.join(format!("{damaged:06}.manifest"));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let registry = Registry::open("ctr", &dir).unwrap();
        assert_eq!((registry.damaged()[0].version, registry.list().len(), registry.next_version()), (damaged, 2, 4));
        for refused in [message(registry.load(damaged)), message(registry.rollback(damaged))] {
            assert!(refused.contains(&format!("{damaged:06}.manifest")), "{refused}");
        }
        registry.rollback(1).unwrap();
        fs::write(&path, &whole).unwrap();
        assert_eq!(Registry::open("ctr", &dir).unwrap().load(damaged).unwrap(), snapshot(&row(), damaged as f32));
    }
}

/// Nothing may point at weights that are not what was written.
#[test]
fn a_version_with_a_damaged_snapshot_is_not_rolled_back_to() {
    let (dir, registry) = with_versions("snapshot", 1..=2);
    let path = dir.join("000001.snapshot");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = registry.rollback(1).unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt);
    assert!(refused.message().contains("000001.snapshot does not match"), "{refused}");
    assert_eq!((registry.live(), dir.join("live").exists()), (Live::Latest, false));
}

/// Every byte of both files is guarded.
#[test]
fn a_flipped_byte_anywhere_is_found_and_its_file_named() {
    let (dir, registry) = with_versions("flip", 1..=1);
    for (file, what) in [("000001.snapshot", "does not match"), ("000001.manifest", "000001.manifest")] {
        let path = dir.join(file);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x04;
            fs::write(&path, &bad).unwrap();
            let found = match file.ends_with("snapshot") {
                true => message(registry.load(1)),
                false => damage(&dir),
            };
            assert!(found.contains(file) && found.contains(what), "byte {at} of {file}: {found}");
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let found = message(Registry::reading("ctr", &dir).and_then(|r| r.load(1)));
        assert!(found.contains(file), "{found}");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(Registry::open("ctr", &dir).unwrap().list().len(), 1);
}

#[test]
fn a_missing_file_is_named_and_what_a_crash_left_is_swept_away() {
    let (dir, registry) = with_versions("missing", 1..=2);
    fs::remove_file(dir.join("000002.snapshot")).unwrap();
    let expected = format!(
        "{0}/000002.snapshot is missing; restore it from a copy, or remove {0}/000002.manifest to go on without version 2",
        dir.display()
    );
    assert_eq!(damage(&dir), expected);
    assert_eq!(message(registry.load(2)), expected);
    fs::remove_file(dir.join("000002.manifest")).unwrap();
    // A snapshot whose manifest was never written, and a file that was never finished.
    fs::write(dir.join("000003.snapshot"), "half").unwrap();
    fs::write(dir.join("000004.snapshot.tmp"), "half").unwrap();
    let again = Registry::open("ctr", &dir).unwrap();
    assert_eq!(again.list(), [meta(1)]);
    let mut files: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["000001.manifest", "000001.snapshot"]);
    fs::write(dir.join("000002.snapshot"), "half, while it is open").unwrap();
    again.add(&meta(2), &snapshot(&row(), 2.0)).unwrap();
    assert_eq!(again.load(2).unwrap(), snapshot(&row(), 2.0));
}

#[test]
fn what_is_live_is_what_the_operator_said_also_after_a_restart() {
    let (dir, registry) = with_versions("live", 88..=91);
    assert_eq!(registry.live(), Live::Latest);
    registry.rollback(89).unwrap();
    assert_eq!(fs::read_to_string(dir.join("live")).unwrap(), "pinned 89\n");
    let again = Registry::open("ctr", &dir).unwrap();
    assert_eq!(again.live(), Live::Pinned(89));
    assert_eq!(message(again.rollback(99)), "model 'ctr' has no version 99 (have 88-91)");
    assert_eq!(again.live(), Live::Pinned(89));
    again.promote().unwrap();
    assert_eq!(Registry::open("ctr", &dir).unwrap().live(), Live::Latest);
    let (_, one) = with_versions("one", 1..=1);
    assert_eq!(message(one.rollback(1)), "model 'ctr' has one version; nothing to roll back to");
    let (_, none) = with_versions("none", 0..0);
    assert_eq!(message(none.rollback(1)), "model 'ctr' has no version yet");
    for (text, expected) in [
        ("pinned 7", "pins version 7, which is not there; write 'latest' into the file to serve the newest"),
        ("newest", "'newest' is neither 'latest' nor 'pinned VERSION'"),
    ] {
        fs::write(dir.join("live"), text).unwrap();
        assert!(message(Registry::open("ctr", &dir)).contains(expected));
    }
}

#[test]
fn retention_keeps_the_newest_and_the_pinned_one() {
    let (dir, registry) = with_versions("retain", 1..=6);
    registry.rollback(2).unwrap();
    assert_eq!(registry.retain(3).unwrap(), [1, 3]);
    assert_eq!(message(registry.load(9)), "model 'ctr' has no version 9 (have 2, 4-6)");
    assert_eq!(Registry::open("ctr", &dir).unwrap().list().len(), 4);
    registry.promote().unwrap();
    assert_eq!(registry.retain(0).unwrap(), [2, 4, 5]);
    assert_eq!(registry.retain(1).unwrap(), [0; 0]);
    assert_eq!(registry.list(), [meta(6)]);
}
