//! Where keys stand in tables of open addressing: so that nobody who sends keys can choose them to crowd.
//!
//! In: the hash of a key, which anybody can work out. Out: bits that say where it stands, under a secret of this process.
//! What is computed never depends on where a key stands, so two processes with other secrets tell the same; that is why
//! the secret is neither stored nor part of a seed. Multiplications of 64 by 64 bits whose halves are folded, as in wyhash
//! (Wang Yi) and foldhash.

use std::sync::OnceLock;

/// The secret of this process, as soon as it was drawn.
static OF_PROCESS: OnceLock<Scatter> = OnceLock::new();

/// A function from keys to places that is not known outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scatter {
    mask: u64,
    factors: [u64; 2],
}

impl Scatter {
    /// The same everywhere: until a secret was drawn.
    pub const KNOWN: Self = Self::new(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
    /// Leaves every key as it is, so that tests can make keys that crowd.
    pub const NONE: Self = Self { mask: 0, factors: [1, 1] };

    /// From two secret numbers.
    pub const fn new(mask: u64, factor: u64) -> Self {
        Self { mask, factors: [factor | 1, 0x9e37_79b9_7f4a_7c15] }
    }

    /// Tables that are made from here on stand under this one. The first call counts.
    pub fn set_of_process(self) {
        // A second secret would be as good as the first.
        let _ = OF_PROCESS.set(self);
    }

    /// What tables of this process stand under.
    pub fn of_process() -> Self {
        OF_PROCESS.get().copied().unwrap_or(Self::KNOWN)
    }

    /// Bits that say where a key stands.
    #[inline(always)]
    pub fn of(self, key: u64) -> u64 {
        // Once would leave keys at equal distances at nearly equal ones.
        self.factors.iter().fold(key ^ self.mask, |bits, factor| {
            let product = u128::from(bits) * u128::from(*factor);
            product as u64 ^ (product >> 64) as u64
        })
    }
}

impl Default for Scatter {
    fn default() -> Self {
        Self::of_process()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rng, rng::mix64};

    /// How many of 4,096 keys share the place that most of them share, of 4,096 places told by the low bits and by the
    /// high ones. Of even keys it is 6 to 8.
    fn most(scatter: Scatter, keys: impl Iterator<Item = u64>) -> u32 {
        let (mut low, mut high) = (vec![0u32; 4_096], vec![0u32; 4_096]);
        for key in keys.take(4_096) {
            let bits = scatter.of(key);
            low[bits as usize & 4_095] += 1;
            high[(bits >> 52) as usize] += 1;
        }
        low.into_iter().chain(high).max().unwrap_or(0)
    }

    /// Keys that agree in their low half, in their high half, or in all but a few bits anywhere, stand as even ones do.
    #[test]
    fn keys_that_are_chosen_to_crowd_do_not() {
        let mut rng = Rng::seeded(53);
        for _ in 0..200 {
            let scatter = Scatter::new(rng.next_u64(), rng.next_u64());
            assert!(most(scatter, (0..).map(|i| i << 32 | 7)) < 16);
            assert!(most(scatter, (0..).map(|i| 7 << 32 | i)) < 16);
            assert!(most(scatter, (0..).map(|i| i << 20)) < 16);
            assert!(most(scatter, (0..).map(mix64)) < 16);
        }
    }
}
