//! Rows that leave to servers: each once, however often a process ends or a server goes away between.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{
    array::{Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use async_nats::{HeaderMap, jetstream};
use futures_util::StreamExt;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Message,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tidemill_base::{Kind, Result};
use tidemill_connect::open_sink;
use tidemill_stream::sink::{
    ClientSettings, Delivered, KafkaSinkSettings, NatsSinkSettings, Outlet, Owner, RowFormat, SinkConnector, SinkRows,
    SinkSpec,
};

use crate::{nats::Server, support::eventually};

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("user", DataType::Utf8, true)]))
}

/// A mini-batch of ten rows, as a filter left them: with every third row gone.
fn mini_batch(mini_batch: u64) -> SinkRows {
    let first = mini_batch as i64 * 10;
    let numbers: Vec<u32> = (0..15).filter(|n| n % 3 != 0).collect();
    let values = Int64Array::from_iter_values(first..first + 10);
    let users = StringArray::from_iter_values((0..10).map(|n| format!("u{}", n % 4)));
    let rows = RecordBatch::try_new(columns(), vec![Arc::new(values), Arc::new(users)]).unwrap();
    SinkRows { mini_batch, rows, numbers }
}

fn group(of: std::ops::RangeInclusive<u64>) -> Vec<SinkRows> {
    of.map(mini_batch).collect()
}

/// What must be there once mini-batches 1 to `last` are.
fn expected(last: u64) -> BTreeMap<String, u32> {
    let row = |n: u64| (format!("{{\"n\":{n},\"user\":\"u{}\"}}", n % 10 % 4), 1);
    (10..(last + 1) * 10).map(row).collect()
}

fn owner(lineage: u64, sink: &str) -> Owner {
    Owner { lineage, model: "ctr".into(), sink: sink.into() }
}

fn spec(connector: SinkConnector) -> SinkSpec {
    SinkSpec { name: "scored".into(), connector, format: RowFormat::Json, buffer_bytes: 1 << 20 }
}

fn to_nats(server: &Server, subject: &str, owner: &Owner) -> Result<Box<dyn Outlet>> {
    let settings = NatsSinkSettings { url: server.url(), subject: subject.into(), client: ClientSettings::default() };
    open_sink(&spec(SinkConnector::Nats(settings)), owner, &columns())
}

fn in_nats(server: &Server, stream: &str) -> BTreeMap<String, u32> {
    let mut there = BTreeMap::new();
    server.block_on(async |js: jetstream::Context| {
        let stream = js.get_stream(stream).await.unwrap();
        let config = jetstream::consumer::pull::Config::default();
        let consumer = stream.create_consumer(config).await.unwrap();
        let mut events = consumer.fetch().max_messages(10_000).messages().await.unwrap();
        while let Some(event) = events.next().await {
            *there.entry(String::from_utf8(event.unwrap().payload.to_vec()).unwrap()).or_insert(0) += 1;
        }
    });
    there
}

#[test]
fn each_row_is_on_the_subject_once_though_it_is_derived_again() {
    let server = Server::start(&[]);
    server.create("OUT", "out.>", -1);
    let ours = owner(7, "scored");
    let mut outlet = to_nats(&server, "out.scored", &ours).unwrap();
    assert!(!outlet.can_resume(3, None), "nothing is known of it");
    assert_eq!(outlet.deliver(&group(1..=3)).unwrap().rows, 30);
    // The process ends; the next one derives from mini-batch 1 again. Nothing is sent, whatever the server would recognise.
    drop(outlet);
    let mut outlet = to_nats(&server, "out.scored", &ours).unwrap();
    assert!(outlet.can_resume(2, None) && !outlet.can_resume(3, None));
    assert!(outlet.can_resume(3, Some(&[])), "a checkpoint knows that all was there");
    assert_eq!(outlet.deliver(&group(1..=3)).unwrap(), Delivered::default());
    assert_eq!(outlet.deliver(&group(2..=300)).unwrap().rows, 2970);
    drop(outlet);
    let mut outlet = to_nats(&server, "out.scored", &ours).unwrap();
    assert_eq!(outlet.deliver(&group(299..=301)).unwrap().rows, 10);
    assert_eq!(in_nats(&server, "OUT"), expected(301));
}

/// An event that was lost on its way, with later ones there: it alone is sent.
#[test]
fn a_gap_among_the_last_events_is_filled() {
    let server = Server::start(&[]);
    server.create("OUT", "out.>", -1);
    let ours = owner(7, "scored");
    let rows = mini_batch(1);
    server.block_on(async |js: jetstream::Context| {
        for (i, number) in rows.numbers.iter().enumerate().filter(|(i, _)| *i != 5) {
            let mut headers = HeaderMap::new();
            headers.insert("Tidemill-Sink", "0000000000000007 ctr scored");
            headers.insert("Tidemill-Row", format!("1/{number}"));
            // All were on their way when only the first three had been acknowledged.
            headers
                .insert("Tidemill-Seen", if i < 3 { "0 none".to_string() } else { format!("3 1/{}", rows.numbers[2]) });
            let payload = format!("{{\"n\":{},\"user\":\"u{}\"}}", 10 + i, i % 4);
            js.publish_with_headers("out.scored", headers, payload.into()).await.unwrap().await.unwrap();
        }
    });
    let mut outlet = to_nats(&server, "out.scored", &ours).unwrap();
    assert_eq!(outlet.deliver(&group(1..=2)).unwrap().rows, 11);
    assert_eq!(in_nats(&server, "OUT"), expected(2));
}

#[test]
fn a_nats_server_that_goes_away_is_trouble_and_nothing_is_lost() {
    let mut server = Server::start(&[]);
    server.create("OUT", "out.>", -1);
    let mut outlet = to_nats(&server, "out.scored", &owner(7, "scored")).unwrap();
    outlet.deliver(&group(1..=2)).unwrap();
    server.down();
    let away = outlet.deliver(&group(3..=4)).unwrap_err();
    assert_eq!(away.kind(), Kind::Unavailable, "{away}");
    server.up();
    let rows = eventually("it delivers again", || outlet.deliver(&group(3..=4)).ok());
    assert_eq!(rows.rows, 20);
    assert_eq!(in_nats(&server, "OUT"), expected(4));
}

#[test]
fn a_subject_of_somebody_else_is_refused_and_an_earlier_lineage_is_not() {
    let server = Server::start(&[]);
    server.create("OUT", "out.>", -1);
    server.block_on(async |js: jetstream::Context| {
        js.publish("out.theirs", "hello".into()).await.unwrap().await.unwrap();
    });
    let refusal = |subject: &str, owner: &Owner| to_nats(&server, subject, owner).err().unwrap();
    assert!(refusal("out.theirs", &owner(7, "scored")).message().contains("events of somebody else"));
    assert_eq!(refusal("nowhere", &owner(7, "scored")).kind(), Kind::NotFound);
    to_nats(&server, "out.scored", &owner(7, "scored")).unwrap().deliver(&group(1..=1)).unwrap();
    assert!(refusal("out.scored", &owner(7, "other")).message().contains("another sink"));
    // After --from-scratch the rows are others.
    let mut anew = to_nats(&server, "out.scored", &owner(8, "scored")).unwrap();
    assert_eq!(anew.deliver(&group(1..=1)).unwrap().rows, 10);
}

struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    fn new(partitions: i32) -> Self {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("scored", partitions, 1).unwrap();
        Self(mock)
    }

    fn outlet(&self, topic: &str, key: Option<&str>, owner: &Owner) -> Result<Box<dyn Outlet>> {
        let settings = KafkaSinkSettings {
            brokers: self.0.bootstrap_servers(),
            topic: topic.into(),
            key: key.map(String::from),
            client: ClientSettings::default(),
        };
        open_sink(&spec(SinkConnector::Kafka(settings)), owner, &columns())
    }

    /// What there is, and in which partition the rows of each user are.
    fn there(&self, partitions: i32) -> (BTreeMap<String, u32>, BTreeMap<String, Vec<i32>>) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.0.bootstrap_servers())
            .set("group.id", "reader")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        (0..partitions).for_each(|p| list.add_partition_offset("scored", p, Offset::Beginning).unwrap());
        consumer.assign(&list).unwrap();
        let (mut rows, mut users, mut ended) = (BTreeMap::new(), BTreeMap::<String, Vec<i32>>::new(), 0);
        while ended < partitions {
            match consumer.poll(Duration::from_secs(10)).expect("the cluster answers") {
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                event => {
                    let event = event.unwrap();
                    let text = String::from_utf8(event.payload().unwrap().to_vec()).unwrap();
                    let user = text.split("\"u").nth(1).unwrap().to_string();
                    let of_user = users.entry(user).or_default();
                    if !of_user.contains(&event.partition()) {
                        of_user.push(event.partition());
                    }
                    *rows.entry(text).or_insert(0) += 1;
                }
            }
        }
        (rows, users)
    }
}

#[test]
fn each_row_is_in_the_topic_once_though_it_is_derived_again() {
    let cluster = Cluster::new(3);
    let ours = owner(7, "scored");
    let mut outlet = cluster.outlet("scored", None, &ours).unwrap();
    assert!(!outlet.can_resume(1, None));
    for last in [3, 4, 9, 40] {
        // Every time from the beginning, as if no checkpoint had been written.
        outlet.deliver(&group(1..=last)).unwrap();
        drop(outlet);
        outlet = cluster.outlet("scored", None, &ours).unwrap();
        assert!(outlet.can_resume(last, None) && !outlet.can_resume(last + 1, None));
        assert_eq!(outlet.deliver(&group(1..=last)).unwrap(), Delivered::default());
    }
    assert_eq!(cluster.there(3).0, expected(40));
}

#[test]
fn rows_of_one_key_go_to_one_partition() {
    let cluster = Cluster::new(3);
    cluster.outlet("scored", Some("user"), &owner(7, "scored")).unwrap().deliver(&group(1..=20)).unwrap();
    let (rows, users) = cluster.there(3);
    assert_eq!(rows, expected(20));
    assert!(users.len() == 4 && users.values().all(|partitions| partitions.len() == 1), "{users:?}");
}

/// A transaction whose end is refused: what became of it is read from the topic, by a new producer.
#[test]
fn a_transaction_that_does_not_end_well_is_looked_at_again() {
    let cluster = Cluster::new(1);
    let mut outlet = cluster.outlet("scored", None, &owner(7, "scored")).unwrap();
    outlet.deliver(&group(1..=2)).unwrap();
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE];
    cluster.0.request_errors(RDKafkaApiKey::EndTxn, &refused);
    outlet.deliver(&group(3..=4)).unwrap_err();
    eventually("it delivers again", || outlet.deliver(&group(3..=4)).ok());
    outlet.deliver(&group(5..=5)).unwrap();
    assert_eq!(cluster.there(1).0, expected(5));
}

#[test]
fn a_topic_that_is_not_there_or_of_somebody_else_is_refused() {
    let cluster = Cluster::new(1);
    cluster.outlet("scored", None, &owner(7, "scored")).unwrap().deliver(&group(1..=1)).unwrap();
    let other = cluster.outlet("scored", None, &owner(7, "other")).err().unwrap();
    assert!(other.kind() == Kind::Conflict && other.message().contains("another sink"), "{other}");
    let anew = cluster.outlet("scored", None, &owner(8, "scored")).unwrap().deliver(&group(1..=1)).unwrap();
    assert_eq!(anew.rows, 10);
}
