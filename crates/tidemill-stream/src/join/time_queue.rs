//! What falls due by event time: a ring of short buckets, each sorted only when its first is taken.
//!
//! Pushing appends to a bucket found by a shift and a subtraction; taking walks the ring from its front and gives (ts, number)
//! order whatever the order of pushing. The ring reaches over [`NEAR_BUCKETS_MAX`] buckets at most; what lies outside is kept
//! in a tree, so that one far time costs no memory for all between.

use std::collections::{BTreeMap, VecDeque};

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

impl Due {
    /// Orders by time, then number, in one comparison without a branch.
    fn order(&self) -> i128 {
        (self.ts as i128) << 64 | self.seq as i128
    }
}

/// Buckets in a window's length. Few events stand in each, so sorting one is cheap and needs little memory at hand.
const WINDOW_BUCKETS: i64 = 4096;
/// Buckets of the ring, empty ones included.
const NEAR_BUCKETS_MAX: usize = 16_384;
/// Emptied buckets that are kept for later ones.
const SPARE_BUCKETS_MAX: usize = 64;

/// Buckets by event time.
pub(super) struct TimeQueue {
    /// A bucket is this power of two of milliseconds long: no division, and rounding down below zero, too.
    tick_bits: u32,
    /// Number of the ring's front bucket.
    first: i64,
    near: VecDeque<Vec<Due>>,
    near_count: usize,
    /// Whether the front bucket is in order.
    front_is_sorted: bool,
    /// Dues of the front bucket that were taken already.
    front_taken: usize,
    far: BTreeMap<i64, Vec<Due>>,
    spare: Vec<Vec<Due>>,
}

impl TimeQueue {
    /// A queue of dues that stand about this long in it.
    pub fn new(length_ms: i64) -> Self {
        Self {
            tick_bits: (length_ms / WINDOW_BUCKETS).max(1).ilog2(),
            first: 0,
            near: VecDeque::new(),
            near_count: 0,
            front_is_sorted: false,
            front_taken: 0,
            far: BTreeMap::new(),
            spare: Vec::new(),
        }
    }

    pub fn push(&mut self, ts: i64, seq: u64, slot: u32) {
        let due = Due { ts, seq, slot };
        let at = (ts >> self.tick_bits).wrapping_sub(self.first) as u64 as usize;
        // The front bucket may be in use.
        if at != 0 && at < self.near.len() {
            self.near[at].push(due);
            self.near_count += 1;
        } else {
            self.push_at_edge(due);
        }
    }

    fn push_at_edge(&mut self, due: Due) {
        let bucket = due.ts >> self.tick_bits;
        if self.near_count == 0 {
            self.clear_near();
            self.first = bucket;
        }
        // Times are any numbers: the distance may not fit an i64.
        let at = bucket as i128 - self.first as i128;
        let length = self.near.len() as i128;
        let (below, above) = ((-at).max(0), (at + 1 - length).max(0));
        if length + below + above > NEAR_BUCKETS_MAX as i128 {
            self.far.entry(bucket).or_default().push(due);
            return;
        }
        if below > 0 {
            self.settle_front();
        }
        for _ in 0..below {
            self.near.push_front(Vec::new());
            self.first -= 1;
        }
        for _ in 0..above {
            self.near.push_back(self.spare.pop().unwrap_or_default());
        }
        let at = (bucket - self.first) as usize;
        let bucket = &mut self.near[at];
        if at == 0 && self.front_is_sorted {
            let place = bucket[self.front_taken..].partition_point(|d| d.order() < due.order());
            bucket.insert(self.front_taken + place, due);
        } else {
            bucket.push(due);
        }
        self.near_count += 1;
    }

    /// Takes all with `ts <= limit`, appending them in (ts, seq) order.
    pub fn pop_through(&mut self, limit: i64, out: &mut Vec<Due>) {
        let (begin, last) = (out.len(), limit >> self.tick_bits);
        while self.near_count > 0 && self.first <= last {
            self.sort_front();
            let bucket = &self.near[0][self.front_taken..];
            let due = if self.first < last { bucket.len() } else { bucket.partition_point(|d| d.ts <= limit) };
            out.extend_from_slice(&bucket[..due]);
            self.near_count -= due;
            self.front_taken += due;
            if self.front_taken < self.near[0].len() {
                break;
            }
            self.drop_front();
        }
        let near_end = out.len();
        while let Some(mut bucket) = self.far.first_entry().filter(|b| *b.key() <= last) {
            out.extend(bucket.get_mut().extract_if(.., |due| due.ts <= limit));
            if !bucket.get().is_empty() {
                break;
            }
            bucket.remove();
        }
        if out.len() > near_end {
            out[begin..].sort_unstable_by_key(Due::order);
        }
    }

    /// Takes the very first.
    pub fn pop_first(&mut self) -> Option<Due> {
        while self.near_count > 0 && self.front_taken == self.near[0].len() {
            self.drop_front();
        }
        let near = (self.near_count > 0).then(|| {
            self.sort_front();
            self.near[0][self.front_taken]
        });
        if let Some(mut bucket) = self.far.first_entry()
            && near.is_none_or(|near| *bucket.key() <= near.ts >> self.tick_bits)
        {
            let dues = bucket.get_mut();
            let first = (0..dues.len()).min_by_key(|&i| dues[i].order()).expect("no far bucket is empty");
            if near.is_none_or(|near| dues[first] < near) {
                let due = dues.swap_remove(first);
                if dues.is_empty() {
                    bucket.remove();
                }
                return Some(due);
            }
        }
        let due = near?;
        self.front_taken += 1;
        self.near_count -= 1;
        Some(due)
    }

    /// Bytes of what stands in it, and of the ring.
    pub fn bytes(&self) -> usize {
        let far: usize = self.far.values().map(Vec::len).sum();
        (self.near_count + self.front_taken + far) * size_of::<Due>() + self.near.capacity() * size_of::<Vec<Due>>()
    }

    fn sort_front(&mut self) {
        if !self.front_is_sorted {
            self.near[0].sort_unstable_by_key(Due::order);
            self.front_is_sorted = true;
        }
    }

    /// The front bucket was taken whole.
    fn drop_front(&mut self) {
        if let Some(bucket) = self.near.pop_front() {
            self.keep_spare(bucket);
        }
        // Behind the last bucket there can be, there is none to be named wrongly.
        self.first = self.first.wrapping_add(1);
        (self.front_is_sorted, self.front_taken) = (false, 0);
    }

    /// The front bucket will be one among others.
    fn settle_front(&mut self) {
        if let Some(bucket) = self.near.front_mut() {
            bucket.drain(..self.front_taken);
        }
        (self.front_is_sorted, self.front_taken) = (false, 0);
    }

    fn clear_near(&mut self) {
        while let Some(bucket) = self.near.pop_front() {
            self.keep_spare(bucket);
        }
        (self.front_is_sorted, self.front_taken) = (false, 0);
    }

    fn keep_spare(&mut self, mut bucket: Vec<Due>) {
        if self.spare.len() < SPARE_BUCKETS_MAX && bucket.capacity() > 0 {
            bucket.clear();
            self.spare.push(bucket);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;

    /// Whatever is pushed in whatever order, far times and repeated ones too, is taken as from a sorted set.
    #[test]
    fn dues_are_taken_in_the_order_of_time_and_number() {
        for seed in 0..200 {
            let mut rng = Rng::seeded(seed);
            let mut queue = TimeQueue::new([0, 1000, 60_000_000][seed as usize % 3]);
            let mut set = std::collections::BTreeSet::new();
            let mut now = -50_000_i64;
            for seq in 0..2000 {
                let ts = match rng.next_u64() % 40 {
                    0 => [i64::MIN, i64::MAX, 0, now + 10_000_000_000, now - 10_000_000_000]
                        [(rng.next_u64() % 5) as usize],
                    _ => now + (rng.next_u64() % 3000) as i64 - 200,
                };
                queue.push(ts, seq, seq as u32);
                set.insert(Due { ts, seq, slot: seq as u32 });
                if rng.next_u64().is_multiple_of(8) {
                    assert_eq!(queue.pop_first(), set.pop_first(), "seed {seed}");
                }
                if rng.next_u64().is_multiple_of(16) {
                    now += (rng.next_u64() % 2000) as i64;
                    let mut taken = Vec::new();
                    queue.pop_through(now, &mut taken);
                    let expected: Vec<Due> = set.extract_if(.., |due| due.ts <= now).collect();
                    assert_eq!(taken, expected, "seed {seed}");
                }
            }
            let mut rest = Vec::new();
            queue.pop_through(i64::MAX, &mut rest);
            assert_eq!(rest, set.into_iter().collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(queue.pop_first(), None);
        }
    }
}
