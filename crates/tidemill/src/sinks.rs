//! Sinks of a running job: a thread for each, which delivers the job's samples at its own pace.
//!
//! In: samples as the learner has predicted them, mini-batch after mini-batch. Out: the same rows at the sink's place, none of
//! them before the journal records that they stand on are durable. What waits is bounded by `buffer.bytes` and a few
//! mini-batches; then the job waits. Nothing that waits is kept on disk: a checkpoint is written once every sink has all rows
//! up to it, so that what a killed process had not delivered is derived again.

mod thread;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel, sync_channel},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tidemill_base::{
    Clock, Error, Result,
    codec::{Decoder, Encoder},
    store::log::LogSync,
};
use tidemill_sql::{SinkJob, TrainJob};
use tidemill_stream::sink::{FileOutlet, Outlet, Owner, SinkConnector};

use crate::engine::leaving::{Exit, Leaving};
use thread::{Progress, Word, Work};

/// How long a replay waits for a place that takes nothing.
const REPLAY_WAITS: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What checkpoints keep of each sink, by its identity.
pub type States = BTreeMap<u64, Vec<u8>>;

/// The sinks of one job.
#[derive(Default)]
pub struct Sinks {
    opened: Vec<(SinkJob, Box<dyn Outlet>)>,
    running: Vec<Running>,
}

struct Running {
    identity: u64,
    words: Sender<Word>,
    progress: Arc<Progress>,
}

/// Where a sink stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Its connector.
    pub connector: &'static str,
    /// Rows delivered by this process.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Samples that wait.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Samples on which an expression of the sink failed.
    pub refused: u64,
    /// Whether nothing is delivered at the moment.
    pub is_away: bool,
    /// Why nothing is delivered at the moment, or why a sample was refused.
    pub trouble: Option<String>,
}

impl SinkStatus {
    /// As the page and the last line of `--json` have it.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name, "connector": self.connector, "rows": self.rows, "bytes": self.bytes,
            "waiting": self.waiting, "waiting_bytes": self.waiting_bytes, "refused": self.refused,
            "trouble": self.trouble,
        })
    }
}

impl Sinks {
    /// Opens the places. Nothing leaves before [`Sinks::start`].
    pub fn open(job: &TrainJob, lineage: u64) -> Result<Self> {
        let mut opened = Vec::new();
        for sink in &job.sinks {
            let owner = Owner { lineage, model: job.model.clone(), sink: sink.spec.name.clone() };
            let columns = sink.rows.output();
            let outlet: Result<Box<dyn Outlet>> = match &sink.spec.connector {
                SinkConnector::File(file) => FileOutlet::open(file, sink.spec.format, &owner, &columns)
                    .map(|outlet| Box::new(outlet) as Box<dyn Outlet>),
                _ => tidemill_connect::open_sink(&sink.spec, &owner, &columns),
            };
            opened.push((sink.clone(), outlet.map_err(|e| e.at(format!("sink {}", sink.spec.name)))?));
        }
        Ok(Self { opened, running: Vec::new() })
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.running.is_empty()
    }

    /// Whether rows behind mini-batch `from` are all that is missing anywhere.
    pub fn can_resume(&self, from: u64, states: &States) -> bool {
        self.opened.iter().all(|(sink, outlet)| outlet.can_resume(from, states.get(&sink.identity).map(Vec::as_slice)))
    }

    /// Rows come from behind mini-batch `from` on; each waits for a journal record that `journal` makes durable.
    pub fn start(
        &mut self,
        from: u64,
        states: &States,
        journal: &dyn Fn() -> Result<LogSync>,
        clock: &Arc<dyn Clock>,
    ) -> Result<()> {
        for (sink, mut outlet) in std::mem::take(&mut self.opened) {
            let name = sink.spec.name.clone();
            let state = states.get(&sink.identity).map(Vec::as_slice);
            outlet.resume(from, state).map_err(|e| e.at(format!("sink {name}")))?;
            let (words, inbox) = channel();
            let progress = Arc::new(Progress::new(&sink.spec));
            let identity = sink.identity;
            let work = Work::new(sink, outlet, journal()?, clock.clone(), progress.clone(), from);
            let builder = std::thread::Builder::new().name(format!("sink {name}"));
            builder
                .spawn(move || work.run(&inbox))
                .map_err(|e| Error::unavailable(format!("sink {name}: cannot start its thread: {e}")))?;
            self.running.push(Running { identity, words, progress });
        }
        Ok(())
    }

    /// Where the learner puts what it has predicted; `None` where nobody takes it.
    pub fn exit(&self) -> Option<Exit> {
        if self.running.is_empty() {
            return None;
        }
        let outs: Vec<(Sender<Word>, Arc<Progress>)> =
            self.running.iter().map(|r| (r.words.clone(), r.progress.clone())).collect();
        // The learner's thread is one at a time, but a channel's end is not for several.
        let outs = Mutex::new(outs);
        Some(Arc::new(move |leaving: Leaving| {
            let (rows, bytes, leaving) = (leaving.rows.num_rows() as u64, leaving.bytes() as u64, Arc::new(leaving));
            for (words, progress) in &*outs.lock().expect("nobody panics while holding it") {
                progress.add(rows, bytes);
                // A thread that has failed is noticed by the job.
                let _ = words.send(Word::Rows { leaving: leaving.clone(), bytes });
            }
        }))
    }

    /// The error that ended a sink.
    pub fn failure(&self) -> Result<()> {
        self.running.iter().find_map(|r| r.progress.take_failure()).map_or(Ok(()), Err)
    }

    /// Why no more samples may be made: a sink that is as far behind as it may be.
    pub fn waits_for(&self) -> Option<String> {
        self.running.iter().find_map(|r| r.progress.is_full())
    }

    /// Waits until there is room, while samples of before are made again.
    pub fn make_room(&self) -> Result<()> {
        let mut waited = Duration::ZERO;
        let delivered = || self.running.iter().map(|r| r.progress.status().rows).sum::<u64>();
        let mut before = delivered();
        while let Some(why) = self.waits_for() {
            self.failure()?;
            if waited >= REPLAY_WAITS {
                return Err(Error::unavailable(why));
            }
            std::thread::park_timeout(LOOK_EVERY);
            waited = if delivered() == before { waited + LOOK_EVERY } else { Duration::ZERO };
            before = delivered();
        }
        self.failure()
    }

    /// Whether everything that left the learner was delivered.
    pub fn is_drained(&self) -> bool {
        self.running.iter().all(|r| r.progress.is_drained())
    }

    /// For a checkpoint of now: answers once every sink has all rows up to mini-batch `through`.
    pub fn barrier(&self, through: u64) -> Option<Barrier> {
        if self.running.is_empty() {
            return None;
        }
        let answers = self.running.iter().map(|r| {
            let (answer, answered) = sync_channel(1);
            let _ = r.words.send(Word::Sync { through, answer });
            (r.identity, answered)
        });
        Some(Barrier(answers.collect()))
    }

    /// Lets what was kept back be seen; [`Sinks::is_drained`] says when it can be.
    pub fn show(&self, through: u64) {
        for r in &self.running {
            r.progress.add(1, 0);
            let _ = r.words.send(Word::Show { through });
        }
    }

    /// Gives up what was not delivered; it is derived again at the next start.
    pub fn abandon(&mut self) {
        self.running.iter().for_each(|r| r.progress.stop());
    }

    /// Where each stands.
    pub fn status(&self) -> Vec<SinkStatus> {
        self.running.iter().map(|r| r.progress.status()).collect()
    }

    /// What keeps a sink from delivering, or is wrong with its rows.
    pub fn trouble(&self) -> Option<String> {
        self.status().into_iter().find_map(|s| Some(format!("sink {}: {}", s.name, s.trouble?)))
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Answers that are on their way.
pub struct Barrier(Vec<(u64, Receiver<Vec<u8>>)>);

impl Barrier {
    /// Waits for all of them: the section of a checkpoint, with its length behind it.
    pub fn wait(self) -> Result<Vec<u8>> {
        let mut out = Encoder::new();
        out.put_varint(self.0.len() as u64);
        for (identity, answered) in self.0 {
            let state = answered.recv().map_err(|_| Error::unavailable("a sink has not all rows up to it"))?;
            out.put_u64(identity).put_bytes(&state);
        }
        let mut section = out.finish();
        let len = section.len() as u32;
        section.extend_from_slice(&len.to_le_bytes());
        Ok(section)
    }
}

/// Takes a checkpoint's body apart: what the engine wrote, and what stands behind it of sinks.
pub fn split(body: &[u8]) -> Result<(&[u8], States)> {
    let torn = || Error::corrupt("the places of its sinks are not whole");
    let (rest, len) = body.split_last_chunk::<4>().ok_or_else(torn)?;
    let at = rest.len().checked_sub(u32::from_le_bytes(*len) as usize).ok_or_else(torn)?;
    let (engine, section) = rest.split_at(at);
    let mut d = Decoder::new(section, "the places of its sinks");
    let mut states = States::new();
    for _ in 0..d.count(9)? {
        let identity = d.u64()?;
        states.insert(identity, d.bytes()?.to_vec());
    }
    d.end()?;
    Ok((engine, states))
}
