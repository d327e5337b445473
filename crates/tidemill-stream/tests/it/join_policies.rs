//! Every emission policy by counting: which rows leave, of which kind and weight, and what they say in the end.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, AsArray, Float64Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef},
};
use tidemill_base::Rng;
use tidemill_stream::{
    join::{
        Correction, Emit, FeedbackSpec, JoinCounts, JoinSpec, LabelJoin, NegativeSample, SampleKind, SamplingMode,
        Take, WhenFull,
    },
    window::END_OF_TIME,
};

use super::join_spill::Saved;

pub const WINDOW_MS: i64 = 600;
const IMPRESSIONS: u64 = 400;
const JITTER_MS: u64 = 45;

/// Time, and for feedback a value; the key is the number of the impression.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    key: i64,
    pub ts: i64,
    value: Option<f64>,
}

#[derive(Clone, Default)]
pub struct Step {
    pub impressions: Vec<Event>,
    pub feedback: [Vec<Event>; 2],
    pub watermark: i64,
}

fn left() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("key", DataType::Int64, true), Field::new("ts", DataType::Int64, false)]))
}

/// A key, and the value four times: for each aggregate one.
fn right() -> SchemaRef {
    let value = |name: &str| Field::new(name, DataType::Float64, true);
    let key = Field::new("key", DataType::Int64, true);
    Arc::new(Schema::new(vec![key, value("first"), value("last"), value("count"), value("sum"), value("max")]))
}

pub const TAKES: [Take; 6] = [Take::First, Take::First, Take::Last, Take::Count, Take::Sum, Take::Max];

pub fn left_rows(events: &[Event]) -> RecordBatch {
    let keys: Int64Array = events.iter().map(|e| Some(e.key)).collect();
    let times: Int64Array = events.iter().map(|e| Some(e.ts)).collect();
    RecordBatch::try_new(left(), vec![Arc::new(keys), Arc::new(times)]).unwrap()
}

pub fn right_rows(events: &[Event]) -> RecordBatch {
    let keys: Int64Array = events.iter().map(|e| Some(e.key)).collect();
    let values: Arc<Float64Array> = Arc::new(events.iter().map(|e| e.value).collect());
    let mut columns: Vec<Arc<dyn Array>> = vec![Arc::new(keys)];
    columns.extend((0..5).map(|_| values.clone() as Arc<dyn Array>));
    RecordBatch::try_new(right(), columns).unwrap()
}

pub fn spec(emit: Emit, takes: &[Take], feedback: usize) -> JoinSpec {
    let of = |i: usize| FeedbackSpec {
        left_key: 0,
        right_key: 0,
        window_ms: WINDOW_MS / (1 + i as i64),
        takes: takes.to_vec(),
    };
    JoinSpec {
        feedback: (0..feedback).map(of).collect(),
        emit,
        correction: Correction::Retract,
        sample: None,
        label_is_match: feedback == 1 && takes.iter().all(|take| *take == Take::First),
        correction_ttl_ms: 0,
        allowed_lateness_ms: 0,
        pending_count_max: usize::MAX,
        pending_bytes_max: usize::MAX,
        when_full: WhenFull::Release,
        dedup: Some(0),
    }
}

/// What feedback gave a row: first, last, count, sum and largest value, of each type.
pub type Given = Vec<(Option<f64>, Option<f64>, i64, Option<f64>, Option<f64>)>;

#[derive(Debug, PartialEq)]
pub struct Row {
    kind: SampleKind,
    seq: u64,
    key: i64,
    weight: Option<f32>,
    given: Given,
}

#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    pub rows: Vec<Row>,
    pub matured: Vec<(u64, String)>,
    pub counts: JoinCounts,
    pub pending_max: usize,
    bytes_max: usize,
}

pub fn open(spec: &JoinSpec) -> LabelJoin {
    LabelJoin::new(spec.clone(), &left(), &vec![right(); spec.feedback.len()]).unwrap()
}

pub fn step(join: &mut LabelJoin, spec: &JoinSpec, step: &Step, seen: &mut Seen) {
    let times = |events: &[Event]| events.iter().map(|e| e.ts).collect::<Vec<_>>();
    join.push_impressions(&left_rows(&step.impressions), &times(&step.impressions)).unwrap();
    for (i, _) in spec.feedback.iter().enumerate() {
        join.push_feedback(i, &right_rows(&step.feedback[i]), &times(&step.feedback[i])).unwrap();
    }
    let out = join.advance(step.watermark).unwrap();
    let number = |column: usize, i: usize| {
        let column = out.rows.column(column);
        match column.data_type() {
            DataType::Float64 => column.is_valid(i).then(|| column.as_primitive::<Float64Type>().value(i)),
            _ => column.is_valid(i).then(|| column.as_primitive::<Int64Type>().value(i) as f64),
        }
    };
    for i in 0..out.rows.num_rows() {
        let given = (0..spec.feedback.len()).map(|f| {
            let at = 2 + f * 6;
            let (count, sum) = (number(at + 3, i), number(at + 4, i));
            (number(at + 1, i), number(at + 2, i), count.unwrap_or(0.0) as i64, sum, number(at + 5, i))
        });
        seen.rows.push(Row {
            kind: out.kinds[i],
            seq: out.seqs[i],
            key: number(0, i).unwrap() as i64,
            weight: out.weights.as_ref().map(|w| w[i]),
            given: given.collect(),
        });
    }
    seen.matured.extend(out.matured.iter().map(|m| (m.seq, m.label.to_string())));
    seen.pending_max = seen.pending_max.max(join.pending_count());
    seen.bytes_max = seen.bytes_max.max(join.held_bytes());
    seen.counts = *join.counts();
}

pub fn run(spec: &JoinSpec, steps: &[Step]) -> Seen {
    let (mut join, mut seen) = (open(spec), Seen::default());
    steps.iter().for_each(|s| step(&mut join, spec, s, &mut seen));
    assert_eq!(join.pending_count(), 0, "everything left");
    seen
}

/// Impressions in disorder, with feedback of two types in and out of the window; whole values, so that sums are exact.
pub fn stream(seed: u64) -> Vec<Step> {
    let mut rng = Rng::seeded(seed);
    let mut arrivals: Vec<(i64, usize, Event)> = Vec::new();
    for i in 0..IMPRESSIONS as i64 {
        let ts = 1_000 + i * 10;
        let mut arrive = |rng: &mut Rng, what: usize, ts: i64, value: Option<f64>| {
            arrivals.push((ts + rng.below(JITTER_MS + 1) as i64, what, Event { key: i, ts, value }));
        };
        arrive(&mut rng, 0, ts, None);
        for feedback in 1..=2 {
            for _ in 0..rng.below(4) {
                let at = ts + rng.below(WINDOW_MS as u64 * 2) as i64 - 50;
                let value = (rng.below(10) > 0).then(|| rng.below(100) as f64);
                arrive(&mut rng, feedback, at, value);
            }
        }
    }
    arrivals.sort_by_key(|a| (a.0, a.1, a.2.key, a.2.ts));
    let mut steps = Vec::new();
    let mut rest = &arrivals[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + rng.below(40) as usize).min(rest.len()));
        rest = later;
        let pick = |what: usize| now.iter().filter(|a| a.1 == what).map(|a| a.2).collect();
        let watermark = now[now.len() - 1].0 - JITTER_MS as i64 - 1;
        steps.push(Step { impressions: pick(0), feedback: [pick(1), pick(2)], watermark });
    }
    steps.push(Step { watermark: END_OF_TIME, ..Step::default() });
    steps
}

/// What one look at everything says of each impression.
fn truth(steps: &[Step], feedback: usize) -> BTreeMap<i64, Given> {
    let of = |ts: i64, key: i64, f: usize| {
        let window = ts..=ts + WINDOW_MS / (1 + f as i64);
        let mut found: Vec<Event> = Vec::new();
        steps.iter().flat_map(|s| &s.feedback[f]).for_each(|e| {
            if e.key == key && window.contains(&e.ts) {
                found.push(*e);
            }
        });
        // Of equal times the first that came is first and the last that came is last.
        found.sort_by_key(|e| e.ts);
        let values: Vec<f64> = found.iter().filter_map(|e| e.value).collect();
        let largest = values.iter().copied().reduce(f64::max);
        let sum = (!values.is_empty()).then(|| values.iter().sum());
        let (first, last) = (found.first().and_then(|e| e.value), found.last().and_then(|e| e.value));
        (first, last, values.len() as i64, sum, largest)
    };
    let impressions = steps.iter().flat_map(|s| &s.impressions);
    impressions.map(|i| (i.key, (0..feedback).map(|f| of(i.ts, i.key, f)).collect())).collect()
}

pub const EMITS: [Emit; 5] = [
    Emit::OnWindowClose,
    Emit::OnMatch,
    Emit::Early { delay_ms: 0 },
    Emit::Early { delay_ms: 50 },
    Emit::Early { delay_ms: 300 },
];

/// First, last, count, sum and largest, of one and of two types of feedback: whatever the policy, the last row of each
/// impression says what one look at everything says, the weights of all its rows add up to 1, and it matures once.
#[test]
fn aggregates_are_those_of_one_look_at_everything() {
    for (seed, (emit, feedback)) in EMITS.iter().flat_map(|e| [(e, 1), (e, 2)]).enumerate() {
        for correction in [Correction::Retract, Correction::None] {
            let steps = stream(seed as u64);
            let spec = JoinSpec { correction, ..spec(*emit, &TAKES, feedback) };
            let seen = run(&spec, &steps);
            let mut last: BTreeMap<i64, &Row> = BTreeMap::new();
            let mut weights: BTreeMap<u64, f32> = BTreeMap::new();
            for row in &seen.rows {
                last.insert(row.key, row);
                *weights.entry(row.seq).or_default() += row.kind.weight();
            }
            assert!(weights.len() as u64 == IMPRESSIONS && weights.values().all(|w| *w == 1.0), "{emit:?}");
            let expected = truth(&steps, feedback);
            for (key, row) in &last {
                assert_eq!(row.given, expected[key], "{emit:?}, {feedback} types, impression {key}");
            }
            let is_positive = |given: &Given| given.iter().any(|g| g.0.is_some() || g.1.is_some() || g.2 > 0);
            assert_eq!(seen.matured.len() as u64, IMPRESSIONS);
            assert!(seen.matured.iter().all(|m| m.1 == "NaN"), "the program says these labels");
            assert_eq!(seen.counts.positives + seen.counts.negatives, IMPRESSIONS);
            assert!(seen.counts.positives as usize >= expected.values().filter(|g| is_positive(g)).count());
            match (emit, correction) {
                (Emit::OnWindowClose, _) => assert_eq!((seen.counts.corrections, seen.rows.len() as u64), (0, 400)),
                (_, Correction::None) => assert!(seen.counts.corrections_left_out > 100, "{:?}", seen.counts),
                _ => assert!(seen.counts.corrections > 100),
            }
        }
    }
}

/// Positive at the match, negative at the window's end, one row each.
#[test]
fn on_match_a_positive_leaves_with_its_feedback_and_a_negative_at_the_windows_end() {
    let event = |key: i64, ts: i64| Event { key, ts, value: Some(1.0) };
    let steps = [
        Step { impressions: vec![event(1, 100), event(2, 100)], watermark: 90, ..Step::default() },
        Step { feedback: [vec![event(2, 200)], vec![]], watermark: 150, ..Step::default() },
        Step { feedback: [vec![event(2, 250)], vec![]], watermark: 699, ..Step::default() },
        Step { watermark: 700, ..Step::default() },
        // Feedback that was there before its impression.
        Step { feedback: [vec![event(3, 900)], vec![]], watermark: 750, ..Step::default() },
        Step { impressions: vec![event(3, 800)], watermark: 760, ..Step::default() },
        Step { watermark: END_OF_TIME, ..Step::default() },
    ];
    let spec = spec(Emit::OnMatch, &[Take::First; 6], 1);
    let (mut join, mut left_at) = (open(&spec), Vec::new());
    for (i, s) in steps.iter().enumerate() {
        let mut seen = Seen::default();
        step(&mut join, &spec, s, &mut seen);
        left_at.extend(seen.rows.iter().map(|r| (i, r.key, r.kind, r.given[0].0)));
    }
    let kind = SampleKind::Final;
    assert_eq!(left_at, [(1, 2, kind, Some(1.0)), (3, 1, kind, None), (5, 3, kind, Some(1.0))]);
    for seed in 0..10 {
        let steps = stream(seed);
        let seen = run(&spec, &steps);
        assert_eq!(seen.rows.len() as u64, IMPRESSIONS);
        let expected = run(&JoinSpec { emit: Emit::OnWindowClose, ..spec.clone() }, &steps).counts;
        assert_eq!((seen.counts.positives, seen.counts.negatives), (expected.positives, expected.negatives));
    }
}

/// What comes late is a positive of its own behind the negative (FNW, ELAPSED), or nothing but a count (NONE); the labels
/// that scoring sees are the same as ever, and so is the share of late ones.
#[test]
fn corrections_other_than_retract_leave_the_first_row_as_it_is() {
    for seed in 0..10 {
        let steps = stream(seed);
        let emit = Emit::Early { delay_ms: 50 };
        let of = |correction| run(&JoinSpec { correction, ..spec(emit, &[Take::First; 6], 1) }, &steps);
        let (retract, none) = (of(Correction::Retract), of(Correction::None));
        let late = retract.counts.corrections;
        assert!(late > 50);
        let count = |seen: &Seen, kind: SampleKind| seen.rows.iter().filter(|r| r.kind == kind).count() as u64;
        assert_eq!((count(&retract, SampleKind::Retract), count(&retract, SampleKind::Correct)), (late, late));
        for correction in [Correction::Fnw, Correction::Elapsed] {
            let seen = of(correction);
            assert_eq!((count(&seen, SampleKind::Early), count(&seen, SampleKind::Late)), (IMPRESSIONS, late));
            assert_eq!((seen.rows.len() as u64, seen.counts), (IMPRESSIONS + late, retract.counts));
            assert_eq!(seen.matured, retract.matured);
        }
        assert_eq!((none.rows.len() as u64, none.counts.corrections_left_out), (IMPRESSIONS, late));
        assert_eq!((none.counts.corrections, &none.matured), (0, &retract.matured));
        let counts = retract.counts;
        assert_eq!((counts.closed_positives, counts.closed_late_positives), (counts.positives, late));
        let expected = (late + 1) as f32 / (counts.positives + 2) as f32;
        assert!((counts.late_share() - expected).abs() < 1e-6);
    }
}

/// Of the negatives about the share is kept, the same ones whatever the policy and the mini-batches; every positive is
/// learned, and in sum each impression counts as one.
#[test]
fn negatives_are_sampled_by_the_event_and_positives_are_not() {
    let share = 0.3;
    let mut chosen: Option<Vec<u64>> = None;
    for emit in EMITS {
        for (mode, kept_weight) in [(SamplingMode::Weight, Some(1.0 / 0.3)), (SamplingMode::Logit, None)] {
            let sample = Some(NegativeSample { share, mode, seed: 5 });
            let steps = stream(3);
            let seen = run(&JoinSpec { sample, ..spec(emit, &[Take::First; 6], 1) }, &steps);
            let mut sum: BTreeMap<u64, f32> = BTreeMap::new();
            for row in &seen.rows {
                assert_eq!(row.weight.is_some(), mode == SamplingMode::Weight);
                *sum.entry(row.seq).or_default() += row.kind.weight() * row.weight.unwrap_or(1.0);
            }
            let positive = |seq: &u64| seen.matured.iter().any(|m| m.0 == *seq && m.1 == "1");
            let (mut kept, mut left_out) = (Vec::new(), 0);
            for (seq, sum) in &sum {
                match (positive(seq), *sum) {
                    (true, sum) => assert!((sum - 1.0).abs() < 1e-5, "{emit:?}: a positive counts {sum}"),
                    (false, 0.0) => left_out += 1,
                    (false, sum) => {
                        assert!((sum - kept_weight.unwrap_or(1.0)).abs() < 1e-5, "{emit:?}: a negative counts {sum}");
                        kept.push(*seq);
                    }
                }
            }
            let negatives = seen.counts.negatives as f64;
            let got = kept.len() as f64 / negatives;
            assert!((got - share).abs() < 3.5 * (share * (1.0 - share) / negatives).sqrt(), "{got} of {negatives}");
            assert!(seen.counts.negatives_left_out >= left_out, "{:?}", seen.counts);
            assert_eq!(chosen.get_or_insert(kept.clone()), &kept, "{emit:?} keeps others");
        }
    }
}

/// Feedback that comes after its impression was closed corrects it while it is remembered, and no longer.
#[test]
fn late_feedback_corrects_a_closed_negative_while_it_is_remembered() {
    let event = |key: i64, ts: i64| Event { key, ts, value: Some(1.0) };
    for (watermark, corrects) in [(700, true), (1_199, true), (1_200, false)] {
        for (correction, kinds) in [
            (Correction::Retract, vec![SampleKind::Retract, SampleKind::Correct]),
            (Correction::Fnw, vec![SampleKind::Late]),
            (Correction::None, vec![]),
        ] {
            let emit = Emit::Early { delay_ms: 0 };
            let spec = JoinSpec { correction, correction_ttl_ms: 500, ..spec(emit, &[Take::First; 6], 1) };
            let (mut join, mut seen) = (open(&spec), Seen::default());
            step(&mut join, &spec, &Step { impressions: vec![event(1, 100)], watermark, ..Step::default() }, &mut seen);
            assert_eq!(seen.matured, [(0, "0".to_string())]);
            let before = seen.rows.len();
            let late = Step { feedback: [vec![event(1, 650), event(1, 701)], vec![]], watermark, ..Step::default() };
            step(&mut join, &spec, &late, &mut seen);
            let corrected: Vec<SampleKind> = seen.rows[before..].iter().map(|r| r.kind).collect();
            assert_eq!(corrected, if corrects { kinds } else { vec![] }, "{correction:?} at {watermark}");
            let learned = (corrects && correction != Correction::None) as u64;
            assert_eq!((seen.counts.corrected_behind_close, seen.counts.corrections), (learned, learned));
            let lost = if corrects { 0 } else { 2 };
            let behind = if watermark >= 701 { 1 } else { 0 };
            assert_eq!(seen.counts.late_feedback, if corrects { behind } else { lost }, "at {watermark}");
        }
    }
}

/// At most so many bytes wait, the oldest leave first, and they are counted; what is restored decides as it would have.
#[test]
fn bytes_that_wait_are_bounded() {
    let steps = stream(11);
    for emit in EMITS {
        let free = run(&JoinSpec { pending_bytes_max: usize::MAX - 1, ..spec(emit, &TAKES, 2) }, &steps);
        let bytes_max = free.bytes_max / 3;
        let bounded = JoinSpec { pending_bytes_max: bytes_max, correction_ttl_ms: 200, ..spec(emit, &TAKES, 2) };
        let seen = run(&bounded, &steps);
        assert!(seen.bytes_max <= bytes_max, "{emit:?}: {} of {bytes_max}", seen.bytes_max);
        assert!(seen.counts.released_early > 50 && free.counts.released_early == 0, "{emit:?}: {:?}", seen.counts);
        assert_eq!(seen.matured.len() as u64, IMPRESSIONS);
        assert_eq!(restored_at_every_step(&bounded, &steps), seen, "{emit:?}");
    }
}

fn restored_at_every_step(spec: &JoinSpec, steps: &[Step]) -> Seen {
    let (mut join, mut seen, mut saved) = (open(spec), Seen::default(), Saved::default());
    for s in steps {
        step(&mut join, spec, s, &mut seen);
        saved.save(&mut join);
        join = saved.restored(open(spec));
    }
    seen
}

/// Saved and restored behind every mini-batch, every policy goes on row for row.
#[test]
fn every_policy_goes_on_where_it_was() {
    let sample = Some(NegativeSample { share: 0.4, mode: SamplingMode::Weight, seed: 9 });
    for (seed, emit) in EMITS.into_iter().enumerate() {
        let steps = stream(seed as u64 + 40);
        let base = spec(emit, &[Take::First; 6], 1);
        for spec in [
            spec(emit, &TAKES, 2),
            JoinSpec { sample, correction_ttl_ms: 300, ..spec(emit, &TAKES, 1) },
            JoinSpec { correction: Correction::Elapsed, sample, ..base.clone() },
            JoinSpec { correction: Correction::Fnw, correction_ttl_ms: 300, pending_count_max: 30, ..base },
        ] {
            assert_eq!(restored_at_every_step(&spec, &steps), run(&spec, &steps), "{spec:?}");
        }
    }
}
