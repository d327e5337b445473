//! The world behind the generated click stream: who sees what, how likely a click is, and how that changes.
//!
//! In: the settings and the number of an impression. Out: its values, its true click probability, and its click. Every
//! impression has random numbers of its own, so any one can be had without those before it. Distributions are tables of
//! 1,024 places and weights are made by addition, division and square root only, so that the stream is the same on every
//! machine; what `exp` and `ln` give is rounded (the probability to 1e-6, the delay to milliseconds).

use tidemill_base::{Rng, rng::mix64};

use super::weights::Weights;
use crate::source::GeneratorSettings;

/// Columns I1..I13.
pub(super) const NUMBERS: usize = 13;
/// Columns C1..C26.
pub(super) const CATEGORIES: usize = 26;
/// Both.
pub(super) const COLUMNS: usize = NUMBERS + CATEGORIES;
/// Places of C1, C2 and C3 among all columns.
pub(super) const USER: usize = NUMBERS;
pub(super) const ITEM: usize = NUMBERS + 1;
pub(super) const KIND: usize = NUMBERS + 2;

/// Distinct values of each category.
const CATEGORY_VALUES: [usize; CATEGORIES] =
    [50, 40, 8, 3, 5, 8, 12, 30, 20, 6, 15, 24, 10, 4, 18, 28, 9, 14, 22, 7, 26, 11, 16, 25, 13, 19];
/// Distinct values of each number, the missing one not counted.
const NUMBER_VALUES: [usize; NUMBERS] = [12, 10, 8, 12, 6, 9, 11, 7, 12, 5, 8, 10, 6];
/// How many of 1,024 impressions lack each number.
const MISSING_OF_1024: [usize; NUMBERS] = [0, 60, 200, 0, 30, 250, 100, 0, 150, 400, 50, 300, 20];
/// What the numbers are: few small ones, then a long tail.
const NUMBER_SCALE: [i64; 12] = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144];

/// A distribution over at most 256 values: a random place of the table holds the value.
pub(super) type Distribution = Box<[u8; 1024]>;

/// No delay is longer than this many times the mean, so that the clicks stream knows how far it must look ahead.
pub(super) const DELAY_MEANS_MAX: i64 = 20;

/// The seeded world of one pair of streams.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    rate: u64,
    start_ms: i64,
    drift_every_ms: Option<i64>,
    click_delay_ms: i64,
    distributions: Vec<Distribution>,
    names: Vec<Vec<String>>,
    /// Those of the drift step last asked for.
    weights: Weights,
}

/// One impression, as the two streams show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Impression {
    /// Its number.
    pub imp_id: i64,
    /// Its event time, epoch ms.
    pub ts: i64,
    /// I1..I13.
    pub numbers: [Option<i64>; NUMBERS],
    /// C1..C26.
    pub categories: [String; CATEGORIES],
    /// The probability of a click.
    pub true_p: f64,
    /// Event time of its click, if there is one.
    pub click_ts: Option<i64>,
}

/// One impression in numbers of values.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub(super) codes: [u8; COLUMNS],
    pub(super) true_p: f64,
    pub(super) click_ts: Option<i64>,
}

impl World {
    /// The world of these settings.
    pub fn new(settings: &GeneratorSettings) -> Self {
        let distributions: Vec<_> = (0..COLUMNS).map(distribution).collect();
        Self {
            seed: settings.seed,
            rate: settings.rate.max(1),
            start_ms: settings.start_ms,
            drift_every_ms: settings.drift_every_ms.filter(|&ms| ms > 0),
            click_delay_ms: settings.click_delay_ms.max(1),
            weights: Weights::at(settings.seed, 0, &distributions),
            distributions,
            names: (0..CATEGORIES).map(names).collect(),
        }
    }

    /// Event time of impression `number`.
    pub fn ts(&self, number: u64) -> i64 {
        self.start_ms.saturating_add((number as u128 * 1000 / self.rate as u128) as i64)
    }

    /// Impressions a second of event time.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// The drift step that impression `number` falls in.
    pub fn drift_step(&self, number: u64) -> u64 {
        self.drift_every_ms.map_or(0, |every| ((self.ts(number) - self.start_ms) / every) as u64)
    }

    /// Impression `number`.
    pub fn impression(&mut self, number: u64) -> Impression {
        let draw = self.draw(number);
        self.show(number, &draw)
    }

    /// Impression `number` as it would have been with this user (of 50) and this item (of 40).
    pub fn candidate(&mut self, number: u64, user: usize, item: usize) -> Impression {
        let mut draw = self.draw(number);
        draw.codes[USER] = (user % CATEGORY_VALUES[0]) as u8;
        draw.codes[ITEM] = (item % CATEGORY_VALUES[1]) as u8;
        draw.codes[KIND] = kind_of(draw.codes[ITEM]);
        draw.true_p = self.weights.probability(&draw.codes);
        draw.click_ts = None;
        self.show(number, &draw)
    }

    /// The probability that impression `number` would have had `steps` drift steps ago: what a model that learned that
    /// world by heart predicts now.
    pub fn stale_probability(&self, number: u64, steps: u64) -> f64 {
        let step = self.drift_step(number).saturating_sub(steps);
        let (codes, _) = self.codes(number);
        Weights::at(self.seed, step, &self.distributions).probability(&codes)
    }

    /// Impression `number` in numbers of values.
    #[inline]
    pub(super) fn draw(&mut self, number: u64) -> Draw {
        let step = self.drift_step(number);
        if step != self.weights.step() {
            self.weights = Weights::at(self.seed, step, &self.distributions);
        }
        let (codes, mut rng) = self.codes(number);
        let true_p = self.weights.probability(&codes);
        let click_ts = (rng.next_f64() < true_p).then(|| {
            let mean = self.click_delay_ms;
            let delay = rng.exponential(mean as f64).ceil() as i64;
            self.ts(number) + delay.clamp(1, mean.saturating_mul(DELAY_MEANS_MAX))
        });
        Draw { codes, true_p, click_ts }
    }

    /// The longest time from an impression to its click.
    pub(super) fn delay_max_ms(&self) -> i64 {
        self.click_delay_ms.saturating_mul(DELAY_MEANS_MAX)
    }

    /// Names of a category's values; all of one length.
    pub(super) fn names(&self, category: usize) -> &[String] {
        &self.names[category]
    }

    #[inline]
    fn codes(&self, number: u64) -> ([u8; COLUMNS], Rng) {
        let mut rng = Rng::for_key(self.seed, number);
        let mut codes = [0u8; COLUMNS];
        // Six places of ten bits from each random number.
        for (codes, tables) in codes.chunks_mut(6).zip(self.distributions.chunks(6)) {
            let mut bits = rng.next_u64();
            for (code, table) in codes.iter_mut().zip(tables) {
                *code = table[(bits & 1023) as usize];
                bits >>= 10;
            }
        }
        codes[KIND] = kind_of(codes[ITEM]);
        (codes, rng)
    }

    fn show(&self, number: u64, draw: &Draw) -> Impression {
        Impression {
            imp_id: number as i64,
            ts: self.ts(number),
            numbers: std::array::from_fn(|i| number_value(i, draw.codes[i])),
            categories: std::array::from_fn(|c| self.names[c][draw.codes[NUMBERS + c] as usize].clone()),
            true_p: draw.true_p,
            click_ts: draw.click_ts,
        }
    }
}

/// The value behind a number's code; the code past the last one is a missing value.
#[inline]
pub(super) fn number_value(column: usize, code: u8) -> Option<i64> {
    ((code as usize) < NUMBER_VALUES[column]).then(|| NUMBER_SCALE[code as usize])
}

/// Codes a column can have.
pub(super) fn code_count(column: usize) -> usize {
    match column {
        0..NUMBERS => NUMBER_VALUES[column] + 1,
        _ => CATEGORY_VALUES[column - NUMBERS],
    }
}

fn kind_of(item: u8) -> u8 {
    item % CATEGORY_VALUES[2] as u8
}

/// Categories are Zipf-like (share 1/(rank)), numbers fall off faster (1/(rank (rank + 1))) and may be missing.
fn distribution(column: usize) -> Distribution {
    if column == KIND {
        // Never drawn: the kind follows from the item. For the item's own shares see `ITEM`.
        let item = distribution(ITEM);
        return Box::new(std::array::from_fn(|i| kind_of(item[i])));
    }
    let missing = MISSING_OF_1024.get(column).copied().unwrap_or(0);
    let values = code_count(column) - usize::from(column < NUMBERS);
    let share = |v: usize| match column {
        0..NUMBERS => 1.0 / ((v + 1) * (v + 2)) as f64,
        _ => 1.0 / (v + 1) as f64,
    };
    let total: f64 = (0..values).map(share).sum();
    let mut table = Box::new([values as u8; 1024]);
    let (mut so_far, mut at) = (0.0, 0);
    for v in 0..values {
        so_far += share(v);
        let end = (so_far / total * (1024 - missing) as f64).round() as usize;
        table[at..end].fill(v as u8);
        at = end;
    }
    table
}

fn names(category: usize) -> Vec<String> {
    let values = 0..CATEGORY_VALUES[category];
    match category {
        0 => values.map(|v| format!("u{v:02}")).collect(),
        1 => values.map(|v| format!("i{v:02}")).collect(),
        2 => values.map(|v| format!("c{v}")).collect(),
        _ => values.map(|v| format!("v{v:02}")).collect(),
    }
}

/// A seed for one purpose, apart from that of the impressions.
pub(super) fn sub_seed(seed: u64, purpose: u64) -> u64 {
    mix64(mix64(seed).wrapping_add(purpose))
}
