//! The label join against a naive one, and against itself after a restore at every mini-batch.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use tidemill_base::Rng;
use tidemill_stream::{
    join::{
        Correction, Emit, FeedbackSpec, JoinSpec, LabelJoin, NegativeSample, SampleKind, SamplingMode, Take, WhenFull,
    },
    window::END_OF_TIME,
};

use super::join_spill::Saved;

const WINDOW_MS: i64 = 600;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("key", DataType::Utf8, true), Field::new("ts", DataType::Int64, false)]))
}

pub fn rows(events: &[(Option<String>, i64)]) -> RecordBatch {
    let keys: StringArray = events.iter().map(|e| e.0.as_deref()).collect();
    let times: Int64Array = events.iter().map(|e| Some(e.1)).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(times)]).unwrap()
}

pub fn spec(emit: Emit) -> JoinSpec {
    let takes = vec![Take::First; 2];
    JoinSpec {
        feedback: vec![FeedbackSpec { left_key: 0, right_key: 0, window_ms: WINDOW_MS, takes }],
        emit,
        correction: Correction::Retract,
        sample: None,
        label_is_match: true,
        correction_ttl_ms: 0,
        allowed_lateness_ms: 0,
        pending_count_max: usize::MAX,
        pending_bytes_max: usize::MAX,
        when_full: WhenFull::Release,
        dedup: Some(0),
    }
}

pub fn open(spec: &JoinSpec) -> LabelJoin {
    LabelJoin::new(spec.clone(), &schema(), &[schema()]).unwrap()
}

fn join(emit: Emit, pending_count_max: usize) -> LabelJoin {
    open(&JoinSpec { pending_count_max, ..spec(emit) })
}

/// The same out of what it saves.
fn restored(join: &mut LabelJoin, spec: &JoinSpec) -> LabelJoin {
    let mut saved = Saved::default();
    saved.save(join);
    saved.restored(open(spec))
}

/// One mini-batch of events and the watermark behind it.
pub struct Step {
    impressions: Vec<(Option<String>, i64)>,
    feedback: Vec<(Option<String>, i64)>,
    watermark: i64,
}

/// A sample row as it left: kind, key, time of the matched feedback.
pub type Row = (SampleKind, u64, Option<String>, Option<i64>);

#[derive(Default)]
pub struct Seen {
    pub rows: Vec<Row>,
    pub matured: Vec<(u64, bool)>,
}

pub fn step(join: &mut LabelJoin, s: &Step, seen: &mut Seen) {
    let times = |events: &[(Option<String>, i64)]| events.iter().map(|e| e.1).collect::<Vec<_>>();
    join.push_impressions(&rows(&s.impressions), &times(&s.impressions)).unwrap();
    join.push_feedback(0, &rows(&s.feedback), &times(&s.feedback)).unwrap();
    let out = join.advance(s.watermark).unwrap();
    let keys = out.rows.column(0).as_string::<i32>();
    let matched = out.rows.column(3).as_primitive::<Int64Type>();
    for i in 0..out.rows.num_rows() {
        let key = keys.is_valid(i).then(|| keys.value(i).to_string());
        let at = matched.is_valid(i).then(|| matched.value(i));
        seen.rows.push((out.kinds[i], out.seqs[i], key, at));
    }
    seen.matured.extend(out.matured.iter().map(|m| (m.seq, m.label == 1.0)));
}

/// A stream with disorder up to `jitter_ms`, watermarks that promise just that, feedback before and after its impression,
/// in and out of the window, repeated, and for impressions that do not exist.
pub fn stream(seed: u64, jitter_ms: u64) -> Vec<Step> {
    let mut rng = Rng::seeded(seed);
    let mut arrivals: Vec<(i64, bool, Option<String>, i64)> = Vec::new();
    for i in 0..300u64 {
        let ts = 1_000 + i as i64 * 10;
        let key = (rng.below(40) > 0).then(|| format!("k{i}"));
        arrivals.push((ts + rng.below(jitter_ms + 1) as i64, true, key.clone(), ts));
        for _ in 0..rng.below(3) {
            let at = ts + rng.below(WINDOW_MS as u64 * 2) as i64 - 50;
            arrivals.push((at + rng.below(jitter_ms + 1) as i64, false, key.clone(), at));
        }
        if rng.below(20) == 0 {
            arrivals.push((ts, false, Some(format!("stranger{i}")), ts));
        }
    }
    arrivals.sort();
    let mut steps = Vec::new();
    let mut rest = &arrivals[..];
    while !rest.is_empty() {
        let n = (1 + rng.below(40) as usize).min(rest.len());
        let (now, later) = rest.split_at(n);
        rest = later;
        let pick = |left: bool| now.iter().filter(|a| a.1 == left).map(|a| (a.2.clone(), a.3)).collect();
        let arrived = now.last().expect("at least one").0;
        steps.push(Step { impressions: pick(true), feedback: pick(false), watermark: arrived - jitter_ms as i64 - 1 });
    }
    steps.push(Step { impressions: vec![], feedback: vec![], watermark: END_OF_TIME });
    steps
}

/// What a join of everything at once would say: for each key its first feedback in the window.
fn naive(steps: &[Step]) -> BTreeMap<String, Option<i64>> {
    let feedback: Vec<_> = steps.iter().flat_map(|s| &s.feedback).collect();
    let impressions = steps.iter().flat_map(|s| &s.impressions);
    impressions
        .filter_map(|(key, ts)| {
            let key = key.clone()?;
            let window = *ts..=*ts + WINDOW_MS;
            let first =
                feedback.iter().filter(|f| f.0.as_ref() == Some(&key) && window.contains(&f.1)).map(|f| f.1).min();
            Some((key, first))
        })
        .collect()
}

/// One sample per impression, with the label a join of everything at once would give it.
#[test]
fn f20_f22_on_window_close_every_impression_leaves_once_with_its_true_label() {
    for seed in 0..30 {
        let steps = stream(seed, 45);
        let mut join = join(Emit::OnWindowClose, usize::MAX);
        let mut seen = Seen::default();
        steps.iter().for_each(|s| step(&mut join, s, &mut seen));
        assert_eq!(seen.rows.len(), 300, "seed {seed}");
        assert!(seen.rows.iter().all(|r| r.0 == SampleKind::Final));
        let labelled: BTreeMap<String, Option<i64>> = seen.rows.into_iter().filter_map(|r| Some((r.2?, r.3))).collect();
        assert_eq!(labelled, naive(&steps), "seed {seed}");
        let c = *join.counts();
        assert_eq!((c.impressions, c.positives + c.negatives, c.late_impressions), (300, 300, 0));
        assert_eq!(join.pending_count(), 0);
    }
}

/// Weights of one impression's rows add up to 1 and its last row carries the true label, whatever the delay.
#[test]
fn early_samples_are_corrected_into_the_same_labels() {
    for (seed, delay_ms) in (0..30).zip([0, 1, 50, 300, WINDOW_MS].into_iter().cycle()) {
        let steps = stream(seed, 45);
        let mut join = join(Emit::Early { delay_ms }, usize::MAX);
        let mut seen = Seen::default();
        steps.iter().for_each(|s| step(&mut join, s, &mut seen));
        let mut weight: BTreeMap<u64, i32> = BTreeMap::new();
        let mut label: BTreeMap<String, bool> = BTreeMap::new();
        for (i, (kind, seq, key, at)) in seen.rows.iter().enumerate() {
            *weight.entry(*seq).or_default() += kind.weight() as i32;
            if *kind == SampleKind::Retract {
                assert_eq!(
                    (seen.rows[i + 1].0, seen.rows[i + 1].1),
                    (SampleKind::Correct, *seq),
                    "a pair stays together"
                );
            } else if let Some(key) = key {
                label.insert(key.clone(), at.is_some());
            }
        }
        assert!(weight.values().all(|w| *w == 1) && weight.len() == 300, "seed {seed}");
        let expected: BTreeMap<String, bool> = naive(&steps).into_iter().map(|(k, at)| (k, at.is_some())).collect();
        assert_eq!(label, expected, "seed {seed} delay {delay_ms}");
        let mut matured = seen.matured.clone();
        matured.sort_unstable();
        matured.dedup_by_key(|m| m.0);
        assert_eq!(matured.len(), 300, "every impression matures once");
        assert_eq!(matured.iter().filter(|m| m.1).count(), expected.values().filter(|l| **l).count());
    }
}

/// F1 in small: saved and restored behind any mini-batch, the join goes on row for row as if nothing had happened.
#[test]
fn restored_behind_any_mini_batch_the_join_goes_on_as_before() {
    let early = JoinSpec { pending_count_max: 40, ..spec(Emit::Early { delay_ms: 50 }) };
    let sample = Some(NegativeSample { share: 0.5, mode: SamplingMode::Weight, seed: 1 });
    let specs = [
        JoinSpec { pending_count_max: 40, ..spec(Emit::OnWindowClose) },
        JoinSpec { pending_count_max: 40, ..spec(Emit::OnMatch) },
        early.clone(),
        JoinSpec { correction: Correction::Elapsed, ..early.clone() },
        JoinSpec { correction: Correction::None, label_is_match: false, ..early.clone() },
        JoinSpec { correction: Correction::Fnw, sample, correction_ttl_ms: 150, ..early.clone() },
        JoinSpec { sample, pending_bytes_max: 9_000, correction_ttl_ms: 1_000, ..spec(Emit::OnWindowClose) },
    ];
    for spec in specs {
        let steps = stream(7, 45);
        let mut whole = Seen::default();
        let mut undisturbed = open(&spec);
        steps.iter().for_each(|s| step(&mut undisturbed, s, &mut whole));
        let mut seen = Seen::default();
        let mut current = open(&spec);
        let mut saved = Saved::default();
        for s in &steps {
            step(&mut current, s, &mut seen);
            saved.save(&mut current);
            current = saved.restored(open(&spec));
            let before = saved.body.clone();
            saved.save(&mut current);
            assert!(saved.body == before, "what is restored saves as it was");
        }
        assert_eq!(seen.rows, whole.rows);
        assert_eq!(seen.matured, whole.matured);
        assert_eq!(current.counts(), undisturbed.counts());
    }
}

#[test]
fn beyond_the_bound_the_oldest_leaves_with_the_label_known_so_far_and_is_counted() {
    let mut join = join(Emit::OnWindowClose, 3);
    let mut seen = Seen::default();
    let key = |k: &str| Some(k.to_string());
    let impressions = (0..5).map(|i| (key(&format!("k{i}")), 100 + i)).collect();
    step(&mut join, &Step { impressions, feedback: vec![(key("k1"), 150)], watermark: 50 }, &mut seen);
    let left: Vec<_> = seen.rows.iter().map(|r| (r.2.clone().unwrap(), r.3)).collect();
    assert_eq!(left, [("k0".to_string(), None), ("k1".to_string(), Some(150))]);
    assert_eq!((join.counts().released_early, join.pending_count()), (2, 3));
}

/// Both edges: an event at the watermark is late, one behind it is not.
#[test]
fn f21_an_event_is_late_exactly_when_its_time_is_not_behind_the_watermark() {
    let mut join = join(Emit::OnWindowClose, 100);
    let mut seen = Seen::default();
    let key = |k: &str| Some(k.to_string());
    step(&mut join, &Step { impressions: vec![], feedback: vec![], watermark: 1_000 }, &mut seen);
    let impressions = vec![(key("at"), 1_000), (key("behind"), 1_001)];
    let feedback = vec![(key("nobody"), 1_000), (key("nobody"), 1_001)];
    step(&mut join, &Step { impressions, feedback, watermark: 1_000 }, &mut seen);
    assert_eq!((join.counts().late_impressions, join.counts().impressions), (1, 1));
    assert_eq!((join.counts().late_feedback, join.counts().unmatched_feedback), (1, 0));
    step(&mut join, &Step { impressions: vec![], feedback: vec![], watermark: END_OF_TIME }, &mut seen);
    assert_eq!(join.counts().unmatched_feedback, 1);
}

/// An impression that the watermark has passed by no more than is allowed is one like any other: feedback that came before it
/// has waited, a second one is a duplicate, and one whose window is over leaves at once.
#[test]
fn f21_allowed_lateness_lets_impressions_in_behind_the_watermark() {
    let mut join = open(&JoinSpec { allowed_lateness_ms: 1_000, ..spec(Emit::OnWindowClose) });
    let mut seen = Seen::default();
    let key = |k: &str| Some(k.to_string());
    let feedback = vec![(key("late"), 4_500), (key("over"), 4_200), (key("nobody"), 4_500)];
    step(&mut join, &Step { impressions: vec![], feedback, watermark: 5_000 }, &mut seen);
    let impressions = vec![
        (key("too late"), 4_000),
        (key("over"), 4_001),
        (key("over"), 4_001),
        (key("late"), 4_450),
        (key("waits"), 4_999),
    ];
    step(&mut join, &Step { impressions, feedback: vec![(key("waits"), 5_001)], watermark: 5_000 }, &mut seen);
    let c = *join.counts();
    assert_eq!((c.late_impressions, c.late_let_in, c.impressions, c.duplicate_impressions), (1, 3, 3, 1));
    assert_eq!(seen.rows, [(SampleKind::Final, 0, key("over"), Some(4_200))]);
    // The key is known as long as a second one could be let in.
    step(&mut join, &Step { impressions: vec![(key("over"), 4_700)], feedback: vec![], watermark: 5_600 }, &mut seen);
    assert_eq!(join.counts().duplicate_impressions, 2);
    step(&mut join, &Step { impressions: vec![], feedback: vec![], watermark: END_OF_TIME }, &mut seen);
    let left: Vec<_> = seen.rows.into_iter().map(|row| (row.2.unwrap(), row.3)).collect();
    let expected = [("over", 4_200), ("late", 4_500), ("waits", 5_001)];
    assert_eq!(left, expected.map(|(k, at)| (k.to_string(), Some(at))));
    assert_eq!((join.counts().unmatched_feedback, join.counts().late_feedback), (1, 0));
}

/// A watermark that promises too much by the whole disorder costs nothing where that much lateness is allowed and corrected.
#[test]
fn f21_with_lateness_allowed_and_corrected_the_labels_are_those_of_a_patient_watermark() {
    for seed in 0..20 {
        let mut steps = stream(seed, 200);
        let last = steps.len() - 1;
        steps[..last].iter_mut().for_each(|s| s.watermark += 200);
        for emit in [Emit::OnWindowClose, Emit::OnMatch, Emit::Early { delay_ms: 50 }] {
            let allowed = JoinSpec { allowed_lateness_ms: 200, correction_ttl_ms: 200, ..spec(emit) };
            let (mut join, mut seen) = (open(&allowed), Seen::default());
            for (i, s) in steps.iter().enumerate() {
                step(&mut join, s, &mut seen);
                if i % 3 == 0 {
                    join = restored(&mut join, &allowed);
                }
            }
            let mut labels: BTreeMap<String, (f32, f32)> = BTreeMap::new();
            for (kind, _, key, matched) in seen.rows.iter().filter(|row| row.2.is_some()) {
                let (weight, positive) = labels.entry(key.clone().unwrap()).or_default();
                *weight += kind.weight();
                *positive += kind.weight() * f32::from(matched.is_some());
            }
            let expected = naive(&steps).into_iter().map(|(key, at)| (key, (1.0, f32::from(at.is_some())))).collect();
            assert_eq!(labels, expected, "seed {seed}, {emit:?}");
            let c = join.counts();
            assert_eq!((c.late_impressions, c.late_let_in > 0), (0, true), "seed {seed}");
        }
    }
}

/// The window's two edges match, one millisecond beyond either does not.
#[test]
fn feedback_matches_on_both_edges_of_the_window_and_not_beyond() {
    for (at, matches) in [(999, false), (1_000, true), (1_000 + WINDOW_MS, true), (1_001 + WINDOW_MS, false)] {
        let mut join = join(Emit::OnWindowClose, 100);
        let mut seen = Seen::default();
        let key = || Some("k".to_string());
        let s = Step { impressions: vec![(key(), 1_000)], feedback: vec![(key(), at)], watermark: END_OF_TIME };
        step(&mut join, &s, &mut seen);
        assert_eq!(seen.rows[0].3.is_some(), matches, "feedback at {at}");
    }
}

#[test]
fn f18_a_duplicate_impression_is_dropped_and_counted_while_its_window_is_open() {
    let mut join = join(Emit::Early { delay_ms: 0 }, 100);
    let mut seen = Seen::default();
    let key = || Some("k".to_string());
    step(
        &mut join,
        &Step { impressions: vec![(key(), 1_000)], feedback: vec![(key(), 1_001)], watermark: 1_000 },
        &mut seen,
    );
    step(&mut join, &Step { impressions: vec![(key(), 1_100)], feedback: vec![], watermark: 1_050 }, &mut seen);
    step(&mut join, &Step { impressions: vec![], feedback: vec![], watermark: END_OF_TIME }, &mut seen);
    assert_eq!((seen.rows.len(), join.counts().duplicate_impressions), (1, 1));
}

/// A stream in which keys come again: in the same mini-batch, in another, after the window, out of order, with the same
/// time or a newer one.
fn repeated(seed: u64) -> Vec<Step> {
    let mut rng = Rng::seeded(seed);
    let mut arrivals: Vec<(i64, String, i64)> = Vec::new();
    for i in 0..300u64 {
        let ts = 1_000 + i as i64 * 10;
        arrivals.push((ts + rng.below(46) as i64, format!("k{i}"), ts));
        for _ in 0..rng.below(3) {
            let newer = if rng.below(2) == 0 { 0 } else { rng.below(WINDOW_MS as u64 * 3) as i64 };
            let arrived = ts + newer + rng.below(WINDOW_MS as u64 * 2) as i64 * rng.below(2) as i64;
            arrivals.push((arrived + rng.below(46) as i64, format!("k{i}"), ts + newer));
        }
    }
    arrivals.sort();
    let mut steps = Vec::new();
    let mut rest = &arrivals[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + rng.below(40) as usize).min(rest.len()));
        rest = later;
        let impressions: Vec<_> = now.iter().map(|a| (Some(a.1.clone()), a.2)).collect();
        let feedback = now.iter().filter(|_| rng.below(4) == 0).map(|a| (Some(a.1.clone()), a.2 + 5)).collect();
        steps.push(Step { impressions, feedback, watermark: now[now.len() - 1].0 - 46 });
    }
    steps.push(Step { impressions: vec![], feedback: vec![], watermark: END_OF_TIME });
    steps
}

/// A key is let in once until the watermark has passed its window: then the same event is late, and one of a newer time is
/// an impression of its own. Whether many wait or few may, and when samples leave, makes no difference to that.
#[test]
fn a_key_is_let_in_once_while_its_window_is_open() {
    for seed in 0..40 {
        let steps = repeated(seed);
        let (mut open, mut watermark) = (BTreeMap::<String, i64>::new(), i64::MIN);
        let (mut let_in, mut late, mut twice) = (0, 0, 0);
        for s in &steps {
            for (key, ts) in &s.impressions {
                let key = key.clone().expect("every impression here has one");
                let is_open = open.get(&key).is_some_and(|ts| ts + WINDOW_MS > watermark);
                *match (*ts <= watermark, is_open) {
                    (true, _) => &mut late,
                    (_, true) => &mut twice,
                    _ => {
                        open.insert(key, *ts);
                        &mut let_in
                    }
                } += 1;
            }
            watermark = watermark.max(s.watermark);
        }
        assert!(let_in > 300 && late > 0 && twice > 50, "the stream holds every case");
        for emit in [Emit::OnWindowClose, Emit::Early { delay_ms: 0 }, Emit::Early { delay_ms: 50 }] {
            for pending_count_max in [5, usize::MAX] {
                let mut join = join(emit, pending_count_max);
                let mut seen = Seen::default();
                steps.iter().for_each(|s| step(&mut join, s, &mut seen));
                let c = *join.counts();
                assert_eq!(
                    (c.impressions, c.late_impressions, c.duplicate_impressions),
                    (let_in, late, twice),
                    "seed {seed}, {emit:?}, at most {pending_count_max} wait"
                );
                assert_eq!(c.positives + c.negatives, let_in, "each has one label in the end");
            }
        }
    }
}
