//! What the label join takes for an event, by command:
//! `cargo test -p tidemill -p tidemill-stream --test join_speed -- --ignored --nocapture`.
//!
//! Rows lie in memory and come in mini-batches of 256, slices of longer chunks, as the engine cuts them: 3% of impressions
//! are clicked, the window is ten minutes, keys are BIGINT, 277 impressions come in a second of event time, so 166,000 wait.
//! Beside each figure stands a floor measured in turns with it: open addressing, a slab and a ring, nothing of Arrow, no
//! columns out. Time is that of the thread on its processor, where the system tells it.

use std::{fs, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use tidemill_base::{Clock, Rng, SystemClock, rng::mix64};
use tidemill_stream::{
    join::{Correction, Emit, FeedbackSpec, JoinSpec, LabelJoin, SampleKind, Take, WhenFull},
    window::END_OF_TIME,
};

const IMPRESSIONS: usize = 1_000_000;
const TURNS: usize = 3;
const WINDOW_MS: i64 = 600_000;
const BOUND_MS: i64 = 10_000;
const CHUNK: usize = 8192;

/// An event: when it arrives, whether it is a click, its impression, its event time.
type Event = (i64, bool, i64, i64);

/// Impressions and clicks in the order of arrival.
fn events(jitter_ms: u64) -> Vec<Event> {
    let mut rng = Rng::seeded(7);
    let mut all = Vec::with_capacity(IMPRESSIONS * 103 / 100);
    for i in 0..IMPRESSIONS as i64 {
        let ts = 1_700_000_000_000 + i * 1000 / 277;
        let arrival = ts + (rng.next_u64() % (jitter_ms + 1)) as i64;
        // The bijection keeps keys distinct and takes their order from them.
        let key = mix64(i as u64) as i64;
        all.push((arrival, false, key, ts));
        if rng.next_u64() % 100 < 3 {
            let clicked = ts + (rng.next_u64() % 240_000) as i64;
            all.push((clicked + (rng.next_u64() % (jitter_ms + 1)) as i64, true, key, clicked));
        }
    }
    all.sort();
    all
}

/// Rows of one chunk with their event times.
type Rows = (RecordBatch, Vec<i64>);

/// A mini-batch as the sequencer hands it over.
struct Step {
    impressions: Vec<Rows>,
    clicks: Vec<Rows>,
    watermark: i64,
}

fn schema(is_click: bool) -> SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let mut fields = vec![int("imp_id"), int("ts")];
    if !is_click {
        fields.extend([int("user_id"), int("item_id"), Field::new("bid", DataType::Float64, true)]);
    }
    Arc::new(Schema::new(fields))
}

fn chunk(events: &[Event], is_click: bool) -> RecordBatch {
    let of = |f: fn(&Event) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(events.iter().map(f))) };
    let mut columns = vec![of(|e| e.2), of(|e| e.3)];
    if !is_click {
        let bid = Float64Array::from_iter_values(events.iter().map(|e| e.2 as f64));
        columns.extend([of(|e| e.2 % 100_000), of(|e| e.2 % 20_000), Arc::new(bid)]);
    }
    RecordBatch::try_new(schema(is_click), columns).unwrap()
}

fn steps(events: &[Event], cut: usize) -> Vec<Step> {
    let of = |is_click: bool| -> Vec<Event> { events.iter().copied().filter(|e| e.1 == is_click).collect() };
    let inputs = [of(false), of(true)];
    let chunks: [Vec<RecordBatch>; 2] =
        [0, 1].map(|input: usize| inputs[input].chunks(CHUNK).map(|part| chunk(part, input == 1)).collect());
    let (mut at, mut ts_max, mut steps) = ([0, 0], i64::MIN, Vec::new());
    for part in events.chunks(cut) {
        ts_max = part.iter().map(|e| e.3).fold(ts_max, i64::max);
        let clicks = part.iter().filter(|e| e.1).count();
        let mut take = |input: usize, mut n: usize| {
            let mut rows = Vec::new();
            while n > 0 {
                let (chunk, from) = (at[input] / CHUNK, at[input] % CHUNK);
                let run = n.min(CHUNK - from);
                let times = inputs[input][at[input]..at[input] + run].iter().map(|e| e.3).collect();
                rows.push((chunks[input][chunk].slice(from, run), times));
                at[input] += run;
                n -= run;
            }
            rows
        };
        let (impressions, clicks) = (take(0, part.len() - clicks), take(1, clicks));
        steps.push(Step { impressions, clicks, watermark: ts_max - BOUND_MS });
    }
    steps.last_mut().expect("there are events").watermark = END_OF_TIME;
    steps
}

/// Nanoseconds this thread has been on a processor, or else since the beginning.
fn thread_ns(clock: &SystemClock) -> f64 {
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_cpu = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    on_cpu.unwrap_or_else(|| clock.elapsed().as_secs_f64() * 1e9)
}

/// Samples and positives.
fn joined(steps: &[Step]) -> (usize, usize) {
    let spec = JoinSpec {
        feedback: vec![FeedbackSpec { left_key: 0, right_key: 0, window_ms: WINDOW_MS, takes: vec![Take::First; 2] }],
        emit: Emit::OnWindowClose,
        correction: Correction::Retract,
        sample: None,
        label_is_match: true,
        correction_ttl_ms: 0,
        allowed_lateness_ms: 0,
        pending_count_max: usize::MAX,
        pending_bytes_max: usize::MAX,
        when_full: WhenFull::Release,
        dedup: Some(0),
    };
    let mut join = LabelJoin::new(spec, &schema(false), &[schema(true)]).unwrap();
    let (mut samples, mut positives) = (0, 0);
    for step in steps {
        for (rows, times) in &step.impressions {
            assert!(join.push_impressions(rows, times).unwrap().is_empty());
        }
        for (rows, times) in &step.clicks {
            join.push_feedback(0, rows, times).unwrap();
        }
        let out = join.advance(step.watermark).unwrap();
        assert!(out.kinds.iter().all(|kind| *kind == SampleKind::Final));
        samples += out.rows.num_rows();
        positives += out.matured.iter().filter(|m| m.label == 1.0).count();
    }
    (samples, positives)
}

fn keys((rows, times): &Rows) -> impl Iterator<Item = (i64, i64)> {
    rows.column(0).as_primitive::<Int64Type>().values().iter().copied().zip(times.iter().copied())
}

/// The same over plain arrays: a key's place by linear probing, impressions in the order they came, a mark for a click.
fn floor(steps: &[Step]) -> (usize, usize) {
    const PLACES: usize = 1 << 19;
    const EMPTY: u32 = u32::MAX;
    let mut places = vec![EMPTY; PLACES];
    let mut waiting = std::collections::VecDeque::new();
    let (mut gone, mut samples, mut positives) = (0u32, 0, 0);
    let home = |key: i64| mix64(key as u64) as usize % PLACES;
    for step in steps {
        for (key, ts) in step.impressions.iter().flat_map(keys) {
            let mut at = home(key);
            while places[at] != EMPTY {
                at = (at + 1) % PLACES;
            }
            places[at] = gone + waiting.len() as u32;
            waiting.push_back((key, ts, false));
        }
        for (key, ts) in step.clicks.iter().flat_map(keys) {
            let mut at = home(key);
            while places[at] != EMPTY {
                let of_key: &mut (i64, i64, bool) = &mut waiting[(places[at] - gone) as usize];
                if of_key.0 == key {
                    of_key.2 |= of_key.1 <= ts && ts <= of_key.1 + WINDOW_MS;
                    break;
                }
                at = (at + 1) % PLACES;
            }
        }
        // The oldest by arrival: the floor does not put them in order.
        while waiting.front().is_some_and(|w| w.1 <= step.watermark.saturating_sub(WINDOW_MS)) {
            let (key, _, clicked) = waiting.pop_front().expect("just seen");
            samples += 1;
            positives += clicked as usize;
            let mut at = home(key);
            while places[at] != gone {
                at = (at + 1) % PLACES;
            }
            let mut next = (at + 1) % PLACES;
            while places[next] != EMPTY {
                let to_next = next.wrapping_sub(home(waiting[(places[next] - gone - 1) as usize].0)) % PLACES;
                if to_next >= next.wrapping_sub(at) % PLACES {
                    places[at] = places[next];
                    at = next;
                }
                next = (next + 1) % PLACES;
            }
            places[at] = EMPTY;
            gone += 1;
        }
    }
    (samples, positives)
}

#[test]
#[ignore = "a measurement"]
fn the_label_join_takes_this_long_for_an_event() {
    let clock = SystemClock::new();
    for (order, jitter_ms) in [("in the order of time", 0), ("as they arrive, up to 5 s late", 5000)] {
        let events = events(jitter_ms);
        for cut in [256, 1024] {
            let steps = steps(&events, cut);
            let (mut join_ns, mut floor_ns) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                for (measured, run) in [(&mut join_ns, joined as fn(&[Step]) -> (usize, usize)), (&mut floor_ns, floor)]
                {
                    let begin = thread_ns(&clock);
                    let (samples, positives) = run(&steps);
                    measured.push((thread_ns(&clock) - begin) / events.len() as f64);
                    assert_eq!(samples, IMPRESSIONS);
                    assert!((29_000..31_000).contains(&positives), "{positives}");
                }
            }
            let least = |of: &[f64]| of.iter().copied().fold(f64::INFINITY, f64::min);
            let (join_ns, floor_ns) = (least(&join_ns), least(&floor_ns));
            println!("{order}, cut {cut}: join {join_ns:.0} ns/event, floor {floor_ns:.0} ns/event");
        }
    }
}
