//! NATS JetStream: a stream, or the subjects of it that a filter names, as one partition.
//!
//! In: a stream. Out: a [`Feed`] whose numbers are the stream's own sequence numbers, from 1. A thread with a runtime of its
//! own reads ahead through an ephemeral pull consumer that acknowledges nothing: where we are is in the journal, not at the
//! server. Whatever goes wrong there (a lost connection, a consumer the server has forgotten, a number that was skipped) ends
//! one session, and the next begins behind the last event that was read. What waits between the threads is bounded by
//! [`BATCHES_MAX`] batches of about [`BATCH_BYTES`].

mod contact;
mod session;
pub(crate) mod sink;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use async_nats::Message;
use tidemill_base::{Error, Result};
use tidemill_stream::source::{
    Begin, NatsSettings, Opened, SourceSpec,
    feed::{Fed, Feed, FeedPartition},
    push,
};
use tokio::sync::mpsc::{Receiver, channel, error::TryRecvError};

use crate::{AWAY_AT_MOST, FIRST_ANSWER, name::PartitionName, pause, properties};

/// Batches that may wait for the learner.
const BATCHES_MAX: usize = 4;
/// Bytes of a batch, about: one event more than that.
const BATCH_BYTES: usize = 4 << 20;
const WAIT: Duration = Duration::from_millis(1);

/// What the reading thread says.
enum Word {
    /// Events in their order, none of them behind the last one already sent.
    Events(Vec<Event>),
    /// The stream begins behind what comes next.
    Gap(u64),
}

struct Event {
    sequence: u64,
    bytes: Message,
}

/// What the feed and its thread share.
#[derive(Default)]
struct Shared {
    trouble: Mutex<Option<String>>,
    /// First and last sequence of the stream, as of the last look.
    extent: Mutex<(u64, u64)>,
    /// Whether the server said that nothing is pending for us.
    nothing_pending: Mutex<bool>,
}

/// Connects, finds the stream and opens its partition.
pub(crate) fn open(spec: &SourceSpec, settings: &NatsSettings, known: &[String]) -> Result<Vec<Opened>> {
    let properties = properties(&settings.reading)?;
    let (found, answer) = mpsc::sync_channel(1);
    let (begin, begun) = tokio::sync::oneshot::channel();
    let (words, inbox) = channel(BATCHES_MAX);
    let shared = Arc::new(Shared::default());
    let thread = session::Reader { settings: settings.clone(), properties, shared: shared.clone(), words };
    std::thread::Builder::new()
        .name(format!("nats {}", spec.name))
        .spawn(move || thread.run(&found, begun))
        .map_err(|e| Error::unavailable(format!("cannot start the thread that reads NATS: {e}")))?;
    // Twice as long as one answer may take: several are needed.
    let silent = |_| Error::unavailable(format!("{} does not answer", settings.url));
    let stream = answer.recv_timeout(2 * FIRST_ANSWER).map_err(silent)??;
    let (low, high) = *lock(&shared.extent);
    let place = format!("{}/{}", stream, settings.subject.as_deref().unwrap_or(">"));
    let known: Vec<PartitionName> =
        known.iter().filter(|k| *k != push::PARTITION_NAME).map(|k| PartitionName::parse(k)).collect::<Result<_>>()?;
    let name = match known.into_iter().find(|k| k.place == place) {
        Some(name) => name,
        None => {
            let first = match settings.reading.begin {
                Begin::Earliest => low,
                Begin::Latest => high + 1,
            };
            PartitionName { place, first, end: settings.reading.bounded.then_some(high + 1) }
        }
    };
    let feed = StreamFeed {
        url: settings.url.clone(),
        stream,
        shared,
        inbox,
        begin: Some(begin),
        end: name.end,
        at: name.first,
        events: Vec::new().into_iter(),
        waited: Duration::ZERO,
    };
    let reading = &settings.reading;
    let (first, name) = (name.first, name.to_string());
    let partition =
        FeedPartition::open(spec, name, Box::new(feed), &reading.format, reading.on_gap, first, reading.bounded)?;
    Ok(vec![Opened { partition: Box::new(partition), ordered: reading.bounded }])
}

/// The reading end.
struct StreamFeed {
    url: String,
    stream: String,
    shared: Arc<Shared>,
    inbox: Receiver<Word>,
    /// Tells the thread where to begin, once; it has not begun before.
    begin: Option<tokio::sync::oneshot::Sender<u64>>,
    end: Option<u64>,
    /// Sequence behind the last event handed over.
    at: u64,
    events: std::vec::IntoIter<Event>,
    waited: Duration,
}

impl StreamFeed {
    /// Behind everything the server has for us.
    fn is_at_end(&self) -> bool {
        self.events.len() == 0 && self.inbox.is_empty() && *lock(&self.shared.nothing_pending)
    }
}

impl Feed for StreamFeed {
    fn next(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Fed> {
        loop {
            if self.end.is_some_and(|end| self.at >= end) {
                return Ok(Fed::End);
            }
            if let Some(event) = self.events.next() {
                if self.end.is_some_and(|end| event.sequence >= end) {
                    self.at = event.sequence;
                    return Ok(Fed::End);
                }
                take(event.sequence, Some(&event.bytes.payload));
                self.at = event.sequence + 1;
                self.waited = Duration::ZERO;
                return Ok(Fed::Event);
            }
            if let Some(begin) = self.begin.take() {
                // A thread that is gone says so through the closed inbox.
                let _ = begin.send(self.at);
            }
            match self.inbox.try_recv() {
                Ok(Word::Events(events)) => self.events = events.into_iter(),
                Ok(Word::Gap(earliest)) => {
                    // No event of our subjects needs to be in front of a bounded partition's end.
                    return Ok(Fed::Gap { earliest });
                }
                Err(TryRecvError::Empty) if self.end.is_some() && self.is_at_end() => {
                    // Looked at again: the word could have come between the two looks.
                    if !self.inbox.is_empty() {
                        continue;
                    }
                    self.at = self.at.max(self.end.unwrap_or(0));
                    return Ok(Fed::End);
                }
                Err(TryRecvError::Empty) => return Ok(Fed::Nothing),
                Err(TryRecvError::Disconnected) => {
                    let why = self.trouble().unwrap_or_else(|| "the thread that reads it has ended".to_string());
                    return Err(Error::unavailable(why));
                }
            }
        }
    }

    fn seek(&mut self, number: u64) -> Result<()> {
        if self.begin.is_none() && number != self.at {
            return Err(Error::internal(format!("stream '{}' was read before it was sought in", self.stream)));
        }
        self.at = number;
        Ok(())
    }

    fn wait(&mut self, until: u64) -> Result<()> {
        let last = lock(&self.shared.extent).1;
        if self.is_at_end() && self.at < until && last + 1 < until {
            return Err(Error::conflict(format!(
                "stream '{}': sequence {} was read before, and the stream ends at {last} now: it was made anew or lost \
                 its end; start again with --from-scratch",
                self.stream,
                until - 1
            )));
        }
        self.waited += WAIT;
        if self.waited > AWAY_AT_MOST {
            let why = self.trouble().unwrap_or_else(|| format!("nothing comes from {}", self.url));
            return Err(Error::unavailable(why));
        }
        pause(WAIT);
        Ok(())
    }

    fn is_behind(&self) -> bool {
        !self.is_at_end()
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.shared.trouble).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
