//! Hashes that are stored and compared between processes: xxh3, whose values are fixed by its specification.

use std::{fmt, str::FromStr};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::{Error, Result};

/// 64-bit hash of some bytes under a seed (xxh3, stable across versions and machines).
#[inline]
pub fn hash64(bytes: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(bytes, seed)
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
