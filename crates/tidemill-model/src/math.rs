//! exp, ln and the logistic function with the same bits on every machine.
//!
//! A mathematical library may differ from one machine to the next in the last bit, and one bit in a gradient is another
//! model. These use only +, -, *, / on f64, which IEEE 754 fixes and Rust never fuses. The functions here are those that
//! stored models rest on, over the range where training needs them; [`real`] and [`angle`] have the whole range.

pub mod angle;
pub mod real;

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};

/// ln 2 in two parts: the first has 32 trailing zero bits, so that a small whole multiple of it is exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Beyond this the result would no longer be a normal number.
const EXP_MAX: f64 = 708.0;

/// 1/0!, 1/1!, ... 1/13!: the remainder after them is below 1e-17 for |r| <= ln 2 / 2.
const EXP_TERMS: [f64; 14] = [
    1.0,
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
    1.0 / 39_916_800.0,
    1.0 / 479_001_600.0,
    1.0 / 6_227_020_800.0,
];

/// e^x; arguments outside [-708, 708] count as the nearer end. NaN gives NaN.
#[inline]
pub fn exp(x: f64) -> f64 {
    let x = x.clamp(-EXP_MAX, EXP_MAX);
    let k = (x * LOG2_E + if x < 0.0 { -0.5 } else { 0.5 }) as i32;
    let r = (x - k as f64 * LN_2_HIGH) - k as f64 * LN_2_LOW;
    let polynomial = EXP_TERMS.iter().rev().fold(0.0, |sum, term| sum * r + term);
    polynomial * f64::from_bits(((k + 1023) as u64) << 52)
}

/// The natural logarithm of a positive normal number.
#[inline]
pub fn ln(x: f64) -> f64 {
    debug_assert!(x.is_normal() && x > 0.0, "ln of {x}");
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s, and |s| < 0.172, so that eleven terms leave less than 1e-17.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = (0..11).rev().fold(0.0, |sum, i| sum * square + 1.0 / (2 * i + 1) as f64);
    exponent as f64 * LN_2 + 2.0 * s * series
}

/// The probability that belongs to a logit: 1 / (1 + e^-x). NaN gives NaN.
#[inline]
pub fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + exp(-(logit as f64)))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> impl Iterator<Item = f64> {
        (-70_000..=70_000).map(|i| i as f64 * 0.01 + 0.003)
    }

    #[test]
    fn exp_and_ln_agree_with_the_standard_library() {
        for x in grid() {
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours / theirs - 1.0).abs() < 1e-14, "exp({x}) = {ours}, std {theirs}");
            assert!((ln(theirs) - x).abs() <= 1e-14 * x.abs().max(1.0), "ln(exp({x}))");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(ln(1.0), 0.0);
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn the_logistic_function_is_accurate_and_ends_at_0_and_1() {
        for x in grid().filter(|x| x.abs() < 80.0).map(|x| x as f32) {
            let expected = 1.0 / (1.0 + (-(x as f64)).exp());
            assert!((sigmoid(x) as f64 / expected - 1.0).abs() < 1e-7, "sigmoid({x})");
        }
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!((sigmoid(f32::INFINITY), sigmoid(40.0)), (1.0, 1.0));
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-30);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    /// Parameters rest on these bits: a change here changes every stored model. They are the true values, computed with 50
    /// digits by Python's decimal module (`1 / (1 + (-x).exp())`) and rounded to f32.
    #[test]
    fn the_bits_of_the_logistic_function_never_change() {
        let bits: Vec<u32> = [-20.0f32, -3.0, -0.1, 0.7, 5.5].iter().map(|x| sigmoid(*x).to_bits()).collect();
        assert_eq!(bits, [0x310d_a433, 0x3d42_41a2, 0x3ef3_35ee, 0x3f2b_0e5b, 0x3f7e_f542]);
    }
}
