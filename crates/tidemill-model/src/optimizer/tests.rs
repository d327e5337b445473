//! Every optimizer against its paper line by line in f64, and what all of them promise.

use super::*;
use tidemill_base::Rng;

fn all(penalty: Penalty) -> Vec<Optimizer> {
    let Penalty { l1, l2, group_l1 } = penalty;
    let adam = Adam { alpha: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, keeps_largest: false, penalty };
    vec![
        Optimizer::Sgd(Sgd { eta: 0.05, penalty }),
        Optimizer::Momentum(Momentum { eta: 0.01, mu: 0.9, penalty }),
        Optimizer::Adagrad(Adagrad { alpha: 0.1, beta: 1.0, shares_n: false, penalty }),
        Optimizer::Adagrad(Adagrad { alpha: 0.1, beta: 1.0, shares_n: true, penalty }),
        Optimizer::Ftrl(Ftrl::new(0.1, 1.0, l1.into(), l2.into()).with_group_l1(group_l1.into())),
        Optimizer::Adam(adam),
        Optimizer::Adam(Adam { keeps_largest: true, ..adam }),
    ]
}

/// The papers' lines for one parameter, without penalties. `mean_squares`: of the gradients of all parameters of the block.
fn reference(optimizer: &Optimizer, start: f64, gradients: &[f64], mean_squares: &[f64]) -> f64 {
    let (mut w, mut a, mut b, mut largest, mut z) = (start, 0.0f64, 0.0f64, 0.0f64, -start / 0.1);
    for ((t, g), mean_square) in (1..).zip(gradients).zip(mean_squares) {
        match optimizer.name() {
            "sgd" => w -= 0.05 * g,
            "momentum" => {
                a = 0.9 * a + g;
                w -= 0.01 * a;
            }
            "adagrad" => {
                a += g * g;
                w -= 0.1 * g / (1.0 + a.sqrt());
            }
            "rowwise_adagrad" => {
                a += mean_square;
                w -= 0.1 * g / (1.0 + a.sqrt());
            }
            "ftrl" => {
                let sigma = ((a + g * g).sqrt() - a.sqrt()) / 0.1;
                z += g - sigma * w;
                a += g * g;
                w = -z / ((1.0 + a.sqrt()) / 0.1);
            }
            _ => {
                a = 0.9 * a + 0.1 * g;
                b = 0.999 * b + 0.001 * g * g;
                largest = largest.max(b);
                let v = if optimizer.name() == "amsgrad" { largest } else { b };
                w -= 0.01 * (a / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            }
        }
    }
    w
}

fn read(optimizer: &Optimizer, state: &[f32], dimension: usize) -> Vec<f32> {
    let mut w = vec![0.0; dimension];
    optimizer.read(state, &mut w);
    w
}

#[test]
fn parameters_follow_the_papers() {
    for optimizer in all(Penalty::default()) {
        let mut rng = Rng::seeded(3);
        let d = 5;
        let start: Vec<f32> = (0..d).map(|_| rng.normal() as f32).collect();
        let gradients: Vec<Vec<f32>> =
            (0..300).map(|t| (0..d).map(|_| rng.normal() as f32 * if t < 100 { 1.0 } else { 0.1 }).collect()).collect();
        let mut state = vec![0.0; optimizer.words(d)];
        optimizer.start(&start, &mut state);
        for (w, start) in read(&optimizer, &state, d).iter().zip(&start) {
            assert!((w - start).abs() < 1e-6, "{optimizer:?} begins at {w}, not {start}");
        }
        gradients.iter().for_each(|g| assert!(optimizer.step(&mut state, g, 1.0)));
        let mean_square = |g: &Vec<f32>| g.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>() / d as f64;
        let mean_squares: Vec<f64> = gradients.iter().map(mean_square).collect();
        for (i, w) in read(&optimizer, &state, d).iter().enumerate() {
            let of_i: Vec<f64> = gradients.iter().map(|g| f64::from(g[i])).collect();
            let expected = reference(&optimizer, f64::from(start[i]), &of_i, &mean_squares);
            assert!((f64::from(*w) - expected).abs() < 2e-4 * expected.abs().max(1.0), "{optimizer:?}: {w} {expected}");
        }
    }
}

#[test]
fn a_pair_and_a_block_of_one_agree_to_the_bit() {
    fn check(pair: impl Pair, block: Optimizer) {
        let mut rng = Rng::seeded(4);
        let (mut a, mut b) = (0.0, 0.0);
        let mut state = vec![0.0; block.words(1)];
        for _ in 0..200 {
            let g = rng.normal() as f32;
            (a, b) = pair.step(a, b, g, 0.5);
            block.step(&mut state, &[g], 0.5);
            assert_eq!(pair.weight(a, b).to_bits(), read(&block, &state, 1)[0].to_bits(), "{block:?}");
        }
    }
    for penalty in [Penalty::default(), Penalty { l1: 0.1, l2: 0.2, group_l1: 0.0 }] {
        for optimizer in all(penalty) {
            match optimizer {
                Optimizer::Sgd(x) => check(x, optimizer),
                Optimizer::Momentum(x) => check(x, optimizer),
                Optimizer::Adagrad(x) => check(x, optimizer),
                Optimizer::Ftrl(x) => check(x, optimizer),
                Optimizer::Adam(_) => {}
            }
        }
    }
}

/// Many entries side by side are many entries one after the other.
#[test]
fn pairs_side_by_side_and_blocks_of_one_agree_to_the_bit() {
    for penalty in [Penalty::default(), Penalty { l1: 0.1, l2: 0.2, group_l1: 0.0 }] {
        for optimizer in all(penalty).into_iter().filter(Optimizer::is_pair) {
            let mut rng = Rng::seeded(8);
            let (mut a, mut b, mut good) = ([0.0f32; 13], [0.0f32; 13], [false; 13]);
            let mut states = [[0.0f32; 2]; 13];
            for round in 0..100 {
                let mut g: [f32; 13] = std::array::from_fn(|_| rng.normal() as f32);
                g[round % 13] = [f32::NAN, 1e30, 0.0][round % 3];
                let before = (a, b);
                optimizer.step_pairs(&mut a, &mut b, &g, 0.5, &mut good);
                for (i, state) in states.iter_mut().enumerate() {
                    assert_eq!(good[i], optimizer.step(state, &g[i..=i], 0.5), "{optimizer:?}, {}", g[i]);
                    if !good[i] {
                        (a[i], b[i]) = (before.0[i], before.1[i]);
                    }
                    assert_eq!([a[i], b[i]].map(f32::to_bits), state.map(f32::to_bits), "{optimizer:?}");
                }
            }
            let mut w = [0.0; 13];
            optimizer.read_pairs(&a, &b, &mut w);
            for (w, state) in w.iter().zip(&states) {
                assert_eq!(w.to_bits(), read(&optimizer, state, 1)[0].to_bits(), "{optimizer:?}");
            }
        }
    }
}

#[test]
fn what_is_no_number_is_refused_and_changes_nothing() {
    for optimizer in all(Penalty::default()) {
        let mut state = vec![0.0; optimizer.words(3)];
        optimizer.step(&mut state, &[0.1, -0.2, 0.3], 1.0);
        let before = state.clone();
        for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e30] {
            assert!(!optimizer.step(&mut state, &[0.1, bad, 0.1], 1.0), "{optimizer:?}");
            assert_eq!(state, before);
        }
    }
}

#[test]
fn penalties_make_zeros_and_whole_blocks_of_them() {
    let small = [0.01f32, -0.02, 0.015];
    for optimizer in all(Penalty { l1: 0.5, ..Penalty::default() }) {
        let mut state = vec![0.0; optimizer.words(3)];
        (0..5).for_each(|_| _ = optimizer.step(&mut state, &small, 1.0));
        let w = read(&optimizer, &state, 3);
        if !optimizer.name().starts_with("a") {
            assert!(w.iter().all(|w| *w == 0.0), "{optimizer:?}: {w:?}");
        }
    }
    for optimizer in all(Penalty { group_l1: 3.0, ..Penalty::default() }) {
        let mut state = vec![0.0; optimizer.words(3)];
        (0..3).for_each(|_| _ = optimizer.step(&mut state, &[0.3, 0.0, -0.1], 1.0));
        let w = read(&optimizer, &state, 3);
        assert!(w.iter().all(|w| *w == 0.0), "{optimizer:?}: {w:?}");
        (0..200).for_each(|_| _ = optimizer.step(&mut state, &[30.0, 1.0, -10.0], 1.0));
        // Adam's steps are as long for large gradients as for small ones.
        let leaves = !matches!(optimizer, Optimizer::Adam(_));
        assert_eq!(read(&optimizer, &state, 3)[0] < 0.0, leaves, "{optimizer:?}");
    }
    let plain = all(Penalty::default());
    for (shrunk, plain) in all(Penalty { l2: 5.0, ..Penalty::default() }).iter().zip(&plain) {
        let last = |optimizer: &Optimizer| {
            let mut state = vec![0.0; optimizer.words(1)];
            (0..50).for_each(|_| _ = optimizer.step(&mut state, &[1.0], 1.0));
            read(optimizer, &state, 1)[0].abs()
        };
        assert!(last(shrunk) < last(plain), "{shrunk:?}");
    }
}

#[test]
fn gradients_are_clipped_by_value_and_by_norm() {
    let mut g = [3.0f32, -4.0];
    Clip { norm: 1.0, ..Clip::default() }.apply(&mut g);
    assert_eq!(g, [0.6, -0.8]);
    Clip { value: 0.7, ..Clip::default() }.apply(&mut g);
    assert_eq!(g, [0.6, -0.7]);
    let mut nan = [f32::NAN];
    Clip { value: 1.0, norm: 1.0 }.apply(&mut nan);
    assert!(nan[0].is_nan(), "a bound does not hide what is no number");
}
