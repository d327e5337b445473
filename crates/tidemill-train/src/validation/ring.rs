//! Predictions that wait for their label, and labels that wait for those of earlier impressions.
//!
//! A positive label is final when the click comes, a negative one when the window closes; scored as they come, the latest
//! samples would be mostly positives after a rise in traffic and mostly negatives at the end of a stream. So predictions
//! leave in the order of their impressions' numbers. Those come nearly in order, and a ring over a moving range of them is
//! enough: no hashing, twelve bytes each.

use std::collections::VecDeque;
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

/// A prediction as it was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Prediction {
    /// NaN: there was none that could be scored.
    pub(super) logit: f32,
    /// The true probability; NaN when it is not known.
    pub(super) oracle: f32,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Not predicted yet.
    Awaited,
    Waiting(Prediction),
    /// Its label has come; leaves once all before it have left.
    Labelled(Prediction, bool),
    /// Its label has come, and there was nothing to score.
    Void,
}

pub(super) struct Ring {
    /// Number of the first place.
    base: u64,
    places: VecDeque<Place>,
    waiting: usize,
    places_max: usize,
}

impl Ring {
    pub(super) fn new(places_max: usize) -> Self {
        Self { base: 0, places: VecDeque::new(), waiting: 0, places_max }
    }

    /// Keeps a prediction, unless there is one or its label has come. The range must reach to `seq`.
    pub(super) fn put(&mut self, seq: u64, prediction: Prediction) {
        if let Some(place @ Place::Awaited) = self.place(seq) {
            *place = Place::Waiting(prediction);
            self.waiting += 1;
        }
    }

    /// Gives impression `seq` its final label; false when it had none to wait for it. The range must reach to `seq`.
    pub(super) fn label(&mut self, seq: u64, positive: bool) -> bool {
        let Some(place) = self.place(seq) else { return false };
        let (now, scored) = match *place {
            Place::Waiting(p) if !p.logit.is_nan() => (Place::Labelled(p, positive), true),
            Place::Labelled(..) => return false,
            _ => (Place::Void, false),
        };
        let was_waiting = matches!(std::mem::replace(place, now), Place::Waiting(_));
        self.waiting -= was_waiting as usize;
        scored
    }

    /// The next prediction in the order of impressions, once its label and those of all before it have come.
    pub(super) fn pop(&mut self) -> Option<(Prediction, bool)> {
        loop {
            let out = match self.places.front()? {
                Place::Labelled(prediction, positive) => Some((*prediction, *positive)),
                Place::Void => None,
                Place::Awaited | Place::Waiting(_) => return None,
            };
            self.places.pop_front();
            self.base += 1;
            if out.is_some() {
                return out;
            }
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    fn place(&mut self, seq: u64) -> Option<&mut Place> {
        self.places.get_mut(seq.checked_sub(self.base)? as usize)
    }

    /// Makes the range reach to `seq`, giving up unlabelled predictions at its beginning where it would grow too long;
    /// `each` gets the labelled ones that leave with them.
    pub(super) fn reach(&mut self, seq: u64, mut each: impl FnMut(Prediction, bool)) -> u64 {
        let mut given_up = 0;
        let base_min = (seq + 1).saturating_sub(self.places_max as u64);
        while self.base < base_min {
            match self.places.pop_front() {
                Some(Place::Waiting(_)) => given_up += 1,
                Some(Place::Labelled(prediction, positive)) => each(prediction, positive),
                Some(Place::Awaited | Place::Void) => {}
                None => self.base = base_min - 1,
            }
            self.base += 1;
        }
        self.waiting -= given_up as usize;
        while self.base + (self.places.len() as u64) <= seq {
            self.places.push_back(Place::Awaited);
        }
        given_up
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_u64(self.base).put_varint(self.places.len() as u64);
        for place in &self.places {
            match place {
                Place::Awaited => out.put_u8(0),
                Place::Void => out.put_u8(1),
                Place::Waiting(p) => out.put_u8(2).put_f32(p.logit).put_f32(p.oracle),
                Place::Labelled(p, positive) => out.put_u8(3 + *positive as u8).put_f32(p.logit).put_f32(p.oracle),
            };
        }
    }

    pub(super) fn decode(&mut self, from: &mut Decoder) -> Result<()> {
        self.base = from.u64()?;
        for i in 0..from.count(1)? {
            self.places.push_back(match from.u8()? {
                0 => Place::Awaited,
                1 => Place::Void,
                2 => Place::Waiting(prediction(from)?),
                3 => Place::Labelled(prediction(from)?, false),
                4 => Place::Labelled(prediction(from)?, true),
                other => return Err(Error::corrupt(format!("validation: place {i} of the ring is marked {other}"))),
            });
        }
        self.waiting = self.places.iter().filter(|place| matches!(place, Place::Waiting(_))).count();
        Ok(())
    }
}

fn prediction(from: &mut Decoder) -> Result<Prediction> {
    Ok(Prediction { logit: from.f32()?, oracle: from.f32()? })
}
