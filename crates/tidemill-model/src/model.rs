//! Which model it is: a learner and a loss, as a value that is stored with every version.
//!
//! In: settings. Out: the [`Learner`] they describe, for training and for serving alike; bytes for snapshots.

use std::{ops::RangeInclusive, sync::Arc};

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

/// Factors, and numbers of an embedding, at most.
pub const DIMENSION_MAX: usize = 1024;
/// Classes at most.
pub const CLASSES_MAX: usize = 10_000;
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

    fn decode(d: &mut Decoder, what: &str) -> Result<Self> {
        let (embedding, spread, dropout) = (dimension(d, what)?, d.f32()?, d.f32()?);
        let count = size(d.count(1)? as u64, 0..=LAYERS_MAX, "layers", what)?;
        let units = |_| size(d.varint()?, 1..=UNITS_MAX, "units", what);
        Ok(Self { embedding, spread, layers: (0..count).map(units).collect::<Result<_>>()?, dropout })
    }
}

/// A number that a learner's shape is made of: what is larger than anything that trains was not written by a tidemill, and
/// must not be believed when room is made for it.
fn size(number: u64, range: RangeInclusive<usize>, name: &str, what: &str) -> Result<usize> {
    let (least, most) = (*range.start(), *range.end());
    let size = usize::try_from(number).ok().filter(|size| range.contains(size));
    size.ok_or_else(|| Error::corrupt(format!("{what}: a model of {number} {name}; it has from {least} to {most}")))
}

fn dimension(d: &mut Decoder, what: &str) -> Result<usize> {
    size(d.varint()?, 1..=DIMENSION_MAX, "factors", what)
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
            3 => Loss::Softmax { classes: size(d.varint()?, 1..=CLASSES_MAX, "classes", what)? },
            4 => Loss::Bounded { low: d.f32()?, high: d.f32()? },
            n => return Err(Error::corrupt(format!("{what}: no loss has number {n}"))),
        };
        let learner = match d.u8()? {
            0 => LearnerSpec::Linear,
            1 => LearnerSpec::Fm { factors: dimension(d, what)?, spread: d.f32()?, dropout: d.f32()? },
            2 => LearnerSpec::Ffm { factors: dimension(d, what)?, spread: d.f32()? },
            3 => LearnerSpec::Mlp(Deep::decode(d, what)?),
            4 => LearnerSpec::WideDeep(Deep::decode(d, what)?),
            5 => LearnerSpec::DeepFm(Deep::decode(d, what)?),
            n => return Err(Error::corrupt(format!("{what}: no learner has number {n}"))),
        };
        Ok(Self { learner, loss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model's shape is what room is made by, so it is not believed beyond what trains.
    #[test]
    fn a_shape_that_nothing_trains_is_refused() {
        let deep = |embedding, layers: &[usize]| Deep { embedding, spread: 0.1, layers: layers.to_vec(), dropout: 0.0 };
        let fm = |factors| LearnerSpec::Fm { factors, spread: 0.1, dropout: 0.0 };
        let read = |learner: LearnerSpec, loss| {
            let spec = ModelSpec { learner, loss };
            let mut out = Encoder::new();
            spec.encode(&mut out);
            ModelSpec::decode(&mut Decoder::new(out.as_slice(), "test"), "ctr, version 42").map(|read| read == spec)
        };
        for learner in [fm(1024), LearnerSpec::Mlp(deep(1024, &[UNITS_MAX; LAYERS_MAX])), LearnerSpec::Linear] {
            assert!(read(learner, Loss::Softmax { classes: CLASSES_MAX }).unwrap());
        }
        let huge = usize::MAX >> 1;
        for (learner, classes, message) in [
            (fm(1025), 2, "1025 factors; it has from 1 to 1024"),
            (fm(0), 2, "0 factors"),
            (LearnerSpec::Ffm { factors: huge, spread: 0.1 }, 2, "9223372036854775807 factors"),
            (LearnerSpec::Mlp(deep(huge, &[1])), 2, "9223372036854775807 factors"),
            (LearnerSpec::WideDeep(deep(8, &[huge])), 2, "9223372036854775807 units; it has from 1 to 8192"),
            (LearnerSpec::DeepFm(deep(8, &[1; 17])), 2, "17 layers; it has from 0 to 16"),
            (LearnerSpec::Linear, 0, "0 classes; it has from 1 to 10000"),
            (LearnerSpec::Linear, huge, "9223372036854775807 classes"),
        ] {
            let e = read(learner, Loss::Softmax { classes }).unwrap_err();
            assert!(e.message().starts_with("ctr, version 42: a model of "), "{e}");
            assert!(e.message().contains(message), "{e}");
        }
    }
}
