//! Stochastic gradient descent (Robbins and Monro 1951): w <- w - eta g. State: w.

use super::{Pair, Penalty};

/// w <- w - eta g, then the penalty's proximal step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// eta, the learning rate.
    pub eta: f32,
    /// Penalties.
    pub penalty: Penalty,
}

impl Sgd {
    #[inline(always)]
    pub(super) fn step_block(&self, w: &mut [f32], g: &[f32], rate: f32) {
        let eta = self.eta * rate;
        super::descend(w, g, eta);
        if !self.penalty.is_none() {
            w.iter_mut().for_each(|w| *w = self.penalty.shrink(*w, eta));
            self.penalty.shrink_group(w, eta);
        }
    }
}

impl Pair for Sgd {
    #[inline(always)]
    fn weight(&self, w: f32, _: f32) -> f32 {
        w
    }

    #[inline(always)]
    fn step(&self, w: f32, b: f32, gradient: f32, rate: f32) -> (f32, f32) {
        let mut w = [w];
        self.step_block(&mut w, &[gradient], rate);
        (w[0], b)
    }

    #[inline(always)]
    fn rate_at(&self, _: f32, _: f32) -> f32 {
        self.eta
    }
}
