//! Parameters that are read where they lie score as those in a table do, and damage is found when it is touched.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex},
};

use tidemill_base::{Clock, Result, Rng, SystemClock, rng::mix64};
use tidemill_model::{
    Delta, Features, Snapshot, WeightTable,
    entries::Entries,
    model::{LearnerSpec, ModelSpec},
    precision::Precision,
    weights::{ScoreScratch, SnapshotBytes, here_only},
};

const SLOTS: usize = 39;

fn key(i: u64) -> u64 {
    mix64(i) | 1
}

fn snapshot(learner: LearnerSpec, count: u64) -> Snapshot {
    let model = ModelSpec { learner, ..ModelSpec::default() };
    let width = model.build(SLOTS).width();
    let mut keys: Vec<u64> = (0..count).map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut rng = Rng::seeded(11);
    let params = (0..keys.len() * width).map(|_| (rng.next_f64() - 0.5) as f32).collect();
    let slots = (0..SLOTS).map(|slot| format!("c{slot}")).collect();
    Snapshot { model, slots, entries: Entries { width, keys, params }, ..Snapshot::default() }
}

/// Rows of one feature a slot; about a third of the keys are not in the snapshot.
fn features(rows: usize, count: u64, seed: u64) -> Features {
    let mut rng = Rng::seeded(seed);
    let mut features = Features::new();
    for row in 0..rows {
        for slot in 0..SLOTS {
            features.keys.push(key(rng.below(count * 3 / 2)));
            features.values.push(1.0);
            features.slots.push(slot as u16);
        }
        features.ends.push(((row + 1) * SLOTS) as u32);
    }
    features
}

/// Bytes on a border of 64, as a mapped file has them.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "read as bytes")] [u8; 64]);

struct Aligned(Vec<u8>, usize, Mutex<Vec<Range<usize>>>);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut room = vec![0; bytes.len() + align_of::<Line>()];
        let skip = room.as_ptr().align_offset(align_of::<Line>());
        room[skip..skip + bytes.len()].copy_from_slice(bytes);
        room.truncate(skip + bytes.len());
        Self(room, skip, Mutex::default())
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

impl SnapshotBytes for Aligned {
    fn will_need(&self, range: Range<usize>) {
        self.2.lock().unwrap().push(range);
    }
}

fn map(bytes: &[u8]) -> WeightTable {
    WeightTable::map(Arc::new(Aligned::new(bytes)), "ctr, version 7").unwrap().expect("format 4").0
}

/// The same with rows rounded by thirds: to 16 bits, to 8, not at all.
fn rounded(mut snapshot: Snapshot) -> Snapshot {
    let width = snapshot.entries.width;
    for (i, row) in snapshot.entries.params.chunks_exact_mut(width).enumerate() {
        [Precision::F16, Precision::Int8, Precision::F32][i % 3].round(row);
    }
    snapshot
}

fn scores(table: &WeightTable, features: &Features) -> Vec<f32> {
    score(table, features).unwrap()
}

fn score(table: &WeightTable, features: &Features) -> Result<Vec<f32>> {
    let mut scores = Vec::new();
    table.score(features, &mut ScoreScratch::default(), &mut scores).map(|()| scores)
}

/// A thread on which others wait scores what is in memory, and gives up over a page that nobody has touched.
#[test]
fn what_nobody_has_touched_is_left_alone_where_others_wait() {
    let fm = LearnerSpec::Fm { factors: 8, spread: 0.1, dropout: 0.0 };
    for learner in [LearnerSpec::Linear, fm] {
        let mapped = map(&snapshot(learner, 100_000).encode());
        let (few, many) = (features(1, 10, 3), features(200, 100_000, 4));
        let untouched = mapped.bytes();
        for _ in 0..2 {
            assert!(here_only(|| score(&mapped, &few).is_err()).is_none());
        }
        assert_eq!(mapped.bytes(), untouched);
        let expected = scores(&mapped, &few);
        assert!(here_only(|| scores(&mapped, &few)) == Some(expected), "touched by the thread that may wait");
        assert!(here_only(|| score(&mapped, &many).is_err()).is_none(), "others lie on other pages");
        // What fails within does not stay: neither a refusal nor a panic.
        assert!(std::panic::catch_unwind(|| here_only(|| panic!("within"))).is_err());
        assert!(here_only(|| here_only(|| score(&mapped, &many).is_ok()).is_none()) == Some(true));
        assert_eq!(scores(&mapped, &many).len(), 200);
    }
}

#[test]
fn mapped_parameters_score_to_the_bit_as_those_in_a_table() {
    let fm = LearnerSpec::Fm { factors: 8, spread: 0.1, dropout: 0.0 };
    for learner in [LearnerSpec::Linear, fm] {
        for count in [0, 1, 5000] {
            let snapshot = snapshot(learner.clone(), count);
            for snapshot in [rounded(snapshot.clone()), snapshot] {
                let bytes = snapshot.encode();
                let (table, mut mapped) = (WeightTable::from_snapshot(&snapshot), map(&bytes));
                let features = features(200, count.max(10), 3);
                assert_eq!(scores(&mapped, &features), scores(&table, &features), "{count} entries");
                assert_eq!((mapped.len(), mapped.damage().is_none()), (table.len(), true));
                for i in 0..2000 {
                    assert_eq!(&*mapped.params(key(i)), &*table.params(key(i)));
                }
                assert!(mapped.params(0).iter().all(|x| *x == 0.0), "no key is 0");
                // A delta makes a table of it.
                let mut delta =
                    Delta { from: 0, to: 1, entries: Entries::new(snapshot.entries.width), ..Delta::default() };
                delta.entries.push(key(3), &vec![0.75; snapshot.entries.width]);
                let mut table = table;
                table.apply(&delta);
                mapped.apply(&delta);
                assert_eq!(scores(&mapped, &features), scores(&table, &features));
            }
        }
    }
}

/// A file without entries may say any width: keys have the model's parameters all the same, and all of them are zero.
#[test]
fn a_file_without_entries_is_served_whatever_width_it_says() {
    let fm = LearnerSpec::Fm { factors: 8, spread: 0.1, dropout: 0.0 };
    for learner in [LearnerSpec::Linear, fm] {
        for width in [0, 1, 3841] {
            let snapshot = Snapshot { entries: Entries::new(width), ..snapshot(learner.clone(), 0) };
            let (table, mapped) = (WeightTable::from_snapshot(&snapshot), map(&snapshot.encode()));
            let features = features(20, 10, 3);
            assert_eq!(scores(&mapped, &features), scores(&table, &features), "width {width}");
        }
    }
}

/// Only what is asked for is read.
#[test]
fn a_page_is_read_when_somebody_asks_for_it() {
    let bytes = snapshot(LearnerSpec::Linear, 100_000).encode();
    let mapped = map(&bytes);
    let before = mapped.bytes();
    scores(&mapped, &features(1, 100_000, 5));
    let touched = mapped.bytes() - before;
    assert!((1..=SLOTS * (16 << 10)).contains(&touched) && touched < bytes.len() / 2, "{touched} of {}", bytes.len());
}

/// From a disk, many pages at once come in the time of one.
#[test]
fn pages_are_asked_for_before_they_are_read_and_once() {
    let fm = LearnerSpec::Fm { factors: 8, spread: 0.1, dropout: 0.0 };
    for learner in [LearnerSpec::Linear, fm] {
        let bytes = Arc::new(Aligned::new(&snapshot(learner, 100_000).encode()));
        let (mapped, _) = WeightTable::map(bytes.clone(), "ctr, version 7").unwrap().expect("format 4");
        let asked = || -> Vec<Range<usize>> { std::mem::take(&mut *bytes.2.lock().unwrap()) };
        assert_eq!(asked().len(), 0, "nothing before somebody asks for a key");
        let before = mapped.bytes();
        scores(&mapped, &features(1, 100_000, 5));
        let first = asked();
        let pages: BTreeSet<usize> = first.iter().map(|range| range.start).collect();
        assert!(first.iter().all(|range| (1..=16 << 10).contains(&range.len())), "{first:?}");
        let touched = (mapped.bytes() - before) / (16 << 10);
        // A line that is full, or a row on a border, goes on in a page that nobody expected.
        assert!(pages.len() > 30 && (pages.len()..=pages.len() + 4).contains(&touched), "{touched}, {}", pages.len());
        scores(&mapped, &features(1, 100_000, 5));
        assert_eq!(asked().len(), 0, "what was touched is not asked for again");
    }
}

/// A flipped bit in a page: whoever does not touch it does not notice, whoever does is told, and gets no wrong number.
#[test]
fn damage_is_found_when_it_is_touched_and_named() {
    let snapshot = snapshot(LearnerSpec::Linear, 20_000);
    let whole = snapshot.encode();
    let table = WeightTable::from_snapshot(&snapshot);
    let mut rng = Rng::seeded(9);
    let mut found = 0;
    for _ in 0..50 {
        let mut bytes = whole.clone();
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        let Ok(Some((mapped, _))) = WeightTable::map(Arc::new(Aligned::new(&bytes)), "ctr, version 7") else {
            found += 1; // in the header or among the checksums
            continue;
        };
        for i in 0..20_000 {
            let param = mapped.params(key(i))[0];
            assert!(param == table.params(key(i))[0] || (param == 0.0 && mapped.damage().is_some()), "byte {at}");
        }
        let why = mapped.damage().unwrap_or_else(|| panic!("byte {at} is not noticed"));
        assert!(why.message().starts_with("ctr, version 7: section lines (bytes"), "{why}");
        found += 1;
    }
    assert_eq!(found, 50);
    for cut in [whole.len() - 1, whole.len() / 2, 100] {
        let cut = WeightTable::map(Arc::new(Aligned::new(&whole[..cut])), "ctr, version 7");
        assert!(cut.map(|_| ()).unwrap_err().message().contains("ends at byte"));
    }
}

/// `cargo test --release -p tidemill-model --test mapped -- --ignored --nocapture`: both in turns, warm.
#[test]
#[ignore = "measures"]
fn speed_of_mapped_parameters_beside_the_table() {
    let clock = SystemClock::new();
    let fm = LearnerSpec::Fm { factors: 8, spread: 0.1, dropout: 0.0 };
    for (name, learner, count) in [
        ("linear, 10,000 keys", LearnerSpec::Linear, 10_000),
        ("linear, 10 million keys", LearnerSpec::Linear, 10_000_000),
        ("FM of 8 factors, 2 million keys", fm, 2_000_000),
    ] {
        let snapshot = snapshot(learner, count);
        let (table, mapped) = (WeightTable::from_snapshot(&snapshot), map(&snapshot.encode()));
        let batches: Vec<Features> = (0..200).map(|i| features(64, count, i)).collect();
        let (mut scratch, mut out) = (ScoreScratch::default(), Vec::new());
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..15 {
            for (weights, rates) in [&table, &mapped].into_iter().zip(&mut rates) {
                let begin = clock.elapsed();
                for batch in &batches {
                    out.clear();
                    weights.score(batch, &mut scratch, &mut out).unwrap();
                }
                rates.push((200 * 64) as f64 / (clock.elapsed() - begin).as_secs_f64());
            }
        }
        let [table, mapped] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        println!("{name}: table {table:.0} rows/s, mapped {mapped:.0} rows/s, ratio {:.3}", mapped / table);
    }
}
