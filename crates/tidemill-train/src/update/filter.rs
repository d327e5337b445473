//! What the trainer keeps for gradients that are applied in part ([`GradientFilter`]).
//!
//! In: gradients of entries and of layers, any number of threads at once. Out: what of them is applied now. The residual of
//! an entry stands behind its optimizer state, so it goes wherever the entry goes; the residual of layers and the thresholds
//! stand here. Each block has a threshold of its own, because factors have smaller gradients than weights. Between
//! mini-batches thresholds do not change, and what they follow are counts: their sums know no order, so threads change no bit.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use tidemill_base::{
    Error, Result, StateHasher,
    codec::{Decoder, Encoder},
};
use tidemill_model::optimizer::{
    GradientFilter, Optimizer,
    compress::{Passed, THRESHOLD_START, next_threshold, pass, pass_largest},
};
use tidemill_model::simd::largest_bits;

use super::{
    general::{EntryBlock, NO_PANIC, Work},
    rules::{Rule, Rules},
};

/// State of the filter; there is none where all gradients are applied whole.
pub(super) struct Filter {
    rule: GradientFilter,
    /// Where residuals begin among an entry's words: one for each of its parameters.
    residuals_at: usize,
    blocks: Vec<BlockFilter>,
    dense: Mutex<DenseResidual>,
    given: AtomicU64,
    passed: AtomicU64,
}

struct BlockFilter {
    /// Bits of it.
    threshold: AtomicU32,
    /// Since the threshold last moved.
    given: AtomicU64,
    passed: AtomicU64,
}

#[derive(Default)]
struct DenseResidual {
    residual: Vec<f32>,
    order: Vec<u64>,
}

/// Words that residuals add to an entry.
pub(super) fn residual_words(filter: GradientFilter, rules: &Rules) -> usize {
    match filter {
        GradientFilter::All => 0,
        _ => rules.width(),
    }
}

impl Filter {
    /// `None` where all gradients are applied.
    pub(super) fn new(rule: GradientFilter, rules: &Rules, dense_dimension: usize) -> Option<Self> {
        let threshold = match rule {
            GradientFilter::All => return None,
            GradientFilter::Keep(_) => THRESHOLD_START,
            GradientFilter::Threshold(threshold) => threshold,
        };
        let block =
            |_: &EntryBlock| BlockFilter { threshold: threshold.to_bits().into(), given: 0.into(), passed: 0.into() };
        Some(Self {
            rule,
            residuals_at: rules.words(),
            blocks: rules.common().blocks.iter().map(block).collect(),
            dense: Mutex::new(DenseResidual { residual: vec![0.0; dense_dimension], order: Vec::new() }),
            given: 0.into(),
            passed: 0.into(),
        })
    }

    /// Changes an entry by the components that pass. Counts go to `sums`, one for each block.
    #[inline(always)]
    pub(super) fn step(
        &self,
        work: &Work,
        rule: &Rule,
        key: u64,
        state: &mut [f32],
        gradients: &mut [f32],
        sums: &mut [Passed],
    ) {
        let (words, residuals) = state.split_at_mut(self.residuals_at);
        for ((block, filter), sum) in rule.blocks.iter().zip(&self.blocks).zip(sums) {
            let gradient = &mut gradients[block.params.clone()];
            rule.clip.apply(gradient);
            // What waits must be good too: it would spoil all that comes after it.
            if !Optimizer::takes(largest_bits(gradient)) {
                work.counts.refuse_non_finite(key);
                continue;
            }
            let threshold = f32::from_bits(filter.threshold.load(Relaxed));
            let counts = pass(threshold, &mut residuals[block.params.clone()], gradient);
            (sum.given, sum.passed) = (sum.given + counts.given, sum.passed + counts.passed);
            // A step without a gradient would still be one to what an optimizer counts and what moves on by itself.
            if counts.passed > 0 && !block.optimizer.step(&mut words[block.words.clone()], gradient, rule.rate) {
                work.counts.refuse_non_finite(key);
            }
        }
    }

    /// Room for the counts of one part.
    pub(super) fn sums(&self) -> Vec<Passed> {
        vec![Passed::default(); self.blocks.len()]
    }

    /// Adds the counts of one part of a mini-batch.
    pub(super) fn count(&self, sums: &[Passed]) {
        for (block, sum) in self.blocks.iter().zip(sums) {
            block.given.fetch_add(sum.given, Relaxed);
            block.passed.fetch_add(sum.passed, Relaxed);
        }
    }

    /// The mini-batch is over: thresholds move, once. Nobody else may be at work.
    pub(super) fn adapt(&self) {
        for block in &self.blocks {
            let counts = Passed { given: block.given.swap(0, Relaxed), passed: block.passed.swap(0, Relaxed) };
            self.total(counts);
            if let (GradientFilter::Keep(keep), 1..) = (self.rule, counts.given) {
                let threshold = f32::from_bits(block.threshold.load(Relaxed));
                block.threshold.store(next_threshold(threshold, keep, counts).to_bits(), Relaxed);
            }
        }
    }

    /// Leaves of the layers' gradient what passes. `false`: it is no number or too large, and was forgotten.
    pub(super) fn pass_dense(&self, gradient: &mut [f32]) -> bool {
        if !Optimizer::takes(largest_bits(gradient)) {
            return false;
        }
        let DenseResidual { residual, order } = &mut *self.dense.lock().expect(NO_PANIC);
        self.total(match self.rule {
            GradientFilter::All => unreachable!("then there is no filter"),
            GradientFilter::Keep(keep) => pass_largest(keep, residual, gradient, order),
            GradientFilter::Threshold(threshold) => pass(threshold, residual, gradient),
        });
        true
    }

    fn total(&self, counts: Passed) {
        self.given.fetch_add(counts.given, Relaxed);
        self.passed.fetch_add(counts.passed, Relaxed);
    }

    /// What came and what passed since the model began.
    pub(super) fn counts(&self) -> Passed {
        Passed { given: self.given.load(Relaxed), passed: self.passed.load(Relaxed) }
    }

    pub(super) fn hash(&self, hasher: &mut StateHasher) {
        self.blocks.iter().for_each(|block| _ = hasher.u64(u64::from(block.threshold.load(Relaxed))));
        let dense = self.dense.lock().expect(NO_PANIC);
        dense.residual.iter().for_each(|word| _ = hasher.u64(u64::from(word.to_bits())));
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        let Passed { given, passed } = self.counts();
        out.put_u64(given).put_u64(passed).put_varint(self.blocks.len() as u64);
        self.blocks.iter().for_each(|block| _ = out.put_f32(f32::from_bits(block.threshold.load(Relaxed))));
        let dense = self.dense.lock().expect(NO_PANIC);
        out.put_varint(dense.residual.len() as u64);
        dense.residual.iter().for_each(|word| _ = out.put_f32(*word));
    }

    /// Reads back what [`Filter::encode`] wrote.
    pub(super) fn decode(&mut self, from: &mut Decoder) -> Result<()> {
        (self.given, self.passed) = (from.u64()?.into(), from.u64()?.into());
        check("thresholds", from.count(4)?, self.blocks.len())?;
        for block in &mut self.blocks {
            block.threshold = from.f32()?.to_bits().into();
        }
        let residual = &mut self.dense.get_mut().expect(NO_PANIC).residual;
        check("dense residuals", from.count(4)?, residual.len())?;
        for word in residual {
            *word = from.f32()?;
        }
        Ok(())
    }
}

fn check(what: &str, is: usize, wanted: usize) -> Result<()> {
    match is == wanted {
        true => Ok(()),
        false => Err(Error::corrupt(format!("trainer: {is} {what}, not {wanted}"))),
    }
}
