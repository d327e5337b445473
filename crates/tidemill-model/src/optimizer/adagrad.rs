//! Adagrad (Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 2011): n <- n + g^2;
//! w <- w - alpha g / (beta + sqrt n). State: [w..][n..].

use super::{Pair, Penalty};

/// n <- n + g^2; w <- w - alpha g / (beta + sqrt n), then the penalty's proximal step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// The learning rate.
    pub alpha: f32,
    /// Keeps the first steps small.
    pub beta: f32,
    /// Penalties.
    pub penalty: Penalty,
}

impl Adagrad {
    #[inline]
    pub(super) fn step_block(&self, state: &mut [f32], g: &[f32], rate: f32) {
        let alpha = self.alpha * rate;
        let (w, n) = state.split_at_mut(g.len());
        for ((w, n), g) in w.iter_mut().zip(&mut *n).zip(g) {
            *n += g * g;
            *w -= alpha * g / (self.beta + n.sqrt());
        }
        if !self.penalty.is_none() {
            let eta = |n: f32| alpha / (self.beta + n.sqrt());
            w.iter_mut().zip(&*n).for_each(|(w, n)| *w = self.penalty.shrink(*w, eta(*n)));
            let mean = n.iter().fold(0.0, |sum, n| sum + n) / n.len() as f32;
            self.penalty.shrink_group(w, eta(mean));
        }
    }
}

impl Pair for Adagrad {
    #[inline(always)]
    fn weight(&self, w: f32, _: f32) -> f32 {
        w
    }

    #[inline(always)]
    fn step(&self, w: f32, n: f32, gradient: f32, rate: f32) -> (f32, f32) {
        let mut state = [w, n];
        self.step_block(&mut state, &[gradient], rate);
        (state[0], state[1])
    }

    #[inline(always)]
    fn rate_at(&self, _: f32, n: f32) -> f32 {
        self.alpha / (self.beta + n.sqrt())
    }
}
