//! A job's side of its sinks: from which checkpoint it may go on, and what it does while they are behind.
//!
//! In: what checkpoints and sinks say of how far rows have come. Out: the newest checkpoint behind which nothing is missing
//! anywhere. A sink that was added later has had nothing: then the job is derived again from its journal's beginning, and the
//! sink gets every row.

use std::time::Duration;

use tidemill_base::{Error, Result};

use super::{Checkpoint, Checkpoints, Ending, Job, Watcher};
use crate::{
    signal::Signal,
    sinks::{self, Sinks, States},
};

/// How long a job that was asked to stop waits for sinks that take nothing.
const STOP_WAITS: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What of a checkpoint the engine wrote, and what it says of sinks.
pub(super) fn parts<'a>(sinks: &Sinks, checkpoint: &'a Checkpoint) -> Result<(&'a [u8], States)> {
    if sinks.is_empty() { Ok((checkpoint.body(), States::new())) } else { sinks::split(checkpoint.body()) }
}

/// Lets checkpoints go from which the job cannot go on with these sinks, and says so. Those that are damaged stay, for the
/// one who reads them to find.
pub(super) fn forget_unusable(checkpoints: &Checkpoints, sinks: &Sinks, base: u64) -> Result<Option<String>> {
    let (mut unusable, mut is_left) = (Vec::new(), false);
    for mini_batch in checkpoints.list().into_iter().rev() {
        let is_usable = match checkpoints.is_of_this_program(mini_batch) {
            Ok(true) if sinks.is_empty() => true,
            Ok(true) => match checkpoints.read(mini_batch).and_then(|c| Ok((c.streamed()?, parts(sinks, &c)?.1))) {
                Ok((streamed, states)) => sinks.can_resume(streamed, &states),
                Err(_) => continue,
            },
            Ok(false) => false,
            Err(_) => continue,
        };
        if is_usable {
            is_left = true;
            break;
        }
        unusable.push(mini_batch);
    }
    if base > 0 && !is_left && !unusable.is_empty() {
        return Err(Error::conflict(format!(
            "the sinks are not those of the run before, or have lost what they had: samples would be derived again, and the \
             journal begins behind mini-batch {base} (journal.keep = 'checkpoints'); put the sinks back as they were, or start \
             again with --from-scratch"
        )));
    }
    unusable.iter().try_for_each(|mini_batch| checkpoints.forget(*mini_batch))?;
    let why = "the sinks are not those of the run before, or have lost what they had: samples are derived again from the journal";
    Ok((!unusable.is_empty()).then(|| why.to_string()))
}

impl Job {
    /// Waits while a sink is as far behind as it may be, and says so.
    pub(super) fn wait_for_sinks(&mut self, signal: &Signal, watcher: &mut dyn Watcher) -> Result<()> {
        let mut since_shown = Duration::MAX;
        while let Some(why) = self.sinks.waits_for() {
            self.sinks.failure()?;
            if signal.is_stopped() {
                break;
            }
            if since_shown >= super::SHOW_EVERY {
                self.show(watcher, &format!("waiting: {why}"));
                since_shown = Duration::ZERO;
            }
            self.step_save();
            signal.wait(LOOK_EVERY);
            since_shown = since_shown.saturating_add(LOOK_EVERY);
        }
        self.sinks.failure()
    }

    /// At the end of a run: waits until everything is delivered, and lets it be seen. `false`: it was asked to stop, and a
    /// sink takes nothing.
    pub(super) fn drain_sinks(&mut self, ending: Ending, signal: &Signal, watcher: &mut dyn Watcher) -> Result<bool> {
        if self.sinks.is_empty() {
            return Ok(true);
        }
        self.engine.line.learning.settle()?;
        let is_there = self.wait_until_drained(ending, signal, watcher)?;
        if is_there {
            self.sinks.show(self.engine.sequencer.mini_batch());
            return self.wait_until_drained(ending, signal, watcher);
        }
        Ok(false)
    }

    fn wait_until_drained(&mut self, ending: Ending, signal: &Signal, watcher: &mut dyn Watcher) -> Result<bool> {
        let mut waited = Duration::ZERO;
        while !self.sinks.is_drained() {
            self.sinks.failure()?;
            if (ending == Ending::Stopped || signal.is_stopped()) && waited >= STOP_WAITS {
                self.sinks.abandon();
                return Ok(false);
            }
            if waited.as_millis().is_multiple_of(200)
                && let Some(trouble) = self.sinks.trouble()
            {
                self.show(watcher, &format!("waiting: {trouble}"));
            }
            std::thread::park_timeout(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
        self.sinks.failure().map(|()| true)
    }

    /// The end of a run whose sinks have not taken everything: no checkpoint may say that they have.
    pub(super) fn end_undelivered(&mut self) -> Result<()> {
        let waiting: u64 = self.sinks.status().iter().map(|s| s.waiting).sum();
        let trouble = self.sinks.trouble().unwrap_or_else(|| "a sink is slow".into());
        self.warning = Some(format!("{trouble}; {waiting} samples were not delivered and will be at the next start"));
        if let Some(Err(e)) = self.saver.finished() {
            self.not_saved(&e);
        }
        self.journal.sync()
    }
}

/// The error of a checkpoint from which sinks cannot go on, though an older one had to be taken.
pub(super) fn check_resumable(sinks: &Sinks, checkpoint: &Checkpoint) -> Result<()> {
    let states = parts(sinks, checkpoint)?.1;
    match sinks.is_empty() || sinks.can_resume(checkpoint.streamed()?, &states) {
        true => Ok(()),
        false => Err(Error::corrupt("a sink has not all rows up to it")),
    }
}
