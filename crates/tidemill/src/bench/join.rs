//! `tidemill bench join`: impressions and delayed clicks become labelled samples, and nothing is learned from them.
//!
//! Each case binds a SQL text and takes the events through steps 1 to 3 of the line, on one thread: read, order, cut, join,
//! SELECT. The samples are counted, and the count is compared with what is known to be right before any speed is told. The
//! ceiling is reading the same bytes once and finding the lines in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tidemill_base::{Clock, Error, Result, SystemClock, codec::Encoder};
use tidemill_connect::Connections;
use tidemill_sql::{Statement, TrainJob};
use tidemill_train::TrainSpec;

use super::{Case, events::Events};
use crate::{
    engine::{Engine, Entries},
    job::{Past, open_partitions},
    program,
    push::PushHub,
};

/// What is to be measured.
pub struct Plan {
    /// Directory with `impressions.csv`, `clicks.csv`, `expect.json` and so on; without one events are made.
    pub data: Option<PathBuf>,
    /// Impressions to make.
    pub rows: u64,
    /// Times each case is run.
    pub rounds: usize,
    /// Only cases whose names contain this.
    pub only: Option<String>,
}

/// How the events lie in their files.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    /// Of the files.
    extension: &'static str,
    /// Impressions and clicks in the same files, in the order in which they arrived.
    merged: bool,
    /// The state is encoded, as for a checkpoint, every second.
    saves: bool,
}

const LAYOUTS: [Layout; 6] = [
    Layout { name: "csv, two files", extension: "csv", merged: false, saves: false },
    Layout { name: "csv, two files, checkpoint every second", extension: "csv", merged: false, saves: true },
    Layout { name: "csv, as they arrived", extension: "csv", merged: true, saves: false },
    Layout { name: "parquet, two files", extension: "parquet", merged: false, saves: false },
    Layout { name: "json lines, two files", extension: "jsonl", merged: false, saves: false },
    Layout { name: "json lines, as they arrived", extension: "jsonl", merged: true, saves: false },
];

/// What came of a run.
struct Joined {
    events: u64,
    samples: u64,
    positives: u64,
    seconds: f64,
    /// The longest stop for a checkpoint.
    longest_save_ms: f64,
}

/// Runs the plan; `tell` hears what is going on.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let scratch = std::env::temp_dir().join(format!("tidemill-bench-join-{}", std::process::id()));
    let cases = measure(plan, &scratch, tell);
    let _ = fs::remove_dir_all(&scratch);
    cases
}

fn measure(plan: &Plan, scratch: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let events = match &plan.data {
        Some(dir) => Events::find(dir)?,
        None => {
            fs::create_dir_all(scratch).map_err(|e| Error::io("create", scratch, e))?;
            tell(&format!("making {} impressions with their clicks", plan.rows));
            Events::make(scratch, plan.rows)?
        }
    };
    let wanted = |layout: &&Layout| plan.only.as_ref().is_none_or(|only| layout.name.contains(only.as_str()));
    let there = |layout: &&Layout| events.dir.join(format!("impressions.{}", layout.extension)).is_file();
    let layouts: Vec<&Layout> = LAYOUTS.iter().filter(wanted).filter(there).collect();
    if layouts.is_empty() {
        let names: Vec<&str> = LAYOUTS.iter().map(|layout| layout.name).collect();
        return Err(Error::not_found(format!(
            "no case has that in its name and its files in {}; cases are {}",
            events.dir.display(),
            names.join("; ")
        )));
    }
    let mut all: Vec<[Case; 3]> = layouts
        .iter()
        .map(|layout| ["events/s", "peak MiB", "longest stop, ms"].map(|unit| Case::new(layout.name, unit)))
        .collect();
    for round in 1..=plan.rounds {
        for (layout, [speed, memory, stop]) in layouts.iter().zip(&mut all) {
            tell(&format!("round {round} of {}: {}", plan.rounds, layout.name));
            let ceiling = events.lines_per_second(layout.merged, layout.extension)?;
            forget_peak();
            let joined = joined(&events, layout)?;
            speed.values.push(joined.events as f64 / joined.seconds);
            speed.ceilings.extend(ceiling);
            memory.values.extend(peak_mib());
            if layout.saves {
                stop.values.push(joined.longest_save_ms);
            }
        }
    }
    Ok(all.into_iter().flatten().filter(|case| !case.values.is_empty()).collect())
}

/// The events in two files of JSON lines, joined and counted: events a second.
pub(super) fn json_lines_per_second(events: &Events) -> Result<f64> {
    let layout = LAYOUTS.iter().find(|layout| layout.extension == "jsonl" && !layout.merged);
    let joined = joined(events, layout.expect("there is such a layout"))?;
    Ok(joined.events as f64 / joined.seconds)
}

/// Takes all events through steps 1 to 3, and counts what came of them.
fn joined(events: &Events, layout: &Layout) -> Result<Joined> {
    let joined = join(events, layout)?;
    if (joined.samples, joined.positives) != (events.impressions, events.positives) {
        return Err(Error::internal(format!(
            "{}: {} samples, {} of them positive, where {} and {} are right",
            layout.name, joined.samples, joined.positives, events.impressions, events.positives
        )));
    }
    Ok(joined)
}

/// Takes all events through steps 1 to 3.
fn join(events: &Events, layout: &Layout) -> Result<Joined> {
    let clock = SystemClock::new();
    let begin = clock.elapsed();
    let job = bind(&program_of(events, layout))?;
    let spec = TrainSpec::from_settings(&job.learner, &job.settings)?;
    let mut engine = Engine::new(&job, &spec, 1)?;
    let push = PushHub::reading(&events.dir);
    open_partitions(&mut engine, &job, &Past::default(), &push, &mut Connections::default(), None)?;
    let mut joined = Joined { events: 0, samples: 0, positives: 0, seconds: 0.0, longest_save_ms: 0.0 };
    let (mut rejected, mut saved) = (Vec::new(), begin);
    while let Some(cut) = engine.sequencer.cut(true, &[])? {
        joined.events += cut.events;
        if let Some(samples) = engine.line.join(&cut, &mut rejected)? {
            let samples = engine.line.select(samples, &mut rejected)?;
            joined.samples += samples.labels.len() as u64;
            joined.positives += samples.labels.iter().filter(|label| **label == 1.0).count() as u64;
        }
        let now = clock.elapsed();
        // The last one, too: a short run has no other.
        if layout.saves && ((now - saved).as_secs_f64() >= 1.0 || cut.is_last) {
            save(&engine)?;
            joined.longest_save_ms = joined.longest_save_ms.max((clock.elapsed() - now).as_secs_f64() * 1e3);
            saved = now;
        }
        if let Some(first) = rejected.first() {
            return Err(Error::internal(format!("{}: {} rejected: {}", layout.name, first.place, first.reason)));
        }
    }
    joined.seconds = (clock.elapsed() - begin).as_secs_f64();
    Ok(joined)
}

/// What a job does for a checkpoint, but for the file: what waits is encoded on a thread beside it.
fn save(engine: &Engine) -> Result<()> {
    let (mut out, mut head) = (Encoder::new(), Encoder::new());
    let (blocks, entries) = std::sync::mpsc::sync_channel(1);
    let leaving = Entries { whole: true, blocks, head: &mut head };
    let rows = engine.begin_checkpoint(leaving, &mut out)?.0;
    std::thread::spawn(move || {
        entries.iter().take_while(|block| !block.is_empty()).for_each(drop);
        rows.map(|rows| rows.encode(&mut out))
    });
    Ok(())
}

pub(super) fn bind(text: &str) -> Result<TrainJob> {
    let job = program::bind(text, &[])?.statements.into_iter().find_map(|statement| match statement {
        Statement::Train(job) => Some(*job),
        _ => None,
    });
    job.ok_or_else(|| Error::internal("the benchmark's program has no TO TRAIN"))
}

fn program_of(events: &Events, layout: &Layout) -> String {
    let with = |file: &str| {
        let format = if layout.extension == "jsonl" { "json" } else { layout.extension };
        let path = events.dir.join(format!("{file}.{}", layout.extension));
        format!("WITH (connector = 'file', path = '{}', format = '{format}')", path.display())
    };
    let time = "rt AS TO_TIMESTAMP_MILLIS(ts), WATERMARK FOR rt AS rt - INTERVAL '10' SECOND";
    let columns = "imp_id BIGINT, user_id BIGINT, item_id BIGINT, ts BIGINT, slot INT, device STRING, geo STRING, \
                   campaign INT, bid DOUBLE, score DOUBLE";
    let sources = match layout.merged {
        false => format!(
            "CREATE SOURCE impressions ({columns}, {time}) {};\n\
             CREATE SOURCE clicks (imp_id BIGINT, user_id BIGINT, ts BIGINT, dwell DOUBLE, {time}) {};",
            with("impressions"),
            with("clicks")
        ),
        true => format!(
            "CREATE SOURCE events (kind INT, event_id BIGINT, {columns}, {time}) {};\n\
             CREATE VIEW impressions AS SELECT imp_id, user_id, item_id, slot, device, geo, campaign, bid, score, rt \
             FROM events WHERE kind = 0;\n\
             CREATE VIEW clicks AS SELECT imp_id, rt FROM events WHERE kind = 1;",
            with("events-p*")
        ),
    };
    format!(
        "{sources}\n\
         SELECT i.user_id, i.item_id, i.slot, i.device, i.geo, i.campaign, i.bid, i.score, \
         (c.imp_id IS NOT NULL) AS clicked\n\
         FROM impressions i LEFT JOIN clicks c\n\
         ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE\n\
         EMIT ON WINDOW CLOSE\n\
         TO TRAIN LogisticRegression COLUMN user_id LABEL clicked INTO bench;\n"
    )
}

/// From here on the peak is counted anew, where the system can.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process has had since.
fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Figures of `expect.json`.
pub(super) fn expected(text: &str, name: &str, place: &Path) -> Result<u64> {
    let expect: Value = serde_json::from_str(text).map_err(|e| Error::invalid(format!("{}: {e}", place.display())))?;
    expect[name].as_u64().ok_or_else(|| Error::invalid(format!("{}: no number '{name}'", place.display())))
}
