//! Hashes that are stored and compared between processes: xxh3, whose values are fixed by its specification.

use std::{fmt, str::FromStr};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::{Error, Result};

/// 64-bit hash of some bytes under a seed (xxh3, stable across versions and machines).
#[inline]
pub fn hash64(bytes: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(bytes, seed)
}

/// [`hash64`] of bytes that come piece by piece.
pub struct Hasher64(Xxh3);

impl Hasher64 {
    /// Of no bytes yet.
    pub fn new(seed: u64) -> Self {
        Self(Xxh3::with_seed(seed))
    }

    /// Takes what comes next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all that came.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// [`hash64`] of the eight little-endian bytes of a number, as plain arithmetic: keys of whole numbers are made of it by
/// the million. (xxHash specification, XXH3 of 4 to 8 bytes with the default secret.)
#[inline(always)]
pub fn hash64_of_u64(x: u64, seed: u64) -> u64 {
    // Bytes 8 to 15 of the default secret, exclusive-ored with bytes 16 to 23.
    const SECRET: u64 = 0xc73a_b174_c5ec_d5a2;
    let seed = seed ^ ((seed as u32).swap_bytes() as u64) << 32;
    let keyed = x.rotate_left(32) ^ SECRET.wrapping_sub(seed);
    let mut h = keyed ^ keyed.rotate_left(49) ^ keyed.rotate_left(24);
    h = h.wrapping_mul(0x9fb2_1c65_1e98_df25);
    h ^= (h >> 35).wrapping_add(8);
    h = h.wrapping_mul(0x9fb2_1c65_1e98_df25);
    h ^ h >> 28
}

/// 128-bit hash of some bytes under a seed (xxh3, stable across versions and machines).
#[inline]
pub fn hash128(bytes: &[u8], seed: u64) -> u128 {
    xxh3_128_with_seed(bytes, seed)
}

/// Identity of a state, bit for bit: two states with one hash hold the same numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateHash(pub u128);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StateHash {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if s.len() != 32 {
            return Err(Error::invalid(format!("state hash '{s}' is not 32 hexadecimal digits")));
        }
        u128::from_str_radix(s, 16)
            .map(Self)
            .map_err(|_| Error::invalid(format!("state hash '{s}' is not 32 hexadecimal digits")))
    }
}

/// Collects what belongs to a state, in a stated order.
#[derive(Default)]
pub struct StateHasher(Xxh3);

impl StateHasher {
    /// An empty state.
    pub fn new() -> Self {
        Self(Xxh3::new())
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    /// Adds a number.
    pub fn u64(&mut self, x: u64) -> &mut Self {
        self.0.update(&x.to_le_bytes());
        self
    }

    /// The hash of all that was added.
    pub fn finish(&self) -> StateHash {
        StateHash(self.0.digest128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys are stored: the short form must be the library's hash, bit for bit.
    #[test]
    fn the_short_form_for_whole_numbers_is_the_same_hash() {
        let mut rng = crate::Rng::seeded(1);
        for i in 0..20_000u64 {
            let (x, seed) = if i < 100 { (i, i * 7) } else { (rng.next_u64(), rng.next_u64()) };
            assert_eq!(hash64_of_u64(x, seed), hash64(&x.to_le_bytes(), seed), "{x} under {seed}");
        }
    }
}
