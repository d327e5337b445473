//! Which model it is: a learner and a loss, as a value that is stored with every version.
//!
//! In: settings. Out: the [`Learner`] they describe, for training and for serving alike; bytes for snapshots.

use std::sync::Arc;

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::{
    learner::{DeepFm, Ffm, Fm, Learner, Linear, Mlp, WideDeep},
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
    /// Layers over embeddings.
    Mlp(Deep),
    /// A weight per key beside layers over embeddings.
    WideDeep(Deep),
    /// A factorisation machine beside layers over its factors.
    DeepFm(Deep),
}

/// The shape of embeddings and the layers over them.
#[derive(Clone, Debug, PartialEq)]
pub struct Deep {
    /// Dimension of a key's embedding.
    pub embedding: usize,
    /// Standard deviation of new ones.
    pub spread: f32,
    /// Units of each hidden layer.
    pub layers: Vec<usize>,
    /// Share of hidden units left out while learning.
    pub dropout: f32,
}

/// What [`Deep::layers`] may hold: so many.
const LAYERS_MAX: usize = 16;
/// And each so large.
const UNITS_MAX: usize = 8192;

impl Deep {
    /// Reads hidden layers: `128,64`. The error says what is wrong with the text.
    pub fn parse_layers(text: &str) -> Result<Vec<usize>, String> {
        let units = |text: &str| {
            let units = text.trim().parse().ok().filter(|units| (1..=UNITS_MAX).contains(units));
            units.ok_or_else(|| {
                format!("expects units like '128,64', each from 1 to {UNITS_MAX}; got '{}'", text.trim())
            })
        };
        let layers: Vec<usize> = text.split(',').map(units).collect::<Result<_, _>>()?;
        match layers.len() <= LAYERS_MAX {
            true => Ok(layers),
            false => Err(format!("expects at most {LAYERS_MAX} layers; got {}", layers.len())),
        }
    }

    fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.embedding as u64).put_f32(self.spread).put_f32(self.dropout);
        out.put_varint(self.layers.len() as u64);
        self.layers.iter().for_each(|units| _ = out.put_varint(*units as u64));
    }

    fn decode(d: &mut Decoder) -> Result<Self> {
        let (embedding, spread, dropout) = (d.varint()? as usize, d.f32()?, d.f32()?);
        let layers = (0..d.count(1)?).map(|_| Ok(d.varint()? as usize)).collect::<Result<_>>()?;
        Ok(Self { embedding, spread, layers, dropout })
    }
}

impl LearnerSpec {
    /// The dimension of an entry's factors or embedding, where slots may differ in it: what a slot lacks of it counts as
    /// zeros. Those of FFM meet the ones of every other slot, and cannot.
    pub fn dimension(&self) -> Option<usize> {
        match self {
            Self::Linear | Self::Ffm { .. } => None,
            Self::Fm { factors, .. } => Some(*factors),
            Self::Mlp(deep) | Self::WideDeep(deep) | Self::DeepFm(deep) => Some(deep.embedding),
        }
    }

    /// The same learner with another dimension, where it has one.
    pub fn with_dimension(mut self, dimension: usize) -> Self {
        match &mut self {
            Self::Linear | Self::Ffm { .. } => {}
            Self::Fm { factors, .. } => *factors = dimension,
            Self::Mlp(deep) | Self::WideDeep(deep) | Self::DeepFm(deep) => deep.embedding = dimension,
        }
        self
    }
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self { learner: LearnerSpec::Linear, loss: Loss::Logistic }
    }
}

impl ModelSpec {
    /// The learner for a model with so many slots.
    pub fn build(&self, slots: usize) -> Arc<dyn Learner> {
        match &self.learner {
            LearnerSpec::Linear => Arc::new(Linear { outputs: self.loss.outputs() }),
            LearnerSpec::Fm { factors, spread, dropout } => {
                Arc::new(Fm { factors: *factors, spread: *spread, dropout: *dropout })
            }
            LearnerSpec::Ffm { factors, spread } => Arc::new(Ffm { factors: *factors, slots, spread: *spread }),
            LearnerSpec::Mlp(deep) => Arc::new(Mlp::new(slots, deep, self.loss.outputs())),
            LearnerSpec::WideDeep(deep) => Arc::new(WideDeep::new(slots, deep)),
            LearnerSpec::DeepFm(deep) => Arc::new(DeepFm::new(slots, deep)),
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
            LearnerSpec::Linear => _ = out.put_u8(0),
            LearnerSpec::Fm { factors, spread, dropout } => {
                out.put_u8(1).put_varint(*factors as u64).put_f32(*spread).put_f32(*dropout);
            }
            LearnerSpec::Ffm { factors, spread } => _ = out.put_u8(2).put_varint(*factors as u64).put_f32(*spread),
            LearnerSpec::Mlp(deep) => deep.encode(out.put_u8(3)),
            LearnerSpec::WideDeep(deep) => deep.encode(out.put_u8(4)),
            LearnerSpec::DeepFm(deep) => deep.encode(out.put_u8(5)),
        }
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
            3 => LearnerSpec::Mlp(Deep::decode(d)?),
            4 => LearnerSpec::WideDeep(Deep::decode(d)?),
            5 => LearnerSpec::DeepFm(Deep::decode(d)?),
            n => return Err(Error::corrupt(format!("{what}: no learner has number {n}"))),
        };
        Ok(Self { learner, loss })
    }
}
