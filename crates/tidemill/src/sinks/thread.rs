//! The thread of one sink.
//!
//! In: words in the order of the mini-batches. Out: rows at the outlet, in groups: what has gathered while one group was on its
//! way is the next. A place that is away, or full, is tried again until it is not, and said so; every other error ends the job.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use tidemill_base::{Clock, Error, Kind, Result, store::log::LogSync};
use tidemill_sql::SinkJob;
use tidemill_stream::sink::{Outlet, SinkConnector, SinkRows, SinkSpec};

use super::SinkStatus;
use crate::engine::leaving::Leaving;

/// Bytes of samples that go in one group, about.
const GROUP_BYTES: u64 = 4 << 20;
const RETRY_EVERY: Duration = Duration::from_millis(300);
/// How often the age of what is kept back is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a sink's thread is told.
pub(super) enum Word {
    /// Samples, and what they weigh.
    Rows { leaving: Arc<Leaving>, bytes: u64 },
    /// Everything up to `through` is to be durable; then the state is answered.
    Sync { through: u64, answer: SyncSender<Vec<u8>> },
    /// What is kept back is to be seen; counted as one that waits.
    Show { through: u64 },
}

/// What the thread and the job share.
pub(super) struct Progress {
    name: String,
    connector: &'static str,
    buffer_bytes: u64,
    rows: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicU64,
    waiting_bytes: AtomicU64,
    refused: AtomicU64,
    stopped: AtomicBool,
    trouble: Mutex<Option<String>>,
    refusal: Mutex<Option<String>>,
    failure: Mutex<Option<Error>>,
}

impl Progress {
    pub fn new(spec: &SinkSpec) -> Self {
        Self {
            name: spec.name.clone(),
            connector: spec.connector_word(),
            buffer_bytes: spec.buffer_bytes as u64,
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            waiting_bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            trouble: Mutex::default(),
            refusal: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    pub fn add(&self, rows: u64, bytes: u64) {
        self.waiting.fetch_add(rows, Relaxed);
        self.waiting_bytes.fetch_add(bytes, Relaxed);
    }

    fn done(&self, rows: u64, bytes: u64) {
        self.waiting.fetch_sub(rows, Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
    }

    pub fn is_drained(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// What the job waits for, where there is no room for more.
    pub fn is_full(&self) -> Option<String> {
        let bytes = self.waiting_bytes.load(Relaxed);
        (bytes > self.buffer_bytes).then(|| {
            let why = lock(&self.trouble).clone().unwrap_or_else(|| "it is slower than the job".into());
            format!("sink {}: {} rows wait, as many as may: {why}", self.name, self.waiting.load(Relaxed))
        })
    }

    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub fn take_failure(&self) -> Option<Error> {
        lock(&self.failure).take().map(|e| e.at(format!("sink {}", self.name)))
    }

    pub fn status(&self) -> SinkStatus {
        let trouble = lock(&self.trouble).clone();
        SinkStatus {
            name: self.name.clone(),
            connector: self.connector,
            rows: self.rows.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            waiting_bytes: self.waiting_bytes.load(Relaxed),
            refused: self.refused.load(Relaxed),
            is_away: trouble.is_some(),
            trouble: trouble.or_else(|| lock(&self.refusal).clone()),
        }
    }
}

/// Why the thread ends before its last word.
enum Over {
    /// Nobody waits for it any more.
    Stopped,
    Failed(Error),
}

/// What the thread works with.
pub(super) struct Work {
    sink: SinkJob,
    outlet: Box<dyn Outlet>,
    journal: LogSync,
    clock: Arc<dyn Clock>,
    progress: Arc<Progress>,
    /// The last mini-batch that was delivered.
    through: u64,
    /// When the first row came that cannot be seen yet.
    kept_since: Option<Duration>,
    interval: Option<Duration>,
}

impl Work {
    pub fn new(
        sink: SinkJob,
        outlet: Box<dyn Outlet>,
        journal: LogSync,
        clock: Arc<dyn Clock>,
        progress: Arc<Progress>,
        through: u64,
    ) -> Self {
        let interval = match &sink.spec.connector {
            SinkConnector::File(file) => file.roll_interval_ms.map(Duration::from_millis),
            _ => None,
        };
        // What an earlier process kept back is as old as this one, at least.
        let kept_since = interval.map(|_| clock.elapsed());
        Self { sink, outlet, journal, clock, progress, through, kept_since, interval }
    }

    pub fn run(mut self, words: &Receiver<Word>) {
        if let Err(Over::Failed(e)) = self.work(words) {
            *lock(&self.progress.failure) = Some(e);
        }
    }

    fn work(&mut self, words: &Receiver<Word>) -> Result<(), Over> {
        loop {
            let mut next = match words.recv_timeout(LOOK_EVERY) {
                Ok(word) => Some(word),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if self.progress.stopped.load(Relaxed) {
                return Err(Over::Stopped);
            }
            let (mut group, mut rows, mut bytes) = (Vec::new(), 0, 0);
            while let Some(Word::Rows { leaving, bytes: of_these }) = next {
                group.push(self.rows(&leaving).map_err(Over::Failed)?);
                rows += leaving.rows.num_rows() as u64;
                bytes += of_these;
                next = if bytes < GROUP_BYTES { words.try_recv().ok() } else { None };
            }
            if let Some(last) = group.last() {
                self.deliver(&group)?;
                self.through = last.mini_batch;
                self.progress.done(rows, bytes);
            }
            match next {
                Some(Word::Sync { through, answer }) => {
                    self.through = self.through.max(through);
                    let state = self.until_it_works(|work| work.outlet.sync(through))?;
                    // Whoever asked may have gone.
                    let _ = answer.send(state);
                }
                Some(Word::Show { through }) => {
                    self.until_it_works(|work| work.outlet.show(through))?;
                    self.progress.done(1, 0);
                }
                Some(Word::Rows { .. }) | None => {}
            }
            self.show_what_is_old()?;
        }
    }

    /// The sink's rows of a mini-batch.
    fn rows(&self, leaving: &Leaving) -> Result<SinkRows> {
        let out = self.sink.rows.apply(&leaving.columns()?)?;
        if let Some((_, why)) = out.refused.first() {
            self.progress.refused.fetch_add(out.refused.len() as u64, Relaxed);
            *lock(&self.progress.refusal) =
                Some(format!("a row of mini-batch {} is left out: {why}", leaving.mini_batch));
        }
        let numbers = out.kept.unwrap_or_else(|| (0..out.rows.num_rows() as u32).collect());
        Ok(SinkRows { mini_batch: leaving.mini_batch, rows: out.rows, numbers })
    }

    fn deliver(&mut self, group: &[SinkRows]) -> Result<(), Over> {
        let delivered = self.until_it_works(|work| {
            // What leaves the engine waits until the records that it stands on are durable.
            work.journal.sync()?;
            work.outlet.deliver(group)
        })?;
        self.progress.rows.fetch_add(delivered.rows, Relaxed);
        self.progress.bytes.fetch_add(delivered.bytes, Relaxed);
        if delivered.rows > 0 && self.interval.is_some() {
            self.kept_since.get_or_insert_with(|| self.clock.elapsed());
        }
        Ok(())
    }

    fn show_what_is_old(&mut self) -> Result<(), Over> {
        if let (Some(since), Some(interval)) = (self.kept_since, self.interval)
            && self.clock.elapsed().saturating_sub(since) >= interval
        {
            self.kept_since = None;
            let through = self.through;
            self.until_it_works(|work| work.outlet.show(through))?;
        }
        Ok(())
    }

    /// Tries again as long as only the outside world is in the way.
    fn until_it_works<T>(&mut self, mut act: impl FnMut(&mut Self) -> Result<T>) -> Result<T, Over> {
        loop {
            match act(self) {
                Ok(done) => {
                    *lock(&self.progress.trouble) = None;
                    return Ok(done);
                }
                Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Exhausted) => {
                    *lock(&self.progress.trouble) = Some(e.to_string());
                    if self.progress.stopped.load(Relaxed) {
                        return Err(Over::Stopped);
                    }
                    std::thread::park_timeout(RETRY_EVERY);
                }
                Err(e) => return Err(Over::Failed(e)),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
