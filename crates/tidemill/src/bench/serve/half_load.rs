//! How long requests take at half of what the server could answer: at rest, and while the model learns beside it, on the same
//! core.
//!
//! In: events that make the model learn a hundred times a second: lines that are appended to a file which the job follows, or
//! bodies that are pushed over HTTP, and so are requests to the same server themselves. Who asks also appends, and meanwhile
//! takes no replies; at rest it appends as much to a file that nobody follows. Out: figures of short slices, at rest and
//! learning in turns. A slice has its own p50 and p99, and what is told is the median of the slices. A pause of the machine
//! spoils the slice it falls into and no other; what such pauses add up to is told beside it, as the share of requests that
//! took more than a millisecond, over all slices.

use std::{fs::File, path::Path, time::Duration};

use serde_json::Value;
use tidemill_base::{Clock, Error, Result, Rng, SystemClock};

use super::{
    super::{
        Case,
        load::{Beside, Load, Measured, get, post},
    },
    CONNECTIONS,
    process::Server,
    requests::{events, program},
};

/// Name and unit of each case, for events of either kind.
pub(super) const CASES: [(&str, &str); 2 * WAY] = [
    ("infer at half load, p50", "us"),
    ("infer at half load, p99", "us"),
    ("infer at half load, beyond 1 ms", "%"),
    ("infer at half load while learning, p50", "us"),
    ("infer at half load while learning, p99", "us"),
    ("infer at half load while learning, beyond 1 ms", "%"),
    ("events while learning", "deltas/s"),
    ("infer at half load before pushes, p50", "us"),
    ("infer at half load before pushes, p99", "us"),
    ("infer at half load before pushes, beyond 1 ms", "%"),
    ("infer at half load while pushes are learned, p50", "us"),
    ("infer at half load while pushes are learned, p99", "us"),
    ("infer at half load while pushes are learned, beyond 1 ms", "%"),
    ("pushes while learning", "deltas/s"),
];
/// Cases of either kind: three at rest, three while learning, and how often it learned.
const WAY: usize = 7;

/// Two deltas, long enough for a p99, and short enough that most are without a pause of the machine.
pub(super) const SLICE_SECONDS: f64 = 0.02;
/// Each leads to a delta.
const PARTS_PER_SECOND: u32 = 100;
/// Different parts, sent in turns.
const PARTS: usize = 40;
/// How long a server may take until it answers with a model that has learned.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A server with a model that learns when it is given something to learn.
pub(super) struct Learner {
    pub server: Server,
    pub load: Load,
    parts: Vec<Vec<u8>>,
    files: Option<Files>,
    next: usize,
}

/// What is appended to.
struct Files {
    followed: File,
    unread: File,
}

impl Learner {
    /// A server whose job follows a file in `dir`.
    pub fn that_follows(dir: &Path, rng: &mut Rng) -> Result<Self> {
        let path = dir.join("clicks.jsonl");
        let new = |path: &Path| {
            let file = File::options().append(true).create_new(true).open(path);
            file.map_err(|e| Error::io("create", path, e))
        };
        let files = Files { followed: new(&path)?, unread: new(&dir.join("unread.jsonl"))? };
        let source = format!("connector = 'file', path = '{}', format = 'json', follow = true", path.display());
        Self::open(dir, &source, Some(files), rng)
    }

    /// A server that takes pushed events.
    pub fn that_is_pushed(dir: &Path, rng: &mut Rng) -> Result<Self> {
        Self::open(dir, "connector = 'http'", None, rng)
    }

    fn open(dir: &Path, source: &str, files: Option<Files>, rng: &mut Rng) -> Result<Self> {
        let (program, data) = (program(source), dir.join("data").display().to_string());
        let server = Server::start(&["run", "-e", &program, "--data-dir", &data, "--port", "0", "--threads", "1"])?;
        let parts = (0..PARTS).map(|_| events(rng));
        let parts = match files {
            Some(_) => parts.map(String::into_bytes).collect(),
            None => parts.map(|text| post(server.address, "/v1/sources/clicks", text.as_bytes())).collect(),
        };
        let load = Load::open(server.address, CONNECTIONS)?;
        let mut learner = Self { server, load, parts, files, next: 0 };
        learner.learn()?;
        Ok(learner)
    }

    /// Gives it all there is and waits until it has learned something.
    fn learn(&mut self) -> Result<()> {
        for part in &self.parts {
            match &mut self.files {
                Some(files) => std::io::Write::write_all(&mut files.followed, part)
                    .map_err(|e| Error::unavailable(format!("append events: {e}")))?,
                None => _ = self.load.ask(part)?,
            }
        }
        let model = get(self.server.address, "/v1/models/bench");
        let clock = SystemClock::new();
        loop {
            let (body, _) = self.load.ask(&model)?;
            let model: Value = serde_json::from_slice(&body).unwrap_or_default();
            if model["mini_batch"].as_u64().is_some_and(|n| n > 0) {
                return Ok(());
            }
            if clock.elapsed() > START_TIME_MAX {
                return Err(Error::unavailable("the server has not learned from what it was given"));
            }
        }
    }

    /// `request` at a rate, slices at rest and slices while it learns in turns, into its [`CASES`].
    pub fn half_load(&mut self, request: &[u8], rate: f64, seconds: f64, cases: &mut [Case]) -> Result<()> {
        let cases = if self.files.is_some() { &mut cases[..WAY] } else { &mut cases[WAY..2 * WAY] };
        let slices = (seconds / SLICE_SECONDS).ceil().max(2.0) as usize;
        let mut all: [Measured; 2] = Default::default();
        let every = Duration::from_secs(1) / PARTS_PER_SECOND;
        for _ in 0..slices {
            let beside = |file, next| Beside { parts: &self.parts, file, next, every };
            let mut unread = self.files.as_ref().map(|files| beside(Some(&files.unread), 0));
            let rest = self.load.open_loop(request, rate, SLICE_SECONDS, unread.as_mut())?;
            let mut beside = beside(self.files.as_ref().map(|files| &files.followed), self.next);
            let learning = self.load.open_loop(request, rate, SLICE_SECONDS, Some(&mut beside))?;
            self.next = beside.next;
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
        cases[WAY - 1].values.push(all[1].beside as f64 / all[1].seconds);
        cases[..WAY - 1].iter_mut().for_each(|case| case.compares_medians = true);
        Ok(())
    }
}
