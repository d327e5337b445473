//! What keeping score costs, by command: `cargo test -p tidemill-train --test validation_speed -- --ignored --nocapture`.

use tidemill_base::{Clock, Rng, SystemClock};
use tidemill_train::{Task, Validation};

const SAMPLES: usize = 2_000_000;
/// Predictions wait for their label in runs of about a mini-batch of a busy stream.
const RUN: usize = 8_192;

#[test]
#[ignore = "a measurement, not a test"]
fn nanoseconds_for_one_sample() {
    let mut rng = Rng::seeded(1);
    let logits: Vec<f32> = (0..SAMPLES).map(|_| (0..8).map(|_| rng.below(1_000) as f32 / 500.0 - 1.0).sum()).collect();
    let labels: Vec<f32> = (0..SAMPLES).map(|_| (rng.below(4) == 0) as u8 as f32).collect();
    let clock = SystemClock::new();
    for oracle in [f64::NAN, 0.3] {
        let (mut best, mut share) = (f64::INFINITY, 0.0);
        for _ in 0..5 {
            let mut v = Validation::new(Task::Binary, 100_000, 100_000);
            let begin = clock.elapsed();
            let mut predicting = std::time::Duration::ZERO;
            for first in (0..SAMPLES).step_by(RUN) {
                let run = first..SAMPLES.min(first + RUN);
                let run_began = clock.elapsed();
                run.clone().for_each(|i| v.predicted(i as u64, &logits[i..=i], oracle, 0));
                predicting += clock.elapsed() - run_began;
                v.labelled_all(run.map(|i| (i as u64, labels[i])));
            }
            let nanoseconds = |time: std::time::Duration| time.as_secs_f64() * 1e9 / SAMPLES as f64;
            let whole = nanoseconds(clock.elapsed() - begin);
            if whole < best {
                best = whole;
                share = nanoseconds(predicting);
            }
            let begin = clock.elapsed();
            assert_eq!(v.summary().overall.samples, SAMPLES as u64);
            println!("summary: {:.3} ms", (clock.elapsed() - begin).as_secs_f64() * 1e3);
        }
        println!("binary, oracle {oracle}: {best:.1} ns a sample, {share:.1} of them to keep the prediction");
    }
}
