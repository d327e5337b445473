//! A subject of JetStream that rows leave to, each as an event with a name of its own.
//!
//! `Nats-Msg-Id` names the row (lineage, sink, mini-batch, number), so that the server drops what it has seen within its
//! window. Beyond that window the subject itself tells: `Tidemill-Row` is the row, and `Tidemill-Seen` says up to which row
//! and sequence everything was acknowledged when the event was sent. So the last event of the subject, and those behind the
//! sequence that it names, at most [`WINDOW`] of them, say which rows are there, also where one in the middle was lost.
//! Whatever goes wrong ends the connection; the next one begins with that look.

use std::{
    collections::{BTreeSet, VecDeque},
    future::IntoFuture,
    time::Duration,
};

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::PublishAckFuture,
        message::PublishMessage,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use futures_util::StreamExt;
use tidemill_base::{Error, Kind, Result};
use tidemill_stream::sink::{Delivered, NatsSinkSettings, Outlet, Owner, RowFormat, SinkRows, lines};
use tokio::runtime::Runtime;

use super::contact::contact;
use crate::client_properties;

/// Events on their way that are not acknowledged yet, at most.
const WINDOW: usize = 1024;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The server must recognise an event again at least for so long: what was on its way when a connection broke may come still.
const DUPLICATES_MIN: Duration = Duration::from_secs(10);

const SINK: &str = "Tidemill-Sink";
const ROW: &str = "Tidemill-Row";
const SEEN: &str = "Tidemill-Seen";

/// Mini-batch and row.
type Row = (u64, u32);

/// The subject, through one connection after the other.
pub(crate) struct SubjectOutlet {
    settings: NatsSinkSettings,
    properties: Vec<(String, String)>,
    format: RowFormat,
    owner: Owner,
    runtime: Runtime,
    session: Option<Session>,
}

/// One connection, and what is known to be there.
struct Session {
    _client: Client,
    jetstream: Context,
    /// All rows up to here are there.
    through: Option<Row>,
    /// Sequence behind which rows may be that `through` does not cover.
    sequence: u64,
    /// Rows behind `through` that are there.
    beyond: BTreeSet<Row>,
}

impl SubjectOutlet {
    pub fn open(settings: &NatsSinkSettings, format: RowFormat, owner: &Owner) -> Result<Self> {
        let properties = client_properties(&settings.client.properties, settings.client.properties_file.as_deref())?;
        // A thread of its own, so that the server's pings are answered while nothing is delivered.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("nats {}", owner.sink))
            .enable_all()
            .build()
            .map_err(|e| Error::unavailable(format!("cannot start a runtime for NATS: {e}")))?;
        let mut this =
            Self { settings: settings.clone(), properties, format, owner: owner.clone(), runtime, session: None };
        this.connect()?;
        Ok(this)
    }

    fn connect(&mut self) -> Result<()> {
        let NatsSinkSettings { url, subject, .. } = &self.settings;
        let session = self.runtime.block_on(async {
            let (client, stream) = contact(url, None, Some(subject), &self.properties).await?;
            let config = &stream.cached_info().config;
            if config.duplicate_window < DUPLICATES_MIN {
                return Err(Error::invalid(format!(
                    "stream '{}' recognises events again for {:?} only; give it a duplicate window of {} s at least",
                    config.name,
                    config.duplicate_window,
                    DUPLICATES_MIN.as_secs()
                )));
            }
            let mut jetstream = jetstream::new(client.clone());
            jetstream.set_timeout(ANSWER);
            let mut session =
                Session { _client: client, jetstream, through: None, sequence: 0, beyond: BTreeSet::new() };
            tokio::time::timeout(2 * ANSWER, session.look(&stream, subject, &self.owner)).await.map_err(|_| {
                Error::unavailable(format!("{url} does not answer within {} s", 2 * ANSWER.as_secs()))
            })??;
            Ok(session)
        })?;
        self.session = Some(session);
        Ok(())
    }
}

impl Session {
    /// Finds out which rows the subject has.
    async fn look(&mut self, stream: &Stream, subject: &str, owner: &Owner) -> Result<()> {
        let away = |e: &dyn std::fmt::Display| Error::unavailable(format!("subject '{subject}' cannot be read: {e}"));
        let last = match stream.get_last_raw_message_by_subject(subject).await {
            Ok(last) => last,
            Err(e) if matches!(e.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(()),
            Err(e) => return Err(away(&e)),
        };
        let said = |headers: &HeaderMap, name: &str| headers.get(name).map(|value| value.as_str().to_string());
        let whose = said(&last.headers, SINK);
        let Some(lineage) = whose.as_deref().and_then(|w| w.strip_suffix(&format!(" {} {}", owner.model, owner.sink)))
        else {
            return Err(Error::conflict(format!(
                "subject '{subject}' holds events of {}; give the sink a subject that nobody else writes to",
                whose.map_or("somebody else".to_string(), |w| format!("another sink ({w})"))
            )));
        };
        self.sequence = last.sequence;
        if lineage != format!("{:016x}", owner.lineage) {
            // Rows of before --from-scratch: other rows, under other names.
            return Ok(());
        }
        let torn = || Error::corrupt(format!("subject '{subject}': event {} does not say its row", last.sequence));
        let seen = said(&last.headers, SEEN).ok_or_else(torn)?;
        let (sequence, through) = seen.split_once(' ').ok_or_else(torn)?;
        let sequence: u64 = sequence.parse().map_err(|_| torn())?;
        self.through = parse(through);
        self.sequence = sequence;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 },
            ack_policy: AckPolicy::None,
            filter_subject: subject.to_string(),
            inactive_threshold: ANSWER,
            memory_storage: true,
            headers_only: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|e| away(&e))?;
        let mut at = sequence;
        while at < last.sequence {
            let mut events = consumer.fetch().max_messages(2 * WINDOW).messages().await.map_err(|e| away(&e))?;
            while let Some(event) = events.next().await {
                let event = event.map_err(|e| away(&e))?;
                at = event.info().map_err(|e| away(&e))?.stream_sequence;
                let row = event.headers.as_ref().and_then(|headers| said(headers, ROW)).and_then(|row| parse(&row));
                self.beyond.insert(row.ok_or_else(torn)?);
            }
        }
        Ok(())
    }

    fn is_there(&self, row: Row) -> bool {
        self.through.is_some_and(|through| row <= through) || self.beyond.contains(&row)
    }

    /// Sends what is not there, and waits until all of it is.
    async fn send(&mut self, subject: &str, owner: &Owner, rows: Vec<(Row, Vec<u8>)>) -> Result<Delivered> {
        let whose = format!("{:016x} {} {}", owner.lineage, owner.model, owner.sink);
        let mut added = Delivered::default();
        let mut on_their_way: VecDeque<(Row, Option<PublishAckFuture>)> = VecDeque::new();
        for (row, bytes) in rows {
            if self.is_there(row) {
                on_their_way.push_back((row, None));
                continue;
            }
            while on_their_way.len() >= WINDOW {
                self.acknowledge(&mut on_their_way, subject).await?;
            }
            let mut headers = HeaderMap::new();
            let (mini_batch, number) = row;
            headers.insert(SINK, whose.as_str());
            headers.insert(ROW, format!("{mini_batch}/{number}"));
            let through = self.through.map_or("none".to_string(), |(m, n)| format!("{m}/{n}"));
            headers.insert(SEEN, format!("{} {through}", self.sequence));
            added.rows += 1;
            added.bytes += bytes.len() as u64;
            let id = format!("{:016x}/{}/{mini_batch}/{number}", owner.lineage, owner.sink);
            let event = PublishMessage::build().payload(bytes.into()).headers(headers).message_id(id);
            let sent = self.jetstream.send_publish(subject.to_string(), event).await;
            on_their_way.push_back((row, Some(sent.map_err(|e| refused(subject, &e))?)));
        }
        while !on_their_way.is_empty() {
            self.acknowledge(&mut on_their_way, subject).await?;
        }
        Ok(added)
    }

    /// Waits for the oldest.
    async fn acknowledge(
        &mut self,
        on_their_way: &mut VecDeque<(Row, Option<PublishAckFuture>)>,
        subject: &str,
    ) -> Result<()> {
        let Some((row, waiting)) = on_their_way.pop_front() else { return Ok(()) };
        if let Some(waiting) = waiting {
            let acknowledged = waiting.into_future().await.map_err(|e| refused(subject, &e))?;
            self.sequence = self.sequence.max(acknowledged.sequence);
        }
        self.beyond.remove(&row);
        self.through = self.through.max(Some(row));
        Ok(())
    }
}

fn refused(subject: &str, e: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("subject '{subject}' takes nothing: {e}"))
}

fn parse(row: &str) -> Option<Row> {
    let (mini_batch, number) = row.split_once('/')?;
    Some((mini_batch.parse().ok()?, number.parse().ok()?))
}

impl Outlet for SubjectOutlet {
    fn can_resume(&self, from: u64, state: Option<&[u8]>) -> bool {
        let through = self.session.as_ref().and_then(|session| session.through);
        state.is_some() || through.is_some_and(|(mini_batch, _)| mini_batch > from)
    }

    fn resume(&mut self, _from: u64, _state: Option<&[u8]>) -> Result<()> {
        Ok(())
    }

    fn deliver(&mut self, group: &[SinkRows]) -> Result<Delivered> {
        let mut rows = Vec::new();
        for of_one in group {
            let numbered = of_one.numbers.iter().zip(lines(&of_one.rows, self.format)?);
            rows.extend(numbered.map(|(number, line)| ((of_one.mini_batch, *number), line)));
        }
        if rows.is_empty() {
            return Ok(Delivered::default());
        }
        if self.session.is_none() {
            self.connect().map_err(|e| match e.kind() {
                // It was there when the job began.
                Kind::NotFound => Error::unavailable(e.message().to_string()),
                _ => e,
            })?;
        }
        let Some(session) = &mut self.session else { return Err(Error::internal("a connection that is none")) };
        let sent = self.runtime.block_on(session.send(&self.settings.subject, &self.owner, rows));
        if sent.is_err() {
            // Nobody knows which of them have come.
            self.session = None;
        }
        sent
    }

    fn sync(&mut self, _through: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}
