//! The last samples, each as it was scored.
//!
//! In: scores. Out: the same scores, oldest first, at most [`WINDOW_MAX`] of them. Figures over the window are summed anew
//! when somebody asks: they are about exactly these samples, and no remainder of older ones is left in the sums.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{Task, auc, metrics::Metrics, metrics::Tally, score::Score};

/// No window is longer, whatever was asked for: at 32 bytes a sample it then takes 32 MiB.
pub const WINDOW_MAX: u64 = 1 << 20;

pub(super) struct Window {
    scores: Vec<Score>,
    /// Where the oldest is, once the window is full.
    oldest: usize,
    length: usize,
}

impl Window {
    pub(super) fn new(length: u64) -> Self {
        Self { scores: Vec::new(), oldest: 0, length: length.clamp(1, WINDOW_MAX) as usize }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, score: Score) {
        if self.scores.len() < self.length {
            self.scores.push(score);
            return;
        }
        // Number by number: as a whole it would go through memory first, and the processor would wait for that.
        let place = &mut self.scores[self.oldest];
        place.loss = score.loss;
        place.best_loss = score.best_loss;
        place.rank = score.rank;
        place.prediction = score.prediction;
        place.label = score.label;
        place.guess = score.guess;
        self.oldest += 1;
        if self.oldest == self.length {
            self.oldest = 0;
        }
    }

    /// Samples it holds.
    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    /// Samples it can hold.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn bytes(&self) -> usize {
        self.scores.capacity() * size_of::<Score>()
    }

    fn iter(&self) -> impl Iterator<Item = &Score> {
        self.scores[self.oldest..].iter().chain(&self.scores[..self.oldest])
    }

    pub(super) fn metrics(&self, task: Task) -> Metrics {
        let mut tally = Tally::new(task);
        self.iter().for_each(|score| tally.add(task, score));
        tally.metrics(task, self.auc(task, self.len() as u64))
    }

    /// Exact, over the last `samples` of the window.
    pub(super) fn auc(&self, task: Task, samples: u64) -> f64 {
        let older = (self.len() as u64).saturating_sub(samples) as usize;
        match task {
            Task::Binary => auc::exact(self.iter().skip(older).map(|score| (score.rank, score.label > 0.0))),
            Task::Regression | Task::Classes(_) => f64::NAN,
        }
    }

    pub(super) fn encode(&self, task: Task, out: &mut Encoder) {
        out.put_varint(self.len() as u64);
        self.iter().for_each(|score| score.encode(task, out));
    }

    pub(super) fn decode(task: Task, length: u64, from: &mut Decoder) -> Result<Self> {
        let mut window = Self::new(length);
        let held = from.count(1)?;
        if held > window.length {
            return Err(Error::corrupt(format!("validation: {held} samples in a window of {}", window.length)));
        }
        window.scores = (0..held).map(|_| Score::decode(task, from)).collect::<Result<_>>()?;
        Ok(window)
    }
}
