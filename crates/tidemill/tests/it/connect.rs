//! F1 with other people's servers behind the job: Kafka's protocol (the client's mock cluster) and a real NATS server.
//!
//! `TIDEMILL_KILLS=1000 cargo test --workspace --test it -- --nocapture while_it_reads` kills a thousand times each.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use tidemill_base::Rng;

use super::{
    kill::{asked, kill_and_compare, killed_at_each, seed},
    support::{Scratch, eventually},
};

/// Impressions and clicks as JSON, in the order of their times: every third click comes late, some impressions have none.
fn events(count: u64) -> (Vec<String>, Vec<String>) {
    let (mut impressions, mut clicks) = (Vec::new(), Vec::new());
    let mut rng = Rng::seeded(11);
    for n in 0..count {
        let (ts, item) = (1_700_000_000_000 + n * 20, rng.below(50));
        impressions
            .push(format!("{{\"imp_id\": {n}, \"ts\": {ts}, \"item\": \"i{item}\", \"user\": {}}}", rng.below(300)));
        if rng.below(50) < item {
            clicks.push(format!("{{\"imp_id\": {n}, \"ts\": {}}}", ts + 100 + rng.below(3) * 400));
        }
    }
    (impressions, clicks)
}

fn program(impressions: &str, clicks: &str) -> String {
    format!(
        "CREATE SOURCE impressions (imp_id BIGINT PRIMARY KEY, ts BIGINT, item STRING, user BIGINT,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '2' SECOND) WITH ({impressions}, bounded = true);
         CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts),
           WATERMARK FOR rt AS rt - INTERVAL '2' SECOND) WITH ({clicks}, bounded = true);
         CREATE STREAM samples AS SELECT i.*, (c.imp_id IS NOT NULL) AS clicked FROM impressions i LEFT JOIN clicks c
           ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' SECOND EMIT EARLY INTERVAL '0.3' SECOND CORRECT RETRACT;
         SELECT * FROM samples TO TRAIN FTRLClassifier WITH checkpoint.interval = '20ms'
           COLUMN item, user, CROSS([item, user]) LABEL clicked INTO ctr;"
    )
}

/// Runs it whole, then killed again and again: all must end alike.
fn check(sql: &str, count: u64, kills: u32) {
    let scratch = Scratch::new("connect");
    let reference = kill_and_compare(sql, &scratch, kills, seed());
    assert!(reference["events"].as_u64().unwrap() > count, "{reference}");
}

/// A cluster whose topics hold these events, in partitions of so many by turns; it lives as long as it is held.
pub fn filled_kafka(topics: &[(&str, i32, Vec<String>)]) -> MockCluster<'static, DefaultProducerContext> {
    let mock = MockCluster::new(1).unwrap();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().unwrap();
    for (topic, partitions, events) in topics {
        mock.create_topic(topic, *partitions, 1).unwrap();
        for (i, event) in events.iter().enumerate() {
            let to: BaseRecord<(), _> = BaseRecord::to(topic).partition(i as i32 % partitions).payload(event);
            producer.send(to).map_err(|e| e.0).unwrap();
        }
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    mock
}

fn kafka(count: u64) -> (MockCluster<'static, DefaultProducerContext>, String) {
    let (impressions, clicks) = events(count);
    let mock = filled_kafka(&[("impressions", 3, impressions), ("clicks", 3, clicks)]);
    let with =
        |topic: &str| format!("connector = 'kafka', brokers = '{}', topic = '{topic}'", mock.bootstrap_servers());
    let sql = program(&with("impressions"), &with("clicks"));
    (mock, sql)
}

/// No sample lost or doubled, not one bit different.
#[test]
fn f1_killed_while_it_reads_kafka_a_run_ends_as_if_nothing_had_happened() {
    let (_cluster, sql) = kafka(5_000);
    check(&sql, 5_000, asked(10));
}

/// Killed while it writes down which partitions there are, one after the other, it does not take a part of them for all.
#[test]
fn f3_killed_while_it_opens_the_partitions_of_a_topic_a_run_reads_all_of_them() {
    let (_cluster, sql) = kafka(600);
    killed_at_each("journal.log", 1..=14, &sql, 12);
}

/// A server that ends with the test.
pub struct Nats(Child);

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with a stream that holds these events by subject, and its address.
pub fn filled_nats(scratch: &Scratch, subjects: [(&'static str, Vec<String>); 2]) -> (Nats, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("nats-server");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(scratch.path("nats"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Nats(child.expect("nats-server is needed: apt-get install nats-server"));
    eventually("the server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    let url = format!("nats://127.0.0.1:{port}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let js = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
        let config = async_nats::jetstream::stream::Config {
            name: "SHOP".into(),
            subjects: vec!["shop.*".into()],
            ..Default::default()
        };
        while js.create_stream(config.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (subject, events) in subjects {
            let mut waiting = Vec::new();
            for event in events {
                waiting.push(js.publish(subject, event.into()).await.unwrap());
            }
            for acknowledged in waiting {
                acknowledged.await.unwrap();
            }
        }
    });
    (server, url)
}

fn nats(scratch: &Scratch, count: u64) -> (Nats, String) {
    let (impressions, clicks) = events(count);
    let (server, url) = filled_nats(scratch, [("shop.impressions", impressions), ("shop.clicks", clicks)]);
    let with = |what: &str| format!("connector = 'nats', url = '{url}', subject = 'shop.{what}'");
    (server, program(&with("impressions"), &with("clicks")))
}

#[test]
fn f1_killed_while_it_reads_nats_a_run_ends_as_if_nothing_had_happened() {
    let scratch = Scratch::new("nats");
    let (_server, sql) = nats(&scratch, 5_000);
    check(&sql, 5_000, asked(10));
}
