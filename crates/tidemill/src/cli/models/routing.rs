//! Labels, split and rollouts, by command and by `ALTER MODEL`.
//!
//! In: a change. Out: the same done by the process that owns the data directory, at once in what it serves; where there is
//! none, on disk, for the next one that serves it. A rollout needs a process that serves: it judges live traffic.

use std::path::Path;

use serde_json::{Map, Value, json};
use tidemill_base::{
    Error, Result,
    store::data_dir::{DataDir, check_name},
};
use tidemill_serve::{registry::Registry, rollout::Plan, server::ServedModel, split::Split};
use tidemill_sql::{AlterModel, ModelChange};

use super::{
    super::run::{print_line, registry},
    post, rankings, rollout,
};
use crate::catalog::open_model;

/// Verdicts that `models show` prints.
const VERDICTS_SHOWN: usize = 10;

/// Does what a statement asks for, and says it.
pub(crate) fn alter(root: &Path, alter: &AlterModel) -> Result<()> {
    change(root, &alter.model, &alter.change)?;
    print_line(&done(alter))
}

/// The same in the process that owns the directory: in what is served, or else on disk.
pub(crate) fn alter_here(served: Option<&ServedModel>, data: &DataDir, alter: &AlterModel) -> Result<()> {
    match served.map(|served| (served, served.versions())) {
        Some((served, versions)) => match &alter.change {
            ModelChange::Label { label, version: Some(version) } => versions.set_label(label, *version),
            ModelChange::Label { label, version: None } => versions.remove_label(label),
            ModelChange::Split(weights) => versions.split(weights),
            ModelChange::Rollout { version, settings } => versions.roll_out(*version, Plan::parse(settings)?),
            ModelChange::Abort => versions.abort(),
            ModelChange::Ranking { name, config, replace } => rankings::put(served, name, config.as_deref(), *replace),
        },
        None => on_disk(data, &alter.model, &alter.change),
    }?;
    print_line(&done(alter))
}

fn done(alter: &AlterModel) -> String {
    let model = &alter.model;
    match &alter.change {
        ModelChange::Label { label, version: Some(version) } => format!("{model}@{label} is version {version}"),
        ModelChange::Label { label, version: None } => format!("{model} has no label {label} any more"),
        ModelChange::Split(weights) => {
            let weights: Vec<String> = weights.iter().map(|(label, weight)| format!("{label} {weight}%")).collect();
            format!("{model}: {}", weights.join(", "))
        }
        ModelChange::Rollout { version: Some(version), .. } => {
            format!("{model}@{version} is being rolled out; see tidemill models show {model}")
        }
        ModelChange::Rollout { version: None, .. } => {
            format!("the newest version of {model} is being rolled out; see tidemill models show {model}")
        }
        ModelChange::Abort => format!("{model}: the rollout has ended, the live version answers everybody"),
        ModelChange::Ranking { name, config: Some(_), .. } => format!("{model} has the ranking {name}"),
        ModelChange::Ranking { name, config: None, .. } => format!("{model} has no ranking {name} any more"),
    }
}

/// Changes which versions answer: through the process that owns the directory when there is one, else on disk.
pub(super) fn change(root: &Path, model: &str, change: &ModelChange) -> Result<()> {
    check_name("model", model)?;
    if let Some(address) = DataDir::owner_address(root) {
        if let ModelChange::Ranking { name, config, replace } = change {
            return rankings::send(root, &address, model, name, config.as_deref(), *replace);
        }
        let (verb, body) = request(change);
        return post(root, &address, &format!("/v1/models/{model}:{verb}"), &body.to_string());
    }
    // First the model, so that a wrong name is told as one and makes no directory.
    registry(root, model)?;
    on_disk(&DataDir::open(root)?, model, change)
}

fn request(change: &ModelChange) -> (&'static str, Value) {
    match change {
        ModelChange::Label { label, version: Some(version) } if label == "live" => {
            ("rollback", json!({"version": version}))
        }
        ModelChange::Label { label, version: None } if label == "live" => ("promote", json!({})),
        ModelChange::Label { label, version } => ("label", json!({"label": label, "version": version})),
        ModelChange::Split(weights) => (
            "split",
            weights.iter().map(|(label, weight)| (label.clone(), json!(weight))).collect::<Map<_, _>>().into(),
        ),
        ModelChange::Rollout { version, settings } => {
            let mut fields: Map<String, Value> = settings.iter().map(|(n, text)| (n.clone(), json!(text))).collect();
            fields.insert("version".into(), json!(version));
            ("rollout", fields.into())
        }
        ModelChange::Abort => ("rollout", json!({"abort": true})),
        // By another path: see `rankings::send`.
        ModelChange::Ranking { config, .. } => ("rankings", json!(config)),
    }
}

fn on_disk(data: &DataDir, model: &str, change: &ModelChange) -> Result<()> {
    let registry = registry(data.root(), model)?;
    match change {
        ModelChange::Ranking { name, config, replace } => {
            rankings::put(&*open_model(data, model)?, name, config.as_deref(), *replace)
        }
        ModelChange::Label { label, version: Some(version) } => registry.set_label(label, *version).map(drop),
        ModelChange::Label { label, version: None } => registry.remove_label(label),
        ModelChange::Split(weights) => {
            let split = Split::new(model, weights)?;
            weights.iter().try_for_each(|(label, _)| registry.check_has_label(label))?;
            registry.reroute(|routing| routing.split = if split.is_some() { weights.clone() } else { Vec::new() })
        }
        ModelChange::Rollout { settings, .. } => Plan::parse(settings).and_then(|_| Err(nobody_serves(model))),
        ModelChange::Abort => Err(nobody_serves(model)),
    }
}

fn nobody_serves(model: &str) -> Error {
    Error::unavailable(format!(
        "no process serves model '{model}', and a rollout judges live traffic; start one with tidemill run, then try again"
    ))
}

/// `models labels`: lists, sets or removes.
pub(super) fn labels(root: &Path, model: &str, label: Option<&str>, version: Option<u64>, remove: bool) -> Result<()> {
    let Some(label) = label else {
        let registry = registry(root, model)?;
        return print_line(&match labels_in_words(&registry) {
            none if none.is_empty() => format!("{model} has no labels"),
            labels => labels.replace(", ", "\n"),
        });
    };
    if version.is_none() && !remove {
        return Err(Error::invalid(format!(
            "say which version: tidemill models labels {model} {label} VERSION, or --remove"
        )));
    }
    let change = ModelChange::Label { label: label.to_string(), version };
    alter(root, &AlterModel { model: model.to_string(), change })
}

/// `models split ctr live=90 canary=10`.
pub(super) fn split(root: &Path, model: &str, weights: &[String]) -> Result<()> {
    let mut split = Vec::new();
    for weight in weights {
        let parsed = weight.split_once('=').and_then(|(label, w)| Some((label.to_string(), w.parse::<f64>().ok()?)));
        let wrong = || Error::invalid(format!("'{weight}' is not LABEL=PERCENT; write for example live=90 canary=10"));
        split.push(parsed.ok_or_else(wrong)?);
    }
    // Wrong sums are told before anybody is asked, NaN too: JSON has no such number.
    Split::new(model, &split)?;
    alter(root, &AlterModel { model: model.to_string(), change: ModelChange::Split(split) })
}

/// `canary 7, shadow 9`.
pub(super) fn labels_in_words(registry: &Registry) -> String {
    let labels: Vec<String> = registry.routing().labels.iter().map(|(label, v)| format!("{label} {v}")).collect();
    labels.join(", ")
}

/// What `models show` says below the versions: split, rollout, what became of versions.
pub(super) fn show(root: &Path, model: &str, registry: &Registry) -> Result<()> {
    let routing = registry.routing();
    let mut lines = Vec::new();
    if !routing.split.is_empty() {
        let split: Vec<String> = routing.split.iter().map(|(label, weight)| format!("{label} {weight}%")).collect();
        lines.push(format!("traffic: {}", split.join(", ")));
    }
    if let Some(rollout) = &routing.rollout {
        lines.push(rollout::line(rollout, rollout::served(root, model).as_ref()));
    }
    lines.extend(routing.verdicts.iter().rev().take(VERDICTS_SHOWN).map(rollout::verdict));
    match lines.is_empty() {
        true => Ok(()),
        false => print_line(&lines.join("\n")),
    }
}
