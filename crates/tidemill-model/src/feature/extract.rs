//! Extraction: rows to features, the hot path of training and of prediction.
//!
//! Works on blocks of rows that stay in the nearest cache, column by column. A dense slot (a category, a number, a cross)
//! has a fixed place in every row, so its keys are written straight to where they stay; a row that lacks one (NULL, zero)
//! is closed up afterwards, and rows with lists are put together slot by slot. Memory is kept from call to call in
//! [`Features`]. Extraction is a pure function of each row: how rows are cut into calls and blocks never matters.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Float32Type, UInt64Type},
};
use std::ops::Range;
use tidemill_base::{Error, Result};

use super::{
    Extractor, FEATURES_MAX, Features,
    arrange::{Pair, arrange, sum_equal},
    bind::Source,
    category::Category,
    feature_key,
    number::{feature_value, numbers},
};

/// Rows of a block: with 40 features each they take 30 KiB.
const BLOCK: usize = 64;
/// No feature has this key: a row lacks the slot.
const LACKING: u64 = 0;

/// Room to work in, kept between calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Dense features of the block's rows, each row with one place per dense slot.
    keys: Vec<u64>,
    values: Vec<f32>,
    /// Features of one list.
    list: Vec<Pair>,
    arranging: Vec<Pair>,
}

/// The block's rows while their dense features are written.
struct Dense<'a> {
    keys: &'a mut [u64],
    values: &'a mut [f32],
    stride: usize,
    lacks_some: bool,
    refused: Vec<(u32, String)>,
}

impl Extractor {
    /// Replaces the content of `out` by the features of `rows`, which must have the columns this was bound to.
    pub fn extract(&self, rows: &RecordBatch, out: &mut Features) -> Result<()> {
        out.clear();
        for (index, data_type) in &self.types {
            let found = rows.columns().get(*index).map(|column| column.data_type());
            if found != Some(data_type) {
                return Err(Error::internal(format!("column {index} was bound as {data_type}, and now is {found:?}")));
            }
        }
        let mut scratch = std::mem::take(&mut out.scratch);
        for begin in (0..rows.num_rows()).step_by(BLOCK) {
            let block = begin..rows.num_rows().min(begin + BLOCK);
            match self.has_lists {
                false => self.extract_dense(rows, block, out)?,
                true => self.extract_mixed(rows, block, &mut scratch, out)?,
            }
        }
        out.scratch = scratch;
        Ok(())
    }

    /// Every slot is dense: features are written where they stay.
    fn extract_dense(&self, batch: &RecordBatch, rows: Range<usize>, out: &mut Features) -> Result<()> {
        let stride = self.dense_slots;
        let first = out.keys.len();
        out.keys.resize(first + rows.len() * stride, LACKING);
        out.values.resize(first + rows.len() * stride, 1.0);
        let (keys, values) = (&mut out.keys[first..], &mut out.values[first..]);
        let mut dense = Dense { keys, values, stride, lacks_some: false, refused: Vec::new() };
        self.write_dense(&mut dense, batch, rows.clone())?;
        let Dense { lacks_some, refused, .. } = dense;
        if lacks_some || !refused.is_empty() {
            self.close_up(first, rows, refused, out);
            return Ok(());
        }
        (0..rows.len()).for_each(|_| out.slots.extend_from_slice(&self.dense_pattern));
        out.ends.extend((1..=rows.len()).map(|i| (first + i * stride) as u32));
        Ok(())
    }

    /// Moves features together where rows lack some; a refused row keeps none.
    fn close_up(&self, first: usize, rows: Range<usize>, refused: Vec<(u32, String)>, out: &mut Features) {
        let stride = self.dense_slots;
        let mut refused = first_reasons(refused).into_iter().peekable();
        let mut end = first;
        for i in 0..rows.len() {
            match refused.next_if(|(row, _)| *row as usize == i) {
                Some((_, reason)) => out.refused.push(((rows.start + i) as u32, reason)),
                None => {
                    for (j, slot) in self.dense_pattern.iter().enumerate() {
                        let from = first + i * stride + j;
                        if out.keys[from] != LACKING {
                            (out.keys[end], out.values[end]) = (out.keys[from], out.values[from]);
                            out.slots.push(*slot);
                            end += 1;
                        }
                    }
                }
            }
            out.ends.push(end as u32);
        }
        out.keys.truncate(end);
        out.values.truncate(end);
    }

    /// Some slots are lists: rows are put together slot by slot.
    fn extract_mixed(
        &self,
        batch: &RecordBatch,
        rows: Range<usize>,
        scratch: &mut Scratch,
        out: &mut Features,
    ) -> Result<()> {
        let stride = self.dense_slots;
        scratch.keys.clear();
        scratch.keys.resize(rows.len() * stride, LACKING);
        scratch.values.clear();
        scratch.values.resize(rows.len() * stride, 1.0);
        let (keys, values) = (&mut scratch.keys[..], &mut scratch.values[..]);
        let mut dense = Dense { keys, values, stride, lacks_some: false, refused: Vec::new() };
        self.write_dense(&mut dense, batch, rows.clone())?;
        let mut refused = first_reasons(dense.refused).into_iter().peekable();
        for (i, row) in rows.enumerate() {
            let first = out.keys.len();
            let reason = match refused.next_if(|(refused, _)| *refused as usize == i) {
                Some((_, reason)) => Some(reason),
                None => self.put_together(i, row, batch, scratch, out).err(),
            };
            if let Some(reason) = reason {
                out.keys.truncate(first);
                out.values.truncate(first);
                out.slots.truncate(first);
                out.refused.push((row as u32, reason));
            }
            out.ends.push(out.keys.len() as u32);
        }
        Ok(())
    }

    fn put_together(
        &self,
        i: usize,
        row: usize,
        batch: &RecordBatch,
        scratch: &mut Scratch,
        out: &mut Features,
    ) -> Result<(), String> {
        let first = out.keys.len();
        let mut place = i * self.dense_slots;
        for (slot, source) in self.sources.iter().enumerate() {
            if let Source::Sparse { column, seed } = source {
                gather_list(batch.column(*column), row, *seed, &mut scratch.list)
                    .map_err(|reason| format!("slot '{}': {reason}", self.slots[slot]))?;
                arrange(&mut scratch.list, &mut scratch.arranging);
                sum_equal(&mut scratch.list);
                out.keys.extend(scratch.list.iter().map(|pair| pair.0));
                out.values.extend(scratch.list.iter().map(|pair| pair.1));
                out.slots.extend(scratch.list.iter().map(|_| slot as u16));
                continue;
            }
            if scratch.keys[place] != LACKING {
                out.keys.push(scratch.keys[place]);
                out.values.push(scratch.values[place]);
                out.slots.push(slot as u16);
            }
            place += 1;
        }
        match out.keys.len() - first {
            count if count > FEATURES_MAX => {
                Err(format!("sample has {count} features; at most {FEATURES_MAX} are taken"))
            }
            _ => Ok(()),
        }
    }

    /// Writes all dense slots of a block, one after the other.
    fn write_dense(&self, dense: &mut Dense, batch: &RecordBatch, rows: Range<usize>) -> Result<()> {
        let mut place = 0;
        for (source, slot) in self.sources.iter().zip(&self.slots) {
            match source {
                Source::Category(category) => dense.category(place, category, slot, batch, rows.clone())?,
                Source::Number { column, key } => {
                    dense.number(place, batch.column(*column), *key, slot, rows.clone())?
                }
                Source::Cross { parts, seed, buckets } => {
                    dense.cross(place, (parts, *seed, *buckets), slot, batch, rows.clone())?;
                }
                Source::Bias(key) => dense.keys.iter_mut().skip(place).step_by(dense.stride).for_each(|k| *k = *key),
                Source::Sparse { .. } => continue,
            }
            place += 1;
        }
        Ok(())
    }
}

impl Dense<'_> {
    fn refuse(&mut self, i: usize, slot: &str, reason: &str) {
        self.refused.push((i as u32, format!("slot '{slot}': {reason}")));
    }

    fn put(&mut self, place: usize, keys: &[u64]) {
        let places = self.keys.iter_mut().skip(place).step_by(self.stride);
        places.zip(keys).for_each(|(place, key)| *place = *key);
    }

    fn category(
        &mut self,
        place: usize,
        category: &Category,
        slot: &str,
        batch: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<()> {
        let mut keys = [0; BLOCK];
        let keys = &mut keys[..rows.len()];
        category.keys(batch.column(category.column), rows, keys, |i, reason| self.refuse(i, slot, &reason))?;
        self.put(place, keys);
        Ok(())
    }

    fn number(&mut self, place: usize, array: &dyn Array, key: u64, slot: &str, rows: Range<usize>) -> Result<()> {
        numbers(array, rows, |i, x| match x.map(feature_value) {
            // A zero adds nothing to a score and has no gradient.
            None | Some(Ok(0.0)) => self.lacks_some = true,
            Some(Ok(value)) => {
                let at = i * self.stride + place;
                (self.keys[at], self.values[at]) = (key, value);
            }
            Some(Err(reason)) => self.refuse(i, slot, &reason),
        })
    }

    /// The key of a combination is the hash of its parts' keys, one behind the other.
    fn cross(
        &mut self,
        place: usize,
        (parts, seed, buckets): (&[Category], u64, Option<u64>),
        slot: &str,
        batch: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<()> {
        let mut combined = [seed; BLOCK];
        let combined = &mut combined[..rows.len()];
        let mut keys = [0; BLOCK];
        let keys = &mut keys[..rows.len()];
        for part in parts {
            part.keys(batch.column(part.column), rows.clone(), keys, |i, reason| self.refuse(i, slot, &reason))?;
            for (combined, key) in combined.iter_mut().zip(&*keys) {
                *combined = feature_key(&key.to_le_bytes(), *combined);
            }
        }
        if let Some(n) = buckets {
            combined.iter_mut().for_each(|key| *key = feature_key(&(*key % n).to_le_bytes(), seed));
        }
        self.put(place, combined);
        Ok(())
    }
}

/// The features of one row's list; a NULL list has none.
fn gather_list(array: &dyn Array, row: usize, seed: u64, out: &mut Vec<Pair>) -> Result<(), String> {
    out.clear();
    let lists = array.as_list::<i32>();
    if !lists.is_valid(row) {
        return Ok(());
    }
    let offsets = lists.value_offsets();
    let list = offsets[row] as usize..offsets[row + 1] as usize;
    if list.len() > FEATURES_MAX {
        return Err(format!("list has {} features; at most {FEATURES_MAX} are taken", list.len()));
    }
    let pairs = lists.values().as_struct();
    let indices = pairs.column(0).as_primitive::<UInt64Type>();
    let values = pairs.column(1).as_primitive::<Float32Type>();
    for j in list.filter(|j| indices.is_valid(*j) && values.is_valid(*j)) {
        let value = values.value(j);
        if !value.is_finite() {
            return Err(format!("value of index {} is {value}", indices.value(j)));
        }
        if value != 0.0 {
            out.push((feature_key(&indices.value(j).to_le_bytes(), seed), value));
        }
    }
    Ok(())
}

/// The first reason of each row, by row.
fn first_reasons(mut refused: Vec<(u32, String)>) -> Vec<(u32, String)> {
    refused.sort_by_key(|(row, _)| *row);
    refused.dedup_by_key(|(row, _)| *row);
    refused
}
