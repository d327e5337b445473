//! The table against a map, and what it promises about order, bounds and bytes.

use super::*;
use std::collections::BTreeMap;
use tidemill_base::Rng;

const PAIRS: TableSpec = TableSpec { words: 2, entries_max: 1_000_000, admits_late: false };

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

/// Uniform keys, and crowds at both ends of a shard, through every step of growth, with hints of all kinds.
#[test]
fn a_table_holds_what_a_map_holds_through_growth_and_clusters() {
    let mut rng = Rng::seeded(5);
    let table = table(TableSpec { entries_max: 1 << 28, ..PAIRS }, 1);
    let mut part = table.write(0);
    let mut map = BTreeMap::new();
    for i in 0..300_000u32 {
        let key = match rng.below(8) {
            0 => 1 + rng.below(3_000),
            1 => u64::MAX - rng.below(3_000),
            2..5 => 3 << 58 | 1 + rng.next_u64() >> 6,
            _ => 1 + rng.next_u64() / 2,
        };
        let hint = [ABSENT, part.locate(key), rng.below(200) as Place][rng.below(3) as usize];
        assert_eq!(part.update_pair(key, hint, |a, b| Some((a + 1.0, b + i as f32))), Updated::Done);
        let state: &mut (f32, f32) = map.entry(key).or_default();
        *state = (state.0 + 1.0, state.1 + i as f32);
    }
    for (key, state) in &map {
        assert_eq!(part.pair(part.locate(*key)), *state);
    }
    assert_eq!(part.locate(2 << 58), ABSENT);
    drop(part);
    assert_eq!(table.len(), map.len());
    let mut expected = map.into_iter();
    table.sorted(|entry| assert_eq!(Some((entry.key, (entry.state[0], entry.state[1]))), expected.next()));
    assert_eq!(expected.next(), None);
}

#[test]
fn rows_begin_as_told_and_keep_their_words_and_slots() {
    let mut rng = Rng::seeded(6);
    let table = table(TableSpec { words: 5, ..PAIRS }, 2);
    let mut map = BTreeMap::new();
    for _ in 0..50_000 {
        let key = 1 + rng.below(20_000) * 0x0003_0000_0000_0001;
        let mut part = table.write(part_of(key, 2));
        let row = part.row_mut(key, key as u16, ABSENT, |row| row.fill(key as f32)).unwrap();
        row[3] += 1.0;
        *map.entry(key).or_insert(key as f32) += 1.0;
    }
    for (key, expected) in &map {
        let part = table.read(part_of(*key, 2));
        let row = part.row(part.locate(*key));
        assert_eq!((row[0], row[3], row[4]), (*key as f32, *expected, *key as f32));
    }
    let back = ParamTable::decode(*table.spec(), 8, &mut Decoder::new(&encoded(&table), "checkpoint")).unwrap();
    assert_eq!((back.state_hash(), back.len()), (table.state_hash(), map.len()));
    table.sorted(|entry| assert_eq!(entry.slot, entry.key as u16));
}

#[test]
fn an_entry_changed_before_the_table_grew_is_still_in_the_next_delta() {
    let table = table(PAIRS, 1);
    let key = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut part = table.write(0);
    (0..100_000).for_each(|i| _ = part.update_pair(key(i), ABSENT, |_, _| Some((1.0, 1.0))));
    part.take_changed(|_| {}, |_| {});
    part.take_changed(|entry| panic!("{entry:?} was handed out twice"), |_| {});
    part.update_pair(key(17), ABSENT, |_, _| Some((2.0, 2.0)));
    let bytes = part.bytes();
    (100_000..130_000).for_each(|i| _ = part.update_pair(key(i), ABSENT, |_, _| Some((1.0, 1.0))));
    assert!(part.bytes() > bytes);
    let mut seen = Vec::new();
    part.take_changed(|entry| seen.push(entry.key), |_| {});
    seen.sort_unstable();
    for i in (100_000..130_000).chain([17]) {
        assert!(seen.binary_search(&key(i)).is_ok(), "key {i}");
    }
    assert!(seen.len() < 125_000, "not everything changed");
}

#[test]
fn what_is_removed_leaves_the_table_and_the_next_delta_says_so() {
    for words in [2, 7] {
        let table = table(TableSpec { words, ..PAIRS }, 1);
        let mut part = table.write(0);
        let keys: Vec<u64> = (1..5_000u64).map(|i| i << 44).collect();
        for key in &keys {
            part.restore(*key, 3, &vec![*key as f32; words]);
        }
        part.take_changed(|_| {}, |_| {});
        let before = part.bytes();
        for bucket in part.buckets(0) {
            part.remove(bucket, |entry| (entry.key >> 44).is_multiple_of(3));
        }
        let gone = keys.iter().filter(|key| (*key >> 44).is_multiple_of(3)).count();
        assert_eq!(part.len(0), keys.iter().filter(|key| shard_of(**key) == 0).count() - gone);
        let mut removed = 0;
        part.take_changed(|_| {}, |key| removed += (key >> 44).is_multiple_of(3) as usize);
        assert_eq!(removed, gone);
        keys.iter().for_each(|key| assert_eq!(part.locate(*key) == ABSENT, (key >> 44).is_multiple_of(3)));
        (1..=gone as u64).for_each(|i| _ = part.restore(i << 44 | 1, 3, &vec![0.5; words]));
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
    let first = 3; // words, late, count of shard 0
    let mut bad = bytes.clone();
    bad[first + 8 + 2 + 3] = 0x7f; // word 0 of the first entry: exponent all ones
    bad[first + 8 + 2 + 2] = 0xff;
    assert!(message(&bad, 1_000_000).contains("parameters, shard 0: entry 0 holds NaN"));
    bad = bytes.clone();
    bad[first + 7] = 0xff; // top byte of the first key
    assert!(message(&bad, 1_000_000).contains("is out of order"));
    assert!(message(&bytes, 64).contains("train.entries_max"));
    let rows = TableSpec { words: 9, ..PAIRS };
    let other = ParamTable::decode(rows, 1, &mut Decoder::new(&bytes, "checkpoint")).map(|_| ()).unwrap_err();
    assert!(other.message().contains("entries of 2 words, now they have 9"));
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
fn a_key_that_is_to_be_seen_often_is_admitted_then() {
    let table = table(TableSpec { admits_late: true, ..PAIRS }, 1);
    let mut part = table.write(0);
    assert_eq!([1, 2, 3].map(|_| part.seen_often(77, 3)), [false, false, true]);
    assert!(part.seen_often(78, 1));
}

/// At any size at least 53% of the places of a large table are taken: 16 bytes / 0.533 = 30.0 an entry, and its change bits
/// and directory take less than 0.3.
#[test]
fn an_entry_takes_at_most_30_bytes_at_any_size() {
    let mut rng = Rng::seeded(8);
    let table = table(TableSpec { entries_max: 1 << 24, ..PAIRS }, 1);
    let mut part = table.write(0);
    assert!(part.bytes() < 70_000, "an empty part takes {}", part.bytes());
    for entries in 1..2_000_000u32 {
        part.update_pair(rng.next_u64() | 1, ABSENT, |_, _| Some((1.0, 1.0)));
        if entries > 400_000 && entries % 50_000 == 0 {
            let each = part.bytes() as f64 / f64::from(entries);
            assert!(each < 30.3, "{each} bytes an entry at {entries}");
        }
    }
}
