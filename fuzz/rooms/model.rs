//! What leaves training: snapshots and deltas. What can be read is written again to what can be read as the same, and is
//! served. Both stand behind checksums, which are made right here: what a fuzzer changes is what a writer could have meant.

use std::sync::Arc;

use tidemill_base::{codec::Decoder, hash64};
use tidemill_model::{
    Features,
    delta::Delta,
    entries::Entries,
    loss::Loss,
    model::*,
    sampling::Sampling,
    snapshot::Snapshot,
    weights::{ScoreScratch, SnapshotBytes, WeightTable},
};

/// Longer files than this are not made of shorter ones.
const BYTES_MAX: usize = 64 << 10;
/// As docs/0001 has them.
const ALIGN: usize = 64;
const LINE_BYTES: u64 = 64;
const PAGE_BYTES: usize = 16 << 10;

/// A snapshot as a file or another process brings it.
pub fn snapshot(bytes: &[u8]) -> bool {
    let (sealed, slots) = sealed_snapshot(bytes).unwrap_or_else(|| (bytes.to_vec(), 0));
    let mapped = serve_mapped(&sealed, slots);
    let Ok(read) = Snapshot::decode(&sealed, "fuzz") else { return false };
    let again = Snapshot::decode(&read.encode(), "fuzz").expect("what was read can be written");
    assert_eq!(read.encode(), again.encode());
    if WeightTable::check_snapshot(&read).is_err() {
        return false;
    }
    let scores = score(&WeightTable::from_snapshot(&read), &read);
    // Where keys stand is the writer's matter: only what it writes is looked up as it is read.
    if let Some(mapped) = mapped.filter(|_| read.encode() == sealed) {
        let bits = |scores: Vec<f32>| scores.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(score(&mapped, &read)), bits(scores), "mapped or read");
    }
    true
}

/// A delta, and a table that takes it where it fits.
pub fn delta(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    if let Some(content) = bytes.len().checked_sub(8) {
        let check = hash64(&bytes[..content], 0);
        bytes[content..].copy_from_slice(&check.to_le_bytes());
    }
    let Ok(read) = Delta::decode(&bytes, "fuzz") else { return false };
    let again = Delta::decode(&read.encode(), "fuzz").expect("what was read can be written");
    assert_eq!(read.encode(), again.encode());
    let before = Snapshot { slots: slots(), entries: entries(), ..Snapshot::default() };
    let mut table = WeightTable::from_snapshot(&before);
    if table.check(&read).is_ok() {
        table.apply(&read);
        score(&table, &before);
    }
    true
}

/// Bytes that lie as those of a mapped file do.
struct Bytes(Vec<u128>, usize);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

impl SnapshotBytes for Bytes {}

fn serve_mapped(bytes: &[u8], slots: usize) -> Option<WeightTable> {
    let mut aligned = vec![0u128; bytes.len().div_ceil(16)];
    bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()].copy_from_slice(bytes);
    let (mapped, _) = WeightTable::map(Arc::new(Bytes(aligned, bytes.len())), "fuzz").ok()??;
    // Damage inside is found when it is touched, and then told.
    let features = rows(slots, &[1, 977, 1 << 63, u64::MAX]);
    let _ = mapped.score(&features, &mut ScoreScratch::default(), &mut Vec::new());
    Some(mapped)
}

/// Two rows with these keys, as far as there are slots for them.
fn rows(slots: usize, keys: &[u64]) -> Features {
    let mut features = Features::new();
    for row in keys.chunks(keys.len().div_ceil(2).max(1)) {
        let feature = |(i, key): (usize, &u64)| ((i % slots) as u16, *key, 0.5);
        features.push(&row.iter().enumerate().filter(|_| slots > 0).map(feature).collect::<Vec<_>>());
    }
    features
}

fn score(table: &WeightTable, snapshot: &Snapshot) -> Vec<f32> {
    let mut scores = Vec::new();
    let keys = &snapshot.entries.keys;
    let keys: Vec<u64> = keys.iter().copied().take(40).chain([5, 1 << 60]).collect();
    table.score(&rows(snapshot.slots.len(), &keys), &mut ScoreScratch::default(), &mut scores).unwrap();
    scores
}

/// The same with right checksums, and as long as the header says; and how many slots it has. `None` where there is no header.
fn sealed_snapshot(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut d = Decoder::new(bytes, "fuzz");
    d.take(8).ok()?;
    let format = d.u32().ok()?;
    d.u64().ok()?;
    if format > 1 {
        ModelSpec::decode(&mut d, "fuzz").ok()?;
    }
    if format > 2 {
        Sampling::decode(&mut d, "fuzz").ok()?;
    }
    let slots = d.count(1).ok()?;
    for _ in 0..slots {
        d.str().ok()?;
    }
    let mut number = |is_there: bool| if is_there { d.u64().ok() } else { Some(0) };
    let (width, entries, dense) = (number(format > 1)?, number(true)?, number(format > 1)?);
    let (lines, halves, eighths) = (number(format > 3)?, number(format > 4)?, number(format > 4)?);
    let mut out = bytes[..bytes.len() - d.left()].to_vec();
    let head_check = hash64(&out, 0);
    out.extend_from_slice(&head_check.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    let content = bytes.get(out.len()..).unwrap_or_default();
    let mut at = 0usize;
    let mut section = |count: u64, bytes_each: u64| {
        let length = count.checked_mul(bytes_each).filter(|length| *length <= BYTES_MAX as u64)? as usize;
        let mut section = content.get(at..).unwrap_or_default().to_vec();
        section.resize(length, 0);
        at += length + if format < 4 { 8 } else { 0 };
        Some(section)
    };
    if format < 4 {
        let width = if format == 1 { 1 } else { width };
        let sections = [section(entries, 8)?, section(entries, width.checked_mul(4)?)?, section(dense, 4)?];
        for section in &sections[..if format == 1 { 2 } else { 3 }] {
            out.extend_from_slice(section);
            out.extend_from_slice(&hash64(section, 0).to_le_bytes());
        }
        return Some((out, slots));
    }
    let row = if width > 1 { width } else { 0 };
    let plain = entries.checked_sub(halves.checked_add(eighths)?)?;
    let (plain, halves) = (plain.checked_mul(row.checked_mul(4)?)?, halves.checked_mul(row.checked_mul(2)?)?);
    let eighths = eighths.checked_mul(if row > 0 { row.checked_add(1)? } else { 0 })?;
    let rows = plain.checked_add(halves)?.checked_add(eighths)?;
    let mut checks = Vec::new();
    for section in [section(lines, LINE_BYTES)?, section(rows, 1)?, section(dense, 4)?] {
        checks.extend(section.chunks(PAGE_BYTES).flat_map(|page| hash64(page, 0).to_le_bytes()));
        out.extend_from_slice(&section);
    }
    let root = hash64(&[&head_check.to_le_bytes()[..], &checks].concat(), 0);
    out.extend_from_slice(&checks);
    out.extend_from_slice(&root.to_le_bytes());
    Some((out, slots))
}

fn slots() -> Vec<String> {
    vec!["a".into(), "bias".into()]
}

fn entries() -> Entries {
    Entries::pairs((1..40u64).map(|i| (i * 977, i as f32 / 7.0)))
}

pub fn snapshots() -> Vec<Vec<u8>> {
    let linear = Snapshot { sequence: 9, slots: slots(), entries: entries(), ..Default::default() };
    let of = |learner: LearnerSpec, round: bool| {
        let model = ModelSpec { learner, loss: Loss::Squared };
        let built = model.build(2);
        let mut wide = Entries::new(built.width());
        for key in 1..9u64 {
            let step = if round || key % 2 == 0 { 0.25 } else { 0.1 };
            wide.push(key << 60, &(0..built.width()).map(|i| (key as usize + i) as f32 * step).collect::<Vec<_>>());
        }
        let sampling = Sampling::Logit { share: 0.25 };
        Snapshot { model, sampling, slots: slots(), entries: wide, dense: built.start_dense(1), ..Default::default() }
    };
    let deep = || Deep { embedding: 2, spread: 0.1, layers: vec![4, 2], dropout: 0.0 };
    let all = [
        Snapshot::default(),
        linear,
        of(LearnerSpec::Fm { factors: 4, spread: 0.1, dropout: 0.0 }, false),
        of(LearnerSpec::Fm { factors: 4, spread: 0.1, dropout: 0.0 }, true),
        of(LearnerSpec::Ffm { factors: 2, spread: 0.1 }, false),
        of(LearnerSpec::Mlp(deep()), false),
        of(LearnerSpec::WideDeep(deep()), false),
        of(LearnerSpec::DeepFm(deep()), false),
    ];
    // One of format 2 as well, without parameters: the writer knows only the newest.
    let mut early = b"TMSNAP\n\0".to_vec();
    early.extend([2u32.to_le_bytes().to_vec(), 7u64.to_le_bytes().to_vec(), vec![0, 0, 1, 1, b'a']].concat());
    early.extend([1u64, 1, 0].iter().flat_map(|n| n.to_le_bytes()));
    early.resize(128, 1);
    all.iter().map(Snapshot::encode).chain([early]).collect()
}

pub fn deltas() -> Vec<Vec<u8>> {
    let delta = Delta { from: 3, to: 4, entries: entries(), ..Default::default() };
    let mut wide = Entries::new(5);
    (1..9u64).for_each(|key| wide.push(key, &[if key % 3 == 0 { 0.0 } else { 0.5 }; 5]));
    let compact = Delta { from: 4, to: 5, entries: wide, dense: vec![1.0], anew: true };
    [Delta::default(), delta, compact].iter().map(Delta::encode).collect()
}
