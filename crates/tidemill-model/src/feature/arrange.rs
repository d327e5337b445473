//! Puts the features of one list into ascending key order.
//!
//! Keys are hashes, so their leading bits are uniform: one distribution by shard leaves next to nothing to sort. The order
//! of equal keys stays as it was, so that their values are added in one order only.

/// A feature: key and value.
pub(super) type Pair = (u64, f32);

/// Below this plain insertion is fastest.
const INSERTION_MAX: usize = 12;
/// Above this the buckets grow too long for insertion.
const DISTRIBUTION_MAX: usize = 512;
const BUCKET_BITS: u32 = 6;

/// Sorts `pairs` by key, stably; `scratch` is room to work in.
pub(super) fn arrange(pairs: &mut [Pair], scratch: &mut Vec<Pair>) {
    if pairs.len() > DISTRIBUTION_MAX {
        pairs.sort_by_key(|pair| pair.0);
        return;
    }
    if pairs.len() > INSERTION_MAX {
        distribute(pairs, scratch);
    }
    insert_in_order(pairs);
}

/// Adds the values of equal keys of an arranged list, in their order.
pub(super) fn sum_equal(pairs: &mut Vec<Pair>) {
    let twice = pairs.windows(2).fold(false, |twice, pair| twice | (pair[0].0 == pair[1].0));
    if !twice {
        return;
    }
    let mut last = 0;
    for i in 1..pairs.len() {
        if pairs[i].0 == pairs[last].0 {
            pairs[last].1 += pairs[i].1;
        } else {
            last += 1;
            pairs[last] = pairs[i];
        }
    }
    pairs.truncate(last + 1);
}

fn insert_in_order(pairs: &mut [Pair]) {
    for i in 1..pairs.len() {
        let pair = pairs[i];
        let mut place = i;
        while place > 0 && pairs[place - 1].0 > pair.0 {
            pairs[place] = pairs[place - 1];
            place -= 1;
        }
        pairs[place] = pair;
    }
}

/// Sorts by the leading bits, stably.
fn distribute(pairs: &mut [Pair], scratch: &mut Vec<Pair>) {
    const BUCKETS: usize = 1 << BUCKET_BITS;
    let bucket = |pair: &Pair| (pair.0 >> (64 - BUCKET_BITS)) as usize % BUCKETS;
    let mut next = [0u16; BUCKETS];
    pairs.iter().for_each(|pair| next[bucket(pair)] += 1);
    let mut sum = 0;
    for place in &mut next {
        (sum, *place) = (sum + *place, sum);
    }
    scratch.clear();
    scratch.extend_from_slice(pairs);
    for pair in scratch {
        let place = &mut next[bucket(pair)];
        pairs[*place as usize] = *pair;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    #[test]
    fn arranging_is_a_stable_sort_at_every_length() {
        let mut rng = Rng::seeded(4);
        let mut scratch = Vec::new();
        for n in (0..100).chain([511, 512, 513, 3000]) {
            for key_count in [3, 40, u64::MAX] {
                let spread = u64::MAX / key_count;
                let mut pairs: Vec<Pair> = (0..n).map(|i| (rng.below(key_count) * spread, i as f32)).collect();
                let mut expected = pairs.clone();
                expected.sort_by_key(|pair| pair.0);
                arrange(&mut pairs, &mut scratch);
                assert_eq!(pairs, expected, "{n} features");
            }
        }
    }

    #[test]
    fn values_of_equal_keys_are_added_in_their_order() {
        let mut pairs = vec![(1, 1.0), (9, 0.5), (9, 0.25), (9, 2.0), (10, 3.0), (10, 1.0)];
        sum_equal(&mut pairs);
        assert_eq!(pairs, [(1, 1.0), (9, 2.75), (10, 4.0)]);
    }
}
