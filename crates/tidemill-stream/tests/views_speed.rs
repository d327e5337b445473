//! What a feature view costs, by command: `cargo test -p tidemill-stream --test views_speed -- --ignored --nocapture`.
//!
//! Impressions and clicks of 100,000 users whose activity follows Zipf's law (as `gen_events.py` makes them), counted over
//! the last hour and the last day as of each impression: four numbers an impression. The floor beside it is a bare loop
//! over an array of eight counters a user under the user's own number: no hash, no pane, no column. Both in turns.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::DataType,
};
use tidemill_base::{Clock, Rng, SystemClock};
use tidemill_stream::{
    aggregate::{AggregateSpec, Feed, Function, ViewCopy, ViewSpec, Views, WindowSpec},
    journal::PartitionId,
    sequencer::Take,
};

const USERS: usize = 100_000;
const EVENTS: usize = 2_000_000;
const MINI_BATCH: usize = 256;
const TURNS: usize = 5;
const HOUR: i64 = 3_600_000;

struct Event {
    input: u32,
    user: u32,
    ts: i64,
}

/// Users by Zipf's law with exponent 1.1, in no order of activity; three clicks to a hundred impressions.
fn events(span_ms: i64) -> Vec<Event> {
    let mut rng = Rng::seeded(7);
    let mut shares: Vec<f64> = (1..=USERS).map(|i| 1.0 / (i as f64).powf(1.1)).collect();
    let all: f64 = shares.iter().sum();
    let mut sum = 0.0;
    for share in &mut shares {
        sum += *share / all;
        *share = sum;
    }
    let mut names: Vec<u32> = (0..USERS as u32).collect();
    (1..USERS).rev().for_each(|i| names.swap(i, rng.below(i as u64 + 1) as usize));
    let one = |i: usize| {
        let x = rng.next_f64();
        let user = names[shares.partition_point(|share| *share < x).min(USERS - 1)];
        let ts = 1_700_000_000_000 + span_ms / EVENTS as i64 * i as i64;
        Event { input: (rng.below(100) < 3) as u32, user, ts }
    };
    (0..EVENTS).map(one).collect()
}

fn takes(events: &[Event]) -> Vec<Vec<Take>> {
    let of = |events: &[Event], input: u32| {
        let chosen = || events.iter().filter(|e| e.input == input);
        let users: ArrayRef = Arc::new(Int64Array::from_iter_values(chosen().map(|e| i64::from(e.user))));
        Take {
            id: PartitionId { input, partition: 0 },
            rows: RecordBatch::try_from_iter([("user", users)]).unwrap(),
            event_times: chosen().map(|e| e.ts).collect(),
        }
    };
    events.chunks(MINI_BATCH).map(|e| vec![of(e, 0), of(e, 1)]).collect()
}

fn spec() -> ViewSpec {
    let hour = WindowSpec::sawtooth(HOUR, HOUR / 12).unwrap();
    let day = WindowSpec::sawtooth(24 * HOUR, HOUR).unwrap();
    let count = |name: &str, feed: usize, window| AggregateSpec {
        name: name.into(),
        function: Function::Count,
        feed,
        column: None,
        ty: DataType::Null,
        window,
    };
    let feed = |input| Feed { input, key: 0, passes: None };
    ViewSpec {
        name: "user_ctr".into(),
        feeds: vec![feed(0), feed(1)],
        aggregates: vec![
            count("imp_1h", 0, hour),
            count("clk_1h", 1, hour),
            count("imp_24h", 0, day),
            count("clk_24h", 1, day),
        ],
        read_key: 0,
        ttl_ms: 25 * HOUR,
        keys_max: 1 << 20,
    }
}

fn floor(events: &[Event]) -> u64 {
    let mut counters = vec![[0u64; 8]; USERS];
    let mut seen = 0;
    for e in events {
        let user = &mut counters[e.user as usize];
        seen += user[0] + user[1] + user[2] + user[3];
        user[e.input as usize] += 1;
        user[2 + e.input as usize] += 1;
    }
    seen
}

fn least(times: &[Duration]) -> f64 {
    times.iter().min().unwrap().as_nanos() as f64
}

#[test]
#[ignore = "measures; run by command"]
fn counts_of_the_last_hour_and_day_as_of_each_impression() {
    let clock = SystemClock::new();
    for span in [2 * HOUR, 48 * HOUR] {
        let events = events(span);
        let takes = takes(&events);
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        let mut kept = None;
        for _ in 0..TURNS {
            let begun = clock.elapsed();
            std::hint::black_box(floor(std::hint::black_box(&events)));
            bare.push(clock.elapsed() - begun);
            let mut views = Views::new(&[spec()]).unwrap();
            let begun = clock.elapsed();
            for take in &takes {
                std::hint::black_box(views.step(take, take[0].event_times[0] - 10_000).unwrap());
            }
            ours.push(clock.elapsed() - begun);
            kept = Some(views);
        }
        let (ours, bare) = (least(&ours) / EVENTS as f64, least(&bare) / EVENTS as f64);
        let mut views = kept.unwrap();
        println!(
            "span {} h: {ours:.1} ns/update ({:.2} M/s); bare counters {bare:.1} ns ({:.2} M/s); {} keys, {:.1} MB",
            span / HOUR,
            1e3 / ours,
            1e3 / bare,
            views.views()[0].keys(),
            views.views()[0].bytes() as f64 / 1e6,
        );
        let mut copy = ViewCopy::new(&spec()).unwrap();
        copy.apply(&views.publish_all()[0]);
        let mut rng = Rng::seeded(3);
        let newest = views.newest();
        let asked: Vec<ArrayRef> =
            (0..20_000).map(|_| Arc::new(Int64Array::from(vec![rng.below(USERS as u64) as i64])) as ArrayRef).collect();
        let begun = clock.elapsed();
        for keys in &asked {
            std::hint::black_box(copy.look_up(keys, &[newest]).unwrap());
        }
        let one = (clock.elapsed() - begun).as_nanos() as f64 / asked.len() as f64;
        let together: ArrayRef =
            Arc::new(Int64Array::from_iter_values((0..1024).map(|_| rng.below(USERS as u64) as i64)));
        let begun = clock.elapsed();
        for _ in 0..100 {
            std::hint::black_box(copy.look_up(&together, &[newest; 1024]).unwrap());
        }
        let many = (clock.elapsed() - begun).as_nanos() as f64 / 102_400.0;
        println!("  look-up for serving: {one:.0} ns one by one (columns made), {many:.0} ns of 1024 at once");
        assert!(views.views()[0].counts().updates == EVENTS as u64);
    }
}
