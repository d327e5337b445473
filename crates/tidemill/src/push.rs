//! Events pushed over HTTP: one thread appends what all connections bring, makes it durable once for all of them, and only
//! then tells each; then it wakes the learning thread.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use bytes::Bytes;
use tidemill_base::{Clock, Error, Result, store::data_dir::DataDir};
use tidemill_serve::server::{PushReply, RefusedLine};
use tidemill_sql::Input;
use tidemill_stream::{
    chunk::excerpt,
    source::{
        Opened, SourceSpec,
        push::{self, Door, PushLog, Pushed},
    },
    window::Window,
};
use tokio::sync::oneshot;

use crate::signal::Signal;

/// Bodies that may wait for the disk, and their bytes; beyond either callers are told to try again.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bodies made durable together at most.
const GROUP_MAX: usize = 1024;

type Logs = BTreeMap<String, PushLog>;

/// The push logs of a program's sources.
pub struct PushHub {
    logs: Arc<Mutex<Logs>>,
    /// Sources that have a log. The logs themselves are locked while what came is made durable, which may take a while.
    open: BTreeSet<String>,
    declared: Vec<String>,
    queue: Option<SyncSender<Request>>,
    waiting_bytes: Arc<AtomicUsize>,
    turned_away: Arc<TurnedAway>,
    /// Where to read the logs of a directory that another process may own.
    reading: Option<PathBuf>,
}

struct Request {
    source: String,
    body: Bytes,
    reply: oneshot::Sender<Result<PushReply>>,
}

impl PushHub {
    /// Opens the logs of those sources that take pushed events, and starts the writing thread.
    pub fn open(data: &DataDir, inputs: &[&Input], signal: Arc<Signal>, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut logs = Logs::new();
        for input in inputs.iter().filter(|i| i.source.push) {
            let source = &input.source;
            if !logs.contains_key(&source.name) {
                let log = PushLog::open(&data.source(&source.name)?, source.columns.clone(), source.event_time_column)
                    .map_err(|e| e.at(format!("source {}", source.name)))?;
                logs.insert(source.name.clone(), log.with_door(door(input)));
            }
        }
        let open = logs.keys().cloned().collect();
        let declared = inputs.iter().map(|i| i.source.name.clone()).collect();
        let logs = Arc::new(Mutex::new(logs));
        let (queue, requests) = sync_channel(WAITING_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let turned_away = Arc::new(TurnedAway::default());
        let writer = Writer {
            logs: logs.clone(),
            requests,
            waiting_bytes: waiting_bytes.clone(),
            turned_away: turned_away.clone(),
            signal,
            clock,
        };
        std::thread::Builder::new()
            .name("push".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::unavailable(format!("cannot start the push thread: {e}")))?;
        Ok(Self { logs, open, declared, queue: Some(queue), waiting_bytes, turned_away, reading: None })
    }

    /// Only reads what earlier runs were pushed.
    pub fn reading(data_root: &Path) -> Self {
        Self {
            logs: Arc::default(),
            open: BTreeSet::new(),
            declared: Vec::new(),
            queue: None,
            waiting_bytes: Arc::default(),
            turned_away: Arc::default(),
            reading: Some(data_root.to_path_buf()),
        }
    }

    /// Lines that were not let in.
    pub fn turned_away(&self) -> &Arc<TurnedAway> {
        &self.turned_away
    }

    /// The reading end of a source's log.
    pub fn partition(&self, source: &SourceSpec) -> Result<Opened> {
        let partition = match &self.reading {
            Some(root) => {
                let dir = root.join("sources").join(&source.name);
                push::read(&dir, source.columns.clone(), &source.name, source.event_time_column)?
            }
            None => lock(&self.logs)
                .get(&source.name)
                .ok_or_else(|| Error::internal(format!("the push log of '{}' is not open", source.name)))?
                .reader(&source.name)?,
        };
        Ok(Opened { partition: Box::new(partition), ordered: false })
    }

    /// Queues a body; the receiver hears once its good lines are durable.
    pub fn push(&self, source: &str, body: Bytes) -> Result<oneshot::Receiver<Result<PushReply>>> {
        if !self.open.contains(source) {
            return Err(match self.declared.iter().any(|d| d == source) {
                true => Error::conflict(format!(
                    "source '{source}' takes no pushed events; declare it WITH (..., push = true)"
                )),
                false => Error::not_found(format!("no source '{source}' (have {})", self.declared.join(", "))),
            });
        }
        let queue = self.queue.as_ref().ok_or_else(|| Error::unavailable("this process takes no events"))?;
        let full = || Error::exhausted("too many pushed events wait for the disk; try again");
        let bytes = body.len();
        if self.waiting_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes > WAITING_BYTES_MAX {
            self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
            return Err(full());
        }
        let (reply, receiver) = oneshot::channel();
        queue.try_send(Request { source: source.to_string(), body, reply }).map_err(|e| {
            self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
            match e {
                TrySendError::Full(_) => full(),
                TrySendError::Disconnected(_) => Error::unavailable("the process is stopping"),
            }
        })?;
        Ok(receiver)
    }
}

/// Lines that were not let in: their senders were told; here they are counted, and wait for the dead letter. They are in no
/// log, so after a restart the count begins anew.
#[derive(Default)]
pub struct TurnedAway {
    count: AtomicU64,
    waiting: Mutex<VecDeque<TurnedAwayLine>>,
}

/// One line for the dead letter.
pub struct TurnedAwayLine {
    /// The source it was pushed to.
    pub source: String,
    /// What is wrong with it.
    pub reason: String,
    /// How it begins.
    pub excerpt: String,
}

/// Lines that may wait for the dead letter; beyond it they are counted only.
const TURNED_AWAY_MAX: usize = 1024;

impl TurnedAway {
    fn add(&self, source: &str, body: &[u8], refused: &[(u64, String)]) {
        if refused.is_empty() {
            return;
        }
        self.count.fetch_add(refused.len() as u64, Ordering::Relaxed);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = body.split(|&b| b == b'\n').zip(1u64..);
        for (number, reason) in refused.iter().take(TURNED_AWAY_MAX.saturating_sub(waiting.len())) {
            let line = lines.find(|(_, n)| n == number).map_or(&b""[..], |(line, _)| line);
            let (source, reason) = (source.to_string(), reason.clone());
            waiting.push_back(TurnedAwayLine { source, reason, excerpt: excerpt(line.trim_ascii()) });
        }
    }

    /// How many since the process began.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes those that wait.
    pub fn take(&self) -> VecDeque<TurnedAwayLine> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A clock that shows a time before this program was made is not believed: no event is measured against it.
pub fn believed(wall_ms: i64) -> Option<i64> {
    const MADE_AFTER_MS: i64 = 1_704_067_200_000;
    (wall_ms >= MADE_AFTER_MS).then_some(wall_ms)
}

fn door(input: &Input) -> Door {
    let (event_time, id) = (input.event_time, input.source.primary_key);
    let window = Window { computed: input.computed.clone(), event_time, id, view: None };
    Door { window, ahead_max_ms: input.source.ahead_max_ms }
}

struct Writer {
    logs: Arc<Mutex<Logs>>,
    requests: Receiver<Request>,
    waiting_bytes: Arc<AtomicUsize>,
    turned_away: Arc<TurnedAway>,
    signal: Arc<Signal>,
    clock: Arc<dyn Clock>,
}

impl Writer {
    fn run(self) {
        while let Ok(first) = self.requests.recv() {
            let group: Vec<Request> =
                std::iter::once(first).chain(self.requests.try_iter().take(GROUP_MAX - 1)).collect();
            let mut logs = lock(&self.logs);
            let arrival_ms = self.clock.wall_ms();
            let appended: Vec<Result<Pushed>> = group
                .iter()
                .map(|r| match logs.get_mut(&r.source) {
                    Some(log) => log.append_at(&r.body, arrival_ms, believed(arrival_ms)),
                    None => Err(Error::internal("the log is not open")),
                })
                .collect();
            let mut synced: BTreeMap<&str, Result<(), String>> = BTreeMap::new();
            for r in &group {
                if !synced.contains_key(r.source.as_str()) {
                    let result =
                        logs.get_mut(&r.source).map_or(Ok(()), |log| log.sync().map_err(|e| e.message().to_string()));
                    synced.insert(&r.source, result);
                }
            }
            drop(logs);
            self.waiting_bytes.fetch_sub(group.iter().map(|r| r.body.len()).sum(), Ordering::SeqCst);
            for (r, appended) in group.iter().zip(&appended) {
                if let Ok(pushed) = appended {
                    self.turned_away.add(&r.source, &r.body, &pushed.refused);
                }
            }
            self.signal.wake();
            let synced: Vec<Result<(), String>> = group.iter().map(|r| synced[r.source.as_str()].clone()).collect();
            for ((request, appended), synced) in group.into_iter().zip(appended).zip(synced) {
                let reply = match synced {
                    Err(e) => Err(Error::unavailable(format!("not stored: {e}"))),
                    Ok(()) => appended.map(reply_of),
                };
                // A caller that has gone away does not hear; its events are stored all the same.
                let _ = request.reply.send(reply);
            }
        }
    }
}

fn reply_of(pushed: Pushed) -> PushReply {
    PushReply {
        accepted: pushed.accepted,
        refused: pushed.refused.into_iter().map(|(line, reason)| RefusedLine { line, reason }).collect(),
        first_offset: (pushed.accepted > 0).then_some(pushed.first_offset),
    }
}

fn lock(logs: &Mutex<Logs>) -> MutexGuard<'_, Logs> {
    logs.lock().unwrap_or_else(PoisonError::into_inner)
}
