//! How fast events come in, beside what the client alone can do.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tidemill_connect::Connections;
use tidemill_stream::source::{Read, Reading};

use crate::support::{kafka, reading};

/// Events in a partition: as many small ones as the mock keeps.
const EVENTS: u64 = 60_000;
const PARTITIONS: i32 = 8;

/// `cargo test -p tidemill-connect --test it -- --ignored --nocapture kafka_in`
#[test]
#[ignore = "measures; nothing to fail"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn kafka_in_beside_the_clients_own_ceiling() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("clicks", PARTITIONS, 1).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("queue.buffering.max.messages", "1000000")
        .set("linger.ms", "20")
        .create()
        .unwrap();
    for n in 0..EVENTS {
        for partition in 0..PARTITIONS {
            let event = format!("{{\"n\": {n}, \"user\": \"u{}\", \"price\": 1.5}}", n % 997);
            let to: BaseRecord<(), _> = BaseRecord::to("clicks").partition(partition).payload(&event);
            producer.send(to).map_err(|e| e.0).unwrap();
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    let spec = kafka(&mock.bootstrap_servers(), "clicks", Reading { bounded: true, ..reading() });
    for round in 0..3 {
        let (mut events, started, cpu) = (0u64, Instant::now(), cpu_s());
        let mut opened = Connections::default().open(0, &spec, &[]).unwrap();
        for o in &mut opened {
            while let Read::Chunk(chunk) = o.partition.read().unwrap() {
                events += chunk.rows.num_rows() as u64;
            }
        }
        let (all, busy) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);
        drop(opened);

        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .set("group.id", "ceiling")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        (0..PARTITIONS).for_each(|p| list.add_partition_offset("clicks", p, Offset::Beginning).unwrap());
        let (mut polled, started, cpu) = (0u64, Instant::now(), cpu_s());
        consumer.assign(&list).unwrap();
        while polled < events {
            if let Some(Ok(event)) = consumer.poll(Duration::from_millis(100)) {
                polled += event.payload().map_or(0, |_| 1);
            }
        }
        let (bare, bare_busy) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);
        println!(
            "round {round}: {events} events; as columns {:.0} events/s, {:.0} a core; poll and drop {:.0} events/s, \
             {:.0} a core (the mock broker's work is in both)",
            events as f64 / all,
            events as f64 / busy,
            polled as f64 / bare,
            polled as f64 / bare_busy
        );
    }
}

/// Processor seconds of this process, the mock broker's included.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
