//! A Kafka topic without a Kafka: the client library's own mock of a broker, in this process, for measuring.
//!
//! In: events. Out: a broker's address that a source can read, and the least that anybody can do with the same topic: have
//! the client hand the events over, and drop them.

use std::time::Duration;

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use tidemill_base::{Error, Result};

/// How long the broker may take for all of them.
const FLUSH: Duration = Duration::from_secs(60);
/// Events that wait in the producer at most.
const QUEUE_MAX: &str = "1000000";

/// A topic with events in every partition.
pub struct MockTopic {
    cluster: MockCluster<'static, DefaultProducerContext>,
    name: String,
    partitions: i32,
}

impl MockTopic {
    /// Starts a broker, and fills each partition of one topic with these events. The mock keeps some megabytes a partition.
    pub fn start<'a>(name: &str, partitions: i32, events: impl Iterator<Item = &'a str> + Clone) -> Result<Self> {
        let failed = |e| Error::unavailable(format!("mock of a Kafka broker: {e}"));
        let cluster = MockCluster::new(1).map_err(failed)?;
        cluster.create_topic(name, partitions, 1).map_err(failed)?;
        let topic = Self { cluster, name: name.to_string(), partitions };
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", topic.brokers())
            .set("queue.buffering.max.messages", QUEUE_MAX)
            .set("linger.ms", "20")
            .create()
            .map_err(failed)?;
        for partition in 0..partitions {
            for event in events.clone() {
                let to: BaseRecord<(), _> = BaseRecord::to(name).partition(partition).payload(event);
                producer.send(to).map_err(|e| failed(e.0))?;
            }
        }
        producer.flush(FLUSH).map_err(failed)?;
        Ok(topic)
    }

    /// Where the broker listens.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Has the client hand over so many events, one by one, and drops them.
    pub fn poll(&self, events: u64) -> Result<()> {
        let failed = |e| Error::unavailable(format!("mock of a Kafka broker: {e}"));
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .set("group.id", "ceiling")
            .create()
            .map_err(failed)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.name, partition, Offset::Beginning).map_err(failed)?;
        }
        consumer.assign(&list).map_err(failed)?;
        let (mut left, mut silent) = (events, 0);
        while left > 0 {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(event)) => (left, silent) = (left - u64::from(event.payload().is_some()), 0),
                Some(Err(e)) => return Err(failed(e)),
                None => silent += 1,
            }
            if silent > 300 {
                return Err(Error::unavailable(format!(
                    "mock of a Kafka broker: {left} of {events} events never came"
                )));
            }
        }
        Ok(())
    }
}
