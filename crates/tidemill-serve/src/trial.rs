//! A version on trial beside the live one: as a shadow, which answers nobody, or as the canary of a rollout.
//!
//! In: requests that were answered (how long, whether they failed), requests to score once more, and samples of the stream
//! before their label is known, then their labels. Out: [`Figures`]. An answer never waits for it: what is scored twice goes
//! through a bounded queue to a thread of the trial's own, and is passed over where that is busy.

mod pairs;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use tidemill_base::{Error, Result};
use tidemill_model::{
    feature::Features,
    loss::Loss,
    weights::{ScoreScratch, WeightTable},
};

use crate::{
    live::{LiveModel, ServedVersion},
    rollout::{Figures, Guards},
};
use pairs::head;
pub use pairs::{LASTING_SAMPLES_MAX, Pairs, ROLLOUT_SAMPLES_MAX};

/// Requests that wait to be scored once more.
const QUEUE_MAX: usize = 64;

/// A version that is watched.
pub struct Trial {
    candidate: Arc<ServedVersion>,
    watched: Arc<Watched>,
    pairs: Mutex<Pairs>,
    queue: SyncSender<Mirrored>,
}

#[derive(Default)]
struct Watched {
    figures: Mutex<Figures>,
}

/// A request on its way to being scored by the version that did not answer it.
struct Mirrored {
    features: Features,
    /// What the version said that answered; one number a row.
    said: Vec<f64>,
    other: Arc<ServedVersion>,
    /// Whether `other` is the version on trial.
    is_candidate: bool,
}

impl Trial {
    /// Watches a version, with what a rollout tolerates; a shadow is judged by nobody.
    pub fn start(candidate: Arc<ServedVersion>, guards: Option<&Guards>) -> Result<Arc<Self>> {
        let (queue, mirrored) = sync_channel(QUEUE_MAX);
        let watched = Arc::new(Watched::default());
        let of_thread = watched.clone();
        thread::Builder::new()
            .name("tidemill-mirror".into())
            .spawn(move || of_thread.mirror(&mirrored))
            .map_err(|e| Error::unavailable(format!("start a thread that scores requests twice: {e}")))?;
        let loss = guards.and_then(|g| g.logloss).unwrap_or(1.0);
        let calibration = guards.and_then(|g| g.calibration).unwrap_or(1.25);
        let samples_max = if guards.is_some() { ROLLOUT_SAMPLES_MAX } else { LASTING_SAMPLES_MAX };
        let pairs = Mutex::new(Pairs::new(candidate.weights.loss(), samples_max, loss, calibration));
        Ok(Arc::new(Self { candidate, watched, pairs, queue }))
    }

    /// The number of the version on trial.
    pub fn version(&self) -> u64 {
        self.candidate.version
    }

    /// The version on trial.
    pub fn candidate(&self) -> &Arc<ServedVersion> {
        &self.candidate
    }

    /// Everything known at this moment.
    pub fn figures(&self) -> Figures {
        self.watched.figures().clone()
    }

    /// Counts a request that the version on trial or the live one answered, or failed to.
    pub fn answered(&self, by: u64, us: u64, failed: bool) {
        let mut figures = self.watched.figures();
        let arm = if by == self.version() { &mut figures.version } else { &mut figures.live };
        arm.add(us, failed);
    }

    /// Has a request scored by the version that did not answer it. Never waits.
    pub fn mirror(&self, live: &LiveModel, by: u64, features: &Features, said: impl Iterator<Item = f64>) {
        let is_candidate = by != self.version();
        let other = match is_candidate {
            true => self.candidate.clone(),
            // The newest table is not to be held for long; a pinned one may be.
            false => match live.routes().pinned.clone() {
                Some(pinned) => pinned,
                None => return,
            },
        };
        let mirrored = Mirrored { features: head(features, usize::MAX), said: said.collect(), other, is_candidate };
        if self.queue.try_send(mirrored).is_err() {
            self.watched.figures().paired.passed_over += 1;
        }
    }

    /// Predicts samples of the stream by both versions, before they are learned from: see [`Pairs::predict`].
    pub fn predict(&self, live: &ServedVersion, features: &Features, numbers: impl Iterator<Item = (usize, u64)>) {
        if live.version != self.version() {
            let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
            pairs.predict(&live.weights, &self.candidate.weights, features, numbers);
        }
    }

    /// Takes labels that are final.
    pub fn mature(&self, labels: impl Iterator<Item = (u64, f32)>) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if !pairs.is_empty() {
            pairs.mature(labels, &mut self.watched.figures().quality);
        }
    }
}

impl Watched {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scores what comes until nobody can send any more.
    fn mirror(&self, mirrored: &Receiver<Mirrored>) {
        let (mut scratch, mut scores) = (ScoreScratch::default(), Vec::new());
        while let Ok(Mirrored { features, said, other, is_candidate }) = mirrored.recv() {
            scores.clear();
            if other.weights.score(&features, &mut scratch, &mut scores).is_err() {
                self.figures().paired.passed_over += 1;
                continue;
            }
            let numbers = numbers(&other.weights, &scores);
            let is_probability =
                !matches!(other.weights.loss(), Loss::Squared | Loss::Huber { .. } | Loss::Bounded { .. });
            let mut figures = self.figures();
            for (said, number) in said.into_iter().zip(numbers) {
                let (live, version) = if is_candidate { (said, number) } else { (number, said) };
                figures.paired.add(live, version, is_probability);
            }
        }
    }
}

/// The probability, the number, or the probability of the likeliest class, of each row.
pub(crate) fn numbers(weights: &WeightTable, scores: &[f32]) -> Vec<f64> {
    let loss = weights.loss();
    let mut out = vec![0.0; loss.outputs()];
    let one = |scores: &[f32]| {
        loss.predict(scores, &mut out);
        f64::from(out.iter().copied().fold(f32::NEG_INFINITY, f32::max))
    };
    scores.chunks_exact(loss.outputs()).map(one).collect()
}
