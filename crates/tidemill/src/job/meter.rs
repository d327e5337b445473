//! What the time of a job goes into, and how fast its steps are.
//!
//! In: the clock's elapsed time at each turn of the job's loop, with what was done since the turn before; counts of the steps,
//! now and then. Out: for each source what it waited for, since the job began and lately, and rates. Nothing is decided by
//! any of it, and nothing of it is stored.

use std::time::Duration;

use tidemill_stream::flow::Held;

use crate::steps::{Step, Wait};

/// What the loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Read, widened, merged and cut.
    Reading,
    /// Took a mini-batch through views, join and features.
    Line,
    /// Waited for the learner, or learned.
    Learner,
    /// Waited for a sink that takes nothing more.
    Sinks,
    /// Wrote to the journal, or waited for a full disk.
    Journal,
    /// Published, wrote checkpoints, showed figures.
    Publishing,
    /// Waited until a paced stream's next mini-batch was due.
    Pace,
    /// Waited because nothing was there.
    Nothing,
}

/// Names of the phases, then of what holds up one source alone.
const WAITS: [&str; 10] =
    ["reading", "line", "learner", "sinks", "journal", "publishing", "pace", "nothing", "max_drift", "server_away"];
const NOTHING: usize = 7;
const DRIFT: usize = 8;
const AWAY: usize = 9;

/// Figures are of at least this long.
const LATELY: Duration = Duration::from_secs(1);
/// How often it is looked what holds sources up.
const LOOK_EVERY: Duration = Duration::from_millis(5);

type Times = [Duration; WAITS.len()];

/// See the file's header.
#[derive(Default)]
pub(super) struct Meter {
    at: Duration,
    /// Of this turn of the loop.
    turn: Times,
    looked: Duration,
    held: Vec<Held>,
    sources: Vec<Times>,
    /// As it was when the figures shown were made.
    since: Duration,
    sources_before: Vec<Times>,
    steps_before: Vec<(u64, u64)>,
    shares: Vec<[f64; WAITS.len()]>,
    per_second: Vec<(f64, f64)>,
}

impl Meter {
    /// Begins to measure.
    pub fn begin(&mut self, now: Duration, sources: usize) {
        (self.at, self.since) = (now, now);
        self.sources.resize(sources, Times::default());
        self.sources_before = self.sources.clone();
        self.held = vec![Held::No; sources];
    }

    /// What was done since the last call.
    pub fn lap(&mut self, now: Duration, phase: Phase) {
        self.turn[phase as usize] += now.saturating_sub(self.at);
        self.at = now;
    }

    /// Of the time that went into `from` just now, this was spent on something else.
    pub fn part(&mut self, from: Phase, part: Duration, phase: Phase) {
        let part = part.min(self.turn[from as usize]);
        self.turn[from as usize] -= part;
        self.turn[phase as usize] += part;
    }

    /// A turn of the loop is over.
    pub fn turn(&mut self, held: impl Fn(usize) -> Held) {
        if self.at.saturating_sub(self.looked) >= LOOK_EVERY {
            self.looked = self.at;
            self.held.iter_mut().enumerate().for_each(|(i, one)| *one = held(i));
        }
        let turn = std::mem::take(&mut self.turn);
        let all: Duration = turn.iter().sum();
        for (source, held) in self.sources.iter_mut().zip(&self.held) {
            match held {
                Held::No => source.iter_mut().zip(turn).for_each(|(total, time)| *total += time),
                Held::Silent => source[NOTHING] += all,
                Held::Drift => source[DRIFT] += all,
                Held::Away => source[AWAY] += all,
                Held::Ended => {}
            }
        }
    }

    /// Takes note of the counts, once a second.
    pub fn note(&mut self, now: Duration, steps: &[Step]) {
        let counts = || steps.iter().map(|s| (s.rows_in.0, s.rows_out.0)).collect::<Vec<_>>();
        if self.steps_before.len() != steps.len() {
            self.steps_before = counts();
            return;
        }
        let over = now.saturating_sub(self.since);
        if over < LATELY {
            return;
        }
        let (seconds, counts) = (over.as_secs_f64(), counts());
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let of = |(now, before): (&(u64, u64), &(u64, u64))| (rate(now.0, before.0), rate(now.1, before.1));
        self.per_second = counts.iter().zip(&self.steps_before).map(of).collect();
        let share = |(now, before): (&Times, &Times)| -> [f64; WAITS.len()] {
            std::array::from_fn(|i| now[i].saturating_sub(before[i]).as_secs_f64() / seconds)
        };
        self.shares = self.sources.iter().zip(&self.sources_before).map(share).collect();
        (self.since, self.steps_before, self.sources_before) = (now, counts, self.sources.clone());
    }

    /// Gives steps their rates, and those that are sources (by their order) what they waited for.
    pub fn tell(&self, steps: &mut [Step]) {
        steps.iter_mut().zip(&self.per_second).for_each(|(step, rate)| step.per_second = *rate);
        let sources = steps.iter_mut().filter(|step| step.step == "source");
        for (i, (step, totals)) in sources.zip(&self.sources).enumerate() {
            let shares = self.shares.get(i).copied().unwrap_or_default();
            let wait = |i: usize| Wait { what: WAITS[i], total: totals[i], share: shares[i].min(1.0) };
            step.waits = (0..WAITS.len()).map(wait).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn shares(step: &Step) -> Vec<(&'static str, f64)> {
        step.waits.iter().filter(|w| w.share > 0.0).map(|w| (w.what, w.share)).collect()
    }

    /// A turn's time belongs to what the loop did, unless the source was held up by itself: then all of it is that.
    #[test]
    fn a_source_waits_for_what_the_loop_did_or_for_what_holds_it_up() {
        let mut meter = Meter::default();
        meter.begin(at(0), 4);
        let mut steps: Vec<Step> = ["a", "b", "c", "d"].map(|name| Step::new("source", name)).into();
        meter.note(at(0), &steps);
        meter.lap(at(300), Phase::Reading);
        meter.lap(at(900), Phase::Line);
        meter.part(Phase::Line, at(400), Phase::Learner);
        meter.lap(at(1_000), Phase::Nothing);
        meter.turn(|source| [Held::No, Held::Drift, Held::Away, Held::Ended][source]);
        (steps[0].rows_in.0, steps[0].rows_out.0) = (500, 400);
        meter.note(at(1_000), &steps);
        meter.tell(&mut steps);
        assert_eq!(shares(&steps[0]), [("reading", 0.3), ("line", 0.2), ("learner", 0.4), ("nothing", 0.1)]);
        assert_eq!(shares(&steps[1]), [("max_drift", 1.0)]);
        assert_eq!(shares(&steps[2]), [("server_away", 1.0)]);
        assert_eq!(shares(&steps[3]), []);
        assert_eq!(steps[0].per_second, (500.0, 400.0));
        // Until a second has passed what was told stays.
        steps[0].rows_in.0 = 600;
        meter.note(at(1_500), &steps);
        meter.tell(&mut steps);
        assert_eq!(steps[0].per_second, (500.0, 400.0));
        meter.note(at(2_000), &steps);
        meter.tell(&mut steps);
        assert_eq!((steps[0].per_second, shares(&steps[0])), ((100.0, 0.0), vec![]));
    }
}
