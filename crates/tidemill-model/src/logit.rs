//! The one summation: what a model says about a sample, in training and in serving alike.
//!
//! In: a sample's feature keys (ascending) with their values, and a look-up. Out: the logit. The order of the additions is
//! part of the format: weights times values are added within each parameter shard in key order, then the shards' sums in
//! shard order. So 1 thread or 8, one machine or many, trainer or server get the same bits.

/// Bits below the shard number in a feature key: the top 6 bits of a key name one of 64 shards.
pub const SHARD_SHIFT: u32 = 58;

/// Adds up `weight(i, keys[i]) * values[i]`. Keys must ascend.
#[inline(always)]
pub fn logit(keys: &[u64], values: &[f32], mut weight: impl FnMut(usize, u64) -> f32) -> f32 {
    debug_assert!(keys.is_sorted(), "feature keys of a sample ascend");
    let (mut total, mut partial, mut shard) = (0.0f32, 0.0f32, 0u64);
    for (i, (&key, &value)) in keys.iter().zip(values).enumerate() {
        // Where a new shard begins its predecessor's sum moves into the total. As masks, because no processor guesses
        // where shards begin. Adding the zero of an unfinished or empty shard changes no bit: no sum here is ever -0.0.
        let begins = 0u32.wrapping_sub((key >> SHARD_SHIFT != shard) as u32);
        shard = key >> SHARD_SHIFT;
        total += f32::from_bits(partial.to_bits() & begins);
        partial = f32::from_bits(partial.to_bits() & !begins) + weight(i, key) * value;
    }
    total + partial
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    /// The definition with 64 sums laid out, against the running form above.
    #[test]
    fn the_running_form_has_the_bits_of_sixty_four_sums_added_in_shard_order() {
        let mut rng = Rng::seeded(3);
        for _ in 0..500 {
            let mut keys: Vec<u64> = (0..rng.below(80)).map(|_| rng.next_u64()).collect();
            keys.sort_unstable();
            let values: Vec<f32> = keys.iter().map(|_| rng.normal() as f32).collect();
            let weight = |key: u64| if key.is_multiple_of(5) { -0.0 } else { (key % 1000) as f32 * 1e-3 - 0.5 };
            let mut partials = [0.0f32; 64];
            for (key, value) in keys.iter().zip(&values) {
                partials[(key >> 58) as usize] += weight(*key) * value;
            }
            let expected = partials.iter().fold(0.0f32, |total, p| total + p);
            assert_eq!(logit(&keys, &values, |_, key| weight(key)).to_bits(), expected.to_bits());
        }
    }
}
