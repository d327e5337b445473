//! How fast layers are, by command: `cargo test -p tidemill-model --test speed_dense -- --ignored --nocapture`.
//!
//! 39 embeddings of 8 numbers, layers of 128 and 64, mini-batches of 256 in slices of 64. Beside the figures stands the peak:
//! multiplications and additions, not fused, on registers alone. Of several turns the fastest counts.

use std::hint::black_box;

use tidemill_base::{Clock, Rng, SystemClock};
use tidemill_model::{
    learner::{Learner, Mlp, Slice},
    model::Deep,
    optimizer::{Adam, Optimizer, Penalty},
    simd::{Kernel, wide},
};

const SLICE: usize = 64;
const SLICES: usize = 4;
const TURNS: usize = 2000;

/// Multiplications and additions on so many sums, none of which waits for another.
#[inline(always)]
fn on_registers<const ROWS: usize, const COLUMNS: usize>(turns: usize) {
    let mut sums = [[1.0f32; COLUMNS]; ROWS];
    let (a, b) = black_box(([0.5f32; ROWS], [0.25f32; COLUMNS]));
    for _ in 0..turns {
        for r in 0..ROWS {
            for l in 0..COLUMNS {
                sums[r][l] = sums[r][l] * a[r] + b[l];
            }
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn on_registers_avx512(turns: usize) {
    on_registers::<8, 32>(turns);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn on_registers_avx2(turns: usize) {
    on_registers::<2, 32>(turns);
}

/// Seconds of the fastest of many turns.
fn fastest(turns: usize, mut work: impl FnMut()) -> f64 {
    let clock = SystemClock::new();
    let mut turn = || {
        let begin = clock.elapsed();
        work();
        (clock.elapsed() - begin).as_secs_f64()
    };
    (0..turns).map(|_| turn()).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "a measurement, not a test"]
fn samples_per_second_of_layers() {
    const OPERATIONS: usize = 20_000;
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, as was asked just now.
            let seconds = fastest(50, || unsafe { on_registers_avx512(black_box(OPERATIONS)) });
            println!("peak, AVX-512: {:5.1} GFLOP/s", (OPERATIONS * 8 * 32 * 2) as f64 / seconds * 1e-9);
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as was asked just now.
            let seconds = fastest(50, || unsafe { on_registers_avx2(black_box(OPERATIONS)) });
            println!("peak, AVX2:    {:5.1} GFLOP/s", (OPERATIONS * 2 * 32 * 2) as f64 / seconds * 1e-9);
        }
    }
    let seconds = fastest(50, || on_registers::<1, 32>(black_box(OPERATIONS)));
    println!("peak, plain:   {:5.1} GFLOP/s", (OPERATIONS * 32 * 2) as f64 / seconds * 1e-9);

    for dropout in [0.0, 0.2] {
        measure(dropout);
    }
}

/// Learner, keys and values as they are in a slice of a mini-batch.
fn measure(dropout: f32) {
    const SIZES: [usize; 4] = [39 * 8, 128, 64, 1];
    let deep = Deep { embedding: 8, layers: SIZES[1..3].to_vec(), dropout, spread: 0.01 };
    let learner = Mlp::new(39, &deep, 1);
    let mut rng = Rng::seeded(1);
    let params: Vec<f32> = (0..SLICE * SIZES[0]).map(|_| rng.normal() as f32 * 0.1).collect();
    let seeds: Vec<u64> = (0..SLICE).map(|_| rng.next_u64()).collect();
    let slice = Slice {
        ends: &(1..=SLICE as u32).map(|i| i * 39).collect::<Vec<_>>(),
        keys: &(0..SLICE * 39).map(|_| rng.next_u64()).collect::<Vec<_>>(),
        values: &[1.0; SLICE * 39],
        slots: &(0..SLICE * 39).map(|i| (i % 39) as u16).collect::<Vec<_>>(),
        params: &params,
        dropout: (dropout > 0.0).then_some(&seeds),
    };
    let mut dense = learner.start_dense(1);
    let slopes: Vec<f32> = (0..SLICE).map(|_| rng.normal() as f32 * 0.1).collect();
    let (mut of_entries, mut of_dense) = (vec![0.0; params.len()], vec![0.0; dense.len()]);
    let (mut work, mut scores) = (Vec::new(), vec![0.0; SLICE]);
    let optimizer = Optimizer::Adam(Adam {
        alpha: 0.001,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        keeps_largest: false,
        penalty: Penalty::default(),
    });
    let mut state = vec![0.0; optimizer.words(dense.len())];
    optimizer.start(&dense, &mut state);
    let forward = fastest(TURNS, || learner.forward(&slice, &dense, &mut work, &mut scores));
    let backward = fastest(TURNS, || {
        learner.backward(&slice, &dense, &mut work, &slopes, &mut of_entries, &mut of_dense);
    });
    of_dense.fill(0.01);
    let step = fastest(TURNS, || assert!(wide(Step(&optimizer, &mut state, &of_dense))));
    optimizer.read(&state, &mut dense);
    let per_sample: usize = SIZES.windows(2).map(|pair| 2 * pair[0] * pair[1]).sum();
    let report = |what: &str, seconds: f64, samples: usize, operations: usize| {
        let gflops = (operations * samples) as f64 / seconds * 1e-9;
        println!("dropout {dropout}, {what}: {:9.0} samples/s, {gflops:5.1} GFLOP/s", samples as f64 / seconds);
    };
    report("forward ", forward, SLICE, per_sample);
    report("backward", backward, SLICE, 2 * per_sample);
    println!("dropout {dropout}, Adam:     {:.1} us a mini-batch of {} parameters", step * 1e6, dense.len());
    let whole = SLICES as f64 * (forward + backward) + step;
    report("together", whole, SLICES * SLICE, 3 * per_sample);
}

struct Step<'a>(&'a Optimizer, &'a mut [f32], &'a [f32]);

impl Kernel for Step<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        self.0.step(self.1, self.2, 1.0)
    }
}
