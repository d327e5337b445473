//! When a job publishes: what is learned, for those who ask now, and versions that stay.
//!
//! In: what was learned, the clock, and what guards say. Out: deltas for the serving side, versions in the registry, or why
//! there is none. Nothing that is learned depends on it.

use tidemill_base::{Kind, Result};
use tidemill_serve::registry::{Outcome, Verdict};
use tidemill_train::Health;

use std::time::Duration;

use super::{Job, RETRY_DISK_EVERY, millis};
use crate::engine::Compare;

impl Job {
    /// What is to be published at the end of a run.
    pub(super) fn publish_last(&mut self, bounded: bool) -> Result<()> {
        if (bounded && self.nothing_usable().is_none()) || self.has_learned_more() {
            self.publish_version()?;
        }
        self.publish_live()
    }

    /// A version that is due by the number of samples.
    pub(super) fn publish_counted(&mut self) -> Result<()> {
        match self.spec.publish_every {
            Some(every) if self.rows_learned() - self.version_rows >= every => self.try_publish_version(),
            _ => Ok(()),
        }
    }

    /// A version that is due by the clock.
    pub(super) fn publish_in_time(&mut self, now: Duration) -> Result<()> {
        let is_due = now - self.timing.versioned >= millis(self.spec.publish_interval_ms);
        if is_due && self.has_learned_more() { self.try_publish_version() } else { Ok(()) }
    }

    pub(super) fn publish_live(&mut self) -> Result<()> {
        self.timing.published = self.clock.elapsed();
        let Some(live) = &self.live else { return Ok(()) };
        self.engine.publish(live, self.version)?;
        if let Some((at, ts)) = self.timing.pace
            && let Some(read_to) = self.read_to()
        {
            let now_ms = ts as f64 + (self.clock.elapsed() - at).as_secs_f64() * 1e3;
            self.timing.staleness_ms = Some((now_ms - read_to as f64).max(0.0));
        }
        Ok(())
    }

    /// Publishes, unless the disk is full: that is said and tried again, while learning and serving go on.
    pub(super) fn try_publish_version(&mut self) -> Result<()> {
        let now = self.clock.elapsed();
        if self.timing.disk_full.is_some_and(|at| now - at < RETRY_DISK_EVERY) {
            return Ok(());
        }
        match self.publish_version() {
            Err(e) if e.kind() == Kind::Exhausted => {
                self.timing.disk_full = Some(now);
                self.not_published = Some(format!("version not published: {e}; trying again"));
                Ok(())
            }
            other => {
                self.timing.disk_full = None;
                other
            }
        }
    }

    /// Writes what is learned as a version, unless the last version is just that, or the learner diverges: then the last
    /// good version stays, and learning goes on.
    pub(super) fn publish_version(&mut self) -> Result<()> {
        self.timing.versioned = self.clock.elapsed();
        self.engine.line.learning.settle()?;
        let health = self.engine.line.learning.trainer().validation().health().clone();
        if let Health::Diverging { why } = health {
            self.not_published = Some(format!("version not published: the learner diverges: {why}"));
            self.version_rows = self.rows_learned();
            return Ok(());
        }
        let mini_batch = self.engine.mini_batch_number();
        if let Some(last) = self.registry.list().into_iter().rev().find(|v| v.mini_batch == mini_batch)
            && last.fingerprint == self.bound.fingerprint
            && last.state_hash == self.engine.state_hash()?
        {
            // A run that was killed behind it has published it, and the checkpoint before does not know.
            self.engine.line.learning.trainer().version_published();
            (self.version, self.version_rows) = (last.version, self.rows_learned());
            self.not_published = None;
            return Ok(());
        }
        if self.is_held()? {
            return Ok(());
        }
        // What leaves the engine waits until the records it depends on are durable.
        self.journal.sync()?;
        let version = self.registry.next_version();
        self.engine.version(&self.registry, version, self.bound.fingerprint, self.clock.wall_ms())?;
        // Replicas have exactly this when they are told that it is a version.
        self.publish_live()?;
        if let Some(live) = &self.live {
            live.published(version, self.registry.manifest_text(version)?);
        }
        let keep_since_ms = self.spec.publish_keep_for_ms.map_or(i64::MIN, |age| self.clock.wall_ms() - age);
        self.registry.retain_since(self.spec.publish_keep, keep_since_ms)?;
        (self.version, self.version_rows) = (version, self.rows_learned());
        Ok(())
    }

    /// Whether the gate holds what is learned now. Then that is told, and stays told; learning goes on.
    pub(super) fn is_held(&mut self) -> Result<bool> {
        let summary = self.engine.line.learning.trainer().validation().summary();
        let beside_live = self.engine.line.compared().and_then(Compare::take_quality);
        let Some(why) = self.gate.why_held(&summary, beside_live.as_ref()) else {
            self.not_published = None;
            return Ok(false);
        };
        let version = self.registry.next_version();
        let told = format!("{why}: version {version} not published");
        let last = self.registry.routing().verdicts.pop();
        // Once for each version that was held, however often it is tried.
        if !last.is_some_and(|last| last.version == version && last.outcome == Outcome::Held) {
            let verdict = Verdict { at_ms: self.clock.wall_ms(), version, outcome: Outcome::Held, reason: why };
            self.registry.reroute(|routing| routing.tell(verdict))?;
        }
        self.not_published = Some(told);
        self.version_rows = self.rows_learned();
        Ok(true)
    }
}
