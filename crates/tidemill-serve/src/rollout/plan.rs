//! What a rollout is to do: stages, how long each lasts, and what must not get worse.
//!
//! In: `STAGES`, `EACH` and `GUARD` as people write them, in SQL or as JSON. Out: a [`Plan`], or what is wrong with it.

use serde_json::{Map, Value, json};
use tidemill_base::{
    Error, Result,
    attribute::{Attribute, Settings, Type},
    duration::format_duration_ms,
};

/// Stages of one rollout at most.
const STAGES_MAX: usize = 20;

const fn number(name: &'static str, min: f64, max: f64, default: &'static str, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Number { min, max }, default: Some(default), doc }
}

const fn count(name: &'static str, default: &'static str, doc: &'static str) -> Attribute {
    Attribute { name, ty: Type::Integer { min: 0, max: 1_000_000_000 }, default: Some(default), doc }
}

/// Attributes of `ALTER MODEL ... ROLLOUT (...)`. Those from the third on are written in `GUARD (...)`; where none of
/// [`GUARD_NAMES`] is written, all of them guard with their defaults.
pub static ROLLOUT_ATTRIBUTES: [Attribute; 11] = [
    Attribute {
        name: "stages",
        ty: Type::Text,
        default: Some("1%, 10%, 50%, 100%"),
        doc: "shares of the traffic, ascending to 100%",
    },
    Attribute { name: "each", ty: Type::Duration, default: Some("5s"), doc: "how long a stage lasts at least" },
    number("logloss", 1.0, 100.0, "1.005", "loss on matured samples, at most so many times the live version's"),
    number("errors", 1.0, 1000.0, "1", "share of failed requests, at most so many times the live version's"),
    number(
        "latency",
        1.0,
        1000.0,
        "1.25",
        "share of slow requests and mean time, at most so many times the live version's",
    ),
    number("calibration", 1.001, 1000.0, "1.25", "predicted by happened on matured samples: between 1 / this and this"),
    number("psi", 0.001, 100.0, "0.25", "population stability index of predictions for the same requests, at most"),
    number(
        "ks",
        0.001,
        1.0,
        "0.2",
        "largest distance of the predictions' distributions for the same requests, at most",
    ),
    number(
        "false_alarms",
        0.000_001,
        0.5,
        "0.05",
        "how probable it may be that a version like the live one is rolled back",
    ),
    count("requests_min", "20", "requests the version must have answered in a stage before it passes"),
    count("samples_min", "1000", "matured samples, or paired requests, that a guard needs before a stage passes"),
];

/// Those that can be left out, and so switched off, by writing others.
pub const GUARD_NAMES: [&str; 6] = ["logloss", "errors", "latency", "calibration", "psi", "ks"];

/// A rollout, as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Percent of the traffic in each stage, ascending; the last is 100.
    pub stages: Vec<f64>,
    /// How long each lasts at least.
    pub each_ms: i64,
    /// What must not get worse.
    pub guards: Guards,
    written: Vec<(String, String)>,
}

/// What must not get worse; `None`: not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Guards {
    /// Loss, as a multiple of the live version's.
    pub logloss: Option<f64>,
    /// Share of failed requests, as a multiple.
    pub errors: Option<f64>,
    /// Times, as a multiple.
    pub latency: Option<f64>,
    /// Predicted by happened, within this and its inverse.
    pub calibration: Option<f64>,
    /// Population stability index.
    pub psi: Option<f64>,
    /// Kolmogorov and Smirnov's distance.
    pub ks: Option<f64>,
    /// Probability that a version like the live one is rolled back.
    pub false_alarms: f64,
    /// Requests the version must have answered in each stage.
    pub requests_min: u64,
    /// Matured samples, or paired rows, that guards of quality and drift need.
    pub samples_min: u64,
}

impl Plan {
    /// From attributes as they were written, each by name.
    pub fn parse(written: &[(String, String)]) -> Result<Self> {
        let mut settings = Settings::new(&ROLLOUT_ATTRIBUTES);
        written.iter().try_for_each(|(name, text)| settings.set(name, text))?;
        let all = !GUARD_NAMES.iter().any(|name| settings.is_written(name));
        let guard = |name: &str| (all || settings.is_written(name)).then(|| settings.number(name));
        let whole = |name: &str| settings.integer(name).max(0) as u64;
        let each_ms = settings.integer("each");
        if each_ms < 1 {
            return Err(Error::invalid("each must be longer than nothing; write for example EACH '5s'"));
        }
        Ok(Self {
            stages: stages(&settings.text("stages").unwrap_or_default())?,
            each_ms,
            guards: Guards {
                logloss: guard("logloss"),
                errors: guard("errors"),
                latency: guard("latency"),
                calibration: guard("calibration"),
                psi: guard("psi"),
                ks: guard("ks"),
                false_alarms: settings.number("false_alarms"),
                requests_min: whole("requests_min"),
                samples_min: whole("samples_min"),
            },
            written: written.to_vec(),
        })
    }

    /// From a JSON object with the same names, values as text or numbers. `version` is passed over: it is not the plan's.
    pub fn from_json(fields: &Map<String, Value>) -> Result<Self> {
        let mut written = Vec::new();
        for (name, value) in fields.iter().filter(|(name, _)| *name != "version") {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(n) => n.to_string(),
                _ => return Err(Error::invalid(format!("{}: expected a number or a text", crate::shown(name)))),
            };
            written.push((name.clone(), text));
        }
        Self::parse(&written)
    }

    /// What [`Plan::from_json`] reads back.
    pub fn to_json(&self) -> Map<String, Value> {
        self.written.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect()
    }

    /// In words: `1%, 10%, 100%, 5s each`.
    pub fn words(&self) -> String {
        let stages: Vec<String> = self.stages.iter().map(|s| format!("{s}%")).collect();
        format!("{}, {} each", stages.join(", "), format_duration_ms(self.each_ms))
    }
}

impl Guards {
    /// Kinds of evidence that share the false alarms: those that are tests. Drift is a bound, far from what chance does.
    pub fn tests(&self) -> usize {
        let (logloss, errors) = (self.logloss.is_some(), self.errors.is_some());
        usize::from(logloss)
            + usize::from(errors)
            + 2 * usize::from(self.latency.is_some())
            + 2 * usize::from(self.calibration.is_some())
    }
}

fn stages(text: &str) -> Result<Vec<f64>> {
    let refuse = |why: String| Error::invalid(format!("stages '{}': {why}", crate::shown(text)));
    let mut stages: Vec<f64> = Vec::new();
    for stage in text.split(',').map(str::trim) {
        let percent = stage.strip_suffix('%').unwrap_or(stage).trim().parse::<f64>();
        let percent = percent.ok().filter(|p| *p > 0.0 && *p <= 100.0);
        let percent = percent.ok_or_else(|| refuse(format!("'{stage}' is not a share above 0% and up to 100%")))?;
        if (percent * 100.0 - (percent * 100.0).round()).abs() > 1e-6 {
            return Err(refuse(format!("'{stage}' has more than two digits behind the point")));
        }
        if stages.last().is_some_and(|last| *last >= percent) {
            return Err(refuse(format!("'{stage}' is not more than the stage before")));
        }
        stages.push(percent);
    }
    if stages.len() > STAGES_MAX {
        return Err(refuse(format!("{} stages; the limit is {STAGES_MAX}", stages.len())));
    }
    match stages.last() {
        Some(100.0) => Ok(stages),
        _ => Err(refuse("the last stage must be 100%".into())),
    }
}

/// A plan with the version it is for.
pub fn to_json(plan: &Plan, version: u64, stage: usize) -> Value {
    json!({"version": version, "stage": stage, "plan": plan.to_json()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(written: &[(&str, &str)]) -> Result<Plan> {
        Plan::parse(&written.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>())
    }

    #[test]
    fn plans_are_read_and_come_back() {
        let plan = parse(&[("stages", "1%, 10 %,50, 100%"), ("each", "250ms"), ("errors", "2")]).unwrap();
        assert_eq!((plan.stages.as_slice(), plan.each_ms), ([1.0, 10.0, 50.0, 100.0].as_slice(), 250));
        assert_eq!((plan.guards.errors, plan.guards.logloss, plan.guards.tests()), (Some(2.0), None, 1));
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        assert_eq!(plan.words(), "1%, 10%, 50%, 100%, 250ms each");
        let all = parse(&[]).unwrap();
        assert_eq!((all.guards.logloss, all.guards.tests(), all.each_ms), (Some(1.005), 6, 5_000));
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        for (written, message) in [
            ([("stages", "10%, 5%, 100%")], "stages '10%, 5%, 100%': '5%' is not more than the stage before"),
            ([("stages", "10%, 50%")], "stages '10%, 50%': the last stage must be 100%"),
            ([("stages", "NaN")], "stages 'NaN': 'NaN' is not a share above 0% and up to 100%"),
            ([("stages", "-1%, 100%")], "stages '-1%, 100%': '-1%' is not a share above 0% and up to 100%"),
            ([("stages", "110%")], "stages '110%': '110%' is not a share above 0% and up to 100%"),
            ([("stages", "")], "stages '': '' is not a share above 0% and up to 100%"),
            ([("stages", "0.001%, 100%")], "stages '0.001%, 100%': '0.001%' has more than two digits behind the point"),
            ([("each", "0s")], "each must be longer than nothing; write for example EACH '5s'"),
            ([("errors", "NaN")], "errors must be in [1, 1000], got NaN"),
            ([("logloss", "0.5")], "logloss must be in [1, 100], got 0.5"),
        ] {
            assert_eq!(parse(&written).unwrap_err().message(), message);
        }
        assert!(parse(&[("each", "5")]).unwrap_err().message().contains("unit"));
        assert!(parse(&[("speed", "5")]).unwrap_err().message().starts_with("no attribute 'speed'"));
    }
}
