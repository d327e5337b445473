//! Ages, sweeps and increments.

use super::*;
use std::sync::Arc;

const AGED: TableSpec = TableSpec { ages: true, ..PAIRS };

fn tick(table: &ParamTable, ticks: u8) -> usize {
    (0..table.parts()).map(|i| table.write(i).tick(ticks)).sum()
}

#[test]
fn what_was_not_changed_for_so_many_ticks_leaves() {
    let table = table(AGED, 2);
    let key = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Group g of ten is changed at every tick before tick g.
    for now in 0..20u64 {
        for i in 0..2_000 {
            if now <= i % 10 {
                add(&table, key(i), now as f32);
            }
        }
        // The sweep of tick t removes those last changed at t - 3 or before.
        tick(&table, 3);
        let left = (0..2_000).filter(|i| i % 10 + 3 > now).count();
        assert_eq!(table.len(), left, "tick {now}");
    }
}

#[test]
fn ages_are_told_up_to_six_and_do_not_begin_anew() {
    let table = table(AGED, 1);
    add(&table, 5, 1.0);
    for ticks in 0..40 {
        table.sorted(|entry| assert_eq!(entry.age, ticks.min(6), "after {ticks} ticks"));
        tick(&table, 9);
    }
    add(&table, 5, 1.0);
    table.sorted(|entry| assert_eq!(entry.age, 0));
}

/// A sweep in small steps ends with what a sweep at once leaves, and no step looks at more buckets than it was told to.
#[test]
fn a_sweep_may_be_done_in_steps() {
    let mut rng = Rng::seeded(3);
    let keys: Vec<u64> = (0..700_000).map(|_| rng.next_u64()).collect();
    let tables = [1, 2].map(|parts| {
        let table = table(AGED, parts);
        keys.iter().for_each(|key| _ = add(&table, *key, 1.0));
        tick(&table, 9);
        keys.iter().step_by(3).for_each(|key| _ = add(&table, *key, 2.0));
        table
    });
    tick(&tables[0], 1);
    let (mut gone, mut steps) = (0, 0);
    while tables[1].len() > keys.len().div_ceil(3) {
        let moved = |table: &ParamTable| table.read_all().iter().map(|part| part.moved).sum::<u64>();
        let before = moved(&tables[1]);
        gone += (0..2).map(|i| tables[1].write(i).evict_older_than(1, 1)).sum::<usize>();
        assert!(moved(&tables[1]) - before <= (SHARDS * bucket::LOAD_MAX) as u64);
        steps += 1;
    }
    assert!((2..20).contains(&steps), "{steps}");
    assert_eq!(gone, keys.len() - keys.len().div_ceil(3));
    assert_eq!(tick(&tables[1], 1), 0);
    assert_eq!(tables[0].state_hash(), tables[1].state_hash());
}

/// A checkpoint and the increments after it make the table that runs on; through growth, eviction, sweeps and counting.
#[test]
fn a_checkpoint_and_its_increments_are_the_table() {
    for words in [2, 6] {
        let spec = TableSpec { words, bytes_max: 16 << 20, entries_max: 1 << 30, sketch_bytes: 1 << 20, ages: true };
        let mut rng = Rng::seeded(13);
        let live = table(spec, 2).evicting(Arc::new(|state| state[0].abs()));
        let mut first = Encoder::new();
        live.encode_increment(&mut first);
        let copy = decoded(spec, 4, &encoded(&live));
        copy.apply_increment(&mut Decoder::new(first.as_slice(), "increment")).unwrap();
        let mut sizes = Vec::new();
        for round in 0..8 {
            let count = if round == 7 { 100 } else { 60_000 };
            for _ in 0..count {
                let key = if round < 2 { uneven(&mut rng) } else { rng.next_u64() >> 3 << 2 };
                let mut part = live.write(part_of(key, 2));
                part.seen_often(key ^ 1, 3);
                match words {
                    2 => _ = part.update_pair(key, ABSENT, |_, n| Some((rng.next_f64() as f32, n + 1.0))),
                    _ => _ = part.row_mut(key, 5, ABSENT, |_| {}).map(|row| row[0] = rng.next_f64() as f32),
                }
            }
            let tables = (0..live.parts()).map(|i| live.write(i));
            tables.for_each(|mut part| {
                _ = match round {
                    7 => 0,
                    1 | 4 => part.tick(3),
                    _ => part.evict_older_than(2, 1),
                }
            });
            let mut out = Encoder::new();
            live.encode_increment(&mut out);
            let mut from = Decoder::new(out.as_slice(), "increment");
            copy.apply_increment(&mut from).unwrap();
            from.end().unwrap();
            assert_eq!(copy.len(), live.len());
            assert_eq!(copy.state_hash(), live.state_hash(), "words {words}, round {round}");
            sizes.push(out.as_slice().len());
        }
        let whole = encoded(&live).len();
        // The counters are a MiB of both.
        assert!(sizes[7] < whole / 2, "{sizes:?} of {whole}");
    }
}

#[test]
fn a_damaged_increment_is_refused_by_name() {
    let live = filled(&[3, 9, 5 << 58], 1);
    let mut out = Encoder::new();
    live.encode_increment(&mut out);
    let apply = |bytes: &[u8]| {
        let copy = table(PAIRS, 1);
        copy.apply_increment(&mut Decoder::new(bytes, "increment 4")).map_err(|error| error.message().to_string())
    };
    let bytes = out.finish();
    assert_eq!(apply(&bytes), Ok(()));
    assert!(apply(&bytes[..bytes.len() - 1]).unwrap_err().contains("increment 4: ends at byte"));
    let first = 11 + 1 + 1 + 1; // head; shard 0: anew, removed, count
    let mut bad = bytes.clone();
    bad[first + 7] = 0xff;
    assert!(
        apply(&bad).unwrap_err().contains("parameters, shard 0: key 0xff00000000000003 of entry 0 is out of order")
    );
}
