//! Requests over HTTP: how many a second, how long they take at half of that, at rest and while the model learns or a large one
//! is loaded, and ranking.
//!
//! In: a server of this program and the bare one. Out: figures by round. Times at half load are taken in short slices, at rest
//! and at work in turns: a slice has its own p50 and p99, and what is told is the median of the slices. A pause of the machine
//! spoils the slice it falls into and no other; what such pauses add up to is told beside it, as the share of requests that
//! took more than a millisecond, over all slices.

use std::time::Duration;

use serde_json::Value;
use tidemill_base::{Clock, Error, Result, Rng, SystemClock};

use super::{
    super::{
        Case,
        load::{Beside, Load, Measured, get, post},
    },
    CONNECTIONS, Group, Stage,
    large::Large,
    process::{Server, cpu_seconds},
    requests::{candidates, events, floats, infer_body, program},
};

pub(super) const GROUP: Group = Group { cases: &CASES, usual: LARGE, measure };

/// Name and unit of each case.
const CASES: [(&str, &str); 16] = [
    ("infer, 39 floats", "requests/s"),
    ("predict, a row of 39 floats", "requests/s"),
    // Where others want the core as well, a server with more threads gets more of it; this does not count their share.
    ("infer, 39 floats, CPU alone", "requests/CPU s"),
    ("predict, a row of 39 floats, CPU alone", "requests/CPU s"),
    ("infer at half load, p50", "us"),
    ("infer at half load, p99", "us"),
    ("infer at half load, beyond 1 ms", "%"),
    ("infer at half load while learning, p50", "us"),
    ("infer at half load while learning, p99", "us"),
    ("infer at half load while learning, beyond 1 ms", "%"),
    ("pushes while learning", "deltas/s"),
    ("rank 1,000 candidates, p50", "ms"),
    ("rank 1,000 candidates, p99", "ms"),
    ("infer at half load while 1 GiB is loaded, p50", "us"),
    ("infer at half load while 1 GiB is loaded, p99", "us"),
    ("models of 1 GiB loaded", "a second"),
];
const SPEED: usize = 0;
const CPU: usize = 2;
const HALF_LOAD: usize = 4;
const RANK: usize = 11;
const LARGE: usize = 13;

/// In a round, for what is measured in turns.
pub(super) const TURNS: usize = 4;
/// A slice at half load: long enough for a p99, and short enough that most are without a pause of the machine.
const SLICE_SECONDS: f64 = 0.1;
/// Pushes a second while the model learns: each leads to a delta.
const PUSHES_PER_SECOND: u32 = 100;
/// How long a server may take until it answers with a model that has learned.
const START_TIME_MAX: Duration = Duration::from_secs(30);

fn measure(stage: &Stage, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let (plan, wanted) = (stage.plan, &stage.wanted);
    tell("starting the server and the bare one");
    let bare = Server::start(&["bench", "bare-server"])?;
    let program = program();
    let dir = stage.dir("data")?.display().to_string();
    let ours = Server::start(&["run", "-e", &program, "--data-dir", &dir, "--port", "0", "--threads", "1"])?;
    let mut cases = GROUP.empty();
    let mut large = None;
    if stage.wants(LARGE..CASES.len()) {
        tell("writing three models of 1 GiB");
        large = Some(Large::open(&stage.dir("large")?)?);
    }
    // Behind what takes long: a server hangs up on connections that are silent.
    let mut bench = Bench::open(&bare, &ours, plan.seconds)?;
    for round in 1..=plan.rounds {
        let mut say = |what: &str| stage.say(tell, round, what);
        if stage.wants(SPEED..RANK) || large.is_some() {
            say("as fast as replies come");
            let speed = bench.speed(wanted[SPEED + 1] || wanted[CPU + 1])?;
            let [ceiling, infer, predict] = speed.each_ref().map(|(measured, _)| measured.rate());
            cases[SPEED].put(infer, ceiling);
            if speed[2].0.replies > 0 {
                cases[SPEED + 1].put(predict, ceiling);
            }
            if let [Some(ceiling), infer, predict] = speed.each_ref().map(per_cpu_second) {
                infer.into_iter().for_each(|infer| cases[CPU].put(infer, ceiling));
                predict.into_iter().for_each(|predict| cases[CPU + 1].put(predict, ceiling));
            }
            if stage.wants(HALF_LOAD..RANK) {
                say("at half of that, at rest and learning in turns");
                bench.half_load(infer / 2.0, &mut cases[HALF_LOAD..RANK])?;
            }
            if let Some(large) = &mut large {
                say("at half of that, at rest and while large models are loaded in turns");
                let [rest, loading] = large.half_load(infer / 2.0, plan.seconds)?;
                for (i, share) in [0.5, 0.99].into_iter().enumerate() {
                    cases[LARGE + i].put(loading.times.quantile_us(share), rest.times.quantile_us(share));
                }
                cases[LARGE + 2].values.push(loading.beside as f64 / loading.seconds);
            }
        }
        if stage.wants(RANK..LARGE) {
            say("ranking on one connection");
            let times = bench.rank()?.times;
            cases[RANK].values.push(times.quantile_us(0.5) / 1e3);
            cases[RANK + 1].values.push(times.quantile_us(0.99) / 1e3);
        }
    }
    for case in &mut cases[HALF_LOAD..RANK - 1] {
        case.compares_medians = true;
    }
    Ok(cases)
}

/// Connections to both servers, and what is sent.
struct Bench {
    bare: Load,
    ours: Load,
    processes: [u32; 2],
    seconds: f64,
    bare_infer: Vec<u8>,
    infer: Vec<u8>,
    predict: Vec<u8>,
    rank: Vec<u8>,
    pushes: Vec<Vec<u8>>,
    pushed: usize,
}

impl Bench {
    fn open(bare: &Server, ours: &Server, seconds: f64) -> Result<Self> {
        let mut rng = Rng::seeded(7);
        let infer = infer_body(&mut rng);
        let floats = floats(&mut rng);
        let named: Vec<String> = floats.iter().enumerate().map(|(i, x)| format!(r#""f{i}":{x}"#)).collect();
        let predict = format!(r#"{{"rows":[{{{}}}]}}"#, named.join(","));
        let pushes: Vec<String> = (0..40).map(|_| events(&mut rng)).collect();
        let mut bench = Self {
            bare: Load::open(bare.address, CONNECTIONS)?,
            ours: Load::open(ours.address, CONNECTIONS)?,
            processes: [bare.child.id(), ours.child.id()],
            seconds,
            bare_infer: post(bare.address, "/v2/models/bench/infer", infer.as_bytes()),
            infer: post(ours.address, "/v2/models/bench/infer", infer.as_bytes()),
            predict: post(ours.address, "/v1/models/bench:predict", predict.as_bytes()),
            rank: post(ours.address, "/v1/models/bench:rank", candidates(&named, &mut rng).as_bytes()),
            pushes: pushes.iter().map(|text| post(ours.address, "/v1/sources/clicks", text.as_bytes())).collect(),
            pushed: 0,
        };
        bench.learn(&get(ours.address, "/v1/models/bench"))?;
        Ok(bench)
    }

    /// Pushes what there is and waits until it has been learned.
    fn learn(&mut self, model: &[u8]) -> Result<()> {
        for push in &self.pushes {
            self.ours.ask(push)?;
        }
        let clock = SystemClock::new();
        loop {
            let (body, _) = self.ours.ask(model)?;
            let model: Value = serde_json::from_slice(&body).unwrap_or_default();
            if model["mini_batch"].as_u64().is_some_and(|n| n > 0) {
                return Ok(());
            }
            if clock.elapsed() > START_TIME_MAX {
                return Err(Error::unavailable("the server has not learned from what was pushed"));
            }
        }
    }

    /// The bare server, inference, and prediction of a row, as fast as replies come; with the time their processes ran.
    fn speed(&mut self, with_predict: bool) -> Result<[(Measured, Option<f64>); 3]> {
        let mut all: [(Measured, Option<f64>); 3] = [0, 1, 2].map(|_| (Measured::default(), Some(0.0)));
        let seconds = self.seconds / TURNS as f64;
        for _ in 0..TURNS {
            for (i, (measured, cpu)) in all.iter_mut().enumerate().take(2 + with_predict as usize) {
                let (load, request, process) = match i {
                    0 => (&mut self.bare, &self.bare_infer, self.processes[0]),
                    1 => (&mut self.ours, &self.infer, self.processes[1]),
                    _ => (&mut self.ours, &self.predict, self.processes[1]),
                };
                let before = cpu_seconds(process);
                measured.add(&load.closed(request, seconds)?);
                *cpu = cpu.zip(before).zip(cpu_seconds(process)).map(|((sum, before), after)| sum + after - before);
            }
        }
        Ok(all)
    }

    /// Inference at a rate, slices at rest and slices while events are pushed and learned in turns. `cases`: p50, p99 and
    /// share beyond a millisecond at rest, the same while learning, and deltas a second.
    fn half_load(&mut self, rate: f64, cases: &mut [Case]) -> Result<()> {
        let slices = (self.seconds / SLICE_SECONDS).ceil().max(2.0) as usize;
        let mut all: [Measured; 2] = Default::default();
        for _ in 0..slices {
            let rest = self.ours.open_loop(&self.infer, rate, SLICE_SECONDS, None)?;
            let every = Duration::from_secs(1) / PUSHES_PER_SECOND;
            let mut beside = Beside { requests: &self.pushes, next: self.pushed, every };
            let learning = self.ours.open_loop(&self.infer, rate, SLICE_SECONDS, Some(&mut beside))?;
            self.pushed = beside.next;
            for (i, share) in [0.5, 0.99].into_iter().enumerate() {
                let (at_rest, at_work) = (rest.times.quantile_us(share), learning.times.quantile_us(share));
                cases[i].values.push(at_rest);
                cases[3 + i].put(at_work, at_rest);
            }
            all[0].add(&rest);
            all[1].add(&learning);
        }
        for (i, measured) in all.iter().enumerate() {
            cases[3 * i + 2].values.push(measured.times.share_beyond(Duration::from_millis(1)) * 100.0);
        }
        cases[6].values.push(all[1].beside as f64 / all[1].seconds);
        Ok(())
    }

    /// Requests to rank, one after the other.
    fn rank(&mut self) -> Result<Measured> {
        let mut measured = Measured::default();
        while measured.seconds < self.seconds {
            let (_, time) = self.ours.ask(&self.rank)?;
            measured.times.count(time);
            measured.replies += 1;
            measured.seconds += time.as_secs_f64();
        }
        Ok(measured)
    }
}

fn per_cpu_second((measured, cpu): &(Measured, Option<f64>)) -> Option<f64> {
    cpu.filter(|cpu| *cpu > 0.0).map(|cpu| measured.replies as f64 / cpu)
}
