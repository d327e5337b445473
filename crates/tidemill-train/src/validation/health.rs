//! Whether the learner diverges: gets worse than knowing next to nothing.
//!
//! In: every score, also those that are no numbers. Out: [`Health`], judged at the end of every block of samples. A block's
//! mean loss is held against that of a constant: what was usual in the block before, or, for the first block, what is said
//! by a model that has learned nothing. More than twice that (log loss, cross entropy, RMSE) and not at least a tenth
//! better than the block before is divergence; so is one score in a hundred that is not finite, which is told at once. It
//! lasts until the end of a block that is neither. Blocks are of a tenth of the recent window, at least 1,000 samples.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::math::ln;

use super::{Task, metrics::CLASSES_COUNTED_MAX, score::Score};

const BLOCK_SAMPLES_MIN: u64 = 1_000;
/// So much worse than the constant is divergence.
const WORSE: f64 = 2.0;
/// A loss that falls faster than this from block to block is of a model that still finds its way.
const FALLING: f64 = 0.9;
/// A constant can be nearly always right; nobody asks a model to be better than this mean log loss.
const LOSS_MIN: f64 = 0.01;
/// The same for numbers: a hundredth of their root mean square.
const SHARE_MIN: f64 = 0.01;

/// What to think of the learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing speaks against it.
    Healthy,
    /// It gets worse by learning. What it has now should not be published.
    Diverging {
        /// The figures, and what to do.
        why: String,
    },
}

pub(super) struct Watch {
    block: Block,
    /// The full block before; `None` during the first.
    before: Option<Block>,
    block_samples: u64,
    health: Health,
}

/// Sums over consecutive samples.
#[derive(Clone, Default)]
struct Block {
    /// Scores of any kind.
    seen: u64,
    not_finite: u64,
    /// Scores with a loss.
    scored: u64,
    loss: f64,
    /// Of numbers.
    label: f64,
    label_squared: f64,
    /// Of labels, by class.
    counts: Vec<u64>,
}

impl Watch {
    pub(super) fn new(task: Task, window: usize) -> Self {
        let block = Block::new(task);
        Self {
            block,
            before: None,
            block_samples: (window as u64 / 10).max(BLOCK_SAMPLES_MIN),
            health: Health::Healthy,
        }
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    #[inline(always)]
    pub(super) fn add(&mut self, task: Task, score: &Score) {
        let block = &mut self.block;
        block.scored += 1;
        block.loss += score.loss;
        if let Some(last) = block.counts.len().checked_sub(1) {
            block.counts[(score.label as usize).min(last)] += 1;
        } else {
            let label = score.label as f64;
            block.label += label;
            block.label_squared += label * label;
        }
        self.seen(task, score.rank.is_finite());
    }

    /// A score that is not a number.
    #[cold]
    pub(super) fn not_a_number(&mut self, task: Task) {
        self.seen(task, false);
    }

    #[inline(always)]
    fn seen(&mut self, task: Task, is_finite: bool) {
        self.block.seen += 1;
        self.block.not_finite += !is_finite as u64;
        if !is_finite && self.block.not_finite * 100 > self.block_samples {
            self.health = Health::Diverging { why: self.block.not_finite_text() };
        }
        if self.block.seen == self.block_samples {
            self.judge(task);
        }
    }

    #[cold]
    fn judge(&mut self, task: Task) {
        let block = std::mem::replace(&mut self.block, Block::new(task));
        let was_diverging = self.health != Health::Healthy;
        self.health = if block.not_finite * 100 > self.block_samples {
            Health::Diverging { why: block.not_finite_text() }
        } else {
            block.compare(task, self.before.as_ref(), was_diverging)
        };
        self.before = Some(block);
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        self.block.encode(out);
        out.put_u8(self.before.is_some() as u8);
        self.before.iter().for_each(|block| block.encode(out));
        match &self.health {
            Health::Healthy => out.put_u8(0),
            Health::Diverging { why } => out.put_u8(1).put_str(why),
        };
    }

    pub(super) fn decode(task: Task, window: usize, from: &mut Decoder) -> Result<Self> {
        let mut watch = Self::new(task, window);
        watch.block = Block::decode(task, from)?;
        if watch.block.seen >= watch.block_samples {
            return Err(Error::corrupt(format!("validation: {} samples in a health block", watch.block.seen)));
        }
        watch.before = (from.u8()? != 0).then(|| Block::decode(task, from)).transpose()?;
        watch.health = match from.u8()? {
            0 => Health::Healthy,
            1 => Health::Diverging { why: from.str()?.to_string() },
            other => return Err(Error::corrupt(format!("validation: health is marked {other}"))),
        };
        Ok(watch)
    }
}

impl Block {
    fn new(task: Task) -> Self {
        let counts = match task {
            Task::Binary => 2,
            Task::Regression => 0,
            Task::Classes(_) => task.classes_counted(),
        };
        Self { counts: vec![0; counts], ..Self::default() }
    }

    fn mean_loss(&self) -> f64 {
        self.loss / self.scored as f64
    }

    fn compare(&self, task: Task, before: Option<&Self>, was_diverging: bool) -> Health {
        if self.scored == 0 {
            return Health::Healthy;
        }
        let (mean, constant) = match task {
            Task::Regression => {
                let floor = self.label_squared / self.scored as f64 * SHARE_MIN * SHARE_MIN;
                (self.mean_loss().sqrt(), self.squares_around(before).max(floor).sqrt())
            }
            Task::Binary | Task::Classes(_) => (self.mean_loss(), self.cross_entropy(task, before).max(LOSS_MIN)),
        };
        let falling = before.is_some_and(|before| self.mean_loss() < before.mean_loss() * FALLING);
        match mean > WORSE * constant && (was_diverging || !falling) {
            false => Health::Healthy,
            true => Health::Diverging { why: self.worse_text(task, mean, constant) },
        }
    }

    /// Mean loss of saying how often each class came in the block before; of the first block, that all come alike.
    fn cross_entropy(&self, task: Task, before: Option<&Self>) -> f64 {
        let kinds = match task {
            Task::Classes(classes) => classes,
            Task::Binary | Task::Regression => 2,
        };
        let total = before.map_or(0, |before| before.scored) as f64 + kinds as f64;
        let mut loss = 0.0;
        for (class, count) in self.counts.iter().enumerate() {
            // The last count may be that of many classes, to which no more than their number is known.
            let shared = if class < CLASSES_COUNTED_MAX as usize { 1 } else { kinds - CLASSES_COUNTED_MAX } as f64;
            let came = before.map_or(0, |before| before.counts[class]) as f64 + shared;
            loss -= *count as f64 * ln(came / shared / total);
        }
        loss / self.scored as f64
    }

    /// Mean squared error of saying the mean of the block before; of the first block, 0.
    fn squares_around(&self, before: Option<&Self>) -> f64 {
        let usual = before.filter(|before| before.scored > 0).map_or(0.0, |before| before.label / before.scored as f64);
        (self.label_squared - 2.0 * usual * self.label) / self.scored as f64 + usual * usual
    }

    fn not_finite_text(&self) -> String {
        format!(
            "{} of the last {} scores are NaN or infinite; lower the learning rate or roll back to an earlier version",
            self.not_finite, self.seen
        )
    }

    fn worse_text(&self, task: Task, mean: f64, constant: f64) -> String {
        let (name, usual) = match task {
            Task::Binary => ("log loss", "the rate of positives"),
            Task::Regression => ("RMSE", "the mean label"),
            Task::Classes(_) => ("cross entropy", "the share of each class"),
        };
        format!(
            "{name} {mean:.4} over the last {} samples, where always saying {usual} of the samples before costs \
             {constant:.4}; lower the learning rate or roll back to an earlier version",
            self.scored
        )
    }

    fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.seen).put_varint(self.not_finite).put_varint(self.scored);
        out.put_f64(self.loss).put_f64(self.label).put_f64(self.label_squared);
        self.counts.iter().for_each(|count| {
            out.put_varint(*count);
        });
    }

    fn decode(task: Task, from: &mut Decoder) -> Result<Self> {
        let mut block = Self::new(task);
        (block.seen, block.not_finite, block.scored) = (from.varint()?, from.varint()?, from.varint()?);
        (block.loss, block.label, block.label_squared) = (from.f64()?, from.f64()?, from.f64()?);
        for count in &mut block.counts {
            *count = from.varint()?;
        }
        Ok(block)
    }
}
