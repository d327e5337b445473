//! Slots by key: chains through a slab, newest first, and the hashes they are found by.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType},
};
use tidemill_base::{Error, Result, hash64, rng::mix64};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;
/// The hash of a key that is NULL, and equals nothing.
pub(super) const NULL_KEY: u64 = u64::MAX;

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = x;
    }
}

/// The newest slot of each key.
pub(super) type Index = HashMap<u64, u32, BuildHasherDefault<Identity>>;

/// Slots of one key, newest first.
pub(super) fn chain(index: &Index, key: u64, next: impl Fn(u32) -> u32) -> impl Iterator<Item = u32> {
    let first = index.get(&key).copied().unwrap_or(NONE);
    std::iter::successors((first != NONE).then_some(first), move |&slot| {
        let n = next(slot);
        (n != NONE).then_some(n)
    })
}

/// Takes `slot` out of its key's chain. `link(s, Some(to))` sets and `link(s, None)` reads the successor of `s`; both
/// answer what it was.
pub(super) fn unlink(index: &mut Index, key: u64, slot: u32, next: u32, mut link: impl FnMut(u32, Option<u32>) -> u32) {
    let head = index[&key];
    if head == slot {
        if next == NONE {
            index.remove(&key);
        } else {
            index.insert(key, next);
        }
        return;
    }
    let mut at = head;
    loop {
        let after = link(at, None);
        if after == slot {
            link(at, Some(next));
            return;
        }
        at = after;
    }
}

/// One hash per row. Whole numbers go through a bijection, so two of them never meet; texts that meet are told apart
/// by comparing them.
pub(super) fn hash_keys(column: &dyn Array) -> Result<Vec<u64>> {
    let of = |x: i64| match mix64(x as u64) {
        NULL_KEY => 0,
        h => h,
    };
    let mut keys: Vec<u64> = match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().values().iter().map(|&x| of(x)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().values().iter().map(|&x| of(x as i64)).collect(),
        DataType::Timestamp(..) => {
            column.as_primitive::<TimestampMillisecondType>().values().iter().map(|&x| of(x)).collect()
        }
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            (0..texts.len()).map(|i| hash64(texts.value(i).as_bytes(), 0) & (NULL_KEY >> 1)).collect()
        }
        t => return Err(Error::internal(format!("join key of type {t} was bound"))),
    };
    if column.null_count() > 0 {
        for (i, key) in keys.iter_mut().enumerate() {
            if column.is_null(i) {
                *key = NULL_KEY;
            }
        }
    }
    Ok(keys)
}
