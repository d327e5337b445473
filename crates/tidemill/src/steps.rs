//! The line as a picture: the steps a job has, what went through each, and which hands on to which.
//!
//! In: counts that the steps keep by themselves, and what [`crate::job`] has seen of time: rates, and what sources wait for.
//! Out: the same as JSON for the page, as Prometheus' text, and as a table. Nothing here counts or changes anything.

use std::{fmt::Write, time::Duration};

use serde_json::{Map, Value, json};
use tidemill_base::thousands;
use tidemill_stream::flow::{LATENESS_BOUNDS_MS, Lateness};

/// One step of a job: a box of the picture.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What it does: `source`, `window`, `view`, `join`, `features`, `learner`, `publish`, `sink`.
    pub step: &'static str,
    /// Which of them it is.
    pub name: String,
    /// What came in since the stream began, and what that is.
    pub rows_in: (u64, &'static str),
    /// What went out, and what that is.
    pub rows_out: (u64, &'static str),
    /// What came in and did not go on, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// What waits in it, and what that is.
    pub pending: Option<(u64, &'static str)>,
    /// Bytes it holds, by what they are for.
    pub state: Vec<(&'static str, u64)>,
    /// No more events up to this time are expected, epoch milliseconds.
    pub watermark_ms: Option<i64>,
    /// How late its events were.
    pub lateness: Option<Lateness>,
    /// What it has waited for since the job began, and for which share of the last second or so.
    pub waits: Vec<Wait>,
    /// What else is to be said.
    pub notes: Vec<(&'static str, String)>,
    /// A second, lately: in and out.
    pub per_second: (f64, f64),
}

/// Time that went into one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    /// What was waited for.
    pub what: &'static str,
    /// Since the job began.
    pub total: Duration,
    /// Of the last second or so.
    pub share: f64,
}

/// Shares below this are not told.
const SHARE_MIN: f64 = 0.005;

/// All steps of a job, in the order of the line.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// The boxes.
    pub all: Vec<Step>,
    /// From which to which rows go, by place in `all`.
    pub edges: Vec<(usize, usize)>,
}

impl Step {
    /// A step that has seen nothing.
    pub fn new(step: &'static str, name: impl Into<String>) -> Self {
        Self { step, name: name.into(), rows_in: (0, "rows"), rows_out: (0, "rows"), ..Self::default() }
    }

    /// All bytes it holds.
    pub fn state_bytes(&self) -> u64 {
        self.state.iter().map(|s| s.1).sum()
    }

    /// Everything that did not go on.
    pub fn dropped_count(&self) -> u64 {
        self.dropped.iter().map(|d| d.1).sum()
    }

    /// What it waits for most, beside having nothing to do: back-pressure.
    pub fn most_waited(&self) -> Option<&Wait> {
        let held_up = self.waits.iter().filter(|wait| wait.share >= SHARE_MIN && !is_free(wait.what));
        held_up.max_by(|a, b| a.share.total_cmp(&b.share))
    }

    /// The share of time in which it was held up by something behind it, by a bound or by its server.
    pub fn back_pressure(&self) -> f64 {
        self.waits.iter().filter(|wait| !is_free(wait.what)).map(|wait| wait.share).sum::<f64>().min(1.0)
    }

    fn to_json(&self) -> Value {
        let by_name = |pairs: &[(&'static str, u64)]| -> Map<String, Value> {
            pairs.iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_string(), json!(n))).collect()
        };
        let rate = |x: f64| json!((x * 10.0).round() / 10.0);
        let mut json = json!({
            "step": self.step, "name": self.name,
            "in": self.rows_in.0, "in_unit": self.rows_in.1, "out": self.rows_out.0, "out_unit": self.rows_out.1,
            "in_per_s": rate(self.per_second.0), "out_per_s": rate(self.per_second.1),
            "dropped": by_name(&self.dropped), "state": by_name(&self.state), "state_bytes": self.state_bytes(),
        });
        if let Some((pending, unit)) = self.pending {
            json["pending"] = pending.into();
            json["pending_unit"] = unit.into();
        }
        if let Some(watermark_ms) = self.watermark_ms {
            json["watermark_ms"] = watermark_ms.into();
        }
        if let Some(lateness) = &self.lateness {
            json["lateness"] = json!({
                "bounds_ms": LATENESS_BOUNDS_MS, "counts": lateness.counts(),
                "p50_ms": lateness.quantile_ms(0.5), "p99_ms": lateness.quantile_ms(0.99), "max_ms": lateness.max_ms(),
            });
        }
        if !self.waits.is_empty() {
            let told = self.waits.iter().filter(|wait| wait.share >= SHARE_MIN);
            let share = |wait: &Wait| (wait.what.to_string(), json!((wait.share * 1e3).round() / 1e3));
            json["waits"] = Value::Object(told.map(share).collect());
            json["back_pressure"] = json!((self.back_pressure() * 1e3).round() / 1e3);
        }
        if !self.notes.is_empty() {
            json["notes"] = self.notes.iter().map(|(name, text)| json!([name, text])).collect();
        }
        json
    }
}

/// Whether a source that does this is held up by nothing: it reads, it is not yet time, or there is nothing to read.
fn is_free(what: &str) -> bool {
    matches!(what, "reading" | "pace" | "nothing")
}

impl Steps {
    /// For the page and `tidemill jobs`.
    pub fn to_json(&self) -> Value {
        json!({
            "steps": self.all.iter().map(Step::to_json).collect::<Vec<_>>(),
            "edges": self.edges.iter().map(|(from, to)| json!([from, to])).collect::<Vec<_>>(),
        })
    }

    /// What was counted, of steps whose counts follow from the events alone: the same however often a run was killed.
    pub fn to_counts(&self) -> Value {
        let counted = self.all.iter().filter(|step| !["publish", "sink"].contains(&step.step)).map(|step| {
            let dropped = step.dropped.iter().filter(|d| d.1 > 0);
            let dropped: Map<String, Value> = dropped.map(|(why, n)| (why.to_string(), json!(n))).collect();
            let mut json = json!({
                "step": step.step, "name": step.name, "in": step.rows_in.0, "out": step.rows_out.0, "dropped": dropped,
            });
            if let Some(lateness) = &step.lateness {
                json["lateness_ms"] = json!({
                    "p50": lateness.quantile_ms(0.5), "p99": lateness.quantile_ms(0.99), "max": lateness.max_ms(),
                    "sum": lateness.sum_ms(),
                });
            }
            json
        });
        counted.collect()
    }

    /// Prometheus' text.
    pub fn to_metrics(&self, model: &str, out: &mut String) {
        let of = |step: &Step| format!("model=\"{model}\",step=\"{}\",name=\"{}\"", step.step, step.name);
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP tidemill_step_{name} {help}\n# TYPE tidemill_step_{name} {kind}");
        };
        head(out, "in_total", "counter", "What came into a step.");
        for step in &self.all {
            let _ = writeln!(out, "tidemill_step_in_total{{{}}} {}", of(step), step.rows_in.0);
        }
        head(out, "out_total", "counter", "What a step handed on.");
        for step in &self.all {
            let _ = writeln!(out, "tidemill_step_out_total{{{}}} {}", of(step), step.rows_out.0);
        }
        head(out, "dropped_total", "counter", "What came into a step and did not go on, by reason.");
        for step in &self.all {
            for (reason, count) in &step.dropped {
                let _ = writeln!(out, "tidemill_step_dropped_total{{{},reason=\"{reason}\"}} {count}", of(step));
            }
        }
        head(out, "pending", "gauge", "What waits in a step.");
        for (step, pending) in self.all.iter().filter_map(|step| Some((step, step.pending?))) {
            let _ = writeln!(out, "tidemill_step_pending{{{}}} {}", of(step), pending.0);
        }
        head(out, "state_bytes", "gauge", "Bytes a step holds, by what they are for.");
        for step in &self.all {
            for (what, bytes) in &step.state {
                let _ = writeln!(out, "tidemill_step_state_bytes{{{},of=\"{what}\"}} {bytes}", of(step));
            }
        }
        head(out, "watermark_seconds", "gauge", "Event time up to which a step expects nothing more.");
        for (step, ms) in self.all.iter().filter_map(|step| Some((step, step.watermark_ms?))) {
            let _ = writeln!(out, "tidemill_step_watermark_seconds{{{}}} {}", of(step), ms as f64 / 1e3);
        }
        head(out, "lateness_seconds", "histogram", "Event time behind the largest of the partition before.");
        for (step, lateness) in self.all.iter().filter_map(|step| Some((step, step.lateness.as_ref()?))) {
            let mut below = 0;
            for (i, count) in lateness.counts().iter().enumerate() {
                below += count;
                let end = match i {
                    0 => "0".to_string(),
                    i => LATENESS_BOUNDS_MS.get(i - 1).map_or("+Inf".into(), |ms| (*ms as f64 / 1e3).to_string()),
                };
                let _ = writeln!(out, "tidemill_step_lateness_seconds_bucket{{{},le=\"{end}\"}} {below}", of(step));
            }
            let _ =
                writeln!(out, "tidemill_step_lateness_seconds_sum{{{}}} {}", of(step), lateness.sum_ms() as f64 / 1e3);
            let _ = writeln!(out, "tidemill_step_lateness_seconds_count{{{}}} {below}", of(step));
        }
        head(out, "wait_seconds_total", "counter", "What the time of a source went into.");
        for step in &self.all {
            for wait in &step.waits {
                let (what, seconds) = (wait.what, wait.total.as_secs_f64());
                let _ = writeln!(out, "tidemill_step_wait_seconds_total{{{},on=\"{what}\"}} {seconds}", of(step));
            }
        }
    }
}

/// Bytes for people.
pub fn bytes_in_words(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut x, mut unit) = (bytes as f64, 0);
    while x >= 1024.0 && unit + 1 < units.len() {
        (x, unit) = (x / 1024.0, unit + 1);
    }
    match unit > 0 && x < 10.0 {
        true => format!("{x:.1} {}", units[unit]),
        false => format!("{} {}", thousands(x.round() as u64), units[unit]),
    }
}

/// Event milliseconds for people.
pub fn span_in_words(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(shares: &[(&'static str, f64)]) -> Step {
        let wait = |(what, share): &(&'static str, f64)| Wait { what, total: Duration::ZERO, share: *share };
        Step { waits: shares.iter().map(wait).collect(), ..Step::new("source", "clicks") }
    }

    /// Reading, waiting for the right moment and having nothing to read hold nobody up.
    #[test]
    fn back_pressure_is_what_holds_a_source_up() {
        let step = waits(&[("reading", 0.2), ("pace", 0.1), ("nothing", 0.1), ("learner", 0.35), ("max_drift", 0.25)]);
        assert!((step.back_pressure() - 0.6).abs() < 1e-9);
        assert_eq!(step.most_waited().unwrap().what, "learner");
        assert_eq!(waits(&[("pace", 0.999), ("learner", 0.001)]).most_waited(), None);
    }

    /// Buckets add up towards the last, as Prometheus wants them, and every line names its step.
    #[test]
    fn lateness_is_told_as_a_histogram() {
        let mut step = Step::new("window", "clicks");
        let mut lateness = Lateness::default();
        lateness.observe(&[10, 20, 16], &mut None);
        step.lateness = Some(lateness);
        let mut out = String::new();
        Steps { all: vec![step], edges: Vec::new() }.to_metrics("ctr", &mut out);
        let of = "model=\"ctr\",step=\"window\",name=\"clicks\"";
        for line in [
            format!("tidemill_step_lateness_seconds_bucket{{{of},le=\"0\"}} 2"),
            format!("tidemill_step_lateness_seconds_bucket{{{of},le=\"0.001\"}} 2"),
            format!("tidemill_step_lateness_seconds_bucket{{{of},le=\"0.004\"}} 3"),
            format!("tidemill_step_lateness_seconds_bucket{{{of},le=\"+Inf\"}} 3"),
            format!("tidemill_step_lateness_seconds_sum{{{of}}} 0.004"),
            format!("tidemill_step_lateness_seconds_count{{{of}}} 3"),
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
    }

    #[test]
    fn bytes_and_spans_are_told_in_words() {
        assert_eq!(
            ["0 B", "1,023 B", "1.0 KiB", "10 KiB"],
            [0, 1023, 1024, 10_240].map(bytes_in_words).each_ref().map(String::as_str)
        );
        assert_eq!(
            ["999 ms", "1.0 s", "2 min", "2 h", "2 d"],
            [999, 1_000, 120_000, 7_200_000, 172_800_000].map(span_in_words).each_ref().map(String::as_str)
        );
    }
}
