//! One order for the rows of a mini-batch: partitions merged by event time, each keeping its own order.

use std::collections::BTreeMap;

use crate::{journal::PartitionId, sequencer::Take};

/// A row: which take, and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowAt {
    pub take: u32,
    pub row: u32,
}

/// Where one partition is read.
struct Lane<'a> {
    id: PartitionId,
    takes: Vec<(u32, &'a [i64])>,
    at: (usize, usize),
}

impl Lane<'_> {
    fn head(&self) -> Option<i64> {
        self.takes.get(self.at.0).map(|(_, times)| times[self.at.1])
    }

    /// Hands out rows while they are `before` the other partitions' heads.
    fn run(&mut self, out: &mut Vec<RowAt>, before: impl Fn(i64) -> bool) {
        while let Some((take, times)) = self.takes.get(self.at.0) {
            while self.at.1 < times.len() {
                if !before(times[self.at.1]) {
                    return;
                }
                out.push(RowAt { take: *take, row: self.at.1 as u32 });
                self.at.1 += 1;
            }
            self.at = (self.at.0 + 1, 0);
        }
    }
}

/// The partition whose next row is the least by (time, partition) gives it, until none has one.
pub(super) fn order(takes: &[Take]) -> Vec<RowAt> {
    let mut by_partition: BTreeMap<PartitionId, Vec<(u32, &[i64])>> = BTreeMap::new();
    for (i, take) in takes.iter().enumerate().filter(|(_, t)| !t.event_times.is_empty()) {
        by_partition.entry(take.id).or_default().push((i as u32, &take.event_times));
    }
    let mut lanes: Vec<Lane> = by_partition.into_iter().map(|(id, takes)| Lane { id, takes, at: (0, 0) }).collect();
    let mut out = Vec::with_capacity(takes.iter().map(|t| t.event_times.len()).sum());
    loop {
        let mut heads: Vec<(i64, PartitionId, usize)> =
            lanes.iter().enumerate().filter_map(|(i, l)| l.head().map(|ts| (ts, l.id, i))).collect();
        // Of many partitions only the first two matter.
        if heads.len() > 2 {
            heads.select_nth_unstable(1);
        }
        let (first, limit) = match heads[..] {
            [] => return out,
            [one] => (one.2, None),
            [a, b, ..] if a < b => (a.2, Some((b.0, b.1))),
            [a, b, ..] => (b.2, Some((a.0, a.1))),
        };
        let id = lanes[first].id;
        lanes[first].run(&mut out, |ts| limit.is_none_or(|l| (ts, id) < l));
    }
}
