//! The picture of a job's line: a step for each source, window, view and join that its program has, and what is behind them.
//!
//! In: the bound program, and the counts that the steps keep. Out: [`Steps`], as of the mini-batch that was learned last.

use tidemill_sql::{Pipeline, TrainJob};
use tidemill_stream::{
    aggregate::View,
    join::{JoinCounts, JoinState, SampleKind},
    source::Connector,
    window::END_OF_TIME,
};
use tidemill_train::TrainStats;

use super::inputs;
use crate::{
    engine::{Engine, LineCounts, REFUSED_AT},
    sinks::SinkStatus,
    steps::{Step, Steps},
};

/// What the picture needs beside the engine.
pub(super) struct Shown<'a> {
    pub job: &'a TrainJob,
    pub engine: &'a Engine,
    pub train: &'a TrainStats,
    /// Predictions whose label is not final, those that are scored, and bytes of both.
    pub awaiting: u64,
    pub scored: u64,
    pub validation_bytes: u64,
    pub version: u64,
    pub versions: u64,
    pub staleness_ms: Option<f64>,
    pub sinks: Vec<SinkStatus>,
}

/// All steps of the job, and which hands on to which.
pub(super) fn steps(shown: &Shown) -> Steps {
    let (engine, pipeline) = (shown.engine, &shown.job.pipeline);
    let (counts, watermark) = (engine.line.counts(), engine.sequencer.watermark());
    let mut picture = Steps::default();
    let names = names(shown.job);
    for (i, name) in names.iter().enumerate() {
        picture.all.push(source(shown, i, name));
    }
    let windows = picture.all.len();
    for (i, name) in names.iter().enumerate() {
        picture.edges.push((i, windows + i));
        picture.all.push(window(engine, i, name));
    }
    let views = picture.all.len();
    let all_views = engine.line.views().map_or(&[][..], |views| views.views());
    picture.all.extend(all_views.iter().map(view));
    let join = picture.all.len();
    let features = match (&pipeline.join, engine.line.join_state()) {
        (Some(_), Some(state)) => {
            picture.all.push(label_join(&counts, &engine.line.join_counts(), &state, watermark));
            join + 1
        }
        _ => join,
    };
    picture.edges.extend((0..names.len()).map(|i| (windows + i, join)));
    picture.edges.extend(view_edges(pipeline, windows, views, join));
    if features > join {
        picture.edges.push((join, features));
    }
    picture.all.push(feature_step(&counts, features == join));
    picture.all.push(learner(shown, &counts));
    picture.all.push(publish(shown));
    picture.edges.extend([(features, features + 1), (features + 1, features + 2)]);
    for (i, one) in shown.sinks.iter().enumerate() {
        picture.edges.push((features + 1, features + 3 + i));
        picture.all.push(sink(one));
    }
    picture
}

/// Every view hands its columns to the impressions, on their way to what is behind the views.
fn view_edges(pipeline: &Pipeline, windows: usize, views: usize, behind: usize) -> Vec<(usize, usize)> {
    let mut edges = Vec::new();
    for (i, spec) in pipeline.views.iter().flat_map(|part| &part.specs).enumerate() {
        let mut fed: Vec<usize> = spec.feeds.iter().map(|feed| feed.input as usize).chain([0]).collect();
        fed.sort_unstable();
        fed.dedup();
        edges.extend(fed.into_iter().map(|input| (windows + input, views + i)));
        edges.push((views + i, behind));
    }
    edges
}

/// One name for each input: its source's, numbered where one source is read twice.
fn names(job: &TrainJob) -> Vec<String> {
    let all: Vec<&str> = inputs(job).into_iter().map(|input| input.source.name.as_str()).collect();
    let name = |i: usize| match all[..i].iter().filter(|name| **name == all[i]).count() {
        0 => all[i].to_string(),
        before => format!("{}_{}", all[i], before + 1),
    };
    (0..all.len()).map(name).collect()
}

fn source(shown: &Shown, input: usize, name: &str) -> Step {
    let (flow, reading) = (shown.engine.sequencer.flow(input), shown.engine.sequencer.reading(input));
    let source = &inputs(shown.job)[input].source;
    let connector = match &source.connector {
        Connector::File(_) => "file",
        Connector::Generator(_) => "generator",
        Connector::Http => "http",
        Connector::Kafka(_) => "kafka",
        Connector::Nats(_) => "nats",
        Connector::S3(_) => "s3",
    };
    let mut partitions = reading.partitions.to_string();
    for (count, what) in [(reading.idle, "idle"), (reading.finished, "ended")] {
        if count > 0 {
            partitions.push_str(&format!(", {count} {what}"));
        }
    }
    Step {
        rows_in: (flow.rows_in(), "rows"),
        rows_out: (flow.rows_in() - flow.unreadable, "rows"),
        dropped: vec![("unreadable", flow.unreadable)],
        pending: Some((reading.waiting as u64, "rows read ahead")),
        notes: vec![("connector", connector.into()), ("partitions", partitions)],
        ..Step::new("source", name)
    }
}

fn window(engine: &Engine, input: usize, name: &str) -> Step {
    let (flow, reading) = (engine.sequencer.flow(input), engine.sequencer.reading(input));
    let mut notes = Vec::new();
    if reading.partitions > 1 {
        notes.extend(reading.slowest.map(|slowest| ("held by", slowest)));
    }
    Step {
        rows_in: (flow.rows_in() - flow.unreadable, "rows"),
        rows_out: (flow.rows, "events"),
        dropped: vec![
            ("refused", flow.unusable),
            ("ahead of the clock", flow.ahead),
            ("filtered", flow.events - flow.rows),
        ],
        watermark_ms: reading.watermark.and_then(told),
        lateness: Some(flow.lateness),
        notes,
        ..Step::new("window", name)
    }
}

/// A watermark that says something: without event time there is none, and at the end everything has been seen.
fn told(watermark: i64) -> Option<i64> {
    (watermark > 0 && watermark < END_OF_TIME).then_some(watermark)
}

fn view(view: &View) -> Step {
    let counts = view.counts();
    let mut notes = vec![("keys", tidemill_base::thousands(view.keys() as u64))];
    for (name, count) in [("keys expired", counts.expired), ("keys evicted", counts.evicted)] {
        if count > 0 {
            notes.push((name, tidemill_base::thousands(count)));
        }
    }
    Step {
        rows_in: (counts.updates, "events"),
        rows_out: (counts.reads, "reads"),
        dropped: vec![("late for a window", counts.late), ("without key", counts.without_key)],
        state: vec![("keys", view.bytes() as u64)],
        notes,
        ..Step::new("view", view.name())
    }
}

fn label_join(counts: &LineCounts, join: &JoinCounts, state: &JoinState, watermark: i64) -> Step {
    let kinds = SampleKind::ALL.iter().zip(&counts.kinds).filter(|(_, count)| **count > 0);
    let kinds: Vec<String> =
        kinds.map(|(kind, count)| format!("{} {kind:?}", tidemill_base::thousands(*count)).to_lowercase()).collect();
    let mut notes = Vec::new();
    if !kinds.is_empty() {
        notes.push(("out", kinds.join(", ")));
    }
    for (name, count) in [
        ("released early", join.released_early),
        ("corrections", join.corrections),
        ("late impressions let in", join.late_let_in),
        ("feedback waiting", state.feedback as u64),
        ("keys remembered", state.known as u64),
        ("samples remembered", state.remembered as u64),
        ("bytes in spill files", state.spilled_bytes as u64),
    ] {
        if count > 0 {
            notes.push((name, tidemill_base::thousands(count)));
        }
    }
    let impressions = join.impressions + join.late_impressions + join.duplicate_impressions;
    Step {
        rows_in: (impressions + join.feedback + counts.left_out + counts.refused[0], "events"),
        rows_out: (counts.kinds.iter().sum(), "sample rows"),
        dropped: vec![
            ("filtered", counts.left_out),
            (REFUSED_AT[0], counts.refused[0]),
            ("late impressions", join.late_impressions),
            ("duplicate impressions", join.duplicate_impressions),
            ("late feedback", join.late_feedback),
            ("unmatched feedback", join.unmatched_feedback),
            ("released feedback", join.feedback_released),
        ],
        pending: Some((state.open as u64, "impressions")),
        state: vec![
            ("impressions", state.impression_bytes as u64),
            ("feedback", state.feedback_bytes as u64),
            ("known keys", state.known_bytes as u64),
            ("index", state.index_bytes as u64),
        ],
        watermark_ms: told(watermark),
        notes,
        ..Step::new("join", "label join")
    }
}

fn feature_step(counts: &LineCounts, is_behind_views: bool) -> Step {
    let closed = counts.kinds[SampleKind::Closed as usize];
    let mut rows_in = counts.kinds.iter().sum::<u64>() - closed;
    let mut dropped = Vec::new();
    if is_behind_views {
        rows_in += counts.left_out + counts.refused[0];
        dropped.extend([("filtered", counts.left_out), (REFUSED_AT[0], counts.refused[0])]);
    }
    dropped.extend(REFUSED_AT.iter().copied().zip(counts.refused).skip(1));
    let told: u64 = dropped.iter().map(|d| d.1).sum();
    // Half of a retraction and its correction never goes alone.
    dropped.push(("other half of a pair", rows_in.saturating_sub(told + counts.sample_rows)));
    let mut notes = Vec::new();
    if counts.sample_rows > 0 {
        notes.push(("features a row", format!("{:.1}", counts.features as f64 / counts.sample_rows as f64)));
    }
    Step {
        rows_in: (rows_in, "sample rows"),
        rows_out: (counts.sample_rows, "sample rows"),
        dropped,
        notes,
        ..Step::new("features", "features")
    }
}

fn learner(shown: &Shown, counts: &LineCounts) -> Step {
    let train = shown.train;
    let (waiting, queue) = shown.engine.line.learning.queue();
    let mut notes = vec![
        ("entries", tidemill_base::thousands(train.entries)),
        ("queue", format!("{waiting} of {queue} mini-batches")),
    ];
    for (name, count) in [
        ("keys not admitted", train.refused_admissions),
        ("keys forgotten", train.forgotten),
        ("gradients not finite", train.refused_non_finite),
    ] {
        if count > 0 {
            notes.push((name, tidemill_base::thousands(count)));
        }
    }
    Step {
        rows_in: (counts.sample_rows, "sample rows"),
        rows_out: (shown.scored, "samples scored"),
        dropped: vec![("refused", train.refused_samples)],
        pending: Some((shown.awaiting, "predictions without their label")),
        state: vec![("parameters", train.bytes), ("validation", shown.validation_bytes)],
        notes,
        ..Step::new("learner", shown.job.learner.clone())
    }
}

/// What it has delivered since the process began; samples come to it with the prediction made before they were learned.
fn sink(status: &SinkStatus) -> Step {
    let mut notes = vec![("connector", status.connector.to_string())];
    notes.extend(status.trouble.clone().map(|trouble| ("trouble", trouble)));
    Step {
        rows_in: (status.rows + status.refused + status.waiting, "samples"),
        rows_out: (status.rows, "rows"),
        dropped: vec![("refused", status.refused)],
        pending: Some((status.waiting, "samples")),
        state: vec![("waiting", status.waiting_bytes)],
        notes,
        ..Step::new("sink", status.name.clone())
    }
}

fn publish(shown: &Shown) -> Step {
    let mut notes = vec![("version", shown.version.to_string())];
    notes.extend(shown.staleness_ms.map(|ms| ("staleness", format!("{ms:.1} ms"))));
    Step {
        rows_in: (shown.engine.deltas_published(), "deltas"),
        rows_out: (shown.versions, "versions"),
        notes,
        ..Step::new("publish", shown.job.model.clone())
    }
}
