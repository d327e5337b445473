//! Topics of the client's mock cluster, which speaks Kafka's protocol over TCP.

use std::time::Duration;

use rdkafka::{
    config::ClientConfig,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use tidemill_base::{Kind, Result};
use tidemill_connect::Connections;
use tidemill_stream::{
    Position,
    source::{Begin, OnGap, Opened, Partition, Reading, SourceSpec},
};

use crate::support::{eventually, kafka, names, read, reading};

struct Cluster {
    mock: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Cluster {
    fn new(topics: &[(&str, i32)]) -> Self {
        let mock = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            mock.create_topic(topic, *partitions, 1).unwrap();
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .set("message.max.bytes", "4000000")
            .create()
            .unwrap();
        Self { mock, producer }
    }

    fn source(&self, topic: &str, reading: Reading) -> SourceSpec {
        kafka(&self.mock.bootstrap_servers(), topic, reading)
    }

    fn put(&self, topic: &str, partition: i32, payload: Option<&[u8]>) {
        let mut event: BaseRecord<(), [u8]> = BaseRecord::to(topic).partition(partition);
        event.payload = payload;
        self.producer.send(event).map_err(|e| e.0).unwrap();
    }

    fn put_numbers(&self, topic: &str, partition: i32, numbers: std::ops::Range<i64>) {
        for n in numbers {
            self.put(topic, partition, Some(format!("{{\"n\": {n}}}").as_bytes()));
        }
        self.flush();
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }
}

fn open(spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
    Connections::default().open(0, spec, known)
}

fn numbers(range: std::ops::Range<i64>) -> Vec<(u64, i64)> {
    range.map(|n| (n as u64, n)).collect()
}

/// The whole contract: the same rows with the same offsets, from any place on, in any run.
#[test]
fn a_partition_read_again_gives_the_same_rows_with_the_same_offsets() {
    let cluster = Cluster::new(&[("clicks", 2)]);
    cluster.put_numbers("clicks", 0, 0..500);
    cluster.put_numbers("clicks", 1, 0..40);
    let spec = cluster.source("clicks", reading());
    let mut opened = open(&spec, &[]).unwrap();
    assert_eq!(names(&opened), ["clicks/0@0", "clicks/1@0"]);
    assert!(opened.iter().all(|o| !o.ordered && o.partition.is_behind()));
    assert_eq!(read(&mut *opened[0].partition, 500).unwrap().rows, numbers(0..500));
    assert_eq!(read(&mut *opened[1].partition, 40).unwrap().rows, numbers(0..40));
    eventually("both are at their end", || {
        let mut ends = opened.iter_mut().map(|o| o.partition.read().is_ok() && !o.partition.is_behind());
        ends.all(|end| end).then_some(())
    });
    let known = names(&opened);
    for from in [0, 1, 137, 499] {
        let mut again = open(&spec, &known).unwrap();
        again[0].partition.seek(Position { offset: from, bytes: 0 }).unwrap();
        assert_eq!(read(&mut *again[0].partition, 500 - from as usize).unwrap().rows, numbers(from as i64..500));
        // In the same run, too.
        again[0].partition.seek(Position { offset: 100, bytes: 0 }).unwrap();
        assert_eq!(read(&mut *again[0].partition, 400).unwrap().rows, numbers(100..500));
    }
    cluster.put_numbers("clicks", 0, 500..510);
    assert_eq!(read(&mut *opened[0].partition, 10).unwrap().rows, numbers(500..510));
}

#[test]
fn a_bounded_source_ends_where_its_topic_ended_when_it_was_first_opened() {
    let cluster = Cluster::new(&[("clicks", 2)]);
    cluster.put_numbers("clicks", 0, 0..100);
    let spec = cluster.source("clicks", Reading { bounded: true, ..reading() });
    let opened = open(&spec, &[]).unwrap();
    let known = names(&opened);
    assert_eq!(known, ["clicks/0@0-100", "clicks/1@0-0"]);
    cluster.put_numbers("clicks", 0, 100..200);
    for mut opened in [opened, open(&spec, &known).unwrap()] {
        assert!(opened.iter().all(|o| o.ordered));
        let seen = read(&mut *opened[0].partition, usize::MAX).unwrap();
        assert_eq!((seen.rows, seen.ended), (numbers(0..100), true));
        assert!(read(&mut *opened[1].partition, usize::MAX).unwrap().ended);
    }
}

#[test]
fn the_latest_begins_with_what_comes_and_a_restart_begins_there_too() {
    let cluster = Cluster::new(&[("clicks", 1)]);
    cluster.put_numbers("clicks", 0, 0..10);
    let spec = cluster.source("clicks", Reading { begin: Begin::Latest, ..reading() });
    let mut opened = open(&spec, &[]).unwrap();
    assert_eq!(names(&opened), ["clicks/0@10"]);
    assert!(!opened[0].partition.is_behind());
    cluster.put_numbers("clicks", 0, 10..15);
    assert_eq!(read(&mut *opened[0].partition, 5).unwrap().rows, numbers(10..15));
    let mut again = open(&spec, &names(&opened)).unwrap();
    assert_eq!(read(&mut *again[0].partition, 5).unwrap().rows, numbers(10..15));
}

#[test]
fn a_partition_that_is_new_is_found_while_the_job_runs_and_after_a_restart() {
    let cluster = Cluster::new(&[("clicks", 3)]);
    cluster.put_numbers("clicks", 2, 0..5);
    let spec = cluster.source("clicks", Reading { begin: Begin::Latest, ..reading() });
    let known = ["clicks/0@0".to_string(), "clicks/1@0".to_string()];
    let mut connections = Connections::default();
    assert_eq!(names(&connections.open(0, &spec, &known).unwrap()), ["clicks/0@0", "clicks/1@0", "clicks/2@0"]);
    let mut new = connections.open_new(0, &spec, &known).unwrap();
    assert_eq!(names(&new), ["clicks/2@0"], "from its beginning, whatever begin says");
    assert_eq!(read(&mut *new[0].partition, 5).unwrap().rows, numbers(0..5));
    let known = [&known[..], &["push".to_string(), "clicks/2@0".to_string()]].concat();
    assert!(connections.open_new(0, &spec, &known).unwrap().is_empty());
}

/// F25: the mock keeps five megabytes of a partition, as a real broker keeps a week.
#[test]
fn f25_offsets_thrown_away_stop_the_job_or_are_counted() {
    let cluster = Cluster::new(&[("clicks", 1)]);
    let filler = format!("{{\"n\": 1{}}}", " ".repeat(50_000));
    for _ in 0..200 {
        cluster.put("clicks", 0, Some(filler.as_bytes()));
    }
    cluster.flush();
    let spec = cluster.source("clicks", reading());
    let now = names(&open(&spec, &[]).unwrap()).remove(0);
    let earliest: u64 = now.strip_prefix("clicks/0@").unwrap().parse().unwrap();
    assert!(earliest > 20, "{now}");

    let known = ["clicks/0@0".to_string()];
    let mut opened = open(&spec, &known).unwrap();
    opened[0].partition.seek(Position { offset: 12, bytes: 0 }).unwrap();
    let e = read(&mut *opened[0].partition, 1).unwrap_err();
    let what =
        format!("offset 12 no longer available (earliest {earliest}): {} events lost at the source", earliest - 12);
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(e.message(), format!("source clicks partition 0: {what}; set on_gap='continue' to accept"));

    let spec = cluster.source("clicks", Reading { on_gap: OnGap::Continue, ..reading() });
    let mut opened = open(&spec, &known).unwrap();
    opened[0].partition.seek(Position { offset: 12, bytes: 0 }).unwrap();
    let seen = read(&mut *opened[0].partition, 1 + (200 - earliest) as usize).unwrap();
    assert_eq!(seen.refused, [(12, what)]);
    assert_eq!(seen.rows, (earliest..200).map(|n| (n, 1)).collect::<Vec<_>>());
}

/// A topic that was deleted and made again holds other events under the numbers we know.
#[test]
fn a_topic_that_ends_before_what_was_read_is_not_the_same_topic() {
    let cluster = Cluster::new(&[("clicks", 1)]);
    cluster.put_numbers("clicks", 0, 0..10);
    let spec = cluster.source("clicks", reading());
    let mut opened = open(&spec, &["clicks/0@0".to_string()]).unwrap();
    opened[0].partition.seek(Position { offset: 50, bytes: 0 }).unwrap();
    let e = read(&mut *opened[0].partition, 1).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(e.message().contains("offset 50 was read before, and the partition ends at 10 now"), "{e}");
    // And when a journal says that more was read than is there.
    let mut opened = open(&spec, &["clicks/0@0".to_string()]).unwrap();
    let partition: &mut dyn Partition = &mut *opened[0].partition;
    read(partition, 10).unwrap();
    let e = eventually("the end is seen", || {
        let _ = partition.read().unwrap();
        partition.wait(11).err()
    });
    assert!(e.message().contains("the partition ends at 10 now"), "{e}");
}

#[test]
fn b38_tombstones_and_giants_are_refused_and_do_not_stop_the_rest() {
    let cluster = Cluster::new(&[("clicks", 1)]);
    cluster.put("clicks", 0, Some(b"{\"n\": 0}"));
    cluster.put("clicks", 0, None);
    cluster.put("clicks", 0, Some(&vec![b' '; 1_500_000]));
    cluster.put("clicks", 0, Some(b"{\"n\": 3}"));
    cluster.flush();
    let mut opened = open(&cluster.source("clicks", reading()), &[]).unwrap();
    let seen = read(&mut *opened[0].partition, 4).unwrap();
    assert_eq!(seen.rows, [(0, 0), (3, 3)]);
    let reasons: Vec<&str> = seen.refused.iter().map(|r| r.1.as_str()).collect();
    assert_eq!(reasons, ["offset 1: no value (a tombstone)", "offset 2: 1,500,000 bytes, longer than 1,048,576"]);
}

/// F23: a broker that goes away is told as trouble, and reading goes on by itself when it comes back.
#[test]
fn f23_a_broker_that_is_away_is_waited_for() {
    let cluster = Cluster::new(&[("clicks", 1)]);
    cluster.put_numbers("clicks", 0, 0..10);
    let mut opened = open(&cluster.source("clicks", reading()), &[]).unwrap();
    let partition = &mut *opened[0].partition;
    assert_eq!(read(partition, 10).unwrap().rows, numbers(0..10));
    cluster.mock.broker_down(1).unwrap();
    let trouble = eventually("trouble is told", || {
        let read = partition.read().unwrap();
        assert!(matches!(read, tidemill_stream::source::Read::Pending), "{read:?}");
        partition.trouble()
    });
    assert!(trouble.starts_with("source clicks partition 0: no broker of "), "{trouble}");
    cluster.mock.broker_up(1).unwrap();
    cluster.put_numbers("clicks", 0, 10..20);
    assert_eq!(read(partition, 10).unwrap().rows, numbers(10..20));
    eventually("the trouble is over", || partition.trouble().is_none().then_some(()));
}

#[test]
fn what_is_wrong_at_the_start_is_said_within_seconds() {
    let cluster = Cluster::new(&[("clicks", 1)]);
    let e = open(&cluster.source("clix", reading()), &[]).err().unwrap();
    assert_eq!(e.kind(), Kind::NotFound);
    assert_eq!(e.message(), format!("source clicks: no topic 'clix' at {}", cluster.mock.bootstrap_servers()));

    // A port where nobody listens any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let e = open(&kafka(&nobody, "clicks", reading()), &[]).err().unwrap();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(e.message().starts_with(&format!("source clicks: no broker of {nobody} answers: ")), "{e}");

    // The mock knows no passwords: whoever asks for one is not let in.
    let pairs = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "u")];
    let mut with = reading();
    with.properties = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    with.properties.push(("sasl.password".into(), "wrong".into()));
    let e = open(&cluster.source("clicks", with), &[]).err().unwrap();
    assert!(matches!(e.kind(), Kind::Invalid | Kind::Unavailable), "{e}");
    assert!(!e.message().contains("wrong"), "a password is never repeated: {e}");

    let typo = Reading { properties: vec![("sasl.usrname".into(), "u".into())], ..reading() };
    let e = open(&cluster.source("clicks", typo), &[]).err().unwrap();
    assert_eq!(e.kind(), Kind::Invalid);
    assert!(e.message().contains("sasl.usrname"), "{e}");
}
