//! `tidemill jobs`: what is learned in a data directory, and how each step of it does.
//!
//! In: the process that owns the directory, asked over HTTP; where none answers, the figures that each job has kept. Out: a
//! line for each job, or a line for each step of one. A job without an owner that has not said how it ended was killed.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};
use tidemill_base::{
    Clock, Error, Result, SystemClock,
    store::data_dir::{DataDir, check_name},
    thousands,
};

use super::{
    DataDirectory,
    models::{exchange, table},
    run::print_line,
};
use crate::{
    job::kept_status,
    steps::{bytes_in_words, span_in_words},
};

/// Look at training jobs: what they learn, how fast, and what they wait for
#[derive(Args)]
pub(super) struct Jobs {
    /// MODEL: the steps of its line; without it all jobs
    model: Option<String>,
    #[command(flatten)]
    data: DataDirectory,
    /// For each job (or step) one line, a JSON object
    #[arg(long)]
    json: bool,
}

impl Jobs {
    pub fn run(&self) -> Result<()> {
        let root = self.data.directory("jobs", "ask the process that learns there: GET /v1/status, /metrics")?;
        match &self.model {
            Some(model) => {
                check_name("model", model)?;
                let status = job(root, model)?.ok_or_else(|| {
                    Error::not_found(format!("no job '{model}' in {} has told anything yet", root.display()))
                })?;
                self.show_steps(&status)
            }
            None => self.list(root),
        }
    }

    fn list(&self, root: &Path) -> Result<()> {
        let mut names: Vec<String> = std::fs::read_dir(root.join("models"))
            .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        names.sort();
        let jobs = names.iter().filter_map(|name| job(root, name).transpose()).collect::<Result<Vec<_>>>()?;
        if self.json {
            return jobs.iter().try_for_each(|job| print_line(&job.to_string()));
        }
        if jobs.is_empty() {
            return print_line(&format!("no jobs in {}", root.display()));
        }
        let head = ["job", "state", "events/s", "events", "late", "pending", "state bytes", "sources wait for"];
        let mut lines = vec![head.map(str::to_string)];
        lines.extend(jobs.iter().map(job_line));
        print_line(&table(&lines))
    }

    fn show_steps(&self, status: &Value) -> Result<()> {
        if self.json {
            return steps(status).iter().try_for_each(|step| print_line(&step.to_string()));
        }
        print_line(&steps_in_words(status))
    }
}

/// A job as it is told: its line of the list, then its steps; `None` where it has told nothing.
#[doc(hidden)]
pub fn job_in_words(root: &Path, model: &str) -> Result<Option<String>> {
    let told = |status: Value| format!("{}\n{}", table(&[job_line(&status)]), steps_in_words(&status));
    Ok(job(root, model)?.map(told))
}

fn steps_in_words(status: &Value) -> String {
    let head = ["step", "name", "in/s", "out/s", "in", "out", "dropped", "pending", "state", "watermark", "late", ""];
    let mut lines = vec![head.map(str::to_string)];
    lines.extend(steps(status).into_iter().map(step_line));
    format!("{}\n{}", headline(status), table(&lines))
}

/// What is known of a job; `None` where it has told nothing.
fn job(root: &Path, model: &str) -> Result<Option<Value>> {
    if let Some(address) = DataDir::owner_address(root) {
        let reply = exchange(root, &address, "GET", "/v1/status", "")?;
        let mut status = serde_json::from_str(&reply)
            .map(Value::Object)
            .map_err(|e| Error::unavailable(format!("http://{address}/v1/status: no JSON object: {e}")))?;
        let beside = status["beside"].as_array_mut().into_iter().flatten().find(|other| other["model"] == model);
        if let Some(other) = beside.map(Value::take) {
            status = other;
        }
        if status["model"] == model {
            if let Some(status) = status.as_object_mut() {
                // The page's own; nobody reads them here.
                for part in ["history", "versions", "calibration", "drift_ms"] {
                    status.remove(part);
                }
            }
            status["address"] = address.into();
            return Ok(Some(status));
        }
    }
    let Some(mut status) = kept_status::read(&root.join("models").join(model).join("job"))? else { return Ok(None) };
    let has_ended = ["finished", "stopped", "failed"]
        .iter()
        .any(|end| status["state"].as_str().is_some_and(|s| s.starts_with(end)));
    if !has_ended && !DataDir::is_owned(root) {
        status["state"] = "killed".into();
    }
    let as_of_ms = status["as_of_ms"].as_i64().unwrap_or(0);
    status["told_ms_ago"] = json!(SystemClock::new().wall_ms().saturating_sub(as_of_ms).max(0));
    Ok(Some(status))
}

fn steps(status: &Value) -> Vec<&Value> {
    status["line"]["steps"].as_array().map_or(Vec::new(), |steps| steps.iter().collect())
}

fn headline(status: &Value) -> String {
    let text = |name: &str| status[name].as_str().unwrap_or("").to_string();
    let mut out = format!(
        "{}@{} {}: {} events, {} events/s",
        text("model"),
        status["version"],
        text("state"),
        count(&status["events"]),
        count(&status["events_per_s"]),
    );
    match (status["address"].as_str(), status["told_ms_ago"].as_u64()) {
        (Some(address), _) => out.push_str(&format!(", at http://{address}/")),
        (None, Some(ago)) => out.push_str(&format!(", as told {} ago", span_in_words(ago))),
        (None, None) => {}
    }
    if let Some(warning) = status["warning"].as_str() {
        out.push_str(&format!("\nwarning: {warning}"));
    }
    out
}

fn job_line(status: &Value) -> [String; 8] {
    let steps = steps(status);
    let late = steps.iter().filter_map(|step| step["lateness"]["p99_ms"].as_u64()).max();
    let bytes = steps.iter().filter_map(|step| step["state_bytes"].as_u64()).fold(0, u64::saturating_add);
    let waits: Vec<String> = steps
        .iter()
        .filter(|step| step["step"] == "source")
        .filter_map(|step| Some(format!("{}: {}", step["name"].as_str()?, most_waited(step)?)))
        .collect();
    [
        status["model"].as_str().unwrap_or("").to_string(),
        status["state"].as_str().unwrap_or("").to_string(),
        count(&status["events_per_s"]),
        count(&status["events"]),
        late.map_or("-".into(), |ms| format!("99% by {}", span_in_words(ms))),
        count(&status["pending"]),
        bytes_in_words(bytes),
        if waits.is_empty() { "-".into() } else { waits.join(", ") },
    ]
}

fn step_line(step: &Value) -> [String; 12] {
    let text = |name: &str| step[name].as_str().unwrap_or("").to_string();
    let reasons = step["dropped"].as_object().map_or(Vec::new(), |dropped| {
        dropped.iter().map(|(reason, rows)| format!("{} {reason}", count(rows))).collect()
    });
    let pending = match step["pending"].as_u64() {
        None => "-".into(),
        Some(pending) => thousands(pending),
    };
    let bytes = step["state_bytes"].as_u64().unwrap_or(0);
    let mut notes: Vec<String> = step["notes"].as_array().map_or(Vec::new(), |notes| {
        notes.iter().filter_map(|n| Some(format!("{} {}", n[0].as_str()?, n[1].as_str()?))).collect()
    });
    notes.extend(most_waited(step).map(|wait| format!("waits for {wait}")));
    [
        text("step"),
        text("name"),
        count(&step["in_per_s"]),
        count(&step["out_per_s"]),
        count(&step["in"]),
        count(&step["out"]),
        if reasons.is_empty() { "-".into() } else { reasons.join(", ") },
        pending,
        if bytes == 0 { "-".into() } else { bytes_in_words(bytes) },
        step["watermark_ms"].as_i64().map_or("-".into(), time_in_words),
        step["lateness"]["p99_ms"].as_u64().map_or("-".into(), |ms| format!("99% by {}", span_in_words(ms))),
        notes.join("; "),
    ]
}

/// What held a source up most in the last second or so.
fn most_waited(step: &Value) -> Option<String> {
    let free = ["reading", "pace", "nothing"];
    let waits = step["waits"].as_object()?.iter().filter(|(what, _)| !free.contains(&what.as_str()));
    let most = waits.max_by(|a, b| a.1.as_f64().unwrap_or(0.0).total_cmp(&b.1.as_f64().unwrap_or(0.0)))?;
    Some(format!("{} {:.0}%", most.0, most.1.as_f64()? * 100.0))
}

fn count(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |x| thousands(x.round().max(0.0) as u64))
}

/// Epoch milliseconds as a time of day, with its date: `2026-11-21 18:30:00`.
fn time_in_words(ms: i64) -> String {
    let (days, seconds) = (ms.div_euclid(86_400_000), ms.div_euclid(1000).rem_euclid(86_400));
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -u -d @951782400` and so on.
    #[test]
    fn times_are_told_as_calendars_have_them() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
            (1_735_689_599, "2024-12-31 23:59:59"),
        ] {
            assert_eq!(time_in_words(seconds * 1000), text);
        }
    }

    /// Whatever lies where figures are kept: it is told, or refused with the file's name.
    #[test]
    fn kept_figures_that_nobody_wrote_are_no_end_of_the_program() {
        let root = std::env::temp_dir().join(format!("tidemill-jobs-{}", std::process::id()));
        let job = root.join("models/ctr/job");
        std::fs::create_dir_all(&job).unwrap();
        let told = |text: &str| {
            std::fs::write(job.join("status.json"), text).unwrap();
            job_in_words(&root, "ctr")
        };
        for text in ["[]", "3", "\"running\"", "null", "{"] {
            let e = told(text).unwrap_err();
            assert_eq!(e.kind(), tidemill_base::Kind::Corrupt);
            assert!(e.message().contains("status.json"), "{e}");
        }
        let step = format!(r#"{{"step":"source","state_bytes":{}}}"#, u64::MAX);
        let far = format!(r#"{{"as_of_ms":{},"line":{{"steps":[{step},{step}]}}}}"#, i64::MIN);
        assert!(told(&far).unwrap().unwrap().contains("killed"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_holds_a_source_up_most_is_told() {
        let step = json!({"waits": {"reading": 0.5, "learner": 0.3, "line": 0.2}});
        assert_eq!(most_waited(&step).as_deref(), Some("learner 30%"));
        assert_eq!(most_waited(&json!({"waits": {"nothing": 1.0}})), None);
        assert_eq!(most_waited(&json!({})), None);
    }
}
