//! Kafka topics: one client for a source, one queue for each partition.
//!
//! In: a topic. Out: a [`Feed`] for each partition, read from explicit offsets. The journal is the truth: there is no group
//! whose members could be given our partitions, and nothing is committed. The client fetches ahead on its own threads, at
//! most [`AHEAD_KIB`] in all; a thread of ours asks every second which partitions there are and whether anybody answers.

mod feed;
pub(crate) mod sink;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::{ClientConfig, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tidemill_base::{Error, Result};
use tidemill_stream::source::{Begin, KafkaSettings, Opened, SourceSpec, feed::FeedPartition, push};

use crate::{FIRST_ANSWER, name::PartitionName, pause, properties};
use feed::PartitionFeed;

/// What the client fetches ahead, all partitions together.
const AHEAD_KIB: &str = "32768";
/// How often we ask for new partitions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take while the job runs.
const ANSWER: Duration = Duration::from_secs(3);

/// A topic and the client that reads it.
pub(crate) struct Topic {
    client: Arc<Client>,
    settings: KafkaSettings,
}

type BareConsumer = BaseConsumer<Said>;

/// What the source and all its feeds share.
pub(crate) struct Client {
    consumer: Arc<BareConsumer>,
    brokers: String,
    topic: String,
    /// Partitions there are, as of the last answer.
    partitions: AtomicU32,
    /// Why nobody answers, while nobody does.
    trouble: Mutex<Option<String>>,
}

/// Keeps what the client last complained about: its answers say only that time ran out.
#[derive(Default)]
struct Said(Mutex<Option<(Option<Code>, String)>>);

impl ClientContext for Said {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _text: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let mut last = lock(&self.0);
        // "All brokers are down" follows the reason why.
        if code != Some(Code::AllBrokersDown) || last.is_none() {
            *last = Some((code, reason.to_string()));
        }
    }
}

impl ConsumerContext for Said {}

impl Topic {
    /// Connects, and finds the topic.
    pub fn connect(spec: &SourceSpec, settings: &KafkaSettings) -> Result<Self> {
        let mut config = ClientConfig::new();
        for (name, value) in properties(&settings.reading)? {
            config.set(name, value);
        }
        // The client asks for a group's name though no group is joined.
        let ours = [
            ("bootstrap.servers", settings.brokers.as_str()),
            ("group.id", "tidemill"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            ("queued.max.messages.kbytes", AHEAD_KIB),
            ("fetch.wait.max.ms", "50"),
            ("reconnect.backoff.max.ms", "2000"),
        ];
        for (name, value) in ours {
            config.set(name, value);
        }
        let consumer: BareConsumer = config.create_with_context(Said::default()).map_err(|e| refused_setting(&e))?;
        let client = Client {
            consumer: Arc::new(consumer),
            brokers: settings.brokers.clone(),
            topic: settings.topic.clone(),
            partitions: AtomicU32::new(0),
            trouble: Mutex::default(),
        };
        let there = client.ask(FIRST_ANSWER)?;
        client.partitions.store(there, Ordering::Release);
        let client = Arc::new(client);
        let weak = Arc::downgrade(&client);
        std::thread::Builder::new()
            .name(format!("kafka {}", spec.name))
            .spawn(move || watch(&weak))
            .map_err(|e| Error::unavailable(format!("cannot start the thread that watches Kafka: {e}")))?;
        Ok(Self { client, settings: settings.clone() })
    }

    /// The partitions earlier runs knew, from where they began, and those that they did not.
    pub fn open(&mut self, spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
        let known: Vec<PartitionName> = server_names(known)?;
        let mut opened = Vec::new();
        for partition in 0..self.there() {
            let place = self.place(partition);
            let extent = self.client.extent(partition, FIRST_ANSWER)?;
            let name = match known.iter().find(|k| k.place == place) {
                Some(name) => name.clone(),
                None if !known.is_empty() => {
                    // It appeared while the job was not running: nothing of it is old. A bounded job has its end.
                    if self.settings.reading.bounded {
                        continue;
                    }
                    PartitionName { place, first: extent.0, end: None }
                }
                None => {
                    let first = match self.settings.reading.begin {
                        Begin::Earliest => extent.0,
                        Begin::Latest => extent.1,
                    };
                    PartitionName { place, first, end: self.settings.reading.bounded.then_some(extent.1) }
                }
            };
            opened.push(self.partition(spec, partition, name, extent)?);
        }
        Ok(opened)
    }

    /// Partitions that appeared while the job runs.
    pub fn open_new(&mut self, spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
        if self.settings.reading.bounded {
            return Ok(Vec::new());
        }
        let known: Vec<PartitionName> = server_names(known)?;
        let mut opened = Vec::new();
        for partition in 0..self.there() {
            let place = self.place(partition);
            if known.iter().any(|k| k.place == place) {
                continue;
            }
            // The server may be on its way to setting it up: the next look finds it.
            let Ok(extent) = self.client.extent(partition, ANSWER) else { continue };
            opened.push(self.partition(
                spec,
                partition,
                PartitionName { place, first: extent.0, end: None },
                extent,
            )?);
        }
        Ok(opened)
    }

    fn there(&self) -> u32 {
        self.client.partitions.load(Ordering::Acquire)
    }

    fn place(&self, partition: u32) -> String {
        format!("{}/{partition}", self.settings.topic)
    }

    fn partition(&self, spec: &SourceSpec, partition: u32, name: PartitionName, extent: (u64, u64)) -> Result<Opened> {
        let reading = &self.settings.reading;
        let feed = PartitionFeed::new(self.client.clone(), partition as i32, &name, extent.1);
        let ordered = reading.bounded;
        let (first, name) = (name.first, name.to_string());
        let partition =
            FeedPartition::open(spec, name, Box::new(feed), &reading.format, reading.on_gap, first, ordered)?;
        Ok(Opened { partition: Box::new(partition), ordered })
    }
}

impl Client {
    /// How many partitions the topic has.
    fn ask(&self, at_most: Duration) -> Result<u32> {
        let answer = self.consumer.fetch_metadata(Some(&self.topic), at_most);
        self.serve();
        let metadata = answer.map_err(|e| self.away(&e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == self.topic);
        match topic.map(|t| (t.error().map(|e| KafkaError::MetadataFetch(e.into())), t.partitions().len())) {
            Some((None, n)) if n > 0 => Ok(n as u32),
            Some((Some(KafkaError::MetadataFetch(code)), _)) if code != Code::UnknownTopicOrPartition => {
                Err(self.refusal(code, &format!("topic '{}': {code}", self.topic)))
            }
            _ => Err(Error::not_found(format!("no topic '{}' at {}", self.topic, self.brokers))),
        }
    }

    /// Offsets of a partition's first event and behind its last.
    fn extent(&self, partition: u32, at_most: Duration) -> Result<(u64, u64)> {
        let extent = self.consumer.fetch_watermarks(&self.topic, partition as i32, at_most);
        let (low, high) = extent.map_err(|e| self.away(&e))?;
        Ok((low.max(0) as u64, high.max(0) as u64))
    }

    /// Lets the client tell its errors.
    fn serve(&self) {
        while self.consumer.poll(Duration::ZERO).is_some() {}
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// An error for a server that does not answer, or does not let us in.
    fn away(&self, e: &KafkaError) -> Error {
        self.serve();
        let said = lock(&self.consumer.client().context().0).clone();
        match said {
            Some((Some(code), why)) => self.refusal(code, &why),
            _ => Error::unavailable(format!("no broker of {} answers: {e}", self.brokers)),
        }
    }

    fn refusal(&self, code: Code, why: &str) -> Error {
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed | Code::TopicAuthorizationFailed => Error::invalid(
                format!("{} refuses us: {why}; check sasl.username and sasl.password in properties_file", self.brokers),
            ),
            _ => Error::unavailable(format!("no broker of {} answers: {why}", self.brokers)),
        }
    }

    fn assign(&self, partition: i32, offset: u64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, rdkafka::Offset::Offset(offset as i64))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(|e| Error::internal(format!("topic '{}' partition {partition}: {e}", self.topic)))
    }

    fn unassign(&self, partition: i32) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        // A client that is closing has forgotten it already.
        let _ = self.consumer.incremental_unassign(&list);
    }
}

/// Asks every second, until the source is gone.
fn watch(client: &Weak<Client>) {
    while let Some(client) = client.upgrade() {
        match client.ask(ANSWER) {
            Ok(partitions) => {
                client.partitions.fetch_max(partitions, Ordering::AcqRel);
                *lock(&client.trouble) = None;
                *lock(&client.consumer.client().context().0) = None;
            }
            Err(e) => *lock(&client.trouble) = Some(e.message().to_string()),
        }
        drop(client);
        pause(ASK_EVERY);
    }
}

/// Names of the server's partitions among those of earlier runs.
fn server_names(known: &[String]) -> Result<Vec<PartitionName>> {
    known.iter().filter(|k| *k != push::PARTITION_NAME).map(|k| PartitionName::parse(k)).collect()
}

fn refused_setting(e: &KafkaError) -> Error {
    match e {
        KafkaError::ClientConfig(_, why, name, _) => Error::invalid(format!("properties: {name}: {why}")),
        e => Error::invalid(format!("properties: {e}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
