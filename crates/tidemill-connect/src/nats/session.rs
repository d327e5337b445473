//! The thread that reads a stream ahead.
//!
//! In: where to begin. Out: words for the feed, in the stream's order, each event once. It ends when the feed is gone.

use std::{sync::Arc, sync::mpsc::SyncSender, time::Duration};

use async_nats::{
    Client,
    connection::State,
    jetstream::{
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::Stream,
    },
};
use futures_util::{FutureExt, StreamExt};
use tidemill_base::{Error, Result};
use tidemill_stream::source::NatsSettings;
use tokio::sync::{mpsc::Sender, oneshot};

use super::{BATCH_BYTES, Event, Shared, Word, contact::contact, lock};

/// Events asked for at once, at most.
const ASK_EVENTS_MAX: usize = 2048;
/// How long the server keeps a question open.
const ASK_FOR: Duration = Duration::from_secs(1);
/// How much later than that its end may be told. A server that was still delivering then tells nothing (nats-server 2.9).
const END_MAY_BE_LATE: Duration = Duration::from_millis(250);
/// How long the server remembers a consumer that nobody asks through.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// Between two sessions.
const RETRY_EVERY: Duration = Duration::from_millis(300);

/// What the thread needs.
pub(super) struct Reader {
    pub settings: NatsSettings,
    pub properties: Vec<(String, String)>,
    pub shared: Arc<Shared>,
    pub words: Sender<Word>,
}

/// Why a session ended.
enum Over {
    /// The feed is gone.
    Closed,
    /// Something to be tried again.
    Trouble(String),
}

impl Reader {
    /// Connects and answers with the stream's name; then, once it is told where, reads until the feed is gone.
    pub fn run(self, found: &SyncSender<Result<String>>, begun: oneshot::Receiver<u64>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => {
                // Whoever asked may have given up.
                let _ = found.send(Err(Error::unavailable(format!("cannot start a runtime for NATS: {e}"))));
                return;
            }
        };
        runtime.block_on(async {
            let NatsSettings { url, stream, subject, .. } = &self.settings;
            let (client, stream) = match contact(url, stream.as_deref(), subject.as_deref(), &self.properties).await {
                Ok(both) => {
                    self.note_extent(&both.1);
                    both
                }
                Err(e) => {
                    let _ = found.send(Err(e));
                    return;
                }
            };
            if found.send(Ok(stream.cached_info().config.name.clone())).is_ok()
                && let Ok(first) = begun.await
            {
                self.read(&client, stream, first).await;
            }
        });
    }

    /// One session after the other.
    async fn read(&self, client: &Client, mut stream: Stream, first: u64) {
        let mut next = first;
        loop {
            match self.session(&mut stream, &mut next).await {
                Over::Closed => return,
                Over::Trouble(why) => {
                    // Nothing is known of what is pending until the server answers again.
                    *lock(&self.shared.nothing_pending) = false;
                    let text = match client.connection_state() {
                        State::Connected => format!("stream '{}': {why}", stream.cached_info().config.name),
                        _ => format!("{} does not answer", self.settings.url),
                    };
                    *lock(&self.shared.trouble) = Some(text);
                }
            }
            if self.words.is_closed() {
                return;
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Reads through one consumer, from `next` on, which is moved behind every event that was sent.
    async fn session(&self, stream: &mut Stream, next: &mut u64) -> Over {
        let trouble = |e: &dyn std::fmt::Display| Over::Trouble(e.to_string());
        if let Err(e) = stream.info().await {
            return trouble(&e);
        }
        let (low, _) = self.note_extent(stream);
        if *next < low {
            if self.words.send(Word::Gap(low)).await.is_err() {
                return Over::Closed;
            }
            *next = low;
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: (*next).max(1) },
            ack_policy: AckPolicy::None,
            filter_subject: self.settings.subject.clone().unwrap_or_default(),
            inactive_threshold: FORGET_AFTER,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = match stream.create_consumer(config).await {
            Ok(consumer) => consumer,
            Err(e) => return trouble(&e),
        };
        *lock(&self.shared.trouble) = None;
        *lock(&self.shared.nothing_pending) = consumer.cached_info().num_pending == 0;
        let mut delivered = 0;
        let mut largest = 256;
        loop {
            let ask = (BATCH_BYTES / largest).clamp(1, ASK_EVENTS_MAX);
            // Without heartbeats: the client (async-nats 0.51) takes one for the end of what there is to wait for, and is
            // not woken by the events behind it. The end of the question is word enough.
            let answer = consumer.batch().max_messages(ask).expires(ASK_FOR).messages().await;
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(e) => return trouble(&e),
            };
            let (asked, mut answered) = (tokio::time::Instant::now(), false);
            loop {
                // A connection that is lost is not told here: the server's end of the question is missed instead.
                let silent_after = if answered { ASK_FOR + END_MAY_BE_LATE } else { 2 * ASK_FOR };
                let first = match tokio::time::timeout_at(asked + silent_after, answer.next()).await {
                    Ok(Some(first)) => first,
                    Ok(None) => break,
                    // The question is over, and what it brought is here; what comes for it yet would be missed by its number.
                    Err(_) if answered => break,
                    Err(_) => return Over::Trouble(format!("no word within {} s", 2 * ASK_FOR.as_secs())),
                };
                answered = true;
                let mut events = Vec::new();
                let mut pending = 0;
                let (mut failed, mut bytes) = (None, 0);
                let mut came = Some(first);
                // What has come meanwhile goes along.
                while let Some(event) = came {
                    let event = match event {
                        Ok(event) => event,
                        Err(e) => {
                            failed = Some(e.to_string());
                            break;
                        }
                    };
                    let (sequence, number) = match event.info() {
                        Ok(info) => {
                            pending = info.pending;
                            (info.stream_sequence, info.consumer_sequence)
                        }
                        Err(e) => return Over::Trouble(format!("an event without a number: {e}")),
                    };
                    delivered += 1;
                    if number != delivered {
                        failed = Some("an event was lost on its way; asking again".to_string());
                        break;
                    }
                    largest = largest.max(event.payload.len());
                    bytes += event.payload.len();
                    if sequence >= *next {
                        *next = sequence + 1;
                        events.push(Event { sequence, bytes: event.message });
                    }
                    came = match bytes < BATCH_BYTES {
                        true => answer.next().now_or_never().flatten(),
                        false => None,
                    };
                }
                if !events.is_empty() {
                    if self.words.send(Word::Events(events)).await.is_err() {
                        return Over::Closed;
                    }
                    *lock(&self.shared.nothing_pending) = pending == 0 && failed.is_none();
                }
                if let Some(why) = failed {
                    return Over::Trouble(why);
                }
            }
            if self.words.is_closed() {
                return Over::Closed;
            }
        }
    }

    fn note_extent(&self, stream: &Stream) -> (u64, u64) {
        let state = &stream.cached_info().state;
        let extent = (state.first_sequence.max(1), state.last_sequence);
        *lock(&self.shared.extent) = extent;
        extent
    }
}
