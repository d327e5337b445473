//! Forgetting by age: entries that nothing was learned about for `train.forget_after` samples leave.
//!
//! In: how many samples were learned. Out: when the table is to be swept and when its clock ticks. Time is the number of
//! samples and nothing else, so the same entries leave whatever the threads and the restarts. The clock stands still while
//! the trainer learns a batch, and ticks once behind it at most: what was learned just now is never taken for old.

use std::ops::Range;

/// Ticks after which an entry leaves: it has then seen [`TICKS`] - 1 whole ones.
pub(super) const TICKS: u8 = 6;
/// A tick's sweep is done in so many steps, so that no mini-batch waits for all of it.
const STEPS: u64 = 256;

/// When to sweep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Samples that an entry stays for at least: all steps of its whole ticks.
    samples: u64,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Due {
    /// A bucket of every shard is looked at.
    Sweep,
    /// Everything is a tick older.
    Tick,
}

impl Pace {
    /// Entries stay for at least `samples` samples; where batches are small beside that, for seven fifths of it at most.
    pub(super) fn new(samples: u64) -> Self {
        Self { samples: samples.max(1) }
    }

    /// What is due behind a batch that made the samples learned so many.
    pub(super) fn due(self, learned: Range<u64>) -> impl Iterator<Item = Due> {
        const STEPS_OF_ALL: u128 = (TICKS - 1) as u128 * STEPS as u128;
        let steps = |samples: u64| (u128::from(samples) * STEPS_OF_ALL / u128::from(self.samples)) as u64;
        let (first, last) = (steps(learned.start) + 1, steps(learned.end));
        let ticks = last / STEPS > (first - 1) / STEPS;
        // A tick ends the sweep before it.
        let first = if ticks { last / STEPS * STEPS } else { first };
        (first..=last).map(|step| if step % STEPS == 0 { Due::Tick } else { Due::Sweep })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_one_tick_a_batch_at_most() {
        let pace = Pace::new(5 * 256 * 10);
        assert!(pace.due(0..9).next().is_none());
        assert_eq!(pace.due(9..10).collect::<Vec<_>>(), [Due::Sweep]);
        assert_eq!(pace.due(2_559..2_560).collect::<Vec<_>>(), [Due::Tick]);
        assert_eq!(pace.due(2_000..2_585).collect::<Vec<_>>(), [Due::Tick, Due::Sweep, Due::Sweep]);
        assert_eq!(pace.due(0..1_000_000).filter(|due| *due == Due::Tick).count(), 1);
        let all: Vec<Due> = (0..100_000).step_by(100).flat_map(|at| pace.due(at..at + 100)).collect();
        assert_eq!(all.iter().filter(|due| **due == Due::Tick).count(), 100_000 / 2_560);
        // Exactly so long, whatever the number of steps makes of it.
        let ticks = |samples: u64| {
            let all = (0..1_281_000).step_by(10).flat_map(|at| Pace::new(samples).due(at..at + 10));
            all.filter(|due| *due == Due::Tick).count() as u64
        };
        assert_eq!((ticks(1_280), ticks(1_281), ticks(2_560)), (5_003, 5_000, 2_501));
        // Shorter than a batch: a tick a batch.
        assert_eq!(Pace::new(1).due(0..1_000).filter(|due| *due == Due::Tick).count(), 1);
    }
}
