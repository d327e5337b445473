//! How fast the trainer is, by command: `cargo test -p tidemill-train --test speed -- --ignored --nocapture`.
//!
//! Ready features in, one pass; 39 random keys a sample out of 2^20 (uniform: every look-up is as far away as it can be).

use tidemill_base::{Clock, Rng, SystemClock, rng::mix64};
use tidemill_model::Features;
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{SampleBatch, TrainSpec, Trainer};

const ROWS: usize = 8_192;
const COLUMNS: u64 = 39;

fn features(rng: &mut Rng) -> Features {
    let mut features = Features::new();
    for _ in 0..ROWS {
        let sample: Vec<(u16, u64, f32)> =
            (0..COLUMNS).map(|slot| (slot as u16, mix64(rng.below(1 << 20)), 1.0)).collect();
        features.push(&sample);
    }
    features
}

#[test]
#[ignore = "a measurement, not a test"]
fn samples_per_second_from_ready_features() {
    let mut rng = Rng::seeded(1);
    let batches: Vec<Features> = (0..40).map(|_| features(&mut rng)).collect();
    let labels: Vec<f32> = (0..ROWS).map(|_| rng.below(2) as f32).collect();
    let kinds = vec![SampleKind::Final; ROWS];
    let clock = SystemClock::new();
    for batch_size in [1, 16, 64, 256] {
        for threads in [1, 2] {
            let mut trainer = Trainer::new(&TrainSpec { batch_size, ..TrainSpec::default() }, threads).unwrap();
            let mut seq = 0;
            let mut pass = |trainer: &mut Trainer| {
                let begin = clock.elapsed();
                for features in &batches {
                    let seqs: Vec<u64> = (seq..seq + ROWS as u64).collect();
                    seq += ROWS as u64;
                    trainer.update(&SampleBatch {
                        features,
                        labels: &labels,
                        kinds: &kinds,
                        seqs: &seqs,
                        oracle: None,
                        weights: None,
                        groups: None,
                    });
                    let matured: Vec<Matured> =
                        seqs.iter().map(|seq| Matured { seq: *seq, label: (seq % 2) as f32 }).collect();
                    trainer.mature(&matured);
                }
                (batches.len() * ROWS) as f64 / (clock.elapsed() - begin).as_secs_f64()
            };
            let growing = pass(&mut trainer);
            let full: Vec<f64> = (0..3).map(|_| pass(&mut trainer)).collect();
            println!(
                "batch_size {batch_size:3}, {threads} threads: {growing:9.0} samples/s while the table grows, then {:9.0?}",
                full
            );
        }
    }
}
