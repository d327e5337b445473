//! Random numbers that stay with their item.
//!
//! In: a hash of the item's id, the seed of the request, and which call in the expression it is. Out: always the same
//! number for the same three: a page that is asked for again comes out the same, and an item keeps its luck whatever
//! other candidates are there.

use tidemill_base::{Rng, hash64_of_u64};
use tidemill_model::math::{angle, real};

/// Tries at a truncated normal number; each succeeds in a quarter of all cases or more, so that the end is never reached.
const TRIES_MAX: usize = 1000;

/// Beyond this, numbers of the tail differ from its beginning by less than their millionth part of a millionth.
const FAR_OUT: f64 = 1e6;

fn seed_of(seed: u64, call: u16) -> u64 {
    seed.wrapping_add((u64::from(call) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Uniform in [0, 1), 53 bits.
#[inline(always)]
pub(super) fn uniform(item: u64, seed: u64, call: u16) -> f64 {
    (hash64_of_u64(item, seed_of(seed, call)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Standard normal (Box and Muller 1958).
pub(super) fn normal(item: u64, seed: u64, call: u16) -> f64 {
    normal_of(&mut Rng::for_key(seed_of(seed, call), item))
}

fn normal_of(rng: &mut Rng) -> f64 {
    let (u, v) = (1.0 - rng.next_f64(), rng.next_f64());
    (-2.0 * real::ln(u)).sqrt() * angle::cos(std::f64::consts::TAU * v)
}

/// Normal with this sigma and mu, given that it lies between a and b; NaN where there is no such number.
pub(super) fn normal_between(item: u64, seed: u64, call: u16, a: f64, b: f64, sigma: f64, mu: f64) -> f64 {
    let (low, high) = ((a - mu) / sigma, (b - mu) / sigma);
    if !(sigma > 0.0 && low <= high) || low == f64::INFINITY || high == f64::NEG_INFINITY {
        return f64::NAN;
    }
    let mut rng = Rng::for_key(seed_of(seed, call), item);
    let z = if high < 0.0 { -between(&mut rng, -high, -low) } else { between(&mut rng, low, high) };
    // Back in its unit, rounding may have led beyond the ends.
    (mu + sigma * z).max(a).min(b)
}

/// Standard normal between `low` and `high`, where `high` is not negative: by the way of drawing that is refused least
/// often (Robert 1995).
fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    // So far out the next number is as good as the first, and squares would be infinite.
    if low > FAR_OUT {
        return low;
    }
    // The densest point that is allowed.
    let mode = if low > 0.0 { low } else { 0.0 };
    let rate = 0.5 * (low + (low * low + 4.0).sqrt());
    for _ in 0..TRIES_MAX {
        let (z, chance) = if low <= 0.0 && high - low > 2.5 {
            (normal_of(rng), 1.0)
        } else if low > 0.0 && (high - low) * rate > 1.0 {
            let z = low - real::ln(1.0 - rng.next_f64()) / rate;
            (z, real::exp(-0.5 * (z - rate) * (z - rate)))
        } else {
            let z = low + (high - low) * rng.next_f64();
            (z, real::exp(0.5 * (mode * mode - z * z)))
        };
        if z >= low && z <= high && rng.next_f64() < chance {
            return z;
        }
    }
    mode
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
        let all: Vec<f64> = numbers.collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        (mean, (all.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / all.len() as f64).sqrt())
    }

    #[test]
    fn numbers_are_spread_as_their_names_say() {
        let (mean, spread) = moments((0..20_000).map(|item| uniform(item, 7, 0)));
        assert!((mean - 0.5).abs() < 0.01 && (spread - 0.288_675).abs() < 0.01, "{mean} {spread}");
        let (mean, spread) = moments((0..20_000).map(|item| normal(item, 7, 0)));
        assert!(mean.abs() < 0.03 && (spread - 1.0).abs() < 0.03, "{mean} {spread}");
    }

    /// Expected means and standard deviations: m = (phi(low) - phi(high)) / Z and the root of
    /// 1 + (low phi(low) - high phi(high)) / Z - m^2, Z by Python's `math.erfc`.
    #[test]
    fn truncated_numbers_stay_between_their_ends_and_keep_their_shape() {
        for (low, high, mean, spread) in [
            (-1.0, 1.0, 0.0, 0.539_560_1),
            (-5.0, 0.5, -0.509_158_5, 0.697_256_4),
            (0.0, 10.0, 0.797_884_6, 0.602_810_3),
            (3.0, 8.0, 3.283_098_7, 0.265_629_8),
            (-3.2, -3.0, -3.089_745_8, 0.057_149_2),
            (-20.0, -4.0, -4.225_607_1, 0.216_039_0),
        ] {
            let (sigma, mu) = (2.0, 10.0);
            let (a, b) = (mu + sigma * low, mu + sigma * high);
            let all = (0..20_000).map(|item| normal_between(item, 3, 1, a, b, sigma, mu));
            let (m, s) = moments(all.inspect(|x| assert!(*x >= a && *x <= b, "{x}")).map(|x| (x - mu) / sigma));
            assert!((m - mean).abs() < 0.02 && (s - spread).abs() < 0.02, "{low} {high}: {m} {s}");
        }
        assert_eq!(normal_between(1, 1, 1, 5.0, 5.0, 1.0, 0.0), 5.0);
        for (a, b, sigma) in
            [(2.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0, -1.0), (f64::NAN, 1.0, 1.0), (0.0, 1.0, f64::NAN)]
        {
            assert!(normal_between(1, 1, 1, a, b, sigma, 0.0).is_nan(), "{a} {b} {sigma}");
        }
        let open = normal_between(1, 1, 1, f64::NEG_INFINITY, f64::INFINITY, 1.0, 0.0);
        assert!(open.is_finite());
        let far = normal_between(1, 1, 1, 1e200, f64::INFINITY, 1.0, 0.0);
        assert_eq!((far, normal_between(1, 1, 1, -1e300, -1e200, 1.0, 0.0)), (1e200, -1e200));
    }

    #[test]
    fn an_item_keeps_its_numbers_and_calls_differ() {
        assert_eq!(uniform(5, 7, 0), uniform(5, 7, 0));
        for other in [uniform(6, 7, 0), uniform(5, 8, 0), uniform(5, 7, 1)] {
            assert_ne!(uniform(5, 7, 0), other);
        }
    }
}
