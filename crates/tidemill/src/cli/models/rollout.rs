//! `tidemill models rollout`: how a rollout stands and what became of earlier ones; beginning and ending one.
//!
//! In: a model's name. Out: what is on disk, and what the process that serves the model knows beside it. Beginning and
//! ending are the statements `ALTER MODEL ... ROLLOUT`, written out and bound like those of a program.

use std::path::Path;

use serde_json::Value;
use tidemill_base::{
    Error, Result,
    store::data_dir::{DataDir, check_name},
};
use tidemill_serve::registry::{RolledOut, Verdict};
use tidemill_sql::{AlterModel, ModelChange, Statement};

use super::{
    super::run::{print_line, registry},
    exchange, routing, table,
};
use crate::program;

/// Prints the rollout that is going on with its guards, and the verdicts, newest first.
pub(super) fn show(root: &Path, model: &str) -> Result<()> {
    let routing = registry(root, model)?.routing();
    let mut out = Vec::new();
    match &routing.rollout {
        Some(rollout) => {
            let served = served(root, model);
            out.push(line(rollout, served.as_ref()));
            match &served {
                Some(served) => out.extend([arms(&served["figures"]), guards(&served["guards"])]),
                None => out.push("no process serves it: it goes on, with new evidence, when one does".into()),
            }
        }
        None => out.push(format!("model '{model}' has no rollout going on")),
    }
    if !routing.verdicts.is_empty() {
        out.push("what became of versions, newest first:".into());
        out.extend(routing.verdicts.iter().rev().map(|v| format!("  {}", verdict(v))));
    }
    print_line(&out.join("\n"))
}

/// Begins one: `name` is `ctr` or `ctr@7`, `plan` what stands between the brackets of the statement.
pub(super) fn start(root: &Path, name: &str, plan: &str) -> Result<()> {
    let (model, version) = match name.split_once('@') {
        Some(_) => super::model_and_version(root, name).map(|(model, version)| (model, Some(version)))?,
        None => (name, None),
    };
    check_name("model", model)?;
    let version = version.map_or(String::new(), |v| format!(" VERSION {v}"));
    let plan = if plan.trim().is_empty() { String::new() } else { format!(" ({plan})") };
    let text = format!("ALTER MODEL {model} ROLLOUT{version}{plan}");
    let program = program::bind(&text, &program::models(root))?;
    match program.statements.as_slice() {
        [Statement::AlterModel(change)] if matches!(change.change, ModelChange::Rollout { .. }) => {
            routing::alter(root, change)
        }
        _ => Err(Error::invalid(format!(
            "--start \"{plan}\": write what stands in ALTER MODEL ... ROLLOUT (...), as in \"STAGES '1%, 100%', EACH '5s'\""
        ))),
    }
}

/// Ends it.
pub(super) fn abort(root: &Path, model: &str) -> Result<()> {
    routing::alter(root, &AlterModel { model: model.to_string(), change: ModelChange::Abort })
}

/// Where a rollout stands, in a line.
pub(super) fn line(rollout: &RolledOut, served: Option<&Value>) -> String {
    let (stage, stages) = (rollout.stage + 1, rollout.plan.stages.len());
    let waits = served.and_then(|served| served["waits_for"].as_str()).map_or(String::new(), |w| format!("; {w}"));
    let version = rollout.version;
    format!("rollout of version {version}: stage {stage} of {stages} ({}){waits}", rollout.plan.words())
}

/// What became of a version, in a line.
pub(super) fn verdict(v: &Verdict) -> String {
    format!("version {} {}: {}", v.version, v.outcome.word(), v.reason)
}

/// The rollout as the process that serves it knows it.
pub(super) fn served(root: &Path, model: &str) -> Option<Value> {
    let address = DataDir::owner_address(root)?;
    let body = exchange(root, &address, "GET", &format!("/v1/models/{model}"), "").ok()?;
    let model: Value = serde_json::from_str(&body).ok()?;
    model.get("rollout").cloned()
}

/// Requests of both versions, and how much was compared.
fn arms(figures: &Value) -> String {
    let arm = |name: &str| {
        let arm = &figures[name];
        let mean = arm["mean_us"].as_f64().map_or(String::new(), |us| format!(", {us:.0} us each"));
        format!("{name} {} requests, {} failed{mean}", arm["requests"], arm["errors"])
    };
    format!(
        "{}; {}; {} rows scored by both, {} matured samples",
        arm("live"),
        arm("version"),
        figures["paired"]["rows"],
        figures["matured"]["samples"]
    )
}

fn guards(guards: &Value) -> String {
    let mut lines = vec![["guard", "figure", "bound", "evidence"].map(str::to_string)];
    for guard in guards.as_array().into_iter().flatten() {
        let number = |name: &str| guard[name].as_f64().map_or("-".to_string(), |x| format!("{x:.4}"));
        let evidence = guard["evidence"].as_f64().unwrap_or(0.0) * 100.0;
        let name = guard["guard"].as_str().unwrap_or_default().to_string();
        lines.push([name, number("figure"), number("bound"), format!("{evidence:.0}%")]);
    }
    table(&lines)
}
