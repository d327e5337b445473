//! The same figures for each value of one column.
//!
//! In: the group number of each scored sample, 1 to [`GROUPS_MAX`]; larger ones are counted together as [`OTHERS`], and 0
//! not at all. Out: a line for each group that was seen. At most 1,001 lines of four sums.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{Task, score::Score};

/// The largest group number that is counted on its own.
pub const GROUPS_MAX: u32 = 1_000;
/// The number under which all larger ones are counted.
pub const OTHERS: u32 = GROUPS_MAX + 1;

/// How good the predictions of one group were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupMetrics {
    /// Its number; [`OTHERS`] stands for all beyond [`GROUPS_MAX`].
    pub group: u32,
    /// Samples scored.
    pub samples: u64,
    /// Share of positives, mean number, or share of samples whose class was predicted.
    pub mean_label: f64,
    /// Mean predicted probability or number.
    pub mean_prediction: f64,
    /// Mean log loss, squared error or cross entropy.
    pub loss: f64,
    /// Mean prediction over mean label: 1 is right, above it too much was promised. NaN or infinite while labels sum to 0.
    pub calibration: f64,
}

/// By group number.
#[derive(Default)]
pub(super) struct Groups {
    sums: Vec<Sums>,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    samples: u64,
    label: f64,
    prediction: f64,
    loss: f64,
}

/// The number a group is counted under.
#[inline]
pub(super) fn counted_as(group: u32) -> u16 {
    group.min(OTHERS) as u16
}

impl Groups {
    #[inline(always)]
    pub(super) fn add(&mut self, task: Task, group: u16, score: &Score) {
        if group == 0 {
            return;
        }
        let i = group as usize;
        if i >= self.sums.len() {
            self.sums.resize(i + 1, Sums::default());
        }
        let sums = &mut self.sums[i];
        sums.samples += 1;
        sums.label += match task {
            Task::Binary | Task::Regression => score.label as f64,
            Task::Classes(_) => score.is_right() as u8 as f64,
        };
        sums.prediction += score.prediction as f64;
        sums.loss += score.loss;
    }

    /// By number.
    pub(super) fn metrics(&self) -> Vec<GroupMetrics> {
        let seen = self.sums.iter().enumerate().filter(|(_, sums)| sums.samples > 0);
        seen.map(|(group, sums)| {
            let samples = sums.samples as f64;
            GroupMetrics {
                group: group as u32,
                samples: sums.samples,
                mean_label: sums.label / samples,
                mean_prediction: sums.prediction / samples,
                loss: sums.loss / samples,
                calibration: sums.prediction / sums.label,
            }
        })
        .collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<Sums>()
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.sums.len() as u64);
        for sums in &self.sums {
            out.put_varint(sums.samples).put_f64(sums.label).put_f64(sums.prediction).put_f64(sums.loss);
        }
    }

    pub(super) fn decode(from: &mut Decoder) -> Result<Self> {
        let count = from.count(25)?;
        if count > OTHERS as usize + 1 {
            return Err(Error::corrupt(format!("validation: {count} groups, of at most {}", OTHERS + 1)));
        }
        let mut sums =
            || Ok(Sums { samples: from.varint()?, label: from.f64()?, prediction: from.f64()?, loss: from.f64()? });
        let sums = (0..count).map(|_| sums()).collect::<Result<Vec<_>>>()?;
        match sums.first() {
            Some(none) if none.samples > 0 => Err(Error::corrupt("validation: samples of group 0, which is none")),
            _ => Ok(Self { sums }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of group 0 are not counted, so nobody has written some.
    #[test]
    fn figures_of_no_group_are_refused() {
        for (samples, is_good) in [(0, true), (3, false)] {
            let mut out = Encoder::new();
            out.put_varint(1).put_varint(samples).put_f64(1.0).put_f64(1.5).put_f64(0.5);
            assert_eq!(Groups::decode(&mut Decoder::new(out.as_slice(), "test")).is_ok(), is_good);
        }
    }
}
