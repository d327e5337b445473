//! Compiling the same code for the processor at hand.
//!
//! In: a [`Kernel`], loops without a question about a single item. Out: what it computes, in wider registers where the
//! processor has them. The bits are those of the plain code: numbers are computed one by one or in lanes of their own,
//! nothing is fused into a multiply-add, and square root and division are IEEE 754's.

/// Work that pays when it is compiled for wider registers. `run` and what it calls in its loops should be
/// `#[inline(always)]`: only what is inlined is compiled again.
pub trait Kernel {
    /// What it gives back.
    type Output;

    /// Does it.
    fn run(self) -> Self::Output;
}

/// The place of each byte in the widest register: places of bits are picked out of it.
pub const PLACES: [u8; 64] = {
    let mut all = [0; 64];
    let mut i = 0;
    while i < all.len() {
        all[i] = i as u8;
        i += 1;
    }
    all
};

/// Runs a kernel, as compiled for AVX2 where there is AVX2.
#[inline]
pub fn wide<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has AVX2 and BMI2, as was asked just now.
        return unsafe { run_avx2(kernel) };
    }
    kernel.run()
}

/// Runs a kernel, as compiled for AVX-512 where there is that, and else as [`wide`] does. For loops over many items: the
/// ends of short ones cost more than their middle saves.
#[inline]
pub fn widest<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has all that is named there, as was asked just now.
        return unsafe { run_avx512(kernel) };
    }
    wide(kernel)
}

/// Whether there is the AVX-512 of all processors but the first generation: words of 8 to 64 bits, and narrower registers.
#[cfg(target_arch = "x86_64")]
#[inline]
fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx2") && has!("bmi2")
}

// Not "fma": a fused multiply-add would be another number.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    /// What wide registers may get wrong: a product that is added, a root, a quotient, a product of whole numbers.
    #[derive(Clone, Copy)]
    struct Mixed<'a>(&'a [f32], &'a [u64]);

    impl Kernel for Mixed<'_> {
        type Output = (Vec<f32>, Vec<u64>);

        #[inline(always)]
        fn run(self) -> Self::Output {
            let real = self.0.iter().map(|x| (x * x + 0.1 * x).abs().sqrt() / (x + 3.0)).collect();
            (real, self.1.iter().map(|x| (x ^ x >> 17).wrapping_mul(0x9fb2_1c65_1e98_df25)).collect())
        }
    }

    #[test]
    fn wider_registers_change_no_bit() {
        let mut rng = Rng::seeded(1);
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|_| rng.normal() as f32).collect();
            let y: Vec<u64> = (0..len).map(|_| rng.next_u64()).collect();
            let bits = |(x, y): (Vec<f32>, Vec<u64>)| (x.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), y);
            let plain = bits(Mixed(&x, &y).run());
            assert_eq!(bits(wide(Mixed(&x, &y))), plain, "{len} numbers");
            assert_eq!(bits(widest(Mixed(&x, &y))), plain, "{len} numbers");
        }
    }
}
