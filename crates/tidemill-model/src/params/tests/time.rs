//! Ages and sweeps.

use super::*;

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
