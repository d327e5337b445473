//! Feature views at their border: rows in, what each impression knew out, against a recount of all events.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Float64Type, Int64Type},
};
use tidemill_base::{
    Kind, Rng,
    codec::{Decoder, Encoder},
};
use tidemill_stream::{
    aggregate::{AggregateSpec, Feed, Function, SavedViews, ViewCopy, ViewSpec, Views, WindowSpec},
    journal::PartitionId,
    sequencer::Take,
    window::END_OF_TIME,
};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// An event: which input, its key, its time, a number that may be missing.
#[derive(Clone, Copy, Debug)]
struct Event {
    input: u32,
    key: Option<i64>,
    ts: i64,
    x: Option<f64>,
}

fn take(events: &[Event]) -> Take {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter(events.iter().map(|e| e.key)));
    let numbers: ArrayRef = Arc::new(Float64Array::from_iter(events.iter().map(|e| e.x)));
    let passes: ArrayRef = Arc::new(BooleanArray::from_iter(events.iter().map(|e| e.x.map(|x| x > 0.0))));
    Take {
        id: PartitionId { input: events[0].input, partition: 0 },
        rows: RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("x", numbers, true), ("p", passes, true)])
            .unwrap(),
        event_times: events.iter().map(|e| e.ts).collect(),
    }
}

/// Mini-batches of `size` events, impressions and feedback apart as the sequencer cuts them.
fn takes(events: &[Event], size: usize) -> Vec<Vec<Take>> {
    let cut = |events: &[Event]| {
        let of = |input| events.iter().copied().filter(|e| e.input == input).collect::<Vec<_>>();
        [of(0), of(1)].iter().filter(|e| !e.is_empty()).map(|e| take(e)).collect()
    };
    events.chunks(size).map(cut).collect()
}

fn aggregate(name: &str, function: Function, feed: usize, column: Option<usize>, window: WindowSpec) -> AggregateSpec {
    let ty = if column.is_some() { DataType::Float64 } else { DataType::Null };
    AggregateSpec { name: name.into(), function, feed, column, ty, window }
}

/// Every aggregate over every window that takes it.
fn everything() -> ViewSpec {
    use Function::*;
    let windows = [
        ("saw", WindowSpec::sawtooth(HOUR, 5 * MINUTE).unwrap()),
        ("tumble", WindowSpec::tumble(10 * MINUTE).unwrap()),
        ("hop", WindowSpec::hop(2 * MINUTE, 10 * MINUTE).unwrap()),
        ("session", WindowSpec::Session { gap_ms: 4 * MINUTE }),
    ];
    let mut aggregates = Vec::new();
    for (w, window) in windows {
        let functions = [
            ("events", Count, 0, None),
            ("clicks", Count, 1, None),
            ("count", Count, 0, Some(1)),
            ("sum", Sum, 0, Some(1)),
            ("mean", Mean, 1, Some(1)),
            ("min", Min, 0, Some(1)),
            ("max", Max, 0, Some(1)),
            ("distinct", Distinct { registers: 64 }, 0, Some(1)),
        ];
        for (f, function, feed, column) in functions {
            aggregates.push(aggregate(&format!("{w}_{f}"), function, feed, column, window));
        }
        let n = aggregates.len();
        let ratio = Ratio { of: n - 7, to: n - 8, alpha: 20.0, prior: 0.1 };
        aggregates.push(aggregate(&format!("{w}_ratio"), ratio, 0, None, window));
    }
    let decay = WindowSpec::Decay { half_life_ms: 30 * MINUTE };
    aggregates.push(aggregate("decay_count", Count, 0, None, decay));
    aggregates.push(aggregate("decay_sum", Sum, 0, Some(1), decay));
    aggregates.push(aggregate("decay_mean", Mean, 0, Some(1), decay));
    for back in 0..3 {
        let last = Last { kept: 3, back };
        aggregates.push(aggregate(&format!("last_{back}"), last, 0, Some(1), WindowSpec::Lifetime));
    }
    let feeds = vec![Feed { input: 0, key: 0, passes: None }, Feed { input: 1, key: 0, passes: Some(2) }];
    ViewSpec { name: "v".into(), feeds, aggregates, read_key: 0, ttl_ms: 10 * HOUR, keys_max: 1 << 20 }
}

/// Events of few keys over a day: crowded hours and silent ones; `jitter_ms` of disorder.
fn events(seed: u64, n: usize, jitter_ms: i64) -> Vec<Event> {
    let mut rng = Rng::seeded(seed);
    let mut now = 1_700_000_000_000;
    let mut out = Vec::new();
    for _ in 0..n {
        now += match rng.below(200) {
            0 => rng.below(12 * HOUR as u64) as i64,
            1..20 => rng.below(6 * MINUTE as u64) as i64,
            _ => rng.below(10_000) as i64,
        };
        let late = if jitter_ms > 0 && rng.below(4) == 0 { rng.below(jitter_ms as u64) as i64 } else { 0 };
        let x = (rng.below(8) > 0).then(|| rng.below(64) as f64 * 0.25 - 4.0);
        let key = (rng.below(50) > 0).then(|| rng.below(7) as i64);
        out.push(Event { input: (rng.below(4) == 0) as u32, key, ts: now - late, x });
    }
    out
}

/// All columns of all impressions, in their order, as bits; NULL is `None`.
type Known = Vec<Vec<Option<u64>>>;

fn bits(columns: &[ArrayRef], rows: usize) -> Known {
    let one = |c: &ArrayRef, i: usize| {
        (!c.is_null(i)).then(|| match c.data_type() {
            DataType::Int64 => c.as_primitive::<Int64Type>().value(i) as u64,
            _ => c.as_primitive::<Float64Type>().value(i).to_bits(),
        })
    };
    (0..rows).map(|i| columns.iter().map(|c| one(c, i)).collect()).collect()
}

fn run(views: &mut Views, batches: &[Vec<Take>]) -> Known {
    let mut known = Vec::new();
    for takes in batches {
        let out = views.step(takes, i64::MIN).unwrap();
        for (take, columns) in takes.iter().zip(out).filter(|(t, _)| t.id.input == 0) {
            known.extend(bits(&columns, take.rows.num_rows()));
        }
    }
    known
}

/// What a key has been through, recounted from nothing at each event.
#[derive(Default)]
struct Recount {
    newest: Option<i64>,
    seen: Vec<Event>,
    session: Vec<Event>,
}

impl Recount {
    fn advance(&mut self, ts: i64, ttl_ms: i64) {
        let newest = *self.newest.get_or_insert(ts);
        if ts - newest > ttl_ms {
            self.seen.clear();
        }
        if ts - newest > 4 * MINUTE {
            self.session.clear();
        }
        self.newest = Some(newest.max(ts));
    }

    fn take(&mut self, event: Event) {
        if self.newest.unwrap() - event.ts <= 4 * MINUTE {
            self.session.push(event);
        }
        self.seen.push(event);
    }

    fn within(&self, window: WindowSpec) -> Vec<Event> {
        let WindowSpec::Paned { pane_ms, panes } = window else { return self.session.clone() };
        let oldest = self.newest.unwrap() / pane_ms - i64::from(panes) + 1;
        self.seen.iter().copied().filter(|e| e.ts / pane_ms >= oldest).collect()
    }

    /// The column's value; NaN where it is NULL.
    fn value(&self, a: &AggregateSpec, all: &[f64]) -> f64 {
        let feed = |e: &&Event| e.input as usize == a.feed && (a.feed == 0 || e.x.is_some_and(|x| x > 0.0));
        let counted = |events: &[Event]| -> Vec<f64> {
            let chosen = events.iter().filter(feed);
            chosen.filter_map(|e| if a.column.is_some() { e.x } else { Some(1.0) }).collect()
        };
        if let WindowSpec::Decay { half_life_ms } = a.window {
            let (mut weight, mut sum) = (0.0, 0.0);
            for e in self.seen.iter().filter(feed) {
                let Some(x) = (if a.column.is_some() { e.x } else { Some(1.0) }) else { continue };
                let share = 0.5f64.powf((self.newest.unwrap() - e.ts) as f64 / half_life_ms as f64);
                (weight, sum) = (weight + share, sum + share * x);
            }
            return match a.function {
                Function::Count => weight,
                Function::Sum => sum,
                _ => sum / weight,
            };
        }
        let x = match a.window {
            WindowSpec::Lifetime => counted(&self.seen),
            window => counted(&self.within(window)),
        };
        match a.function {
            Function::Count => x.len() as f64,
            Function::Sum => x.iter().sum(),
            Function::Mean => x.iter().sum::<f64>() / x.len() as f64,
            Function::Min => x.iter().copied().fold(f64::NAN, f64::min),
            Function::Max => x.iter().copied().fold(f64::NAN, f64::max),
            Function::Distinct { .. } => {
                let mut bits: Vec<u64> = x.iter().map(|x| (x + 0.0).to_bits()).collect();
                bits.sort_unstable();
                bits.dedup();
                bits.len() as f64
            }
            Function::Last { back, .. } => x.iter().rev().nth(back).copied().unwrap_or(f64::NAN),
            Function::Ratio { of, to, alpha, prior } => (all[of] + alpha * prior) / (all[to] + alpha),
        }
    }
}

fn recount(spec: &ViewSpec, events: &[Event]) -> Vec<Vec<f64>> {
    let mut keys: BTreeMap<i64, Recount> = BTreeMap::new();
    let mut out = Vec::new();
    for event in events {
        let mut nobody = Recount::default();
        let state = event.key.map_or(&mut nobody, |key| keys.entry(key).or_default());
        state.advance(event.ts, spec.ttl_ms);
        if event.input == 0 {
            let mut all = Vec::new();
            for a in &spec.aggregates {
                all.push(state.value(a, &all));
            }
            out.push(all);
        }
        state.take(*event);
    }
    out
}

/// Every aggregate is what all events before the impression say, counted again from nothing; late events by the stated rule.
#[test]
fn every_aggregate_equals_a_recount() {
    let spec = everything();
    for (seed, jitter_ms) in [(1, 0), (2, 30_000), (3, 40 * MINUTE)] {
        let events = events(seed, 3000, jitter_ms);
        let known = run(&mut Views::new(std::slice::from_ref(&spec)).unwrap(), &takes(&events, 1));
        let expected = recount(&spec, &events);
        assert_eq!(known.len(), expected.len());
        let mut told = 0;
        for (i, (known, expected)) in known.iter().zip(&expected).enumerate() {
            for (a, (bits, expected)) in spec.aggregates.iter().zip(known.iter().zip(expected)) {
                let found = match (bits, a.output()) {
                    (None, _) => f64::NAN,
                    (Some(bits), DataType::Int64) => *bits as i64 as f64,
                    (Some(bits), _) => f64::from_bits(*bits),
                };
                told += (found != 0.0 && !found.is_nan()) as u32;
                let bound = match a.function {
                    // A sketch of 64 registers over at most 64 values: linear counting, three standard errors of it.
                    Function::Distinct { .. } => 0.2 * expected + 2.0,
                    _ if matches!(a.window, WindowSpec::Decay { .. }) => 1e-9 * (1.0 + expected.abs()),
                    _ => 0.0,
                };
                let same = (found - expected).abs() <= bound || (found.is_nan() && expected.is_nan());
                // 0 / 0 of weights that faded to nothing is NULL here and a number there.
                assert!(same, "seed {seed}, impression {i}, {}: {found}, recounted {expected}", a.name);
            }
        }
        assert!(told > 50_000, "{told} values were there at all");
    }
}

/// For partitions in order it does not matter how mini-batches are cut.
#[test]
fn cuts_leave_no_trace() {
    let spec = everything();
    let events = events(5, 2000, 0);
    let whole = run(&mut Views::new(std::slice::from_ref(&spec)).unwrap(), &takes(&events, 2000));
    for size in [1, 7, 256] {
        assert_eq!(run(&mut Views::new(std::slice::from_ref(&spec)).unwrap(), &takes(&events, size)), whole, "{size}");
    }
}

/// Saved and restored between any two mini-batches, views answer all that follows bit for bit; keys that have to leave
/// because there are too many are the same.
#[test]
fn restored_views_go_on_bit_for_bit() {
    let spec = ViewSpec { keys_max: 4, ttl_ms: HOUR, ..everything() };
    let events = events(6, 1500, MINUTE);
    let batches = takes(&events, 4);
    let watermark = |takes: &[Take]| takes.iter().flat_map(|t| t.event_times.iter().copied()).max().unwrap() - MINUTE;
    let go = |views: &mut Views, batches: &[Vec<Take>]| -> Vec<Known> {
        let one = |takes: &Vec<Take>| {
            let out = views.step(takes, watermark(takes)).unwrap();
            takes
                .iter()
                .zip(out)
                .flat_map(|(t, c)| bits(&c, if c.is_empty() { 0 } else { t.rows.num_rows() }))
                .collect()
        };
        batches.iter().map(one).collect()
    };
    let mut whole = Views::new(std::slice::from_ref(&spec)).unwrap();
    let expected = go(&mut whole, &batches);
    for at in [0, 1, 70, 200, batches.len() - 1] {
        let mut first = Views::new(std::slice::from_ref(&spec)).unwrap();
        // All at the beginning, then what changed.
        let mut saved = Saved::default();
        for i in 0..at {
            if i % 9 == 0 {
                saved.save(&mut first);
            }
            go(&mut first, &batches[i..i + 1]);
        }
        saved.save(&mut first);
        let mut second = saved.restored(Views::new(std::slice::from_ref(&spec)).unwrap()).unwrap();
        let (mut of_first, mut of_second) = (Saved::default(), Saved::default());
        of_first.save(&mut first);
        of_second.save(&mut second);
        assert_eq!(of_second.entries(), of_first.entries(), "what was restored is what was saved");
        assert_eq!(of_second.body, of_first.body);
        assert_eq!(go(&mut second, &batches[at..]), expected[at..], "from mini-batch {at} on");
        assert_eq!(second.views()[0].counts(), whole.views()[0].counts());
    }
    let counts = whole.views()[0].counts();
    assert!(counts.evicted > 10 && counts.expired > 0, "{counts:?}");
    assert!(whole.views()[0].keys() <= 4);
}

/// What a job keeps of the checkpoints of views: the body, and the parts.
#[derive(Default)]
struct Saved {
    body: Vec<u8>,
    /// Each with its head in front.
    parts: Vec<Vec<Vec<u8>>>,
}

impl Saved {
    /// The first has everything, each other one what changed since the one before.
    fn save(&mut self, views: &mut Views) {
        let mut body = Encoder::new();
        let saved = views.encode(self.parts.is_empty(), &mut body);
        self.keep(body.finish(), saved);
    }

    fn keep(&mut self, body: Vec<u8>, saved: SavedViews) {
        self.body = body;
        if saved.has_new() {
            let mut part = vec![saved.head()];
            saved.blocks(|block| {
                part.push(block);
                true
            });
            self.parts.push(part);
        }
    }

    fn restored(&self, mut views: Views) -> tidemill_base::Result<Views> {
        let mut entries = views.restoring();
        for part in &self.parts {
            entries.begin(&part[0])?;
            part[1..].iter().try_for_each(|block| entries.take(block))?;
        }
        let mut d = Decoder::new(&self.body, "views");
        views.restore(&mut d, entries)?;
        d.end()?;
        Ok(views)
    }

    /// Bytes of all parts behind the heads.
    fn entries(&self) -> Vec<u8> {
        let blocks = self.parts.iter().flat_map(|part| &part[1..]);
        let mut bytes: Vec<u8> = blocks.flatten().copied().collect();
        // Slots may have other numbers: as many bytes of every value.
        bytes.sort_unstable();
        bytes
    }
}

/// Events of `keys` keys that come and go.
fn many(seed: u64, keys: u64, count: usize) -> Vec<Event> {
    let mut rng = Rng::seeded(seed);
    let event = |i: usize| {
        let base = i as u64 / 7;
        // Sometimes few at a time, so that others fall silent; sometimes more than are kept.
        let keys = if (i / 1500).is_multiple_of(2) { keys } else { keys / 8 };
        let key = Some((base + rng.below(keys)) as i64);
        Event { input: rng.below(2) as u32, key, ts: i as i64 * 20, x: Some(rng.below(100) as f64) }
    };
    (0..count).map(event).collect()
}

/// Each part holds what changed and no more, and what was taken hold of stays as it was while events go on, however long the
/// writing takes; all parts together are the state.
#[test]
fn parts_hold_what_changed_as_of_their_moment() {
    let spec = ViewSpec { keys_max: 300, ttl_ms: 10_000, ..everything() };
    let new = || Views::new(std::slice::from_ref(&spec)).unwrap();
    let (mut prompt, mut slow, mut twin) = (new(), new(), new());
    let (mut promptly, mut slowly) = (Saved::default(), Saved::default());
    let mut writing = std::collections::VecDeque::new();
    let batches = takes(&many(9, 700, 12_000), 40);
    for (i, takes) in batches.iter().enumerate() {
        let watermark = i as i64 * 40 * 20 - 1000;
        for views in [&mut prompt, &mut slow, &mut twin] {
            views.step(takes, watermark).unwrap();
        }
        promptly.save(&mut prompt);
        let mut body = Encoder::new();
        let saved = slow.encode(i == 0, &mut body);
        writing.push_back((body.finish(), saved));
        if writing.len() > 3 {
            let (body, saved) = writing.pop_front().unwrap();
            slowly.keep(body, saved);
        }
        // Forty events change forty keys at most; as many may leave.
        assert!(i == 0 || promptly.parts[i][1..].len() == 1, "{i}");
    }
    writing.into_iter().for_each(|(body, saved)| slowly.keep(body, saved));
    assert_eq!(slowly.parts.len(), batches.len());
    assert!(slowly.parts == promptly.parts && slowly.body == promptly.body);
    let mut whole = Saved::default();
    whole.save(&mut prompt);
    let bytes = |saved: &Saved, i: usize| saved.parts[i].iter().map(Vec::len).sum::<usize>();
    let of_changes = (1..batches.len()).map(|i| bytes(&promptly, i)).sum::<usize>() / (batches.len() - 1);
    assert!(of_changes * 3 < bytes(&whole, 0), "{of_changes} bytes changed of {}", bytes(&whole, 0));
    let mut restored = slowly.restored(new()).unwrap();
    let mut of_restored = Saved::default();
    of_restored.save(&mut restored);
    assert_eq!(of_restored.entries(), whole.entries());
    for (i, takes) in self::takes(&many(10, 700, 4000), 40).iter().enumerate() {
        let watermark = (12_000 + i as i64 * 40) * 20;
        let known = |views: &mut Views| -> Vec<Known> {
            let out = views.step(takes, watermark).unwrap();
            let rows = |(t, c): (&Take, &Vec<ArrayRef>)| bits(c, if c.is_empty() { 0 } else { t.rows.num_rows() });
            takes.iter().zip(&out).map(rows).collect()
        };
        assert_eq!(known(&mut restored), known(&mut twin), "{i}");
    }
    let counts = twin.views()[0].counts();
    assert_eq!(restored.views()[0].counts(), counts);
    assert!(counts.evicted > 1000 && counts.expired > 300, "{counts:?}");
}

/// Parts of another program, in another order, incomplete or changed are refused.
#[test]
fn parts_that_are_not_those_that_were_written_are_refused() {
    let spec = ViewSpec { ..everything() };
    let new = || Views::new(std::slice::from_ref(&spec)).unwrap();
    let mut views = new();
    let mut saved = Saved::default();
    for (i, takes) in takes(&many(11, 60, 900), 300).iter().enumerate() {
        views.step(takes, i as i64).unwrap();
        saved.save(&mut views);
    }
    assert!(saved.restored(new()).is_ok());
    let refused = |parts: Vec<Vec<Vec<u8>>>, words: &str| {
        let e = Saved { parts, body: saved.body.clone() }.restored(new()).err().expect("refused");
        assert!(e.message().contains(words), "{e}");
    };
    refused(saved.parts[1..].to_vec(), "the first part is to have all keys");
    refused(vec![saved.parts[0].clone(), saved.parts[0].clone()], "the first part is to have all keys");
    refused(saved.parts[..1].to_vec(), "feature view 'v': ");
    let mut behind = saved.parts.clone();
    behind[2][1].truncate(20);
    refused(behind, "");
    let fewer = ViewSpec { aggregates: spec.aggregates[..2].to_vec(), ..spec.clone() };
    let e = saved.restored(Views::new(&[fewer]).unwrap()).err().expect("refused");
    assert!(e.message().contains("words a key"), "{e}");
    let e = saved.restored(Views::new(&[]).unwrap()).err().expect("refused");
    assert!(e.message().contains("other feature views"), "{e}");
    // Nothing that a disk may do to a block makes the reading of it fail otherwise than by an error.
    let mut rng = Rng::seeded(3);
    for _ in 0..300 {
        let mut parts = saved.parts.clone();
        let part = rng.below(3) as usize;
        let at = rng.below(parts[part][1].len() as u64) as usize;
        parts[part][1][at] ^= 1 << rng.below(8);
        let _ = Saved { parts, body: saved.body.clone() }.restored(new());
    }
}

/// What a server answers right before an impression is what training used: bit for bit, for every aggregate, whatever was
/// published in between, keys that left included.
#[test]
fn serving_answers_what_training_used() {
    for keys_max in [1 << 20, 4] {
        let spec = ViewSpec { keys_max, ..everything() };
        let mut views = Views::new(std::slice::from_ref(&spec)).unwrap();
        let mut copy = ViewCopy::new(&spec).unwrap();
        let events = events(7, 2500, 0);
        let (before, after) = events.split_at(300);
        run(&mut views, &takes(before, 100));
        copy.apply(&views.publish_all()[0]);
        let mut impressions = 0;
        for event in after {
            let take = take(&[*event]);
            let asked = copy.look_up(take.rows.column(0), &[event.ts]).unwrap();
            let used = views.step(std::slice::from_ref(&take), event.ts - MINUTE).unwrap();
            if event.input == 0 {
                assert_eq!(bits(&asked, 1), bits(&used[0], 1), "{event:?}");
                impressions += 1;
            }
            copy.apply(&views.take_deltas()[0]);
        }
        assert!(impressions > 1000);
        assert_eq!(copy.keys(), views.views()[0].keys());
        assert!(views.take_deltas()[0].is_empty());
    }
}

/// Memory is bounded: the keys that are silent longest go, keys silent for the time to live go, and the end of the stream
/// is no reason to forget.
#[test]
fn silent_keys_go_and_are_counted() {
    let window = WindowSpec::tumble(MINUTE).unwrap();
    let spec = ViewSpec {
        aggregates: vec![aggregate("n", Function::Count, 0, None, window)],
        feeds: vec![Feed { input: 0, key: 0, passes: None }],
        ttl_ms: MINUTE,
        keys_max: 1000,
        ..everything()
    };
    let mut views = Views::new(std::slice::from_ref(&spec)).unwrap();
    let event = |key: i64, ts: i64| Event { input: 0, key: Some(key), ts, x: None };
    let many: Vec<Event> = (0..5000).map(|i| event(i, i)).collect();
    views.step(&[take(&many)], i64::MIN).unwrap();
    assert_eq!((views.views()[0].keys(), views.views()[0].counts().evicted), (1000, 4000));
    let bytes = views.views()[0].bytes();
    assert!(bytes > 64 * 1000 && bytes < 64 * 5000 * 2, "{bytes}");
    // The newest 1000 stayed: they are known still.
    let known = views.step(&[take(&[event(4999, 5001), event(10, 5001)])], i64::MIN).unwrap();
    assert_eq!(known[0][0].as_primitive::<Int64Type>().values().to_vec(), [1, 0]);
    views.step(&[take(&[event(1, 10 * MINUTE)])], 9 * MINUTE).unwrap();
    assert_eq!(views.views()[0].keys(), 1);
    views.step(&[take(&[event(2, 10 * MINUTE)])], END_OF_TIME).unwrap();
    assert_eq!(views.views()[0].keys(), 2);
}

/// Keys of any type; feeds under another key than the one that reads.
#[test]
fn a_view_over_feedback_alone_is_read_under_the_impressions_key() {
    let text = |keys: &[Option<&str>], input: u32, times: &[i64]| Take {
        id: PartitionId { input, partition: 0 },
        rows: RecordBatch::try_from_iter_with_nullable([("k", Arc::new(StringArray::from(keys.to_vec())) as _, true)])
            .unwrap(),
        event_times: times.to_vec(),
    };
    let spec = ViewSpec {
        feeds: vec![Feed { input: 1, key: 0, passes: None }],
        aggregates: vec![aggregate("n", Function::Count, 0, None, WindowSpec::tumble(HOUR).unwrap())],
        ..everything()
    };
    let mut views = Views::new(&[spec]).unwrap();
    let takes = [
        text(&[Some("a"), Some("a"), None, Some("b")], 0, &[10, 30, 40, 50]),
        text(&[Some("a"), Some("a"), Some("c")], 1, &[10, 20, 25]),
    ];
    let known = views.step(&takes, 0).unwrap();
    assert_eq!(known[0][0].as_primitive::<Int64Type>().values().to_vec(), [0, 2, 0, 0]);
    assert!(known[1].is_empty());
    let counts = views.views()[0].counts();
    assert_eq!((counts.reads, counts.updates, counts.without_key), (4, 3, 1));
}

/// What cannot be kept is refused with what can.
#[test]
fn specs_that_cannot_be_are_refused() {
    let saw = WindowSpec::sawtooth(HOUR, MINUTE).unwrap();
    let refused = |function, column, ty, window| {
        let a = AggregateSpec { name: "a".into(), function, feed: 0, column, ty, window };
        let spec = ViewSpec { aggregates: vec![a], ..everything() };
        Views::new(&[spec]).err().expect("refused").message().to_string()
    };
    let cases = [
        refused(Function::Sum, Some(1), DataType::Utf8, saw),
        refused(Function::Min, Some(1), DataType::Float64, WindowSpec::Decay { half_life_ms: 1 }),
        refused(Function::Count, None, DataType::Null, WindowSpec::Lifetime),
        refused(Function::Last { kept: 3, back: 0 }, Some(1), DataType::Int64, saw),
        refused(Function::Distinct { registers: 48 }, Some(1), DataType::Int64, saw),
        refused(Function::Ratio { of: 0, to: 0, alpha: 1.0, prior: 0.0 }, None, DataType::Null, saw),
        refused(
            Function::Distinct { registers: 4096 },
            Some(1),
            DataType::Int64,
            WindowSpec::sawtooth(HOUR, 15_000).unwrap(),
        ),
        WindowSpec::sawtooth(HOUR, 7 * MINUTE).unwrap_err().message().to_string(),
        WindowSpec::hop(1, HOUR).unwrap_err().message().to_string(),
        WindowSpec::tumble(0).unwrap_err().message().to_string(),
    ];
    expect_test::expect![[r#"
        v.a: a number is needed, this column is Utf8
        v.a: DECAY goes with COUNT, SUM and MEAN; take SAWTOOTH
        v.a: a window is needed: OVER SAWTOOTH (...)
        v.a: LAST keeps a number of values, not a stretch of time: leave out OVER
        v.a: a sketch has a power of two of registers from 16, got 48
        v.a: RATIO takes two columns that stand before it
        v: one key takes 991296 bytes, at most 262144; take fewer panes or smaller sketches
        SAWTOOTH: 3600000 ms are not a whole number of panes of 420000 ms; write lengths that divide
        HOP: 3600000 slides, at most 1440; write a longer slide
        TUMBLE: a window is longer than 0"#]]
    .assert_eq(&cases.join("\n"));
}

/// Room is made for all slots up to the last, so there are no more than keys may be kept.
#[test]
fn slots_that_cannot_be_are_refused() {
    let mut views = Views::new(&[everything()]).unwrap();
    let head = views.encode(true, &mut Encoder::new()).head();
    let mut d = Decoder::new(&head, "head");
    let (_, _, words) = (d.u8().unwrap(), d.varint().unwrap(), d.varint().unwrap());
    let begun = |slots: u64| {
        let mut head = Encoder::new();
        head.put_u8(1).put_varint(1).put_varint(words).put_varint(slots);
        views.restoring().begin(head.as_slice())
    };
    begun(1 << 20).unwrap();
    for slots in [1 << 30, u64::MAX] {
        let e = begun(slots).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert_eq!(e.message(), format!("feature views: {slots} slots where there are 3145728 at most"));
    }
}
