//! Replicas: two real processes, one that learns and one that follows it, killed in turn.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    http::PUSHED,
    support::{Scratch, Serving, eventually, send_signal, tidemill},
};

pub struct Pair {
    pub scratch: Scratch,
    sql: std::path::PathBuf,
}

impl Pair {
    pub fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let sql = scratch.write("pushed.sql", PUSHED);
        Self { scratch, sql }
    }

    fn args(&self) -> Vec<String> {
        ["run", self.sql.to_str().unwrap(), "--data-dir", self.scratch.path("trainer").to_str().unwrap()]
            .map(String::from)
            .to_vec()
    }

    pub fn trainer(&self) -> Serving {
        Serving::start(&self.args().iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn trainer_at(&self, address: &str, more: &[&str]) -> Serving {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Serving::start_at(address, &args)
    }

    pub fn replica(&self, address: &str) -> Serving {
        let data = self.scratch.path("replica");
        Serving::start(&["serve", "--follow", address, "--model", "ctr", "--data-dir", data.to_str().unwrap()])
    }

    /// The files of a version, at the trainer and at the replica.
    pub fn version_bytes(&self, version: u64) -> [Vec<u8>; 4] {
        let read = |side: &str, extension: &str| {
            std::fs::read(self.scratch.path(&format!("{side}/models/ctr/versions/{version:06}.{extension}"))).unwrap()
        };
        [
            read("trainer", "snapshot"),
            read("replica", "snapshot"),
            read("trainer", "manifest"),
            read("replica", "manifest"),
        ]
    }
}

pub fn probability(s: &Serving, item: &str) -> f64 {
    let (status, body) =
        s.post("/v1/models/ctr:predict", &json!({"rows": [{"user": "ann", "item": item}]}).to_string());
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["predictions"][0]["probability"].as_f64().unwrap()
}

/// Shows ten impressions and clicks two of them.
pub fn push(s: &Serving, round: u64) {
    let lines = |count: u64, line: &dyn Fn(u64) -> Value| (0..count).map(|i| line(i).to_string()).collect::<Vec<_>>();
    let id = |i: u64| round * 10 + i;
    let shown = lines(
        10,
        &|i| json!({"imp_id": id(i), "ts": 1_000 + id(i), "user": "ann", "item": format!("i{}", (i + round) % 4)}),
    );
    let clicked = lines(2, &|i| json!({"imp_id": id(i * 4), "ts": 2_000 + id(i)}));
    assert_eq!(s.post("/v1/sources/shown", &shown.join("\n")).0, 200);
    assert_eq!(s.post("/v1/sources/clicked", &clicked.join("\n")).0, 200);
}

pub fn follows(s: &Serving) -> Value {
    s.get_json("/v1/models")["models"][0]["follows"].clone()
}

/// Waits until both answer alike after so many events, and gives back what the replica says of itself.
pub fn caught_up(trainer: &Serving, replica: &Serving, events: u64) -> Value {
    eventually("the trainer learned", || (trainer.get_json("/v1/status")["events"] == events).then_some(()));
    let stands = |s: &Serving| ["i0", "i1", "i2", "i3"].map(|item| probability(s, item));
    let mut last = stands(trainer);
    eventually("the replica has it, to the bit", || {
        let now = stands(trainer);
        let still = std::mem::replace(&mut last, now) == now;
        (still && stands(replica) == now && follows(replica)["connected"] == true).then_some(())
    });
    follows(replica)
}

/// Waits until the replica has the trainer's newest version, derived by itself, and compares the files.
fn checked_version(pair: &Pair, trainer: &Serving, replica: &Serving) {
    let newest = |s: &Serving| s.get_json("/v1/models/ctr")["versions"][0].clone();
    eventually("the newest version is kept at the replica", || {
        let (learned, followed) = (newest(trainer), newest(replica));
        let same = learned["version"].is_u64() && learned["state_hash"] == followed["state_hash"];
        let is_all = trainer.get_json("/v1/status")["version"] == learned["version"];
        (same && is_all).then_some(())
    });
    let [snapshot, derived, manifest, copied] = pair.version_bytes(newest(replica)["version"].as_u64().unwrap());
    assert!(snapshot == derived && manifest == copied, "the same bytes, with the same state hash");
    let version = newest(replica)["version"].clone();
    eventually("what it has come to is on disk", || {
        let position = std::fs::read(pair.scratch.path("replica/models/ctr/job/position")).ok()?;
        (serde_json::from_slice::<Value>(&position).unwrap()["version"] == version).then_some(())
    });
}

/// F26, F43: either of the two is killed at any moment, the other goes on, and afterwards both hold the same bits.
#[test]
fn either_side_is_killed_and_both_come_to_the_same_bits() {
    let pair = Pair::new("replica");
    let trainer = pair.trainer();
    push(&trainer, 0);
    let replica = pair.replica(&trainer.address);
    let first = caught_up(&trainer, &replica, 12);
    assert_eq!((&first["snapshots"], &first["resumes"]), (&json!(1), &json!(0)), "{first}");
    push(&trainer, 1);
    caught_up(&trainer, &replica, 24);
    checked_version(&pair, &trainer, &replica);
    let (status, body) = replica.post("/v1/sources/shown", "{}");
    assert!(status == 409 && body.contains("this is a replica; push to"), "{body}");
    assert!(replica.get("/metrics").1.contains("tidemill_replica_staleness_seconds{model=\"ctr\"} 0."));

    // The replica is killed, and misses something.
    send_signal(&replica.child, "-KILL");
    drop(replica);
    push(&trainer, 2);
    let replica = pair.replica(&trainer.address);
    let again = caught_up(&trainer, &replica, 36);
    assert_eq!(
        (&again["snapshots"], &again["resumes"]),
        (&json!(0), &json!(1)),
        "it goes on from where it was: {again}"
    );

    // The trainer is killed. What is served stays, and says how old it is.
    let before = probability(&replica, "i0");
    let address = trainer.address.clone();
    eventually("it knows of every mini-batch", || {
        (follows(&replica)["mini_batch"] == trainer.get_json("/v1/status")["mini_batch"]).then_some(())
    });
    send_signal(&trainer.child, "-KILL");
    drop(trainer);
    eventually("the replica notices", || {
        (follows(&replica)["connected"] == false && follows(&replica)["staleness_ms"].as_u64()? > 300).then_some(())
    });
    assert_eq!(probability(&replica, "i0"), before);
    let trainer = pair.trainer_at(&address, &[]);
    push(&trainer, 3);
    let after = caught_up(&trainer, &replica, 48);
    assert_eq!(after["snapshots"], 0, "a delta since the checkpoint is enough: {after}");
    assert!(after["rebases"] == 1 && after["failures"].as_u64() > Some(0), "{after}");
    checked_version(&pair, &trainer, &replica);

    // Another history: the model comes whole, and the old one is served until it is there.
    send_signal(&trainer.child, "-KILL");
    drop(trainer);
    let trainer = pair.trainer_at(&address, &["--from-scratch"]);
    eventually("it comes whole", || (follows(&replica)["snapshots"] == 1).then_some(()));
    caught_up(&trainer, &replica, 48);
    checked_version(&pair, &trainer, &replica);
    let stopping = Instant::now();
    assert_eq!(replica.end("-INT").0, Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(3), "Ctrl-C ends it at once");
    assert_eq!(trainer.end("-INT").0, Some(0), "a replica that reads does not hold the trainer");

    // Alone it serves what it kept, and says how old that is.
    let (replica, earlier) = (pair.replica(&address), Instant::now());
    let staleness = || follows(&replica)["staleness_ms"].as_u64();
    let first = staleness().expect("it is known of what was kept");
    eventually("it grows", || (staleness()? >= first + 50).then_some(()));
    assert!(first < 120_000, "{first} ms, {:?} after the others ended", earlier.elapsed());
    assert_eq!(follows(&replica)["connected"], false);
    assert_eq!(replica.end("-INT").0, Some(0));
}

/// F26: a replica that was away while its trainer learned on, saved, was killed and restored is sent what changed, not all there is.
#[test]
fn a_replica_that_was_away_while_the_trainer_restarted_is_sent_what_changed() {
    let pair = Pair::new("replica-away");
    let trainer = pair.trainer();
    let many: Vec<String> = (0..2_000)
        .map(|i| {
            json!({"imp_id": 1_000_000 + i, "ts": 500 + i % 100, "user": "bob", "item": format!("x{i}")}).to_string()
        })
        .collect();
    assert_eq!(trainer.post("/v1/sources/shown", &many.join("\n")).0, 200);
    let saved = |s: &Serving, events: u64| {
        eventually("it is learned", || (s.get_json("/v1/status")["events"] == events).then_some(()));
        eventually("all that is learned is saved", || {
            let files = std::fs::read_dir(pair.scratch.path("trainer/models/ctr/job/checkpoints")).ok()?;
            let at = |name: &str| name.strip_suffix(".ck")?.parse::<u64>().ok();
            let newest = files.flatten().filter_map(|file| at(file.file_name().to_str()?)).max()?;
            (s.get_json("/v1/status")["mini_batch"] == newest).then_some(())
        });
    };
    // The third is a whole one again: the second held more changes than there had been. From then on little changes.
    saved(&trainer, 2_000);
    (0..2).for_each(|round| {
        push(&trainer, round);
        saved(&trainer, 2_012 + 12 * round);
    });
    let replica = pair.replica(&trainer.address);
    push(&trainer, 2);
    caught_up(&trainer, &replica, 2_036);
    checked_version(&pair, &trainer, &replica);
    send_signal(&replica.child, "-KILL");
    drop(replica);
    for round in 1..4 {
        push(&trainer, round + 2);
        saved(&trainer, 2_036 + 12 * round);
    }
    let address = trainer.address.clone();
    send_signal(&trainer.child, "-KILL");
    drop(trainer);
    let trainer = pair.trainer_at(&address, &[]);
    push(&trainer, 6);
    let replica = pair.replica(&trainer.address);
    let said = caught_up(&trainer, &replica, 2_084);
    assert_eq!((&said["snapshots"], &said["rebases"]), (&json!(0), &json!(1)), "{said}");
    assert_eq!(probability(&replica, "x7"), probability(&trainer, "x7"));
    // A version is compared bit for bit.
    push(&trainer, 7);
    caught_up(&trainer, &replica, 2_096);
    checked_version(&pair, &trainer, &replica);
}

/// F39: all processes killed at once, again and again, are as one that is: what was acknowledged is learned once, both hold the
/// same bits, and the newest version can be derived again from the journal.
#[test]
fn f39_all_killed_at_once_come_to_the_same_bits() {
    let pair = Pair::new("replica-all");
    let mut trainer = pair.trainer();
    let mut replica = pair.replica(&trainer.address);
    for round in 0..4 {
        push(&trainer, round);
        // Not waited for anything: both are killed with what has come and is not learned, published or sent.
        let both = [&trainer, &replica].map(|s| s.child.id().to_string());
        assert!(std::process::Command::new("kill").arg("-KILL").args(both).status().unwrap().success());
        let address = trainer.address.clone();
        drop((trainer, replica));
        trainer = pair.trainer_at(&address, &[]);
        replica = pair.replica(&address);
    }
    caught_up(&trainer, &replica, 48);
    assert_eq!(trainer.get_json("/v1/status")["counters"]["duplicate"], 0);
    checked_version(&pair, &trainer, &replica);
    let version = trainer.get_json("/v1/models/ctr")["versions"][0]["version"].clone();
    let data = pair.scratch.path("trainer");
    let out =
        tidemill().args(["models", "verify", &format!("ctr@{version}"), "--data-dir"]).arg(data).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Passes bytes on between a replica and its trainer, and flips a bit of the `at`th byte on the way to the replica, once.
fn flipping_proxy(to: String, at: Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { continue };
            let (mut up_from, mut up_to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
            let (mut from, mut client, at) = (server, client, at.clone());
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(n) = from.read(&mut bytes) {
                    let left = at.load(SeqCst);
                    if n == 0 {
                        break;
                    }
                    if left != u64::MAX && left < n as u64 {
                        bytes[left as usize] ^= 1;
                        at.store(u64::MAX, SeqCst);
                    } else if left != u64::MAX {
                        at.store(left - n as u64, SeqCst);
                    }
                    if client.write_all(&bytes[..n]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// F28: a flipped bit anywhere on the way is refused and asked for again; no wrong weight is served.
#[test]
fn f28_a_damaged_frame_is_refused_and_asked_for_again() {
    let pair = Pair::new("replica-flips");
    let trainer = pair.trainer();
    push(&trainer, 0);
    let at = Arc::new(AtomicU64::new(u64::MAX));
    let proxy = flipping_proxy(trainer.address.clone(), at.clone());
    let replica = pair.replica(&proxy);
    caught_up(&trainer, &replica, 12);
    for round in 1..6 {
        at.store(round * 37, SeqCst);
        push(&trainer, round);
        eventually("a bit is flipped", || (at.load(SeqCst) == u64::MAX).then_some(()));
        caught_up(&trainer, &replica, (round + 1) * 12);
    }
    let told = follows(&replica);
    assert!(told["frames_refused"].as_u64() > Some(2), "{told}");
    assert_eq!((&told["snapshots"], told["resumes"].as_u64() > Some(2)), (&json!(1), true), "{told}");
}

#[test]
fn what_cannot_be_followed_is_refused_with_one_sentence() {
    let pair = Pair::new("replica-bad");
    let trainer = pair.trainer();
    let fails = |address: &str, model: &str| {
        let data = pair.scratch.path("replica");
        let args =
            ["serve", "--port", "0", "--follow", address, "--model", model, "--data-dir", data.to_str().unwrap()];
        let out = tidemill().args(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = fails(&trainer.address, "nobody");
    assert!(code == Some(3) && text.contains("no model 'nobody' (have ctr)"), "{text}");
    let (code, text) = fails("127.0.0.1:1", "ctr");
    assert!(code == Some(5) && text.contains("cannot reach 127.0.0.1:1"), "{text}");
    let (code, text) = fails("127.0.0.1", "ctr");
    assert!(code == Some(2) && text.contains("write HOST:PORT"), "{text}");
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in stranger.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>It works!</h1>");
        }
    });
    let (code, text) = fails(&address, "ctr");
    assert!(code == Some(4) && text.contains("is no tidemill that can be followed"), "{text}");
    let data = pair.scratch.path("trainer");
    let follow = ["serve", "--port", "0", "--follow", &trainer.address];
    let out = tidemill().args(follow).output().unwrap();
    assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("--model"));
    let out = tidemill().args(follow).args(["--model", "ctr", "--data-dir", data.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(4) && text.contains("is locked by pid"), "{text}");
    // A replica cannot be followed itself, and the trainer says what it wants to be told.
    assert_eq!(trainer.get("/v1/models/ctr:follow?position=x").0, 400);
}

/// Events of other people, so that event time goes on; ends when dropped.
struct Traffic(Arc<AtomicU64>, Option<std::thread::JoinHandle<()>>);

impl Traffic {
    fn start(address: String) -> Self {
        let stop = Arc::new(AtomicU64::new(0));
        let stopped = stop.clone();
        let push = move || {
            let child = tidemill().arg("--version").spawn().unwrap();
            let s = Serving { child, address };
            let mut id = 1u64 << 40;
            while stopped.load(SeqCst) == 0 {
                let ts = wall_ms();
                let shown = json!({"imp_id": id, "ts": ts, "user": format!("u{}", id % 100), "item": "other"});
                assert_eq!(s.post("/v1/sources/shown", &shown.to_string()).0, 200);
                assert_eq!(s.post("/v1/sources/clicked", &json!({"imp_id": id - 3, "ts": ts}).to_string()).0, 200);
                id += 1;
            }
        };
        Self(stop, Some(std::thread::spawn(push)))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.store(1, SeqCst);
        let _ = self.1.take().unwrap().join();
    }
}

fn wall_ms() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

/// From a click that is sent to the changed prediction in the other process, beside other events. Run it by
/// `cargo test --release -p tidemill --test it -- --ignored --nocapture event_to_changed_prediction`.
#[test]
#[ignore = "measures"]
fn event_to_changed_prediction_in_the_replica() {
    let pair = Pair::new("replica-speed");
    // Versions now and then, as a job has them that lives.
    std::fs::write(&pair.sql, PUSHED.replace("'100ms'", "'10s'")).unwrap();
    let trainer = pair.trainer();
    let replica = pair.replica(&trainer.address);
    let traffic = Traffic::start(trainer.address.clone());
    let rounds = 300;
    let mut took = Vec::new();
    for i in 0..rounds {
        let item = format!("x{i}");
        let ask = || probability(&replica, &item);
        let unseen = ask();
        let shown = json!({"imp_id": i, "ts": wall_ms(), "user": "ann", "item": item}).to_string();
        assert_eq!(trainer.post("/v1/sources/shown", &shown).0, 200);
        eventually("the impression is learned", || (ask() != unseen).then_some(()));
        let before = ask();
        let began = Instant::now();
        let clicked = json!({"imp_id": i, "ts": wall_ms()}).to_string();
        assert_eq!(trainer.post("/v1/sources/clicked", &clicked).0, 200);
        while ask() == before {
            assert!(began.elapsed() < Duration::from_secs(10), "event {i} does not arrive");
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    drop(traffic);
    took.sort_by(f64::total_cmp);
    println!(
        "event to changed prediction in the replica, {rounds} events: p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms",
        took[rounds / 2],
        took[rounds * 99 / 100],
        took[rounds - 1]
    );
    assert!(took[rounds * 99 / 100] < 250.0, "the bound of issue 5");
}

/// The pushed program with what is known of a user and of an item when they are shown.
fn with_views() -> String {
    let views = "CREATE FEATURE VIEW users KEYED BY user AS
           SELECT COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '10' MINUTE) AS seen,
             COUNT(imp) OVER DECAY (INTERVAL '1' MINUTE) AS lately, LAST(imp.item, 1) AS item_last
           FROM shown imp WITH (keys_max = 50);
         SELECT i.*, f.*,";
    let sql = PUSHED.replace("SELECT i.*,", views);
    let sql = sql.replace(
        "EMIT IMMEDIATE",
        "LEFT JOIN users FOR SYSTEM_TIME AS OF i.rt f ON f.\"user\" = i.\"user\" EMIT IMMEDIATE",
    );
    sql.replace("CROSS([user, item])", "CROSS([user, item]), seen, lately, item_last")
}

/// What a view has seen is sent as the weights are: a replica reads the same features, goes on where it was after the line was
/// cut, and begins with everything after either side was started again. It never answers without what the views held.
#[test]
fn feature_views_are_followed() {
    let mut pair = Pair::new("replica-views");
    pair.sql = pair.scratch.write("views.sql", with_views());
    let trainer = pair.trainer();
    (0..10).for_each(|round| push(&trainer, round));
    let replica = pair.replica(&trainer.address);
    let said = caught_up(&trainer, &replica, 120);
    assert_eq!((&said["snapshots"], &said["failures"]), (&json!(1), &json!(0)), "{said}");
    // Of a user that was never shown anything the views know nothing, so they are read.
    let other = |s: &Serving| {
        let (status, body) = s.post("/v1/models/ctr:predict", r#"{"rows": [{"user": "new", "item": "i0"}]}"#);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["predictions"][0]["probability"].as_f64().unwrap()
    };
    assert_ne!(other(&replica), probability(&replica, "i0"));
    assert_eq!(other(&replica), other(&trainer));
    (10..30).for_each(|round| push(&trainer, round));
    let said = caught_up(&trainer, &replica, 360);
    assert_eq!(&said["snapshots"], &json!(1), "changes follow one by one: {said}");
    checked_version(&pair, &trainer, &replica);

    // The replica is killed: what its views held is gone, and it asks for everything before it answers.
    send_signal(&replica.child, "-KILL");
    drop(replica);
    push(&trainer, 30);
    let replica = pair.replica(&trainer.address);
    let said = caught_up(&trainer, &replica, 372);
    assert_eq!((&said["snapshots"], &said["resumes"]), (&json!(1), &json!(0)), "{said}");

    // The trainer is killed, and comes to the same views by its checkpoint and its journal.
    let address = trainer.address.clone();
    send_signal(&trainer.child, "-KILL");
    drop(trainer);
    let before = probability(&replica, "i1");
    assert!(before > 0.0 && follows(&replica)["connected"].is_boolean(), "it goes on answering");
    let trainer = pair.trainer_at(&address, &[]);
    push(&trainer, 31);
    // Until then both may still say what they said before.
    eventually("it asks for everything", || (follows(&replica)["snapshots"] == 2).then_some(()));
    let said = caught_up(&trainer, &replica, 384);
    assert_eq!((&said["snapshots"], &said["rebases"]), (&json!(2), &json!(0)), "{said}");
}
