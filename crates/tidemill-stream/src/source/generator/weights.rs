//! How likely a click is: one weight per value, one per pair of user and kind, some of them new at every drift step.
//!
//! In: the seed and the drift step. Out: the probability of a click for the values of an impression. Within a column the
//! weights have mean 0 and a fixed spread under the column's own distribution: so the click rate, the best possible loss and
//! the jump of a drift step are about the same for every seed and every step. From one step to the next the weights of C2
//! and of two or three other columns are drawn anew; C1, C3 and their pairs never change.

use tidemill_base::Rng;

use super::world::{COLUMNS, Distribution, ITEM, KIND, NUMBERS, USER, code_count, sub_seed};

/// The pairs of C1 and C3 stand behind the columns.
const PAIR: usize = COLUMNS;
/// Gives a click rate near 0.2 under the spreads below.
const BIAS: f64 = -1.78;
const USERS: usize = 50;
const KINDS: usize = 8;

/// Weights of one drift step.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    step: u64,
    /// Where each column's weights begin in `table`.
    starts: [usize; COLUMNS + 1],
    table: Vec<f64>,
}

impl Weights {
    /// The weights at a drift step.
    pub(super) fn at(seed: u64, step: u64, distributions: &[Distribution]) -> Self {
        let versions = versions(seed, step);
        let (mut starts, mut table) = ([0; COLUMNS + 1], Vec::new());
        for column in 0..=PAIR {
            starts[column] = table.len();
            let shares =
                if column == PAIR { pair_shares(distributions) } else { shares(column, &distributions[column]) };
            let mut rng = Rng::for_key(sub_seed(seed, 1 + column as u64), versions[column]);
            table.extend(draw(&mut rng, &shares, spread(column)));
        }
        Self { step, starts, table }
    }

    /// The drift step these belong to.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// The probability of a click, rounded to 1e-6.
    #[inline]
    pub(super) fn probability(&self, codes: &[u8; COLUMNS]) -> f64 {
        let mut logit = BIAS;
        for (&code, &start) in codes.iter().zip(&self.starts) {
            logit += self.table[start + code as usize];
        }
        logit += self.table[self.starts[PAIR] + pair(codes[USER], codes[KIND])];
        let p = 1.0 / (1.0 + (-logit).exp());
        (p * 1e6).round().clamp(1.0, 999_999.0) / 1e6
    }
}

fn pair(user: u8, kind: u8) -> usize {
    user as usize * KINDS + kind as usize
}

/// Standard deviation of a column's weights. Together 1.3 or so, which puts the best AUC between 0.75 and 0.8; what
/// changes at a step is worth about 5 % of the loss: half of p(1-p) times twice the changed variance.
fn spread(column: usize) -> f64 {
    match column {
        USER => 0.45,
        ITEM => 0.3,
        KIND => 0.2,
        PAIR => 0.5,
        _ => 0.17,
    }
}

/// Weights with mean 0 and the given spread under `shares`. The sum of four uniform numbers is near enough to normal, and is
/// the same on every machine.
fn draw(rng: &mut Rng, shares: &[f64], spread: f64) -> Vec<f64> {
    let mut w: Vec<f64> = shares.iter().map(|_| (0..4).map(|_| rng.next_f64() - 0.5).sum()).collect();
    let total: f64 = shares.iter().sum();
    let mean = w.iter().zip(shares).map(|(w, s)| w * s).sum::<f64>() / total;
    w.iter_mut().for_each(|w| *w -= mean);
    let variance = w.iter().zip(shares).map(|(w, s)| w * w * s).sum::<f64>() / total;
    let scale = spread / variance.sqrt();
    w.iter_mut().for_each(|w| *w *= scale);
    w
}

fn shares(column: usize, distribution: &Distribution) -> Vec<f64> {
    let mut shares = vec![0.0; code_count(column)];
    distribution.iter().for_each(|&v| shares[v as usize] += 1.0);
    shares
}

fn pair_shares(distributions: &[Distribution]) -> Vec<f64> {
    let (users, kinds) = (shares(USER, &distributions[USER]), shares(KIND, &distributions[KIND]));
    (0..USERS * KINDS).map(|i| users[i / KINDS] * kinds[i % KINDS]).collect()
}

/// The step at which each column's weights were last drawn.
fn versions(seed: u64, step: u64) -> [u64; COLUMNS + 1] {
    let mut versions = [0; COLUMNS + 1];
    versions[ITEM] = step;
    let mut unknown = COLUMNS - 3;
    let mut s = step;
    while s > 0 && unknown > 0 {
        for column in changed(seed, s) {
            if versions[column] == 0 {
                versions[column] = s;
                unknown -= 1;
            }
        }
        s -= 1;
    }
    versions
}

/// The columns besides C2 whose weights are drawn anew at a step: two or three of I1..I13 and C4..C26.
fn changed(seed: u64, step: u64) -> Vec<usize> {
    let mut rng = Rng::for_key(sub_seed(seed, 0), step);
    let count = 2 + rng.below(2) as usize;
    let mut columns = Vec::with_capacity(count);
    while columns.len() < count {
        let i = rng.below((COLUMNS - 3) as u64) as usize;
        let column = if i < NUMBERS { i } else { i + 3 };
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}
