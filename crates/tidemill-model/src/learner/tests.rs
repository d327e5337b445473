//! Every learner against its formula in f64, its gradient against finite differences, and group sums against one sum.

use super::*;
use crate::model::Deep;
use tidemill_base::Rng;

struct Case {
    ends: Vec<u32>,
    keys: Vec<u64>,
    values: Vec<f32>,
    slots: Vec<u16>,
    params: Vec<f32>,
    dense: Vec<f32>,
    /// Of dropout; empty: none.
    seeds: Vec<u64>,
}

const SLOTS: usize = 5;

impl Case {
    /// Samples with several features in a slot, lacking slots, and none at all.
    fn new(learner: &dyn Learner, seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let (mut ends, mut keys, mut values, mut slots) = (vec![], vec![], vec![], vec![]);
        for count in [5, 1, 0, 7, 3] {
            let mut of_sample: Vec<u16> = (0..count).map(|_| rng.below(SLOTS as u64) as u16).collect();
            of_sample.sort_unstable();
            slots.extend(of_sample);
            keys.extend((0..count).map(|_| rng.next_u64()));
            values.extend((0..count).map(|_| rng.normal() as f32));
            ends.push(keys.len() as u32);
        }
        let params = (0..keys.len() * learner.width()).map(|_| rng.normal() as f32 * 0.5).collect();
        // Biases other than zero: a sample without features is not where units begin to fire.
        let dense = learner.start_dense(seed).iter().map(|x| x + rng.normal() as f32 * 0.1).collect();
        Self { ends, keys, values, slots, params, dense, seeds: vec![] }
    }

    fn slice(&self) -> Slice<'_> {
        let Self { ends, keys, values, slots, params, seeds, .. } = self;
        Slice { ends, keys, values, slots, params, dropout: (!seeds.is_empty()).then_some(seeds) }
    }

    fn scores(&self, learner: &dyn Learner) -> Vec<f32> {
        let mut scores = vec![0.0; self.ends.len() * learner.outputs()];
        learner.forward(&self.slice(), &self.dense, &mut Vec::new(), &mut scores);
        scores
    }
}

fn deep(embedding: usize, layers: &[usize]) -> Deep {
    Deep { embedding, spread: 0.1, layers: layers.to_vec(), dropout: 0.0 }
}

fn learners() -> Vec<(&'static str, Box<dyn Learner>)> {
    vec![
        ("linear", Box::new(Linear { outputs: 1 })),
        ("softmax", Box::new(Linear { outputs: 3 })),
        ("fm 1", Box::new(Fm { factors: 1, spread: 0.1, dropout: 0.0 })),
        ("fm 8", Box::new(Fm { factors: 8, spread: 0.1, dropout: 0.0 })),
        ("fm 12, dropout", Box::new(Fm { factors: 12, spread: 0.1, dropout: 0.4 })),
        ("ffm 4", Box::new(Ffm { factors: 4, slots: SLOTS, spread: 0.1 })),
        ("ffm 8", Box::new(Ffm { factors: 8, slots: SLOTS, spread: 0.1 })),
        ("ffm 3", Box::new(Ffm { factors: 3, slots: SLOTS, spread: 0.1 })),
        ("mlp", Box::new(Mlp::new(SLOTS, &deep(4, &[9, 8]), 1))),
        ("mlp of three classes", Box::new(Mlp::new(SLOTS, &deep(3, &[20]), 3))),
        ("mlp without a hidden layer", Box::new(Mlp::new(SLOTS, &deep(3, &[]), 1))),
        ("wide and deep", Box::new(WideDeep::new(SLOTS, &deep(4, &[17, 8])))),
        ("deepfm", Box::new(DeepFm::new(SLOTS, &deep(4, &[17, 8])))),
    ]
}

#[test]
fn gradients_are_the_slopes_of_the_scores() {
    for (name, learner) in learners() {
        let mut case = Case::new(&*learner, 5);
        if learner.has_dropout() {
            let plain = case.scores(&*learner);
            case.seeds = (0..case.ends.len() as u64).collect();
            assert_ne!(case.scores(&*learner), plain, "{name}");
        }
        let mut rng = Rng::seeded(9);
        let slopes: Vec<f32> = (0..case.ends.len() * learner.outputs()).map(|_| rng.normal() as f32).collect();
        let mut work = Vec::new();
        let mut scores = vec![0.0; slopes.len()];
        learner.forward(&case.slice(), &case.dense, &mut work, &mut scores);
        let mut gradients = vec![f32::NAN; case.params.len()];
        let mut dense = vec![0.0; learner.dense_dimension()];
        learner.backward(&case.slice(), &case.dense, &mut work, &slopes, &mut gradients, &mut dense);
        let objective = |scores: &[f32]| scores.iter().zip(&slopes).map(|(s, g)| f64::from(s * g)).sum::<f64>();
        let mut check = |i: usize, is_dense: bool, gradient: f32| {
            let mut at = |step: f32| {
                let params = if is_dense { &mut case.dense } else { &mut case.params };
                let before = params[i];
                params[i] += step;
                let objective = objective(&case.scores(&*learner));
                let params = if is_dense { &mut case.dense } else { &mut case.params };
                params[i] = before;
                objective
            };
            const STEP: f32 = 0.002;
            let (below, here, above) = (at(-STEP), at(0.0), at(STEP));
            // Where a unit begins to fire, the slope to the left is not the one to the right.
            let (left, right) = ((here - below) / f64::from(STEP), (above - here) / f64::from(STEP));
            let tolerance = 5e-3 * left.abs().max(right.abs()).max(0.5);
            let between = left.min(right) - tolerance..left.max(right) + tolerance;
            let what = if is_dense { "dense parameter" } else { "parameter" };
            assert!(between.contains(&f64::from(gradient)), "{name}, {what} {i}: {gradient}, not in {between:?}");
        };
        gradients.iter().enumerate().for_each(|(i, gradient)| check(i, false, *gradient));
        dense.iter().enumerate().for_each(|(i, gradient)| check(i, true, *gradient));
    }
}

/// What a sample scores must not depend on the samples beside it, or serving would answer otherwise than training did.
#[test]
fn a_sample_scores_the_same_alone_and_among_others() {
    for (name, learner) in learners() {
        let case = Case::new(&*learner, 6);
        let together = case.scores(&*learner);
        for i in 0..case.ends.len() {
            let range = case.slice().range(i);
            let alone = Slice {
                ends: &[range.len() as u32],
                keys: &case.keys[range.clone()],
                values: &case.values[range.clone()],
                slots: &case.slots[range.clone()],
                params: &case.params[range.start * learner.width()..range.end * learner.width()],
                dropout: None,
            };
            let mut scores = vec![0.0; learner.outputs()];
            learner.forward(&alone, &case.dense, &mut Vec::new(), &mut scores);
            let expected = &together[i * learner.outputs()..][..learner.outputs()];
            assert!(scores.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}, sample {i}");
        }
    }
}

/// The definition of both machines: every pair of features, one after the other.
#[test]
fn factorisation_machines_score_every_pair_of_features() {
    for (k, aware) in [(8, false), (4, true), (3, true)] {
        let learner: Box<dyn Learner> = match aware {
            true => Box::new(Ffm { factors: k, slots: SLOTS, spread: 0.1 }),
            false => Box::new(Fm { factors: k, spread: 0.1, dropout: 0.0 }),
        };
        let case = Case::new(&*learner, 7);
        let width = learner.width();
        for (i, score) in case.scores(&*learner).iter().enumerate() {
            let mut expected = 0.0f64;
            for a in case.slice().range(i) {
                expected += f64::from(case.params[a * width] * case.values[a]);
                for b in a + 1..case.slice().range(i).end {
                    let of = |i: usize, other: usize| {
                        let slot = if aware { case.slots[other] as usize } else { 0 };
                        &case.params[i * width + 1 + slot * k..][..k]
                    };
                    let dot: f64 = of(a, b).iter().zip(of(b, a)).map(|(p, q)| f64::from(p * q)).sum();
                    expected += dot * f64::from(case.values[a] * case.values[b]);
                }
            }
            assert!((f64::from(*score) - expected).abs() < 1e-4 * expected.abs().max(1.0), "{score}, not {expected}");
        }
    }
}
