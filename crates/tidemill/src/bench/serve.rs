//! `tidemill bench serve`: requests a second beside bare hyper, and how long they take while the model learns.
//!
//! In: rounds and seconds. Out: for each case a figure a round. The server is this very program on a SQL text, in a process
//! of its own on core 0; the load comes from core 1; where there is no `taskset`, the system places both. Cases take turns
//! of a quarter of their seconds, so that a noisy moment meets all of them.

mod large;

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tidemill_base::{Clock, Error, Result, Rng, SystemClock};

use large::Large;

use super::{
    Case,
    load::{Beside, Load, Measured, get, post},
};

/// Inputs of the model.
pub const FLOATS: usize = 39;
const CONNECTIONS: usize = 64;
const TURNS: usize = 4;
const CANDIDATES: usize = 1_000;
/// Events in a push, and pushes a second while the model learns: each leads to a delta.
const PUSH_EVENTS: usize = 50;
const PUSHES_PER_SECOND: u32 = 100;
/// How long a server may take until it answers with a model that has learned.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// What is to be measured.
pub struct Plan {
    /// Times each case is run.
    pub rounds: usize,
    /// How long, in each round.
    pub seconds: f64,
    /// Only cases whose names contain this.
    pub only: Option<String>,
}

/// Name and unit of each case.
const CASES: [(&str, &str); 14] = [
    ("infer, 39 floats", "requests/s"),
    ("predict, a row of 39 floats", "requests/s"),
    // Where others want the core as well, a server with more threads gets more of it; this does not count their share.
    ("infer, 39 floats, CPU alone", "requests/CPU s"),
    ("predict, a row of 39 floats, CPU alone", "requests/CPU s"),
    ("infer at half load, p50", "us"),
    ("infer at half load, p99", "us"),
    ("infer at half load while learning, p50", "us"),
    ("infer at half load while learning, p99", "us"),
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
const RANK: usize = 9;
const LARGE: usize = 11;

/// Runs the plan; `tell` hears what is going on.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let is_wanted = |(i, (name, _)): (usize, &(&str, &str))| match &plan.only {
        Some(only) => name.contains(only.as_str()),
        // What writes gigabytes is asked for by its name.
        None => i < LARGE,
    };
    let wanted: Vec<bool> = CASES.iter().enumerate().map(is_wanted).collect();
    if !wanted.contains(&true) {
        let names: Vec<&str> = CASES.iter().map(|case| case.0).collect();
        return Err(Error::not_found(format!("no case has that in its name; cases are {}", names.join("; "))));
    }
    let scratch = std::env::temp_dir().join(format!("tidemill-bench-serve-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| Error::io("create", &scratch, e))?;
    let cases = measure(plan, &wanted, &scratch, tell);
    let _ = std::fs::remove_dir_all(&scratch);
    let mut cases = cases?;
    let mut kept = wanted.iter();
    cases.retain(|case| kept.next() == Some(&true) && !case.values.is_empty());
    Ok(cases)
}

fn measure(plan: &Plan, wanted: &[bool], scratch: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    stay_on_core(1);
    tell("starting the server and the bare one");
    let bare = Server::start(&["bench", "bare-server"])?;
    let program = program();
    let dir = scratch.display().to_string();
    let ours = Server::start(&["run", "-e", &program, "--data-dir", &dir, "--port", "0", "--threads", "1"])?;
    let mut bench = Bench::open(&bare, &ours, plan.seconds)?;
    let mut cases: Vec<Case> = CASES.iter().map(|(name, unit)| Case::new(*name, unit)).collect();
    let any = |range: std::ops::Range<usize>| wanted[range].contains(&true);
    let mut large = None;
    if any(LARGE..CASES.len()) {
        tell("writing three models of 1 GiB");
        large = Some(Large::open(&scratch.join("large"))?);
    }
    for round in 1..=plan.rounds {
        let mut say = |what: &str| tell(&format!("round {round} of {}: {what}", plan.rounds));
        if any(SPEED..RANK) || large.is_some() {
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
            if any(HALF_LOAD..RANK) {
                say("at half of that, at rest and learning in turns");
                let [rest, learning] = bench.half_load(infer / 2.0)?;
                for (i, share) in [0.5, 0.99].into_iter().enumerate() {
                    let (at_rest, at_work) = (rest.times.quantile_us(share), learning.times.quantile_us(share));
                    cases[HALF_LOAD + i].values.push(at_rest);
                    cases[HALF_LOAD + 2 + i].put(at_work, at_rest);
                }
                cases[HALF_LOAD + 4].values.push(learning.beside as f64 / learning.seconds);
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
        if any(RANK..LARGE) {
            say("ranking on one connection");
            let times = bench.rank()?.times;
            cases[RANK].values.push(times.quantile_us(0.5) / 1e3);
            cases[RANK + 1].values.push(times.quantile_us(0.99) / 1e3);
        }
    }
    Ok(cases)
}

impl Case {
    fn put(&mut self, value: f64, ceiling: f64) {
        self.values.push(value);
        self.ceilings.push(ceiling);
    }
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

    /// Inference at a rate, at rest and while events are pushed and learned.
    fn half_load(&mut self, rate: f64) -> Result<[Measured; 2]> {
        let mut all: [Measured; 2] = Default::default();
        let seconds = self.seconds / TURNS as f64;
        for _ in 0..TURNS {
            all[0].add(&self.ours.open_loop(&self.infer, rate, seconds, None)?);
            let every = Duration::from_secs(1) / PUSHES_PER_SECOND;
            let mut beside = Beside { requests: &self.pushes, next: self.pushed, every };
            all[1].add(&self.ours.open_loop(&self.infer, rate, seconds, Some(&mut beside))?);
            self.pushed = beside.next;
        }
        Ok(all)
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

/// How long the threads of a process have run, where the system tells.
fn cpu_seconds(process: u32) -> Option<f64> {
    let mut ns = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        ns += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(ns / 1e9)
}

/// A process that answers, until it is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Runs this program with `args` to its end.
    fn run_to_end(args: &[&str]) -> Result<()> {
        let output = Command::new(own_program()?).args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|e| Error::unavailable(format!("cannot start tidemill: {e}")))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::internal(format!("tidemill ended: {}", String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// Starts this program with `args` on core 0 and waits until it tells its address.
    fn start(args: &[&str]) -> Result<Self> {
        let own = own_program()?;
        let placed = Command::new("taskset").args(["-c", "0", "true"]).status().is_ok_and(|status| status.success());
        let mut command = match placed {
            true => {
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(own);
                command
            }
            false => Command::new(own),
        };
        let started = command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|e| Error::unavailable(format!("cannot start a server: {e}")))?;
        let said = child.stderr.take().ok_or_else(|| Error::internal("a server without standard error"))?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let (mut lines, mut all) = (BufReader::new(said), String::new());
        while lines.read_line(&mut all).is_ok_and(|n| n > 0) {
            if let Some(address) = all.split_once("http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
            {
                server.address = address;
                // What it says later is not waited for, and must not make it wait.
                std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
                return Ok(server);
            }
        }
        Err(Error::unavailable(format!("a server did not start: {}", all.lines().last().unwrap_or("it ended"))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::unavailable(format!("own program: {e}")))
}

/// Places this process, where the system lets it.
fn stay_on_core(core: usize) {
    let placed = Command::new("taskset")
        .args(["-acp", &core.to_string(), &std::process::id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // On a machine with one core there is no other.
    let _ = placed;
}

fn program() -> String {
    format!(
        "CREATE SOURCE clicks (label BIGINT, {}) WITH (connector = 'http');\n\
         SELECT * FROM clicks TO TRAIN LogisticRegression COLUMN {} LABEL label INTO bench;",
        columns(" FLOAT"),
        columns("")
    )
}

/// The model's columns, each with something behind its name.
fn columns(behind: &str) -> String {
    (0..FLOATS).map(|i| format!("f{i}{behind}")).collect::<Vec<_>>().join(", ")
}

fn infer_body(rng: &mut Rng) -> String {
    format!(
        r#"{{"inputs":[{{"name":"features","shape":[1,{FLOATS}],"datatype":"FP32","data":[{}]}}]}}"#,
        floats(rng).join(",")
    )
}

/// Numbers as they are written in a request.
fn floats(rng: &mut Rng) -> Vec<String> {
    (0..FLOATS).map(|_| format!("{:.5}", rng.next_f64())).collect()
}

/// Lines to push: the label depends on the first numbers.
fn events(rng: &mut Rng) -> String {
    let event = |_| {
        let floats = floats(rng);
        let named: Vec<String> = floats.iter().enumerate().map(|(i, x)| format!(r#""f{i}":{x}"#)).collect();
        let label = (floats[0] > floats[1]) as u8;
        format!("{{\"label\":{label},{}}}\n", named.join(","))
    };
    (0..PUSH_EVENTS).map(event).collect()
}

/// A request to rank: what all share is in the context, three numbers of each candidate and its bid beside it.
fn candidates(named: &[String], rng: &mut Rng) -> String {
    let candidate = |id| {
        let own = floats(rng);
        format!(r#"{{"id":{id},"f0":{},"f1":{},"f2":{},"bid":{}}}"#, own[0], own[1], own[2], own[3])
    };
    let candidates: Vec<String> = (0..CANDIDATES).map(candidate).collect();
    format!(
        r#"{{"context":{{{}}},"candidates":[{}],"score":"pctr ^ 0.8 * bid","k":10}}"#,
        named[3..].join(","),
        candidates.join(",")
    )
}
