//! A topic that rows leave to, a transaction for each group of mini-batches.
//!
//! Every event says in its headers whose it is and up to which mini-batch its transaction goes; a reader with
//! `isolation.level = read_committed`, which is what clients take when nobody says, sees all events of a transaction or none.
//! So the last event that can be read of each partition tells how far the rows have come, and there is nothing to be kept
//! beside them. A new producer under the same `transactional.id` ends what an earlier one has begun, and keeps that one out.

use std::time::Duration;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, SchemaRef},
};
use rdkafka::{
    Offset, TopicPartitionList,
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, Headers, Message, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use tidemill_base::{Error, Result};
use tidemill_stream::sink::{Delivered, KafkaSinkSettings, Outlet, Owner, RowFormat, SinkRows, lines};

use super::refused_setting;
use crate::{FIRST_ANSWER, client_properties};

/// How long a transaction may take to be begun or ended, the server being there.
const ANSWER: Duration = Duration::from_secs(15);
/// Events at a partition's end that are looked at first; then sixteen times as many, and so on.
const TAIL: i64 = 64;

const SINK: &str = "tidemill-sink";
const ROW: &str = "tidemill-row";
const THROUGH: &str = "tidemill-through";

type BareProducer = BaseProducer<DefaultProducerContext>;

/// The topic, through one producer after the other.
pub(crate) struct TopicOutlet {
    settings: KafkaSinkSettings,
    properties: Vec<(String, String)>,
    format: RowFormat,
    owner: Owner,
    key: Option<usize>,
    session: Option<Session>,
    /// Whether the topic was found before.
    was_there: bool,
}

struct Session {
    producer: BareProducer,
    partitions: i32,
    /// Rows up to this mini-batch are there.
    through: Option<u64>,
}

impl TopicOutlet {
    pub fn open(settings: &KafkaSinkSettings, format: RowFormat, owner: &Owner, columns: &SchemaRef) -> Result<Self> {
        let properties = client_properties(&settings.client.properties, settings.client.properties_file.as_deref())?;
        let key = match &settings.key {
            None => None,
            Some(name) => Some(
                columns.index_of(name).map_err(|_| Error::invalid(format!("key '{name}' is no column of the sink")))?,
            ),
        };
        let mut this = Self {
            settings: settings.clone(),
            properties,
            format,
            owner: owner.clone(),
            key,
            session: None,
            was_there: false,
        };
        this.connect()?;
        Ok(this)
    }

    fn config(&self, ours: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        self.properties.iter().for_each(|(name, value)| _ = config.set(name, value));
        config.set("bootstrap.servers", &self.settings.brokers);
        ours.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        // What the client complains about is in the errors of its calls.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    fn connect(&mut self) -> Result<()> {
        let id = format!("tidemill-{}-{}", self.owner.model, self.owner.sink);
        let producer: BareProducer = self
            .config(&[
                ("transactional.id", &id),
                ("partitioner", "murmur2_random"),
                ("transaction.timeout.ms", "60000"),
                ("linger.ms", "5"),
            ])
            .create()
            .map_err(|e| refused_setting(&e))?;
        let metadata =
            producer.client().fetch_metadata(Some(&self.settings.topic), FIRST_ANSWER).map_err(|e| self.away(&e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == self.settings.topic);
        let partitions = topic.filter(|t| t.error().is_none()).map_or(0, |t| t.partitions().len() as i32);
        if partitions == 0 {
            let message = format!(
                "no topic '{}' at {}; make it, or correct the name",
                self.settings.topic, self.settings.brokers
            );
            return Err(if self.was_there { Error::unavailable(message) } else { Error::not_found(message) });
        }
        // Ends what an earlier process has begun under this name: only then is the end of each partition the end.
        producer.init_transactions(ANSWER).map_err(|e| self.away(&e))?;
        let through = self.look(partitions)?;
        self.was_there = true;
        self.session = Some(Session { producer, partitions, through });
        Ok(())
    }

    /// How far our rows have come, by the last event of ours in each partition.
    fn look(&self, partitions: i32) -> Result<Option<u64>> {
        let consumer: BaseConsumer = self
            .config(&[
                ("group.id", "tidemill"),
                ("enable.auto.commit", "false"),
                ("enable.partition.eof", "true"),
                ("isolation.level", "read_committed"),
                ("auto.offset.reset", "earliest"),
            ])
            .create()
            .map_err(|e| refused_setting(&e))?;
        let mut through = None;
        for partition in 0..partitions {
            through = through.max(self.look_into(&consumer, partition)?);
        }
        Ok(through)
    }

    fn look_into(&self, consumer: &BaseConsumer, partition: i32) -> Result<Option<u64>> {
        let topic = &self.settings.topic;
        let (low, high) = consumer.fetch_watermarks(topic, partition, FIRST_ANSWER).map_err(|e| self.away(&e))?;
        let mut tail = TAIL;
        loop {
            let from = (high - tail).max(low);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(from))
                .and_then(|()| consumer.assign(&list))
                .map_err(|e| self.away(&e))?;
            let mut last: Option<(String, Option<u64>)> = None;
            if from == high {
                return Ok(None);
            }
            loop {
                match consumer.poll(FIRST_ANSWER) {
                    None => {
                        return Err(Error::unavailable(format!(
                            "topic '{topic}' partition {partition} is not answered"
                        )));
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    Some(Err(e)) => return Err(self.away(&e)),
                    Some(Ok(event)) => {
                        let said = |name: &str| {
                            let header = event.headers()?.iter().find(|h| h.key == name)?;
                            Some(String::from_utf8_lossy(header.value?).into_owned())
                        };
                        last = Some((said(SINK).unwrap_or_default(), said(THROUGH).and_then(|t| t.parse().ok())));
                    }
                }
            }
            match last {
                // All that was looked at belongs to transactions that were given up.
                None if from > low => tail *= 16,
                None => return Ok(None),
                Some((whose, through)) => return self.check(&whose, partition).map(|ours| through.filter(|_| ours)),
            }
        }
    }

    /// Whether an event is of this lineage; an error where it is of somebody else.
    fn check(&self, whose: &str, partition: i32) -> Result<bool> {
        let ours = format!(" {} {}", self.owner.model, self.owner.sink);
        match whose.strip_suffix(&ours) {
            Some(lineage) => Ok(lineage == format!("{:016x}", self.owner.lineage)),
            None => Err(Error::conflict(format!(
                "topic '{}' partition {partition} holds events of {}; give the sink a topic that nobody else writes to",
                self.settings.topic,
                if whose.is_empty() { "somebody else".to_string() } else { format!("another sink ({whose})") }
            ))),
        }
    }

    fn away(&self, e: &KafkaError) -> Error {
        let brokers = &self.settings.brokers;
        match e.rdkafka_error_code() {
            Some(
                Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed,
            ) => Error::invalid(format!(
                "{brokers} refuses us: {e}; check sasl.username and sasl.password in properties_file, and our right to transactions"
            )),
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => Error::conflict(format!(
                "another process writes as sink '{}' of model '{}': {e}",
                self.owner.sink, self.owner.model
            )),
            _ => Error::unavailable(format!("{brokers}: {e}")),
        }
    }

    /// One transaction.
    fn send(&self, session: &Session, group: &[&SinkRows]) -> Result<Delivered> {
        let away = |e: KafkaError| self.away(&e);
        let topic = self.settings.topic.as_str();
        let whose = format!("{:016x} {} {}", self.owner.lineage, self.owner.model, self.owner.sink);
        let through = group.last().map_or(0, |rows| rows.mini_batch).to_string();
        session.producer.begin_transaction().map_err(away)?;
        let mut added = Delivered::default();
        for of_one in group {
            let keys = self.key.map(|column| keys(&of_one.rows, column)).transpose()?;
            let partition = (of_one.mini_batch % session.partitions as u64) as i32;
            for (i, line) in lines(&of_one.rows, self.format)?.iter().enumerate() {
                let row = format!("{}/{}", of_one.mini_batch, of_one.numbers[i]);
                let headers = OwnedHeaders::new()
                    .insert(Header { key: SINK, value: Some(whose.as_str()) })
                    .insert(Header { key: ROW, value: Some(row.as_str()) })
                    .insert(Header { key: THROUGH, value: Some(through.as_str()) });
                let mut event: BaseRecord<str, [u8]> = BaseRecord::to(topic).payload(line.as_slice()).headers(headers);
                event = match keys.as_ref().map(|keys| keys[i].as_deref()) {
                    None | Some(None) => event.partition(partition),
                    Some(Some(key)) => event.key(key),
                };
                while let Err((e, back)) = session.producer.send(event) {
                    if e.rdkafka_error_code() != Some(Code::QueueFull) {
                        return Err(away(e));
                    }
                    session.producer.poll(Duration::from_millis(10));
                    event = back;
                }
                added.rows += 1;
                added.bytes += line.len() as u64;
            }
        }
        session.producer.commit_transaction(ANSWER).map_err(away)?;
        Ok(added)
    }
}

/// A column's values as text.
fn keys(rows: &RecordBatch, column: usize) -> Result<Vec<Option<String>>> {
    let text = cast(rows.column(column), &DataType::Utf8).map_err(|e| Error::invalid(format!("key: {e}")))?;
    let text = text.as_string::<i32>();
    Ok((0..text.len()).map(|i| text.is_valid(i).then(|| text.value(i).to_string())).collect())
}

impl Outlet for TopicOutlet {
    fn can_resume(&self, from: u64, state: Option<&[u8]>) -> bool {
        let through = self.session.as_ref().and_then(|session| session.through);
        state.is_some() || through.is_some_and(|through| through >= from)
    }

    fn resume(&mut self, _from: u64, _state: Option<&[u8]>) -> Result<()> {
        Ok(())
    }

    fn deliver(&mut self, group: &[SinkRows]) -> Result<Delivered> {
        if self.session.is_none() {
            self.connect()?;
        }
        let Some(session) = &self.session else { return Err(Error::internal("a producer that is none")) };
        let is_new = |rows: &&SinkRows| session.through.is_none_or(|t| rows.mini_batch > t) && rows.rows.num_rows() > 0;
        let new: Vec<&SinkRows> = group.iter().filter(is_new).collect();
        let Some(last) = new.last() else { return Ok(Delivered::default()) };
        let sent = self.send(session, &new);
        match (&sent, &mut self.session) {
            (Ok(_), Some(session)) => session.through = Some(last.mini_batch),
            // Nobody knows whether it was ended well; the next producer finds out.
            _ => self.session = None,
        }
        sent
    }

    fn sync(&mut self, _through: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}
