//! `ALTER MODEL`: the model is one that there is, numbers are numbers, attributes are known.

use super::source;
use crate::{
    diagnostic::{Checked, Fault},
    parse::alter::{AlterDef, ChangeDef},
    program::{AlterModel, Known, ModelChange},
};

/// Binds a change. `trained` are the models of earlier statements.
pub(crate) fn bind(def: &AlterDef, known: &Known, trained: &[String]) -> Checked<AlterModel> {
    let models: Vec<&str> = known.models.iter().chain(trained).map(String::as_str).collect();
    if !models.contains(&def.model.text.as_str()) {
        let fault = Fault::new(def.model.span, format!("no model '{}'", def.model.text));
        return Err(fault.nearest(&def.model.text, models, "models"));
    }
    let change = match &def.change {
        ChangeDef::Abort => ModelChange::Abort,
        ChangeDef::Ranking { name, version, config, replace } => ModelChange::Ranking {
            name: version.map_or_else(|| name.text.clone(), |version| format!("{}@{version}", name.text)),
            config: config.clone(),
            replace: *replace,
        },
        ChangeDef::Label { label, version } => ModelChange::Label { label: label.text.clone(), version: *version },
        ChangeDef::Split(weights) => {
            let mut split = Vec::new();
            for w in weights {
                let weight = w.value.parse::<f64>().ok().filter(|weight| (0.0..=100.0).contains(weight));
                let refused = || {
                    let label = &w.name.text;
                    Fault::new(w.value_span, format!("weight of '{label}' must be from 0 to 100, got '{}'", w.value))
                };
                split.push((w.name.text.clone(), weight.ok_or_else(refused)?));
            }
            let sum: f64 = split.iter().map(|(_, weight)| weight).sum();
            if (sum - 100.0).abs() > 1e-9 {
                let fault = Fault::new(weights[0].name.span, format!("weights must sum to 100, got {sum}"));
                return Err(fault.hint("the live version has its share too: SPLIT (live = 90, canary = 10)"));
            }
            ModelChange::Split(split)
        }
        ChangeDef::Rollout { version, settings } => {
            source::settings(known.rollout_attributes.iter().copied(), settings, "ROLLOUT")?;
            let settings = settings.iter().map(|w| (w.name.text.to_ascii_lowercase(), w.value.clone())).collect();
            ModelChange::Rollout { version: *version, settings }
        }
    };
    Ok(AlterModel { model: def.model.text.clone(), change })
}
