//! sin, cos, tan and asin of every f64, with the same bits on every machine and within two ulp of the true value.
//!
//! In: an angle of any size. Out: its sine, cosine or tangent; of infinities and NaN, NaN. A large angle loses nothing: it
//! is reduced by whole numbers against 1,280 bits of 2/pi (Payne and Hanek 1983), by the same code for small and large.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

/// pi/2 - FRAC_PI_2, by Python's decimal module with 60 digits.
const HALF_PI_LOW: f64 = 6.123_233_995_736_766e-17;

/// The bits of 2/pi behind the point, by Machin's formula in Python's whole numbers.
const TWO_OVER_PI: [u64; 20] = [
    0xa2f9_836e_4e44_1529,
    0xfc27_57d1_f534_ddc0,
    0xdb62_9599_3c43_9041,
    0xfe51_63ab_debb_c561,
    0xb724_6e3a_424d_d2e0,
    0x0649_2eea_09d1_921c,
    0xfe1d_eb1c_b129_a73e,
    0xe882_35f5_2ebb_4484,
    0xe99c_7026_b45f_7e41,
    0x3991_d639_8353_39f4,
    0x9c84_5f8b_bdf9_283b,
    0x1ff8_97ff_de05_980f,
    0xef2f_118b_5a0a_6d1f,
    0x6d36_7ecf_27cb_09b7,
    0x4f46_3f66_9e5f_ea2d,
    0x7527_bac7_ebe5_f17b,
    0x3d07_39f7_8a52_92ea,
    0x6bfb_5fb1_1f8d_5d08,
    0x5603_3046_fc7b_6bab,
    0xf0cf_bc20_9af4_361d,
];

/// The sine.
pub fn sin(x: f64) -> f64 {
    let (quarter, near) = reduced(x);
    quarter_of(quarter, near)
}

/// The cosine.
pub fn cos(x: f64) -> f64 {
    let (quarter, near) = reduced(x);
    quarter_of(quarter.wrapping_add(1), near)
}

/// The tangent.
pub fn tan(x: f64) -> f64 {
    let (quarter, near) = reduced(x);
    quarter_of(quarter, near) / quarter_of(quarter.wrapping_add(1), near)
}

/// The angle whose sine is `x`, for x from 0 to 1.
pub fn asin(x: f64) -> f64 {
    if x <= 0.5 { x + x * asin_rest(x * x) } else { asin_of_large(0.5 * (1.0 - x)) }
}

/// asin(1 - 2z).
fn asin_of_large(z: f64) -> f64 {
    let s = z.sqrt();
    FRAC_PI_2 - (2.0 * (s + s * asin_rest(z)) - HALF_PI_LOW)
}

/// (asin x - x) / x for x * x = z at most a quarter: the quotient of fdlibm's `e_asin.c` (Sun Microsystems, 1993).
fn asin_rest(z: f64) -> f64 {
    const ABOVE: [f64; 6] = [
        1.666_666_666_666_666_6e-1,
        -3.255_658_186_224_009e-1,
        2.012_125_321_348_629_3e-1,
        -4.005_553_450_067_941e-2,
        7.915_349_942_898_145e-4,
        3.479_331_075_960_212e-5,
    ];
    const BELOW: [f64; 5] =
        [1.0, -2.403_394_911_734_414, 2.020_945_760_233_505_7, -6.882_839_716_054_533e-1, 7.703_815_055_590_194e-2];
    z * polynomial(&ABOVE, z) / polynomial(&BELOW, z)
}

/// The sine of `near` plus so many quarters of a turn.
fn quarter_of(quarters: u64, near: (f64, f64)) -> f64 {
    let size = if quarters & 1 == 0 { sin_near_0(near) } else { cos_near_0(near) };
    if quarters & 2 == 0 { size } else { -size }
}

/// Taylor's series behind x of sin x / x and behind 1 - x^2/2 of cos x, in powers of x^2: what is left out is below 1e-18
/// for |x| at most pi/4.
const SIN_TERMS: [f64; 8] = [
    -1.0 / 6.0,
    1.0 / 120.0,
    -1.0 / 5_040.0,
    1.0 / 362_880.0,
    -1.0 / 39_916_800.0,
    1.0 / 6_227_020_800.0,
    -1.0 / 1_307_674_368_000.0,
    1.0 / 355_687_428_096_000.0,
];
const COS_TERMS: [f64; 8] = [
    1.0 / 24.0,
    -1.0 / 720.0,
    1.0 / 40_320.0,
    -1.0 / 3_628_800.0,
    1.0 / 479_001_600.0,
    -1.0 / 87_178_291_200.0,
    1.0 / 20_922_789_888_000.0,
    -1.0 / 6_402_373_705_728_000.0,
];

fn sin_near_0((x, low): (f64, f64)) -> f64 {
    let z = x * x;
    x + (x * (z * polynomial(&SIN_TERMS, z)) + low * (1.0 - 0.5 * z))
}

fn cos_near_0((x, low): (f64, f64)) -> f64 {
    let z = x * x;
    let half = 0.5 * z;
    let rounded = 1.0 - half;
    rounded + (((1.0 - rounded) - half) + (z * z * polynomial(&COS_TERMS, z) - x * low))
}

fn polynomial(terms: &[f64], x: f64) -> f64 {
    terms.iter().rev().fold(0.0, |sum, term| sum * x + term)
}

/// The angle from the nearest quarter of a turn, in two parts, and which quarter that is.
fn reduced(x: f64) -> (u64, (f64, f64)) {
    if x.abs() <= FRAC_PI_4 {
        return (0, (x, 0.0));
    }
    if !x.is_finite() {
        return (0, (f64::NAN, 0.0));
    }
    // |x| = m * 2^e. Bits of 2/pi so high that with m they make whole turns are left out.
    let bits = x.to_bits();
    let m = bits & ((1 << 52) - 1) | 1 << 52;
    let e = (bits >> 52 & 0x7ff) as i64 - 1075;
    let window: [u64; 3] = std::array::from_fn(|i| bits_of_two_over_pi(e - 2 + 64 * i as i64));
    // m times 192 bits, modulo 2^192: the first two bits are the quarter, those behind them how far it is gone through.
    let (low, middle) = (u128::from(m) * u128::from(window[2]), u128::from(m) * u128::from(window[1]));
    let middle = middle + (low >> 64);
    let high = m.wrapping_mul(window[0]).wrapping_add((middle >> 64) as u64);
    let quarter = high >> 62;
    let fraction =
        ((u128::from(high) << 64 | middle & u128::from(u64::MAX)) << 2 | u128::from(low as u64 >> 62)) as i128;
    // Beyond a half the next quarter is nearer: read as a number with a sign, the fraction is the way from it.
    let quarter = quarter + u64::from(fraction < 0);
    const UNIT: f64 = 1.0 / (1u128 << 127) as f64 * 0.5;
    let first = fraction as f64;
    let rest = (fraction - first as i128) as f64;
    let (first, rest) = (first * UNIT, rest * UNIT);
    // Times pi/2, with what the product lost.
    const UPPER: u64 = !((1 << 27) - 1);
    let upper = |x: f64| f64::from_bits(x.to_bits() & UPPER);
    let (a, b) = (upper(first), upper(FRAC_PI_2));
    let near = first * FRAC_PI_2;
    let lost = ((a * b - near) + a * (FRAC_PI_2 - b) + (first - a) * b) + (first - a) * (FRAC_PI_2 - b);
    let low = lost + (first * HALF_PI_LOW + rest * FRAC_PI_2);
    if x < 0.0 { (quarter.wrapping_neg(), (-near, -low)) } else { (quarter, (near, low)) }
}

/// 64 bits of 2/pi, of which the first stands `from` places behind the first behind the point; before it there are zeros.
fn bits_of_two_over_pi(from: i64) -> u64 {
    let word = |i: i64| usize::try_from(i).ok().and_then(|i| TWO_OVER_PI.get(i)).copied().unwrap_or(0);
    let (at, shift) = (from.div_euclid(64), from.rem_euclid(64) as u32);
    if shift == 0 { word(at) } else { word(at) << shift | word(at + 1) >> (64 - shift) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    fn close(ours: f64, theirs: f64) -> bool {
        ours.is_nan() && theirs.is_nan() || (ours - theirs).abs() <= 2.0 * f64::EPSILON * theirs.abs()
    }

    /// Angles of every size, among them those next to whole quarters, where most of the digits cancel.
    #[test]
    fn all_agree_with_the_standard_library_to_two_ulp() {
        let mut rng = Rng::seeded(21);
        for i in 0..300_000u64 {
            let x = match i % 4 {
                0 => f64::from_bits(rng.next_u64()),
                1 => rng.normal() * 10.0,
                2 => rng.below(1 << 40) as f64,
                _ => rng.below(1 << 20) as f64 * FRAC_PI_2,
            };
            for (name, ours, theirs) in [("sin", sin(x), x.sin()), ("cos", cos(x), x.cos()), ("tan", tan(x), x.tan())] {
                assert!(close(ours, theirs), "{name}({x:e}) = {ours:e}, std {theirs:e}");
            }
            let x = rng.next_f64();
            assert!(close(asin(x), x.asin()), "asin({x}) = {}, std {}", asin(x), x.asin());
        }
        assert_eq!((sin(0.0), cos(0.0), tan(0.0), asin(0.0)), (0.0, 1.0, 0.0, 0.0));
        assert!(close(asin(1.0), FRAC_PI_2));
        assert!(sin(f64::INFINITY).is_nan() && cos(f64::NAN).is_nan() && tan(f64::NEG_INFINITY).is_nan());
    }
}
