//! The identity of what a job learns.
//!
//! In: the bound job. Out: 64 bits over a rendering in which white space, letter case of keywords, views, names of tables
//! and the order of COLUMN have left no trace, and every default is written out. Left out on purpose: where files lie, how
//! fast they are read, how often is published or saved, and what the model is called. A new version of DataFusion may
//! render an expression differently; then the stored text, bound again, gives the new value.

use std::fmt::Write;

use arrow::datatypes::SchemaRef;
use tidemill_base::{attribute::Settings, hash64};
use tidemill_model::ColumnSpec;
use tidemill_stream::join::Correction;

use super::{
    feature_view::FeatureJoin,
    pipeline::{Wanted, emit_of, feedback_needed},
    relation::{BoundSource, Relation, Side, right},
};
use crate::{
    parse::{tail::EmitDef, value::type_name},
    program::{HASH_SECRET, Known},
};

/// Settings that change when and where, not what.
const LEFT_OUT: [&str; 30] = [
    "path",
    "brokers",
    "topic",
    "url",
    "subject",
    "nats.stream",
    "begin",
    "bounded",
    "on_gap",
    "properties",
    "properties_file",
    "pace",
    "follow",
    "list_interval",
    "push",
    "idle_timeout",
    "time.ahead_max",
    "max_drift",
    "publish.interval",
    "checkpoint.interval",
    "journal.keep",
    "publish.every",
    "publish.prune",
    "publish.precision",
    "publish.label_rate",
    "publish.calibration",
    "publish.logloss",
    "publish.keep",
    "publish.keep_for",
    "validate.by",
];

pub(crate) fn fingerprint(
    learner: &str,
    settings: &Settings,
    known: &Known,
    relation: &Relation,
    wanted: &[Wanted],
    columns: &[ColumnSpec],
    label: &str,
) -> u64 {
    let mut text = format!("learner {learner}\nlabel {label}\n");
    let passed_over = when_full(settings);
    let names = known.train_attributes.iter().map(|a| a.name);
    // Said only where it is: programs of before keep their fingerprint.
    let counts = |name: &&str| !passed_over.contains(name) && (*name != HASH_SECRET || settings.is_written(name));
    render_settings(&mut text, settings, names.filter(counts));
    let mut features: Vec<String> = columns.iter().map(ColumnSpec::to_string).collect();
    features.sort_unstable();
    line(&mut text, format_args!("columns {}", features.join(", ")));
    let mut outputs: Vec<String> = wanted.iter().map(|w| format!("output {} = {}", w.name, w.expr)).collect();
    outputs.sort_unstable();
    outputs.iter().for_each(|output| line(&mut text, format_args!("{output}")));
    side(&mut text, "left", &relation.left);
    if let Some(join) = &relation.join {
        let needed = feedback_needed(wanted);
        let emit = emit_of(relation, join, &needed);
        for &f in &needed {
            let (join, prefix) = (&join.feedback[f], right(f));
            side(&mut text, prefix.trim_end_matches('.'), &join.right);
            let (left, right, window) = (&join.left_key, &join.right_key, join.window_ms);
            line(&mut text, format_args!("join {left} = {right} within {window} {emit:?}"));
            for (i, aggregate) in join.aggregates.iter().enumerate() {
                line(&mut text, format_args!("{prefix}#{i} = {:?} of {}", aggregate.take, aggregate.expr));
            }
        }
        // Said only where it is: programs of before keep their fingerprint.
        if let Some(clause) = join.emit {
            if clause.correction != Correction::Retract {
                line(&mut text, format_args!("correct {:?}", clause.correction));
            }
            if let Some(sample) = clause.sample {
                line(&mut text, format_args!("sample {} {:?}", sample.share, sample.mode));
            }
        }
    }
    for (i, join) in relation.features.iter().enumerate() {
        view(&mut text, i, join);
    }
    hash64(text.as_bytes(), 0)
}

/// What rows a relation has: two statements with the same text, over the same definitions, select the same rows.
pub(super) fn stream_text(relation: &Relation) -> String {
    let mut text = String::new();
    for c in &relation.columns {
        line(&mut text, format_args!("{} = {} {}", c.name, c.expr, type_name(&c.ty)));
    }
    side(&mut text, "left", &relation.left);
    if let Some(join) = &relation.join {
        for feedback in &join.feedback {
            side(&mut text, "right", &feedback.right);
            let (left, right, window) = (&feedback.left_key, &feedback.right_key, feedback.window_ms);
            line(&mut text, format_args!("join {left} = {right} within {window}"));
            for aggregate in &feedback.aggregates {
                line(
                    &mut text,
                    format_args!("{:?} of {} {}", aggregate.take, aggregate.expr, type_name(&aggregate.ty)),
                );
            }
        }
        if let Some(emit) = join.emit {
            // Where it was written is nothing of the stream.
            let when = emit.when.map(|when| match when {
                EmitDef::Early { delay_ms, .. } => format!("early {delay_ms}"),
                EmitDef::OnWindowClose => "on window close".into(),
                other => format!("{other:?}"),
            });
            line(&mut text, format_args!("emit {when:?} {:?} {:?}", emit.correction, emit.sample));
        }
    }
    for (i, join) in relation.features.iter().enumerate() {
        view(&mut text, i, join);
    }
    text
}

/// Of a feature view everything counts: what it is fed, what it keeps, and for how long.
fn view(text: &mut String, number: usize, join: &FeatureJoin) {
    let view = &join.view;
    let (key, ttl_ms, keys_max) = (&join.read_key, view.ttl_ms, view.keys_max);
    line(text, format_args!("feature view {number} under {key} ttl {ttl_ms} keys {keys_max}"));
    for (i, input) in view.inputs.iter().enumerate() {
        line(text, format_args!("feed {i} key {}", input.key));
        side(text, "feed", &input.relation.left);
    }
    for a in &view.aggregates {
        let argument = a.argument.as_ref().map_or("events".to_string(), |e| e.to_string());
        let (spec, ty) = (&a.spec, type_name(&a.spec.ty));
        line(
            text,
            format_args!("{} = {:?} of feed {} {argument} {ty} {:?}", spec.name, spec.function, spec.feed, spec.window),
        );
    }
}

fn side(text: &mut String, name: &str, side: &Side) {
    source(text, name, &side.source);
    for filter in &side.filters {
        line(text, format_args!("{name} where {}", filter.expr));
    }
}

fn source(text: &mut String, name: &str, source: &BoundSource) {
    line(text, format_args!("{name} source {} key {:?}", source.spec.name, source.spec.primary_key));
    line(text, format_args!("{name} columns {}", render_columns(&source.spec.columns)));
    for c in &source.computed {
        line(text, format_args!("{name} computed {} = {}", c.name, c.expr));
    }
    let bound = source.spec.watermark_bound_ms;
    line(text, format_args!("{name} time {:?} bound {bound}", source.event_time));
    render_settings(text, &source.settings, source.settings.names());
    if let (Some(history), Some((settings, _))) = (&source.spec.history, &source.history) {
        line(text, format_args!("{name} behind {} until {:?}", history.source.name, history.at));
        render_settings(text, settings, settings.names());
    }
}

fn render_columns(columns: &SchemaRef) -> String {
    let one = |f: &arrow::datatypes::FieldRef| format!("{} {} {}", f.name(), type_name(f.data_type()), f.is_nullable());
    columns.fields().iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Whether impressions leave by the bytes that wait.
pub(super) fn counts_bytes(settings: &Settings) -> bool {
    settings.is_written("join.bytes_max") && !when_full(settings).contains(&"join.bytes_max")
}

/// What does not count of the join's bounds. Bytes beyond which rows spill change nothing that is learned, and a join that
/// stops at its bounds has not reached them; so either may be raised. The default is not written, for the sake of programs
/// from before there was a choice.
fn when_full(settings: &Settings) -> &'static [&'static str] {
    match settings.names().any(|name| name == "join.when_full").then(|| settings.text("join.when_full")) {
        Some(Some(choice)) if choice == "spill" => &["join.bytes_max"],
        Some(Some(choice)) if choice == "stop" => &["join.bytes_max", "join.pending_max"],
        _ => &["join.when_full"],
    }
}

fn render_settings(text: &mut String, settings: &Settings, names: impl Iterator<Item = &'static str>) {
    for name in names.filter(|n| !LEFT_OUT.contains(n)) {
        line(text, format_args!("{name} = {:?}", settings.get(name)));
        // Said only where there are some: programs of before keep their fingerprint.
        let mut of_slots: Vec<_> =
            settings.by_slot(name).iter().map(|(slot, value)| format!("{slot} {value:?}")).collect();
        of_slots.sort_unstable();
        of_slots.iter().for_each(|of_slot| line(text, format_args!("{name} of slot {of_slot}")));
    }
}

fn line(text: &mut String, what: std::fmt::Arguments) {
    writeln!(text, "{what}").expect("writing to a String cannot fail");
}
