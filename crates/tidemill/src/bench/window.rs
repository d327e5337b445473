//! `tidemill bench window`: what a person did in the last hour and the last day, as of each impression.
//!
//! Events of 100,000 people by Zipf's law over two days, three clicks to a hundred impressions; four counts are read for each
//! impression before it is counted itself. In memory: the operator alone. With checkpoints: entries that changed are taken hold
//! of between two mini-batches, and encoded beside them. From CSV: a file through a SQL program, steps 1 to 3 of the line.
//! Look-ups: what serving asks. The counts are added up and compared with those of a plain count over panes before any speed is
//! told. Ceilings: eight counters a person in an array, no window and no key; lines found in the file.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use tidemill_base::{Clock, Error, Result, Rng, SystemClock, codec::Encoder};
use tidemill_connect::Connections;
use tidemill_stream::{
    aggregate::{AggregateSpec, Feed, Function, ViewCopy, ViewSpec, Views, WindowSpec},
    journal::PartitionId,
    sequencer::Take,
};
use tidemill_train::TrainSpec;

use super::{Case, events, join};
use crate::{
    engine::Engine,
    job::{Past, open_partitions},
    push::PushHub,
};

/// What is to be measured.
pub struct Plan {
    /// Events to make.
    pub rows: u64,
    /// Times each case is run.
    pub rounds: usize,
    /// Only cases whose names contain this.
    pub only: Option<String>,
}

const USERS: usize = 100_000;
const MINI_BATCH: usize = 256;
const HOUR: i64 = 3_600_000;
const SPAN_MS: i64 = 48 * HOUR;
const START_MS: i64 = 1_700_000_000_000;
/// Pane and length of the two windows.
const WINDOWS: [(i64, i64); 2] = [(HOUR / 12, HOUR), (HOUR, 24 * HOUR)];
const COLUMNS: [&str; 4] = ["imp_1h", "clk_1h", "imp_24h", "clk_24h"];
const CASES: [&str; 5] =
    ["counts, rows in memory", CHECKPOINTED, "counts, from csv", "look-up, one key", "look-up, 1,024 keys"];
const CHECKPOINTED: &str = "counts, a checkpoint every 250,000 events";
const SAVE_EVERY: usize = 250_000;
/// Look-ups in a round.
const LOOK_UPS: usize = 100 * 1024;

#[derive(Clone, Copy)]
struct Event {
    is_click: bool,
    user: u32,
    ts: i64,
}

/// The counts read by all impressions, added up by column.
type Sums = [u64; 4];

/// Runs the plan; `tell` hears what is going on.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let wanted: Vec<&str> =
        CASES.into_iter().filter(|name| plan.only.as_ref().is_none_or(|only| name.contains(only.as_str()))).collect();
    if wanted.is_empty() {
        return Err(Error::not_found(format!("no case has that in its name; cases are {}", CASES.join("; "))));
    }
    let scratch = std::env::temp_dir().join(format!("tidemill-bench-window-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|e| Error::io("create", &scratch, e))?;
    let cases = measure(plan, &wanted, &scratch, tell);
    let _ = fs::remove_dir_all(&scratch);
    cases
}

fn measure(plan: &Plan, wanted: &[&str], scratch: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    tell(&format!("making {} events of {USERS} people", plan.rows));
    let events = make(plan.rows as usize);
    let right = plain_counts(&events);
    let csv = write_csv(scratch, &events)?;
    let takes = takes(&events)?;
    let clock = SystemClock::new();
    let unit = |name: &str| if name.starts_with("look-up") { "look-ups/s" } else { "events/s" };
    let mut cases: Vec<Case> = wanted.iter().map(|name| Case::new(*name, unit(name))).collect();
    let mut stops = Case::new(CHECKPOINTED, "longest stop, ms");
    let mut copy = None;
    for round in 1..=plan.rounds {
        for case in &mut cases {
            tell(&format!("round {round} of {}: {}", plan.rounds, case.name));
            let rows = events.len() as f64;
            let (value, ceiling) = match case.name.as_str() {
                "counts, rows in memory" => {
                    let bare = seconds(&clock, || bare_counters(&events));
                    let mut sums = Sums::default();
                    let took =
                        seconds(&clock, || in_memory(&takes, &mut sums, |_, _| ()).map(|views| copy = Some(views)));
                    took.1?;
                    check("rows in memory", &sums, &right)?;
                    (rows / took.0, rows / bare.0)
                }
                CHECKPOINTED => {
                    let bare = seconds(&clock, || bare_counters(&events));
                    let (mut sums, mut writing, mut longest) = (Sums::default(), Vec::new(), 0.0f64);
                    let took = seconds(&clock, || {
                        in_memory(&takes, &mut sums, |views, i| {
                            if i % (SAVE_EVERY / MINI_BATCH) == 0 {
                                let (stop, thread) = seconds(&clock, || save(views, i == 0));
                                writing.push(thread);
                                longest = longest.max(stop);
                            }
                        })
                    });
                    took.1?;
                    check(CHECKPOINTED, &sums, &right)?;
                    let panicked = |_| Error::internal("the thread that encodes a view panicked");
                    writing.into_iter().try_for_each(|thread| thread.join().map_err(panicked))?;
                    stops.values.push(longest * 1e3);
                    (rows / took.0, rows / bare.0)
                }
                "counts, from csv" => {
                    let found = events::find_lines(&[&csv])?;
                    let mut sums = Sums::default();
                    let took = seconds(&clock, || from_csv(&csv, &mut sums));
                    took.1?;
                    check("from csv", &sums, &right)?;
                    (rows / took.0, found.lines as f64 / found.seconds)
                }
                name => {
                    let views = match copy.take() {
                        Some(views) => views,
                        None => in_memory(&takes, &mut Sums::default(), |_, _| ())?,
                    };
                    look_ups(&clock, copy.insert(views), if name.contains("1,024") { 1024 } else { 1 })?
                }
            };
            case.values.push(value);
            case.ceilings.push(ceiling);
        }
    }
    cases.extend((!stops.values.is_empty()).then_some(stops));
    Ok(cases)
}

/// What a job does with views for a checkpoint, but for the file.
fn save(views: &mut Views, whole: bool) -> JoinHandle<()> {
    let saved = views.encode(whole, &mut Encoder::new());
    std::thread::spawn(move || saved.blocks(|block| !std::hint::black_box(block).is_empty()))
}

fn seconds<T>(clock: &SystemClock, work: impl FnOnce() -> T) -> (f64, T) {
    let begin = clock.elapsed();
    let done = std::hint::black_box(work());
    ((clock.elapsed() - begin).as_secs_f64(), done)
}

fn check(what: &str, sums: &Sums, right: &Sums) -> Result<()> {
    match sums == right {
        true => Ok(()),
        false => Err(Error::internal(format!("{what}: counts add up to {sums:?}, where {right:?} are right"))),
    }
}

/// People by Zipf's law with exponent 1.1, in no order of activity.
fn make(rows: usize) -> Vec<Event> {
    let mut rng = Rng::seeded(7);
    let mut shares: Vec<f64> = (1..=USERS).map(|i| 1.0 / (i as f64).powf(1.1)).collect();
    let all: f64 = shares.iter().sum();
    let mut sum = 0.0;
    for share in &mut shares {
        sum += *share / all;
        *share = sum;
    }
    let mut names: Vec<u32> = (0..USERS as u32).collect();
    (1..USERS).rev().for_each(|i| names.swap(i, rng.below(i as u64 + 1) as usize));
    let one = |i: usize| {
        let x = rng.next_f64();
        let user = names[shares.partition_point(|share| *share < x).min(USERS - 1)];
        let ts = START_MS + (SPAN_MS as i128 * i as i128 / rows as i128) as i64;
        Event { is_click: rng.below(100) < 3, user, ts }
    };
    (0..rows).map(one).collect()
}

/// What must come out: of each person a list of panes with their counts, no more than the window reaches.
fn plain_counts(events: &[Event]) -> Sums {
    let mut sums = Sums::default();
    for (w, (pane_ms, length_ms)) in WINDOWS.into_iter().enumerate() {
        let mut people: Vec<VecDeque<(i64, [u64; 2])>> = vec![VecDeque::new(); USERS];
        for event in events {
            let (panes, pane) = (&mut people[event.user as usize], event.ts.div_euclid(pane_ms));
            while panes.front().is_some_and(|(first, _)| *first < pane - length_ms / pane_ms) {
                panes.pop_front();
            }
            if !event.is_click {
                for (_, counts) in panes.iter() {
                    sums[2 * w] += counts[0];
                    sums[2 * w + 1] += counts[1];
                }
            }
            if panes.back().is_none_or(|(last, _)| *last != pane) {
                panes.push_back((pane, [0; 2]));
            }
            panes.back_mut().expect("it was put there").1[usize::from(event.is_click)] += 1;
        }
    }
    sums
}

/// The least that four counts a person can cost: no key to be found, no window to be left.
fn bare_counters(events: &[Event]) -> u64 {
    let mut counters = vec![[0u64; 8]; USERS];
    let mut seen = 0;
    for event in events {
        let user = &mut counters[event.user as usize];
        seen += user[0] + user[1] + user[2] + user[3];
        user[usize::from(event.is_click)] += 1;
        user[2 + usize::from(event.is_click)] += 1;
    }
    seen
}

fn takes(events: &[Event]) -> Result<Vec<Vec<Take>>> {
    let of = |events: &[Event], is_click: bool| -> Result<Take> {
        let chosen = || events.iter().filter(|e| e.is_click == is_click);
        let users: ArrayRef = Arc::new(Int64Array::from_iter_values(chosen().map(|e| i64::from(e.user))));
        let rows = RecordBatch::try_from_iter([("user", users)]).map_err(|e| Error::internal(e.to_string()))?;
        let id = PartitionId { input: u32::from(is_click), partition: 0 };
        Ok(Take { id, rows, event_times: chosen().map(|e| e.ts).collect() })
    };
    events.chunks(MINI_BATCH).map(|e| Ok(vec![of(e, false)?, of(e, true)?])).collect()
}

fn spec() -> Result<ViewSpec> {
    let mut aggregates = Vec::new();
    for (i, name) in COLUMNS.into_iter().enumerate() {
        let (pane_ms, length_ms) = WINDOWS[i / 2];
        let window = WindowSpec::sawtooth(length_ms, pane_ms)?;
        let (function, ty) = (Function::Count, DataType::Null);
        aggregates.push(AggregateSpec { name: name.into(), function, feed: i % 2, column: None, ty, window });
    }
    let feed = |input| Feed { input, key: 0, passes: None };
    let (ttl_ms, keys_max) = (25 * HOUR, 1 << 20);
    Ok(ViewSpec { name: "seen".into(), feeds: vec![feed(0), feed(1)], aggregates, read_key: 0, ttl_ms, keys_max })
}

/// `behind` sees the views behind each mini-batch, and its number.
fn in_memory(takes: &[Vec<Take>], sums: &mut Sums, mut behind: impl FnMut(&mut Views, usize)) -> Result<Views> {
    let mut views = Views::new(&[spec()?])?;
    for (i, take) in takes.iter().enumerate() {
        let watermark = take.iter().filter_map(|t| t.event_times.first()).min().copied().unwrap_or(START_MS) - 10_000;
        let columns = views.step(take, watermark)?;
        add_up(&columns[0], sums)?;
        behind(&mut views, i);
    }
    Ok(views)
}

fn add_up(columns: &[ArrayRef], sums: &mut Sums) -> Result<()> {
    for (sum, column) in sums.iter_mut().zip(columns) {
        let whole = cast(column, &DataType::Int64).map_err(|e| Error::internal(e.to_string()))?;
        *sum += whole.as_primitive::<Int64Type>().values().iter().sum::<i64>() as u64;
    }
    Ok(())
}

fn write_csv(scratch: &Path, events: &[Event]) -> Result<PathBuf> {
    let path = scratch.join("events.csv");
    let row = |e: &Event| match e.is_click {
        true => format!("{},{},,1", e.user, e.ts),
        false => format!("{},{},1,", e.user, e.ts),
    };
    events::write(&path, "person,ts,shown,clicked", events.iter().map(row))?;
    Ok(path)
}

/// The same through SQL: what is read by impressions alone comes out.
fn from_csv(csv: &Path, sums: &mut Sums) -> Result<()> {
    let count = |of: &str, name: &str, (pane_ms, length_ms): (i64, i64)| {
        let minutes = |ms: i64| format!("INTERVAL '{}' MINUTE", ms / 60_000);
        format!("COUNT(e.{of}) OVER SAWTOOTH ({}, PANE {}) AS {name}", minutes(length_ms), minutes(pane_ms))
    };
    let counts: Vec<String> = (0..4).map(|i| count(["shown", "clicked"][i % 2], COLUMNS[i], WINDOWS[i / 2])).collect();
    let job = join::bind(&format!(
        "CREATE SOURCE events (person BIGINT, ts BIGINT, shown BIGINT, clicked BIGINT,
           rt AS TO_TIMESTAMP_MILLIS(ts), WATERMARK FOR rt)
         WITH (connector = 'file', path = '{}', format = 'csv');
         CREATE FEATURE VIEW seen KEYED BY person AS SELECT {} FROM events e;
         SELECT {}, e.shown FROM events e LEFT JOIN seen FOR SYSTEM_TIME AS OF e.rt f ON f.person = e.person
           WHERE e.shown = 1
         TO TRAIN LogisticRegression LABEL shown INTO bench;",
        csv.display(),
        counts.join(", "),
        COLUMNS.map(|c| format!("f.{c}")).join(", ")
    ))?;
    let spec = TrainSpec::from_settings(&job.learner, &job.settings)?;
    let mut engine = Engine::new(&job, &spec, 1)?;
    let push = PushHub::reading(csv.parent().unwrap_or(csv));
    open_partitions(&mut engine, &job, &Past::default(), &push, &mut Connections::default(), None)?;
    let mut rejected = Vec::new();
    while let Some(cut) = engine.sequencer.cut(true, &[])? {
        if let Some(samples) = engine.line.join(&cut, &mut rejected)? {
            let samples = engine.line.select(samples, &mut rejected)?;
            add_up(&samples.rows.columns()[..4], sums)?;
        }
        if let Some(first) = rejected.first() {
            return Err(Error::internal(format!("{} rejected: {}", first.place, first.reason)));
        }
    }
    Ok(())
}

/// Look-ups a second as serving makes them, so many keys at once, and reads of an array a second at the same places.
fn look_ups(clock: &SystemClock, views: &mut Views, keys: usize) -> Result<(f64, f64)> {
    let mut copy = ViewCopy::new(&spec()?)?;
    let all = views.publish_all();
    copy.apply(all.first().ok_or_else(|| Error::internal("there is no view"))?);
    let newest = views.newest();
    let mut rng = Rng::seeded(3);
    let places: Vec<i64> = (0..LOOK_UPS).map(|_| rng.below(USERS as u64) as i64).collect();
    let asked: Vec<ArrayRef> =
        places.chunks(keys).map(|keys| Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef).collect();
    let (took, looked) = seconds(clock, || {
        asked.iter().try_fold(0, |rows, keys| {
            let columns = copy.look_up(keys, &vec![newest; keys.len()])?;
            Ok::<usize, Error>(rows + columns[0].len())
        })
    });
    if looked? != LOOK_UPS {
        return Err(Error::internal("a look-up did not answer for every key"));
    }
    let counters = vec![[1u64; 8]; USERS];
    let (bare, _) =
        seconds(clock, || places.iter().map(|at| counters[*at as usize][..4].iter().sum::<u64>()).sum::<u64>());
    Ok((LOOK_UPS as f64 / took, LOOK_UPS as f64 / bare))
}
