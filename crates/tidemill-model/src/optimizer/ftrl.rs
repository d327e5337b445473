//! FTRL-proximal (McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, algorithm 1).
//!
//! In: an entry's state (z, n) and a gradient. Out: the state after it, or nothing when it would no longer be a finite
//! number. The weight is derived from (z, n) on every read and never stored: an update writes two floats, and a key inside
//! the L1 ball costs nothing in a snapshot.

/// The four settings of the paper, and one for blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ftrl {
    per_alpha: f32,
    beta: f32,
    l1: f32,
    l2: f32,
    group_l1: f32,
}

impl Ftrl {
    /// `alpha` and `beta` set the step, alpha / (beta + sqrt n), and must be positive; `l1` and `l2` pull weights to zero.
    pub fn new(alpha: f64, beta: f64, l1: f64, l2: f64) -> Self {
        Self { per_alpha: (1.0 / alpha) as f32, beta: beta as f32, l1: l1 as f32, l2: l2 as f32, group_l1: 0.0 }
    }

    /// Also keeps a block at zero until its gradients together add up to more than `group_l1` times the root of its
    /// dimension (Ni et al., "Adaptive Optimizers with Sparse Group Lasso", 2021, algorithm 1).
    pub fn with_group_l1(mut self, group_l1: f64) -> Self {
        self.group_l1 = group_l1 as f32;
        self
    }

    /// Whether blocks are kept at zero together.
    pub(super) fn has_group_l1(&self) -> bool {
        self.group_l1 > 0.0
    }

    /// The weight of an entry; zero (of either sign) inside the L1 ball.
    #[inline(always)]
    pub fn weight(&self, z: f32, n: f32) -> f32 {
        self.weight_at(z, n.sqrt())
    }

    /// The entry's state after gradient `g`; not finite when the gradient is not, or so large that the state would not be.
    #[inline(always)]
    pub fn step(&self, z: f32, n: f32, g: f32) -> (f32, f32) {
        let root = n.sqrt();
        let n_after = n + g * g;
        // The difference of the roots and not its rearrangement g*g / (sum of roots): these differences add up to the
        // root that `weight` uses, also where n has grown so large that a gradient no longer changes it.
        let sigma = (n_after.sqrt() - root) * self.per_alpha;
        (z + (g - sigma * self.weight_at(z, root)), n_after)
    }

    #[inline(always)]
    fn weight_at(&self, z: f32, root: f32) -> f32 {
        let beyond_l1 = (z.abs() - self.l1).max(0.0);
        -(beyond_l1.copysign(z)) / ((self.beta + root) * self.per_alpha + self.l2)
    }
}

// Blocks: [z..][n..].
impl Ftrl {
    #[inline(always)]
    pub(super) fn read(&self, state: &[f32], w: &mut [f32]) {
        let (z, n) = state.split_at(w.len());
        for ((w, z), n) in w.iter_mut().zip(z).zip(n) {
            *w = self.weight_at(*z, n.sqrt());
        }
        if self.group_l1 > 0.0 {
            let kept = self.kept(z);
            w.iter_mut().for_each(|w| *w *= kept);
        }
    }

    /// Weights of many entries, side by side. Group L1 is not for single weights.
    #[inline(always)]
    pub(super) fn read_pairs(&self, z: &[f32], n: &[f32], w: &mut [f32]) {
        for ((w, z), n) in w.iter_mut().zip(z).zip(n) {
            *w = self.weight_at(*z, n.sqrt());
        }
    }

    /// The z that gives these weights while n is 0.
    pub(super) fn start(&self, w: &[f32], state: &mut [f32]) {
        let (z, _) = state.split_at_mut(w.len());
        for (z, w) in z.iter_mut().zip(w).filter(|(_, w)| **w != 0.0) {
            *z = -(w * (self.beta * self.per_alpha + self.l2) + self.l1.copysign(*w));
        }
    }

    #[inline(always)]
    pub(super) fn step_block(&self, state: &mut [f32], g: &[f32]) {
        let (z, n) = state.split_at_mut(g.len());
        let kept = if self.group_l1 > 0.0 { self.kept(z) } else { 1.0 };
        for ((z, n), g) in z.iter_mut().zip(n).zip(g) {
            let root = n.sqrt();
            *n += g * g;
            let sigma = (n.sqrt() - root) * self.per_alpha;
            *z += g - sigma * (self.weight_at(*z, root) * kept);
        }
    }

    /// What group L1 leaves of a block's weights.
    fn kept(&self, z: &[f32]) -> f32 {
        let beyond = |z: &f32| (z.abs() - self.l1).max(0.0);
        let norm = z.iter().fold(0.0f32, |sum, z| sum + beyond(z) * beyond(z)).sqrt();
        let off = self.group_l1 * (z.len() as f32).sqrt();
        if norm > off { 1.0 - off / norm } else { 0.0 }
    }
}

impl super::Pair for Ftrl {
    #[inline(always)]
    fn weight(&self, z: f32, n: f32) -> f32 {
        Ftrl::weight(self, z, n)
    }

    #[inline(always)]
    fn step(&self, z: f32, n: f32, gradient: f32, _rate: f32) -> (f32, f32) {
        Ftrl::step(self, z, n, gradient)
    }

    #[inline(always)]
    fn rate_at(&self, _z: f32, n: f32) -> f32 {
        1.0 / ((self.beta + n.sqrt()) * self.per_alpha + self.l2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    /// Algorithm 1 line by line in f64, for one coordinate.
    fn reference(alpha: f64, beta: f64, l1: f64, l2: f64, gradients: &[f64]) -> f64 {
        let (mut z, mut n) = (0.0f64, 0.0f64);
        let weight = |z: f64, n: f64| match z.abs() <= l1 {
            true => 0.0,
            false => -(z - z.signum() * l1) / ((beta + n.sqrt()) / alpha + l2),
        };
        for g in gradients {
            let sigma = ((n + g * g).sqrt() - n.sqrt()) / alpha;
            z += g - sigma * weight(z, n);
            n += g * g;
        }
        weight(z, n)
    }

    #[test]
    fn weights_follow_the_papers_algorithm() {
        let mut rng = Rng::seeded(11);
        for (alpha, beta, l1, l2) in [(0.1, 1.0, 0.0, 0.0), (0.05, 1.0, 1.0, 2.0), (1.0, 0.5, 3.0, 0.0)] {
            let gradients: Vec<f64> = (0..400).map(|_| rng.normal() * 0.3 + 0.05).collect();
            let ftrl = Ftrl::new(alpha, beta, l1, l2);
            let (z, n) = gradients.iter().fold((0.0, 0.0), |(z, n), g| ftrl.step(z, n, *g as f32));
            let (ours, expected) = (ftrl.weight(z, n) as f64, reference(alpha, beta, l1, l2, &gradients));
            assert!((ours - expected).abs() < 1e-4 * expected.abs().max(0.1), "{ours} against {expected}");
        }
    }

    #[test]
    fn inside_the_l1_ball_the_weight_is_zero() {
        let ftrl = Ftrl::new(0.1, 1.0, 1.0, 0.0);
        let (z, n) = ftrl.step(0.0, 0.0, 0.9);
        assert_eq!(ftrl.weight(z, n), 0.0);
        let (z, n) = ftrl.step(z, n, 0.9);
        // z = 1.8, n = 1.62: -(1.8 - 1) / ((1 + sqrt 1.62) / 0.1) = -0.8 / 22.728 = -0.035199
        assert!((ftrl.weight(z, n) + 0.035199).abs() < 1e-6);
    }

    #[test]
    fn a_gradient_that_would_leave_the_finite_numbers_is_refused() {
        let ftrl = Ftrl::new(0.1, 1.0, 0.0, 0.0);
        for g in [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e30] {
            assert_eq!(super::super::Pair::checked_step(&ftrl, 0.5, 0.25, g, 1.0), None);
        }
    }
}
