//! Who gets which version: a stable hash of a routing key to one of 10,000 buckets, and ranges of buckets to labels.
//!
//! In: weights in percent and a key. Out: a label, or the live version. The canary takes buckets from 0 upwards, another
//! label from the last one downwards, and the live version has what is between: where a weight grows, its range contains
//! the one it had, so a key that was there stays there. Nothing depends on what the weights were before.

use tidemill_base::{Error, Result, hash64};

/// Buckets a key may fall into; a weight is a whole number of them, so it has at most two digits behind the point.
pub const BUCKETS: u32 = 10_000;
const BUCKETS_OF_PERCENT: f64 = BUCKETS as f64 / 100.0;
const KEY_SEED: u64 = 0x5EED_0F5B_117B;

/// How traffic is split.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// So that the same users are not the first for every model.
    salt: u64,
    /// Buckets from 0 upwards.
    low: Option<(String, u32)>,
    /// Buckets from the last downwards.
    high: Option<(String, u32)>,
}

impl Split {
    /// The split of a model by these percentages, `live` among them. `Ok(None)`: all goes to the live version.
    pub fn new(model: &str, weights: &[(String, f64)]) -> Result<Option<Self>> {
        if let Some((label, weight)) = weights.iter().find(|(_, w)| !(0.0..=100.0).contains(w)) {
            return Err(Error::invalid(format!("weight of '{label}' must be from 0 to 100, got {weight}")));
        }
        let mut labels: Vec<&str> = weights.iter().map(|(label, _)| label.as_str()).collect();
        labels.sort_unstable();
        if let Some(twice) = labels.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid(format!("weight of '{}' is given twice", twice[0])));
        }
        // An empty sum is -0.
        let sum = weights.iter().map(|(_, w)| w).sum::<f64>() + 0.0;
        if (sum - 100.0).abs() > 1e-9 {
            return Err(Error::invalid(format!("weights must sum to 100, got {}", (sum * 1e6).round() / 1e6)));
        }
        let mut others = Vec::new();
        for (label, weight) in weights.iter().filter(|(label, weight)| label != "live" && *weight > 0.0) {
            let buckets = weight * BUCKETS_OF_PERCENT;
            if (buckets - buckets.round()).abs() > 1e-6 {
                return Err(Error::invalid(format!(
                    "weight of '{label}' has more than two digits behind the point: {weight}; traffic is split into {BUCKETS} parts"
                )));
            }
            others.push((label.clone(), buckets.round() as u32));
        }
        others.sort_by_key(|(label, _)| (label != "canary", label.clone()));
        if others.len() > 2 {
            return Err(Error::invalid(format!(
                "{} labels beside live; traffic is split between live and at most two",
                others.len()
            )));
        }
        let salt = hash64(model.as_bytes(), KEY_SEED);
        let mut others = others.into_iter();
        let (low, high) = (others.next(), others.next());
        Ok(low.is_some().then_some(Self { salt, low, high }))
    }

    /// The bucket of a key.
    pub fn bucket(&self, key: &[u8]) -> u32 {
        // The upper bits: a product with the number of buckets favours none.
        ((u128::from(hash64(key, self.salt)) * u128::from(BUCKETS)) >> 64) as u32
    }

    /// The label that has a bucket; `None`: the live version.
    pub fn label(&self, bucket: u32) -> Option<&str> {
        if let Some((label, buckets)) = &self.low
            && bucket < *buckets
        {
            return Some(label);
        }
        self.high.as_ref().filter(|(_, buckets)| bucket >= BUCKETS - buckets).map(|(label, _)| label.as_str())
    }

    /// Labels beside live, with their percentages.
    pub fn weights(&self) -> impl Iterator<Item = (&str, f64)> {
        self.low.iter().chain(&self.high).map(|(label, b)| (label.as_str(), f64::from(*b) / BUCKETS_OF_PERCENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[(&str, f64)]) -> Result<Option<Split>> {
        Split::new("ctr", &weights.iter().map(|(l, w)| (l.to_string(), *w)).collect::<Vec<_>>())
    }

    /// Ranges are nested: whoever had the canary has it still when its weight grows, and nobody else moves.
    #[test]
    fn a_key_stays_where_it_is_when_weights_grow() {
        let mut before: Vec<bool> = vec![false; BUCKETS as usize];
        for weight in [0.01, 1.0, 10.0, 50.0, 99.99, 100.0] {
            let split = split(&[("live", 100.0 - weight), ("canary", weight)]).unwrap().unwrap();
            let now: Vec<bool> = (0..BUCKETS).map(|b| split.label(b) == Some("canary")).collect();
            assert_eq!(now.iter().filter(|c| **c).count() as f64, (weight * 100.0).round());
            assert!(before.iter().zip(&now).all(|(before, now)| !before || *now), "{weight}");
            before = now;
        }
        let two = |canary: f64, blue: f64| {
            let split = split(&[("canary", canary), ("live", 100.0 - canary - blue), ("blue", blue)]).unwrap().unwrap();
            (0..BUCKETS).map(|b| split.label(b).unwrap_or("live").to_string()).collect::<Vec<_>>()
        };
        for (before, now) in two(10.0, 20.0).iter().zip(two(30.0, 20.0)) {
            assert!(*before == now || (before == "live" && now == "canary"));
        }
    }

    /// 20,000 keys fall into buckets evenly enough: within five standard deviations of the share that is asked for.
    #[test]
    fn keys_are_spread_by_weight_and_models_choose_others_first() {
        let ctr = split(&[("live", 90.0), ("canary", 10.0)]).unwrap().unwrap();
        let other = Split::new("cvr", &[("live".into(), 90.0), ("canary".into(), 10.0)]).unwrap().unwrap();
        let is_canary = |split: &Split, i: i32| split.label(split.bucket(format!("user-{i}").as_bytes())).is_some();
        let share = (0..20_000).filter(|i| is_canary(&ctr, *i)).count();
        let both = (0..20_000).filter(|i| is_canary(&ctr, *i) && is_canary(&other, *i)).count();
        // Binomial: 2,000 with a deviation of 42; 200 with one of 14.
        assert!((1_788..2_212).contains(&share), "{share}");
        assert!((130..270).contains(&both), "{both}");
        assert_eq!(ctr.bucket(b"user-7"), ctr.bucket(b"user-7"));
        // Stored decisions outlive the process, so the hash may not change.
        assert_eq!(ctr.bucket(b"user-7"), 4_731);
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        for (weights, message) in [
            (vec![("live", 100.0), ("canary", 10.0)], "weights must sum to 100, got 110"),
            (vec![("canary", 10.0)], "weights must sum to 100, got 10"),
            (vec![], "weights must sum to 100, got 0"),
            (vec![("live", 110.0), ("canary", -10.0)], "weight of 'live' must be from 0 to 100, got 110"),
            (vec![("live", 100.0), ("canary", -0.5)], "weight of 'canary' must be from 0 to 100, got -0.5"),
            (vec![("live", f64::NAN), ("canary", 10.0)], "weight of 'live' must be from 0 to 100, got NaN"),
            (vec![("live", 50.0), ("live", 50.0)], "weight of 'live' is given twice"),
            (
                vec![("live", 99.999), ("canary", 0.001)],
                "weight of 'canary' has more than two digits behind the point: 0.001; traffic is split into 10000 parts",
            ),
            (
                vec![("live", 70.0), ("a", 10.0), ("b", 10.0), ("c", 10.0)],
                "3 labels beside live; traffic is split between live and at most two",
            ),
        ] {
            assert_eq!(split(&weights).unwrap_err().message(), message, "{weights:?}");
        }
        assert_eq!(split(&[("live", 100.0)]).unwrap(), None);
        assert_eq!(split(&[("live", 100.0), ("canary", 0.0)]).unwrap(), None);
    }
}
