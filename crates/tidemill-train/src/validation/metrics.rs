//! Sums over scored predictions, and the figures that follow from them.

use tidemill_base::{
    Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::math::{ln, sigmoid};

/// Bins of the score histogram: logits from -16 to 16 in steps of 1/128.
const BINS: usize = 4096;
const LOGIT_MAX: f32 = 16.0;
/// The loss of a sure and wrong prediction is that of this probability.
const CLIP: f64 = 1e-7;
const DECILES: usize = 10;

/// How good some predictions were; see [`Summary`](super::Summary).
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Samples scored.
    pub samples: u64,
    /// Of these, positive.
    pub positives: u64,
    /// Mean log loss; NaN without samples.
    pub logloss: f64,
    /// Log loss over the entropy of the base rate; NaN when there is no entropy.
    pub normalized_entropy: f64,
    /// Mean log loss of the true probabilities, over the samples where they are known.
    pub best_logloss: Option<f64>,
    /// Area under the ROC curve; NaN while one class is missing.
    pub auc: f64,
    /// Mean predicted probability; NaN without samples.
    pub mean_prediction: f64,
    /// By predicted probability: [0, 0.1), [0.1, 0.2) and so on.
    pub calibration: [Decile; DECILES],
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

/// What one sample adds.
pub(super) struct Score {
    positive: bool,
    loss: f64,
    best_loss: Option<f64>,
    p: f64,
    bin: usize,
}

impl Score {
    pub(super) fn of(logit: f32, oracle: f32, positive: bool) -> Self {
        let p = sigmoid(logit) as f64;
        let known = (0.0..=1.0).contains(&oracle);
        let share = (logit.clamp(-LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX) / (2.0 * LOGIT_MAX);
        Self {
            positive,
            loss: log_loss(p, positive),
            best_loss: known.then(|| log_loss(oracle as f64, positive)),
            p,
            bin: ((share * BINS as f32) as usize).min(BINS - 1),
        }
    }
}

fn log_loss(p: f64, positive: bool) -> f64 {
    -ln((if positive { p } else { 1.0 - p }).clamp(CLIP, 1.0 - CLIP))
}

/// Sums over scored samples.
#[derive(Clone)]
pub(super) struct Tally {
    loss: f64,
    best_loss: f64,
    oracles: u64,
    deciles: [DecileSums; DECILES],
    /// By bin: negative and positive samples.
    scores: Box<[[u64; 2]; BINS]>,
}

#[derive(Clone, Copy, Default)]
struct DecileSums {
    count: u64,
    positives: u64,
    p: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let scores = vec![[0; 2]; BINS].into_boxed_slice().try_into().expect("made with BINS bins");
        Self { loss: 0.0, best_loss: 0.0, oracles: 0, deciles: [DecileSums::default(); DECILES], scores }
    }
}

impl Tally {
    pub(super) fn add(&mut self, score: &Score) {
        self.loss += score.loss;
        if let Some(best) = score.best_loss {
            self.best_loss += best;
            self.oracles += 1;
        }
        let decile = &mut self.deciles[((score.p * DECILES as f64) as usize).min(DECILES - 1)];
        decile.count += 1;
        decile.positives += score.positive as u64;
        decile.p += score.p;
        self.scores[score.bin][score.positive as usize] += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        self.best_loss += other.best_loss;
        self.oracles += other.oracles;
        for (mine, theirs) in self.deciles.iter_mut().zip(&other.deciles) {
            mine.count += theirs.count;
            mine.positives += theirs.positives;
            mine.p += theirs.p;
        }
        for (mine, theirs) in self.scores.iter_mut().zip(other.scores.iter()) {
            mine[0] += theirs[0];
            mine[1] += theirs[1];
        }
    }

    pub(super) fn samples(&self) -> u64 {
        self.deciles.iter().map(|d| d.count).sum()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let samples = self.samples();
        let positives = self.deciles.iter().map(|d| d.positives).sum();
        let logloss = self.loss / samples as f64;
        Metrics {
            samples,
            positives,
            logloss,
            normalized_entropy: logloss / entropy(positives as f64 / samples as f64),
            best_logloss: (self.oracles > 0).then(|| self.best_loss / self.oracles as f64),
            auc: self.auc(),
            mean_prediction: self.deciles.iter().map(|d| d.p).sum::<f64>() / samples as f64,
            calibration: self.deciles.map(|d| Decile {
                count: d.count,
                mean_prediction: d.p / d.count as f64,
                mean_label: d.positives as f64 / d.count as f64,
            }),
        }
    }

    /// Share of (positive, negative) pairs in which the positive scores higher, ties counting half.
    fn auc(&self) -> f64 {
        let (mut negatives, mut positives, mut twice_ordered) = (0u128, 0u128, 0u128);
        for [negative, positive] in self.scores.iter().map(|bin| bin.map(u128::from)) {
            twice_ordered += positive * (2 * negatives + negative);
            negatives += negative;
            positives += positive;
        }
        twice_ordered as f64 / (2 * positives * negatives) as f64
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_f64(self.loss).put_f64(self.best_loss).put_u64(self.oracles);
        for d in &self.deciles {
            out.put_varint(d.count).put_varint(d.positives).put_f64(d.p);
        }
        let taken = || self.scores.iter().enumerate().filter(|(_, bin)| **bin != [0, 0]);
        out.put_varint(taken().count() as u64);
        for (i, [negative, positive]) in taken() {
            out.put_varint(i as u64).put_varint(*negative).put_varint(*positive);
        }
    }

    pub(super) fn decode(from: &mut Decoder) -> Result<Self> {
        let mut tally = Self { loss: from.f64()?, best_loss: from.f64()?, oracles: from.u64()?, ..Self::default() };
        for d in &mut tally.deciles {
            *d = DecileSums { count: from.varint()?, positives: from.varint()?, p: from.f64()? };
        }
        for _ in 0..from.count(3)? {
            let i = from.varint()?;
            let bin = tally.scores.get_mut(i as usize).ok_or_else(|| {
                tidemill_base::Error::corrupt(format!("validation: bin {i} of the score histogram does not exist"))
            })?;
            *bin = [from.varint()?, from.varint()?];
        }
        Ok(tally)
    }
}

fn entropy(rate: f64) -> f64 {
    match rate > 0.0 && rate < 1.0 {
        true => -(rate * ln(rate) + (1.0 - rate) * ln(1.0 - rate)),
        false => f64::NAN,
    }
}
