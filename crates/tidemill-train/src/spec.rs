//! The settings of `TO TRAIN ... WITH`, declared once and parsed once.

use tidemill_base::attribute::{Attribute, Settings, Type};
use tidemill_model::optimizer::Ftrl;

/// Words that may follow `TO TRAIN`.
pub static LEARNERS: [&str; 1] = ["FTRLClassifier"];

/// Every attribute of `TO TRAIN ... WITH`.
pub static ATTRIBUTES: [Attribute; 12] = [
    Attribute {
        name: "model.alpha",
        ty: Type::Number { min: 1e-6, max: 1e3 },
        default: Some("0.1"),
        doc: "learning rate: the first steps' size for each key",
    },
    Attribute {
        name: "model.beta",
        ty: Type::Number { min: 1e-6, max: 1e6 },
        default: Some("1"),
        doc: "how slowly a key's learning rate falls: alpha / (beta + sqrt(sum of squared gradients))",
    },
    Attribute {
        name: "model.l1",
        ty: Type::Number { min: 0.0, max: 1e6 },
        default: Some("0"),
        doc: "keeps the weight of a key at zero until its gradients add up to more than this",
    },
    Attribute {
        name: "model.l2",
        ty: Type::Number { min: 0.0, max: 1e6 },
        default: Some("0"),
        doc: "pulls weights towards zero",
    },
    Attribute {
        name: "train.batch_size",
        ty: Type::Integer { min: 1, max: 1 << 20 },
        default: Some("64"),
        doc: "samples predicted with the same parameters before the next update of them",
    },
    Attribute {
        name: "train.entries_max",
        ty: Type::Integer { min: 64, max: 1 << 40 },
        default: Some("40000000"),
        doc: "keys the parameter table admits (40,000,000 take about 1 GiB); later new keys are counted, not learned",
    },
    Attribute {
        name: "publish.every",
        ty: Type::Integer { min: 0, max: i64::MAX },
        default: Some("0"),
        doc: "sample rows learned between versions, beside publish.interval; 0 publishes at the end of bounded input only",
    },
    Attribute {
        name: "publish.interval",
        ty: Type::Duration,
        default: Some("10s"),
        doc: "time between versions over live input",
    },
    Attribute {
        name: "checkpoint.interval",
        ty: Type::Duration,
        default: Some("10s"),
        doc: "time between checkpoints",
    },
    Attribute {
        name: "validate.oracle",
        ty: Type::Text,
        default: Some(""),
        doc: "column that holds the true probability of a positive label, where it is known: gives the best possible log loss",
    },
    Attribute {
        name: "validate.window",
        ty: Type::Integer { min: 10, max: 1 << 40 },
        default: Some("100000"),
        doc: "samples that recent figures are about, to a tenth",
    },
    Attribute {
        name: "join.pending_max",
        ty: Type::Integer { min: 1, max: 1 << 32 },
        default: Some("1000000"),
        doc: "impressions that may wait for feedback; beyond it the oldest leaves with the label known so far and is counted",
    },
];

/// What `TO TRAIN ... WITH` says.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// `model.alpha`
    pub alpha: f64,
    /// `model.beta`
    pub beta: f64,
    /// `model.l1`
    pub l1: f64,
    /// `model.l2`
    pub l2: f64,
    /// `train.batch_size`: samples of a parameter-update mini-batch.
    pub batch_size: usize,
    /// `train.entries_max`
    pub entries_max: usize,
    /// `publish.every`; `None`: at the end only.
    pub publish_every: Option<u64>,
    /// `publish.interval`
    pub publish_interval_ms: i64,
    /// `checkpoint.interval`
    pub checkpoint_interval_ms: i64,
    /// `validate.oracle`
    pub oracle: Option<String>,
    /// `validate.window`
    pub validate_window: u64,
    /// `join.pending_max`
    pub pending_max: usize,
    /// Names of the feature slots, written into snapshots for people; the engine fills them in after binding.
    pub slots: Vec<String>,
}

impl TrainSpec {
    /// Reads the settings, which were made with [`ATTRIBUTES`].
    pub fn from_settings(s: &Settings) -> Self {
        let every = s.integer("publish.every") as u64;
        Self {
            alpha: s.number("model.alpha"),
            beta: s.number("model.beta"),
            l1: s.number("model.l1"),
            l2: s.number("model.l2"),
            batch_size: s.integer("train.batch_size") as usize,
            entries_max: s.integer("train.entries_max") as usize,
            publish_every: (every > 0).then_some(every),
            publish_interval_ms: s.integer("publish.interval"),
            checkpoint_interval_ms: s.integer("checkpoint.interval"),
            oracle: s.text("validate.oracle").filter(|column| !column.is_empty()),
            validate_window: s.integer("validate.window") as u64,
            pending_max: s.integer("join.pending_max") as usize,
            slots: Vec::new(),
        }
    }

    /// The same with the slots' names.
    pub fn with_slots(mut self, slots: &[String]) -> Self {
        self.slots = slots.to_vec();
        self
    }

    pub(crate) fn ftrl(&self) -> Ftrl {
        Ftrl::new(self.alpha, self.beta, self.l1, self.l2)
    }
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self::from_settings(&Settings::new(&ATTRIBUTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_attribute() {
        let spec = TrainSpec::default();
        assert_eq!((spec.alpha, spec.beta, spec.batch_size, spec.validate_window), (0.1, 1.0, 64, 100_000));
        assert_eq!((spec.publish_every, spec.oracle, spec.publish_interval_ms), (None, None, 10_000));
        let mut s = Settings::new(&ATTRIBUTES);
        s.set("publish.every", "500").unwrap();
        s.set("validate.oracle", "true_p").unwrap();
        let spec = TrainSpec::from_settings(&s);
        assert_eq!((spec.publish_every, spec.oracle.as_deref()), (Some(500), Some("true_p")));
        assert!(s.set("model.alpha", "0").unwrap_err().message().starts_with("model.alpha must be in"));
    }
}
