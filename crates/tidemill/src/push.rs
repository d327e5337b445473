//! Events pushed over HTTP: one thread appends what all connections bring, makes it durable once for all of them, and only
//! then tells each; then it wakes the learning thread.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use bytes::Bytes;
use tidemill_base::{Clock, Error, Result, store::data_dir::DataDir};
use tidemill_serve::server::{PushReply, RefusedLine};
use tidemill_stream::source::{
    Opened, SourceSpec,
    push::{self, PushLog, Pushed},
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
    declared: Vec<String>,
    queue: Option<SyncSender<Request>>,
    waiting_bytes: Arc<AtomicUsize>,
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
    pub fn open(data: &DataDir, sources: &[SourceSpec], signal: Arc<Signal>, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut logs = Logs::new();
        for source in sources.iter().filter(|s| s.push) {
            if !logs.contains_key(&source.name) {
                let log = PushLog::open(&data.source(&source.name)?, source.columns.clone(), source.event_time_column)
                    .map_err(|e| e.at(format!("source {}", source.name)))?;
                logs.insert(source.name.clone(), log);
            }
        }
        let declared = sources.iter().map(|s| s.name.clone()).collect();
        let logs = Arc::new(Mutex::new(logs));
        let (queue, requests) = sync_channel(WAITING_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer { logs: logs.clone(), requests, waiting_bytes: waiting_bytes.clone(), signal, clock };
        std::thread::Builder::new()
            .name("push".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::unavailable(format!("cannot start the push thread: {e}")))?;
        Ok(Self { logs, declared, queue: Some(queue), waiting_bytes, reading: None })
    }

    /// Only reads what earlier runs were pushed.
    pub fn reading(data_root: &Path) -> Self {
        Self {
            logs: Arc::default(),
            declared: Vec::new(),
            queue: None,
            waiting_bytes: Arc::default(),
            reading: Some(data_root.to_path_buf()),
        }
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
        if !lock(&self.logs).contains_key(source) {
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

struct Writer {
    logs: Arc<Mutex<Logs>>,
    requests: Receiver<Request>,
    waiting_bytes: Arc<AtomicUsize>,
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
                    Some(log) => log.append(&r.body, arrival_ms),
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
