//! Walks: what a checkpoint is told of the table while it goes on changing.

use std::sync::Arc;

use tidemill_base::{
    StateHash,
    codec::{Decoder, Encoder},
    rng::mix64,
};

use super::*;

/// The bytes of one walk: what goes in front, the frames, and what else the table was at its first moment.
struct Written {
    head: Vec<u8>,
    blocks: Vec<Vec<u8>>,
    rest: Vec<u8>,
    hash: StateHash,
    walked: Walked,
}

fn begin(table: &ParamTable, whole: bool) -> Written {
    let (mut head, mut rest) = (Encoder::new(), Encoder::new());
    let hash = table.state_hash();
    table.encode_rest(&mut rest);
    let walked = table.begin_walk(whole, &mut head);
    Written { head: head.finish(), blocks: Vec::new(), rest: rest.finish(), hash, walked }
}

fn restored(spec: TableSpec, parts: usize, chain: &[Written]) -> Result<ParamTable> {
    let mut restoring = Restoring::new(spec, parts)?;
    for written in chain {
        let mut head = Decoder::new(&written.head, "head");
        restoring.begin(&mut head)?;
        head.end()?;
        written.blocks.iter().try_for_each(|block| restoring.take(block))?;
        restoring.end()?;
    }
    let mut rest = Decoder::new(&chain.last().unwrap().rest, "rest");
    let table = restoring.finish(&mut rest)?;
    rest.end()?;
    Ok(table)
}

fn change(table: &ParamTable, rng: &mut Rng, count: usize, keys: u64) {
    let parts = table.parts();
    for _ in 0..count {
        let key = mix64(rng.next_u64() % keys);
        let mut part = table.write(part_of(key, parts));
        part.seen_often(key ^ 1, 3);
        let hint = part.locate(key);
        match table.spec().words {
            2 => _ = part.update_pair(key, hint, |a, n| Some((a + rng.next_f64() as f32, n + 1.0))),
            _ => _ = part.row_mut(key, 5, hint, |_| {}).map(|row| row[0] += rng.next_f64() as f32),
        }
    }
}

/// Whatever changes, comes and leaves between two steps: the walks together are the table as it was when the last of them
/// began, on another number of parts too.
#[test]
fn walks_are_the_table_as_it_was_when_they_began_whatever_changes_meanwhile() {
    for (case, (words, ages, evicts)) in
        [(2, false, false), (2, false, true), (6, false, true), (2, true, true), (6, true, false)]
            .into_iter()
            .enumerate()
    {
        // Three times as many keys as there is room for where some must leave.
        let keys = 150_000;
        let bytes_max = if evicts { 4 << 20 } else { 64 << 20 };
        let spec = TableSpec { words, bytes_max, entries_max: 1 << 30, sketch_bytes: 1 << 19, ages };
        let mut rng = Rng::seeded(17 + case as u64);
        let mut live = table(spec, 2);
        if evicts {
            live = live.evicting(Arc::new(|_, state| state[0].abs()));
        }
        change(&live, &mut rng, 60_000, keys);
        let mut chain: Vec<Written> = Vec::new();
        let (mut whole, mut changes, mut steps) = (0, 0, 0);
        for round in 0..9 {
            let mut written = begin(&live, round == 6);
            if written.walked == Walked::All {
                chain.clear();
                whole += 1;
            } else {
                changes += 1;
            }
            loop {
                change(&live, &mut rng, 300, keys);
                if ages && round == 4 {
                    (0..2).for_each(|i| _ = live.write(i).evict_older_than(2, 1));
                }
                let mut block = Vec::new();
                let is_done = live.walk(1_000, &mut block);
                steps += 1;
                written.blocks.push(block);
                if is_done {
                    break;
                }
            }
            chain.push(written);
            for parts in [1, 4] {
                let copy = restored(spec, parts, &chain).unwrap();
                assert_eq!(copy.state_hash(), chain.last().unwrap().hash, "case {case}, round {round}, {parts} parts");
            }
            // Few changes are listed, many are looked for.
            change(&live, &mut rng, if round % 2 == 0 { 200 } else { 30_000 }, keys);
            if ages {
                (0..2).for_each(|i| _ = live.write(i).tick(5));
            }
        }
        assert!(whole >= 2 && changes >= 4, "case {case}: {whole} whole, {changes} of changes");
        assert!(ages || steps > 50, "{steps} steps");
    }
}

/// A table that was put together goes on as the one it was written from, and its first walk is whole.
#[test]
fn a_restored_table_goes_on_alike_and_tells_everything_first() {
    let spec = TableSpec::new(2, 1 << 20);
    let live = table(spec, 1);
    let mut rng = Rng::seeded(5);
    change(&live, &mut rng, 50_000, 1 << 20);
    let mut written = begin(&live, false);
    assert_eq!(written.walked, Walked::All);
    let mut block = Vec::new();
    while !live.walk(10_000, &mut block) {}
    written.blocks.push(block);
    let copy = restored(spec, 2, &[written]).unwrap();
    let (mut a, mut b) = (Rng::seeded(6), Rng::seeded(6));
    change(&live, &mut a, 50_000, 1 << 20);
    change(&copy, &mut b, 50_000, 1 << 20);
    assert_eq!(copy.state_hash(), live.state_hash());
    assert_eq!((begin(&copy, false).walked, begin(&live, false).walked), (Walked::All, Walked::Changes));
}

/// The first checkpoint may be written before anything was learned.
#[test]
fn changes_may_follow_a_whole_walk_without_entries() {
    let live = table(TableSpec::new(2, 1 << 20), 1);
    let mut rng = Rng::seeded(5);
    let mut chain = Vec::new();
    for _ in 0..3 {
        let mut written = begin(&live, false);
        let mut block = Vec::new();
        while !live.walk(10_000, &mut block) {}
        written.blocks.push(block);
        chain.push(written);
        change(&live, &mut rng, 100, 1 << 20);
    }
    assert_eq!(restored(PAIRS, 2, &chain).unwrap().state_hash(), chain[2].hash);
    assert!(restored(PAIRS, 2, &chain[1..]).is_err(), "changes of nothing");
}

/// The table may grow by as many entries as a step hands out: the walk comes to its end all the same.
#[test]
fn a_walk_ends_though_the_table_grows_with_every_step() {
    let live = table(TableSpec::new(2, 1 << 21), 1);
    let mut key = 0;
    let mut grow = |count: u64| {
        for _ in 0..count {
            key += 1;
            live.write(0).update_pair(mix64(key), ABSENT, |_, _| Some((1.0, 1.0)));
        }
    };
    grow(10_000);
    begin(&live, true);
    let mut steps = 0;
    while !live.walk(2_000, &mut Vec::new()) {
        grow(2_000);
        steps += 1;
        assert!(steps < 200, "the walk does not end");
    }
    assert!(steps > 5, "{steps}");
}

/// A step of a small walk over a large table costs what changed, not what is there.
#[test]
fn a_walk_over_few_changes_is_short() {
    let live = table(TableSpec::new(2, 1 << 20), 1);
    let mut rng = Rng::seeded(5);
    change(&live, &mut rng, 200_000, 1 << 20);
    begin(&live, false);
    while !live.walk(10_000, &mut Vec::new()) {}
    change(&live, &mut rng, 100, 1 << 20);
    begin(&live, false);
    let mut block = Vec::new();
    assert!(live.walk(1_000, &mut block));
    assert!(block.len() <= 100 * 16 + 6, "{} bytes", block.len());
}

#[test]
fn damaged_frames_are_refused_by_name() {
    let live = filled(&[3, 9, 5 << 58], 1);
    let mut written = begin(&live, true);
    let mut block = Vec::new();
    assert!(live.walk(usize::MAX, &mut block));
    let mut tell = |block: Vec<u8>| {
        written.blocks = vec![block];
        restored(PAIRS, 1, std::slice::from_ref(&written)).map(|_| ()).map_err(|e| e.message().to_string())
    };
    assert_eq!(tell(block.clone()), Ok(()));
    assert!(tell(block[..block.len() - 1].to_vec()).unwrap_err().contains("a frame of entries is cut short"));
    let last = block.len() - 6;
    assert!(tell(block[..last].to_vec()).unwrap_err().contains("parameters, shard 63: its end is missing"));
    let mut bad = block.clone();
    bad[0] = 7;
    assert!(tell(bad).unwrap_err().contains("a frame of kind 7"));
    let mut bad = block.clone();
    // The first entry's first word.
    bad[6 + 8..6 + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(tell(bad).unwrap_err().contains("parameters, shard 0: entry 0 holds NaN"));
    let mut bad = block;
    bad.copy_within(6..14, 6 + 16);
    assert!(tell(bad).unwrap_err().contains("parameters, shard 0: a key comes twice"));
}
