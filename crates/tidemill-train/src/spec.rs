//! What `TO TRAIN learner WITH ...` says, parsed once.

use tidemill_base::{Error, Result, attribute::Settings};
use tidemill_model::{
    loss::Loss,
    model::{Deep, LearnerSpec, ModelSpec},
    optimizer::{Adagrad, Adam, Clip, Ftrl, GradientFilter, Momentum, Optimizer, Penalty, Schedule, Sgd},
    precision::Precisions,
};
use tidemill_stream::join::WhenFull;

use crate::{Task, attributes::ATTRIBUTES};

/// Words that may follow `TO TRAIN`. `FTRLClassifier` is `LogisticRegression` by its optimizer's name.
pub static LEARNERS: [&str; 14] = [
    "LogisticRegression",
    "FTRLClassifier",
    "LinearRegression",
    "SoftmaxRegression",
    "FMClassifier",
    "FMRegressor",
    "FFMClassifier",
    "FFMRegressor",
    "MLPClassifier",
    "MLPRegressor",
    "WideDeepClassifier",
    "WideDeepRegressor",
    "DeepFMClassifier",
    "DeepFMRegressor",
];

/// What `TO TRAIN ... WITH` says.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// Learner and loss.
    pub model: ModelSpec,
    /// Of weights.
    pub optimizer: Optimizer,
    /// Of factors and embeddings.
    pub factors_optimizer: Optimizer,
    /// Of layers.
    pub dense_optimizer: Optimizer,
    /// `model.schedule`
    pub schedule: Schedule,
    /// `model.clip_value`, `model.clip_norm`
    pub clip: Clip,
    /// `model.seed`
    pub seed: u64,
    /// `train.batch_size`: samples of a parameter-update mini-batch.
    pub batch_size: usize,
    /// `train.passes`
    pub passes: u64,
    /// `train.weight`
    pub weight: Option<String>,
    /// `train.gradient_keep`, `train.gradient_threshold`
    pub gradient_filter: GradientFilter,
    /// `train.admit_after`
    pub admit_after: u8,
    /// `train.entries_max`
    pub entries_max: usize,
    /// `train.bytes_max`: of the parameter table.
    pub bytes_max: usize,
    /// `train.when_full`: whether entries of least worth leave, or new keys are refused.
    pub evicts: bool,
    /// `train.forget_after`: samples after which an entry leaves that nothing was learned about; `None`: never.
    pub forget_after: Option<u64>,
    /// `publish.prune`
    pub prune: f32,
    /// `publish.precision`
    pub precision: Precisions,
    /// `publish.every`; `None`: at the end only.
    pub publish_every: Option<u64>,
    /// `publish.interval`
    pub publish_interval_ms: i64,
    /// `publish.label_rate`
    pub publish_label_rate: f64,
    /// `publish.calibration`
    pub publish_calibration: f64,
    /// `publish.logloss`
    pub publish_logloss: f64,
    /// `publish.keep`
    pub publish_keep: usize,
    /// `publish.keep_for`; `None`: whatever the age.
    pub publish_keep_for_ms: Option<i64>,
    /// `checkpoint.interval`
    pub checkpoint_interval_ms: i64,
    /// Whether records go that no kept checkpoint needs (`journal.keep`).
    pub journal_is_cut: bool,
    /// `validate.oracle`
    pub oracle: Option<String>,
    /// `validate.by`
    pub group_by: Option<String>,
    /// `validate.window`
    pub validate_window: u64,
    /// `join.pending_max`
    pub pending_max: usize,
    /// `join.bytes_max`
    pub pending_bytes_max: usize,
    /// `join.when_full`
    pub join_when_full: WhenFull,
    /// `join.correction_ttl`
    pub correction_ttl_ms: i64,
    /// `join.allowed_lateness`
    pub allowed_lateness_ms: i64,
    /// Names of the feature slots, by slot number; the engine fills them in after binding.
    pub slots: Vec<String>,
    /// Slots with settings of their own, by name: all settings, as they are for the slot.
    pub by_slot: Vec<OfSlot>,
}

/// The settings of a slot that has some of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct OfSlot {
    /// The slot's name.
    pub slot: String,
    /// An attribute that names it.
    pub attribute: &'static str,
    /// All settings, as they are for the slot.
    pub spec: TrainSpec,
}

impl TrainSpec {
    /// Reads the settings, which were made with [`ATTRIBUTES`].
    pub fn from_settings(learner: &str, s: &Settings) -> Result<Self> {
        let mut spec = Self::for_all(learner, s)?;
        for (slot, attribute) in s.slots() {
            let of_slot = Self::for_all(learner, &s.of_slot(slot)).map_err(|e| e.at(format!("slot '{slot}'")))?;
            spec.by_slot.push(OfSlot { slot: slot.to_string(), attribute, spec: of_slot });
        }
        spec.check_dimensions(s)?;
        Ok(spec)
    }

    /// The settings without those of single slots.
    fn for_all(learner: &str, s: &Settings) -> Result<Self> {
        let column = |name: &str| s.text(name).filter(|column| !column.is_empty());
        let every = s.integer("publish.every") as u64;
        let optimizer = optimizer(s, "model.optimizer", "ftrl", "model.alpha", s.number("model.l2"))?;
        let factors_l2 = s.number("model.factors_l2");
        let schedule = Schedule::parse(&s.text("model.schedule").unwrap_or_default())
            .map_err(|why| Error::invalid(format!("model.schedule {why}")))?;
        let spec = Self {
            model: model(learner, s)?,
            optimizer,
            factors_optimizer: self::optimizer(
                s,
                "model.factors_optimizer",
                "adagrad",
                "model.factors_alpha",
                factors_l2,
            )?,
            dense_optimizer: self::optimizer(s, "model.dense_optimizer", "adam", "model.dense_alpha", 0.0)?,
            schedule,
            clip: Clip {
                value: s.number_opt("model.clip_value").map_or(f32::INFINITY, |x| x as f32),
                norm: s.number_opt("model.clip_norm").map_or(f32::INFINITY, |x| x as f32),
            },
            seed: s.integer("model.seed") as u64,
            batch_size: s.integer("train.batch_size") as usize,
            passes: s.integer("train.passes") as u64,
            weight: column("train.weight"),
            gradient_filter: gradient_filter(s)?,
            admit_after: s.integer("train.admit_after") as u8,
            entries_max: s.integer("train.entries_max") as usize,
            bytes_max: s.integer_opt("train.bytes_max").map_or(usize::MAX, |bytes| bytes as usize),
            evicts: s.text("train.when_full").as_deref() == Some("evict"),
            forget_after: Some(s.integer("train.forget_after") as u64).filter(|samples| *samples > 0),
            prune: s.number("publish.prune") as f32,
            precision: Precisions::parse(&s.text("publish.precision").unwrap_or_default())?,
            publish_every: (every > 0).then_some(every),
            publish_interval_ms: s.integer("publish.interval"),
            publish_label_rate: s.number("publish.label_rate"),
            publish_calibration: s.number("publish.calibration"),
            publish_logloss: s.number("publish.logloss"),
            publish_keep: s.integer("publish.keep") as usize,
            publish_keep_for_ms: s.integer_opt("publish.keep_for"),
            checkpoint_interval_ms: s.integer("checkpoint.interval"),
            journal_is_cut: s.text("journal.keep").as_deref() == Some("checkpoints"),
            oracle: column("validate.oracle"),
            group_by: column("validate.by"),
            validate_window: s.integer("validate.window") as u64,
            pending_max: s.integer("join.pending_max") as usize,
            pending_bytes_max: s.integer_opt("join.bytes_max").map_or(usize::MAX, |bytes| bytes as usize),
            join_when_full: match s.text("join.when_full").as_deref() {
                Some("spill") => WhenFull::Spill,
                Some("stop") => WhenFull::Stop,
                _ => WhenFull::Release,
            },
            correction_ttl_ms: s.integer("join.correction_ttl"),
            allowed_lateness_ms: s.integer("join.allowed_lateness"),
            slots: Vec::new(),
            by_slot: Vec::new(),
        };
        spec.checked()
    }

    /// Slots may differ in the dimension of their vectors where these are added to the others' only.
    fn check_dimensions(&self, s: &Settings) -> Result<()> {
        match (&self.model.learner, s.by_slot("model.factors")) {
            (LearnerSpec::Ffm { .. }, [(slot, _), ..]) => Err(Error::invalid(format!(
                "model.factors: slot '{slot}' cannot have a dimension of its own in FFM, where its factors meet those of every \
                 other slot; write one value for all"
            ))),
            _ => Ok(()),
        }
    }

    /// The learner whose entries hold the factors or embeddings of every slot: as wide as the widest.
    pub fn widest(&self) -> ModelSpec {
        let learner = &self.model.learner;
        let of_slots = self.by_slot.iter().filter_map(|own| own.spec.model.learner.dimension());
        match learner.dimension().into_iter().chain(of_slots).max() {
            None => self.model.clone(),
            Some(widest) => ModelSpec { learner: learner.clone().with_dimension(widest), loss: self.model.loss },
        }
    }

    fn checked(self) -> Result<Self> {
        if self.schedule != Schedule::Constant && !self.optimizer.takes_schedule() {
            return Err(Error::invalid(
                "model.schedule: ftrl derives its weights from one rate; use another model.optimizer, or constant",
            ));
        }
        if self.join_when_full == WhenFull::Spill && self.pending_bytes_max == usize::MAX {
            return Err(Error::invalid(
                "join.when_full = 'spill': say how many bytes of rows may be in memory, as in join.bytes_max = '1GiB'",
            ));
        }
        if self.journal_is_cut && self.passes > 1 {
            return Err(Error::invalid(
                "journal.keep = 'checkpoints' is for streams that do not end; with train.passes write 'all'",
            ));
        }
        Ok(self)
    }

    /// The same for deriving again what was learned: a join that stops at its bounds did not reach them.
    pub fn never_stopping(mut self) -> Self {
        if self.join_when_full == WhenFull::Stop {
            (self.pending_max, self.pending_bytes_max) = (usize::MAX, usize::MAX);
        }
        self
    }

    /// The same with the slots' names.
    pub fn with_slots(mut self, slots: &[String]) -> Self {
        self.slots = slots.to_vec();
        self
    }

    /// What labels are.
    pub fn task(&self) -> Task {
        match self.model.loss {
            Loss::Logistic => Task::Binary,
            Loss::Squared | Loss::Huber { .. } | Loss::Bounded { .. } => Task::Regression,
            Loss::Softmax { classes } => Task::Classes(classes as u32),
        }
    }

    /// The settings that what is learned depends on.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let mut described = vec![
            ("learner", format!("{:?}", self.model.learner)),
            ("loss", format!("{:?}", self.model.loss)),
            ("model.optimizer", format!("{:?}", self.optimizer)),
            ("model.factors_optimizer", format!("{:?}", self.factors_optimizer)),
            ("model.dense_optimizer", format!("{:?}", self.dense_optimizer)),
            ("model.schedule", format!("{:?}", self.schedule)),
            ("model.clip", format!("{:?}", self.clip)),
            ("model.seed", self.seed.to_string()),
            ("train.batch_size", self.batch_size.to_string()),
            ("train.passes", self.passes.to_string()),
            ("train.admit_after", self.admit_after.to_string()),
            ("train.when_full", if self.evicts { "evict" } else { "refuse" }.to_string()),
            ("validate.window", self.validate_window.to_string()),
        ];
        // Not named where it is off: checkpoints made before there was a filter stay good.
        if self.gradient_filter != GradientFilter::All {
            described.push(("train.gradient_keep", format!("{:?}", self.gradient_filter)));
        }
        if let Some(samples) = self.forget_after {
            described.push(("train.forget_after", samples.to_string()));
        }
        described
    }

    /// What slots have of their own among [`TrainSpec::describe`] and the bounds of slots: `slot 'user': model.optimizer`
    /// and its value.
    pub fn describe_slots(&self) -> Vec<(String, String)> {
        let mut described = Vec::new();
        for OfSlot { slot, spec, .. } in &self.by_slot {
            let of_all = self.describe();
            let bounds = |spec: &Self| [spec.entries_max, spec.bytes_max].map(|bound| bound.to_string());
            let with_bounds = |described: Vec<(&'static str, String)>, spec: &Self| {
                let bounds = ["train.entries_max", "train.bytes_max"].into_iter().zip(bounds(spec));
                described.into_iter().chain(bounds).collect::<Vec<_>>()
            };
            let of_all = with_bounds(of_all, self);
            let own = with_bounds(spec.describe(), spec).into_iter().filter(|own| !of_all.contains(own));
            described.extend(own.map(|(name, value)| (format!("slot '{slot}': {name}"), value)));
            if spec.forget_after.is_none() && self.forget_after.is_some() {
                described.push((format!("slot '{slot}': train.forget_after"), "0".into()));
            }
        }
        described
    }
}

fn model(learner: &str, s: &Settings) -> Result<ModelSpec> {
    let [delta, low, high] = ["model.huber_delta", "model.label_min", "model.label_max"].map(|name| s.number_opt(name));
    let regression = match (delta, low, high) {
        (None, None, None) => Loss::Squared,
        (Some(delta), None, None) => Loss::Huber { delta: delta as f32 },
        (None, Some(low), Some(high)) if low < high => Loss::Bounded { low: low as f32, high: high as f32 },
        (Some(_), ..) => return Err(Error::invalid("model.huber_delta: not together with model.label_min or _max")),
        _ => return Err(Error::invalid("model.label_min must be given with a larger model.label_max")),
    };
    let factors = |default: usize| match s.is_written("model.factors") {
        true => s.integer("model.factors") as usize,
        false => default,
    };
    let spread = |default: f32| s.number_opt("model.spread").map_or(default, |x| x as f32);
    let dropout = s.number("model.dropout") as f32;
    let fm = || LearnerSpec::Fm { factors: factors(8), spread: spread(0.01), dropout };
    // Juan et al. draw from [0, 1 / sqrt k], which is noise to every sample until it is learned away, and in one pass it is
    // not: a spread of 0.1 ended at a test log loss of 0.531 on generated clicks, one of 0.005 at 0.517.
    let ffm = || {
        let k = factors(4);
        LearnerSpec::Ffm { factors: k, spread: spread(0.01 / (k as f32).sqrt()) }
    };
    let layers = s.text("model.layers").unwrap_or_default();
    let layers = Deep::parse_layers(&layers).map_err(|why| match layers.contains('=') {
        true => {
            Error::invalid(format!("model.layers cannot differ by slot: '{layers}' names one; write one value for all"))
        }
        false => Error::invalid(format!("model.layers {why}")),
    })?;
    let deep = || Deep { embedding: s.integer("model.embedding") as usize, spread: spread(0.05), layers, dropout };
    let classes = Loss::Softmax { classes: s.integer("model.classes") as usize };
    let (learner, loss) = match learner {
        "LogisticRegression" | "FTRLClassifier" => (LearnerSpec::Linear, Loss::Logistic),
        "LinearRegression" => (LearnerSpec::Linear, regression),
        "SoftmaxRegression" => (LearnerSpec::Linear, classes),
        "FMClassifier" => (fm(), Loss::Logistic),
        "FMRegressor" => (fm(), regression),
        "FFMClassifier" => (ffm(), Loss::Logistic),
        "FFMRegressor" => (ffm(), regression),
        "MLPClassifier" if s.is_written("model.classes") => (LearnerSpec::Mlp(deep()), classes),
        "MLPClassifier" => (LearnerSpec::Mlp(deep()), Loss::Logistic),
        "MLPRegressor" => (LearnerSpec::Mlp(deep()), regression),
        "WideDeepClassifier" => (LearnerSpec::WideDeep(deep()), Loss::Logistic),
        "WideDeepRegressor" => (LearnerSpec::WideDeep(deep()), regression),
        "DeepFMClassifier" => (LearnerSpec::DeepFm(deep()), Loss::Logistic),
        "DeepFMRegressor" => (LearnerSpec::DeepFm(deep()), regression),
        _ => return Err(Error::internal(format!("learner '{learner}' is listed and not known"))),
    };
    if delta.is_some() && !matches!(loss, Loss::Huber { .. }) {
        return Err(Error::invalid("model.huber_delta: only regressions have a Huber loss"));
    }
    if low.is_some() && !matches!(loss, Loss::Bounded { .. }) {
        return Err(Error::invalid("model.label_min, model.label_max: only regressions have bounds of labels"));
    }
    Ok(ModelSpec { learner, loss })
}

/// How much of a gradient is applied at once.
fn gradient_filter(s: &Settings) -> Result<GradientFilter> {
    match (s.number("train.gradient_keep"), s.number_opt("train.gradient_threshold")) {
        (keep, Some(threshold)) if keep < 1.0 => Err(Error::invalid(format!(
            "train.gradient_threshold: {threshold} is not together with train.gradient_keep {keep}, which finds its own \
             threshold; give one of them"
        ))),
        (_, Some(threshold)) => Ok(GradientFilter::Threshold(threshold as f32)),
        (keep, None) if keep < 1.0 => Ok(GradientFilter::Keep(keep as f32)),
        (_, None) => Ok(GradientFilter::All),
    }
}

/// The optimizer that settings name, with its rate and penalties.
fn optimizer(s: &Settings, name: &str, default: &str, rate: &str, l2: f64) -> Result<Optimizer> {
    let name = s.text(name).unwrap_or_else(|| default.to_string());
    let usual = match name.as_str() {
        "momentum" => 0.01,
        "adam" | "amsgrad" => 0.001,
        _ => 0.1,
    };
    let alpha = s.number_opt(rate).unwrap_or(usual);
    let (beta, l1, group_l1) = (s.number("model.beta"), s.number("model.l1"), s.number("model.group_l1"));
    // L1 is for weights: a factor at zero would never leave it alone.
    let (l1, group_l1) = if rate == "model.alpha" { (l1, 0.0) } else { (0.0, group_l1) };
    let penalty = Penalty { l1: l1 as f32, l2: l2 as f32, group_l1: group_l1 as f32 };
    let (eta, beta) = (alpha as f32, beta as f32);
    Ok(match name.as_str() {
        "sgd" => Optimizer::Sgd(Sgd { eta, penalty }),
        "momentum" => Optimizer::Momentum(Momentum { eta, mu: s.number("model.momentum") as f32, penalty }),
        "adagrad" | "rowwise_adagrad" => {
            Optimizer::Adagrad(Adagrad { alpha: eta, beta, shares_n: name == "rowwise_adagrad", penalty })
        }
        "ftrl" => Optimizer::Ftrl(Ftrl::new(alpha, s.number("model.beta"), l1, l2).with_group_l1(group_l1)),
        "adam" | "amsgrad" => Optimizer::Adam(Adam {
            alpha: eta,
            beta1: s.number("model.beta1") as f32,
            beta2: s.number("model.beta2") as f32,
            epsilon: s.number("model.epsilon") as f32,
            keeps_largest: name == "amsgrad",
            penalty,
        }),
        _ => return Err(Error::internal(format!("optimizer '{name}' is listed and not known"))),
    })
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self::from_settings(LEARNERS[0], &Settings::new(&ATTRIBUTES)).expect("the defaults are good settings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(learner: &str, written: &[(&str, &str)]) -> Result<TrainSpec> {
        let mut s = Settings::new(&ATTRIBUTES);
        written.iter().try_for_each(|(name, value)| s.set(name, value))?;
        TrainSpec::from_settings(learner, &s)
    }

    #[test]
    fn every_default_is_a_value_of_its_attribute() {
        let spec = TrainSpec::default();
        assert_eq!((spec.optimizer, spec.batch_size), (Optimizer::Ftrl(Ftrl::new(0.1, 1.0, 0.0, 0.0)), 64));
        assert_eq!((spec.publish_every, spec.oracle, spec.publish_interval_ms), (None, None, 10_000));
        LEARNERS.iter().for_each(|learner| _ = self::spec(learner, &[]).unwrap());
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused_with_the_way_out() {
        let why = |learner: &str, written: &[(&str, &str)]| spec(learner, written).unwrap_err().message().to_string();
        let l = "LogisticRegression";
        assert!(why(l, &[("model.alpha", "0")]).starts_with("model.alpha must be in"));
        assert!(why(l, &[("model.schedule", "halve:100")]).contains("use another model.optimizer"));
        assert!(why(l, &[("model.schedule", "fast")]).starts_with("model.schedule expects constant"));
        let both = [("train.gradient_keep", "0.01"), ("train.gradient_threshold", "0.5")];
        assert!(why(l, &both).contains("0.5 is not together with train.gradient_keep 0.01"));
        assert!(why(l, &[("train.gradient_keep", "0")]).starts_with("train.gradient_keep must be in"));
        assert!(why(l, &[("model.huber_delta", "1")]).contains("only regressions"));
        for layers in ["", "0", "128,x", "64,,32", "8193", "-1"] {
            assert!(
                why("MLPClassifier", &[("model.layers", layers)]).starts_with("model.layers expects units"),
                "{layers}"
            );
        }
        let many = ["8"; 17].join(",");
        assert!(why("MLPClassifier", &[("model.layers", &many)]).contains("at most 16 layers; got 17"));
        let (low, high) = (("model.label_min", "-1"), ("model.label_max", "1"));
        assert!(why("FMRegressor", &[low]).contains("with a larger model.label_max"));
        assert!(why("FMRegressor", &[low, high, ("model.huber_delta", "1")]).contains("not together"));
        assert!(why(l, &[low, high]).contains("only regressions"));
        spec("FMRegressor", &[low, high]).unwrap();
        spec(l, &[("model.optimizer", "sgd"), ("model.schedule", "halve:100")]).unwrap();
    }
}
