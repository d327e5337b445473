//! What is shown of who gets which version: as JSON, for the page and the command line, and as Prometheus' text.
//!
//! In: [`Versions`], and all models of a process for the metrics. Out: text. Nothing here changes anything.

use std::{fmt::Write, sync::Arc};

use serde_json::{Map, Value, json};

use super::{Versions, lock};
use crate::{
    registry::{Outcome, Verdict},
    rollout::{Figures, Guarded},
    server::ServedModel,
    trial::Trial,
};

/// Verdicts that the page shows.
const VERDICTS_SHOWN: usize = 5;

/// A rollout at one moment.
struct Moment {
    version: u64,
    /// From 1.
    stage: usize,
    stages: usize,
    share: f64,
    figures: Figures,
    guarded: Vec<Guarded>,
}

impl Versions {
    /// Labels, split, shadow, rollout and what became of versions.
    pub fn to_json(&self) -> Value {
        let routing = self.registry.routing();
        let split: Map<String, Value> =
            routing.split.iter().map(|(label, weight)| (label.clone(), (*weight).into())).collect();
        let verdicts: Vec<Value> = routing.verdicts.iter().rev().map(Verdict::to_json).collect();
        let mut json = json!({"labels": routing.labels, "split": split, "verdicts": verdicts});
        if let Some(rollout) = self.rollout_to_json() {
            json["rollout"] = rollout;
        }
        if let Some(shadow) = self.shadow() {
            json["shadow"] = json!({"version": shadow.version(), "figures": shadow.figures().to_json()});
        }
        let troubles = self.troubles();
        if !troubles.is_empty() {
            json["troubles"] = json!(troubles);
        }
        json
    }

    /// What operators decided and does not hold.
    fn troubles(&self) -> Vec<String> {
        lock(&self.troubles).iter().cloned().chain(self.gave_way()).collect()
    }

    /// What the label `shadow` points at, as it is watched.
    fn shadow(&self) -> Option<Arc<Trial>> {
        let of_rollout = lock(&self.rollout).as_ref().map(|going| going.trial.clone());
        let is_shadow = |t: &&Arc<Trial>| !of_rollout.as_ref().is_some_and(|r| Arc::ptr_eq(r, t));
        self.live.routes().trials.iter().find(is_shadow).cloned()
    }

    /// The rollout that is going on, with its figures and guards.
    pub fn rollout_to_json(&self) -> Option<Value> {
        let plan = self.registry.routing().rollout?.plan;
        let rollout = lock(&self.rollout);
        let going = rollout.as_ref()?;
        let figures = going.trial.figures();
        let guards: Vec<Value> = going.judge.guarded(&figures).iter().map(Guarded::to_json).collect();
        Some(json!({
            "version": going.version, "stage": going.judge.stage() + 1, "stages": going.judge.stages(),
            "share": going.judge.share(), "plan": plan.words(), "waits_for": going.waits_for,
            "figures": figures.to_json(), "guards": guards,
        }))
    }

    /// What the page shows: the rollout, and what became of versions lately.
    pub fn page_json(&self) -> Value {
        let verdicts = self.registry.routing().verdicts;
        let latest: Vec<Value> = verdicts.iter().rev().take(VERDICTS_SHOWN).map(Verdict::to_json).collect();
        json!({"now": self.rollout_to_json(), "verdicts": latest})
    }

    fn moment(&self) -> Option<Moment> {
        let rollout = lock(&self.rollout);
        let going = rollout.as_ref()?;
        let figures = going.trial.figures();
        Some(Moment {
            version: going.version,
            stage: going.judge.stage() + 1,
            stages: going.judge.stages(),
            share: going.judge.share(),
            guarded: going.judge.guarded(&figures),
            figures,
        })
    }
}

/// Rollouts, verdicts, shadows and troubles of all models. A model without a rollout has stage 0 and nothing else.
pub(crate) fn metrics(models: &[Arc<ServedModel>]) -> String {
    let models: Vec<(&str, &Versions)> = models.iter().map(|m| (m.name(), &**m.versions())).collect();
    let mut out = String::new();
    let moments: Vec<(&str, Option<Moment>)> = models.iter().map(|(name, v)| (*name, v.moment())).collect();
    let going: Vec<(&str, &Moment)> = moments.iter().filter_map(|(name, m)| Some((*name, m.as_ref()?))).collect();
    head(&mut out, "stage", "gauge", "Stage of the rollout that is going on, from 1; 0 where there is none.");
    for (model, moment) in &moments {
        let stage = moment.as_ref().map_or(0, |m| m.stage);
        let _ = writeln!(out, "tidemill_rollout_stage{{model=\"{model}\"}} {stage}");
    }
    type Figure = fn(&Moment) -> f64;
    let gauges: [(&str, &str, Figure); 6] = [
        ("version", "Version that is rolled out.", |m| m.version as f64),
        ("stages", "Stages of the rollout.", |m| m.stages as f64),
        ("share_percent", "Share of the traffic that the version has.", |m| m.share),
        ("matured_pairs", "Matured samples that both versions predicted.", |m| m.figures.quality.pairs as f64),
        ("paired_rows", "Rows of requests that both versions scored.", |m| m.figures.paired.rows as f64),
        ("passed_over", "Requests not scored twice for want of time.", |m| m.figures.paired.passed_over as f64),
    ];
    for (name, help, figure) in gauges.iter().filter(|_| !going.is_empty()) {
        head(&mut out, name, "gauge", help);
        for (model, moment) in &going {
            let _ = writeln!(out, "tidemill_rollout_{name}{{model=\"{model}\"}} {}", figure(moment));
        }
    }
    let arms: [(&str, &str, Figure, Figure); 2] = [
        (
            "requests",
            "Requests answered since the rollout began.",
            |m| m.figures.live.requests as f64,
            |m| m.figures.version.requests as f64,
        ),
        (
            "errors",
            "Those of them that failed by our fault.",
            |m| m.figures.live.errors as f64,
            |m| m.figures.version.errors as f64,
        ),
    ];
    for (name, help, live, version) in arms.iter().filter(|_| !going.is_empty()) {
        head(&mut out, name, "gauge", help);
        for (model, moment) in &going {
            for (arm, figure) in [("live", live), ("version", version)] {
                let _ = writeln!(out, "tidemill_rollout_{name}{{model=\"{model}\",arm=\"{arm}\"}} {}", figure(moment));
            }
        }
    }
    guards(&mut out, &going);
    verdicts(&mut out, &models);
    shadows(&mut out, &models);
    let help = "Decisions about versions that do not hold, as `troubles` of the model tells.";
    let _ = writeln!(out, "# HELP tidemill_version_troubles {help}\n# TYPE tidemill_version_troubles gauge");
    for (model, versions) in &models {
        let _ = writeln!(out, "tidemill_version_troubles{{model=\"{model}\"}} {}", versions.troubles().len());
    }
    out
}

/// Versions under the label `shadow`, beside what was answered.
fn shadows(out: &mut String, models: &[(&str, &Versions)]) {
    let shadows: Vec<(&str, u64, Figures)> = models
        .iter()
        .filter_map(|(model, versions)| {
            let shadow = versions.shadow()?;
            Some((*model, shadow.version(), shadow.figures()))
        })
        .collect();
    type Figure = fn(u64, &Figures) -> Option<f64>;
    let figures: [(&str, &str, Figure); 5] = [
        ("version", "Version that scores what others answer.", |version, _| Some(version as f64)),
        ("paired_rows", "Rows of requests that both versions scored.", |_, f| Some(f.paired.rows as f64)),
        ("passed_over", "Requests not scored twice for want of time.", |_, f| Some(f.paired.passed_over as f64)),
        ("difference_mean", "Mean of its score less that of the version that answered.", |_, f| {
            (f.paired.rows > 0).then(|| f.paired.difference / f.paired.rows as f64)
        }),
        ("difference_largest", "Largest difference of the two, either way.", |_, f| Some(f.paired.largest)),
    ];
    for (name, help, figure) in figures.iter().filter(|_| !shadows.is_empty()) {
        let _ = writeln!(out, "# HELP tidemill_shadow_{name} {help}\n# TYPE tidemill_shadow_{name} gauge");
        for (model, version, shadow) in &shadows {
            if let Some(value) = figure(*version, shadow) {
                let _ = writeln!(out, "tidemill_shadow_{name}{{model=\"{model}\"}} {value}");
            }
        }
    }
}

fn guards(out: &mut String, going: &[(&str, &Moment)]) {
    type Figure = fn(&Guarded) -> Option<f64>;
    let figures: [(&str, &str, Figure); 3] = [
        ("guard", "What the guard looks at: the version by the live one, or a distance.", |g| g.figure),
        ("guard_bound", "What it is held to.", |g| Some(g.bound)),
        ("guard_evidence", "What speaks against the version, by what it takes; 1 rolls it back.", |g| {
            Some(g.evidence.min(1.0))
        }),
    ];
    for (name, help, figure) in figures.iter().filter(|_| !going.is_empty()) {
        head(out, name, "gauge", help);
        for (model, moment) in going {
            for guard in &moment.guarded {
                if let Some(value) = figure(guard) {
                    let guard = guard.name;
                    let _ = writeln!(out, "tidemill_rollout_{name}{{model=\"{model}\",guard=\"{guard}\"}} {value}");
                }
            }
        }
    }
}

/// What became of versions since the process began.
fn verdicts(out: &mut String, models: &[(&str, &Versions)]) {
    head(out, "verdicts_total", "counter", "What became of versions, since the process began.");
    let told: Vec<_> = models.iter().map(|(model, versions)| (*model, versions.registry.routing().told)).collect();
    for (model, told) in &told {
        for outcome in Outcome::ALL {
            let count: u64 = told.iter().filter(|((o, _), _)| *o == outcome).map(|(_, count)| count).sum();
            let word = outcome.word().replace(' ', "_");
            let _ = writeln!(out, "tidemill_rollout_verdicts_total{{model=\"{model}\",outcome=\"{word}\"}} {count}");
        }
    }
    head(out, "rollbacks_total", "counter", "Versions rolled back, by the guard that decided.");
    for (model, told) in &told {
        for ((_, guard), count) in told.iter().filter(|((o, _), _)| *o == Outcome::RolledBack) {
            let _ = writeln!(out, "tidemill_rollout_rollbacks_total{{model=\"{model}\",guard=\"{guard}\"}} {count}");
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP tidemill_rollout_{name} {help}\n# TYPE tidemill_rollout_{name} {kind}");
}
