//! Adagrad (Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 2011): n <- n + g^2;
//! w <- w - alpha g / (beta + sqrt n). State: [w..][n..].
//!
//! Row-wise Adagrad (Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of Deep Learning
//! Recommendation Models", ISCA 2022) keeps one n for all parameters of a block, to which the mean of their squared
//! gradients is added: half the memory, and one root and one quotient for all. The parameters of a key are learned from
//! the same samples, so that their rates would hardly differ. State: [w..][n].

use super::{Pair, Penalty};
use crate::simd::{LANES, sum_of_squares};

/// n <- n + g^2; w <- w - alpha g / (beta + sqrt n), then the penalty's proximal step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// The learning rate.
    pub alpha: f32,
    /// Keeps the first steps small.
    pub beta: f32,
    /// Row-wise: the parameters of a block share one n.
    pub shares_n: bool,
    /// Penalties.
    pub penalty: Penalty,
}

impl Adagrad {
    pub(super) fn words(&self, dimension: usize) -> usize {
        dimension + if self.shares_n { dimension.min(1) } else { dimension }
    }

    #[inline(always)]
    pub(super) fn step_block(&self, state: &mut [f32], g: &[f32], rate: f32) {
        let alpha = self.alpha * rate;
        let (w, n) = state.split_at_mut(g.len());
        match self.shares_n {
            true => self.step_shared(w, n, g, alpha),
            false => self.step_each(w, n, g, alpha),
        }
    }

    #[inline(always)]
    fn step_each(&self, w: &mut [f32], n: &mut [f32], g: &[f32], alpha: f32) {
        let step = |w: &mut f32, n: &mut f32, g: &f32| {
            *n += g * g;
            *w -= alpha * g / (self.beta + n.sqrt());
        };
        let ((ws, w_rest), (ns, n_rest)) = (w.as_chunks_mut::<LANES>(), n.as_chunks_mut::<LANES>());
        let (gs, g_rest) = g.as_chunks::<LANES>();
        for ((w, n), g) in ws.iter_mut().zip(ns).zip(gs) {
            let (mut w_after, mut n_after) = (*w, *n);
            (0..LANES).for_each(|l| step(&mut w_after[l], &mut n_after[l], &g[l]));
            (*w, *n) = (w_after, n_after);
        }
        w_rest.iter_mut().zip(n_rest).zip(g_rest).for_each(|((w, n), g)| step(w, n, g));
        if !self.penalty.is_none() {
            let eta = |n: f32| alpha / (self.beta + n.sqrt());
            w.iter_mut().zip(&*n).for_each(|(w, n)| *w = self.penalty.shrink(*w, eta(*n)));
            let mean = n.iter().fold(0.0, |sum, n| sum + n) / n.len() as f32;
            self.penalty.shrink_group(w, eta(mean));
        }
    }

    #[inline(always)]
    fn step_shared(&self, w: &mut [f32], n: &mut [f32], g: &[f32], alpha: f32) {
        let Some(n) = n.first_mut() else { return };
        *n += sum_of_squares(g) / g.len() as f32;
        let eta = alpha / (self.beta + n.sqrt());
        super::descend(w, g, eta);
        if !self.penalty.is_none() {
            w.iter_mut().for_each(|w| *w = self.penalty.shrink(*w, eta));
            self.penalty.shrink_group(w, eta);
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
