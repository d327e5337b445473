//! By what rule the entries of each slot are learned, where slots have settings of their own.
//!
//! In: the settings. Out: for each slot its blocks with their optimizers, rate, clipping, admission, forgetting. Slots that do
//! not differ share a rule; where none does there is one rule, and the loops ask for no slot at all. Entries are of one
//! shape whatever their slot: as wide as the widest vector, with as many words as the largest state; what a slot lacks of
//! them stays zero.

use std::{ops::Range, sync::Arc};

use tidemill_base::{Error, Result};
use tidemill_model::{
    ParamTable,
    learner::Learner,
    optimizer::{Clip, Schedule},
    params::{SlotCap, SlotCaps, Worth, bytes_of_entry},
};

use super::{
    EntryBlock, blocks,
    forget::{Pace, TICKS},
};
use crate::{TrainSpec, spec::OfSlot};

/// How the entries of some slots are learned.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) blocks: Vec<EntryBlock>,
    pub(super) schedule: Schedule,
    /// The schedule's factor for the batch at hand.
    pub(super) rate: f32,
    pub(super) clip: Clip,
    pub(super) admit_after: u8,
    /// `None`: never.
    pub(super) forget_after: Option<u64>,
}

/// The rules of all slots.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The first is that of slots without settings of their own.
    all: Vec<Rule>,
    /// By slot number the place of its rule.
    of_slots: Vec<u16>,
    /// Parameters of an entry.
    width: usize,
}

impl Rule {
    fn new(spec: &TrainSpec, slots: usize) -> Self {
        Self {
            blocks: blocks(spec, &*spec.model.build(slots)),
            schedule: spec.schedule,
            rate: 1.0,
            clip: spec.clip,
            admit_after: spec.admit_after,
            forget_after: spec.forget_after,
        }
    }

    /// The parameters that the entry has; those behind them are always zero.
    #[inline(always)]
    pub(super) fn params(&self) -> Range<usize> {
        0..self.blocks.last().map_or(0, |block| block.params.end)
    }

    fn words(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.words.end)
    }
}

impl Rules {
    pub(super) fn new(spec: &TrainSpec, learner: &dyn Learner) -> Self {
        let slots = spec.slots.len();
        let mut all = vec![Rule::new(spec, slots)];
        let mut of_slots = vec![0; slots];
        for own in &spec.by_slot {
            let rule = Rule::new(&own.spec, slots);
            let place = all.iter().position(|there| *there == rule).unwrap_or_else(|| {
                all.push(rule);
                all.len() - 1
            });
            for (slot, _) in spec.slots.iter().enumerate().filter(|(_, name)| **name == own.slot) {
                of_slots[slot] = place as u16;
            }
        }
        Self { all, of_slots, width: learner.width() }
    }

    /// Whether some slot is learned otherwise than others.
    pub(super) fn differ(&self) -> bool {
        self.all.len() > 1
    }

    /// That of slots without settings of their own.
    #[inline(always)]
    pub(super) fn common(&self) -> &Rule {
        &self.all[0]
    }

    #[inline(always)]
    pub(super) fn of(&self, slot: u16) -> &Rule {
        let place = self.of_slots.get(usize::from(slot)).copied().unwrap_or(0);
        &self.all[usize::from(place)]
    }

    /// Parameters of an entry.
    #[inline(always)]
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Sets the rates for the next batch, after so many samples.
    pub(super) fn set_rates(&mut self, samples: u64) {
        self.all.iter_mut().for_each(|rule| rule.rate = rule.schedule.rate(samples));
    }

    /// Words of the largest state.
    pub(super) fn words(&self) -> usize {
        self.all.iter().map(Rule::words).max().unwrap_or(0)
    }

    pub(super) fn counts_keys(&self) -> bool {
        self.all.iter().any(|rule| rule.admit_after > 1)
    }

    pub(super) fn forgets(&self) -> bool {
        self.all.iter().any(|rule| rule.forget_after.is_some())
    }

    /// Whether slots are forgotten after different times: then an entry's last tick stands in its row, in the last word.
    pub(super) fn keeps_ticks(&self) -> bool {
        self.all.iter().any(|rule| rule.forget_after != self.all[0].forget_after)
    }

    /// The clock of forgetting goes by the slots that are forgotten first.
    pub(super) fn pace(&self) -> Option<Pace> {
        self.all.iter().filter_map(|rule| rule.forget_after).min().map(Pace::new)
    }

    /// Whether an entry of this slot that last changed at `last` leaves at tick `now`: as [`TICKS`] says of those that are
    /// forgotten first, and later ones in proportion.
    pub(super) fn is_old(&self, slot: u16, last: u64, now: u64) -> bool {
        let first = self.all.iter().filter_map(|rule| rule.forget_after).min();
        let (Some(first), Some(samples)) = (first, self.of(slot).forget_after) else { return false };
        let whole = u128::from(samples) * u128::from(TICKS - 1);
        let ticks = whole.div_ceil(u128::from(first.max(1))) + 1;
        u128::from(now.saturating_sub(last)) >= ticks
    }

    /// Writes the parameters of an entry's state to `out`.
    #[inline(always)]
    pub(super) fn read(&self, slot: u16, state: &[f32], out: &mut [f32]) {
        let rule = self.of(slot);
        for block in &rule.blocks {
            block.optimizer.read(&state[block.words.clone()], &mut out[block.params.clone()]);
        }
        out[rule.params().end..].fill(0.0);
    }
}

/// The tick as the last word of a row: what matters is that it comes back as it was.
#[inline(always)]
pub(super) fn word_of_tick(tick: u64) -> f32 {
    f32::from_bits(tick.min(TICK_MAX) as u32)
}

/// The tick that [`word_of_tick`] wrote.
#[inline(always)]
pub(super) fn tick_of_word(word: f32) -> u64 {
    u64::from(word.to_bits())
}

/// Beyond it words would not be finite numbers, which no checkpoint takes; a fifth of `train.forget_after` two thousand
/// million times.
const TICK_MAX: u64 = 0x7f7f_ffff;

/// What happens to a new key that finds no room, in the table or in its slot: it is refused, or the entries of least worth
/// leave, those whose parameters are smallest.
pub(super) fn with_policy(table: ParamTable, spec: &TrainSpec, rules: &Rules) -> ParamTable {
    let of_all = rules.clone();
    let worth: Worth = Arc::new(move |slot, state| {
        let mut params = vec![0.0; of_all.width()];
        of_all.read(slot, state, &mut params);
        params.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()))
    });
    let of_slots = caps(spec, table.spec().words);
    let table = if spec.evicts { table.evicting(worth.clone()) } else { table };
    match of_slots.iter().any(Option::is_some) {
        true => table.with_caps(SlotCaps { of_slots, worth }),
        false => table,
    }
}

/// The slots' own bounds, by slot number.
fn caps(spec: &TrainSpec, words: usize) -> Vec<Option<SlotCap>> {
    let cap = |name: &String| {
        let own = &spec.by_slot.iter().find(|own| own.slot == *name)?.spec;
        let entries_max = (own.entries_max != spec.entries_max).then_some(own.entries_max);
        let of_bytes = (own.bytes_max != spec.bytes_max).then(|| own.bytes_max / bytes_of_entry(words));
        let entries_max = entries_max.into_iter().chain(of_bytes).min()?;
        Some(SlotCap { entries_max, evicts: own.evicts })
    };
    spec.slots.iter().map(cap).collect()
}

/// Whether slots have bounds of their own.
pub(super) fn has_caps(spec: &TrainSpec) -> bool {
    let differs = |own: &OfSlot| (own.spec.entries_max, own.spec.bytes_max) != (spec.entries_max, spec.bytes_max);
    spec.by_slot.iter().any(differs)
}

/// Refuses settings for slots that are not there, and those that entries cannot follow. `words`: of an entry.
pub(super) fn check(spec: &TrainSpec, words: usize) -> Result<()> {
    for own in &spec.by_slot {
        let (slot, attribute) = (&own.slot, own.attribute);
        if !spec.slots.contains(slot) {
            let have = spec.slots.join(", ");
            return Err(Error::invalid(format!("{attribute}: no slot '{slot}' (have {have})")));
        }
        if own.spec.prune != spec.prune && words <= 2 {
            return Err(Error::invalid(format!(
                "publish.prune: slot '{slot}' cannot have one of its own: entries of this learner are one weight beside their \
                 key and do not keep their slot; give one value for all"
            )));
        }
        let least = bytes_of_entry(words) * tidemill_model::params::SHARDS;
        if own.spec.bytes_max != spec.bytes_max && own.spec.bytes_max < least {
            return Err(Error::invalid(format!(
                "train.bytes_max: {} is too little for slot '{slot}'; give it at least {least}",
                own.spec.bytes_max
            )));
        }
    }
    Ok(())
}
