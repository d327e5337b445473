//! Steps 5 and 6 beside the steps before them: with a second thread, samples are learned from while the next are read.
//!
//! In: the samples of one mini-batch after the other. Out: the trainer, as of the mini-batches it has learned. One queue,
//! one worker: what is learned is the same as on one thread, to the bit. At most [`QUEUE_MAX`] mini-batches wait; then the
//! caller does. Whoever needs the state of a certain moment calls [`Learning::settle`] first. A learner that panics ends
//! its own model and nothing else.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tidemill_base::{Clock, Error, Result, SystemClock};
use tidemill_model::Features;
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{Delayed, SampleBatch, Trainer};

use super::leaving::Outgoing;

/// Mini-batches that may wait for the learner.
const QUEUE_MAX: usize = 8;

/// The samples of one mini-batch, ready to be learned from.
#[derive(Debug, Default)]
pub struct Lesson {
    /// The mini-batch it came of.
    pub mini_batch: u64,
    /// What the samples say.
    pub features: Features,
    /// One label per sample.
    pub labels: Vec<f32>,
    /// What each sample is.
    pub kinds: Vec<SampleKind>,
    /// How those whose label may still change are learned.
    pub delayed: Delayed,
    /// Number of each sample's impression.
    pub seqs: Vec<u64>,
    /// True probabilities, where they are known.
    pub oracle: Option<Vec<f64>>,
    /// Sample weights, where they differ.
    pub weights: Option<Vec<f32>>,
    /// Group of each sample, where somebody asked for figures by group.
    pub groups: Option<Vec<u32>>,
    /// Impressions whose label became final.
    pub matured: Vec<Matured>,
    /// Its rows, where they leave to sinks.
    pub(super) outgoing: Option<Box<Outgoing>>,
}

/// A trainer, learning here or on a thread of its own.
pub struct Learning {
    shared: Arc<Shared>,
    worker: Option<Worker>,
    given: u64,
    /// Only to say how long the caller waited: nothing is decided by it.
    clock: SystemClock,
    waited: Duration,
}

struct Shared {
    trainer: Mutex<Trainer>,
    progress: Mutex<Progress>,
    moved: Condvar,
}

#[derive(Default)]
struct Progress {
    learned: u64,
    mini_batch: u64,
    failure: Option<String>,
}

struct Worker {
    queue: SyncSender<Lesson>,
    /// Lessons that were learned, for their memory.
    used: Receiver<Lesson>,
    handle: Option<JoinHandle<()>>,
}

impl Learning {
    /// Learns on the caller's thread, or (`beside`) on another.
    pub fn new(trainer: Trainer, beside: bool) -> Self {
        let shared =
            Arc::new(Shared { trainer: Mutex::new(trainer), progress: Mutex::default(), moved: Condvar::new() });
        let worker = beside.then(|| Worker::start(shared.clone()));
        Self { shared, worker, given: 0, clock: SystemClock::new(), waited: Duration::ZERO }
    }

    /// Whether it learns on a thread of its own.
    pub fn is_beside(&self) -> bool {
        self.worker.is_some()
    }

    /// Takes the samples of the next mini-batch, and gives back an empty lesson to fill.
    pub fn learn(&mut self, mut lesson: Lesson) -> Result<Lesson> {
        self.given += 1;
        let began = self.clock.elapsed();
        match &self.worker {
            None => {
                self.shared.learn(&mut lesson);
                self.waited += self.clock.elapsed() - began;
                self.check()?;
                Ok(lesson)
            }
            Some(worker) => {
                let sent = worker.queue.send(lesson);
                self.waited += self.clock.elapsed() - began;
                self.check()?;
                sent.map_err(|_| Error::internal("the learning thread has ended"))?;
                match worker.used.try_recv() {
                    Ok(used) => Ok(used),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(Lesson::default()),
                }
            }
        }
    }

    /// How long callers of [`Learning::learn`] were held up: by a full queue, or by learning on their own thread.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Mini-batches that were given and are not learned yet, and how many there can be.
    pub fn queue(&self) -> (u64, u64) {
        let waiting = self.given - lock(&self.shared.progress).learned;
        // Beside those that wait, one is being learned.
        (waiting, self.worker.as_ref().map_or(1, |_| QUEUE_MAX as u64 + 1))
    }

    /// Waits until everything given was learned.
    pub fn settle(&self) -> Result<()> {
        let mut progress = lock(&self.shared.progress);
        while progress.learned < self.given && progress.failure.is_none() {
            progress = self.shared.moved.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        drop(progress);
        self.check()
    }

    /// The trainer between two mini-batches. What was given and not learned yet is not in it: see [`Learning::settle`].
    pub fn trainer(&self) -> MutexGuard<'_, Trainer> {
        lock(&self.shared.trainer)
    }

    /// The mini-batch up to which everything was learned, where the stream is at `now`.
    pub fn learned_to(&self, now: u64) -> u64 {
        let progress = lock(&self.shared.progress);
        if progress.learned == self.given { now } else { progress.mini_batch }
    }

    fn check(&self) -> Result<()> {
        match &lock(&self.shared.progress).failure {
            None => Ok(()),
            Some(why) => Err(Error::internal(format!("the learner failed and this model was stopped: {why}"))),
        }
    }
}

impl Shared {
    /// Learns one lesson; `false` once the learner has failed.
    fn learn(&self, lesson: &mut Lesson) -> bool {
        let mut outgoing = lesson.outgoing.take();
        let Lesson { mini_batch, features, labels, kinds, delayed, seqs, oracle, weights, groups, matured, .. } =
            lesson;
        let update = || {
            let mut trainer = lock(&self.trainer);
            let batch = SampleBatch {
                features,
                labels,
                kinds,
                seqs,
                oracle: oracle.as_deref(),
                weights: weights.as_deref(),
                groups: groups.as_deref(),
            };
            trainer.update_delayed(&batch, delayed);
            trainer.mature(matured);
            if let Some(outgoing) = &mut outgoing {
                outgoing.leaving.predictions = trainer.predictions(labels.len());
            }
        };
        let outcome = catch_unwind(AssertUnwindSafe(update));
        if let (Ok(()), Some(outgoing)) = (&outcome, outgoing) {
            (outgoing.exit)(outgoing.leaving);
        }
        let mut progress = lock(&self.progress);
        match outcome {
            Ok(()) => {
                progress.learned += 1;
                progress.mini_batch = *mini_batch;
            }
            Err(panic) => progress.failure = Some(message(&*panic)),
        }
        self.moved.notify_all();
        progress.failure.is_none()
    }
}

impl Worker {
    fn start(shared: Arc<Shared>) -> Self {
        let (queue, lessons) = sync_channel::<Lesson>(QUEUE_MAX);
        let (give_back, used) = sync_channel(QUEUE_MAX + 2);
        let work = move || {
            while let Ok(mut lesson) = lessons.recv() {
                if !shared.learn(&mut lesson) {
                    break;
                }
                // Nobody may be there any more to take it.
                let _ = give_back.try_send(lesson);
            }
        };
        let handle = thread::Builder::new().name("learner".into()).spawn(work);
        Self { queue, used, handle: Some(handle.expect("a thread can be started")) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread ends when it finds the queue closed.
        let (closed, _) = sync_channel(0);
        self.queue = closed;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

#[cfg(test)]
mod tests {
    use tidemill_base::Kind;
    use tidemill_train::TrainSpec;

    use super::*;

    /// F36: a learner that panics ends its own model, with the reason; nothing else, and nobody waits for it.
    #[test]
    fn f36_a_learner_that_panics_is_the_end_of_its_model_alone() {
        for beside in [false, true] {
            let trainer = || Trainer::new(&TrainSpec::default(), 1).unwrap();
            let (mut broken, mut other) = (Learning::new(trainer(), beside), Learning::new(trainer(), beside));
            // A lesson such as no extractor makes: a sample without a label.
            let mut lesson =
                Lesson { mini_batch: 1, kinds: vec![SampleKind::Final], seqs: vec![1], ..Lesson::default() };
            lesson.features.ends = vec![0];
            let failed = broken.learn(lesson).map(drop).and_then(|()| broken.settle()).unwrap_err();
            assert_eq!(failed.kind(), Kind::Internal);
            assert!(failed.message().contains("the learner failed and this model was stopped: "), "{failed}");
            assert!(broken.learn(Lesson::default()).is_err(), "it takes nothing more");
            other.learn(Lesson::default()).unwrap();
            other.settle().unwrap();
        }
    }
}
