//! What went through steps 1 and 2, counted: rows in and out by reason, and how late events were.
//!
//! In: the runs of rows that the sequencer takes into mini-batches. Out: sums that are a function of the journal and the
//! sources' contents, as everything here: chunk borders and restarts leave no trace in them, and no clock is read. Rates are
//! made of them where there is a clock.

use tidemill_base::{
    Result,
    codec::{Decoder, Encoder},
};

/// Upper ends of the buckets of [`Lateness`], event milliseconds: powers of four, from one to three days. In front of them is
/// the bucket of what came in order, behind them that of what was later still.
pub const LATENESS_BOUNDS_MS: [i64; 15] = {
    let mut bounds = [1; 15];
    let mut i = 1;
    while i < bounds.len() {
        bounds[i] = bounds[i - 1] * 4;
        i += 1;
    }
    bounds
};

const BUCKETS: usize = LATENESS_BOUNDS_MS.len() + 2;

/// How far events were behind the largest event time of their partition before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    counts: [u64; BUCKETS],
    sum_ms: u64,
    max_ms: u64,
}

impl Lateness {
    /// Counts events of one partition that follow on those up to `seen_to`, and moves that on.
    pub fn observe(&mut self, times: &[i64], seen_to: &mut Option<i64>) {
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
        let mut newest = seen_to.unwrap_or(*first);
        if *first >= newest && times.is_sorted() {
            self.counts[0] += times.len() as u64;
            *seen_to = Some(*last);
            return;
        }
        for &ts in times {
            newest = newest.max(ts);
            let late = newest.abs_diff(ts);
            self.counts[bucket(late)] += 1;
            self.sum_ms = self.sum_ms.saturating_add(late);
            self.max_ms = self.max_ms.max(late);
        }
        *seen_to = Some(newest);
    }

    /// Events by bucket: in order, then up to each of [`LATENESS_BOUNDS_MS`], then beyond.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The sum of all events' lateness, milliseconds.
    pub fn sum_ms(&self) -> u64 {
        self.sum_ms
    }

    /// The latest event's.
    pub fn max_ms(&self) -> u64 {
        self.max_ms
    }

    /// The upper end of the bucket in which this share of the events is reached; of the last bucket the latest event's
    /// lateness. `None` before the first event.
    pub fn quantile_ms(&self, share: f64) -> Option<u64> {
        let total: u64 = self.counts.iter().sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        let reached = self.counts.iter().position(|count| {
            below += count;
            below >= wanted
        });
        let end = |bucket: usize| match bucket {
            0 => 0,
            b => LATENESS_BOUNDS_MS.get(b - 1).map_or(self.max_ms, |end| (*end as u64).min(self.max_ms)),
        };
        reached.map(end)
    }

    fn encode(&self, out: &mut Encoder) {
        self.counts.iter().for_each(|count| _ = out.put_varint(*count));
        out.put_u64(self.sum_ms).put_u64(self.max_ms);
    }

    fn decode(d: &mut Decoder) -> Result<Self> {
        let mut counts = [0; BUCKETS];
        for count in &mut counts {
            *count = d.varint()?;
        }
        Ok(Self { counts, sum_ms: d.u64()?, max_ms: d.u64()? })
    }
}

/// The bucket of a lateness: half the bits of what is below it, so no search and no branch.
fn bucket(late_ms: u64) -> usize {
    let bits = u64::BITS - late_ms.saturating_sub(1).leading_zeros();
    let bucket = bits.div_ceil(2) as usize + usize::from(late_ms > 0);
    bucket.min(BUCKETS - 1)
}

/// What one input has let through since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Rows that the source could not read.
    pub unreadable: u64,
    /// Rows refused while widening: no event time, or an expression that fails on them.
    pub unusable: u64,
    /// Rows refused because their time is too far ahead of the clock.
    pub ahead: u64,
    /// Events let in.
    pub events: u64,
    /// Events let in whose row went on: it passed the view's filter.
    pub rows: u64,
    /// How late the events let in were.
    pub lateness: Lateness,
}

impl Flow {
    /// Rows that came, whatever became of them.
    pub fn rows_in(&self) -> u64 {
        self.unreadable + self.unusable + self.ahead + self.events
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        for count in [self.unreadable, self.unusable, self.ahead, self.events, self.rows] {
            out.put_u64(count);
        }
        self.lateness.encode(out);
    }

    pub(crate) fn decode(d: &mut Decoder) -> Result<Self> {
        Ok(Self {
            unreadable: d.u64()?,
            unusable: d.u64()?,
            ahead: d.u64()?,
            events: d.u64()?,
            rows: d.u64()?,
            lateness: Lateness::decode(d)?,
        })
    }
}

/// How the partitions of one input stand at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Partitions there are.
    pub partitions: usize,
    /// Those that are silent and do not hold the watermark.
    pub idle: usize,
    /// Those that have ended.
    pub finished: usize,
    /// Events that were read and wait for their turn.
    pub waiting: usize,
    /// The watermark of this input alone, once there is one.
    pub watermark: Option<i64>,
    /// The partition that holds it: the one that is farthest back.
    pub slowest: Option<String>,
}

/// What keeps an input from being read at this moment, beside the steps behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing does.
    No,
    /// It ended.
    Ended,
    /// Nothing has come, and nothing is known to be there.
    Silent,
    /// A partition is farther ahead of another than `max_drift` allows.
    Drift,
    /// The server of a partition is away.
    Away,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bucket b holds what is later than bound b - 2 and not later than bound b - 1; the edges belong to the lower one.
    #[test]
    fn an_event_falls_into_the_bucket_whose_bound_it_does_not_pass() {
        assert_eq!((bucket(0), bucket(1)), (0, 1));
        for (i, &end) in LATENESS_BOUNDS_MS.iter().enumerate() {
            let end = end as u64;
            assert_eq!((bucket(end), bucket(end + 1)), (i + 1, i + 2), "{end} ms");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    /// Times 5 0 9 9 3: behind the largest before them by 0, 5, 0, 0 and 6.
    #[test]
    fn lateness_is_behind_the_largest_time_before() {
        let (mut one, mut seen_to) = (Lateness::default(), None);
        one.observe(&[5, 0, 9, 9, 3], &mut seen_to);
        assert_eq!((seen_to, one.sum_ms(), one.max_ms()), (Some(9), 11, 6));
        assert_eq!(&one.counts()[..5], [3, 0, 0, 2, 0]);
        assert_eq!((one.quantile_ms(0.5), one.quantile_ms(0.99)), (Some(0), Some(6)));
    }

    /// How events came in runs leaves no trace.
    #[test]
    fn runs_leave_no_trace() {
        let times: Vec<i64> = (0..500).map(|i| (i * 37) % 101 + i).collect();
        let (mut whole, mut seen_to) = (Lateness::default(), None);
        whole.observe(&times, &mut seen_to);
        for length in [1, 2, 7, 499] {
            let (mut parts, mut at) = (Lateness::default(), None);
            times.chunks(length).for_each(|run| parts.observe(run, &mut at));
            assert_eq!((parts, at), (whole, seen_to), "runs of {length}");
        }
        assert_eq!(whole.counts().iter().sum::<u64>(), 500);
    }
}
