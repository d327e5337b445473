//! exp, ln, log10 and pow of every f64, with the same bits on every machine and within an ulp or so of the true value.
//!
//! In: any number, infinities and NaN included. Out: what IEEE 754 says of it: ln 0 is -infinity, the logarithm of a
//! negative number is NaN, and so is a broken power of one. Each is straight code without a branch or a table, made to be
//! inlined into loops over columns, which a compiler turns into lanes. Only +, -, *, / and whole-number operations on the
//! bits are used, so lanes of any width give the same bits as one number alone.

use std::f64::consts::{LOG2_E, LOG10_E, SQRT_2};

use super::{EXP_TERMS, LN_2_HIGH, LN_2_LOW};

/// 1 / ln 10 - LOG10_E, by Python's decimal module with 60 digits.
const LOG10_E_LOW: f64 = 1.098_319_650_216_765e-17;
/// 1.5 * 2^52: a number below 2^51 added to it is rounded to a whole one, which then stands in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// 2^52, whose low bits are a whole number below it that is or-ed in.
const WHOLE: f64 = 4_503_599_627_370_496.0;
const EXPONENT_BIAS: u64 = 1023;
/// Beyond these e^x is 0 or infinite.
const EXP_LEAST: f64 = -746.0;
const EXP_LARGEST: f64 = 710.0;
/// No base but 1 has a power of this size that is neither 0 nor infinite.
const POWER_MAX: f64 = 36_893_488_147_419_103_232.0;

/// Coefficients of (ln(1+f) - 2s) / s in powers of s * s where s = f / (2 + f): those of fdlibm's `e_log.c` (Sun
/// Microsystems, 1993), good to 2^-58 for 1 + f between sqrt(1/2) and sqrt(2).
const LN_TERMS: [f64; 7] = [
    6.666_666_666_666_735e-1,
    3.999_999_999_940_942e-1,
    2.857_142_874_366_239e-1,
    2.222_219_843_214_978_4e-1,
    1.818_357_216_161_805e-1,
    1.531_383_769_920_937_3e-1,
    1.479_819_860_511_658_6e-1,
];

const TWO_THIRDS: f64 = 2.0 / 3.0;
/// 2/3 - TWO_THIRDS, by Python's decimal module with 60 digits.
const TWO_THIRDS_LOW: f64 = 3.700743415417188e-17;
/// 2/5, 2/7, ...: what is left out is below 2^-72 for s * s up to 0.03.
const FROM_TWO_FIFTHS: [f64; 11] = [
    2.0 / 5.0,
    2.0 / 7.0,
    2.0 / 9.0,
    2.0 / 11.0,
    2.0 / 13.0,
    2.0 / 15.0,
    2.0 / 17.0,
    2.0 / 19.0,
    2.0 / 21.0,
    2.0 / 23.0,
    2.0 / 25.0,
];

/// e^x.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    exp_of_sum(x, 0.0)
}

/// The natural logarithm.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    let (exponent, m) = parts(x);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let half = 0.5 * f * f;
    let series = s * (half + z * ln_series(z));
    let finite = exponent * LN_2_HIGH - ((half - (series + exponent * LN_2_LOW)) - f);
    of_no_logarithm(x, finite)
}

/// The logarithm to base 10; of a power of ten it is the whole number.
#[inline(always)]
pub fn log10(x: f64) -> f64 {
    let (high, low) = ln_in_two(x);
    let (product, rest) = product_in_two(high, LOG10_E);
    of_no_logarithm(x, product + (rest + (high * LOG10_E_LOW + low * LOG10_E)))
}

/// x^y: 0^0 is 1, a negative base has whole powers only.
///
/// The powers 0.5, 1 and 2 are made of a root, of x itself and of one product, for every caller: where the exponent is
/// known beforehand no more need be computed, and the bits are the same.
#[inline(always)]
pub fn pow(x: f64, y: f64) -> f64 {
    let (high, low) = ln_in_two(x.abs());
    let power = choose(y > POWER_MAX, POWER_MAX, choose(y < -POWER_MAX, -POWER_MAX, y));
    let (product, rest) = product_in_two(high, power);
    let size = exp_of_sum(product, rest + low * power);
    // Of 0 and of infinity there is no finite logarithm.
    let extreme = choose((x == 0.0) == (y < 0.0), f64::INFINITY, 0.0);
    let size = choose(x == 0.0 || x.abs() == f64::INFINITY, extreme, size);
    let (whole, odd) = (is_whole(y), is_odd(y));
    let signed = choose(x.is_sign_negative() && odd, -size, size);
    let result = choose(x < 0.0 && !whole, f64::NAN, signed);
    let result = choose(x.is_nan() || y.is_nan(), f64::NAN, result);
    let result = choose(y.abs() == f64::INFINITY, to_infinity(x.abs(), y), result);
    let result = choose(x == 1.0 || y == 0.0, 1.0, result);
    let result = choose(y == 2.0, x * x, result);
    let result = choose(y == 1.0, x, result);
    choose(y == 0.5, root(x), result)
}

/// x^0.5: as [`pow`] has it.
#[inline(always)]
pub fn root(x: f64) -> f64 {
    // The root of -0 is -0, its power of a half is 0.
    x.sqrt() + 0.0
}

/// Whether `y` has nothing behind the point. Infinities are whole.
#[inline(always)]
fn is_whole(y: f64) -> bool {
    let size = y.abs();
    size >= WHOLE || (size + WHOLE) - WHOLE == size
}

#[inline(always)]
fn is_odd(y: f64) -> bool {
    // Beyond 2^53 every number is even; below, half of an odd number is not whole.
    y.abs() < 2.0 * WHOLE && is_whole(y) && !is_whole(0.5 * y)
}

/// x^y for an infinite y and an x that is not negative.
#[inline(always)]
fn to_infinity(x: f64, y: f64) -> f64 {
    let grows = (x > 1.0) == (y > 0.0);
    let result = choose(grows, f64::INFINITY, 0.0);
    let result = choose(x == 1.0, 1.0, result);
    choose(x.is_nan(), f64::NAN, result)
}

#[inline(always)]
fn choose(first: bool, a: f64, b: f64) -> f64 {
    if first { a } else { b }
}

/// e^(x + more), where `more` is tiny beside x.
#[inline(always)]
fn exp_of_sum(x: f64, more: f64) -> f64 {
    let bounded = choose(x > EXP_LARGEST, EXP_LARGEST, choose(x < EXP_LEAST, EXP_LEAST, x));
    // At the ends, and where x has no rest, nothing is to be added.
    let more = choose(bounded == x, more, 0.0);
    let k = (bounded * LOG2_E + ROUND) - ROUND;
    let r = (bounded - k * LN_2_HIGH) - (k * LN_2_LOW - more);
    let polynomial = EXP_TERMS[2..].iter().rev().fold(0.0, |sum, term| sum * r + term);
    let near_one = 1.0 + (r + r * r * polynomial);
    // In two steps: 2^k itself may be no normal number although the result is one, or the other way round.
    let half = (k * 0.5 + ROUND) - ROUND;
    near_one * power_of_two(half) * power_of_two(k - half)
}

/// 2^k for a whole k from -1022 to 1023.
#[inline(always)]
fn power_of_two(k: f64) -> f64 {
    f64::from_bits(((k + ROUND).to_bits() << 52).wrapping_add(EXPONENT_BIAS << 52))
}

/// x = m * 2^exponent with m between sqrt(1/2) and sqrt(2), for any positive finite x.
#[inline(always)]
fn parts(x: f64) -> (f64, f64) {
    let tiny = x < f64::MIN_POSITIVE;
    let scaled = choose(tiny, x * (WHOLE * 4.0), x);
    let bits = scaled.to_bits();
    let biased = f64::from_bits((bits >> 52 & 0x7ff) | WHOLE.to_bits()) - WHOLE;
    let m = f64::from_bits(bits & ((1 << 52) - 1) | EXPONENT_BIAS << 52);
    let large = m > SQRT_2;
    let exponent = biased - choose(tiny, EXPONENT_BIAS as f64 + 54.0, EXPONENT_BIAS as f64);
    (exponent + choose(large, 1.0, 0.0), choose(large, 0.5 * m, m))
}

#[inline(always)]
fn ln_series(z: f64) -> f64 {
    LN_TERMS.iter().rev().fold(0.0, |sum, term| sum * z + term)
}

/// `finite` for positive finite numbers, and what is true of the others.
#[inline(always)]
fn of_no_logarithm(x: f64, finite: f64) -> f64 {
    let result = choose(x == f64::INFINITY, f64::INFINITY, finite);
    let result = choose(x > 0.0, result, f64::NAN);
    choose(x == 0.0, f64::NEG_INFINITY, result)
}

/// ln x as the sum of a number and a much smaller one, for any positive finite x; to about 2^-65.
#[inline(always)]
fn ln_in_two(x: f64) -> (f64, f64) {
    let (exponent, m) = parts(x);
    let f = m - 1.0;
    let below = 2.0 + f;
    let below_rest = f - (below - 2.0);
    let s = f / below;
    let (back, back_rest) = product_in_two(s, below);
    let s_rest = (((f - back) - back_rest) - s * below_rest) / below;
    // ln(1 + f) = 2 (s + s^3 / 3 + s^5 / 5 + ...), of which the first two terms are kept in two parts.
    let (z, z_rest) = product_in_two(s, s);
    let z_rest = z_rest + 2.0 * s * s_rest;
    let (third, third_rest) = product_in_two(z, TWO_THIRDS);
    let third_rest = third_rest + (z * TWO_THIRDS_LOW + z_rest * TWO_THIRDS);
    let (cube, cube_rest) = product_in_two(s, third);
    let cube_rest = cube_rest + (s * third_rest + s_rest * third);
    let series = FROM_TWO_FIFTHS.iter().rev().fold(0.0, |sum, term| sum * z + term);
    let (tail, tail_rest) = (cube, 2.0 * s_rest + cube_rest + s * (z * z * series));
    let (whole, main) = (exponent * LN_2_HIGH, 2.0 * s);
    let sum = whole + main;
    // What the sum lost: Knuth's, since either may be the larger.
    let shown = sum - whole;
    let lost = (whole - (sum - shown)) + (main - shown);
    // The tail is at most a fiftieth of the sum, so that what this loses is plainly what is left.
    let high = sum + tail;
    let low = ((sum - high) + tail) + (lost + (exponent * LN_2_LOW + tail_rest));
    (high, low)
}

/// a * b as its nearest number and the rest, exactly, unless that overflows: halves of 26 bits have exact products.
#[inline(always)]
fn product_in_two(a: f64, b: f64) -> (f64, f64) {
    const UPPER: u64 = !((1 << 27) - 1);
    let (a_high, b_high) = (f64::from_bits(a.to_bits() & UPPER), f64::from_bits(b.to_bits() & UPPER));
    let (a_low, b_low) = (a - a_high, b - b_high);
    let product = a * b;
    let rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
    (product, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, wide};
    use tidemill_base::Rng;

    const EDGES: [f64; 22] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        1e300,
        -1e300,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        9_007_199_254_740_993.0,
        4_503_599_627_370_497.0,
    ];

    /// How many representable numbers lie between the two.
    fn ulps(a: f64, b: f64) -> u64 {
        let order =
            |x: f64| if x.to_bits() >> 63 == 1 { -((x.to_bits() << 1 >> 1) as i64) } else { x.to_bits() as i64 };
        if a.is_nan() && b.is_nan() { 0 } else { order(a).abs_diff(order(b)) }
    }

    fn any(rng: &mut Rng) -> f64 {
        match rng.below(4) {
            0 => f64::from_bits(rng.next_u64()),
            1 => rng.normal() * 100.0,
            2 => 1.0 + rng.normal() * 1e-3,
            _ => rng.below(2000) as f64 / 8.0 - 100.0,
        }
    }

    #[test]
    fn all_agree_with_the_standard_library_to_two_ulp() {
        let mut rng = Rng::seeded(11);
        for i in 0..300_000 {
            let x = EDGES.get(i).copied().unwrap_or_else(|| any(&mut rng));
            for (name, ours, theirs) in
                [("exp", exp(x), x.exp()), ("ln", ln(x), x.ln()), ("log10", log10(x), x.log10())]
            {
                assert!(ulps(ours, theirs) <= 2, "{name}({x:e}) = {ours:e}, std {theirs:e}");
            }
        }
        for power in -300..=300 {
            assert_eq!(log10(format!("1e{power}").parse().unwrap()), f64::from(power));
        }
    }

    #[test]
    fn powers_agree_with_the_standard_library_to_two_ulp_and_at_every_edge() {
        for x in EDGES {
            for y in EDGES {
                // Broken powers of -infinity are the one case where this is not IEEE's: NaN, as of every negative number.
                let broken = x == f64::NEG_INFINITY && y.is_finite() && y.fract() != 0.0;
                let expected = if broken { f64::NAN } else { x.powf(y) };
                assert!(ulps(pow(x, y), expected) <= 2, "{x:e} ^ {y:e} = {:e}, not {expected:e}", pow(x, y));
                assert_eq!(
                    pow(x, y).is_sign_negative() && !expected.is_nan(),
                    expected.is_sign_negative() && !expected.is_nan()
                );
            }
        }
        let mut rng = Rng::seeded(12);
        for _ in 0..300_000 {
            let (x, y) = (any(&mut rng), any(&mut rng));
            let (ours, theirs) = (pow(x, y), x.powf(y));
            assert!(ulps(ours, theirs) <= 2, "{x:e} ^ {y:e} = {ours:e}, std {theirs:e}");
        }
    }

    struct All<'a>(&'a [f64], &'a [f64], &'a mut Vec<f64>);

    impl Kernel for All<'_> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            self.2.extend(self.0.iter().map(|x| exp(*x)));
            self.2.extend(self.0.iter().map(|x| ln(*x)));
            self.2.extend(self.0.iter().map(|x| log10(*x)));
            self.2.extend(self.0.iter().zip(self.1).map(|(x, y)| pow(*x, *y)));
        }
    }

    /// Scores and their order rest on these bits.
    #[test]
    fn wider_registers_change_no_bit() {
        let mut rng = Rng::seeded(13);
        let x: Vec<f64> = (0..4001).map(|_| any(&mut rng)).collect();
        let y: Vec<f64> = (0..4001).map(|_| any(&mut rng)).collect();
        let (mut plain, mut in_lanes) = (Vec::new(), Vec::new());
        All(&x, &y, &mut plain).run();
        wide(All(&x, &y, &mut in_lanes));
        for (i, (a, b)) in plain.iter().zip(&in_lanes).enumerate() {
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{i}: {a:e} and {b:e}");
        }
    }
}
