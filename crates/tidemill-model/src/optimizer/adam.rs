//! Adam (Kingma and Ba, ICLR 2015, algorithm 1) and AMSGrad (Reddi, Kale and Kumar, ICLR 2018, algorithm 2).
//!
//! State: [t, beta1^t, beta2^t][w..][m..][v..], with AMSGrad [largest v..] behind. t counts the block's own updates, so the
//! bias correction of an entry that is seen rarely is that of its own history. The powers are kept and not computed, so
//! that they cost one multiplication.

use super::Penalty;

/// m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2; w <- w - alpha m^ / (sqrt v^ + epsilon).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub alpha: f32,
    /// How slowly the mean of the gradients moves.
    pub beta1: f32,
    /// How slowly the mean of their squares moves.
    pub beta2: f32,
    /// Keeps the step small where gradients are.
    pub epsilon: f32,
    /// AMSGrad: divides by the largest v so far.
    pub keeps_largest: bool,
    /// Penalties.
    pub penalty: Penalty,
}

impl Adam {
    /// Words that belong to the block as a whole.
    pub(super) const CLOCK: usize = 3;

    pub(super) fn words(&self, dimension: usize) -> usize {
        Self::CLOCK + dimension * if self.keeps_largest { 4 } else { 3 }
    }

    #[inline(always)]
    pub(super) fn step_block(&self, state: &mut [f32], g: &[f32], rate: f32) {
        let (clock, state) = state.split_at_mut(Self::CLOCK);
        let before = if clock[0] == 0.0 { [1.0, 1.0] } else { [clock[1], clock[2]] };
        clock[0] += 1.0;
        (clock[1], clock[2]) = (before[0] * self.beta1, before[1] * self.beta2);
        let eta = self.alpha * rate / (1.0 - clock[1]);
        let per_v = 1.0 / (1.0 - clock[2]);
        let (w, state) = state.split_at_mut(g.len());
        let (m, state) = state.split_at_mut(g.len());
        let (v, largest) = state.split_at_mut(g.len());
        for ((m, v), g) in m.iter_mut().zip(&mut *v).zip(g) {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * (g * g);
        }
        let v: &[f32] = match self.keeps_largest {
            true => {
                largest.iter_mut().zip(&*v).for_each(|(largest, v)| *largest = largest.max(*v));
                largest
            }
            false => v,
        };
        for ((w, m), v) in w.iter_mut().zip(&*m).zip(v) {
            *w -= eta * m / ((v * per_v).sqrt() + self.epsilon);
        }
        if !self.penalty.is_none() {
            let eta = self.alpha * rate;
            w.iter_mut().for_each(|w| *w = self.penalty.shrink(*w, eta));
            self.penalty.shrink_group(w, eta);
        }
    }
}
