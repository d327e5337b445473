//! `tidemill bench join`: impressions and delayed clicks become labelled samples, and nothing is learned from them.
//!
//! Each case binds a SQL text and takes the events through steps 1 to 3 of the line, on one thread: read, order, cut, join,
//! SELECT; those of two cores read on others. Two cases have a window of an hour, so that half of all impressions wait: once in memory, once with their rows in
//! spill files but for a few MiB; their peak is that before the last mini-batch, with which all leave that still wait. The
//! samples are counted, and the count is compared with what is known to be right before any speed is told. The
//! ceiling is reading the same bytes once and finding the lines in them.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use serde_json::Value;
use tidemill_base::{Clock, Error, Result, SystemClock, codec::Encoder};
use tidemill_connect::Connections;
use tidemill_sql::{Statement, TrainJob};
use tidemill_stream::join::SpillDir;
use tidemill_train::TrainSpec;

use super::{Case, events::Events};
use crate::{
    engine::Engine,
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
    /// How much waits, and where.
    waits: Waits,
    /// With two, files are read ahead on another thread.
    threads: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    TenMinutes,
    AnHour,
    AnHourSpilled,
}

/// Bytes of rows in memory where they spill.
const SPILL_BEYOND: &str = "8MiB";

const LAYOUTS: [Layout; 13] = [
    Layout {
        name: "csv, two files",
        extension: "csv",
        merged: false,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 1,
    },
    Layout {
        name: "csv, two files, checkpoint every second",
        extension: "csv",
        merged: false,
        saves: true,
        waits: Waits::TenMinutes,
        threads: 1,
    },
    Layout {
        name: "csv, as they arrived",
        extension: "csv",
        merged: true,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 1,
    },
    Layout {
        name: "parquet, two files",
        extension: "parquet",
        merged: false,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 1,
    },
    Layout {
        name: "csv, two files, two cores",
        extension: "csv",
        merged: false,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 2,
    },
    Layout {
        name: "parquet, two files, two cores",
        extension: "parquet",
        merged: false,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 2,
    },
    Layout {
        name: "json lines, two files, two cores",
        extension: "jsonl",
        merged: false,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 2,
    },
    Layout {
        name: "json lines, two files",
        extension: "jsonl",
        merged: false,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 1,
    },
    Layout {
        name: "json lines, as they arrived",
        extension: "jsonl",
        merged: true,
        saves: false,
        waits: Waits::TenMinutes,
        threads: 1,
    },
    Layout {
        name: "csv, an hour waits in memory",
        extension: "csv",
        merged: false,
        saves: false,
        waits: Waits::AnHour,
        threads: 1,
    },
    Layout {
        name: "csv, an hour waits in memory, checkpoint every second",
        extension: "csv",
        merged: false,
        saves: true,
        waits: Waits::AnHour,
        threads: 1,
    },
    Layout {
        name: "csv, an hour waits in spill files",
        extension: "csv",
        merged: false,
        saves: false,
        waits: Waits::AnHourSpilled,
        threads: 1,
    },
    Layout {
        name: "csv, an hour waits in spill files, checkpoint every second",
        extension: "csv",
        merged: false,
        saves: true,
        waits: Waits::AnHourSpilled,
        threads: 1,
    },
];

/// What came of a run.
struct Joined {
    events: u64,
    samples: u64,
    positives: u64,
    seconds: f64,
    /// The longest stop for a checkpoint.
    longest_save_ms: f64,
    /// The longest that a mini-batch took with all that came with it, but for the first and the last.
    longest_turn_ms: f64,
    /// What the largest checkpoint but the first has of the join.
    saved_mib: Option<f64>,
    /// Before the last mini-batch.
    peak_mib: Option<f64>,
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
    let known = |layout: &&Layout| layout.waits == Waits::TenMinutes || events.clicked.is_some();
    let there = |layout: &&Layout| events.dir.join(format!("impressions.{}", layout.extension)).is_file();
    let layouts: Vec<&Layout> = LAYOUTS.iter().filter(wanted).filter(known).filter(there).collect();
    if layouts.is_empty() {
        let names: Vec<&str> = LAYOUTS.iter().map(|layout| layout.name).collect();
        return Err(Error::not_found(format!(
            "no case has that in its name and its files in {}; cases are {}",
            events.dir.display(),
            names.join("; ")
        )));
    }
    let units = ["events/s", "peak MiB", "longest stop, ms", "longest mini-batch, ms", "MiB a checkpoint"];
    let mut all: Vec<[Case; 5]> = layouts.iter().map(|layout| units.map(|unit| Case::new(layout.name, unit))).collect();
    for round in 1..=plan.rounds {
        for (layout, [speed, memory, stop, turn, saved]) in layouts.iter().zip(&mut all) {
            tell(&format!("round {round} of {}: {}", plan.rounds, layout.name));
            let ceiling = events.lines_per_second(layout.merged, layout.extension)?;
            forget_peak();
            let joined = joined(&events, layout, scratch)?;
            speed.values.push(joined.events as f64 / joined.seconds);
            speed.ceilings.extend(ceiling);
            memory.values.extend(joined.peak_mib);
            saved.values.extend(joined.saved_mib);
            if layout.saves {
                stop.values.push(joined.longest_save_ms);
                turn.values.push(joined.longest_turn_ms);
            }
        }
    }
    Ok(all.into_iter().flatten().filter(|case| !case.values.is_empty()).collect())
}

/// The events in two files of JSON lines, joined and counted: events a second.
pub(super) fn json_lines_per_second(events: &Events) -> Result<f64> {
    let layout = LAYOUTS.iter().find(|layout| layout.extension == "jsonl" && !layout.merged && layout.threads == 1);
    let joined = joined(events, layout.expect("there is such a layout"), &events.dir)?;
    Ok(joined.events as f64 / joined.seconds)
}

/// Takes all events through steps 1 to 3, and counts what came of them.
fn joined(events: &Events, layout: &Layout, scratch: &Path) -> Result<Joined> {
    let joined = join(events, layout, scratch)?;
    let positives = match layout.waits {
        Waits::TenMinutes => events.positives,
        Waits::AnHour | Waits::AnHourSpilled => events.clicked.unwrap_or_default(),
    };
    if (joined.samples, joined.positives) != (events.impressions, positives) {
        return Err(Error::internal(format!(
            "{}: {} samples, {} of them positive, where {} and {} are right",
            layout.name, joined.samples, joined.positives, events.impressions, positives
        )));
    }
    Ok(joined)
}

/// Takes all events through steps 1 to 3.
fn join(events: &Events, layout: &Layout, scratch: &Path) -> Result<Joined> {
    let clock = SystemClock::new();
    let begin = clock.elapsed();
    let job = bind(&program_of(events, layout))?;
    let spec = TrainSpec::from_settings(&job.learner, &job.settings)?;
    let mut engine = Engine::new(&job, &spec, layout.threads)?;
    engine.line.spill_to(&SpillDir::open(&scratch.join("spill"))?);
    let push = PushHub::reading(&events.dir);
    open_partitions(&mut engine, &job, &Past::default(), &push, &mut Connections::default(), None)?;
    let mut joined = Joined {
        events: 0,
        samples: 0,
        positives: 0,
        seconds: 0.0,
        longest_save_ms: 0.0,
        longest_turn_ms: 0.0,
        saved_mib: None,
        peak_mib: None,
    };
    let (mut rejected, mut saved, mut saves) = (Vec::new(), begin, Vec::new());
    let mut turn = None;
    while let Some(cut) = engine.sequencer.cut(true, &[])? {
        joined.events += cut.events;
        if cut.is_last && layout.waits != Waits::TenMinutes {
            joined.peak_mib = peak_mib();
        }
        if let Some(samples) = engine.line.join(&cut, &mut rejected)? {
            let samples = engine.line.select(samples, &mut rejected)?;
            joined.samples += samples.labels.len() as u64;
            joined.positives += samples.labels.iter().filter(|label| **label == 1.0).count() as u64;
        }
        let now = clock.elapsed();
        // The last one, too: a short run has no other.
        if layout.saves && ((now - saved).as_secs_f64() >= 1.0 || cut.is_last) {
            saves.push(save(&mut engine, saves.is_empty()));
            joined.longest_save_ms = joined.longest_save_ms.max((clock.elapsed() - now).as_secs_f64() * 1e3);
            saved = now;
        }
        let end = clock.elapsed();
        let took = turn.replace(end).filter(|_| !cut.is_last).map(|before| (end - before).as_secs_f64() * 1e3);
        joined.longest_turn_ms = joined.longest_turn_ms.max(took.unwrap_or(0.0));
        if let Some(first) = rejected.first() {
            return Err(Error::internal(format!("{}: {} rejected: {}", layout.name, first.place, first.reason)));
        }
    }
    joined.seconds = (clock.elapsed() - begin).as_secs_f64();
    joined.peak_mib = joined.peak_mib.or_else(peak_mib);
    let panicked = |_| Err(Error::internal("the thread that encodes rows panicked"));
    let sizes = saves.into_iter().map(|save| save.join().unwrap_or_else(panicked));
    let sizes = sizes.collect::<Result<Vec<usize>>>()?;
    joined.saved_mib =
        sizes.get(1..).and_then(|sizes| sizes.iter().max()).map(|bytes| *bytes as f64 / (1 << 20) as f64);
    Ok(joined)
}

/// What a job does with a join for a checkpoint, but for the file: what waits is encoded on a thread beside it, which answers
/// its bytes. Nothing is learned here, so there are no entries.
fn save(engine: &mut Engine, whole: bool) -> JoinHandle<Result<usize>> {
    let mut out = Encoder::new();
    let streams = engine.line.encode(whole, &mut out);
    std::thread::spawn(move || {
        let Some(mut rows) = streams.rows else { return Ok(0) };
        let (mut bytes, before) = (0, out.as_slice().len());
        rows.encode(&mut out);
        rows.blocks(|block| {
            bytes += block.len();
            true
        })?;
        Ok(bytes + out.as_slice().len() - before)
    })
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
    let minutes = if layout.waits == Waits::TenMinutes { 10 } else { 60 };
    let bounds = match layout.waits {
        Waits::TenMinutes => String::new(),
        Waits::AnHour => "WITH join.pending_max = 4294967296".into(),
        Waits::AnHourSpilled => {
            format!("WITH join.pending_max = 4294967296, join.when_full = 'spill', join.bytes_max = '{SPILL_BEYOND}'")
        }
    };
    format!(
        "{sources}\n\
         SELECT i.user_id, i.item_id, i.slot, i.device, i.geo, i.campaign, i.bid, i.score, \
         (c.imp_id IS NOT NULL) AS clicked\n\
         FROM impressions i LEFT JOIN clicks c\n\
         ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '{minutes}' MINUTE\n\
         EMIT ON WINDOW CLOSE\n\
         TO TRAIN LogisticRegression {bounds} COLUMN user_id LABEL clicked INTO bench;\n"
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
