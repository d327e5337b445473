//! The table against a map, and what it promises about order, bounds and bytes.

mod bounds;
mod time;
mod walk;

use super::*;
use std::collections::BTreeMap;
use tidemill_base::{
    Rng,
    codec::{Decoder, Encoder},
};

const PAIRS: TableSpec =
    TableSpec { words: 2, entries_max: 1_000_000, bytes_max: usize::MAX, sketch_bytes: 0, ages: false };

fn table(spec: TableSpec, parts: usize) -> ParamTable {
    ParamTable::new(spec, parts).unwrap()
}

fn add(table: &ParamTable, key: u64, z: f32) -> Updated {
    let part = part_of(key, table.parts());
    table.write(part).update_pair(key, ABSENT, |_, n| Some((z, n + 1.0)))
}

fn filled(keys: &[u64], parts: usize) -> ParamTable {
    let table = table(PAIRS, parts);
    keys.iter().for_each(|key| assert_eq!(add(&table, *key, *key as f32), Updated::Done));
    table
}

fn encoded(table: &ParamTable) -> Vec<u8> {
    let mut out = Encoder::new();
    table.encode(&mut out);
    out.finish()
}

fn decoded(spec: TableSpec, parts: usize, bytes: &[u8]) -> ParamTable {
    let mut from = Decoder::new(bytes, "checkpoint");
    let table = ParamTable::decode(spec, parts, &mut from).unwrap();
    from.end().unwrap();
    table
}

fn take(part: &mut Part, listener: Listener) -> (Taken, Vec<u64>, Vec<u64>) {
    let (mut keys, mut removed) = (Vec::new(), Vec::new());
    let taken = part.take_changed(listener, |entry| keys.push(entry.key), |key| removed.push(key));
    assert!(keys.is_sorted() && removed.is_sorted());
    (taken, keys, removed)
}

#[test]
fn hash_and_bytes_do_not_depend_on_the_order_of_insertion_nor_on_parts() {
    let mut rng = Rng::seeded(1);
    let mut keys: Vec<u64> = (0..200_000).map(|_| rng.next_u64()).collect();
    let one = filled(&keys, 1);
    keys.sort_unstable_by_key(|key| key.reverse_bits());
    let four = filled(&keys, 4);
    assert_eq!(one.state_hash(), four.state_hash());
    assert!(encoded(&one) == encoded(&four));
    add(&four, keys[0], 1.5);
    assert_ne!(one.state_hash(), four.state_hash());
    assert_ne!(one.state_hash(), filled(&keys[1..], 1).state_hash());
}

/// Keys even and in crowds at both ends of a shard, all keys of a shard in one small range too.
fn uneven(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => rng.below(3_000),
        1 => u64::MAX - rng.below(3_000),
        2..5 => 3 << 58 | rng.next_u64() >> 6,
        5 => 7 << 58 | rng.next_u64() >> 16,
        _ => rng.next_u64() / 2,
    }
}

/// Through every step of growth, with hints of all kinds, and entries leaving all the time.
#[test]
fn a_table_holds_what_a_map_holds_through_growth_clusters_and_removal() {
    let mut rng = Rng::seeded(5);
    let table = table(TableSpec { entries_max: 1 << 26, ..PAIRS }, 1);
    let mut part = table.write(0);
    let mut map = BTreeMap::new();
    for i in 0..400_000u32 {
        let key = uneven(&mut rng);
        let hint = [ABSENT, part.locate(key), rng.below(200_000) as Place][rng.below(3) as usize];
        assert_eq!(part.update_pair(key, hint, |a, b| Some((a + 1.0, b + i as f32))), Updated::Done);
        let state: &mut (f32, f32) = map.entry(key).or_default();
        *state = (state.0 + 1.0, state.1 + i as f32);
        if i % 1_000 == 0 {
            let begin = uneven(&mut rng);
            let shard = shard_of(begin);
            let gone: Vec<u64> = map.range(begin..).take(700).map(|(key, _)| *key).collect();
            let gone: Vec<u64> = gone.into_iter().filter(|key| shard_of(*key) == shard).collect();
            part.remove_keys(shard, &gone);
            gone.iter().for_each(|key| _ = map.remove(key));
        }
    }
    for (key, state) in &map {
        assert_eq!(part.pair(part.locate(*key)), *state);
    }
    assert_eq!(part.locate(60 << 58), ABSENT);
    drop(part);
    assert_eq!(table.len(), map.len());
    let mut expected = map.into_iter();
    table.sorted(|entry| assert_eq!(Some((entry.key, (entry.state[0], entry.state[1]))), expected.next()));
    assert_eq!(expected.next(), None);
}

#[test]
fn a_hint_that_points_to_the_same_key_of_another_shard_is_not_believed() {
    let table = table(PAIRS, 1);
    let mut part = table.write(0);
    part.update_pair(5, ABSENT, |_, _| Some((1.0, 1.0)));
    let place = part.locate(5);
    part.update_pair(3 << 58 | 5, place, |a, _| Some((a + 2.0, 0.0)));
    assert_eq!(part.pair(part.locate(5)), (1.0, 1.0));
    assert_eq!(part.pair(part.locate(3 << 58 | 5)), (2.0, 0.0));
}

#[test]
fn rows_lie_in_few_lines_and_keep_their_words_and_slots() {
    for words in [3, 5, 16, 18, 33] {
        let mut rng = Rng::seeded(6);
        let table = table(TableSpec { words, ..PAIRS }, 2);
        let mut map = BTreeMap::new();
        for _ in 0..50_000 {
            let key = 1 + rng.below(20_000) * 0x0003_0000_0000_0001;
            let mut part = table.write(part_of(key, 2));
            let row = part.row_mut(key, key as u16, ABSENT, |row| row.fill(key as f32)).unwrap();
            // In as few cache lines as so many words can be.
            let lines = (row.as_ptr() as usize % 64 + size_of_val(row)).div_ceil(64);
            assert_eq!((row.len(), lines), (words, words.div_ceil(16)));
            row[2] += 1.0;
            *map.entry(key).or_insert(key as f32) += 1.0;
        }
        for (key, expected) in &map {
            let part = table.read(part_of(*key, 2));
            let row = part.row(part.locate(*key));
            assert_eq!((row[0], row[2]), (*key as f32, *expected));
        }
        let back = decoded(*table.spec(), 8, &encoded(&table));
        assert_eq!((back.state_hash(), back.len()), (table.state_hash(), map.len()));
        table.sorted(|entry| assert_eq!(entry.slot, entry.key as u16));
    }
}

#[test]
fn an_entry_changed_before_the_table_grew_is_still_in_the_next_delta() {
    let table = table(PAIRS, 1);
    let key = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut part = table.write(0);
    (0..100_000).for_each(|i| _ = part.update_pair(key(i), ABSENT, |_, _| Some((1.0, 1.0))));
    let (first, all, _) = take(&mut part, Listener::Deltas);
    assert_eq!((first, all.len()), (Taken::Anew, 100_000));
    assert_eq!(take(&mut part, Listener::Deltas), (Taken::Changes, vec![], vec![]));
    part.update_pair(key(17), ABSENT, |_, _| Some((2.0, 2.0)));
    let place = part.locate(key(17));
    part.update_pair(key(17), place, |_, _| Some((3.0, 2.0)));
    let pages = part.owners.len();
    (100_000..150_000).for_each(|i| _ = part.update_pair(key(i), ABSENT, |_, _| Some((1.0, 1.0))));
    assert!(part.owners.len() > pages);
    let (taken, seen, _) = take(&mut part, Listener::Deltas);
    let mut expected: Vec<u64> = (100_000..150_000).chain([17]).map(key).collect();
    expected.sort_unstable();
    assert_eq!((taken, seen.len()), (Taken::Changes, 50_001));
    assert!(seen == expected);
    // The other listener was told nothing by this.
    assert_eq!(take(&mut part, Listener::Checkpoints).1.len(), 150_000);
    assert_eq!(take(&mut part, Listener::Checkpoints).1.len(), 0);
    part.update_pair(key(3), ABSENT, |_, _| Some((2.0, 2.0)));
    assert_eq!(take(&mut part, Listener::Checkpoints).1, [key(3)]);
    assert_eq!(take(&mut part, Listener::Deltas).1, [key(3)]);
}

/// More changes than are listed: the same answer, found otherwise.
#[test]
fn a_full_list_of_changes_loses_none() {
    let mut rng = Rng::seeded(12);
    let table = table(TableSpec { entries_max: 6_400, ..PAIRS }, 1);
    let mut part = table.write(0);
    let _ = take(&mut part, Listener::Deltas);
    let room = 64 * part.limits.pages_max * limits::CHANGED_PER_PAGE;
    let mut keys: Vec<u64> = (0..6_000).map(|_| rng.next_u64() >> 1).collect();
    for round in 0..10 {
        for key in &keys {
            part.update_pair(*key, ABSENT, |a, _| Some((a + 1.0, round as f32)));
        }
        if round == 0 {
            keys.retain(|key| part.locate(*key) != ABSENT);
            keys.sort_unstable();
        }
        assert!(take(&mut part, Listener::Deltas) == (Taken::Changes, keys.clone(), vec![]), "round {round}");
    }
    assert!(room > 6_000, "so that this is the short way");
    part.changes[0].limit_room(1_000);
    part.update_pair(keys[0], ABSENT, |_, _| Some((0.0, 0.0)));
    keys.iter().step_by(2).for_each(|key| _ = part.update_pair(*key, ABSENT, |_, _| Some((9.0, 9.0))));
    let (taken, seen, _) = take(&mut part, Listener::Deltas);
    assert_eq!((taken, seen.len()), (Taken::Changes, keys.len().div_ceil(2)));
    assert!(seen.iter().eq(keys.iter().step_by(2)));
}

#[test]
fn what_is_removed_leaves_the_table_and_the_next_delta_says_so() {
    for words in [2, 7] {
        let table = table(TableSpec { words, ..PAIRS }, 1);
        let mut part = table.write(0);
        let put = |part: &mut Part, key: u64| match words {
            2 => _ = part.update_pair(key, ABSENT, |_, _| Some((key as f32, 0.0))),
            _ => part.row_mut(key, 3, ABSENT, |_| {}).unwrap().fill(key as f32),
        };
        let keys: Vec<u64> = (1..5_000u64).map(|i| i << 44).collect();
        keys.iter().for_each(|key| put(&mut part, *key));
        let _ = take(&mut part, Listener::Deltas);
        let before = part.bytes();
        let gone: Vec<u64> = keys.iter().copied().filter(|key| (*key >> 44).is_multiple_of(5)).collect();
        part.remove_keys(0, &gone);
        assert_eq!(part.len(0), keys.len() - gone.len());
        put(&mut part, gone[7]);
        let mut expected = gone.clone();
        expected.remove(7);
        let (taken, changed, removed) = take(&mut part, Listener::Deltas);
        assert_eq!((taken, changed, removed.len()), (Taken::Changes, vec![gone[7]], expected.len()));
        assert!(removed == expected);
        part.remove_keys(0, &gone[7..8]);
        keys.iter().for_each(|key| assert_eq!(part.locate(*key) == ABSENT, (*key >> 44).is_multiple_of(5)));
        (1..=gone.len() as u64).for_each(|i| put(&mut part, i << 44 | 1));
        assert!(part.bytes() < before + 65_536, "rows and places are used again");
    }
}

#[test]
fn decoding_gives_the_same_state_and_refuses_what_was_never_written() {
    let mut rng = Rng::seeded(2);
    let table = filled(&(0..500).map(|_| rng.next_u64()).collect::<Vec<_>>(), 2);
    let bytes = encoded(&table);
    let decode = |bytes: &[u8], entries_max| {
        ParamTable::decode(TableSpec { entries_max, ..PAIRS }, 4, &mut Decoder::new(bytes, "checkpoint"))
    };
    let back = decode(&bytes, 1_000_000).unwrap();
    assert_eq!((back.state_hash(), back.len()), (table.state_hash(), 500));
    let message = |bytes: &[u8], max| decode(bytes, max).map(|_| ()).unwrap_err().message().to_string();
    assert!(message(&bytes[..bytes.len() - 1], 1_000_000).contains("checkpoint: ends at byte"));
    let first = 1 + 1 + 1 + 8 + 1; // words, counted, ages, ticks, count of shard 0
    let mut bad = bytes.clone();
    bad[first + 8 + 3] = 0x7f; // word 0 of the first entry: exponent all ones
    bad[first + 8 + 2] = 0xff;
    assert!(message(&bad, 1_000_000).contains("parameters, shard 0: entry 0 holds NaN"));
    bad = bytes.clone();
    bad[first + 7] = 0xff; // top byte of the first key
    assert!(message(&bad, 1_000_000).contains("is out of order"));
    assert!(message(&bytes, 64).contains("train.entries_max"));
    let rows = TableSpec { words: 9, ..PAIRS };
    let error = |spec| ParamTable::decode(spec, 1, &mut Decoder::new(&bytes, "checkpoint")).map(|_| ()).unwrap_err();
    assert!(error(rows).message().contains("entries of 2 words, now they have 9"));
    assert!(error(TableSpec { ages: true, ..PAIRS }).message().contains("ages kept, and now not"));
}

/// Every byte of a small table is turned in three ways: an error or another state, never a panic, never the same state.
#[test]
fn a_damaged_byte_is_an_error_or_another_state() {
    let spec = TableSpec { words: 3, sketch_bytes: 4096, ages: true, ..PAIRS };
    let whole = table(spec, 1);
    let mut part = whole.write(0);
    for key in [0, 7, 1 << 58, u64::MAX] {
        part.row_mut(key, 2, ABSENT, |_| {}).unwrap().fill(0.5);
    }
    drop(part);
    let (bytes, hash) = (encoded(&whole), whole.state_hash());
    assert_eq!(decoded(spec, 4, &bytes).state_hash(), hash);
    for i in (0..bytes.len()).step_by(3) {
        for bits in [0x01, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[i] ^= bits;
            let mut from = Decoder::new(&bad, "checkpoint");
            if let Ok(table) = ParamTable::decode(spec, 1, &mut from)
                && from.end().is_ok()
            {
                assert_ne!(table.state_hash(), hash, "byte {i} ^ {bits:#x}");
            }
        }
    }
}
