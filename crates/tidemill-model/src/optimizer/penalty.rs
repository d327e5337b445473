//! L1, L2 and group L1 as proximal steps, and clipping of gradients.
//!
//! After a gradient step of rate eta, the proximal step of a penalty moves each parameter to where penalty and distance
//! balance (Duchi and Singer, "Efficient Online and Batch Learning Using Forward Backward Splitting", JMLR 2009): exact
//! zeros for L1, whole blocks of zeros for group L1. FTRL has its own closed form.

use crate::simd::sum_of_squares;

/// Penalties on the size of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Penalty {
    /// On the sum of absolute values.
    pub l1: f32,
    /// On half the sum of squares.
    pub l2: f32,
    /// On the norm of each block, times the root of its dimension.
    pub group_l1: f32,
}

impl Penalty {
    /// Whether there is none.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.l1 == 0.0 && self.l2 == 0.0 && self.group_l1 == 0.0
    }

    /// The parameter after a step of rate `eta`.
    #[inline(always)]
    pub(super) fn shrink(&self, w: f32, eta: f32) -> f32 {
        let beyond = (w.abs() - eta * self.l1).max(0.0);
        beyond.copysign(w) / (1.0 + eta * self.l2)
    }

    /// Shrinks a whole block, after a step of about rate `eta`.
    #[inline(always)]
    pub(super) fn shrink_group(&self, w: &mut [f32], eta: f32) {
        if self.group_l1 == 0.0 {
            return;
        }
        let norm = norm(w);
        let off = eta * self.group_l1 * (w.len() as f32).sqrt();
        let kept = if norm > off { 1.0 - off / norm } else { 0.0 };
        w.iter_mut().for_each(|w| *w *= kept);
    }
}

/// Bounds on gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Each component is brought into [-value, value].
    pub value: f32,
    /// A block's gradient longer than this is scaled down to it.
    pub norm: f32,
}

impl Default for Clip {
    fn default() -> Self {
        Self { value: f32::INFINITY, norm: f32::INFINITY }
    }
}

impl Clip {
    /// Whether there are none.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Brings a block's gradient within the bounds; what is no number stays so.
    #[inline(always)]
    pub fn apply(&self, gradient: &mut [f32]) {
        if self.value.is_finite() {
            gradient.iter_mut().for_each(|g| *g = g.clamp(-self.value, self.value));
        }
        if self.norm.is_finite() {
            let norm = norm(gradient);
            if norm > self.norm {
                gradient.iter_mut().for_each(|g| *g *= self.norm / norm);
            }
        }
    }
}

fn norm(x: &[f32]) -> f32 {
    sum_of_squares(x).sqrt()
}
