//! Sources without a program, and reading them as the sequencer does.

use std::time::Duration;

use arrow::{
    array::AsArray,
    datatypes::{DataType, Field, Int64Type, Schema},
};
use tidemill_base::Result;
use tidemill_stream::source::{
    Begin, Connector, FileFormat, KafkaSettings, NatsSettings, OnGap, Opened, Partition, Read, Reading, SourceSpec,
};

pub fn reading() -> Reading {
    Reading {
        format: FileFormat::Json,
        begin: Begin::Earliest,
        bounded: false,
        on_gap: OnGap::Stop,
        properties: Vec::new(),
        properties_file: None,
    }
}

pub fn kafka(brokers: &str, topic: &str, reading: Reading) -> SourceSpec {
    source(Connector::Kafka(KafkaSettings { brokers: brokers.into(), topic: topic.into(), reading }))
}

pub fn nats(url: &str, stream: Option<&str>, subject: Option<&str>, reading: Reading) -> SourceSpec {
    let (stream, subject) = (stream.map(String::from), subject.map(String::from));
    source(Connector::Nats(NatsSettings { url: url.into(), stream, subject, reading }))
}

/// A source of one column, `n`.
fn source(connector: Connector) -> SourceSpec {
    SourceSpec::new("clicks", Schema::new(vec![Field::new("n", DataType::Int64, true)]).into(), connector)
}

/// What came out of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Offset and value.
    pub rows: Vec<(u64, i64)>,
    /// Offset and reason.
    pub refused: Vec<(u64, String)>,
    /// Whether it said that there is no more.
    pub ended: bool,
}

impl Seen {
    fn count(&self) -> usize {
        self.rows.len() + self.refused.len()
    }
}

/// Reads until so many rows, refused ones included, have come, or the end; at most for half a minute.
pub fn read(partition: &mut dyn Partition, count: usize) -> Result<Seen> {
    let mut seen = Seen::default();
    for _ in 0..15_000 {
        match partition.read()? {
            Read::End => {
                seen.ended = true;
                return Ok(seen);
            }
            Read::Chunk(chunk) => {
                let values = chunk.rows.column(0).as_primitive::<Int64Type>();
                seen.rows.extend((0..chunk.rows.num_rows()).map(|i| (chunk.offset(i), values.value(i))));
                seen.refused.extend(chunk.refused.into_iter().map(|r| (r.offset, r.reason)));
            }
            Read::Pending if seen.count() >= count => return Ok(seen),
            Read::Pending => std::thread::park_timeout(Duration::from_millis(2)),
        }
    }
    panic!("not within 30 s: {} of {count} rows; {:?}", seen.count(), partition.trouble());
}

/// Waits until a condition holds, at most half a minute.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("not within 30 s: {what}");
}

pub fn names(opened: &[Opened]) -> Vec<String> {
    opened.iter().map(|o| o.partition.name().to_string()).collect()
}
