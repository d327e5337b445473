//! SGD with momentum (Polyak 1964): m <- mu m + g; w <- w - eta m. State: [w..][m..].
//!
//! An entry's momentum goes on only when the entry is touched: its clock is its own.

use super::{Pair, Penalty};

/// m <- mu m + g; w <- w - eta m, then the penalty's proximal step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// eta, the learning rate.
    pub eta: f32,
    /// mu, how much of the last step goes on.
    pub mu: f32,
    /// Penalties.
    pub penalty: Penalty,
}

impl Momentum {
    #[inline(always)]
    pub(super) fn step_block(&self, state: &mut [f32], g: &[f32], rate: f32) {
        let eta = self.eta * rate;
        let (w, m) = state.split_at_mut(g.len());
        for ((w, m), g) in w.iter_mut().zip(&mut *m).zip(g) {
            *m = self.mu * *m + g;
            *w -= eta * *m;
        }
        if !self.penalty.is_none() {
            w.iter_mut().for_each(|w| *w = self.penalty.shrink(*w, eta));
            self.penalty.shrink_group(w, eta);
        }
    }
}

impl Pair for Momentum {
    #[inline(always)]
    fn weight(&self, w: f32, _: f32) -> f32 {
        w
    }

    #[inline(always)]
    fn step(&self, w: f32, m: f32, gradient: f32, rate: f32) -> (f32, f32) {
        let mut state = [w, m];
        self.step_block(&mut state, &[gradient], rate);
        (state[0], state[1])
    }

    #[inline(always)]
    fn rate_at(&self, _: f32, _: f32) -> f32 {
        self.eta / (1.0 - self.mu)
    }
}
