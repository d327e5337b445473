//! How negatives were sampled while a model was learned, as it is stored with every version.
//!
//! Serving reads scores as they are in every mode that is here; that is why one it does not know must be refused.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

/// How negatives were sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// They were not.
    #[default]
    None,
    /// A share of them was learned from, each with a weight of one by the share.
    Weight {
        /// The share.
        share: f64,
    },
    /// A share of them was learned from, with scores less the share's logarithm; served scores are raw.
    Logit {
        /// The share.
        share: f64,
    },
}

impl Sampling {
    /// Appends it.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Self::None => _ = out.put_u8(0),
            Self::Weight { share } => _ = out.put_u8(1).put_f64(*share),
            Self::Logit { share } => _ = out.put_u8(2).put_f64(*share),
        }
    }

    /// Reads back what [`Sampling::encode`] wrote; `what` names it in errors.
    pub fn decode(d: &mut Decoder, what: &str) -> Result<Self> {
        match d.u8()? {
            0 => Ok(Self::None),
            1 => Ok(Self::Weight { share: d.f64()? }),
            2 => Ok(Self::Logit { share: d.f64()? }),
            mode => Err(Error::conflict(format!(
                "{what}: its negatives were sampled in mode {mode}, which this binary does not know how to serve; use a \
                 newer tidemill"
            ))),
        }
    }
}
