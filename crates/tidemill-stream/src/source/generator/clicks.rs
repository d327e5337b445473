//! The clicks of the generated stream, in the order in which they happen.
//!
//! In: the world. Out: clicks by event time, then number. Impressions are simulated a block at a time; a click waits in a
//! heap until no later impression can have an earlier one. No delay is longer than 20 means, so a place is reached again by
//! simulating that much before it: a chunk ends where every click up to the event time of impression `Position::bytes`
//! was handed out and no other.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::SchemaRef,
};
use tidemill_base::{Error, Result};

use super::{Column, NAME, chunk_rows, world::World};
use crate::{
    Chunk, Position,
    source::{GeneratorSettings, Partition, Read, SourceSpec, text::gone, words::thousands},
};

/// Impressions within one mean delay at most: about a fifth of them wait in the heap, 16 bytes each.
const IMPRESSIONS_PER_MEAN_MAX: u64 = 20_000_000;

/// What was clicked.
pub(super) struct Clicks {
    source: String,
    world: World,
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: Option<u64>,
    block: u64,
    /// Impressions before this one were simulated. Goes on past the last one, as a mark in time.
    simulated: u64,
    /// Clicks that did not happen yet: event time, number.
    waiting: BinaryHeap<Reverse<(i64, u64)>>,
    offset: u64,
    /// `simulated` if this place can be reached again from it; 0 if not.
    hint: u64,
}

impl Clicks {
    pub(super) fn new(spec: &SourceSpec, settings: &GeneratorSettings, columns: Vec<Column>) -> Result<Self> {
        let held = settings.rate.saturating_mul(settings.click_delay_ms as u64) / 1000;
        if held > IMPRESSIONS_PER_MEAN_MAX {
            return Err(Error::invalid(format!(
                "source {}: rate x click_delay is {} impressions; {} is the most, lower one of them",
                spec.name,
                thousands(held),
                thousands(IMPRESSIONS_PER_MEAN_MAX)
            )));
        }
        Ok(Self {
            source: spec.name.clone(),
            world: World::new(settings),
            schema: spec.columns.clone(),
            columns,
            rows: settings.rows,
            block: chunk_rows(settings),
            simulated: 0,
            waiting: BinaryHeap::new(),
            offset: 0,
            hint: 0,
        })
    }

    fn place(&self) -> Position {
        Position { offset: self.offset, bytes: self.hint }
    }

    /// Simulates impressions `from..to`; keeps the clicks after `after`.
    fn simulate(&mut self, from: u64, to: u64, after: i64) {
        for number in from..to.min(self.rows.unwrap_or(u64::MAX)) {
            if let Some(ts) = self.world.draw(number).click_ts.filter(|&ts| ts > after) {
                self.waiting.push(Reverse((ts, number)));
            }
        }
    }

    /// Simulates the next block and takes the clicks that are now certain, at most `most`; `None` at the stream's end.
    fn next_block(&mut self, most: u64) -> Option<Vec<(i64, u64)>> {
        if self.waiting.is_empty() && self.rows.is_some_and(|rows| self.simulated >= rows) {
            return None;
        }
        let to = self.simulated + self.block;
        self.simulate(self.simulated, to, i64::MIN);
        self.simulated = to;
        // A click comes at least a millisecond after its impression, so none that is still to be simulated comes before.
        let now = self.world.ts(to);
        let mut clicks = Vec::new();
        self.hint = to;
        while let Some(&Reverse((ts, number))) = self.waiting.peek()
            && ts <= now
        {
            if clicks.len() as u64 == most {
                self.hint = 0;
                break;
            }
            clicks.push((ts, number));
            self.waiting.pop();
        }
        Some(clicks)
    }

    fn batch(&self, clicks: &[(i64, u64)]) -> Result<RecordBatch> {
        let column = |c: &Column| -> ArrayRef {
            match c {
                Column::Ts => Arc::new(Int64Array::from_iter_values(clicks.iter().map(|c| c.0))),
                _ => Arc::new(Int64Array::from_iter_values(clicks.iter().map(|c| c.1 as i64))),
            }
        };
        RecordBatch::try_new(self.schema.clone(), self.columns.iter().map(column).collect())
            .map_err(|e| Error::internal(format!("building generated columns: {e}")))
    }

    fn restart_at(&mut self, number: u64) {
        let now = self.world.ts(number);
        // One too many is harmless: its clicks are not after `now`.
        let ahead = self.world.delay_max_ms() as u128 * self.world.rate() as u128 / 1000;
        let from = number.saturating_sub(ahead as u64 + 1);
        self.simulate(from, number, now);
        (self.simulated, self.hint) = (number, number);
    }
}

impl Partition for Clicks {
    fn name(&self) -> &str {
        NAME
    }

    fn read(&mut self) -> Result<Read> {
        let start = self.place();
        loop {
            let Some(clicks) = self.next_block(u64::MAX) else { return Ok(Read::End) };
            if clicks.is_empty() {
                continue;
            }
            self.offset += clicks.len() as u64;
            let rows = self.batch(&clicks)?;
            return Ok(Read::Chunk(Chunk { rows, offsets: None, start, end: self.place(), refused: Vec::new() }));
        }
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.waiting.clear();
        (self.simulated, self.hint, self.offset) = (0, 0, 0);
        if to.bytes > 0 {
            self.restart_at(to.bytes);
            self.offset = to.offset;
        }
        while self.offset < to.offset {
            match self.next_block(to.offset - self.offset) {
                Some(clicks) => self.offset += clicks.len() as u64,
                None => return Err(gone(&self.source, NAME, to.offset)),
            }
        }
        Ok(())
    }
}
