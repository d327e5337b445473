//! Streams of a real server (Debian's nats-server), started and ended here.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use async_nats::jetstream::{self, stream::Config};
use tidemill_base::{Kind, Result};
use tidemill_connect::Connections;
use tidemill_stream::{
    Position,
    source::{Begin, OnGap, Opened, Reading, SourceSpec},
};

use crate::support::{eventually, names, nats, read, reading};

/// A server with a directory and a port of its own, which it keeps over restarts.
pub struct Server {
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
    more: Vec<&'static str>,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start(more: &[&'static str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tidemill-nats-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut server = Self { dir, port, child: None, more: more.to_vec(), runtime };
        server.up();
        server
    }

    pub fn up(&mut self) {
        let mut command = Command::new("nats-server");
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(&self.dir).args(&self.more);
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(started.expect("nats-server is needed: apt-get install nats-server"));
        eventually("the server listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn js(&self) -> jetstream::Context {
        let options = async_nats::ConnectOptions::new();
        let options = if self.more.is_empty() { options } else { options.user_and_password("u".into(), "p".into()) };
        jetstream::new(options.connect(self.url()).await.unwrap())
    }

    /// Does something with the server's JetStream.
    pub fn block_on(&self, act: impl AsyncFnOnce(jetstream::Context)) {
        self.runtime.block_on(async { act(self.js().await).await });
    }

    pub fn create(&self, name: &str, subject: &str, messages_max: i64) {
        self.runtime.block_on(async {
            let (name, subjects) = (name.into(), vec![subject.into()]);
            let config = Config { name, subjects, max_messages: messages_max, ..Config::default() };
            // JetStream comes up a moment after the port.
            let js = self.js().await;
            for _ in 0..100 {
                if js.create_stream(config.clone()).await.is_ok() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            panic!("no JetStream");
        });
    }

    pub fn put(&self, subject: &str, payloads: &[Vec<u8>]) {
        self.runtime.block_on(async {
            let js = self.js().await;
            let mut waiting = Vec::new();
            for payload in payloads {
                waiting.push(js.publish(subject.to_string(), payload.clone().into()).await.unwrap());
            }
            for acknowledged in waiting {
                acknowledged.await.unwrap();
            }
        });
    }

    pub fn put_numbers(&self, subject: &str, numbers: std::ops::Range<i64>) {
        self.put(subject, &numbers.map(|n| format!("{{\"n\": {n}}}").into_bytes()).collect::<Vec<_>>());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn open(spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
    Connections::default().open(0, spec, known)
}

/// Sequences count from 1, the test's numbers are their sequences.
fn numbers(range: std::ops::Range<i64>) -> Vec<(u64, i64)> {
    range.map(|n| (n as u64, n)).collect()
}

#[test]
fn a_stream_read_again_gives_the_same_rows_with_the_same_offsets() {
    let server = Server::start(&[]);
    server.create("EVENTS", "events.>", -1);
    server.put_numbers("events.clicks", 1..3001);
    let spec = nats(&server.url(), None, Some("events.clicks"), reading());
    let mut opened = open(&spec, &[]).unwrap();
    let known = names(&opened);
    assert_eq!(known, ["EVENTS/events.clicks@1"]);
    assert!(opened[0].partition.is_behind());
    assert_eq!(read(&mut *opened[0].partition, 3000).unwrap().rows, numbers(1..3001));
    eventually("it is at its end", || (!opened[0].partition.is_behind()).then_some(()));
    for from in [1, 2, 1500, 3000] {
        let mut again = open(&spec, &known).unwrap();
        again[0].partition.seek(Position { offset: from, bytes: 0 }).unwrap();
        assert_eq!(read(&mut *again[0].partition, 3001 - from as usize).unwrap().rows, numbers(from as i64..3001));
    }
    server.put_numbers("events.clicks", 3001..3011);
    assert_eq!(read(&mut *opened[0].partition, 10).unwrap().rows, numbers(3001..3011));
}

/// A filter leaves holes in the numbers, and they are the same in every run.
#[test]
fn a_subject_is_read_by_its_numbers_in_the_stream() {
    let server = Server::start(&[]);
    server.create("EVENTS", "events.>", -1);
    for n in 0..20 {
        server.put_numbers("events.impressions", n..n + 1);
        server.put_numbers("events.clicks", n..n + 1);
    }
    let spec = nats(&server.url(), Some("EVENTS"), Some("events.clicks"), Reading { bounded: true, ..reading() });
    let opened = open(&spec, &[]).unwrap();
    let known = names(&opened);
    assert_eq!(known, ["EVENTS/events.clicks@1-41"]);
    server.put_numbers("events.clicks", 20..25);
    for mut opened in [opened, open(&spec, &known).unwrap()] {
        let seen = read(&mut *opened[0].partition, usize::MAX).unwrap();
        assert_eq!(seen.rows, (0..20).map(|n| (2 * n as u64 + 2, n)).collect::<Vec<_>>());
        assert!(seen.ended);
    }
    // A bounded one whose last events are of other subjects ends all the same.
    let spec = nats(&server.url(), None, Some("events.impressions"), Reading { bounded: true, ..reading() });
    let mut opened = open(&spec, &[]).unwrap();
    let seen = read(&mut *opened[0].partition, usize::MAX).unwrap();
    assert_eq!((seen.rows.len(), seen.ended), (20, true));
    let spec = nats(&server.url(), None, Some("events.impressions"), Reading { begin: Begin::Latest, ..reading() });
    assert_eq!(names(&open(&spec, &[]).unwrap()), ["EVENTS/events.impressions@46"]);
}

#[test]
fn f25_sequences_thrown_away_stop_the_job_or_are_counted() {
    let server = Server::start(&[]);
    server.create("EVENTS", "events", 100);
    server.put_numbers("events", 1..301);
    let known = ["EVENTS/events@1".to_string()];
    let what = "offset 12 no longer available (earliest 201): 189 events lost at the source";
    let mut opened = open(&nats(&server.url(), None, Some("events"), reading()), &known).unwrap();
    opened[0].partition.seek(Position { offset: 12, bytes: 0 }).unwrap();
    let e = read(&mut *opened[0].partition, 1).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(e.message(), format!("source clicks partition events: {what}; set on_gap='continue' to accept"));

    let spec = nats(&server.url(), None, Some("events"), Reading { on_gap: OnGap::Continue, ..reading() });
    let mut opened = open(&spec, &known).unwrap();
    opened[0].partition.seek(Position { offset: 12, bytes: 0 }).unwrap();
    let seen = read(&mut *opened[0].partition, 101).unwrap();
    assert_eq!(seen.refused, [(12, what.to_string())]);
    assert_eq!(seen.rows, numbers(201..301));
}

/// F23: killed and started again on the same files, the server is waited for; nothing is lost or doubled.
#[test]
fn f23_a_server_that_is_away_is_waited_for() {
    let mut server = Server::start(&[]);
    server.create("EVENTS", "events", -1);
    server.put_numbers("events", 1..101);
    let mut opened = open(&nats(&server.url(), None, Some("events"), reading()), &[]).unwrap();
    let partition = &mut *opened[0].partition;
    assert_eq!(read(partition, 100).unwrap().rows, numbers(1..101));
    server.down();
    let trouble = eventually("trouble is told", || {
        let read = partition.read().unwrap();
        assert!(matches!(read, tidemill_stream::source::Read::Pending), "{read:?}");
        partition.trouble()
    });
    assert!(trouble.starts_with("source clicks partition events: "), "{trouble}");
    server.up();
    server.create("EVENTS", "events", -1);
    server.put_numbers("events", 101..201);
    assert_eq!(read(partition, 100).unwrap().rows, numbers(101..201));
    eventually("the trouble is over", || partition.trouble().is_none().then_some(()));
}

#[test]
fn what_is_wrong_at_the_start_is_said_within_seconds() {
    let server = Server::start(&["--user", "u", "--pass", "p"]);
    let refused = open(&nats(&server.url(), Some("EVENTS"), None, reading()), &[]).err().unwrap();
    assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
    assert!(refused.message().contains("refuses us"), "{refused}");
    let user = |password: &str| {
        let pairs = [("user", "u"), ("password", password)];
        Reading { properties: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(), ..reading() }
    };
    let refused = open(&nats(&server.url(), Some("EVENTS"), None, user("secret")), &[]).err().unwrap();
    assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
    assert!(!refused.message().contains("secret"), "a password is never repeated: {refused}");

    let missing = open(&nats(&server.url(), Some("EVENTS"), None, user("p")), &[]).err().unwrap();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
    assert!(missing.message().contains("no stream 'EVENTS' at nats://127.0.0.1:"), "{missing}");
    let missing = open(&nats(&server.url(), None, Some("events"), user("p")), &[]).err().unwrap();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = open(&nats(&format!("nats://{nobody}"), Some("EVENTS"), None, reading()), &[]).err().unwrap();
    assert_eq!(away.kind(), Kind::Unavailable, "{away}");

    let typo = Reading { properties: vec![("usr".into(), "u".into())], ..reading() };
    let e = open(&nats(&server.url(), Some("EVENTS"), None, typo), &[]).err().unwrap();
    assert!(e.message().contains("'usr' is not known"), "{e}");
}
