//! Requests over HTTP: how many a second, how long they take at half of that, at rest and while the model learns or a large one
//! is loaded, and ranking.
//!
//! In: servers of this program and the bare one. Out: figures by round.

use tidemill_base::{Result, Rng};

use super::{
    super::{
        Case,
        load::{Load, Measured, post},
    },
    CONNECTIONS, Group, Stage, half_load,
    half_load::Learner,
    large,
    large::Large,
    process::{Server, cpu_seconds},
    requests::{candidates, floats, infer_body},
};

pub(super) const GROUP: Group = Group { cases: &CASES, usual: LARGE, measure };

/// Name and unit of each case.
const CASES: [(&str, &str); LARGE + large::CASES.len()] = {
    let mut all = [("", ""); LARGE + large::CASES.len()];
    all[SPEED] = ("infer, 39 floats", "requests/s");
    all[SPEED + 1] = ("predict, a row of 39 floats", "requests/s");
    // Where others want the core as well, a server with more threads gets more of it; this does not count their share.
    all[CPU] = ("infer, 39 floats, CPU alone", "requests/CPU s");
    all[CPU + 1] = ("predict, a row of 39 floats, CPU alone", "requests/CPU s");
    all[RANK] = ("rank 1,000 candidates, p50", "ms");
    all[RANK + 1] = ("rank 1,000 candidates, p99", "ms");
    let mut i = 0;
    while i < half_load::CASES.len() {
        all[HALF_LOAD + i] = half_load::CASES[i];
        i += 1;
    }
    let mut i = 0;
    while i < large::CASES.len() {
        all[LARGE + i] = large::CASES[i];
        i += 1;
    }
    all
};
const SPEED: usize = 0;
const CPU: usize = 2;
const HALF_LOAD: usize = 4;
const RANK: usize = HALF_LOAD + half_load::CASES.len();
const LARGE: usize = RANK + 2;

/// In a round, for what is measured in turns.
pub(super) const TURNS: usize = 4;

fn measure(stage: &Stage, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let (plan, wanted) = (stage.plan, &stage.wanted);
    tell("starting the servers and the bare one");
    let bare = Server::start(&["bench", "bare-server"])?;
    let mut rng = Rng::seeded(7);
    let body = infer_body(&mut rng);
    let mut cases = GROUP.empty();
    let mut large = None;
    if stage.wants(LARGE..CASES.len()) {
        tell("writing three models of 1 GiB");
        large = Some(Large::open(&stage.dir("large")?)?);
    }
    // Behind what takes long: a server hangs up on connections that are silent.
    let ours = Learner::that_is_pushed(&stage.dir("pushed")?, &mut rng)?;
    let mut follows = match stage.wants(HALF_LOAD..RANK) {
        true => Some(Learner::that_follows(&stage.dir("follows")?, &mut rng)?),
        false => None,
    };
    let mut bench = Bench::open(&bare, ours, &body, plan.seconds, &mut rng)?;
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
            if let Some(follows) = &mut follows {
                say("at half of that, at rest and learning in turns");
                let infer_here = post(follows.server.address, INFER_PATH, body.as_bytes());
                follows.half_load(&infer_here, infer / 2.0, plan.seconds, &mut cases[HALF_LOAD..RANK])?;
                say("at half of that, at rest and learning what is pushed in turns");
                bench.ours.half_load(&bench.infer, infer / 2.0, plan.seconds, &mut cases[HALF_LOAD..RANK])?;
            }
            if let Some(large) = &mut large {
                say("at half of that, at rest and while large models are loaded in turns");
                large.half_load(infer / 2.0, plan.seconds, &mut cases[LARGE..])?;
            }
        }
        if stage.wants(RANK..LARGE) {
            say("ranking on one connection");
            let times = bench.rank()?.times;
            cases[RANK].values.push(times.quantile_us(0.5) / 1e3);
            cases[RANK + 1].values.push(times.quantile_us(0.99) / 1e3);
        }
    }
    Ok(cases)
}

const INFER_PATH: &str = "/v2/models/bench/infer";

/// Connections to both servers, and what is sent.
struct Bench {
    bare: Load,
    ours: Learner,
    processes: [u32; 2],
    seconds: f64,
    bare_infer: Vec<u8>,
    infer: Vec<u8>,
    predict: Vec<u8>,
    rank: Vec<u8>,
}

impl Bench {
    fn open(bare: &Server, ours: Learner, body: &str, seconds: f64, rng: &mut Rng) -> Result<Self> {
        let floats = floats(rng);
        let named: Vec<String> = floats.iter().enumerate().map(|(i, x)| format!(r#""f{i}":{x}"#)).collect();
        let predict = format!(r#"{{"rows":[{{{}}}]}}"#, named.join(","));
        let address = ours.server.address;
        Ok(Self {
            bare: Load::open(bare.address, CONNECTIONS)?,
            processes: [bare.child.id(), ours.server.child.id()],
            ours,
            seconds,
            bare_infer: post(bare.address, INFER_PATH, body.as_bytes()),
            infer: post(address, INFER_PATH, body.as_bytes()),
            predict: post(address, "/v1/models/bench:predict", predict.as_bytes()),
            rank: post(address, "/v1/models/bench:rank", candidates(&named, rng).as_bytes()),
        })
    }

    /// The bare server, inference, and prediction of a row, as fast as replies come; with the time their processes ran.
    fn speed(&mut self, with_predict: bool) -> Result<[(Measured, Option<f64>); 3]> {
        let mut all: [(Measured, Option<f64>); 3] = [0, 1, 2].map(|_| (Measured::default(), Some(0.0)));
        let seconds = self.seconds / TURNS as f64;
        for _ in 0..TURNS {
            for (i, (measured, cpu)) in all.iter_mut().enumerate().take(2 + with_predict as usize) {
                let (load, request, process) = match i {
                    0 => (&mut self.bare, &self.bare_infer, self.processes[0]),
                    1 => (&mut self.ours.load, &self.infer, self.processes[1]),
                    _ => (&mut self.ours.load, &self.predict, self.processes[1]),
                };
                let before = cpu_seconds(process);
                measured.add(&load.closed(request, seconds)?);
                *cpu = cpu.zip(before).zip(cpu_seconds(process)).map(|((sum, before), after)| sum + after - before);
            }
        }
        Ok(all)
    }

    /// Requests to rank, one after the other.
    fn rank(&mut self) -> Result<Measured> {
        let mut measured = Measured::default();
        while measured.seconds < self.seconds {
            let (_, time) = self.ours.load.ask(&self.rank)?;
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
