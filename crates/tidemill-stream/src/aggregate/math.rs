//! Powers of one half and logarithms with fixed bits: additions, multiplications and divisions in a stated order.

/// 2^-x for x from 0; halving is exact.
pub(super) fn half_to_the(x: f64) -> f64 {
    if x >= 1000.0 {
        return 0.0;
    }
    let whole = x as u64;
    let y = -(x - whole as f64) * std::f64::consts::LN_2;
    // e^y for -ln 2 < y <= 0: the first term left out is below 2^-56.
    let mut sum = 1.0;
    for k in (1..=17).rev() {
        sum = 1.0 + sum * y / f64::from(k);
    }
    sum * f64::from_bits((1023 - whole) << 52)
}

/// The natural logarithm for x from 1.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for k in (0..18).rev() {
        sum = sum * square + 1.0 / f64::from(2 * k + 1);
    }
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the machine's own functions, which are right to the last digit or two.
    #[test]
    fn both_are_right_to_fourteen_digits() {
        for i in 0..4000 {
            let x = f64::from(i) * 0.013;
            assert!((half_to_the(x) / (-x).exp2() - 1.0).abs() < 1e-14, "2^-{x}");
            let y = 1.0 + f64::from(i) * 1.7;
            assert!((ln(y) - y.ln()).abs() < 1e-14 * (1.0 + y.ln()), "ln {y}");
        }
        assert_eq!(half_to_the(3.0), 0.125);
        assert_eq!(half_to_the(2000.0), 0.0);
        assert_eq!(ln(1.0), 0.0);
    }
}
