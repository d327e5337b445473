//! How parameters change when a gradient arrives. One file per optimizer.
//!
//! In: the state of a block of parameters and its gradient. Out: the state after it. Every entry has its own clock: one that
//! no sample names is neither read nor written, so it stays as it was to the bit, and what an optimizer counts (Adam's bias
//! correction) it counts in the entry's own updates. A gradient that would leave the finite numbers is refused and the state
//! left as it was.
//!
//! The state of a block of d parameters is `words(d)` floats: first what belongs to the block as a whole, then one array of
//! d after the other. For one parameter and at most two words ([`Pair`]) that is (a, b), beside the key. Noise for
//! differential privacy would be added to the gradient, in the caller, before [`Optimizer::step`].

mod adagrad;
mod adam;
pub mod compress;
pub mod ftrl;
mod momentum;
mod penalty;
pub mod schedule;
mod sgd;

pub use adagrad::Adagrad;
pub use adam::Adam;
pub use compress::GradientFilter;
pub use ftrl::Ftrl;
pub use momentum::Momentum;
pub use penalty::{Clip, Penalty};
pub use schedule::Schedule;
pub use sgd::Sgd;

use crate::simd::{LANES, largest_bits};

/// An optimizer whose state for one parameter takes at most two words, so that it stands beside the key.
pub trait Pair: Copy + Send + Sync {
    /// The parameter of a state; 0 for the state (0, 0).
    fn weight(&self, a: f32, b: f32) -> f32;

    /// The state after a gradient, whose step is scaled by `rate`. Only [`Pair::is_good`] tells whether it may be kept.
    fn step(&self, a: f32, b: f32, gradient: f32, rate: f32) -> (f32, f32);

    /// Whether a state that came out of a step with this gradient may be kept: all numbers are finite.
    #[inline(always)]
    fn is_good(a: f32, b: f32, gradient: f32) -> bool {
        // All three are looked at always: cheaper than a branch, and a vector of them is one operation.
        (a.abs() < f32::INFINITY) & (b.abs() < f32::INFINITY) & (gradient.abs() < GRADIENT_MAX)
    }

    /// The state after a gradient; `None` when it would not be finite.
    #[inline(always)]
    fn checked_step(&self, a: f32, b: f32, gradient: f32, rate: f32) -> Option<(f32, f32)> {
        let (a, b) = self.step(a, b, gradient, rate);
        Self::is_good(a, b, gradient).then_some((a, b))
    }

    /// How far the parameter moves for a gradient of 1, about, from this state.
    fn rate_at(&self, a: f32, b: f32) -> f32;
}

/// An optimizer with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// SGD with momentum.
    Momentum(Momentum),
    /// Adagrad, also row-wise.
    Adagrad(Adagrad),
    /// FTRL-proximal.
    Ftrl(Ftrl),
    /// Adam, or AMSGrad.
    Adam(Adam),
}

/// Gradients from here on would overflow when squared and summed; no sensible sample makes one.
const GRADIENT_MAX: f32 = 1e18;

impl Optimizer {
    /// Floats that a block of so many parameters takes with its state.
    pub fn words(&self, dimension: usize) -> usize {
        match self {
            Self::Sgd(_) => dimension,
            Self::Momentum(_) | Self::Ftrl(_) => 2 * dimension,
            Self::Adagrad(adagrad) => adagrad.words(dimension),
            Self::Adam(adam) => adam.words(dimension),
        }
    }

    /// Whether the rate may change with time. FTRL's weights are derived from its rate.
    pub fn takes_schedule(&self) -> bool {
        !matches!(self, Self::Ftrl(_))
    }

    /// Writes the parameters of a state to `out`.
    #[inline(always)]
    pub fn read(&self, state: &[f32], out: &mut [f32]) {
        match self {
            Self::Ftrl(ftrl) => ftrl.read(state, out),
            Self::Adam(_) => copy(&state[Adam::CLOCK..][..out.len()], out),
            Self::Sgd(_) | Self::Momentum(_) | Self::Adagrad(_) => copy(&state[..out.len()], out),
        }
    }

    /// Writes the state in which these parameters were never updated.
    pub fn start(&self, parameters: &[f32], state: &mut [f32]) {
        state.fill(0.0);
        match self {
            Self::Ftrl(ftrl) => ftrl.start(parameters, state),
            Self::Adam(_) => state[Adam::CLOCK..][..parameters.len()].copy_from_slice(parameters),
            Self::Sgd(_) | Self::Momentum(_) | Self::Adagrad(_) => {
                state[..parameters.len()].copy_from_slice(parameters);
            }
        }
    }

    /// Changes a state by a gradient, whose step is scaled by `rate`. `false`: the gradient is no number or too large, and
    /// nothing was changed.
    #[inline(always)]
    pub fn step(&self, state: &mut [f32], gradient: &[f32], rate: f32) -> bool {
        let takes = Self::takes(largest_bits(gradient));
        if takes {
            self.step_taken(state, gradient, rate);
        }
        takes
    }

    /// Whether a gradient with this [`largest_bits`] is a number and not too large.
    #[inline(always)]
    pub fn takes(largest_bits: u32) -> bool {
        largest_bits < GRADIENT_MAX.to_bits()
    }

    /// [`Optimizer::step`] for a gradient that was found good ([`Optimizer::takes`]).
    #[inline(always)]
    pub fn step_taken(&self, state: &mut [f32], gradient: &[f32], rate: f32) {
        match self {
            Self::Sgd(sgd) => sgd.step_block(state, gradient, rate),
            Self::Momentum(momentum) => momentum.step_block(state, gradient, rate),
            Self::Adagrad(adagrad) => adagrad.step_block(state, gradient, rate),
            Self::Ftrl(ftrl) => ftrl.step_block(state, gradient),
            Self::Adam(adam) => adam.step_block(state, gradient, rate),
        }
    }

    /// Whether the state of one parameter is a pair ([`Pair`]), so that many can be changed side by side.
    pub fn is_pair(&self) -> bool {
        match self {
            Self::Ftrl(ftrl) => !ftrl.has_group_l1(),
            _ => self.words(1) == 2,
        }
    }

    /// The parameters of states that are pairs.
    #[inline(always)]
    pub fn read_pairs(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        match self {
            Self::Ftrl(ftrl) => ftrl.read_pairs(a, b, out),
            _ => out.copy_from_slice(a),
        }
    }

    /// Changes states that are pairs by a gradient each, as [`Optimizer::step`] would; `good` tells which may be kept.
    #[inline(always)]
    pub fn step_pairs(&self, a: &mut [f32], b: &mut [f32], g: &[f32], rate: f32, good: &mut [bool]) {
        match self {
            Self::Ftrl(ftrl) => step_pairs(*ftrl, a, b, g, rate, good),
            Self::Adagrad(adagrad) => step_pairs(*adagrad, a, b, g, rate, good),
            Self::Momentum(momentum) => step_pairs(*momentum, a, b, g, rate, good),
            Self::Sgd(_) | Self::Adam(_) => unreachable!("their states are no pairs"),
        }
    }

    /// What its name is in settings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Momentum(_) => "momentum",
            Self::Adagrad(adagrad) if adagrad.shares_n => "rowwise_adagrad",
            Self::Adagrad(_) => "adagrad",
            Self::Ftrl(_) => "ftrl",
            Self::Adam(adam) if adam.keeps_largest => "amsgrad",
            Self::Adam(_) => "adam",
        }
    }
}

/// The usual short blocks are not worth a call of memcpy.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    if let (Ok(from), Ok(to)) = (<&[f32; LANES]>::try_from(from), <&mut [f32; LANES]>::try_from(&mut *to)) {
        *to = *from;
    } else {
        to.copy_from_slice(from);
    }
}

#[inline(always)]
fn step_pairs<P: Pair>(pair: P, a: &mut [f32], b: &mut [f32], g: &[f32], rate: f32, good: &mut [bool]) {
    for (((a, b), g), good) in a.iter_mut().zip(b).zip(g).zip(good) {
        (*a, *b) = pair.step(*a, *b, *g, rate);
        *good = P::is_good(*a, *b, *g);
    }
}

/// w <- w - eta g.
#[inline(always)]
fn descend(w: &mut [f32], g: &[f32], eta: f32) {
    let ((ws, w_rest), (gs, g_rest)) = (w.as_chunks_mut::<LANES>(), g.as_chunks::<LANES>());
    for (w, g) in ws.iter_mut().zip(gs) {
        let mut after = *w;
        (0..LANES).for_each(|l| after[l] -= eta * g[l]);
        *w = after;
    }
    w_rest.iter_mut().zip(g_rest).for_each(|(w, g)| *w -= eta * g);
}

#[cfg(test)]
mod tests;
