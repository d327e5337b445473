//! Sums over scored predictions, and the figures that follow from them.
//!
//! In: scores, one after the other. Out: [`Metrics`]. A tally is a few cache lines; it is added to once per sample, and
//! always in the order of the impressions, so its sums have the same bits in every run.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::math::ln;

use super::{Task, score::Score};

const DECILES: usize = 10;
/// Classes that are counted each on its own; those beyond share one more count.
pub const CLASSES_COUNTED_MAX: u32 = 1_000;

/// How good some predictions were.
///
/// Of several classes, the prediction is the probability of the likeliest class and the label is 1 where that class came:
/// so `positives` are the samples predicted right, and the calibration is that of the model's confidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Samples scored.
    pub samples: u64,
    /// Of these, positive; 0 in a regression.
    pub positives: u64,
    /// Mean log loss, or cross entropy; NaN without samples and in a regression.
    pub logloss: f64,
    /// Log loss over the entropy of the labels: 1 is as good as knowing how often each comes; NaN when there is no entropy
    /// and with more than [`CLASSES_COUNTED_MAX`] classes.
    pub normalized_entropy: f64,
    /// Mean log loss of the true probabilities, over the samples where they are known: no model can be expected to do
    /// better.
    pub best_logloss: Option<f64>,
    /// Area under the ROC curve; NaN while one class is missing, and where labels are not 0 and 1. Exact over a window;
    /// since the beginning from a histogram of 4,096 scores.
    pub auc: f64,
    /// Mean predicted probability or number; NaN without samples.
    pub mean_prediction: f64,
    /// Share of positives, or mean number; NaN without samples.
    pub mean_label: f64,
    /// By predicted probability: [0, 0.1), [0.1, 0.2) and so on. Empty deciles in a regression.
    pub calibration: [Decile; DECILES],
    /// What a regression has beside them.
    pub regression: Option<RegressionMetrics>,
    /// What several classes have beside them.
    pub classes: Option<ClassMetrics>,
}

/// Predictions in one tenth of the range of probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decile {
    /// How many.
    pub count: u64,
    /// Their mean; NaN when there is none.
    pub mean_prediction: f64,
    /// Share of positive labels; NaN when there is none.
    pub mean_label: f64,
}

/// How far predicted numbers were from the true ones. All NaN without samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegressionMetrics {
    /// Mean squared error.
    pub mse: f64,
    /// Its square root.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Share of the labels' variance that is explained: 0 is as good as knowing the mean; NaN when there is no variance.
    pub r2: f64,
    /// RMSE of the expected numbers, over the samples where they are known.
    pub best_rmse: Option<f64>,
}

/// How often the likeliest class was right.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMetrics {
    /// Share of samples whose class had the highest score; NaN without samples.
    pub accuracy: f64,
    /// By class; classes from [`CLASSES_COUNTED_MAX`] on share the last.
    pub counts: Vec<ClassCount>,
}

/// How often a class came and was predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCount {
    /// Samples of the class.
    pub labels: u64,
    /// Samples for which it was the likeliest.
    pub guesses: u64,
    /// Samples where both are true.
    pub right: u64,
}

/// Sums over scored samples.
#[derive(Clone, Default)]
pub(super) struct Tally {
    samples: u64,
    loss: f64,
    best_loss: f64,
    /// Samples whose best loss is known.
    oracles: u64,
    numbers: Numbers,
    deciles: [DecileSums; DECILES],
    classes: Vec<ClassCount>,
}

/// Of a regression.
#[derive(Clone, Copy, Default)]
struct Numbers {
    label: f64,
    prediction: f64,
    absolute: f64,
    /// The first label. The variance is summed around it, because far from zero its digits would be lost.
    origin: f64,
    around: f64,
    around_squared: f64,
}

#[derive(Clone, Copy, Default)]
struct DecileSums {
    count: u64,
    positives: u64,
    p: f64,
}

impl Tally {
    pub(super) fn new(task: Task) -> Self {
        Self { classes: vec![ClassCount::default(); task.classes_counted()], ..Self::default() }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, task: Task, score: &Score) {
        self.samples += 1;
        self.loss += score.loss;
        if !score.best_loss.is_nan() {
            self.best_loss += score.best_loss;
            self.oracles += 1;
        }
        match task {
            Task::Binary => self.add_probability(score.prediction, score.label > 0.0),
            Task::Regression => self.add_number(score),
            Task::Classes(_) => self.add_class(score),
        }
    }

    #[inline(always)]
    fn add_probability(&mut self, p: f32, positive: bool) {
        let p = p as f64;
        let decile = &mut self.deciles[((p * DECILES as f64) as i32 as usize).min(DECILES - 1)];
        decile.count += 1;
        decile.positives += positive as u64;
        decile.p += p;
    }

    fn add_number(&mut self, score: &Score) {
        let (label, prediction) = (score.label as f64, score.prediction as f64);
        let sums = &mut self.numbers;
        if self.samples == 1 {
            sums.origin = label;
        }
        sums.label += label;
        sums.prediction += prediction;
        sums.absolute += (prediction - label).abs();
        sums.around += label - sums.origin;
        sums.around_squared += (label - sums.origin) * (label - sums.origin);
    }

    fn add_class(&mut self, score: &Score) {
        let right = score.is_right();
        self.add_probability(score.prediction, right);
        let last = self.classes.len() - 1;
        let (label, guess) = ((score.label as usize).min(last), (score.guess as usize).min(last));
        self.classes[label].labels += 1;
        self.classes[guess].guesses += 1;
        self.classes[label].right += right as u64;
    }

    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// The figures; AUC is not in the sums.
    pub(super) fn metrics(&self, task: Task, auc: f64) -> Metrics {
        let samples = self.samples as f64;
        let positives: u64 = self.deciles.iter().map(|d| d.positives).sum();
        let best = (self.oracles > 0).then(|| self.best_loss / self.oracles as f64);
        let is_regression = task == Task::Regression;
        let logloss = if is_regression { f64::NAN } else { self.loss / samples };
        let (label, prediction) = match is_regression {
            true => (self.numbers.label, self.numbers.prediction),
            false => (positives as f64, self.deciles.iter().map(|d| d.p).sum()),
        };
        Metrics {
            samples: self.samples,
            positives,
            logloss,
            normalized_entropy: logloss / self.entropy(task, positives),
            best_logloss: best.filter(|_| !is_regression),
            auc,
            mean_prediction: prediction / samples,
            mean_label: label / samples,
            calibration: self.deciles.map(|d| Decile {
                count: d.count,
                mean_prediction: d.p / d.count as f64,
                mean_label: d.positives as f64 / d.count as f64,
            }),
            regression: is_regression.then(|| self.regression(best)),
            classes: matches!(task, Task::Classes(_))
                .then(|| ClassMetrics { accuracy: positives as f64 / samples, counts: self.classes.clone() }),
        }
    }

    fn regression(&self, best: Option<f64>) -> RegressionMetrics {
        let Numbers { absolute, around, around_squared, .. } = self.numbers;
        let samples = self.samples as f64;
        let variance = around_squared - around / samples * around;
        RegressionMetrics {
            mse: self.loss / samples,
            rmse: (self.loss / samples).sqrt(),
            mae: absolute / samples,
            r2: if variance > 0.0 { 1.0 - self.loss / variance } else { f64::NAN },
            best_rmse: best.map(f64::sqrt),
        }
    }

    fn entropy(&self, task: Task, positives: u64) -> f64 {
        match task {
            Task::Binary => entropy([positives, self.samples - positives].into_iter(), self.samples),
            Task::Classes(classes) if classes <= CLASSES_COUNTED_MAX => {
                entropy(self.classes.iter().map(|class| class.labels), self.samples)
            }
            Task::Classes(_) | Task::Regression => f64::NAN,
        }
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.samples).put_f64(self.loss).put_f64(self.best_loss).put_varint(self.oracles);
        let n = &self.numbers;
        for x in [n.label, n.prediction, n.absolute, n.origin, n.around, n.around_squared] {
            out.put_f64(x);
        }
        for d in &self.deciles {
            out.put_varint(d.count).put_varint(d.positives).put_f64(d.p);
        }
        for class in &self.classes {
            out.put_varint(class.labels).put_varint(class.guesses).put_varint(class.right);
        }
    }

    pub(super) fn decode(task: Task, from: &mut Decoder) -> Result<Self> {
        let mut tally = Self::new(task);
        tally.samples = from.varint()?;
        (tally.loss, tally.best_loss, tally.oracles) = (from.f64()?, from.f64()?, from.varint()?);
        tally.numbers = Numbers {
            label: from.f64()?,
            prediction: from.f64()?,
            absolute: from.f64()?,
            origin: from.f64()?,
            around: from.f64()?,
            around_squared: from.f64()?,
        };
        for d in &mut tally.deciles {
            *d = DecileSums { count: from.varint()?, positives: from.varint()?, p: from.f64()? };
        }
        for class in &mut tally.classes {
            *class = ClassCount { labels: from.varint()?, guesses: from.varint()?, right: from.varint()? };
        }
        let (mut counted, mut positives) = (0u64, 0u64);
        for d in &tally.deciles {
            counted = counted.saturating_add(d.count);
            positives = positives.saturating_add(d.positives);
        }
        let expected = if task == Task::Regression { 0 } else { tally.samples };
        match counted == expected && positives <= counted {
            true => Ok(tally),
            false => Err(Error::corrupt(format!(
                "validation: deciles of {counted} samples with {positives} positives, of {expected} samples"
            ))),
        }
    }
}

/// Entropy of the counts' shares of `total`; NaN when there is none.
fn entropy(counts: impl Iterator<Item = u64>, total: u64) -> f64 {
    let shares = counts.filter(|count| *count > 0).map(|count| count as f64 / total as f64);
    let entropy: f64 = shares.map(|share| -(share * ln(share))).sum();
    if entropy > 0.0 { entropy } else { f64::NAN }
}
