//! What a checkpoint costs a large model, by command:
//! `cargo test --workspace --test speed_checkpoint -- --ignored --nocapture`.
//!
//! A linear model of 67,108,864 entries, mini-batches of 256 samples of 39 keys, a popular head and a long tail. Printed: how
//! long the learner stands still at a checkpoint's beginning and at the longest mini-batch while it is written, the bytes,
//! and what putting the table together again takes. Then the same table written in two halves, the second of which is new
//! keys only.

use std::{ops::Range, sync::mpsc::sync_channel, thread, time::Duration};

use tidemill_base::{
    Clock, Rng, SystemClock,
    codec::{Decoder, Encoder},
    rng::mix64,
};
use tidemill_model::Features;
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{SampleBatch, TrainSpec, Trainer};

const ENTRIES: u64 = 1 << 26;
const COLUMNS: u64 = 39;
const ROWS: usize = 256;

fn learn(trainer: &mut Trainer, features: &Features, seq: &mut u64) {
    let rows = features.len();
    let seqs: Vec<u64> = (*seq..*seq + rows as u64).collect();
    *seq += rows as u64;
    let labels: Vec<f32> = seqs.iter().map(|seq| (mix64(*seq) % 2) as f32).collect();
    let kinds = vec![SampleKind::Final; rows];
    trainer.update(&SampleBatch {
        features,
        labels: &labels,
        kinds: &kinds,
        seqs: &seqs,
        oracle: None,
        weights: None,
        groups: None,
    });
    trainer.mature(&seqs.iter().map(|seq| Matured { seq: *seq, label: 0.0 }).collect::<Vec<_>>());
}

fn batch(rng: &mut Rng, entries: u64) -> Features {
    let mut features = Features::new();
    for _ in 0..ROWS {
        let key = |slot: u64| (slot as u16, rng.next_f64());
        let drawn: Vec<(u16, f64)> = (0..COLUMNS).map(key).collect();
        let of = |share: f64| mix64((share.powi(4) * entries as f64) as u64);
        features.push(&drawn.into_iter().map(|(slot, share)| (slot, of(share), 1.0)).collect::<Vec<_>>());
    }
    features
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[test]
#[ignore = "a measurement, not a test"]
fn a_checkpoint_of_a_large_model() {
    let entries = ENTRIES;
    let spec = TrainSpec { entries_max: 2 * entries as usize, ..TrainSpec::default() };
    let (clock, mut rng, mut seq) = (SystemClock::new(), Rng::seeded(1), 0);
    let mut trainer = Trainer::new(&spec, 1).unwrap();
    learn_keys(&mut trainer, 0..entries, &mut seq);
    println!("{} entries, {} MiB", trainer.stats().entries, trainer.stats().bytes >> 20);
    let batches: Vec<Features> = (0..2_000).map(|_| batch(&mut rng, entries)).collect();
    let mut chain: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
    let mut around = Vec::new();
    for round in 0..4 {
        let mut plain: Vec<Duration> = Vec::new();
        for features in &batches {
            let begin = clock.elapsed();
            learn(&mut trainer, features, &mut seq);
            plain.push(clock.elapsed() - begin);
        }
        plain.sort_unstable();
        let (send, blocks) = sync_channel::<Vec<u8>>(16);
        let writer = thread::spawn(move || blocks.iter().take_while(|block| !block.is_empty()).collect::<Vec<_>>());
        let (mut out, mut head) = (Encoder::new(), Encoder::new());
        let begin = clock.elapsed();
        let walked = trainer.begin_checkpoint(false, send, &mut out, &mut head);
        let stop = clock.elapsed() - begin;
        let mut beside: Vec<Duration> = Vec::new();
        while !writer.is_finished() {
            let begin = clock.elapsed();
            learn(&mut trainer, &batches[beside.len() % batches.len()], &mut seq);
            beside.push(clock.elapsed() - begin);
        }
        let blocks = writer.join().unwrap();
        beside.sort_unstable();
        let bytes: usize = blocks.iter().map(Vec::len).sum();
        println!(
            "round {round}: {walked:?}, {:.1} MiB; stop {:.2} ms, then {} mini-batches of {:.2} ms (median), {:.2} (99%), \
             {:.2} (longest); without: {:.2}, {:.2}, {:.2}",
            bytes as f64 / f64::from(1 << 20),
            ms(stop),
            beside.len(),
            ms(beside[beside.len() / 2]),
            ms(beside[beside.len() * 99 / 100]),
            ms(beside[beside.len() - 1]),
            ms(plain[plain.len() / 2]),
            ms(plain[plain.len() * 99 / 100]),
            ms(plain[plain.len() - 1]),
        );
        chain.push((head.finish(), blocks));
        around = out.finish();
    }
    together_again(&spec, &chain, &around, entries);
}

#[test]
#[ignore = "a measurement, not a test"]
fn a_checkpoint_of_a_model_that_doubles() {
    let spec = TrainSpec { entries_max: 2 * ENTRIES as usize, ..TrainSpec::default() };
    let (mut trainer, mut seq) = (Trainer::new(&spec, 1).unwrap(), 0);
    let (mut chain, mut around) = (Vec::new(), Vec::new());
    for half in [0..ENTRIES / 2, ENTRIES / 2..ENTRIES] {
        learn_keys(&mut trainer, half, &mut seq);
        let (send, blocks) = sync_channel::<Vec<u8>>(16);
        let writer = thread::spawn(move || blocks.iter().take_while(|block| !block.is_empty()).collect::<Vec<_>>());
        let (mut out, mut head) = (Encoder::new(), Encoder::new());
        let walked = trainer.begin_checkpoint(false, send, &mut out, &mut head);
        trainer.finish_checkpoint();
        println!("{} entries: {walked:?}", trainer.stats().entries);
        chain.push((head.finish(), writer.join().unwrap()));
        around = out.finish();
    }
    together_again(&spec, &chain, &around, ENTRIES);
}

/// Learns of these keys once each.
fn learn_keys(trainer: &mut Trainer, keys: Range<u64>, seq: &mut u64) {
    let mut next = keys.start;
    while next < keys.end {
        let mut features = Features::new();
        for _ in 0..4_096 {
            features.push(&(next..next + COLUMNS).map(|i| ((i - next) as u16, mix64(i), 1.0)).collect::<Vec<_>>());
            next += COLUMNS;
        }
        learn(trainer, &features, seq);
    }
}

fn together_again(spec: &TrainSpec, chain: &[(Vec<u8>, Vec<Vec<u8>>)], around: &[u8], entries: u64) {
    let clock = SystemClock::new();
    for threads in [1, 2] {
        let begin = clock.elapsed();
        let mut restoring = Trainer::restoring(spec, threads).unwrap();
        for (head, blocks) in chain {
            restoring.begin(&mut Decoder::new(head, "head")).unwrap();
            blocks.iter().for_each(|block| restoring.take(block).unwrap());
            restoring.end().unwrap();
        }
        let mut from = Decoder::new(around, "around");
        let copy = Trainer::restore(spec, threads, &mut from, restoring).unwrap();
        println!("for {threads} threads: together again in {:.2} s", (clock.elapsed() - begin).as_secs_f64());
        assert!(copy.stats().entries >= entries);
    }
}
