//! The trainer's whole state as bytes, for checkpoints.

use std::sync::atomic::Ordering::Relaxed;

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::ParamTable;

use super::{Counts, Trainer, parts, table_spec, with_policy};
use crate::{TrainSpec, Validation};

impl Trainer {
    /// Appends the whole state: what [`Trainer::decode`] makes of it continues bit for bit.
    pub fn encode(&self, out: &mut Encoder) {
        self.encode_around(out);
        self.table.encode(out);
    }

    /// Reads back what [`Trainer::encode`] wrote. Refuses the state of other settings.
    pub fn decode(spec: &TrainSpec, threads: usize, from: &mut Decoder) -> Result<Self> {
        let trainer = Self::decode_around(spec, from)?;
        let table = ParamTable::decode(table_spec(spec, &*trainer.learner), parts(threads), from)?;
        Ok(trainer.with_table(table, threads))
    }

    /// Appends everything but the parameter table.
    pub(super) fn encode_around(&self, out: &mut Encoder) {
        out.put_str(&settings(&self.spec));
        let c = &self.counts;
        out.put_u64(self.deltas).put_u64(c.samples).put_u64(c.corrections).put_u64(c.refused_samples);
        out.put_u64(c.updates).put_u64(c.non_finite.load(Relaxed)).put_u64(c.non_finite_key.load(Relaxed));
        out.put_u64(c.not_admitted.load(Relaxed));
        out.put_varint(self.pass_losses.len() as u64);
        self.pass_losses.iter().for_each(|loss| _ = out.put_f64(*loss));
        self.validation.encode(out);
        let dense = self.dense.state.lock().expect("nobody panics while holding it");
        out.put_varint(dense.len() as u64);
        dense.iter().for_each(|word| _ = out.put_f32(*word));
        self.filter.iter().for_each(|filter| filter.encode(out));
        if self.rules.forgets() {
            out.put_u64(c.forgotten);
        }
    }

    /// A trainer without entries, of what [`Trainer::encode_around`] wrote.
    pub(super) fn decode_around(spec: &TrainSpec, from: &mut Decoder) -> Result<Self> {
        check_settings(from.str()?, &settings(spec))?;
        let mut trainer = Self::new(spec, 1)?;
        let mut next = || from.u64();
        trainer.deltas = next()?;
        let (samples, corrections, refused_samples, updates) = (next()?, next()?, next()?, next()?);
        let (non_finite, non_finite_key, not_admitted) = (next()?.into(), next()?.into(), next()?.into());
        trainer.counts = Counts {
            samples,
            corrections,
            refused_samples,
            updates,
            non_finite,
            non_finite_key,
            not_admitted,
            forgotten: 0,
        };
        trainer.pass_losses = (0..from.count(8)?).map(|_| from.f64()).collect::<Result<_>>()?;
        trainer.validation = Validation::decode(spec.task(), spec.validate_window, spec.pending_max, from)?;
        let words = from.count(4)?;
        let mut state = trainer.dense.state.lock().expect("nobody else has it");
        if words != state.len() {
            return Err(Error::corrupt(format!("trainer: {words} dense words, not {}", state.len())));
        }
        for word in state.iter_mut() {
            *word = from.f32()?;
        }
        spec.dense_optimizer.read(&state, &mut trainer.dense.params.write().expect("nobody else has it"));
        drop(state);
        trainer.dense_changed = words > 0;
        trainer.filter.iter_mut().try_for_each(|filter| filter.decode(from))?;
        if trainer.rules.forgets() {
            trainer.counts.forgotten = from.u64()?;
        }
        Ok(trainer)
    }

    /// The same trainer with these entries, on so many threads.
    pub(super) fn with_table(mut self, table: ParamTable, threads: usize) -> Self {
        self.table = with_policy(table, &self.spec, &self.rules);
        self.pool = crate::pool::Pool::new(parts(threads));
        self
    }
}

/// Settings the state depends on, a line each.
fn settings(spec: &TrainSpec) -> String {
    let of_model = spec.describe().into_iter().map(|(name, value)| format!("{name} = {value}\n"));
    let of_slots = spec.describe_slots().into_iter().map(|(name, value)| format!("{name} = {value}\n"));
    of_model.chain(of_slots).collect()
}

fn check_settings(was: &str, is: &str) -> Result<()> {
    if let Some((was, is)) = was.lines().zip(is.lines()).find(|(was, is)| was != is) {
        return Err(Error::conflict(format!(
            "the checkpoint was made with {was}, now it is {}; set it back or train under another name",
            is.split_once(" = ").map_or(is, |(_, value)| value)
        )));
    }
    let more = |longer: &str, shorter: &str| longer.lines().nth(shorter.lines().count()).map(str::to_string);
    if let Some(line) = more(was, is) {
        return Err(Error::conflict(format!(
            "the checkpoint was made with {line}; set it back or train under another name"
        )));
    }
    if let Some(line) = more(is, was) {
        return Err(Error::conflict(format!(
            "the checkpoint was made without {line}; take it away or train under another name"
        )));
    }
    match was == is {
        true => Ok(()),
        false => Err(Error::conflict("the checkpoint was made with other settings; train under another name")),
    }
}
