//! How near the table is to the speed of memory, and whether it takes the bytes it says.
//!
//! Not part of a plain `cargo test`: run with `cargo test -p tidemill-model --test speed_params -- --ignored --nocapture`.
//! The ceiling: scalar FTRL over an array of 16-byte entries that takes the same bytes, on ids that need no search, in 2 MiB pages, with the same
//! distance between asking for a line and using it. With changes listed, taking them is part of the time. `TIDEMILL_SPEED_ENTRIES` gives other sizes than 1, 4 and 16 million.

use std::hint::black_box;

use memmap2::{Advice, MmapMut, MmapOptions};
use tidemill_base::{Rng, rng::mix64};
use tidemill_model::{
    optimizer::{Ftrl, Pair},
    params::{Listener, ParamTable, TableSpec},
};

/// Keys of one mini-batch: their lines are asked for, then their weights are read, then they are updated.
const BATCH: usize = 64 * 40;
/// Lines between asking and using.
const AHEAD: usize = 32;
const UPDATES: usize = 8 << 20;

#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Flat {
    key: u64,
    z: f32,
    n: f32,
}

fn flat(len: usize) -> (MmapMut, usize) {
    let map = MmapOptions::new().len((len * 16).next_multiple_of(2 << 20) + (2 << 20)).no_reserve_swap().map_anon();
    let map = map.unwrap();
    let _ = map.advise(Advice::HugePage);
    let begin = (map.as_ptr() as usize).next_multiple_of(2 << 20) - map.as_ptr() as usize;
    (map, begin)
}

fn ask<T>(items: &[T], i: usize) {
    // SAFETY: a prefetch reads nothing the program can see and never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(items.as_ptr().wrapping_add(i).cast());
    }
    let _ = (items, i);
}

fn ftrl() -> Ftrl {
    Ftrl::new(0.1, 1.0, 0.5, 0.1)
}

/// Nanoseconds this thread has run, without those it waited for a processor.
fn nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells a thread's time");
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Nanoseconds for reading the weight of a key and updating it: the least of seven runs.
fn least(mut run: impl FnMut(&mut Rng) -> f32) -> f64 {
    let mut rng = Rng::seeded(5);
    let times = (0..7).map(|_| {
        let begin = nanos();
        black_box(run(&mut rng));
        (nanos() - begin) as f64 / UPDATES as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

fn ceiling(entries: usize) -> f64 {
    let (mut map, begin) = flat(entries);
    let table: &mut [Flat] = bytemuck::cast_slice_mut(&mut map[begin..begin + entries * 16]);
    table.iter_mut().enumerate().for_each(|(i, flat)| *flat = Flat { key: i as u64, z: 0.1, n: 1.0 });
    let ftrl = ftrl();
    let mut ids = vec![0usize; BATCH];
    least(|rng| {
        let mut sum = 0.0;
        for _ in 0..UPDATES / BATCH {
            // As many steps to an id as to a key.
            ids.iter_mut().for_each(|id| {
                let i = rng.below(entries as u64);
                *id = ((u128::from(mix64(i)) * entries as u128) >> 64) as usize;
            });
            (0..AHEAD).for_each(|i| ask(table, ids[i]));
            for i in 0..BATCH {
                if i + AHEAD < BATCH {
                    ask(table, ids[i + AHEAD]);
                }
                let flat = &table[ids[i]];
                sum += ftrl.weight(flat.z, flat.n);
            }
            let g = if sum > 0.0 { 0.01 } else { -0.01 };
            for id in &ids {
                let flat = &mut table[*id];
                if let Some((z, n)) = ftrl.checked_step(flat.z, flat.n, g, 1.0) {
                    (flat.z, flat.n) = (z, n);
                }
            }
        }
        sum
    })
}

fn filled(entries: usize) -> (ParamTable, f64) {
    let table = ParamTable::new(TableSpec::new(2, entries * 2), 1).unwrap();
    let mut part = table.write(0);
    let begin = nanos();
    let mut keys = vec![0; 256];
    for first in (0..entries as u64).step_by(256) {
        keys.iter_mut().zip(first..).for_each(|(key, i)| *key = mix64(i));
        keys.iter().for_each(|key| _ = part.prefetch(*key));
        keys.iter().for_each(|key| _ = part.update_pair(*key, u32::MAX, |_, _| Some((0.1, 1.0))));
    }
    let each = (nanos() - begin) as f64 / entries as f64;
    drop(part);
    (table, each)
}

fn ours(table: &ParamTable, entries: usize, listens: bool) -> f64 {
    let mut part = table.write(0);
    let ftrl = ftrl();
    let (mut keys, mut places) = (vec![0u64; BATCH], Vec::new());
    least(|rng| {
        let mut sum = 0.0;
        if listens {
            let _ = part.take_changed(Listener::Deltas, |_| {}, |_| {});
        }
        for _ in 0..UPDATES / BATCH {
            keys.iter_mut().for_each(|key| *key = mix64(rng.below(entries as u64)));
            part.locate_all(&keys, &mut places);
            for place in &places {
                let (z, n) = part.pair(*place);
                sum += ftrl.weight(z, n);
            }
            let g = if sum > 0.0 { 0.01 } else { -0.01 };
            for (key, place) in keys.iter().zip(&places) {
                part.update_pair(*key, *place, |z, n| ftrl.checked_step(z, n, g, 1.0));
            }
        }
        sum
    })
}

#[expect(clippy::disallowed_methods, reason = "a measurement is told its sizes from outside")]
fn sizes() -> Vec<usize> {
    let given = std::env::var("TIDEMILL_SPEED_ENTRIES").ok();
    let given = given.map(|text| text.split(',').map(|n| n.trim().parse().expect("a number of entries")).collect());
    given.unwrap_or(vec![1_000_000, 4_000_000, 16_000_000])
}

#[test]
#[ignore = "a measurement"]
fn the_table_costs_little_more_than_the_memory_it_reads() {
    let mut firsts: Option<(f64, f64)> = None;
    for entries in sizes() {
        let (table, insert) = filled(entries);
        let (ours, listens) = (ours(&table, entries, false), self::ours(&table, entries, true));
        let bytes = table.bytes();
        drop(table);
        let ceiling = ceiling(bytes / size_of::<Flat>());
        let (first_ceiling, first_ours) = *firsts.get_or_insert((ceiling, ours));
        println!(
            "{entries:>11} entries: ceiling {ceiling:5.1} ns ({:4.2}x), table {ours:5.1} ns ({:4.2}x), {:4.2}x the \
             ceiling, {listens:.1} ns while changes are listed; a new key {insert:.0} ns; {:.1} bytes an entry",
            ceiling / first_ceiling,
            ours / first_ours,
            ours / ceiling,
            bytes as f64 / entries as f64
        );
    }
}

/// Private memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What the table says it takes is what the kernel says, within 2%, and never less by more than a block.
#[test]
#[ignore = "reads /proc"]
fn the_bytes_told_are_the_bytes_taken() {
    for entries in [0, 1_000, 100_000, 1_000_000, 4_000_000] {
        let before = resident();
        let (table, _) = filled(entries);
        let (taken, told) = (resident() - before, table.bytes());
        println!("{entries:>9} entries: {taken} bytes taken, {told} told");
        assert!(told as f64 >= taken as f64 * 0.98 - 300_000.0, "{told} told, {taken} taken");
        assert!(told as f64 <= taken as f64 * 1.02 + 300_000.0, "{told} told, {taken} taken");
    }
}
