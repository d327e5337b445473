//! Recent live requests, kept to be done again: a version answers them before it takes traffic.
//!
//! In: the features of requests. Out: the scores of a version over them, thrown away. What comes of it: the version's pages
//! are in memory, and checked, when the first live request reaches it; one that cannot answer them is refused while the other
//! still serves. Whoever notes a request never waits: while somebody else does, it is left out.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tidemill_base::{Error, Result};
use tidemill_model::{
    feature::Features,
    weights::{ScoreScratch, WeightTable},
};

/// Samples that are kept.
const SAMPLES_MAX: usize = 256;
/// Of one request, so that a large one does not stand for all.
const SAMPLES_PER_REQUEST: usize = 8;
/// Once there are enough, one request in so many is kept: each one would push what is needed more out of the caches.
const KEPT_ONE_IN: u32 = 16;

/// Keys, values and slots of one sample.
type Sample = (Vec<u64>, Vec<f32>, Vec<u16>);

#[derive(Default)]
pub(crate) struct Recent {
    samples: Mutex<VecDeque<Sample>>,
    /// Requests to pass over until the next is kept; two at once may take it twice, and no harm is done.
    pass_over: AtomicU32,
}

impl Recent {
    /// Keeps the first samples of a request.
    pub fn note(&self, features: &Features) {
        let pass_over = self.pass_over.load(Relaxed);
        if pass_over > 0 {
            self.pass_over.store(pass_over - 1, Relaxed);
            return;
        }
        let Ok(mut kept) = self.samples.try_lock() else { return };
        if kept.len() == SAMPLES_MAX {
            self.pass_over.store(KEPT_ONE_IN - 1, Relaxed);
        }
        for i in 0..features.len().min(SAMPLES_PER_REQUEST) {
            // The oldest gives its memory to the newest.
            let mut sample =
                if kept.len() == SAMPLES_MAX { kept.pop_front().unwrap_or_default() } else { Sample::default() };
            let range = features.range(i);
            refill(&mut sample.0, &features.keys[range.clone()]);
            refill(&mut sample.1, &features.values[range.clone()]);
            refill(&mut sample.2, &features.slots[range]);
            kept.push_back(sample);
        }
    }

    /// Does the kept requests again; how many samples. The error is that of weights which cannot answer one of them.
    pub fn replay(&self, weights: &WeightTable) -> Result<usize> {
        let mut features = Features::new();
        for (keys, values, slots) in self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            features.keys.extend(keys);
            features.values.extend(values);
            features.slots.extend(slots);
            features.ends.push(features.keys.len() as u32);
        }
        let mut scores = Vec::new();
        weights.score(&features, &mut ScoreScratch::default(), &mut scores)?;
        match scores.iter().all(|score| score.is_finite()) {
            true => Ok(features.len()),
            false => Err(Error::corrupt("a score of a recent request is not a number")),
        }
    }
}

fn refill<T: Copy>(room: &mut Vec<T>, with: &[T]) {
    room.clear();
    room.extend_from_slice(with);
}
