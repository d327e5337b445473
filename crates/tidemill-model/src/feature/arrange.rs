//! Puts the features of one sample into ascending key order.
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

/// Appends arranged pairs; values of equal keys are added.
pub(super) fn append(pairs: &[Pair], keys: &mut Vec<u64>, values: &mut Vec<f32>) {
    let first = keys.len();
    keys.extend(pairs.iter().map(|pair| pair.0));
    values.extend(pairs.iter().map(|pair| pair.1));
    let twice = keys[first..].windows(2).fold(false, |twice, pair| twice | (pair[0] == pair[1]));
    if twice {
        add_equal(first, keys, values);
    }
}

#[cold]
fn add_equal(first: usize, keys: &mut Vec<u64>, values: &mut Vec<f32>) {
    let mut last = first;
    for i in first + 1..keys.len() {
        if keys[i] == keys[last] {
            values[last] += values[i];
        } else {
            last += 1;
            (keys[last], values[last]) = (keys[i], values[i]);
        }
    }
    keys.truncate(last + 1);
    values.truncate(last + 1);
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
        let (mut keys, mut values) = (vec![9], vec![9.0]);
        append(&[(1, 1.0), (9, 0.5), (9, 0.25), (9, 2.0), (10, 3.0), (10, 1.0)], &mut keys, &mut values);
        assert_eq!(keys, [9, 1, 9, 10]);
        assert_eq!(values, [9.0, 1.0, 2.75, 4.0]);
    }
}
