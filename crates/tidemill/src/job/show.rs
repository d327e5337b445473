//! What a job tells of itself: to whoever watches, and to its directory.
//!
//! In: where its engine, its sinks and its versions stand. Out: a status, and the page made of it. Nothing is decided by it.

use std::time::Duration;

use tidemill_serve::registry::Outcome;
use tidemill_stream::window::END_OF_TIME;
use tidemill_train::Summary;

use super::{Job, Watcher, inputs::drifts, kept_status, picture, picture::Shown, versions_json};
use crate::status::{Point, Status};

/// How often the figures are written into the job's directory, for `tidemill jobs`.
const KEEP_STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often the page's curves get a point.
const NOTE_EVERY: Duration = Duration::from_millis(250);

impl Job {
    /// Hands where it stands to the watcher.
    pub fn show(&mut self, watcher: &mut dyn Watcher, state: &str) {
        let mut status = self.told(state);
        let mut page = status.to_page(&self.history, versions_json(&self.registry));
        let mut beside = Vec::new();
        for member in &mut self.members {
            let of_member = member.told(state);
            beside.push(of_member.to_page(&member.history, versions_json(&member.registry)));
            status.beside.push(of_member);
        }
        if !beside.is_empty() {
            page["beside"] = beside.into();
        }
        watcher.show(&status, page);
    }

    /// Where its model stands; also told to its directory.
    pub(super) fn told(&mut self, state: &str) -> Status {
        let state = &self.stopped().map_or_else(|| state.to_string(), |why| format!("stopped: {why}"));
        let now = self.clock.elapsed();
        let events = self.engine.line.counts().events;
        let (since, before, _) = self.timing.rate;
        if now - since >= Duration::from_secs(1) {
            self.timing.rate = (now, events, (events - before) as f64 / (now - since).as_secs_f64());
        }
        let summary = self.summary();
        let mut status = self.status(state, summary);
        self.meter.note(now, &status.steps.all);
        self.meter.tell(&mut status.steps.all);
        if now - self.timing.noted >= NOTE_EVERY && status.summary.recent.samples > 0 {
            self.timing.noted = now;
            self.history.add(Point {
                t_ms: status.watermark_ms.unwrap_or((now - self.timing.started).as_millis() as i64),
                logloss: status.summary.recent.logloss,
                best: status.summary.recent.best_logloss,
                events_per_s: status.events_per_s,
                staleness_ms: status.staleness_ms,
                auc: status.summary.recent.auc,
            });
        }
        if state != "learning" || self.timing.status_kept.is_none_or(|at| now - at >= KEEP_STATUS_EVERY) {
            self.timing.status_kept = Some(now);
            kept_status::keep(&self.dir, &status.to_job(self.clock.wall_ms()));
        }
        status
    }

    /// The figures of its predictions. They sort a window of them, which whoever predicts on the same core would wait for ten
    /// times a second: they are made anew when something was learned or published.
    fn summary(&mut self) -> Summary {
        let at = (self.engine.mini_batch_number(), self.version);
        match &self.figures {
            Some((of, summary)) if *of == at => summary.clone(),
            _ => {
                let summary = self.engine.line.learning.trainer().validation().summary();
                self.figures.insert((at, summary)).1.clone()
            }
        }
    }

    pub(super) fn status(&self, state: &str, summary: Summary) -> Status {
        let has_time = self.watermark > 0 && self.watermark < END_OF_TIME;
        let trainer = self.engine.line.learning.trainer();
        let train = trainer.stats();
        let mut steps = picture::steps(&Shown {
            job: &self.bound,
            engine: &self.engine,
            train: &train,
            awaiting: trainer.validation().pending() as u64,
            scored: summary.overall.samples,
            validation_bytes: trainer.validation().bytes() as u64,
            version: self.version,
            versions: self.registry.list().len() as u64,
            staleness_ms: self.timing.staleness_ms,
            sinks: self.sinks.status(),
        });
        self.meter.tell(&mut steps.all);
        let join = self.engine.line.join_state().unwrap_or_default();
        Status {
            state: state.to_string(),
            model: self.bound.model.clone(),
            version: self.version,
            mini_batch: self.engine.mini_batch_number(),
            pass: (self.engine.pass(), self.spec.passes),
            pass_losses: trainer.pass_losses().to_vec(),
            group_names: self.engine.line.group_names(),
            pass_rate: self.timing.pass_rate,
            events_per_s: self.timing.rate.2,
            counts: self.engine.line.counts(),
            join: self.engine.line.join_counts(),
            views: self.engine.line.views().map_or(Vec::new(), |views| {
                views.views().iter().map(|v| (v.name().to_string(), v.counts(), v.keys(), v.bytes())).collect()
            }),
            pending: (join.open, join.bytes()),
            steps,
            turned_away: self.turned_away.count(),
            awaiting_score: trainer.validation().pending(),
            summary,
            train,
            staleness_ms: self.timing.staleness_ms,
            watermark_ms: if has_time { Some(self.watermark) } else { self.read_to().filter(|t| *t > 0) },
            newest_ms: self.read_to().filter(|t| *t > 0),
            drift_ms: drifts(&self.bound, self.read_to()),
            state_hash: None,
            sinks: self.sinks.status(),
            warning: self.warnings(),
            is_stopped: self.stopped().is_some(),
            beside: Vec::new(),
        }
    }

    pub(super) fn warnings(&self) -> Option<String> {
        let trouble = self.engine.sequencer.trouble().map(|(first, partitions)| match partitions {
            1 => first,
            n => format!("{first} ({n} partitions wait)"),
        });
        let sinks = self.sinks.trouble();
        let rolled_back = self.registry.routing().verdicts.pop().filter(|v| v.outcome == Outcome::RolledBack);
        let rolled_back = rolled_back.map(|v| format!("version {} was rolled back: {}", v.version, v.reason));
        let stopped = |job: &Self| job.stopped().map(|why| format!("model '{}' has stopped: {why}", job.bound.model));
        let stopped = self.is_together().then(|| self.models().filter_map(stopped).collect::<Vec<_>>().join("; "));
        let stopped = stopped.filter(|models| !models.is_empty());
        let all: Vec<&str> =
            [&stopped, &self.warning, &self.not_published, &self.not_saved, &trouble, &sinks, &rolled_back]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
