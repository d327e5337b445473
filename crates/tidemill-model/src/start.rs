//! What the parameters of a new key begin with.
//!
//! In: a seed that belongs to the key. Out: numbers that depend on it and on their position alone, so that the order in
//! which keys come changes nothing. An FFM draws hundreds for every new key, so they are hashes side by side, not a
//! sequence.

use crate::simd::{Kernel, wide};

/// Fills `out` with uniform numbers of mean 0 and standard deviation `spread`.
pub fn draw(seed: u64, spread: f32, out: &mut [f32]) {
    wide(Draw { low: seed as u32, high: (seed >> 32) as u32, scale: spread * UNIT, out });
}

/// sqrt 3 / 2^31: makes the standard deviation of a uniform 32-bit integer 1.
const UNIT: f32 = (1.732_050_8_f64 / (1u64 << 31) as f64) as f32;

struct Draw<'a> {
    low: u32,
    high: u32,
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (i, x) in self.out.iter_mut().enumerate() {
            *x = hash(i as u32, self.low, self.high) as i32 as f32 * self.scale;
        }
    }
}

/// A 32-bit mixer after Wellons ("Prospecting for Hash Functions", 2018), given two words of seed on its way.
#[inline(always)]
fn hash(i: u32, low: u32, high: u32) -> u32 {
    let mut x = i.wrapping_mul(0x9E37_79B9) ^ low;
    x = (x ^ x >> 16).wrapping_mul(0x21F0_AAAD);
    x = (x ^ x >> 15).wrapping_add(high).wrapping_mul(0x735A_2D97);
    x = (x ^ x >> 16).wrapping_mul(0x85EB_CA6B);
    x ^ x >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::rng::mix64;

    #[test]
    fn numbers_have_the_spread_asked_for_and_no_pattern() {
        let (keys, each) = (2_000u64, 160);
        let mut all = vec![0.0f32; keys as usize * each];
        all.chunks_exact_mut(each).zip(0..).for_each(|(out, key)| draw(mix64(key), 0.1, out));
        let mean_of = |f: &dyn Fn(usize) -> f64| (0..all.len() - each).map(f).sum::<f64>() / (all.len() - each) as f64;
        let at = |i: usize| f64::from(all[i]);
        // 320,000 numbers: a mean is off by 0.1 / 566 for one standard deviation, a mean product by 0.01 / 566.
        assert!(mean_of(&at).abs() < 8e-4, "{}", mean_of(&at));
        assert!((mean_of(&|i| at(i) * at(i)) - 0.01).abs() < 1e-4);
        assert!(mean_of(&|i| at(i) * at(i + 1)).abs() < 8e-5, "neighbours");
        assert!(mean_of(&|i| at(i) * at(i + each)).abs() < 8e-5, "neighbouring keys");
        let most = all.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!((0.173..0.1733).contains(&most), "{most}");
    }

    /// Parameters rest on these bits. The expected ones are those of the same formula in Python, whose integers do not
    /// wrap unasked, rounded to f32 by its struct module.
    #[test]
    fn the_numbers_of_a_seed_never_change() {
        let mut out = [0.0; 6];
        draw(2 << 32 | 1, 1.0, &mut out);
        assert_eq!([out[0], out[5]].map(f32::to_bits), [0x3fad_29ae, 0xbf8c_7f38]);
    }
}
