//! Rows that wait: in parts of checkpoints, each batch once; in spill files, where they find no room in memory; or not at
//! all, where the join is to stop. What comes out is always the same.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tidemill_base::{
    Kind,
    codec::{Decoder, Encoder},
    store::disk::{self, Access, Faults},
};
use tidemill_stream::join::{Correction, Emit, JoinSpec, LabelJoin, NotLetIn, SavedBatch, SpillDir, Take, WhenFull};

use super::join;
use super::join_policies::{EMITS, Event, Seen, Step, TAKES, left_rows, open, right_rows, run, spec, step, stream};

/// What a job keeps of a join's checkpoints: the body, and the parts that still hold a row.
#[derive(Default)]
pub struct Saved {
    pub body: Vec<u8>,
    parts: Vec<(Vec<SavedBatch>, Vec<Vec<u8>>)>,
    saves: usize,
    /// Bytes of all blocks ever written.
    written: usize,
}

impl Saved {
    /// A checkpoint; every seventh has everything.
    pub fn save(&mut self, join: &mut LabelJoin) {
        let whole = self.saves.is_multiple_of(7);
        self.saves += 1;
        let mut body = Encoder::new();
        let mut rows = join.encode(whole, &mut body);
        rows.encode(&mut body);
        self.body = body.finish();
        if whole {
            self.parts.clear();
        }
        self.parts.retain(|(batches, _)| batches.iter().any(|batch| rows.is_kept(batch)));
        let mut blocks = vec![rows.head()];
        let batches = rows.blocks(|block| {
            blocks.push(block);
            true
        });
        let batches = batches.unwrap();
        assert_eq!(batches.is_empty(), !rows.has_new());
        self.written += blocks.iter().map(Vec::len).sum::<usize>();
        self.parts.push((batches, blocks));
    }

    /// What was saved, in a join that has seen nothing.
    pub fn restored(&self, mut join: LabelJoin) -> LabelJoin {
        self.restore(&mut join).unwrap();
        join
    }

    fn restore(&self, join: &mut LabelJoin) -> tidemill_base::Result<()> {
        let mut rows = join.restoring();
        for (_, blocks) in &self.parts {
            rows.begin(&blocks[0])?;
            blocks[1..].iter().try_for_each(|block| rows.take(block))?;
        }
        let mut d = Decoder::new(&self.body, "join");
        join.restore(&mut d)?;
        join.restore_rows(&mut d, rows)?;
        d.end()
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("tidemill-spill-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.join("spill")).into_iter().flatten().flatten().map(|file| file.path()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn spilling(spec: &JoinSpec, dir: &Path) -> LabelJoin {
    let mut join = open(spec);
    join.spill_to(&SpillDir::open(&dir.join("spill")).unwrap());
    join
}

fn with_spill(spec: &JoinSpec, pending_bytes_max: usize) -> JoinSpec {
    JoinSpec { pending_bytes_max, when_full: WhenFull::Spill, ..spec.clone() }
}

/// The specs of every policy that differ in what they keep of rows.
fn specs() -> Vec<JoinSpec> {
    let takes = [Take::First; 6];
    EMITS
        .into_iter()
        .flat_map(|emit| {
            [
                spec(emit, &TAKES, 2),
                JoinSpec { correction_ttl_ms: 300, ..spec(emit, &takes, 1) },
                JoinSpec { correction: Correction::Fnw, pending_count_max: 30, ..spec(emit, &takes, 1) },
            ]
        })
        .collect()
}

/// However little may be in memory, and restored behind every mini-batch, the same rows come out.
#[test]
fn what_spills_comes_back_as_it_was() {
    for (seed, spec) in specs().into_iter().enumerate() {
        let steps = stream(seed as u64 + 70);
        let expected = run(&spec, &steps);
        for bytes_max in [0, 1_500, 5_000, usize::MAX - 1] {
            let scratch = Scratch::new();
            let spills = with_spill(&spec, bytes_max);
            let (mut join, mut seen) = (spilling(&spills, &scratch.0), Seen::default());
            let mut spilled_max = 0;
            for s in &steps {
                step(&mut join, &spills, s, &mut seen);
                let state = join.state();
                spilled_max = spilled_max.max(state.spilled_bytes);
                // Columns that are compared or counted stay; all others obey.
                let stays = if spec.feedback[0].takes.contains(&Take::Count) { 10_000 } else { 0 };
                let bytes = state.impression_bytes + state.feedback_bytes;
                assert!(bytes <= bytes_max.saturating_add(stays), "{bytes_max}: {state:?}");
            }
            assert_same(&seen, &expected, &spills);
            assert!(spilled_max > 0 || bytes_max > 1_500, "{bytes_max}");
            assert!(spilled_max == 0 || bytes_max < 10_000, "{bytes_max}");
            drop(join);
            assert!(scratch.files().is_empty(), "{:?}", scratch.files());
        }
        for bytes_max in [0, 5_000] {
            let scratch = Scratch::new();
            let spills = with_spill(&spec, bytes_max);
            let (mut join, mut seen, mut saved) = (spilling(&spills, &scratch.0), Seen::default(), Saved::default());
            for s in &steps {
                step(&mut join, &spills, s, &mut seen);
                saved.save(&mut join);
                join = saved.restored(spilling(&spills, &scratch.0));
            }
            assert_same(&seen, &expected, &spills);
        }
    }
}

/// What a checkpoint has taken hold of stays as it was, however long the writing takes and whatever the join does meanwhile.
#[test]
fn who_waits_is_written_as_of_the_moment_of_the_checkpoint() {
    for (seed, spec) in specs().into_iter().enumerate() {
        let steps = stream(seed as u64 + 90);
        let (mut prompt, mut slow, mut seen) = (open(&spec), open(&spec), [Seen::default(), Seen::default()]);
        let mut expected = Vec::new();
        let mut held = std::collections::VecDeque::new();
        let whole_of = |(mut body, mut rows): (Encoder, tidemill_stream::join::JoinRows)| {
            rows.encode(&mut body);
            body.finish()
        };
        for (i, s) in steps.iter().enumerate() {
            step(&mut prompt, &spec, s, &mut seen[0]);
            step(&mut slow, &spec, s, &mut seen[1]);
            let (mut body, mut later) = (Encoder::new(), Encoder::new());
            let rows = prompt.encode(i == 0, &mut body);
            expected.push(whole_of((body, rows)));
            let rows = slow.encode(i == 0, &mut later);
            held.push_back((later, rows));
            // Three are being written at a time.
            if held.len() > 3 {
                assert!(whole_of(held.pop_front().unwrap()) == expected[i - 3], "step {i} of {spec:?}");
            }
        }
        assert_same(&seen[1], &seen[0], &spec);
    }
}

/// But for the largest number of bytes that waited, which is measured where it is a bound.
fn assert_same(seen: &Seen, expected: &Seen, spec: &JoinSpec) {
    assert_eq!(seen.rows.len(), expected.rows.len(), "{spec:?}");
    assert!(seen.rows == expected.rows && seen.matured == expected.matured, "{spec:?}");
    assert_eq!((&seen.counts, seen.pending_max), (&expected.counts, expected.pending_max), "{spec:?}");
}

/// Keys of type STRING are compared though their rows are in files.
#[test]
fn rows_with_texts_for_keys_come_back_as_they_were() {
    for (seed, emit) in EMITS.into_iter().enumerate() {
        let steps = join::stream(seed as u64 + 30, 45);
        let (mut in_memory, mut expected) = (join::open(&join::spec(emit)), join::Seen::default());
        steps.iter().for_each(|s| join::step(&mut in_memory, s, &mut expected));
        let scratch = Scratch::new();
        let spills = with_spill(&join::spec(emit), 2_000);
        let another = || {
            let mut join = join::open(&spills);
            join.spill_to(&SpillDir::open(&scratch.0.join("spill")).unwrap());
            join
        };
        let (mut spilling, mut seen, mut saved) = (another(), join::Seen::default(), Saved::default());
        let mut spilled_max = 0;
        for s in &steps {
            join::step(&mut spilling, s, &mut seen);
            spilled_max = spilled_max.max(spilling.state().spilled_bytes);
            saved.save(&mut spilling);
            spilling = saved.restored(another());
        }
        assert!(spilled_max > 0 && seen.rows == expected.rows && seen.matured == expected.matured, "{emit:?}");
        assert_eq!(spilling.counts(), in_memory.counts());
    }
}

/// A second impression with a key that is known is compared with the first one, though that one's row is in a file.
#[test]
fn f19_a_copy_is_compared_with_what_was_spilled() {
    let scratch = Scratch::new();
    let mut join = join::open(&with_spill(&join::spec(Emit::OnWindowClose), 0));
    join.spill_to(&SpillDir::open(&scratch.0.join("spill")).unwrap());
    join.compare_columns(vec![0, 1]);
    let mut come = |ts: i64| {
        let refused = join.push_impressions(&join::rows(&[(Some("k".into()), ts)]), &[1_000]).unwrap();
        join.advance(500).unwrap();
        assert!(join.state().spilled_bytes > 0);
        refused
    };
    assert_eq!(come(1_000), []);
    assert_eq!(come(1_000), [(0, NotLetIn::Duplicate)]);
    let why = "conflicting duplicate of key k: 'ts' is '1001', was '1000'; the first one counts";
    assert_eq!(come(1_001), [(0, NotLetIn::Conflict(why.into()))]);
}

/// Between two whole checkpoints a batch is written once, whether it is in memory or not.
#[test]
fn a_batch_is_written_once() {
    for bytes_max in [0, usize::MAX - 1] {
        let scratch = Scratch::new();
        let spec = with_spill(&spec(Emit::OnWindowClose, &TAKES, 2), bytes_max);
        let (mut join, mut seen) = (spilling(&spec, &scratch.0), Seen::default());
        let mut written = BTreeSet::new();
        for (i, s) in stream(3).iter().enumerate() {
            step(&mut join, &spec, s, &mut seen);
            let rows = join.encode(i == 0, &mut Encoder::new());
            for batch in rows.blocks(|_| true).unwrap() {
                assert!(written.insert(format!("{batch:?}")), "{batch:?} is written twice");
            }
        }
        assert!(written.len() > 20, "{}", written.len());
        let all = join.encode(true, &mut Encoder::new());
        assert!(!all.has_new(), "nothing waits any more");
    }
}

/// A join that spills, in the middle of its stream, with the steps that are left.
fn half_way(scratch: &Scratch) -> (LabelJoin, JoinSpec, Vec<Step>, Seen) {
    let spec = with_spill(&spec(Emit::OnWindowClose, &TAKES, 2), 0);
    let (mut join, mut seen, mut steps) = (spilling(&spec, &scratch.0), Seen::default(), stream(5));
    let left = steps.split_off(steps.len() / 2);
    steps.iter().for_each(|s| step(&mut join, &spec, s, &mut seen));
    assert!(join.state().spilled_bytes > 0 && scratch.files().len() == 3, "{:?}", scratch.files());
    (join, spec, left, seen)
}

/// The error that a join ends with when it takes its last steps.
fn fails(mut join: LabelJoin, steps: &[Step]) -> tidemill_base::Error {
    let last = steps.last().unwrap().watermark;
    join.advance(last).unwrap_err()
}

#[test]
fn f8_damaged_spill_files_are_named() {
    for (damage, expected) in [
        (0, "are not what was written; see to the disk, and start again: the job goes on from its checkpoint"),
        (1, "failed to fill whole buffer"),
    ] {
        let scratch = Scratch::new();
        let (join, _, left, _) = half_way(&scratch);
        for file in scratch.files() {
            let mut bytes = fs::read(&file).unwrap();
            if damage == 0 {
                bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 0x10);
                // In place: a new file would not be the one that is open.
                io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(&file).unwrap(), &bytes).unwrap();
            } else {
                fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10).unwrap();
            }
        }
        let e = fails(join, &left);
        assert_eq!(e.kind(), Kind::Corrupt, "{e}");
        assert!(e.message().contains(expected) && e.message().contains(".rows"), "{e}");
        assert!(e.message().contains("byte "), "{e}");
    }
}

/// A checkpoint that is being written reads spilled rows though their file has gone meanwhile.
#[test]
fn a_checkpoint_takes_rows_whose_file_is_gone() {
    let scratch = Scratch::new();
    let (mut join, spec, left, mut seen) = half_way(&scratch);
    let mut body = Encoder::new();
    let mut rows = join.encode(true, &mut body);
    let mut twin_seen = Seen::default();
    left.iter().for_each(|s| step(&mut join, &spec, s, &mut seen));
    drop(join);
    assert!(scratch.files().is_empty());
    rows.encode(&mut body);
    let mut blocks = vec![rows.head()];
    let batches = rows.blocks(|block| {
        blocks.push(block);
        true
    });
    let saved = Saved { body: body.finish(), parts: vec![(batches.unwrap(), blocks)], ..Saved::default() };
    let mut twin = saved.restored(spilling(&spec, &scratch.0));
    left.iter().for_each(|s| step(&mut twin, &spec, s, &mut twin_seen));
    assert_eq!(seen.rows[seen.rows.len() - twin_seen.rows.len()..], twin_seen.rows);
    assert_eq!(seen.counts, twin_seen.counts);
}

/// Room is made for the batches between two numbers, so a number that cannot be is not believed.
#[test]
fn a_batch_that_is_too_far_behind_the_others_is_refused() {
    let scratch = Scratch::new();
    let (mut join, of_join, ..) = half_way(&scratch);
    let mut saved = Saved::default();
    saved.save(&mut join);
    // The number behind the last batch of the impressions stands behind watermark, next sample and 18 counts.
    let at = 8 + 8 + 18 * 8;
    for next in [1 << 30, 1 << 60, u64::MAX] {
        saved.body[at..at + 8].copy_from_slice(&u64::to_le_bytes(next));
        let e = saved.restore(&mut open(&of_join)).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(e.message().contains(&format!("batch {next} of rows, which is too far behind batch")), "{e}");
    }
    let mut block = Encoder::new();
    block.put_varint(0).put_varint(u64::MAX).put_varint(0).put_bytes(&[]);
    let mut rows = open(&of_join).restoring();
    let e = rows.take(block.as_slice()).unwrap_err();
    assert!(e.message().contains("which is too far behind batch 0"), "{e}");
}

#[test]
fn a_part_that_is_not_there_is_named_by_its_batch() {
    let scratch = Scratch::new();
    let (mut join, of_join, ..) = half_way(&scratch);
    let mut saved = Saved::default();
    saved.save(&mut join);
    let part = saved.parts.pop().unwrap();
    let e = saved.restore(&mut open(&of_join)).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt);
    assert!(e.message().contains("is in no part of the checkpoint"), "{e}");
    // Columns of another program.
    let mut one_type = open(&spec(Emit::OnWindowClose, &TAKES, 1));
    saved.parts.push(part);
    let e = saved.restore(&mut one_type).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(e.message(), "the checkpoint's columns are not those of this program");
}

/// A disk without room.
struct Full;

impl Faults for Full {
    fn access(&self, access: Access) -> io::Result<u64> {
        match access {
            Access::Write { .. } => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(1),
        }
    }
}

#[test]
fn f12_a_disk_without_room_for_rows_is_said() {
    let scratch = Scratch::new();
    let _injected = disk::inject(&scratch.0, Arc::new(Full));
    let spec = with_spill(&spec(Emit::OnWindowClose, &TAKES, 2), 0);
    let mut join = spilling(&spec, &scratch.0);
    let first = stream(5).into_iter().find(|s| !s.impressions.is_empty()).unwrap();
    let times: Vec<i64> = first.impressions.iter().map(|e| e.ts).collect();
    join.push_impressions(&left_rows(&first.impressions), &times).unwrap();
    let e = join.advance(0).unwrap_err();
    assert_eq!(e.kind(), Kind::Exhausted);
    assert!(
        e.message().starts_with("join.when_full = 'spill': rows that wait find no room on the disk either: write ")
    );
    assert!(e.message().contains(".rows"), "{e}");
}

/// A join that stops says which bound, and goes on under a higher one as if it had always been that.
#[test]
fn a_join_that_stops_goes_on_once_its_bound_is_raised() {
    for (count_max, bytes_max, name) in
        [(50, usize::MAX, "join.pending_max is 50"), (usize::MAX, 20_000, "join.bytes_max is 20000")]
    {
        let free = spec(Emit::OnWindowClose, &TAKES, 2);
        let steps = stream(8);
        let expected = run(&free, &steps);
        let when_full = WhenFull::Stop;
        let stops = JoinSpec { pending_count_max: count_max, pending_bytes_max: bytes_max, when_full, ..free.clone() };
        let (mut join, mut seen, mut saved) = (open(&stops), Seen::default(), Saved::default());
        saved.save(&mut join);
        let mut done = 0;
        let e = loop {
            let s = &steps[done];
            let times = |events: &[Event]| events.iter().map(|e| e.ts).collect::<Vec<_>>();
            let mut trial = saved.restored(open(&stops));
            trial.push_impressions(&left_rows(&s.impressions), &times(&s.impressions)).unwrap();
            for i in 0..2 {
                let rows = right_rows(&s.feedback[i]);
                trial.push_feedback(i, &rows, &times(&s.feedback[i])).unwrap();
            }
            if let Err(e) = trial.advance(s.watermark) {
                break e;
            }
            step(&mut join, &stops, s, &mut seen);
            saved.save(&mut join);
            done += 1;
        };
        assert_eq!(e.kind(), Kind::Exhausted);
        assert!(e.message().contains(name) && e.message().contains("raise join."), "{e}");
        assert!(done > 0 && done < steps.len() / 2, "{done} of {}", steps.len());
        let raised = JoinSpec { pending_count_max: usize::MAX, pending_bytes_max: usize::MAX - 1, ..stops };
        let mut join = saved.restored(open(&raised));
        steps[done..].iter().for_each(|s| step(&mut join, &raised, s, &mut seen));
        assert_same(&seen, &expected, &raised);
    }
}
