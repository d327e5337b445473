//! One partition under the sequencer: what has been read and not taken yet.
//!
//! Two cursors: taken (rows handed out) and peeked (rows a plan has looked at). How rows came in chunks leaves no trace.

use std::collections::VecDeque;

use tidemill_base::{Error, Kind, Result};

use super::{Cut, Pause, Take, ahead::Permits, wide::Rows};
use crate::{
    Position,
    flow::Flow,
    journal::PartitionId,
    source::{Partition, Print, Read},
    window::{WideChunk, Window},
};

pub(super) struct Lane {
    rows: Rows,
    pub name: String,
    pub ordered: bool,
    /// Whether it is ordered and yet of a source that never ends.
    pub comes_late: bool,
    /// Behind the last row taken.
    pub offset: u64,
    chunks: VecDeque<WideChunk>,
    /// Events and refused rows of the first chunk taken already.
    cursor: usize,
    refused_cursor: usize,
    /// Chunk and event a plan looks at next.
    peek: (usize, usize),
    /// Behind the last row read.
    read_to: Position,
    /// Rows before this offset were taken before a restart and are passed over.
    skip_below: u64,
    at_end: bool,
    /// What the journal says of the file's first bytes.
    print: Option<Print>,
    /// Whether its rows come before those of the input's other lanes.
    pub is_history: bool,
    /// Which events are let in; others are passed over.
    pub extent: Extent,
    /// The latest event time read.
    pub read_max: i64,
    /// Whether it was not read at the last cut because it is too far ahead of others.
    pub is_held: bool,
    /// Whether nothing had arrived at the last cut.
    pub is_empty: bool,
    pub pause: Option<Pause>,
}

/// Which events of a lane are let in, where history and stream overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Later than this.
    pub behind: i64,
    /// Earlier than this.
    pub before: i64,
    /// From this offset on.
    pub first: u64,
}

impl Extent {
    pub const ALL: Self = Self { behind: i64::MIN, before: i64::MAX, first: 0 };

    fn has(&self, ts: i64, offset: u64) -> bool {
        ts > self.behind && ts < self.before && offset >= self.first
    }

    /// How many of these events come before the first that is not let in.
    fn inside(&self, times: &[i64], offsets: &[u64]) -> usize {
        match *self == Self::ALL {
            // Every event's time lies between its bounds.
            true => times.len(),
            false => times.iter().zip(offsets).take_while(|(ts, offset)| self.has(**ts, **offset)).count(),
        }
    }

    /// How many of these events come before the first that is.
    fn outside(&self, times: &[i64], offsets: &[u64]) -> usize {
        times.iter().zip(offsets).take_while(|(ts, offset)| !self.has(**ts, **offset)).count()
    }
}

/// Where [`Lane::take_to`] counts what goes by.
pub(super) struct Seen<'a> {
    pub flow: &'a mut Flow,
    /// The partition's largest event time so far.
    pub ts_max: Option<i64>,
    /// Events passed over.
    pub passed: u64,
}

impl Lane {
    /// `permits`: for reading ahead.
    pub fn new(partition: Box<dyn Partition>, window: Window, ordered: bool, permits: Option<&Permits>) -> Self {
        Self {
            name: partition.name().to_string(),
            comes_late: ordered && partition.comes_late(),
            rows: Rows::new(partition, window, permits),
            ordered,
            offset: 0,
            chunks: VecDeque::new(),
            cursor: 0,
            refused_cursor: 0,
            peek: (0, 0),
            read_to: Position::default(),
            skip_below: 0,
            at_end: false,
            print: None,
            is_history: false,
            extent: Extent::ALL,
            read_max: i64::MIN,
            is_held: false,
            is_empty: false,
            pause: None,
        }
    }

    /// Where to read on after a restart: rows between there and `offset` are passed over.
    pub fn resume(&self) -> Position {
        self.chunks.front().map_or(self.read_to, |c| c.start)
    }

    pub fn seek(&mut self, resume: Position, offset: u64) -> Result<()> {
        self.rows.seek(resume)?;
        (self.offset, self.skip_below, self.read_to) = (offset, offset, resume);
        Ok(())
    }

    /// Refuses the partition when the bytes behind an earlier print are no longer those.
    pub fn check_print(&mut self, print: Print, source: &str) -> Result<()> {
        // What is gone is missed when a row of it is wanted.
        if !self.is_gone() {
            let now = self.rows.print(Some(print.bytes))?;
            print
                .check(now, &self.name)
                .map_err(|e| Error::new(e.kind(), format!("source {source} {}", e.message())))?;
        }
        self.print = Some(print);
        Ok(())
    }

    /// Refuses an end that is one only because the file was cut or written anew while it was read.
    fn check_end(&self) -> Result<()> {
        let Some(print) = self.print.filter(|_| !self.is_gone()) else { return Ok(()) };
        match self.rows.print(Some(print.bytes)) {
            // Removed since: what was open was read to its end.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            now => print.check(now?, &self.name),
        }
    }

    /// A print of what has been read, where the last one does not reach as far: of the whole file at first, then of a
    /// plain file that grows.
    pub fn new_print(&self) -> Result<Option<Print>> {
        let upto = match self.print {
            None => None,
            Some(print) if self.rows.is_plain() && print.bytes < self.read_to.bytes => Some(self.read_to.bytes),
            Some(_) => return Ok(None),
        };
        let now = self.rows.print(upto)?;
        if let Some(bytes) = upto.filter(|bytes| now.is_some_and(|now| now.bytes < *bytes)) {
            Print { bytes, hash: 0 }.check(now, &self.name)?;
        }
        Ok(now)
    }

    /// What the journal says of the file's first bytes.
    pub fn print(&self) -> Option<Print> {
        self.print
    }

    /// The journal has this print.
    pub fn keep_print(&mut self, print: Print) {
        self.print = Some(print);
    }

    /// Whether an ended partition has rows behind its end.
    pub fn has_more(&mut self) -> Result<bool> {
        Ok(self.chunks.is_empty() && self.rows.has_more()?)
    }

    /// Whether the merge has to wait for it: its next event is not there yet, and may be before those of others.
    pub fn is_awaited(&self) -> bool {
        self.comes_late && !self.at_end && self.chunks.get(self.peek.0).is_none()
    }

    pub fn rewind_peek(&mut self) {
        self.peek = (0, self.cursor);
    }

    /// Event time of the next event a plan has not looked at; reads on if need be.
    pub fn peek(&mut self) -> Result<Option<i64>> {
        loop {
            if let Some(chunk) = self.chunks.get(self.peek.0) {
                if let Some(&ts) = chunk.event_times.get(self.peek.1) {
                    if self.extent.has(ts, chunk.offsets[self.peek.1]) {
                        return Ok(Some(ts));
                    }
                    self.peek.1 += 1;
                    continue;
                }
                self.peek = (self.peek.0 + 1, 0);
                continue;
            }
            if !self.read_more()? {
                return Ok(None);
            }
            if self.peek.0 == 0 {
                self.peek.1 = self.cursor;
            }
        }
    }

    /// Looks at the events that go next: the head, and those behind it in its chunk with times up to `through`. Returns how
    /// many, the offset behind them and their latest time.
    pub fn peek_run(&mut self, at_most: usize, through: i64) -> (usize, u64, i64) {
        let chunk = &self.chunks[self.peek.0];
        let next = self.peek.1 + 1..chunk.events().min(self.peek.1 + at_most);
        let times = &chunk.event_times[next.clone()];
        let follow = times.iter().position(|&ts| ts > through).unwrap_or(times.len());
        let run = 1 + self.extent.inside(&times[..follow], &chunk.offsets[next]);
        let ts_max = chunk.event_times[self.peek.1..][..run].iter().copied().max().expect("a run has a head");
        self.peek.1 += run;
        (run, chunk.offsets[self.peek.1 - 1] + 1, ts_max)
    }

    /// The partition's end, once it was reached and a plan has looked at every event.
    pub fn end_if_exhausted(&self) -> Option<u64> {
        let all_peeked = match self.chunks.get(self.peek.0) {
            None => true,
            Some(chunk) => self.peek.1 >= chunk.events() && self.peek.0 + 1 == self.chunks.len(),
        };
        (self.ordered && self.at_end && all_peeked).then_some(self.read_to.offset)
    }

    /// Reads what has arrived, up to a number of events, and answers the offset behind it.
    pub fn arrived(&mut self, events_max: usize) -> Result<u64> {
        let mut waiting = self.waiting();
        while waiting < events_max && self.read_more()? {
            waiting += self.chunks.back().map_or(0, |c| c.events());
        }
        Ok(self.read_to.offset.max(self.offset))
    }

    fn is_gone(&self) -> bool {
        self.rows.live().is_some_and(|partition| partition.is_gone())
    }

    /// Hands out all rows before offset `end`, reading on if need be; those with a time behind `latest` are refused.
    pub fn take_to(&mut self, end: u64, latest: i64, id: PartitionId, cut: &mut Cut, seen: &mut Seen) -> Result<()> {
        while self.offset < end {
            let Some(chunk) = self.chunks.front() else {
                if self.read_more()? || self.wait(end)? {
                    continue;
                }
                return Err(self.gone(end));
            };
            let to = self.cursor + chunk.offsets[self.cursor..].partition_point(|&o| o < end);
            while self.cursor < to {
                let (times, offsets) = (&chunk.event_times[self.cursor..to], &chunk.offsets[self.cursor..to]);
                let out = self.extent.outside(times, offsets);
                if out > 0 {
                    seen.passed += out as u64;
                    self.cursor += out;
                    continue;
                }
                let times = &times[..self.extent.inside(times, offsets)];
                let run = times.iter().position(|&ts| ts > latest).unwrap_or(times.len());
                if run == 0 {
                    cut.refused.push((id, chunk.refuse_ahead(self.cursor, latest)));
                    seen.flow.ahead += 1;
                    self.cursor += 1;
                    continue;
                }
                let (rows, event_times) = chunk.slice(self.cursor, self.cursor + run);
                seen.flow.events += run as u64;
                seen.flow.rows += rows.num_rows() as u64;
                seen.flow.lateness.observe(&times[..run], &mut seen.ts_max);
                cut.events += run as u64;
                if rows.num_rows() > 0 {
                    cut.takes.push(Take { id, rows, event_times });
                }
                self.cursor += run;
            }
            let refused = chunk.refused[self.refused_cursor..].iter().take_while(|r| r.offset < end);
            let before = cut.refused.len();
            cut.refused.extend(refused.map(|r| (id, r.clone())));
            let (all, told) = (cut.refused.len() - before, &cut.refused[before..]);
            let unreadable = told.iter().filter(|r| chunk.unreadable.binary_search(&r.1.offset).is_ok()).count();
            seen.flow.unreadable += unreadable as u64;
            seen.flow.unusable += (all - unreadable) as u64;
            self.refused_cursor += all;
            if chunk.end.offset <= end {
                self.offset = chunk.end.offset.max(self.offset);
                self.chunks.pop_front();
                (self.cursor, self.refused_cursor) = (0, 0);
                if self.chunks.is_empty() && self.at_end && self.offset < end {
                    return Err(self.gone(end));
                }
            } else {
                self.offset = end;
            }
        }
        Ok(())
    }

    /// Events read and not taken.
    pub fn waiting(&self) -> usize {
        self.chunks.iter().map(|c| c.events()).sum::<usize>() - self.cursor
    }

    fn read_more(&mut self) -> Result<bool> {
        if self.at_end {
            return Ok(false);
        }
        let wide = match self.rows.read(self.pause.as_ref())? {
            Read::Chunk(wide) => wide,
            Read::Pending => return Ok(false),
            Read::End => {
                self.check_end()?;
                self.at_end = true;
                return Ok(false);
            }
        };
        self.read_to = wide.end;
        self.read_max = wide.event_times.iter().copied().fold(self.read_max, i64::max);
        if self.chunks.is_empty() {
            self.cursor = wide.offsets.partition_point(|&o| o < self.skip_below);
            self.refused_cursor = wide.refused.partition_point(|r| r.offset < self.skip_below);
            if wide.end.offset <= self.skip_below {
                (self.cursor, self.refused_cursor) = (0, 0);
                return self.read_more();
            }
        }
        self.chunks.push_back(wide);
        Ok(true)
    }

    /// Waits for rows in front of `end`; `false` when they will not come.
    fn wait(&mut self, end: u64) -> Result<bool> {
        Ok(!self.at_end && self.rows.wait(end).map_err(|e| e.at(format!("partition '{}'", self.name)))?)
    }

    /// Whether rows are known to wait behind what was read.
    pub fn is_behind(&self) -> bool {
        self.rows.live().is_some_and(|partition| partition.is_behind())
    }

    /// Whether nothing has come of late, and nothing is known to be there.
    pub fn is_silent(&self) -> bool {
        !self.ordered && self.is_empty && !self.is_behind()
    }

    /// Whether who brings rows says so.
    pub fn is_announced(&self) -> bool {
        self.rows.live().is_some_and(|partition| partition.is_announced())
    }

    /// What keeps rows from coming.
    pub fn trouble(&self) -> Option<String> {
        self.rows.live()?.trouble()
    }

    fn gone(&self, end: u64) -> Error {
        Error::conflict(format!(
            "partition '{}': row {end} was read before and is no longer there (it ends at row {}); \
             put the file back, or start again with --from-scratch",
            self.name, self.offset
        ))
    }
}
