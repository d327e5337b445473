//! What operators decide where the model is learned holds at its replicas: real processes, asked over HTTP.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{
    replica::{Pair, caught_up, follows, probability, push},
    support::{Serving, eventually, send_signal, tidemill},
};

fn model(s: &Serving) -> Value {
    s.get_json("/v1/models/ctr")
}

fn post(s: &Serving, path: &str, body: Value) {
    let (status, text) = s.post(path, &body.to_string());
    assert_eq!(status, 200, "{path} {body}: {text}");
}

/// Waits until what is learned so far is published, and gives back the version's number.
fn published(s: &Serving, before: u64) -> u64 {
    eventually("a version is published", || model(s)["versions"][0]["version"].as_u64().filter(|v| *v > before))
}

/// A trainer that has published twice, and the numbers of both versions.
fn with_two_versions(pair: &Pair) -> (Serving, u64, u64) {
    let trainer = pair.trainer();
    push(&trainer, 0);
    let first = published(&trainer, 0);
    push(&trainer, 1);
    let second = published(&trainer, first);
    (trainer, first, second)
}

/// Waits until the replica says the same as the trainer about who gets which version.
fn agrees(trainer: &Serving, replica: &Serving) {
    let decided = |s: &Serving| ["live", "labels", "split"].map(|field| model(s)[field].clone());
    eventually("the replica has what was decided", || (decided(trainer) == decided(replica)).then_some(()));
}

/// The versions that answer these users at a model whose traffic is split.
fn answering(s: &Serving) -> Vec<u64> {
    let ask = |i: u64| {
        let row = json!({"rows": [{"user": format!("u{i}"), "item": "i0"}]});
        let (status, body) = s.post("/v1/models/ctr:predict", &row.to_string());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["version"].as_u64().unwrap()
    };
    (0..20).map(ask).collect()
}

/// A rollback, labels and a split at the trainer hold at a replica, with versions that were published before it was there.
#[test]
fn who_gets_which_version_is_decided_at_the_trainer() {
    let pair = Pair::new("replica-decided");
    let trainer = pair.trainer();
    push(&trainer, 0);
    let first = published(&trainer, 0);
    post(&trainer, "/v1/models/ctr:label", json!({"label": "old", "version": first}));
    push(&trainer, 1);
    let second = published(&trainer, first);
    push(&trainer, 2);
    let replica = pair.replica(&trainer.address);
    caught_up(&trainer, &replica, 36);
    agrees(&trainer, &replica);

    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    agrees(&trainer, &replica);
    assert_eq!(model(&replica)["live"], format!("pinned {second}"));
    eventually("it answers by it", || (model(&replica)["version"] == second).then_some(()));
    assert_eq!(probability(&replica, "i0"), probability(&trainer, "i0"));
    let [snapshot, fetched, manifest, copied] = pair.version_bytes(first);
    assert!(snapshot == fetched && manifest == copied, "the same bytes");

    post(&trainer, "/v1/models/ctr:split", json!({"live": 60, "old": 40}));
    agrees(&trainer, &replica);
    let (here, there) = (answering(&trainer), answering(&replica));
    assert_eq!(here, there);
    assert!(here.contains(&first) && here.contains(&second), "{here:?}");

    // What was decided while the replica was away is found when it is back; what was decided before is not done again.
    send_signal(&replica.child, "-KILL");
    drop(replica);
    post(&trainer, "/v1/models/ctr:promote", json!({}));
    let replica = pair.replica(&trainer.address);
    agrees(&trainer, &replica);
    assert_eq!(model(&replica)["live"], "latest");
    assert_eq!(follows(&replica)["warning"], Value::Null);
    post(&trainer, "/v1/models/ctr:split", json!({"live": 100}));
    agrees(&trainer, &replica);
    push(&trainer, 3);
    caught_up(&trainer, &replica, 48);
}

/// The last decision counts: what an operator changes at the replica stays over its restart, until the trainer's operator
/// decides something.
#[test]
fn what_is_decided_at_a_replica_stays_until_the_trainer_decides() {
    let pair = Pair::new("replica-own");
    let (trainer, first, second) = with_two_versions(&pair);
    post(&trainer, "/v1/models/ctr:label", json!({"label": "old", "version": first}));
    let replica = pair.replica(&trainer.address);
    caught_up(&trainer, &replica, 24);
    agrees(&trainer, &replica);
    push(&trainer, 2);
    let kept = || model(&replica)["versions"].as_array().map_or(0, Vec::len);
    eventually("it has another version to go back from", || (kept() > 1).then_some(()));
    post(&replica, "/v1/models/ctr:rollback", json!({"version": first}));
    send_signal(&replica.child, "-KILL");
    drop(replica);
    let replica = pair.replica(&trainer.address);
    eventually("it follows again", || (follows(&replica)["connected"] == true).then_some(()));
    push(&trainer, 3);
    eventually("deltas come", || (follows(&replica)["mini_batch"] == model(&trainer)["mini_batch"]).then_some(()));
    assert_eq!((&model(&replica)["version"], &follows(&replica)["decisions"]), (&json!(first), &json!(0)));

    post(&trainer, "/v1/models/ctr:label", json!({"label": "good", "version": second}));
    agrees(&trainer, &replica);
    assert_eq!(model(&replica)["live"], "latest");
    assert_eq!(follows(&replica)["decisions"], 1);
}

/// Rankings are kept with the model, so they come with it; those that the replica has of its own stay.
#[test]
fn rankings_come_with_the_model() {
    let pair = Pair::new("replica-rankings");
    let (trainer, ranking) = (pair.trainer(), "/v1/models/ctr/rankings/feed");
    push(&trainer, 0);
    published(&trainer, 0);
    let replica = pair.replica(&trainer.address);
    let rank = |s: &Serving, name: &str| {
        let body = json!({"ranking": name, "candidates": [{"id": 1, "user": "ann", "item": "i0"}]});
        s.post("/v1/models/ctr:rank", &body.to_string())
    };
    assert_eq!(replica.send("PUT", "/v1/models/ctr/rankings/own", r#"{"score": "1"}"#).0, 200);
    let (status, body) = trainer.send("PUT", ranking, r#"{"score": "pctr * 2"}"#);
    assert_eq!(status, 200, "{body}");
    eventually("the ranking comes", || (replica.get(ranking).0 == 200).then_some(()));
    let (status, body) = rank(&replica, "feed");
    assert_eq!(status, 200, "{body}");
    assert_eq!(trainer.send("PUT", ranking, r#"{"score": "pctr * 3"}"#).0, 200);
    eventually("and the next one of that name", || {
        (replica.get_json(ranking)["ranking"]["score"] == "pctr * 3").then_some(())
    });
    assert_eq!(trainer.send("DELETE", ranking, "").0, 200);
    eventually("it goes", || (rank(&replica, "feed").0 == 404).then_some(()));
    assert_eq!(rank(&replica, "own").0, 200);
    // One of a version that nobody has would never be asked for.
    let (status, body) = trainer.send("PUT", "/v1/models/ctr/rankings/feed@99999", r#"{"score": "1"}"#);
    assert!(status == 404 && body.contains("has no version 99999"), "{body}");
}

/// Damages a version's snapshot on one side.
fn damage(pair: &Pair, side: &str, version: u64) -> std::path::PathBuf {
    let path = pair.scratch.path(&format!("{side}/models/ctr/versions/{version:06}.snapshot"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    // Beside it and in its place: what is mapped into memory stays as it was.
    std::fs::write(path.with_extension("other"), bytes).unwrap();
    std::fs::rename(path.with_extension("other"), &path).unwrap();
    path
}

/// A number says nothing of another history: the replica has the version that the trainer means, and never another one, also after
/// a restart; and one that is damaged at the replica alone is fetched again.
#[test]
fn a_version_is_the_one_that_the_trainer_means() {
    let pair = Pair::new("replica-histories");
    let (trainer, first, second) = with_two_versions(&pair);
    let replica = pair.replica(&trainer.address);
    post(&trainer, "/v1/models/ctr:label", json!({"label": "old", "version": first}));
    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    agrees(&trainer, &replica);
    assert_eq!(probability(&replica, "i0"), probability(&trainer, "i0"));

    // Another trainer at the same address, with other events under the same numbers.
    let address = trainer.address.clone();
    send_signal(&trainer.child, "-KILL");
    drop(trainer);
    std::fs::rename(pair.scratch.path("trainer"), pair.scratch.path("earlier")).unwrap();
    let trainer = pair.trainer_at(&address, &[]);
    (0..3).for_each(|_| push(&trainer, 3));
    let version = published(&trainer, 0);
    push(&trainer, 4);
    published(&trainer, version);
    let (first, second) = (version, version + 1);
    post(&trainer, "/v1/models/ctr:label", json!({"label": "old", "version": first}));
    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    let by_label = |s: &Serving| s.post("/v1/models/ctr@old:predict", r#"{"rows": [{"user": "ann", "item": "i0"}]}"#);
    let alike = |replica: &Serving| {
        (by_label(&trainer) == by_label(replica) && probability(&trainer, "i0") == probability(replica, "i0"))
            .then_some(())
    };
    eventually("the replica means the same", || alike(&replica));
    agrees(&trainer, &replica);
    send_signal(&replica.child, "-KILL");
    drop(replica);
    let replica = pair.replica(&trainer.address);
    eventually("and after a restart", || alike(&replica));
    agrees(&trainer, &replica);
    // From here on no version leaves because it is of another history.
    let begins_with = || -> Value {
        serde_json::from_slice(&std::fs::read(pair.scratch.path("replica/models/ctr/job/position")).unwrap()).unwrap()
    };
    let lineage = follows(&replica)["lineage"].clone();
    eventually("its position is of this history", || (begins_with()["lineage"] == lineage).then_some(()));

    post(&trainer, "/v1/models/ctr:promote", json!({}));
    agrees(&trainer, &replica);
    let good = std::fs::read(pair.scratch.path(&format!("trainer/models/ctr/versions/{second:06}.snapshot"))).unwrap();
    let damaged = damage(&pair, "replica", second);
    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    agrees(&trainer, &replica);
    assert!(std::fs::read(damaged).unwrap() == good);
    eventually("nothing is left to tell", || (follows(&replica)["warning"] == Value::Null).then_some(()));

    // The same while nobody looks: it starts with another version, and does not stay with that.
    let means = |replica: &Serving| model(replica)["version"] == second;
    eventually("it answers by it", || means(&replica).then_some(()));
    send_signal(&replica.child, "-KILL");
    drop(replica);
    damage(&pair, "replica", second);
    let replica = pair.replica(&trainer.address);
    eventually("it answers by it again", || (means(&replica) && model(&replica)["troubles"].is_null()).then_some(()));
    assert_eq!(probability(&replica, "i0"), probability(&trainer, "i0"));
}

/// Where the trainer begins another history, the versions of the one before stand in nobody's way: those of the new one, whose
/// numbers are smaller, are kept, and the replica answers by them when it is alone.
#[test]
fn versions_of_an_earlier_history_make_room() {
    let pair = Pair::new("replica-another-history");
    let (trainer, _, second) = with_two_versions(&pair);
    push(&trainer, 2);
    let last = published(&trainer, second);
    // It comes when the last version is there already, and keeps it all the same.
    let replica = pair.replica(&trainer.address);
    caught_up(&trainer, &replica, 36);
    let kept = |replica: &Serving| model(replica)["versions"][0]["version"].as_u64();
    eventually("the last version is kept", || (kept(&replica) == Some(last)).then_some(()));

    let address = trainer.address.clone();
    send_signal(&trainer.child, "-KILL");
    drop(trainer);
    std::fs::rename(pair.scratch.path("trainer"), pair.scratch.path("earlier")).unwrap();
    let trainer = pair.trainer_at(&address, &[]);
    (0..2).for_each(|_| push(&trainer, 3));
    let first = published(&trainer, 0);
    assert!(first < last, "{first} of {last}");
    eventually("the first of the new ones is kept", || (kept(&replica) == Some(first)).then_some(()));
    eventually("and told", || (follows(&replica)["warning"] == Value::Null).then_some(()));
    let learned = probability(&trainer, "i0");
    send_signal(&trainer.child, "-KILL");
    send_signal(&replica.child, "-KILL");
    drop((trainer, replica));
    let replica = pair.replica(&address);
    assert_eq!((kept(&replica), probability(&replica, "i0")), (Some(first), learned));
}

/// F26: killed at any access to its disk while the versions of another history come, a replica alone answers by one of the two.
#[test]
fn killed_between_two_histories_it_answers_by_one_of_them() {
    let pair = Pair::new("replica-between");
    let (trainer, _, second) = with_two_versions(&pair);
    push(&trainer, 2);
    let last = published(&trainer, second);
    let replica = pair.replica(&trainer.address);
    caught_up(&trainer, &replica, 36);
    let position = |of: &str| {
        let text = std::fs::read(pair.scratch.path(&format!("{of}/models/ctr/job/position"))).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["version"].as_u64()
    };
    eventually("the last version is kept", || (position("replica") == Some(last)).then_some(()));
    let learned = probability(&replica, "i0");
    assert_eq!((replica.end("-INT").0, trainer.end("-INT").0), (Some(0), Some(0)));
    std::fs::rename(pair.scratch.path("trainer"), pair.scratch.path("earlier")).unwrap();
    std::fs::rename(pair.scratch.path("replica"), pair.scratch.path("kept")).unwrap();
    let trainer = pair.trainer();
    (0..2).for_each(|_| push(&trainer, 3));
    let first = published(&trainer, 0);
    assert!(first < last, "{first} of {last}");
    let learned_anew = probability(&trainer, "i0");
    assert_ne!(learned, learned_anew);

    let (mut earlier, mut later) = (0, 0);
    for access in 1.. {
        let _ = std::fs::remove_dir_all(pair.scratch.path("replica"));
        let data = pair.scratch.path("replica");
        assert!(Command::new("cp").arg("-r").arg(pair.scratch.path("kept")).arg(&data).status().unwrap().success());
        let args = ["serve", "--follow", &trainer.address, "--model", "ctr", "--port", "0", "--data-dir"];
        let mut command = tidemill();
        command.args(args).arg(&data).env("TIDEMILL_FAILPOINT", format!("models/ctr:{access}"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let left = pair.scratch.path(&format!("replica/models/ctr/versions/{last:06}.snapshot"));
        let is_killed = eventually("it is killed, or all is done", || match child.try_wait().unwrap() {
            Some(status) => Some(status.code() != Some(0)),
            None => (position("replica") == Some(first) && !left.exists()).then_some(false),
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let alone = pair.replica("127.0.0.1:1");
        let answer = probability(&alone, "i0");
        assert!(answer == learned || answer == learned_anew, "access {access}: {answer}");
        *(if answer == learned { &mut earlier } else { &mut later }) += 1;
        if !is_killed {
            break;
        }
    }
    assert!(earlier > 3 && later > 1, "{earlier} by the earlier one, {later} by the later one");
}

/// What was taken over in part and then taken back leaves nothing behind; and what an operator of the replica changes while something
/// is still to be done is not undone by the next try.
#[test]
fn what_is_done_in_part_is_neither_forgotten_nor_repeated_over_others() {
    let pair = Pair::new("replica-part");
    let (trainer, first, second) = with_two_versions(&pair);
    post(&trainer, "/v1/models/ctr:label", json!({"label": "lost", "version": first}));
    let lost = pair.scratch.path(&format!("trainer/models/ctr/versions/{first:06}.snapshot"));
    let kept = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    assert_eq!(trainer.send("PUT", "/v1/models/ctr/rankings/feed", r#"{"score": "pctr"}"#).0, 200);
    let replica = pair.replica(&trainer.address);
    let waits = |s: &Serving| follows(s)["warning"].as_str().is_some_and(|told| told.contains("'lost' is left out"));
    eventually("most of it holds", || (model(&replica)["version"] == second && waits(&replica)).then_some(()));
    send_signal(&replica.child, "-KILL");
    drop(replica);
    // Back to where it was when the replica had never heard of anything.
    post(&trainer, "/v1/models/ctr:promote", json!({}));
    post(&trainer, "/v1/models/ctr:label", json!({"label": "lost", "version": null}));
    assert_eq!(trainer.send("DELETE", "/v1/models/ctr/rankings/feed", "").0, 200);
    let replica = pair.replica(&trainer.address);
    agrees(&trainer, &replica);
    eventually("the ranking goes", || (replica.get("/v1/models/ctr/rankings/feed").0 == 404).then_some(()));
    assert_eq!(model(&replica)["live"], "latest");

    std::fs::write(&lost, kept).unwrap();
    post(&trainer, "/v1/models/ctr:label", json!({"label": "lost", "version": first}));
    agrees(&trainer, &replica);
    push(&trainer, 2);
    eventually("the replica keeps a version", || (model(&replica)["versions"].as_array()?.len() > 1).then_some(()));
    let own = model(&replica)["versions"][0]["version"].clone();
    std::fs::remove_file(&lost).unwrap();
    std::fs::remove_file(pair.scratch.path(&format!("replica/models/ctr/versions/{first:06}.snapshot"))).unwrap();
    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    eventually("the live version is taken over", || (model(&replica)["version"] == second).then_some(()));
    // The replica tries again what it could not take over, and is asked to come back while it does.
    let back = json!({"version": own}).to_string();
    eventually("the replica is its own operator's", || {
        let (status, text) = replica.post("/v1/models/ctr:rollback", &back);
        assert!(matches!(status, 200 | 409), "{status}: {text}");
        (status == 200).then_some(())
    });
    // Longer than the pause before the next try.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    while std::time::Instant::now() < until {
        assert_eq!(model(&replica)["version"], own);
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
}

/// What one label needs and nobody has holds up nothing else, and is told.
#[test]
fn a_version_that_is_lost_holds_up_no_other() {
    let pair = Pair::new("replica-lost");
    let trainer = pair.trainer();
    push(&trainer, 0);
    let first = published(&trainer, 0);
    post(&trainer, "/v1/models/ctr:label", json!({"label": "old", "version": first}));
    push(&trainer, 1);
    let second = published(&trainer, first);
    post(&trainer, "/v1/models/ctr:rollback", json!({"version": second}));
    std::fs::remove_file(pair.scratch.path(&format!("trainer/models/ctr/versions/{first:06}.snapshot"))).unwrap();
    let replica = pair.replica(&trainer.address);
    eventually("the rollback holds", || (model(&replica)["version"] == second).then_some(()));
    let warning = eventually("the rest is told", || {
        let told = follows(&replica)["warning"].as_str()?.to_string();
        told.contains("label 'old' is left out").then_some(told)
    });
    let root = pair.scratch.path("");
    assert!(!warning.contains(root.to_str().unwrap()), "paths are nobody else's business: {warning}");
    let (status, body) = trainer.get(&format!("/v1/models/ctr@{first}:follow"));
    assert!(status >= 400 && !body.contains(root.to_str().unwrap()), "{status} {body}");
    let (status, body) = trainer.get("/v1/models/ctr@old:follow");
    assert!(status == 400 && body.contains("a version is followed by its number"), "{status} {body}");
    assert_eq!(trainer.get("/v1/models/ctr@99999:follow").0, 404);
}
