//! Tests that may be looked at whenever one likes: how strongly what came so far speaks against a version.
//!
//! In: what came since the last look. Out: the logarithm of a wealth that begins at 1 and, while nothing is wrong, is
//! expected to stay there, whoever looks and however often. It reaches 1 / alpha with a probability of at most alpha in all
//! (Ville's inequality), so a version is bad once it does. Sums only; no clock, no randomness.

/// Values are added up to blocks of so many: sums of blocks are nearly symmetric, however skewed the values are.
const BLOCK: u64 = 64;
/// The first blocks tell the scale and nothing else.
const SCALE_BLOCKS: u64 = 5;
/// The mixture expects effects of about half a standard deviation in a block.
const EFFECT: f64 = 0.5;

/// Whether the mean of values is above zero: a mixture over normal effects, scaled by what the values' own squares are.
///
/// For x symmetric around zero exp(lambda x - lambda^2 x^2 / 2) has an expectation of at most 1 for every lambda (de la
/// Peña 1999), so the mixture over lambda > 0, half-normal with deviation rho, is a wealth as above.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeanTest {
    block: f64,
    in_block: u64,
    blocks: u64,
    scale: f64,
    sum: f64,
    squares: f64,
    /// The largest logarithm of the wealth so far: the test may be stopped at any moment, also at that one.
    best: f64,
}

impl MeanTest {
    /// Takes the next value. One that is not finite ends the test against the version.
    pub fn add(&mut self, x: f64) {
        self.block += x;
        self.in_block += 1;
        if self.in_block < BLOCK {
            return;
        }
        let block = std::mem::take(&mut self.block);
        self.in_block = 0;
        self.blocks += 1;
        if !block.is_finite() {
            self.best = f64::INFINITY;
        } else if self.blocks <= SCALE_BLOCKS {
            self.scale += block * block / SCALE_BLOCKS as f64;
        } else {
            self.sum += block;
            self.squares += block * block;
            self.best = self.best.max(self.log_wealth());
        }
    }

    /// How strongly the values speak for a mean above zero: the largest logarithm of the wealth so far.
    pub fn evidence(&self) -> f64 {
        self.best
    }

    /// How many standard errors the mean lies above zero, by the blocks behind the first few. Of one look only: whoever looks
    /// again and again takes [`MeanTest::evidence`].
    pub fn deviations(&self) -> f64 {
        if self.squares > 0.0 { self.sum / self.squares.sqrt() } else { 0.0 }
    }

    fn log_wealth(&self) -> f64 {
        if self.scale <= 0.0 {
            // Nothing varied while the scale was taken: whatever came then says nothing of what comes now.
            return 0.0;
        }
        let rho_squared = EFFECT * EFFECT / self.scale;
        let spread = 1.0 + rho_squared * self.squares;
        let z = rho_squared.sqrt() * self.sum / spread.sqrt();
        (2.0 * normal_below(z)).ln() - 0.5 * spread.ln() + 0.5 * z * z
    }
}

/// Ratios of rates that are thought possible.
const RATIOS: [f64; 6] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0];

/// Whether something rare happens on the version more often than on the live one, relative to their requests.
///
/// Of those to whom it happened in a step, a share belongs to the version: its share of the requests when both are alike,
/// more when its rate is a multiple. The likelihood of each multiple against none is such a wealth, and so is their mean.
/// Steps may have any shares. That the version's part is drawn without putting back only makes it less extreme (Hoeffding
/// 1963, theorem 4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateTest {
    logs: [f64; RATIOS.len()],
    best: f64,
}

/// Requests of a step, and to how many of them it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Those among them that count against the version that answered.
    pub bad: u64,
}

impl RateTest {
    /// Takes what came since the last step. `tolerated`: the multiple of the live rate that is let pass, from 1.
    pub fn add(&mut self, live: Count, version: Count, tolerated: f64) {
        if live.requests == 0 || version.requests == 0 {
            return;
        }
        let (of_live, of_version) = (live.requests as f64, tolerated * version.requests as f64);
        for (log, ratio) in self.logs.iter_mut().zip(RATIOS) {
            // The share goes from v / (l + v) to ratio v / (l + ratio v).
            let less = ((of_live + of_version) / (of_live + ratio * of_version)).ln();
            *log += version.bad as f64 * (ratio.ln() + less) + live.bad as f64 * less;
        }
        self.best = self.best.max(self.log_wealth());
    }

    /// The same where the live version answers no more: its past rate, taken as high as its count allows, stands for it.
    /// The likelihoods are then those of Poisson counts.
    pub fn add_beside(&mut self, past: Count, version: Count, tolerated: f64) {
        if past.requests == 0 {
            return;
        }
        // Two deviations above, and two more: a rate that was zero by chance is not taken for none.
        let bad = past.bad as f64;
        let expected =
            (bad + 2.0 * (bad + 1.0).sqrt() + 2.0) / past.requests as f64 * version.requests as f64 * tolerated;
        for (log, ratio) in self.logs.iter_mut().zip(RATIOS) {
            *log += version.bad as f64 * ratio.ln() - (ratio - 1.0) * expected;
        }
        self.best = self.best.max(self.log_wealth());
    }

    /// How strongly it speaks against the version: the largest logarithm of the wealth so far.
    pub fn evidence(&self) -> f64 {
        self.best
    }

    fn log_wealth(&self) -> f64 {
        let top = self.logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + (self.logs.iter().map(|log| (log - top).exp()).sum::<f64>() / RATIOS.len() as f64).ln()
    }
}

/// The share of a standard normal variable that is below `z`; error below 2e-7 relative (Numerical Recipes, erfc).
pub fn normal_below(z: f64) -> f64 {
    let x = -z * std::f64::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    const C: [f64; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let erfc = t * (-x * x + C.iter().fold(0.0, |sum, c| sum * t + c)).exp();
    0.5 * if x >= 0.0 { erfc } else { 2.0 - erfc }
}

/// The value that a share `p` of a standard normal variable is below; error below 1e-6.
pub fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        match normal_below(middle) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;

    /// Values from a table of the normal distribution.
    #[test]
    fn the_normal_distribution_is_as_in_the_tables() {
        for (z, p) in
            [(0.0, 0.5), (1.0, 0.841_344_746), (-1.96, 0.024_997_895), (3.0, 0.998_650_102), (-6.0, 9.865_876e-10)]
        {
            assert!((normal_below(z) / p - 1.0).abs() < 1e-5, "{z}: {}", normal_below(z));
        }
        for (p, z) in [(0.99, 2.326_347_874), (0.01, -2.326_347_874), (0.5, 0.0), (0.975, 1.959_963_985)] {
            assert!((normal_quantile(p) - z).abs() < 1e-5, "{p}: {}", normal_quantile(p));
        }
    }

    /// What is drawn has mean zero: wealth reaches 1 / alpha in no more than a share alpha of runs, looked at after each
    /// value; also where the values are skewed as paired losses are.
    #[test]
    fn nothing_wrong_is_seldom_found() {
        type Draw = fn(&mut Rng) -> f64;
        let draws: [(&str, Draw); 3] = [
            ("symmetric", |rng| rng.normal()),
            // Mean 0: nine times a tenth, once nine tenths below.
            ("skewed", |rng| if rng.below(10) == 0 { -0.9 } else { 0.1 }),
            ("skewed the other way", |rng| if rng.below(20) == 0 { 1.9 } else { -0.1 }),
        ];
        for (what, draw) in draws {
            let mut rng = Rng::seeded(11);
            let found = (0..1_000).filter(|_| {
                let mut test = MeanTest::default();
                (0..5_000).for_each(|_| test.add(draw(&mut rng)));
                test.evidence() >= 20f64.ln()
            });
            let found = found.count();
            // A share of 0.05 would be 50, with a deviation of 7.
            assert!(found <= 50, "{what}: {found} of 1,000");
        }
    }

    #[test]
    fn a_mean_above_zero_is_found_and_one_below_is_not() {
        let mut rng = Rng::seeded(3);
        let (mut worse, mut better) = (MeanTest::default(), MeanTest::default());
        for _ in 0..20_000 {
            let noise = rng.normal();
            worse.add(0.06 + noise);
            better.add(-0.06 + noise);
        }
        assert!(worse.evidence() > 100f64.ln(), "{worse:?}");
        assert!(better.evidence() < 20f64.ln(), "{better:?}");
        worse = MeanTest::default();
        (0..BLOCK).for_each(|_| worse.add(f64::NAN));
        assert_eq!(worse.evidence(), f64::INFINITY);
    }

    /// Steps of a second with 2,000 requests, a tenth of them on the version.
    #[test]
    fn rates_that_differ_are_found_and_equal_ones_seldom() {
        let mut rng = Rng::seeded(5);
        let mut run = |live_rate: f64, version_rate: f64, steps: usize| {
            let mut test = RateTest::default();
            for _ in 0..steps {
                let mut count = |requests: u64, rate: f64| {
                    let bad = (0..requests).filter(|_| rng.next_f64() < rate).count() as u64;
                    Count { requests, bad }
                };
                test.add(count(900, live_rate), count(100, version_rate), 1.0);
            }
            test.evidence()
        };
        let found = (0..1_000).filter(|_| run(0.01, 0.01, 20) >= 20f64.ln()).count();
        assert!(found <= 50, "{found} of 1,000");
        assert!(run(0.01, 0.1, 4) > 20f64.ln());
        assert!(run(0.1, 0.01, 20) < 1.0);
    }
}
