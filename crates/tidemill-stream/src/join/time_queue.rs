//! What falls due by event time: buckets of a fixed width, sorted only when they are taken.
//!
//! Pushing costs a look-up among a few hundred buckets; taking gives (ts, number) order whatever the order of pushing.

use std::collections::BTreeMap;

/// Something that falls due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Due {
    /// Its event time.
    pub ts: i64,
    /// Its arrival number: breaks ties, and tells whether the slot still holds it.
    pub seq: u64,
    /// Where it lies.
    pub slot: u32,
}

/// Buckets by event time.
pub(super) struct TimeQueue {
    tick_ms: i64,
    buckets: BTreeMap<i64, Vec<Due>>,
}

impl TimeQueue {
    pub fn new(tick_ms: i64) -> Self {
        Self { tick_ms, buckets: BTreeMap::new() }
    }

    pub fn push(&mut self, ts: i64, seq: u64, slot: u32) {
        self.buckets.entry(ts.div_euclid(self.tick_ms)).or_default().push(Due { ts, seq, slot });
    }

    /// Takes all with `ts <= limit`, in (ts, seq) order.
    pub fn pop_through(&mut self, limit: i64) -> Vec<Due> {
        let mut out = Vec::new();
        let last = limit.div_euclid(self.tick_ms);
        while let Some(mut bucket) = self.buckets.first_entry().filter(|b| *b.key() <= last) {
            let all_due = *bucket.key() < last;
            if all_due {
                out.append(bucket.get_mut());
            } else {
                out.extend(bucket.get_mut().extract_if(.., |due| due.ts <= limit));
            }
            if bucket.get().is_empty() {
                bucket.remove();
            }
            if !all_due {
                break;
            }
        }
        out.sort_unstable();
        out
    }

    /// Takes the very first.
    pub fn pop_first(&mut self) -> Option<Due> {
        let mut bucket = self.buckets.first_entry()?;
        let dues = bucket.get_mut();
        let first = (0..dues.len()).min_by_key(|&i| dues[i]).expect("no bucket is empty");
        let due = dues.swap_remove(first);
        if dues.is_empty() {
            bucket.remove();
        }
        Some(due)
    }
}
