//! Predictions that wait for their label, and labels that wait for those of earlier impressions.
//!
//! In: predictions and labels by impression number. Out: both together, in the order of the numbers. A positive label is
//! final when the click comes, a negative one when the window closes; scored as they come, the latest samples would be
//! mostly positives after a rise in traffic and mostly negatives at the end of a stream. The numbers come nearly in order,
//! and a ring over a moving range of them is enough: no hashing, sixteen bytes each, and four more for each score of a
//! model that has several. It never holds more than `places_max` of them.

use std::collections::VecDeque;
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::groups::OTHERS;

/// One impression.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The only score; NaN when a score was not a number. Of several scores it tells that and nothing else.
    pub(super) score: f32,
    /// What is truly to be expected; NaN when it is not known.
    pub(super) oracle: f32,
    /// Meaningless before it has come.
    pub(super) label: f32,
    /// At most [`OTHERS`].
    pub(super) group: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Not predicted yet.
    Awaited,
    /// Predicted; its label has not come.
    Waiting,
    /// Its label has come; leaves once all before it have left.
    Labelled,
    /// Its label has come, and there was nothing to score.
    Void,
}

const AWAITED: Place = Place { score: 0.0, oracle: 0.0, label: 0.0, group: 0, state: State::Awaited };

pub(super) struct Ring {
    /// Number of the first place.
    base: u64,
    places: VecDeque<Place>,
    /// `width` scores for each place; unused when there is one score, which fits into the place.
    scores: VecDeque<f32>,
    width: usize,
    /// The scores of the place that left last.
    left: Vec<f32>,
    waiting: usize,
    places_max: usize,
}

impl Ring {
    /// `scores`: how many a prediction has.
    pub(super) fn new(places_max: usize, scores: usize) -> Self {
        let width = if scores == 1 { 0 } else { scores };
        Self {
            base: 0,
            places: VecDeque::new(),
            scores: VecDeque::new(),
            width,
            left: Vec::new(),
            waiting: 0,
            places_max,
        }
    }

    /// Keeps a prediction, unless there is one or its label has come. The range must reach to `seq`.
    #[inline]
    pub(super) fn put(&mut self, seq: u64, scores: &[f32], oracle: f32, group: u16) {
        let Some(i) = self.index(seq) else { return };
        let place = &mut self.places[i];
        if place.state != State::Awaited {
            return;
        }
        let score = match scores {
            [score] => *score,
            several => several.iter().fold(0.0, |all, score| if score.is_finite() { all } else { f32::NAN }),
        };
        *place = Place { score, oracle, label: 0.0, group, state: State::Waiting };
        self.waiting += 1;
        if self.width > 0 {
            let kept = self.scores.range_mut(i * self.width..(i + 1) * self.width);
            kept.zip(scores).for_each(|(kept, score)| *kept = *score);
        }
    }

    /// Gives impression `seq` its final label, `None` when it is one that cannot be scored; false when nothing will be
    /// scored for it, though a prediction that is NaN leaves with its label as others do. The range must reach to `seq`.
    #[inline]
    pub(super) fn label(&mut self, seq: u64, label: Option<f32>) -> bool {
        let Some(i) = self.index(seq) else { return false };
        let place = &mut self.places[i];
        match (place.state, label) {
            (State::Waiting, Some(label)) => {
                place.label = label;
                place.state = State::Labelled;
                self.waiting -= 1;
                !place.score.is_nan()
            }
            (State::Waiting, None) => {
                place.state = State::Void;
                self.waiting -= 1;
                false
            }
            (State::Awaited, _) => {
                place.state = State::Void;
                false
            }
            (State::Labelled | State::Void, _) => false,
        }
    }

    /// The next prediction in the order of impressions, once its label and those of all before it have come. It stays
    /// until [`Ring::leave`].
    ///
    /// Lent and not given: whoever reads what was just written to it as a whole makes the processor wait.
    #[inline(always)]
    pub(super) fn ready(&mut self) -> Option<&Place> {
        while self.places.front()?.state == State::Void {
            self.leave();
        }
        self.places.front().filter(|first| first.state == State::Labelled)
    }

    /// Lets the first place go. Several scores are then in [`Ring::scores`].
    #[inline(always)]
    pub(super) fn leave(&mut self) {
        self.places.pop_front();
        self.base += 1;
        if self.width > 0 {
            self.leave_scores();
        }
    }

    fn leave_scores(&mut self) {
        self.left.clear();
        self.left.extend(self.scores.drain(..self.width));
    }

    /// The scores of the place that left last, where a prediction has several.
    #[inline]
    pub(super) fn scores(&self) -> &[f32] {
        &self.left
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>() + self.scores.capacity() * size_of::<f32>()
    }

    #[inline(always)]
    fn index(&self, seq: u64) -> Option<usize> {
        let i = seq.checked_sub(self.base)? as usize;
        if i < self.places.len() { Some(i) } else { None }
    }

    /// Makes the range reach to `seq`, giving up unlabelled predictions at its beginning where it would grow too long;
    /// `each` gets the labelled ones that leave with them.
    #[inline]
    pub(super) fn reach(&mut self, seq: u64, each: impl FnMut(&Place, &[f32])) -> u64 {
        let given_up = if self.gives_up_for(seq) { self.leave_behind(seq, each) } else { 0 };
        while self.base + (self.places.len() as u64) <= seq {
            self.places.push_back(AWAITED);
            if self.width > 0 {
                self.scores.extend(std::iter::repeat_n(0.0, self.width));
            }
        }
        given_up
    }

    /// Whether the beginning of the range would have to leave to reach `seq`.
    #[inline]
    pub(super) fn gives_up_for(&self, seq: u64) -> bool {
        (seq + 1).saturating_sub(self.places_max as u64) > self.base
    }

    #[cold]
    fn leave_behind(&mut self, seq: u64, mut each: impl FnMut(&Place, &[f32])) -> u64 {
        let base_min = seq + 1 - self.places_max as u64;
        let mut given_up = 0;
        while self.base < base_min {
            let Some(place) = self.places.front().copied() else {
                self.base = base_min;
                break;
            };
            self.leave();
            match place.state {
                State::Waiting => given_up += 1,
                State::Labelled => each(&place, &self.left),
                State::Awaited | State::Void => {}
            }
        }
        self.waiting -= given_up as usize;
        given_up
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_u64(self.base).put_varint(self.places.len() as u64);
        for (i, place) in self.places.iter().enumerate() {
            out.put_u8(place.state as u8);
            if matches!(place.state, State::Waiting | State::Labelled) {
                out.put_f32(place.score).put_f32(place.oracle).put_f32(place.label).put_varint(place.group as u64);
                self.scores.range(i * self.width..(i + 1) * self.width).for_each(|score| {
                    out.put_f32(*score);
                });
            }
        }
    }

    /// `fits`: whether a label is one of the task.
    pub(super) fn decode(&mut self, fits: impl Fn(f32) -> bool, from: &mut Decoder) -> Result<()> {
        self.base = from.u64()?;
        let places = from.count(1)?;
        if places > self.places_max {
            return Err(Error::corrupt(format!("validation: {places} places in a ring of {}", self.places_max)));
        }
        for i in 0..places {
            let state = match from.u8()? {
                0 => State::Awaited,
                1 => State::Waiting,
                2 => State::Labelled,
                3 => State::Void,
                other => return Err(Error::corrupt(format!("validation: place {i} of the ring is marked {other}"))),
            };
            let known = matches!(state, State::Waiting | State::Labelled);
            self.places.push_back(match known {
                false => Place { state, ..AWAITED },
                true => Place {
                    score: from.f32()?,
                    oracle: from.f32()?,
                    label: from.f32()?,
                    group: from.varint()?.min(OTHERS as u64) as u16,
                    state,
                },
            });
            let place = &self.places[i];
            if state == State::Labelled && !fits(place.label) {
                return Err(Error::corrupt(format!("validation: place {i} of the ring has label {}", place.label)));
            }
            for _ in 0..self.width {
                self.scores.push_back(if known { from.f32()? } else { 0.0 });
            }
        }
        self.waiting = self.places.iter().filter(|place| place.state == State::Waiting).count();
        Ok(())
    }
}
