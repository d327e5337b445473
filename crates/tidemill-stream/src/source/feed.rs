//! Partitions behind a server: a broker's log read through a client that lives elsewhere.
//!
//! In: a [`Feed`], which hands over events with the numbers the server gave them, and a decoder of rows. Out: [`Chunk`]s whose
//! offsets are those numbers, so that a number in the journal, in the dead letter and at the server is the same. An event is
//! one row. The numbers may have holes, but what stands behind one must never change; a server that hands events out again
//! after a lost connection is not believed twice, and one that has thrown events away is told from one that has none.

use tidemill_base::{Error, Result};

use super::{
    CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, FileFormat, OnGap, Partition, ROW_BYTES_MAX, Read, SourceSpec,
    delimited::Delimited, json::JsonDecoder, text::RowDecoder, words::thousands,
};
use crate::{Chunk, Position, Refused, chunk::excerpt};

/// What [`Feed::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// An event was handed over.
    Event,
    /// Nothing now.
    Nothing,
    /// The last event of a bounded feed was handed over before.
    End,
    /// The server threw away what comes next; the earliest event it still has is this one.
    Gap {
        /// Number of that event.
        earliest: u64,
    },
}

/// One partition of a server's log: the reading end, without a position that outlives the process.
pub trait Feed: Send {
    /// Hands the next event to `take`: its number and its bytes (`None` for an event without a value). Never waits.
    fn next(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Fed>;

    /// Goes to the event of this number, or the first one behind it.
    fn seek(&mut self, number: u64) -> Result<()>;

    /// Waits a moment for events in front of `until`, which a run has seen or which a bounded feed must have. Fails with
    /// `Conflict` when the server never had them or has them no longer, with `Unavailable` when it is away for too long.
    fn wait(&mut self, until: u64) -> Result<()>;

    /// Whether the server is known to have events that were not handed over yet.
    fn is_behind(&self) -> bool;

    /// What keeps events from coming, while it does.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// A feed as a partition of a source.
pub struct FeedPartition {
    name: String,
    /// The source, and the partition within it, as errors name them.
    source: String,
    place: String,
    feed: Box<dyn Feed>,
    decoder: Box<dyn RowDecoder>,
    on_gap: OnGap,
    /// A bounded feed's partition is merged by event time, so that it must wait rather than say that there is nothing.
    waits: bool,
    /// Number of the partition's first event.
    first: u64,
    /// Number behind the last event read.
    at: u64,
    /// An error that came behind rows: they go first.
    failed: Option<Error>,
}

impl FeedPartition {
    /// A partition whose first event has the number `first`. `waits`: it ends, and is merged by event time until then.
    pub fn open(
        spec: &SourceSpec,
        name: String,
        feed: Box<dyn Feed>,
        format: &FileFormat,
        on_gap: OnGap,
        first: u64,
        waits: bool,
    ) -> Result<Self> {
        let schema = spec.columns.clone();
        let decoder: Box<dyn RowDecoder> = match format {
            FileFormat::Json => Box::new(JsonDecoder::new(schema)?),
            FileFormat::Delimited { delimiter, null, .. } => Box::new(Delimited::new(schema, *delimiter, false, null)?),
            other => return Err(Error::internal(format!("source {}: no feed of {other:?}", spec.name))),
        };
        // `clicks/3@81220` is partition 3 for people.
        let short = name.rsplit('/').next().and_then(|n| n.split('@').next()).unwrap_or(&name);
        let source = format!("source {}", spec.name);
        let place = format!("{source} partition {short}");
        Ok(Self { name, source, place, feed, decoder, on_gap, waits, first, at: first, failed: None })
    }

    /// Events the server threw away: refused as one, or the end of the job.
    fn gap(&self, earliest: u64) -> Result<Refused> {
        let lost = earliest - self.at;
        let what = format!(
            "offset {} no longer available (earliest {}): {} events lost at the source",
            thousands(self.at),
            thousands(earliest),
            thousands(lost)
        );
        match self.on_gap {
            OnGap::Continue => Ok(Refused { offset: self.at, reason: what, excerpt: String::new() }),
            OnGap::Stop => Err(Error::conflict(format!("{}: {what}; set on_gap='continue' to accept", self.place))),
        }
    }
}

/// What a chunk is made of while events come in.
struct Gathering<'a> {
    decoder: &'a mut dyn RowDecoder,
    at: u64,
    bytes: usize,
    rows: usize,
    /// Numbers of the rows, once there was a hole.
    offsets: Option<Vec<u64>>,
    first: u64,
    refused: Vec<Refused>,
}

impl Gathering<'_> {
    fn take(&mut self, number: u64, event: Option<&[u8]>) {
        // Handed over before: the connection was lost and the server began earlier than asked.
        if number < self.at {
            return;
        }
        let why = match event {
            None => Some("no value (a tombstone)".to_string()),
            Some(bytes) if bytes.len() > ROW_BYTES_MAX => Some(format!(
                "{} bytes, longer than {}",
                thousands(bytes.len() as u64),
                thousands(ROW_BYTES_MAX as u64)
            )),
            Some(bytes) => self.decoder.push(bytes.trim_ascii_end(), bytes.contains(&b'"')).err(),
        };
        self.bytes += event.map_or(0, <[u8]>::len).min(ROW_BYTES_MAX);
        let expected = self.first + (self.rows + self.refused.len()) as u64;
        if (number != expected || why.is_some()) && self.offsets.is_none() {
            self.offsets = Some((self.first..self.first + self.rows as u64).collect());
        }
        match why {
            Some(why) => {
                let reason = format!("offset {}: {why}", thousands(number));
                self.refused.push(Refused { offset: number, reason, excerpt: event.map(excerpt).unwrap_or_default() });
            }
            None => {
                self.rows += 1;
                self.offsets.iter_mut().for_each(|o| o.push(number));
            }
        }
        self.at = number + 1;
    }

    fn is_full(&self) -> bool {
        self.rows + self.refused.len() >= CHUNK_ROWS_MAX || self.bytes >= CHUNK_BYTES_MAX
    }

    fn is_empty(&self) -> bool {
        self.rows + self.refused.len() == 0
    }
}

impl Partition for FeedPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let start = Position { offset: self.at, bytes: 0 };
        let mut gathering = Gathering {
            decoder: &mut *self.decoder,
            at: self.at,
            bytes: 0,
            rows: 0,
            offsets: None,
            first: self.at,
            refused: Vec::new(),
        };
        let mut gap = None;
        while !gathering.is_full() {
            let fed = self.feed.next(&mut |number, event| gathering.take(number, event));
            match fed.map_err(|e| e.at(&self.source)) {
                Ok(Fed::Event) => {}
                Ok(Fed::Nothing) if self.waits && gathering.is_empty() => {
                    self.feed.wait(0).map_err(|e| e.at(&self.source))?;
                }
                Ok(Fed::Nothing | Fed::End) if !gathering.is_empty() => break,
                Ok(Fed::Nothing) => return Ok(Read::Pending),
                Ok(Fed::End) => return Ok(Read::End),
                Ok(Fed::Gap { earliest }) if earliest <= gathering.at => {}
                Ok(Fed::Gap { earliest }) => {
                    gap = Some(earliest);
                    break;
                }
                Err(e) if gathering.is_empty() => return Err(e),
                Err(e) => {
                    self.failed = Some(e);
                    break;
                }
            }
        }
        let Gathering { at, mut offsets, mut refused, rows, .. } = gathering;
        self.at = at;
        if let Some(earliest) = gap {
            // What was read before the gap is good; the gap itself is the end of the chunk or of the job.
            match self.gap(earliest) {
                Ok(lost) => {
                    refused.push(lost);
                    offsets.get_or_insert_with(|| (start.offset..start.offset + rows as u64).collect());
                    self.at = earliest;
                }
                Err(e) if rows + refused.len() == 0 => return Err(e),
                Err(e) => self.failed = Some(e),
            }
        }
        let end = Position { offset: self.at, bytes: 0 };
        Ok(Read::Chunk(Chunk { rows: self.decoder.finish(), offsets, start, end, refused }))
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.decoder.finish();
        self.failed = None;
        self.at = to.offset.max(self.first);
        self.feed.seek(self.at)
    }

    fn wait(&mut self, until: u64) -> Result<bool> {
        self.feed.wait(until).map_err(|e| e.at(&self.source)).map(|()| true)
    }

    fn is_behind(&self) -> bool {
        self.feed.is_behind()
    }

    fn trouble(&self) -> Option<String> {
        self.feed.trouble().map(|trouble| format!("{}: {trouble}", self.place))
    }
}

#[cfg(test)]
mod tests;
