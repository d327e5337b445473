//! Rows that leave to servers, from whole processes: a real NATS server, and Kafka's protocol (the client's mock cluster).

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures_util::StreamExt;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Message,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use tidemill_base::Rng;

use super::{
    kill::{asked, killed, seed},
    support::{Scratch, eventually, generated, last_json, run, run_json, tidemill},
    transactions,
};

const SELECT: &str = "AS SELECT imp_id, prediction, label, sample_weight, mini_batch, mini_batch_row FROM ctr";

fn program(rows: u64, with: &str) -> String {
    format!("{}\nCREATE SINK scored {SELECT} WITH ({with});", generated(rows, ""))
}

/// What must be there, once each: the lines of the same program's files.
fn expected(scratch: &Scratch, rows: u64) -> BTreeMap<String, u32> {
    let dir = scratch.path("files");
    run_json(
        &program(rows, &format!("connector = 'file', path = '{}'", dir.display())),
        &scratch.path("by-files"),
        &[],
    );
    let shown = fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
    let shown = shown.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    let text: String = shown.map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| (line.to_string(), 1)).collect()
}

/// A server that ends with the test.
struct Nats {
    child: Option<Child>,
    port: u16,
    dir: std::path::PathBuf,
}

impl Nats {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { child: None, port, dir: dir.to_path_buf() };
        server.up();
        server.js(async |js: jetstream::Context| {
            let config =
                jetstream::stream::Config { name: "OUT".into(), subjects: vec!["out.>".into()], ..Default::default() };
            while js.create_stream(config.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        server
    }

    fn up(&mut self) {
        let mut command = Command::new("nats-server");
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(&self.dir);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("nats-server is needed: apt-get install nats-server"));
        eventually("the server listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn js(&self, act: impl AsyncFnOnce(jetstream::Context)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            act(jetstream::new(async_nats::connect(format!("nats://127.0.0.1:{}", self.port)).await.unwrap())).await;
        });
    }

    fn with(&self, subject: &str) -> String {
        format!("connector = 'nats', url = 'nats://127.0.0.1:{}', subject = '{subject}'", self.port)
    }

    fn count(&self) -> u64 {
        let mut count = 0;
        self.js(async |js: jetstream::Context| {
            count = js.get_stream("OUT").await.unwrap().cached_info().state.messages;
        });
        count
    }

    fn there(&self, subject: &str) -> BTreeMap<String, u32> {
        let mut there = BTreeMap::new();
        self.js(async |js: jetstream::Context| {
            let stream = js.get_stream("OUT").await.unwrap();
            let config = jetstream::consumer::pull::Config {
                filter_subject: subject.into(),
                ack_policy: jetstream::consumer::AckPolicy::None,
                ..Default::default()
            };
            let consumer = stream.create_consumer(config).await.unwrap();
            let mut left = consumer.cached_info().num_pending;
            while left > 0 {
                let mut events = consumer.fetch().max_messages(5_000).messages().await.unwrap();
                while let Some(event) = events.next().await {
                    *there.entry(String::from_utf8(event.unwrap().payload.to_vec()).unwrap()).or_insert(0) += 1;
                    left -= 1;
                }
            }
        });
        there
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.down();
    }
}

#[test]
fn f1_killed_at_random_moments_each_row_is_in_nats_once() {
    let scratch = Scratch::new("sink-nats");
    let rows = 6_000;
    let expected = expected(&scratch, rows);
    let server = Nats::start(&scratch.path("nats"));
    let started = Instant::now();
    run_json(&program(rows, &server.with("out.whole")), &scratch.path("whole"), &[]);
    let undisturbed = started.elapsed();
    assert_eq!(server.there("out.whole"), expected);
    let (mut left, mut round, mut rng) = (asked(6), 0, Rng::seeded(seed()));
    while left > 0 {
        let now = left.min(1 + rng.below(4) as u32);
        let subject = format!("out.round{round}");
        let data = scratch.path(&format!("killed-{round}"));
        let (_, landed) = killed(&program(rows, &server.with(&subject)), &data, now, seed() + round, undisturbed);
        assert!(server.there(&subject) == expected, "round {round}; repeat with TIDEMILL_SEED={}", seed());
        (left, round) = (left - landed, round + 1);
    }
}

/// The server goes away while the job runs: it waits, says so, and goes on.
#[test]
fn f32_a_nats_server_that_goes_away_makes_the_job_wait_and_nothing_is_lost() {
    let scratch = Scratch::new("sink-away");
    let rows = 20_000;
    let expected = expected(&scratch, rows);
    let mut server = Nats::start(&scratch.path("nats"));
    let sql = program(rows, &format!("{}, buffer.bytes = '64KiB'", server.with("out.scored")));
    let mut child = tidemill()
        .args(["run", "--json", "--quiet", "--no-serve", "-e", &sql, "--data-dir"])
        .arg(scratch.path("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the first rows", || (server.count() > 500).then_some(()));
    server.down();
    std::thread::park_timeout(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    server.up();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(last_json(&out)["sinks"][0]["waiting"], 0);
    assert_eq!(server.there("out.scored"), expected);
    // One that is not there at the start ends the start.
    server.down();
    let out = run(&sql, &scratch.path("data"), &[]);
    assert_eq!(out.status.code(), Some(5), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("sink scored: nats://"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// What can be read of a topic of three partitions.
fn in_kafka(mock: &MockCluster<'static, DefaultProducerContext>, topic: &str) -> BTreeMap<String, u32> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "reader")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    (0..3).for_each(|p| list.add_partition_offset(topic, p, Offset::Beginning).unwrap());
    consumer.assign(&list).unwrap();
    let (mut there, mut ended) = (BTreeMap::new(), 0);
    while ended < 3 {
        match consumer.poll(Duration::from_secs(10)).expect("the cluster answers") {
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            event => {
                *there.entry(String::from_utf8(event.unwrap().payload().unwrap().to_vec()).unwrap()).or_insert(0) += 1
            }
        }
    }
    there
}

/// Killed at any moment, in the midst of a transaction too: what a reader of committed events sees is each row once. The
/// broker is the client's mock; it survives the processes, and a proxy before it keeps their transactions.
#[test]
fn f1_killed_at_random_moments_each_row_is_in_kafka_once() {
    let scratch = Scratch::new("sink-kafka-kill");
    let rows = 6_000;
    let expected = expected(&scratch, rows);
    let mock: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
    let brokers = transactions::before(&mock.bootstrap_servers());
    let to = |topic: &str| {
        mock.create_topic(topic, 3, 1).unwrap();
        program(rows, &format!("connector = 'kafka', brokers = '{brokers}', topic = '{topic}', key = 'imp_id'"))
    };
    let started = Instant::now();
    let whole = run_json(&to("whole"), &scratch.path("whole"), &[]);
    let undisturbed = started.elapsed();
    assert_eq!(whole["sinks"][0]["rows"], expected.len());
    assert_eq!(in_kafka(&mock, "whole"), expected);
    let (mut left, mut round, mut rng) = (asked(6), 0, Rng::seeded(seed()));
    while left > 0 {
        let now = left.min(1 + rng.below(4) as u32);
        let topic = format!("round{round}");
        let data = scratch.path(&format!("killed-{round}"));
        let (ended, landed) = killed(&to(&topic), &data, now, seed() + round, undisturbed);
        assert!(in_kafka(&mock, &topic) == expected, "round {round}; repeat with TIDEMILL_SEED={}", seed());
        assert_eq!(ended["state_hash"], whole["state_hash"], "round {round}");
        fs::remove_dir_all(data).unwrap();
        (left, round) = (left - landed, round + 1);
    }
}

#[test]
fn each_row_is_in_kafka_once_though_the_job_is_derived_again() {
    let scratch = Scratch::new("sink-kafka");
    let rows = 6_000;
    let expected = expected(&scratch, rows);
    let mock: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
    mock.create_topic("scored", 3, 1).unwrap();
    let with =
        format!("connector = 'kafka', brokers = '{}', topic = 'scored', key = 'imp_id'", mock.bootstrap_servers());
    let (sql, data) = (program(rows, &with), scratch.path("data"));
    let summary = run_json(&sql, &data, &[]);
    assert_eq!(summary["sinks"][0]["rows"], expected.len());
    // Without its checkpoints the job derives everything again; the topic has it.
    fs::remove_dir_all(data.join("models/ctr/job/checkpoints")).unwrap();
    let again = run_json(&sql, &data, &[]);
    assert_eq!((&again["state_hash"], again["sinks"][0]["rows"].as_u64()), (&summary["state_hash"], Some(0)));
    assert_eq!(in_kafka(&mock, "scored"), expected);
}
