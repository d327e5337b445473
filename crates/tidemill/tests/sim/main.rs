//! The fault harness: one seed decides what events there are, when they come, and everything that goes wrong.
//!
//! In: seeds. Out: how often what went wrong, and nothing that differs. A job runs in this process on a disk that is
//! simulated ([`disk`]) and by a clock that the seed moves; its threads are given their turns, so that a seed does the same
//! every time. 200 seeds in each run of the tests; more by command:
//!
//! ```text
//! TIDEMILL_SEEDS=0..10000 cargo test --workspace --test sim -- --nocapture seeds
//! ```

#![allow(clippy::disallowed_methods, reason = "which seeds are asked for is said in the environment")]

mod disk;
mod run;
mod world;

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use disk::Lie;
use run::{Figures, run, run_in_store};

/// Seeds in each run of the tests.
const SEEDS: Range<u64> = 0..200;

/// What carries out the seeds asked for.
const COMMAND: &str = "cargo test --workspace --test sim -- --nocapture seeds";

/// Seeds asked for: `17`, `0..10000`.
fn asked() -> Option<Range<u64>> {
    let text = std::env::var("TIDEMILL_SEEDS").ok()?;
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or_else(|e| panic!("TIDEMILL_SEEDS: '{text}': {e}"));
    Some(match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    })
}

/// Carries out seeds on all cores; what failed, by seed.
fn all(seeds: Range<u64>, lie: Lie) -> (Figures, Vec<(u64, String)>) {
    by(seeds, lie == Lie::None, &|seed| run(seed, lie))
}

fn by(
    seeds: Range<u64>,
    tells: bool,
    run: &(dyn Fn(u64) -> Result<Figures, String> + Sync),
) -> (Figures, Vec<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let done = Mutex::new((Figures::default(), Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let ran = run(seed);
                    let mut done = done.lock().unwrap();
                    match ran {
                        Ok(figures) => done.0.add(&figures),
                        Err(why) => {
                            if tells {
                                println!("seed {seed}: {why}\n  repeat with: TIDEMILL_SEEDS={seed} {COMMAND}");
                            }
                            done.1.push((seed, why));
                        }
                    }
                    if (seed + 1).is_multiple_of(1_000) {
                        println!("{} seeds, {} failed so far", seed + 1 - seeds.start, done.1.len());
                    }
                }
            });
        }
    });
    let (figures, mut failed) = done.into_inner().unwrap();
    failed.sort();
    (figures, failed)
}

#[test]
fn seeds_f1_f3_f12_f13_f15_f18_f20_to_f23_f31_f32() {
    let seeds = asked().unwrap_or(SEEDS);
    let count = seeds.end - seeds.start;
    let (figures, failed) = all(seeds, Lie::None);
    println!("{count} seeds, {} failed: {figures:?}", failed.len());
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds {numbers:?} failed");
    assert!(figures.cut > 0 || count < 60, "{figures:?}");
}

/// With data in a bucket, and each process on another machine: nothing that was acknowledged, published or learned is lost.
#[test]
fn seeds_in_a_store_f1_f3_f18_f20_to_f23() {
    let seeds = asked().unwrap_or(0..60);
    let count = seeds.end - seeds.start;
    let (figures, failed) = by(seeds, true, &run_in_store);
    println!("{count} seeds, {} failed: {figures:?}", failed.len());
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds {numbers:?} failed");
    assert!(figures.power_losses > count && figures.versions > 0, "{figures:?}");
}

/// The harness can fail: on a disk that only says that it syncs, seeds fail, and soon.
#[test]
fn a_disk_that_lies_is_found_out() {
    let lies = [
        Lie::SyncsNothing("journal.log"),
        Lie::SyncsNothing("push.log"),
        Lie::SyncsNothing(".part.tmp"),
        Lie::ForgetsData,
    ];
    for lie in lies {
        let (figures, failed) = all(0..30, lie);
        println!("{lie:?}: {} of 30 seeds failed, {} losses of power", failed.len(), figures.power_losses);
        assert!(!failed.is_empty(), "{lie:?} was not found by any of 30 seeds");
    }
}
