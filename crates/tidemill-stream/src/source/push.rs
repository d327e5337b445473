//! Events taken over HTTP: appended to a log first, read back from it like a file.
//!
//! In: bodies of JSON lines with the time they came. Out: a partition that never ends. One record of the log is one event:
//! arrival time (i64, epoch ms, little-endian), then the line as it came. [`PushLog`] says which lines are bad before
//! anything is kept: those that do not fit the columns, and at its [`Door`] those without an event time or with one far
//! ahead of the clock. A reader sees only records that are durable, so what it has read it will find again.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef, TimeUnit},
};
use tidemill_base::{
    Error, Result,
    store::log::{HEADER_BYTES, Log, LogReader},
};

use super::{
    CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Partition, ROW_BYTES_MAX, Read,
    json::JsonDecoder,
    text::{gone, refused},
    words::{sql_type, thousands},
};
use crate::{
    Chunk, Position,
    chunk::excerpt,
    window::{Window, ahead_reason},
};

/// The name of every source's push partition.
pub const PARTITION_NAME: &str = "push";
/// The log's file within the source's directory.
const FILE_NAME: &str = "push.log";
const ARRIVAL_BYTES: usize = size_of::<i64>();

/// What an event must be besides rows of the declared columns, so that its sender is told and not only the dead letter.
#[derive(Clone)]
pub struct Door {
    /// How the event gets its computed columns and its time.
    pub window: Window,
    /// How far its time may be ahead of its arrival, milliseconds.
    pub ahead_max_ms: Option<i64>,
}

/// The writing end of a source's push log.
pub struct PushLog {
    log: Log,
    door: Option<Door>,
    decoder: JsonDecoder,
    schema: SchemaRef,
    event_time: Option<usize>,
    /// Bytes of the file that are durable; shared with readers.
    durable: Arc<AtomicU64>,
    /// Records appended and not yet synced.
    unsynced: u64,
}

/// What became of one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Offset of the first event taken; those of one body follow one another.
    pub first_offset: u64,
    /// Events taken.
    pub accepted: u64,
    /// Lines refused: number in the body, from 1, and reason.
    pub refused: Vec<(u64, String)>,
}

impl PushLog {
    /// Opens or creates the log in `dir`. What it holds already is made durable before anyone reads it. `event_time`: the
    /// column (BIGINT in milliseconds, or TIMESTAMP) that gets the arrival time where an event that was let in has none:
    /// early logs hold such, and must be read as they were.
    pub fn open(dir: &Path, schema: SchemaRef, event_time: Option<usize>) -> Result<Self> {
        if let Some(i) = event_time {
            check_event_time(&schema, i)?;
        }
        let decoder = JsonDecoder::new(schema.clone())?;
        let mut log = Log::open(&dir.join(FILE_NAME), |_, _, _| Ok(()))?;
        log.sync()?;
        let durable = Arc::new(AtomicU64::new(log.bytes()));
        Ok(Self { log, door: None, decoder, schema, event_time, durable, unsynced: 0 })
    }

    /// From now on lets in only what passes this door.
    pub fn with_door(mut self, door: Door) -> Self {
        self.door = Some(door);
        self
    }

    /// Appends the good lines of a body without making them durable yet: [`PushLog::sync`] must follow before anybody is
    /// told. Blank lines are no events.
    pub fn append(&mut self, body: &[u8], arrival_ms: i64) -> Result<Pushed> {
        self.append_at(body, arrival_ms, Some(arrival_ms))
    }

    /// As [`PushLog::append`]; `clock_ms` is what event times are measured against, `None` where the clock is not to be
    /// believed.
    pub fn append_at(&mut self, body: &[u8], arrival_ms: i64, clock_ms: Option<i64>) -> Result<Pushed> {
        let mut out = Pushed { first_offset: self.log.records(), accepted: 0, refused: Vec::new() };
        let mut good: Vec<(u64, &[u8])> = Vec::new();
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        for (i, line) in body.split(|&b| b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            match self.check(line) {
                Ok(()) => good.push((i as u64 + 1, line)),
                Err(why) => out.refused.push((i as u64 + 1, why)),
            }
        }
        let rows = self.decoder.finish();
        let mut turned_away = match &self.door {
            Some(door) => door.turn_away(rows, clock_ms)?.into_iter().peekable(),
            None => Vec::new().into_iter().peekable(),
        };
        let mut record = Vec::new();
        for (i, (number, line)) in good.into_iter().enumerate() {
            if let Some((_, why)) = turned_away.next_if(|(row, _)| *row == i as u64) {
                out.refused.push((number, why));
                continue;
            }
            record.clear();
            record.extend_from_slice(&arrival_ms.to_le_bytes());
            record.extend_from_slice(line);
            self.log.append(&record)?;
            out.accepted += 1;
            self.unsynced += 1;
        }
        out.refused.sort_unstable();
        Ok(out)
    }

    /// Makes everything appended durable and lets readers see it. On an error nothing that was appended since the last
    /// success counts as taken.
    pub fn sync(&mut self) -> Result<()> {
        if let Err(e) = self.log.flush() {
            self.log.drop_group(self.unsynced);
            self.unsynced = 0;
            return Err(e);
        }
        self.log.sync()?;
        self.unsynced = 0;
        self.durable.store(self.log.bytes(), Ordering::Release);
        Ok(())
    }

    /// [`PushLog::append`] and [`PushLog::sync`] in one.
    pub fn push(&mut self, body: &[u8], arrival_ms: i64) -> Result<Pushed> {
        let pushed = self.append(body, arrival_ms)?;
        self.sync()?;
        Ok(pushed)
    }

    /// The reading end, at the log's beginning.
    pub fn reader(&self, source: &str) -> Result<PushPartition> {
        Ok(PushPartition {
            source: source.to_string(),
            path: self.log.path().to_path_buf(),
            records: LogReader::open_at(self.log.path(), HEADER_BYTES)?,
            decoder: JsonDecoder::new(self.schema.clone())?,
            event_time: self.event_time,
            durable: self.durable.clone(),
            offset: 0,
            caught_up: true,
        })
    }

    /// Events in the log, those not yet durable included.
    pub fn events(&self) -> u64 {
        self.log.records()
    }

    /// Adds a good line to the decoder's rows.
    fn check(&mut self, line: &[u8]) -> Result<(), String> {
        if line.len() > ROW_BYTES_MAX {
            return Err(format!("longer than {} bytes", thousands(ROW_BYTES_MAX as u64)));
        }
        // A door looks at the time itself; without one nobody does, and an event without a time gets that of its arrival.
        let fill = self.event_time.filter(|_| self.door.is_none()).map(|column| (column, 0));
        self.decoder.push_line_at(line, fill)
    }
}

impl Door {
    /// Rows that are not let in, ascending, each with the reason.
    fn turn_away(&self, rows: RecordBatch, clock_ms: Option<i64>) -> Result<Vec<(u64, String)>> {
        let end = Position { offset: rows.num_rows() as u64, bytes: 0 };
        let chunk = Chunk { rows, offsets: None, start: Position::default(), end, refused: Vec::new() };
        let wide = self.window.widen(chunk)?;
        let mut out: Vec<_> = wide.refused.into_iter().map(|r| (r.offset, r.reason)).collect();
        if let (Some(clock_ms), Some(ahead_max_ms)) = (clock_ms, self.ahead_max_ms) {
            let latest = clock_ms.saturating_add(ahead_max_ms);
            let ahead = wide.offsets.into_iter().zip(wide.event_times).filter(|(_, ts)| *ts > latest);
            out.extend(ahead.map(|(row, ts)| (row, ahead_reason(ts, latest))));
        }
        out.sort_unstable();
        Ok(out)
    }
}

/// The log in `dir` as far as it goes now, for a reader that does not own it: nothing is changed, nothing more will come.
pub fn read(dir: &Path, schema: SchemaRef, source: &str, event_time: Option<usize>) -> Result<PushPartition> {
    let path = dir.join(FILE_NAME);
    Ok(PushPartition {
        source: source.to_string(),
        records: LogReader::open_at(&path, HEADER_BYTES)?,
        path,
        decoder: JsonDecoder::new(schema)?,
        event_time,
        durable: Arc::new(AtomicU64::new(u64::MAX)),
        offset: 0,
        caught_up: true,
    })
}

fn check_event_time(schema: &SchemaRef, column: usize) -> Result<()> {
    match schema.field(column).data_type() {
        DataType::Int64 | DataType::Timestamp(TimeUnit::Millisecond, None) => Ok(()),
        t => Err(Error::invalid(format!(
            "event time column '{}' is {}; a source that takes pushed events needs BIGINT (epoch ms) or TIMESTAMP(3)",
            schema.field(column).name(),
            sql_type(t)
        ))),
    }
}

/// The reading end of a source's push log.
pub struct PushPartition {
    source: String,
    path: PathBuf,
    records: LogReader,
    decoder: JsonDecoder,
    event_time: Option<usize>,
    durable: Arc<AtomicU64>,
    offset: u64,
    /// Whether everything durable was read, so that the reader's buffer may hold bytes that were not durable then: a
    /// failed write takes such bytes back.
    caught_up: bool,
}

impl PushPartition {
    fn place(&self) -> Position {
        Position { offset: self.offset, bytes: self.records.at() }
    }
}

impl Partition for PushPartition {
    fn name(&self) -> &str {
        PARTITION_NAME
    }

    fn is_announced(&self) -> bool {
        true
    }

    fn read(&mut self) -> Result<Read> {
        let start = self.place();
        let durable = self.durable.load(Ordering::Acquire);
        if self.caught_up && start.bytes < durable {
            self.records = LogReader::open_at(&self.path, start.bytes)?;
        }
        let (mut offsets, mut turned_away): (Option<Vec<u64>>, Vec<_>) = (None, Vec::new());
        while self.offset - start.offset < CHUNK_ROWS_MAX as u64
            && self.records.at() < durable.min(start.bytes + CHUNK_BYTES_MAX as u64)
        {
            let Some(record) = self.records.next()? else { break };
            let Some((arrival, line)) = record.split_first_chunk::<ARRIVAL_BYTES>() else {
                return Err(Error::corrupt(format!("{}: record {} is too short", self.path.display(), self.offset)));
            };
            let fill = self.event_time.map(|column| (column, i64::from_le_bytes(*arrival)));
            match self.decoder.push_line_at(line, fill) {
                Ok(()) => offsets.iter_mut().for_each(|o| o.push(self.offset)),
                Err(why) => {
                    offsets.get_or_insert_with(|| (start.offset..self.offset).collect());
                    turned_away.push(refused(self.offset, why, excerpt(line)));
                }
            }
            self.offset += 1;
        }
        self.caught_up = self.records.at() >= durable;
        if self.offset == start.offset {
            return Ok(Read::Pending);
        }
        let rows = self.decoder.finish();
        Ok(Read::Chunk(Chunk { rows, offsets, start, end: self.place(), refused: turned_away }))
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        let durable = self.durable.load(Ordering::Acquire);
        if to.bytes > durable {
            return Err(gone(&self.source, PARTITION_NAME, to.offset));
        }
        self.decoder.clear();
        self.records = LogReader::open_at(&self.path, to.bytes.max(HEADER_BYTES))?;
        self.offset = if to.bytes == 0 { 0 } else { to.offset };
        while self.offset < to.offset {
            if self.records.at() >= durable || self.records.next()?.is_none() {
                return Err(gone(&self.source, PARTITION_NAME, to.offset));
            }
            self.offset += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
