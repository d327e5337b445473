//! Bounds: entries, bytes, the work of a call, and what happens at them.

use super::*;
use std::sync::Arc;

fn evicting(spec: TableSpec, parts: usize) -> ParamTable {
    table(spec, parts).evicting(Arc::new(|_, state| state[0].abs()))
}

/// Bytes that a table may take for a bound of so many.
fn small(bytes_max: usize, words: usize) -> TableSpec {
    TableSpec { words, entries_max: 1 << 30, bytes_max, ..PAIRS }
}

#[test]
fn a_full_shard_admits_no_new_key_but_updates_the_old() {
    let table = table(TableSpec { entries_max: 128, ..PAIRS }, 1);
    assert_eq!([1, 2, 3].map(|key| add(&table, key, 1.0)), [Updated::Done, Updated::Done, Updated::NotAdmitted]);
    assert_eq!(add(&table, 1, 5.0), Updated::Done);
    assert_eq!(add(&table, 1 << 58, 1.0), Updated::Done);
    assert_eq!(table.len(), 3);
}

#[test]
fn a_bound_too_small_for_any_table_is_refused_with_one_that_is_not() {
    let error = ParamTable::new(small(1 << 20, 2), 1).map(|_| ()).unwrap_err();
    let least: usize = error.message().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(ParamTable::new(small(least, 2), 1).is_ok(), "{error}");
    let error = ParamTable::new(small(1 << 20, 65), 1).map(|_| ()).unwrap_err();
    let least: usize = error.message().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(ParamTable::new(small(least, 65), 1).is_ok(), "{error}");
}

/// Keys of all kinds, three times as many as fit; with both listeners asking now and then.
#[test]
fn whatever_comes_the_bytes_stay_within_their_bound() {
    for (words, ages, evicts) in [(2, false, false), (2, true, true), (12, false, true), (20, true, false)] {
        let mut rng = Rng::seeded(3);
        let spec = TableSpec { ages, ..small(16 << 20, words) };
        let table = if evicts { evicting(spec, 2) } else { table(spec, 2) };
        let mut refused = 0;
        for i in 0..1_100_000u32 {
            let key = if i < 200_000 { uneven(&mut rng) } else { rng.next_u64() };
            let mut part = table.write(part_of(key, 2));
            let admitted = match words {
                2 => part.update_pair(key, ABSENT, |a, _| Some((a + rng.next_f64() as f32, 1.0))) == Updated::Done,
                _ => part.row_mut(key, 1, ABSENT, |_| {}).map(|row| row[0] += 1.0).is_some(),
            };
            refused += u32::from(!admitted);
            if i % 100_000 == 0 {
                let _ = take(&mut part, Listener::Deltas);
                let _ = take(&mut part, Listener::Checkpoints);
                drop(part);
                assert!(table.bytes() <= 16 << 20, "{} bytes", table.bytes());
            }
        }
        assert!(table.bytes() <= 16 << 20, "{} bytes", table.bytes());
        assert!(table.bytes() > 11 << 20, "the bound is made use of: {} bytes", table.bytes());
        let least = (16 << 20) / (32 + if words > 2 { words.next_multiple_of(16) * 4 + 8 } else { 0 });
        assert!(table.len() > least * 8 / 10, "{} entries", table.len());
        assert_eq!(refused == 0, evicts, "{refused} refused");
    }
}

#[test]
fn the_least_worth_leave_and_the_next_delta_says_so() {
    let mut rng = Rng::seeded(4);
    let table = evicting(small(32 << 20, 2), 1);
    let mut part = table.write(0);
    let _ = take(&mut part, Listener::Deltas);
    let mut worth = BTreeMap::new();
    for _ in 0..3_000_000 {
        let (key, x) = (rng.next_u64(), rng.next_f64() as f32);
        part.update_pair(key, ABSENT, |_, _| Some((-x, 1.0)));
        worth.insert(key, x);
    }
    let kept: Vec<u64> = worth.keys().copied().filter(|key| part.locate(*key) != ABSENT).collect();
    assert_eq!(kept.len(), part.numbers().map(|shard| part.len(shard)).sum::<usize>());
    let mean = kept.iter().map(|key| worth[key]).sum::<f32>() / kept.len() as f32;
    // About half of them fit, and the better half of even numbers has a mean of 0.75.
    assert!(mean > 0.7, "{mean}");
    let (taken, changed, _) = take(&mut part, Listener::Deltas);
    assert_eq!((taken, changed.len()), (Taken::Anew, kept.len()), "more left than can be listed");
    let before: Vec<u64> = kept;
    let new: Vec<u64> = (0..20_000).map(|_| rng.next_u64()).collect();
    new.iter().for_each(|key| _ = part.update_pair(*key, ABSENT, |_, _| Some((2.0, 1.0))));
    let (taken, changed, removed) = take(&mut part, Listener::Deltas);
    assert_eq!((taken, changed.len()), (Taken::Changes, new.len()));
    let gone: Vec<u64> = before.into_iter().filter(|key| part.locate(*key) == ABSENT).collect();
    assert!(!gone.is_empty());
    assert_eq!(removed.len(), gone.len());
    assert!(removed == gone);
}

/// What leaves is decided by what a shard holds: not by the parts, nor by being written and read in between.
#[test]
fn eviction_is_the_same_for_other_parts_and_after_a_restore() {
    for words in [2, 9] {
        let spec = TableSpec { ages: true, ..small(12 << 20, words) };
        let worth: Worth = Arc::new(|_, state| state[0]);
        let mut tables = [1, 4, 64].map(|parts| table(spec, parts).evicting(worth.clone()));
        let mut rng = Rng::seeded(9);
        for round in 0..6 {
            for _ in 0..150_000 {
                let (key, x) = (if round < 2 { uneven(&mut rng) } else { rng.next_u64() }, rng.below(3) as f32);
                for table in &tables {
                    let mut part = table.write(part_of(key, table.parts()));
                    match words {
                        2 => _ = part.update_pair(key, ABSENT, |_, n| Some((x, n + 1.0))),
                        _ => _ = part.row_mut(key, 5, ABSENT, |row| row[4] = 7.0).map(|row| row[0] = x),
                    }
                }
            }
            for table in &tables {
                (0..table.parts()).for_each(|i| _ = table.write(i).tick(9));
                (0..table.parts()).for_each(|i| _ = table.write(i).evict_older_than(4, 2));
            }
            let hash = tables[0].state_hash();
            assert_eq!(tables.each_ref().map(ParamTable::state_hash), [hash; 3], "round {round}");
            let pages = |table: &ParamTable| {
                let parts = table.read_all();
                parts.iter().flat_map(|part| part.shards.iter().map(|shard| shard.pages)).collect::<Vec<_>>()
            };
            let bytes = encoded(&tables[0]);
            assert!(bytes == encoded(&tables[2]));
            let restored = decoded(spec, 2, &bytes).evicting(worth.clone());
            assert_eq!(pages(&restored), pages(&tables[0]), "the shape depends on the keys alone");
            tables[1] = restored;
        }
        let full = tables[0].read_all().iter().any(|part| part.shards.iter().any(|s| s.pages == part.limits.pages_max));
        assert!(full || words > 2);
    }
}

#[test]
fn a_key_that_is_to_be_seen_often_is_admitted_then() {
    let table = table(TableSpec { sketch_bytes: 64 * 4096, ..PAIRS }, 1);
    let mut part = table.write(0);
    assert_eq!([1, 2, 3].map(|_| part.seen_often(77, 3)), [false, false, true]);
    assert!(part.seen_often(78, 1));
    assert!(!part.seen_often(78, 2), "a key that needs no counting was not counted");
    drop(part);
    let hash = table.state_hash();
    assert_eq!(decoded(*table.spec(), 2, &encoded(&table)).state_hash(), hash);
    table.write(0).seen_often(79, 3);
    assert_ne!(table.state_hash(), hash, "what was counted is part of the state");
}

/// At 53% full, the least there is beyond two pages a bucket: 16 / 0.533 = 30.0 bytes an entry, and what is known of pages,
/// directories and the last block.
#[test]
fn an_entry_takes_at_most_31_bytes_at_any_size() {
    let mut rng = Rng::seeded(8);
    let table = table(TableSpec { entries_max: 1 << 24, ..PAIRS }, 1);
    let mut part = table.write(0);
    let mut sum = (0.0, 0);
    for entries in 1..3_000_000u32 {
        part.update_pair(rng.next_u64(), ABSENT, |_, _| Some((1.0, 1.0)));
        if entries > 400_000 && entries % 50_000 == 0 {
            let bytes = part.bytes().saturating_sub(memory::BLOCK_BYTES);
            let each = bytes as f64 / f64::from(entries);
            assert!(each < 31.0, "{each} bytes an entry at {entries}");
            sum = (sum.0 + each, sum.1 + 1);
        }
    }
    let mean = sum.0 / f64::from(sum.1);
    assert!(mean < 26.0, "{mean} bytes an entry in the mean");
}

#[test]
fn small_tables_stay_small() {
    let mut rng = Rng::seeded(8);
    for parts in [1, 4] {
        let table = table(TableSpec { entries_max: 1 << 28, ..PAIRS }, parts);
        assert!(table.bytes() < 50_000, "an empty table takes {}", table.bytes());
        (0..1_000).for_each(|_| _ = add(&table, rng.next_u64(), 1.0));
        assert!(table.bytes() < 400_000, "1,000 entries take {}", table.bytes());
    }
}

/// No pause: a call moves at most the entries of a bucket, and as many again for each bucket that joins it.
#[test]
fn no_call_moves_more_entries_than_a_bucket_holds() {
    let mut rng = Rng::seeded(10);
    let table = evicting(small(16 << 20, 2), 1);
    let mut part = table.write(0);
    let mut most = 0;
    for i in 0..1_200_000 {
        let before = part.moved;
        let key = if i < 300_000 { uneven(&mut rng) } else { rng.next_u64() };
        part.update_pair(key, ABSENT, |_, _| Some((rng.next_f64() as f32, 1.0)));
        most = most.max(part.moved - before);
    }
    // Making room by eviction rebuilds a bucket twice at most: without what leaves, and for the new key.
    assert!(most <= 2 * bucket::LOAD_MAX as u64, "{most}");
    assert!(part.moved > 1_000_000, "the table grew and evicted: {}", part.moved);
}

/// Whoever knows a row's number changes it without a look at the entry: so the number must stay right until entries leave,
/// and an entry whose change somebody waits for must say that it is to be noted first.
#[test]
fn a_rows_number_is_good_until_entries_leave() {
    let table = evicting(small(16 << 20, 12), 1);
    let (mut rng, mut part) = (Rng::seeded(5), table.write(0));
    let (mut known, mut removals, mut left) = (Vec::new(), part.removals(), 0);
    for i in 0..300_000 {
        let key = rng.next_u64();
        let row = part.new_row(key, 1, |row| row.fill(key as f32));
        if part.removals() != removals {
            known.clear();
            (removals, left) = (part.removals(), left + 1);
        }
        known.extend(row.map(|row| (key, row)));
        if i % 10_000 == 0 {
            for (key, row) in &known {
                assert_eq!(part.numbered_row(*row)[0], *key as f32);
                assert_eq!(part.row_at(part.locate(*key)), (*row, true));
            }
            let _ = take(&mut part, Listener::Deltas);
            for (key, row) in &known {
                let place = part.locate(*key);
                assert_eq!(part.row_at(place), (*row, false), "somebody waits for the next change");
                assert_eq!(part.row_number_at(*key, place), *row);
                assert_eq!(part.row_at(place), (*row, true));
            }
        }
    }
    assert!(left > 0 && !known.is_empty(), "{left} times entries left");
}
