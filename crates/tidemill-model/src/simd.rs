//! Sums of lanes in a fixed order, and the loops that learners and optimizers share.
//!
//! In: slices, as part of a [`Kernel`]. Out: the bits of the plain code, in wider registers where the processor has them:
//! each lane is a sum of its own, nothing is fused into a multiply-add, and square root and division are IEEE 754's.

pub use tidemill_base::simd::{Kernel, wide, widest};

/// Lanes of the sums here.
pub const LANES: usize = 8;

/// The sum of eight lanes, always in this tree.
#[inline(always)]
pub fn add_lanes(x: &[f32; LANES]) -> f32 {
    ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}

/// The sum of squares: number i goes to lane i modulo sixteen as long as there are sixteen, or eight. Two registers, so
/// that an addition need not wait for the one before.
#[inline(always)]
pub fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<{ 2 * LANES }>();
    let mut lanes = [0.0f32; 2 * LANES];
    for x in chunks {
        for l in 0..2 * LANES {
            lanes[l] += x[l] * x[l];
        }
    }
    let (chunk, rest) = rest.as_chunks::<LANES>();
    for x in chunk {
        for l in 0..LANES {
            lanes[l] += x[l] * x[l];
        }
    }
    for (x, lane) in rest.iter().zip(&mut lanes[LANES..]) {
        *lane += x * x;
    }
    add_lanes(&std::array::from_fn(|l| lanes[l] + lanes[LANES + l]))
}

/// The largest of the absolute values, as bits: these are ordered as the numbers are, infinity and then NaN above all.
#[inline(always)]
pub fn largest_bits(x: &[f32]) -> u32 {
    // Most are as long as an embedding, or one longer; of those a loop would go number by number.
    let (first, rest) = x.split_first_chunk::<LANES>().map_or((&[0.0; LANES], x), |both| both);
    largest_of(rest).max(largest_of(first))
}

// No closure: it would be called, and for narrower registers.
#[inline(always)]
fn largest_of(x: &[f32]) -> u32 {
    let mut largest = 0;
    for x in x {
        largest = largest.max(x.to_bits() & 0x7fff_ffff);
    }
    largest
}

/// Sets `out` to `scale` times x, or adds that to it: number by number.
#[inline(always)]
pub fn scaled<const ADDS: bool>(scale: f32, x: &[f32], out: &mut [f32]) {
    let set = |out: &mut f32, x: f32| *out = if ADDS { *out + scale * x } else { scale * x };
    // Embeddings are short: whole chunks need neither a loop's beginning nor its end.
    let ((xs, x_rest), (outs, out_rest)) = (x.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (out, x) in outs.iter_mut().zip(xs) {
        let mut after = *out;
        for l in 0..LANES {
            set(&mut after[l], x[l]);
        }
        *out = after;
    }
    out_rest.iter_mut().zip(x_rest).for_each(|(out, x)| set(out, *x));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    struct SumOfSquares<'a>(&'a [f32]);

    impl Kernel for SumOfSquares<'_> {
        type Output = f32;

        #[inline(always)]
        fn run(self) -> f32 {
            sum_of_squares(self.0)
        }
    }

    #[test]
    fn wider_registers_change_no_bit() {
        let mut rng = Rng::seeded(1);
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|_| rng.normal() as f32).collect();
            let (wide, plain) = (wide(SumOfSquares(&x)), sum_of_squares(&x));
            assert_eq!(wide.to_bits(), plain.to_bits(), "{len} numbers");
            let expected: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            assert!((f64::from(plain) - expected).abs() <= 1e-5 * expected, "{plain}, not {expected}");
        }
    }

    #[test]
    fn what_is_no_number_is_the_largest() {
        let bits = |x: &[f32]| largest_bits(x);
        assert_eq!(bits(&[0.0, -0.0]), 0);
        assert_eq!(bits(&[1.0, -3.0, 2.0]), 3f32.to_bits());
        assert!(bits(&[f32::NAN, f32::INFINITY]) > f32::INFINITY.to_bits());
        assert!(bits(&[1.0, f32::NEG_INFINITY, 0.0]) == f32::INFINITY.to_bits());
        for (len, at) in [8, 9, 31, 32, 75].into_iter().flat_map(|len| (0..len).map(move |at| (len, at))) {
            let mut x = vec![-0.5; len];
            x[at] = -7.0;
            assert_eq!(bits(&x), 7f32.to_bits(), "number {at} of {len}");
        }
    }
}
