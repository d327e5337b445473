//! Floor 2: what lives on other people's servers: partitions, sinks, and the objects of a store.
//!
//! In: a source's settings and the names of partitions that earlier runs opened. Out: partitions whose offsets are the
//! server's own numbers. A partition's name says where it begins (`clicks/3@81220`) and, if it is bounded, where it ends
//! (`clicks/3@0-90000`): the name is in the journal, so a restart begins and ends at the same places whatever the server has
//! got meanwhile. The clients' threads and clocks stay in here; what they hold in advance is bounded in bytes, and a
//! server that is away means no rows and a line of trouble, not an end. Positions of sources are never kept at the server; how
//! far a sink's rows have come is read from the rows themselves.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
pub mod mock;
mod name;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "s3")]
pub mod s3;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use arrow::datatypes::SchemaRef;
use tidemill_base::{Error, Result};
use tidemill_stream::{
    sink::{Outlet, Owner, SinkConnector, SinkSpec},
    source::{Connector, Opened, Reading, SourceSpec, parse_properties},
};

/// How long the first answer of a server may take.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a server may be away while rows that an earlier run has read are read again, or a bounded source is read. (A
/// live source waits without an end.)
const AWAY_AT_MOST: Duration = Duration::from_secs(90);

/// The clients of a job's sources, one for each input.
#[derive(Default)]
pub struct Connections {
    #[cfg(feature = "kafka")]
    kafka: BTreeMap<usize, kafka::Topic>,
    #[cfg(feature = "s3")]
    objects: BTreeMap<usize, s3::source::Bucket>,
    /// What clients take from the environment, where they do.
    environment: BTreeMap<String, String>,
}

impl Connections {
    /// Connections whose clients may take settings from this environment.
    pub fn within(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { environment: environment.into_iter().collect(), ..Self::default() }
    }

    /// Connects to an input's server and opens its partitions, sorted by name; none for a source that has no server.
    /// `known` are the names of partitions opened in earlier runs.
    pub fn open(&mut self, input: usize, spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
        let opened = match &spec.connector {
            #[cfg(feature = "kafka")]
            Connector::Kafka(settings) => {
                let topic = kafka::Topic::connect(spec, settings);
                topic.and_then(|topic| self.kafka.entry(input).insert_entry(topic).get_mut().open(spec, known))
            }
            #[cfg(feature = "nats")]
            Connector::Nats(settings) => nats::open(spec, settings, known),
            #[cfg(feature = "s3")]
            Connector::S3(settings) => {
                let bucket = s3::source::Bucket::connect(settings, &self.environment);
                bucket.and_then(|bucket| self.objects.entry(input).insert_entry(bucket).get_mut().open(spec, known))
            }
            Connector::File(_) | Connector::Generator(_) | Connector::Http => Ok(Vec::new()),
            #[allow(unreachable_patterns, reason = "reached where a connector is left out")]
            _ => Err(Error::invalid("this program was built without the source's connector")),
        };
        let _ = (input, &self.environment);
        opened.map_err(|e| e.at(format!("source {}", spec.name)))
    }

    /// Opens the partitions of an input's history, which are read once and none of which come later.
    pub fn open_history(&self, spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
        // Their client lives as long as they do.
        Self::within(self.environment.clone()).open(0, spec, known)
    }

    /// Partitions that the server has got since then, each from its beginning.
    pub fn open_new(&mut self, input: usize, spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
        #[cfg(feature = "kafka")]
        if let Some(topic) = self.kafka.get_mut(&input) {
            return topic.open_new(spec, known).map_err(|e| e.at(format!("source {}", spec.name)));
        }
        #[cfg(feature = "s3")]
        if let Some(bucket) = self.objects.get_mut(&input) {
            return Ok(bucket.open_new(spec, known));
        }
        let _ = (input, spec, known);
        Ok(Vec::new())
    }
}

/// Connects to the server that a sink's rows leave to.
pub fn open_sink(spec: &SinkSpec, owner: &Owner, columns: &SchemaRef) -> Result<Box<dyn Outlet>> {
    let _ = (owner, columns);
    match &spec.connector {
        #[cfg(feature = "kafka")]
        SinkConnector::Kafka(settings) => {
            Ok(Box::new(kafka::sink::TopicOutlet::open(settings, spec.format, owner, columns)?))
        }
        #[cfg(feature = "nats")]
        SinkConnector::Nats(settings) => Ok(Box::new(nats::sink::SubjectOutlet::open(settings, spec.format, owner)?)),
        SinkConnector::File(_) => Err(Error::internal("files are no server's")),
        #[allow(unreachable_patterns, reason = "reached where a connector is left out")]
        _ => Err(Error::invalid("this program was built without the sink's connector")),
    }
}

/// The client's settings: those of the file, then those of the program.
fn properties(reading: &Reading) -> Result<Vec<(String, String)>> {
    client_properties(&reading.properties, reading.properties_file.as_deref())
}

fn client_properties(written: &[(String, String)], file: Option<&str>) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    if let Some(path) = file {
        let text = fs::read_to_string(path).map_err(|e| Error::io("read", Path::new(path), e))?;
        all = parse_properties(&text).map_err(|e| e.at(path))?;
    }
    all.extend(written.iter().cloned());
    Ok(all)
}

/// Waits without reading anything: for a server that has nothing yet, where nobody could wake us.
fn pause(for_: Duration) {
    std::thread::park_timeout(for_);
}
