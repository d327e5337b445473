//! Extraction: rows to features, the hot path of training and of prediction.
//!
//! Works on blocks of rows that stay in the nearest cache: column by column it writes keys and values behind one another
//! for each row, then it arranges each row. Memory is kept from call to call in [`Features`]. Extraction is a pure function
//! of each row: how rows are cut into calls and blocks never matters.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, UInt64Type};
use std::ops::Range;
use tidemill_base::{Error, Result};

use super::{
    Extractor, FEATURES_MAX, Features,
    arrange::{Pair, append, arrange},
    bind::Source,
    category::Category,
    feature_key,
    number::{feature_value, numbers},
};

/// Rows of a block: with 40 features each they take 80 KiB.
const BLOCK: usize = 128;
/// Features a block has room for: rows with very long lists make blocks of fewer rows.
const PAIRS_MAX: usize = 1 << 18;

/// Room to work in, kept between calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Features of the block's rows, not yet arranged; each row has the same room.
    pairs: Vec<Pair>,
    arranging: Vec<Pair>,
}

/// The block's rows while their features are gathered.
struct Block<'a> {
    pairs: &'a mut Vec<Pair>,
    /// Pairs a row has room for.
    stride: usize,
    /// Pairs each row has so far.
    filled: [usize; BLOCK],
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
        let mut begin = 0;
        while begin < rows.num_rows() {
            let mut end = rows.num_rows().min(begin + BLOCK);
            let rows_fitting = PAIRS_MAX / self.features_max(rows, begin..end);
            end = end.min(begin + rows_fitting.max(1));
            self.extract_block(rows, begin..end, out)?;
            begin = end;
        }
        Ok(())
    }

    fn extract_block(&self, batch: &RecordBatch, rows: Range<usize>, out: &mut Features) -> Result<()> {
        let mut scratch = std::mem::take(&mut out.scratch);
        let stride = self.features_max(batch, rows.clone());
        let needed = stride * rows.len();
        if scratch.pairs.len() < needed {
            scratch.pairs.resize(needed, (0, 0.0));
        }
        let mut block = Block { pairs: &mut scratch.pairs, stride, filled: [0; BLOCK], refused: Vec::new() };
        for (source, slot) in self.sources.iter().zip(&self.slots) {
            block.gather(source, slot, batch, rows.clone())?;
        }
        for i in 0..rows.len() {
            block.push(i, self.bias, 1.0);
            let count = block.filled[i];
            if count > FEATURES_MAX {
                block
                    .refused
                    .push((i as u32, format!("sample has {count} features; at most {FEATURES_MAX} are taken")));
            }
        }

        let Block { filled, mut refused, .. } = block;
        refused.sort_by_key(|(row, _)| *row);
        refused.dedup_by_key(|(row, _)| *row);
        let mut refused = refused.into_iter().peekable();
        for (i, filled) in filled[..rows.len()].iter().enumerate() {
            match refused.next_if(|(row, _)| *row as usize == i) {
                Some((_, reason)) => out.refused.push(((rows.start + i) as u32, reason)),
                None => {
                    let pairs = &mut scratch.pairs[i * stride..][..*filled];
                    arrange(pairs, &mut scratch.arranging);
                    append(pairs, &mut out.keys, &mut out.values);
                }
            }
            out.ends.push(out.keys.len() as u32);
        }
        out.scratch = scratch;
        Ok(())
    }

    /// Features that a row of the block can have at most: one for each dense slot, the longest list of each sparse one (but
    /// a list beyond the bound is refused and needs no room), and the bias.
    fn features_max(&self, batch: &RecordBatch, rows: Range<usize>) -> usize {
        let of_source = |source: &Source| match source {
            Source::Sparse { column, .. } => {
                let lists = batch.column(*column).as_list::<i32>();
                let lengths = rows.clone().map(|row| lists.value_length(row) as usize);
                lengths.filter(|n| *n <= FEATURES_MAX).max().unwrap_or(0)
            }
            _ => 1,
        };
        1 + self.sources.iter().map(of_source).sum::<usize>()
    }
}

impl Block<'_> {
    #[inline(always)]
    fn push(&mut self, i: usize, key: u64, value: f32) {
        let filled = &mut self.filled[i];
        self.pairs[i * self.stride + *filled] = (key, value);
        *filled += 1;
    }

    fn refuse(&mut self, i: usize, slot: &str, reason: &str) {
        self.refused.push((i as u32, format!("slot '{slot}': {reason}")));
    }

    fn gather(&mut self, source: &Source, slot: &str, batch: &RecordBatch, rows: Range<usize>) -> Result<()> {
        match source {
            Source::Category(category) => {
                let mut keys = [0; BLOCK];
                self.category_keys(category, slot, batch, rows.clone(), &mut keys)?;
                (0..rows.len()).for_each(|i| self.push(i, keys[i], 1.0));
                Ok(())
            }
            Source::Number { column, key } => numbers(batch.column(*column), rows, |i, x| match x.map(feature_value) {
                // A zero adds nothing to a logit and has no gradient.
                None | Some(Ok(0.0)) => {}
                Some(Ok(value)) => self.push(i, *key, value),
                Some(Err(reason)) => self.refuse(i, slot, &reason),
            }),
            Source::Sparse { column, seed } => {
                self.gather_sparse(batch.column(*column), *seed, slot, rows);
                Ok(())
            }
            Source::Cross { parts, seed, buckets } => self.gather_cross(parts, *seed, *buckets, slot, batch, rows),
        }
    }

    fn category_keys(
        &mut self,
        category: &Category,
        slot: &str,
        batch: &RecordBatch,
        rows: Range<usize>,
        keys: &mut [u64; BLOCK],
    ) -> Result<()> {
        let array = batch.column(category.column);
        let keys = &mut keys[..rows.len()];
        category.keys(array, rows, keys, |i, reason| self.refuse(i, slot, &reason))
    }

    /// The key of a combination is the hash of its parts' keys, one behind the other.
    fn gather_cross(
        &mut self,
        parts: &[Category],
        seed: u64,
        buckets: Option<u64>,
        slot: &str,
        batch: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<()> {
        let mut combined = [seed; BLOCK];
        let mut keys = [0; BLOCK];
        for part in parts {
            self.category_keys(part, slot, batch, rows.clone(), &mut keys)?;
            for (combined, key) in combined[..rows.len()].iter_mut().zip(keys) {
                *combined = feature_key(&key.to_le_bytes(), *combined);
            }
        }
        for (i, key) in combined[..rows.len()].iter().enumerate() {
            let key = buckets.map_or(*key, |n| feature_key(&(key % n).to_le_bytes(), seed));
            self.push(i, key, 1.0);
        }
        Ok(())
    }

    fn gather_sparse(&mut self, array: &dyn Array, seed: u64, slot: &str, rows: Range<usize>) {
        let lists = array.as_list::<i32>();
        let pairs = lists.values().as_struct();
        let indices = pairs.column(0).as_primitive::<UInt64Type>();
        let values = pairs.column(1).as_primitive::<Float32Type>();
        let offsets = lists.value_offsets();
        for (i, row) in rows.enumerate().filter(|(_, row)| lists.is_valid(*row)) {
            let list = offsets[row] as usize..offsets[row + 1] as usize;
            if list.len() > FEATURES_MAX {
                self.refuse(i, slot, &format!("list has {} features; at most {FEATURES_MAX} are taken", list.len()));
                continue;
            }
            for j in list.filter(|j| indices.is_valid(*j) && values.is_valid(*j)) {
                let value = values.value(j);
                if !value.is_finite() {
                    self.refuse(i, slot, &format!("value of index {} is {value}", indices.value(j)));
                } else if value != 0.0 {
                    self.push(i, feature_key(&indices.value(j).to_le_bytes(), seed), value);
                }
            }
        }
    }
}
