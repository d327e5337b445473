//! How fast ranking expressions are, by command:
//! `cargo test -p tidemill-serve --test speed_rank -- --ignored --nocapture`.
//!
//! Beside each figure stands the ceiling: one loop written by hand over the same columns, with the same exp. Both run in
//! turns, so that they meet the same machine; of several rounds the median ratio counts.

mod support;

use std::{
    hint::black_box,
    io::{Read, Write},
};

use serde_json::{Value, json};
use support::site::{connect, open};
use tidemill_base::{Clock, Rng, SystemClock};
use tidemill_model::{
    math::real,
    simd::{Kernel, wide},
};
use tidemill_serve::rank::{Column, ColumnType, Config, Known, Output, Program, RunScratch};

const ITEMS: usize = 100_000;
const ROUNDS: usize = 7;
const TURNS: usize = 20;
const NOW_MS: i64 = 1_795_219_200_000;
const DAY_MS: f64 = 86_400_000.0;

/// `simple_gauss(time) * popularity` as one would write it for this config alone.
struct ByHand<'a> {
    time: &'a [f64],
    popularity: &'a [f64],
    out: &'a mut [f64],
}

impl Kernel for ByHand<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let slope = real::ln(0.3) / (5.0 * DAY_MS) / (5.0 * DAY_MS);
        let now = NOW_MS as f64;
        for ((out, time), popularity) in self.out.iter_mut().zip(self.time).zip(self.popularity) {
            let age = (time - now).abs() - DAY_MS;
            let x = if age > 0.0 { age } else { 0.0 };
            let popularity = if popularity.is_nan() { 1.0 } else { *popularity };
            *out = real::exp(x * x * slope) * popularity;
        }
    }
}

struct Items {
    time: Vec<f64>,
    popularity: Vec<f64>,
    pctr: Vec<f64>,
    bid: Vec<f64>,
    ids: Vec<u64>,
}

impl Items {
    fn new() -> Self {
        let mut rng = Rng::seeded(1);
        let mut column = |one: &mut dyn FnMut(&mut Rng) -> f64| (0..ITEMS).map(|_| one(&mut rng)).collect();
        Self {
            time: column(&mut |rng| NOW_MS as f64 - rng.exponential(5.0 * DAY_MS).round()),
            popularity: column(&mut |rng| if rng.below(20) == 0 { f64::NAN } else { rng.exponential(50.0).round() }),
            pctr: column(&mut |rng| rng.next_f64()),
            bid: column(&mut |rng| rng.exponential(2.0)),
            ids: (0..ITEMS as u64).map(|i| tidemill_base::hash64_of_u64(i, 0)).collect(),
        }
    }

    fn of(&self, column: &Column) -> &[f64] {
        match column {
            Column::Number { path, .. } => match path.as_str() {
                "time" => &self.time,
                "popularity" => &self.popularity,
                _ => &self.bid,
            },
            _ => &self.pctr,
        }
    }
}

fn compiled(score: &str) -> Program {
    let config = json!({
        "functions": {"simple_gauss": {"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": 0.3}},
        "defaults": {"popularity": 1},
        "score": score,
    });
    let columns = [("time", ColumnType::Time), ("popularity", ColumnType::Number), ("bid", ColumnType::Number)];
    let columns = columns.map(|(name, ty)| (name.to_string(), ty)).to_vec();
    let known = Known { columns, model: "ctr".into(), output: Output::Probability, open: false };
    Program::compile(&Config::from_value(&config).unwrap(), &known).unwrap()
}

/// Nanoseconds an item, the fastest of some turns.
fn ns_an_item(mut work: impl FnMut()) -> f64 {
    let clock = SystemClock::new();
    let mut turn = || {
        let begin = clock.elapsed();
        work();
        (clock.elapsed() - begin).as_secs_f64()
    };
    (0..TURNS).map(|_| turn()).fold(f64::INFINITY, f64::min) * 1e9 / ITEMS as f64
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
#[ignore = "a measurement, not a test"]
fn items_per_second_of_ranking_expressions() {
    let items = Items::new();
    let mut out = vec![0.0; ITEMS];
    let mut by_hand = vec![0.0; ITEMS];
    let mut scratch = RunScratch::default();
    let mut run = |score: &str, out: &mut [f64]| {
        let program = compiled(score);
        let columns: Vec<&[f64]> = program.columns().iter().map(|c| items.of(c)).collect();
        let given = program.given(NOW_MS, &Value::Null).unwrap();
        ns_an_item(|| program.run(black_box(&columns), &given, &items.ids, 7, &mut scratch, black_box(out)))
    };
    let example = "simple_gauss(time) * popularity";
    let rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let ours = run(example, &mut out);
            let work = || {
                wide(ByHand { time: &items.time, popularity: &items.popularity, out: black_box(&mut by_hand) });
            };
            (ours, ns_an_item(work))
        })
        .collect();
    assert_eq!(out, by_hand, "the same bits");
    let ours = median(rounds.iter().map(|r| r.0).collect());
    let ceiling = median(rounds.iter().map(|r| r.1).collect());
    let ratio = median(rounds.iter().map(|(ours, ceiling)| ceiling / ours).collect());
    println!("{example}: {ours:.2} ns/item, {:.0} million items/s/core", 1000.0 / ours);
    println!("  by hand: {ceiling:.2} ns/item; the program reaches {:.0}% of it", 100.0 * ratio);
    for score in [
        "pctr ^ 0.8 * bid * simple_gauss(time)",
        "pctr ^ 0.5 * bid",
        "ln(1 + popularity) * pctr",
        "log(1 + popularity) * pctr",
        "pctr * bid > 0.5 && popularity > 10 ? bid : min(bid, 1) * rand()",
        "sin(popularity)",
        "rand_normal()",
        "dist(pctr, bid, 52, 5)",
    ] {
        println!("{score}: {:.2} ns/item", median((0..3).map(|_| run(score, &mut out)).collect()));
    }
    let clock = SystemClock::new();
    let begin = clock.elapsed();
    (0..1000).for_each(|_| drop(black_box(compiled(black_box("pctr ^ 0.8 * bid * simple_gauss(time)")))));
    println!("compiling the third: {:.1} us", (clock.elapsed() - begin).as_secs_f64() * 1e3);
}

/// A request and its reply over a connection that stays open, in seconds.
fn ask(stream: &mut std::net::TcpStream, clock: &SystemClock, request: &[u8], reply: &mut Vec<u8>) -> f64 {
    let begin = clock.elapsed();
    stream.write_all(request).unwrap();
    reply.clear();
    let mut buffer = [0; 1 << 16];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "the server hung up");
        reply.extend_from_slice(&buffer[..n]);
        let Some(head) = reply.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&reply[..head]).unwrap().to_ascii_lowercase();
        let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
        if reply.len() == head + 4 + length {
            return (clock.elapsed() - begin).as_secs_f64();
        }
    }
}

#[test]
#[ignore = "a measurement, not a test"]
fn a_rank_of_1000_candidates_over_one_connection() {
    let site = open("speed-rank");
    let mut rng = Rng::seeded(2);
    let candidates: Vec<Value> = (0..1000)
        .map(|i| {
            json!({
                "id": format!("item-{i}"),
                "item": format!("i{}", rng.below(5000)),
                "price": rng.below(10_000) as f64 / 100.0,
                "bid": rng.below(500) as f64 / 100.0,
                "popularity": rng.below(1000),
                "time": NOW_MS - rng.below(1 << 30) as i64,
                "author": format!("a{}", rng.below(100)),
                "reaction_counts": {"like": rng.below(100), "share": rng.below(10)},
            })
        })
        .collect();
    for (name, page) in [("a page of 10, diverse", json!({"k": 10})), ("all of them", json!({}))] {
        let mut body = json!({
            "context": {"user": "u1"},
            "candidates": candidates,
            "ranking": {
                "functions": {"simple_gauss": {"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": 0.3}},
                "defaults": {"popularity": 1},
                "score": "pctr ^ 0.8 * bid * simple_gauss(time) + 0.001 * ln(1 + reaction_counts.like)",
            },
            "now": NOW_MS,
        });
        if page["k"].is_number() {
            body["k"] = page["k"].clone();
            body["diversity"] = json!({"by": "author", "max": 2});
        }
        let body = body.to_string();
        let request = format!(
            "POST /v1/models/ctr:rank HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            site.server.address(),
            body.len()
        );
        let (clock, mut stream, mut reply) = (SystemClock::new(), connect(site.server.address()), Vec::new());
        stream.set_nodelay(true).unwrap();
        let mut times: Vec<f64> =
            (0..600).map(|_| ask(&mut stream, &clock, request.as_bytes(), &mut reply)).skip(100).collect();
        assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply[..200]));
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(times.len() as f64 * share) as usize] * 1e3;
        println!(
            "1,000 candidates, {} bytes, {name}: fastest {:.2} ms, p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms",
            body.len(),
            at(0.0),
            at(0.5),
            at(0.9),
            at(0.99)
        );
    }
}
