//! What a running job shows: the terminal's line, the page's JSON, Prometheus' text and the last line of `--json`.
//!
//! In: one [`Status`], filled in by the job a few times a second. Out: text. Nothing here changes anything.

use std::{collections::VecDeque, fmt::Write, fs};

use serde_json::{Value, json};
use tidemill_base::{StateHash, thousands};
use tidemill_stream::{aggregate::ViewCounts, join::JoinCounts};
use tidemill_train::{Summary, TrainStats};

use crate::{
    engine::LineCounts,
    figures::{self, number},
    sinks::SinkStatus,
    steps::Steps,
};

/// A moment of a job.
#[derive(Clone, Debug)]
pub struct Status {
    /// `restoring`, `learning`, `waiting: ...`, `finished`, `stopped`.
    pub state: String,
    /// The model that is learned.
    pub model: String,
    /// The last published version; 0 before the first.
    pub version: u64,
    /// Mini-batches processed.
    pub mini_batch: u64,
    /// The pass that is going on, from 1, and how many there are.
    pub pass: (u64, u64),
    /// Mean loss of each pass that is over.
    pub pass_losses: Vec<f64>,
    /// Samples a second in passes beyond the first, from kept features.
    pub pass_rate: Option<f64>,
    /// Values that figures are told apart by, by group number from 1.
    pub group_names: Vec<String>,
    /// Events a second over the last second or so; over the whole run at its end.
    pub events_per_s: f64,
    /// Events and refusals.
    pub counts: LineCounts,
    /// The join's counters.
    pub join: JoinCounts,
    /// Of each feature view its name, what it has counted, its keys and its bytes.
    pub views: Vec<(String, ViewCounts, usize, usize)>,
    /// Impressions whose label is not final, and bytes of what waits.
    pub pending: (usize, usize),
    /// The picture of the line.
    pub steps: Steps,
    /// Pushed lines that were not let in, since the process began.
    pub turned_away: u64,
    /// Predictions that wait for their label and are not in the figures yet.
    pub awaiting_score: usize,
    /// How well it predicts.
    pub summary: Summary,
    /// The table.
    pub train: TrainStats,
    /// How old the newest learned event is when its prediction can be read, milliseconds; `None` where nobody paces.
    pub staleness_ms: Option<f64>,
    /// The watermark, epoch milliseconds, once there is one.
    pub watermark_ms: Option<i64>,
    /// The newest event time taken in, epoch milliseconds, once there is one.
    pub newest_ms: Option<i64>,
    /// Event times at which the generator's world changes.
    pub drift_ms: Vec<i64>,
    /// Known once asked for: at a version and at the end.
    pub state_hash: Option<StateHash>,
    /// Where each sink stands.
    pub sinks: Vec<SinkStatus>,
    /// Last warning, if any (a checkpoint that could not be written, say).
    pub warning: Option<String>,
    /// Whether its model has stopped while others, which learn from the same samples, go on.
    pub is_stopped: bool,
    /// Where the models stand that learn beside this one.
    pub beside: Vec<Status>,
}

/// One point of the page's charts.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Event time where there is one, else milliseconds since the start.
    pub t_ms: i64,
    /// Log loss over the recent window.
    pub logloss: f64,
    /// Best possible over the same samples.
    pub best: Option<f64>,
    /// Events a second.
    pub events_per_s: f64,
    /// Staleness, milliseconds.
    pub staleness_ms: Option<f64>,
    /// AUC over the recent window.
    pub auc: f64,
}

/// The charts' points: as many as fit, thinned evenly when they no longer do.
#[derive(Debug)]
pub struct History {
    points: VecDeque<Point>,
    every: u32,
    skipped: u32,
}

const POINTS_MAX: usize = 600;

impl Default for History {
    fn default() -> Self {
        Self { points: VecDeque::new(), every: 1, skipped: 0 }
    }
}

impl History {
    /// Adds a point, or passes it over where older ones were thinned to every second, fourth, ...
    pub fn add(&mut self, point: Point) {
        self.skipped += 1;
        if self.skipped < self.every {
            return;
        }
        self.skipped = 0;
        self.points.push_back(point);
        if self.points.len() > POINTS_MAX {
            let mut i = 0;
            self.points.retain(|_| {
                i += 1;
                i % 2 == 1
            });
            self.every *= 2;
        }
    }

    fn to_json(&self) -> Value {
        self.points
            .iter()
            .map(|p| {
                json!([
                    p.t_ms,
                    number(p.logloss),
                    p.best.map(number),
                    p.events_per_s.round(),
                    p.staleness_ms,
                    number(p.auc)
                ])
            })
            .collect()
    }
}

/// The metrics of several models in one text: each name once, with the lines of all models behind it.
fn together(texts: &[String]) -> String {
    let mut families: Vec<(String, Vec<&str>)> = Vec::new();
    for text in texts {
        let mut family = String::new();
        let mut head = Vec::new();
        for line in text.lines() {
            match line.strip_prefix("# ").and_then(|rest| rest.split(' ').nth(1)) {
                Some(name) => {
                    if family != name {
                        (family, head) = (name.to_string(), Vec::new());
                    }
                    head.push(line);
                }
                None => {
                    let at = families.iter().position(|(name, _)| *name == family).unwrap_or_else(|| {
                        families.push((family.clone(), std::mem::take(&mut head)));
                        families.len() - 1
                    });
                    families[at].1.push(line);
                }
            }
        }
    }
    families.into_iter().flat_map(|(_, lines)| lines).map(|line| format!("{line}\n")).collect()
}

impl Status {
    /// The line a person watches: events/s, samples, log loss beside the best possible, AUC, staleness, version.
    pub fn line(&self) -> String {
        let recent = &self.summary.recent;
        let mut out = format!(
            "{:>9} events/s  {:>11} samples",
            thousands(self.events_per_s as u64),
            thousands(self.summary.overall.samples),
        );
        match recent.samples {
            0 => out.push_str("  no label is final yet"),
            _ => {
                let _ = write!(out, "  {}", figures::words(recent));
            }
        }
        if let Some(ms) = self.staleness_ms {
            let _ = write!(out, "  staleness {ms:.0} ms");
        }
        if self.pass.1 > 1 {
            let _ = write!(out, "  pass {} of {}", self.pass.0, self.pass.1);
        }
        let _ = write!(out, "  version {}", self.version);
        if self.state != "learning" {
            let _ = write!(out, "  [{}]", self.state);
        }
        out
    }

    /// The last line of `--json`.
    pub fn to_summary(&self) -> Value {
        let s = &self.summary;
        let mut out = json!({
            "state": self.state,
            "model": self.model,
            "recent": figures::json(&s.recent),
            "since_version": figures::json(&s.since_version),
            "calibration": figures::calibration(&s.overall),
            "groups": figures::groups(&s.groups, &self.group_names),
            "version": self.version,
            "mini_batch": self.mini_batch,
            "pass": self.pass.0,
            "pass_losses": self.pass_losses.iter().copied().map(number).collect::<Vec<_>>(),
            "state_hash": self.state_hash.map(|h| h.to_string()),
            "events": self.counts.events,
            "events_per_s": self.events_per_s.round(),
            "counters": self.counters(),
            "steps": self.steps.to_counts(),
            "entries": self.train.entries,
            "table_bytes": self.train.bytes,
            "peak_rss_bytes": peak_rss_bytes(),
        });
        if let (Some(out), Value::Object(overall)) = (out.as_object_mut(), figures::json(&s.overall)) {
            out.extend(overall);
        }
        if !self.sinks.is_empty() {
            out["sinks"] = self.sinks.iter().map(SinkStatus::to_json).collect();
        }
        if let Some(rate) = self.pass_rate {
            out["pass_samples_per_s"] = rate.round().into();
        }
        if let Some(one) = figures::one_class(&self.summary) {
            out["one_class"] = one.into();
        }
        if let Some(w) = &self.warning {
            out["warning"] = w.clone().into();
        }
        out
    }

    /// What the page shows.
    pub fn to_page(&self, history: &History, versions: Value) -> Value {
        let s = &self.summary;
        json!({
            "state": self.state,
            "model": self.model,
            "version": self.version,
            "mini_batch": self.mini_batch,
            "events": self.counts.events,
            "events_per_s": self.events_per_s.round(),
            "samples": s.overall.samples,
            "positives": s.overall.positives,
            "logloss": number(s.overall.logloss),
            "best_logloss": s.overall.best_logloss.map(number),
            "recent": figures::json(&s.recent),
            "auc": number(s.overall.auc),
            "calibration": figures::calibration(&s.overall),
            "staleness_ms": self.staleness_ms,
            "event_time_ms": self.watermark_ms,
            "watermark_ms": self.watermark_ms,
            "newest_ms": self.newest_ms,
            "pending": self.pending.0,
            "awaiting_score": self.awaiting_score,
            "counters": self.counters(),
            "entries": self.train.entries,
            "table_bytes": self.train.bytes,
            "rss_bytes": proc_status_bytes("VmRSS:"),
            "drift_ms": self.drift_ms,
            "line": self.steps.to_json(),
            "history": history.to_json(),
            "versions": versions,
            "sinks": self.sinks.iter().map(SinkStatus::to_json).collect::<Value>(),
            "warning": self.warning,
        })
    }

    fn counters(&self) -> Value {
        json!({
            "late": self.join.late_impressions,
            "late_let_in": self.join.late_let_in,
            "late_feedback": self.join.late_feedback,
            "duplicate": self.join.duplicate_impressions,
            "conflicting": self.join.conflicting_impressions,
            "unmatched": self.join.unmatched_feedback,
            "corrections": self.join.corrections,
            "released_early": self.join.released_early,
            "corrections_left_out": self.join.corrections_left_out,
            "negatives_left_out": self.join.negatives_left_out,
            "refused": self.counts.events_refused + self.counts.samples_refused + self.turned_away,
            "keys_not_admitted": self.train.refused_admissions,
            "keys_forgotten": self.train.forgotten,
            "non_finite": self.train.refused_non_finite,
        })
    }

    /// Prometheus' text.
    pub fn to_metrics(&self) -> String {
        match self.beside.is_empty() {
            true => self.own_metrics(),
            false => together(&std::iter::once(self).chain(&self.beside).map(Self::own_metrics).collect::<Vec<_>>()),
        }
    }

    fn own_metrics(&self) -> String {
        let mut out = String::new();
        let mut put = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = writeln!(out, "# HELP tidemill_{name} {help}\n# TYPE tidemill_{name} {kind}");
            let _ = writeln!(out, "tidemill_{name}{{model=\"{}\"}} {value}", self.model);
        };
        let (c, j, s) = (&self.counts, &self.join, &self.summary);
        put("events_total", "counter", "Events let in.", c.events as f64);
        put(
            "model_stopped",
            "gauge",
            "1: the model has stopped while others that learn from the same samples go on.",
            f64::from(u8::from(self.is_stopped)),
        );
        put(
            "events_refused_total",
            "counter",
            "Events refused by a source or while widening.",
            c.events_refused as f64,
        );
        put(
            "samples_refused_total",
            "counter",
            "Sample rows that could not be learned from.",
            c.samples_refused as f64,
        );
        put("sample_rows_total", "counter", "Sample rows learned from, retractions included.", c.sample_rows as f64);
        put("samples_total", "counter", "Impressions with a final label.", s.overall.samples as f64);
        put("positives_total", "counter", "Impressions with a positive final label.", s.overall.positives as f64);
        put("impressions_late_total", "counter", "Impressions behind the watermark.", j.late_impressions as f64);
        put(
            "impressions_late_let_in_total",
            "counter",
            "Impressions behind the watermark by no more than join.allowed_lateness.",
            j.late_let_in as f64,
        );
        put(
            "impressions_duplicate_total",
            "counter",
            "Impressions with a key still known.",
            j.duplicate_impressions as f64,
        );
        put(
            "impressions_conflicting_total",
            "counter",
            "Those of them that said something else than the first.",
            j.conflicting_impressions as f64,
        );
        put(
            "feedback_late_total",
            "counter",
            "Feedback behind the watermark that matched nothing.",
            j.late_feedback as f64,
        );
        put(
            "feedback_unmatched_total",
            "counter",
            "Feedback whose impression never came.",
            j.unmatched_feedback as f64,
        );
        put("corrections_total", "counter", "Early negatives taken back.", j.corrections as f64);
        put(
            "released_early_total",
            "counter",
            "Impressions that left because too many waited, or too many bytes.",
            j.released_early as f64,
        );
        put(
            "corrections_behind_close_total",
            "counter",
            "Samples corrected behind the end of their window.",
            j.corrected_behind_close as f64,
        );
        put(
            "corrections_left_out_total",
            "counter",
            "Matches that came after their sample had left and were not learned.",
            j.corrections_left_out as f64,
        );
        put("negatives_left_out_total", "counter", "Negatives sampled out.", j.negatives_left_out as f64);
        put(
            "feedback_released_total",
            "counter",
            "Feedback that left before its impression because too many bytes waited.",
            j.feedback_released as f64,
        );
        put("pending_impressions", "gauge", "Impressions whose label is not final.", self.pending.0 as f64);
        put("pushed_refused_total", "counter", "Pushed lines that were not let in.", self.turned_away as f64);
        put("predictions_awaiting_score", "gauge", "Predictions whose label is not final.", self.awaiting_score as f64);
        put("pending_bytes", "gauge", "Bytes of what waits in the join.", self.pending.1 as f64);
        put("entries", "gauge", "Entries in the parameter table.", self.train.entries as f64);
        put("table_bytes", "gauge", "Bytes of the parameter table.", self.train.bytes as f64);
        put(
            "keys_not_admitted_total",
            "counter",
            "Feature keys refused by the table's bound.",
            self.train.refused_admissions as f64,
        );
        put(
            "keys_forgotten_total",
            "counter",
            "Entries that left for their age (train.forget_after).",
            self.train.forgotten as f64,
        );
        put(
            "gradients_non_finite_total",
            "counter",
            "Gradients refused because they were not finite.",
            self.train.refused_non_finite as f64,
        );
        put("mini_batch", "gauge", "Mini-batches processed.", self.mini_batch as f64);
        put("version", "gauge", "Last published version.", self.version as f64);
        put("events_per_second", "gauge", "Events a second, lately.", self.events_per_s);
        put("logloss", "gauge", "Progressive log loss over the recent window.", s.recent.logloss);
        put("auc", "gauge", "Progressive AUC over the recent window.", s.recent.auc);
        if let Some(best) = s.recent.best_logloss {
            put("best_logloss", "gauge", "Best possible log loss over the recent window.", best);
        }
        if let Some(ms) = self.staleness_ms {
            put("staleness_milliseconds", "gauge", "Age of the newest learned event when it can be read.", ms);
        }
        put("resident_bytes", "gauge", "Resident memory.", proc_status_bytes("VmRSS:") as f64);
        self.views_to_metrics(&mut out);
        self.steps.to_metrics(&self.model, &mut out);
        self.sinks_to_metrics(&mut out);
        out
    }

    /// What `tidemill jobs` shows, where nobody can be asked.
    pub fn to_job(&self, wall_ms: i64) -> Value {
        json!({
            "state": self.state,
            "model": self.model,
            "version": self.version,
            "mini_batch": self.mini_batch,
            "events": self.counts.events,
            "events_per_s": self.events_per_s.round(),
            "event_time_ms": self.watermark_ms,
            "pending": self.pending.0,
            "line": self.steps.to_json(),
            "warning": self.warning,
            "as_of_ms": wall_ms,
        })
    }

    fn sinks_to_metrics(&self, out: &mut String) {
        type Figure = fn(&SinkStatus) -> u64;
        let figures: [(&str, &str, &str, Figure); 6] = [
            ("rows_total", "counter", "Rows delivered to a sink since the process began.", |s| s.rows),
            ("bytes_total", "counter", "Their bytes.", |s| s.bytes),
            ("refused_total", "counter", "Samples on which an expression of the sink failed.", |s| s.refused),
            ("waiting_rows", "gauge", "Samples that wait for the sink.", |s| s.waiting),
            ("waiting_bytes", "gauge", "Bytes of samples that wait for the sink.", |s| s.waiting_bytes),
            ("away", "gauge", "1 while the sink's place takes nothing.", |s| u64::from(s.is_away)),
        ];
        for (name, kind, help, figure) in figures.iter().filter(|_| !self.sinks.is_empty()) {
            let _ = writeln!(out, "# HELP tidemill_sink_{name} {help}\n# TYPE tidemill_sink_{name} {kind}");
            for sink in &self.sinks {
                let (model, value) = (&self.model, figure(sink));
                let _ = writeln!(out, "tidemill_sink_{name}{{model=\"{model}\",sink=\"{}\"}} {value}", sink.name);
            }
        }
    }

    fn views_to_metrics(&self, out: &mut String) {
        type Figure = fn(&(String, ViewCounts, usize, usize)) -> u64;
        let figures: [(&str, &str, &str, Figure); 8] = [
            ("updates_total", "counter", "Events taken into a feature view.", |v| v.1.updates),
            ("reads_total", "counter", "Impressions that read a feature view.", |v| v.1.reads),
            ("late_total", "counter", "Events older than a window of a feature view still reaches.", |v| v.1.late),
            ("without_key_total", "counter", "Events and reads without the view's key.", |v| v.1.without_key),
            ("keys_expired_total", "counter", "Keys forgotten because they were silent.", |v| v.1.expired),
            ("keys_evicted_total", "counter", "Keys forgotten because there were too many.", |v| v.1.evicted),
            ("keys", "gauge", "Keys in a feature view.", |v| v.2 as u64),
            ("bytes", "gauge", "Bytes of a feature view, once; serving has two more.", |v| v.3 as u64),
        ];
        for (name, kind, help, figure) in figures.iter().filter(|_| !self.views.is_empty()) {
            let _ = writeln!(out, "# HELP tidemill_view_{name} {help}\n# TYPE tidemill_view_{name} {kind}");
            for view in &self.views {
                let (model, value) = (&self.model, figure(view));
                let _ = writeln!(out, "tidemill_view_{name}{{model=\"{model}\",view=\"{}\"}} {value}", view.0);
            }
        }
    }
}

/// The most memory this process has held, in bytes.
pub fn peak_rss_bytes() -> u64 {
    proc_status_bytes("VmHWM:")
}

fn proc_status_bytes(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
