//! Which model it is: a learner and a loss, as a value that is stored with every version.
//!
//! In: settings. Out: the [`Learner`] they describe, for training and for serving alike; bytes for snapshots.

use std::sync::Arc;

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::{
    learner::{Ffm, Fm, Learner, Linear},
    loss::Loss,
};

/// A model's kind with its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// What turns parameters into scores.
    pub learner: LearnerSpec,
    /// What scores are compared with labels by.
    pub loss: Loss,
}

/// A learner's shape.
#[derive(Clone, Debug, PartialEq)]
pub enum LearnerSpec {
    /// A weight per key and output.
    Linear,
    /// A factorisation machine.
    Fm {
        /// Dimension of the factors.
        factors: usize,
        /// Standard deviation of new ones.
        spread: f32,
        /// Share of them left out while learning.
        dropout: f32,
    },
    /// A field-aware factorisation machine.
    Ffm {
        /// Dimension of the factors, for each slot.
        factors: usize,
        /// Standard deviation of new ones.
        spread: f32,
    },
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self { learner: LearnerSpec::Linear, loss: Loss::Logistic }
    }
}

impl ModelSpec {
    /// The learner for a model with so many slots.
    pub fn build(&self, slots: usize) -> Arc<dyn Learner> {
        match self.learner {
            LearnerSpec::Linear => Arc::new(Linear { outputs: self.loss.outputs() }),
            LearnerSpec::Fm { factors, spread, dropout } => Arc::new(Fm { factors, spread, dropout }),
            LearnerSpec::Ffm { factors, spread } => Arc::new(Ffm { factors, slots, spread }),
        }
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Encoder) {
        match self.loss {
            Loss::Logistic => out.put_u8(0),
            Loss::Squared => out.put_u8(1),
            Loss::Huber { delta } => out.put_u8(2).put_f32(delta),
            Loss::Softmax { classes } => out.put_u8(3).put_varint(classes as u64),
            Loss::Bounded { low, high } => out.put_u8(4).put_f32(low).put_f32(high),
        };
        match &self.learner {
            LearnerSpec::Linear => out.put_u8(0),
            LearnerSpec::Fm { factors, spread, dropout } => {
                out.put_u8(1).put_varint(*factors as u64).put_f32(*spread).put_f32(*dropout)
            }
            LearnerSpec::Ffm { factors, spread } => out.put_u8(2).put_varint(*factors as u64).put_f32(*spread),
        };
    }

    /// Reads back what [`ModelSpec::encode`] wrote; `what` names it in errors.
    pub fn decode(d: &mut Decoder, what: &str) -> Result<Self> {
        let loss = match d.u8()? {
            0 => Loss::Logistic,
            1 => Loss::Squared,
            2 => Loss::Huber { delta: d.f32()? },
            3 => Loss::Softmax { classes: d.varint()? as usize },
            4 => Loss::Bounded { low: d.f32()?, high: d.f32()? },
            n => return Err(Error::corrupt(format!("{what}: no loss has number {n}"))),
        };
        let learner = match d.u8()? {
            0 => LearnerSpec::Linear,
            1 => LearnerSpec::Fm { factors: d.varint()? as usize, spread: d.f32()?, dropout: d.f32()? },
            2 => LearnerSpec::Ffm { factors: d.varint()? as usize, spread: d.f32()? },
            n => return Err(Error::corrupt(format!("{what}: no learner has number {n}"))),
        };
        Ok(Self { learner, loss })
    }
}
