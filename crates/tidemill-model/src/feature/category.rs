//! Columns whose values are names: whole numbers, text, truth values, times, and numbers put into buckets.
//!
//! In: some rows of a column. Out: a key for each. NULL has a key of its own.

use arrow::{
    array::{Array, ArrowPrimitiveType, AsArray},
    buffer::{BooleanBuffer, NullBuffer},
    datatypes::*,
};
use std::ops::Range;
use tidemill_base::{
    Error, Result, hash64, hash64_of_u64,
    simd::{Kernel, widest},
};

use super::{
    buckets::Buckets,
    feature_key, key_of_hash,
    number::{is_number, numbers},
};

/// How the keys of one column are made.
#[derive(Clone, Debug)]
pub(super) struct Category {
    pub(super) column: usize,
    pub(super) seed: u64,
    /// `None`: the value itself is the category.
    pub(super) bucketed: Option<Buckets>,
    pub(super) buckets: Option<u64>,
}

/// A name longer than this is refused: it is damage, or a column that nobody meant.
pub const VALUE_BYTES_MAX: usize = 4_096;

/// Tells which values of a column of text are too long to be names, each with its bytes.
fn too_long(array: &dyn Array, rows: Range<usize>, mut tell: impl FnMut(usize, usize)) {
    let mut look = |bytes: &mut dyn Iterator<Item = usize>| {
        bytes.enumerate().filter(|(_, bytes)| *bytes > VALUE_BYTES_MAX).for_each(|(i, bytes)| tell(i, bytes));
    };
    match array.data_type() {
        DataType::Utf8 => {
            let ends = &array.as_string::<i32>().value_offsets()[rows.start..=rows.end];
            // Mostly they are short all together, and then each is.
            if (ends[ends.len() - 1] - ends[0]) as usize > VALUE_BYTES_MAX {
                look(&mut ends.windows(2).map(|ends| (ends[1] - ends[0]) as usize));
            }
        }
        DataType::LargeUtf8 => {
            let text = array.as_string::<i64>();
            look(&mut rows.map(|row| text.value_length(row) as usize));
        }
        DataType::Utf8View => {
            let text = array.as_string_view();
            look(&mut rows.map(|row| text.value(row).len()));
        }
        _ => {}
    }
}

/// Whether values of this type can be told apart as categories.
pub(super) fn is_category(data_type: &DataType) -> bool {
    use DataType::*;
    is_number(data_type) || matches!(data_type, Utf8 | LargeUtf8 | Utf8View | Timestamp(_, _) | Date32 | Date64)
}

impl Category {
    /// The categories of a column: its values, or the buckets between `boundaries`.
    pub(super) fn new(column: usize, seed: u64, boundaries: Option<Vec<f64>>, buckets: Option<u64>) -> Self {
        let mut category = Self { column, seed, bucketed: None, buckets };
        category.bucketed = boundaries.map(|b| Buckets::new(b, |i| category.number_key(i), category.null_key()));
        category
    }

    /// Writes the key of each of `rows` to `keys`. A value that is no category is told to `refuse` with its row's index.
    pub(super) fn keys(
        &self,
        array: &dyn Array,
        rows: Range<usize>,
        keys: &mut [u64],
        mut refuse: impl FnMut(usize, String),
    ) -> Result<()> {
        match &self.bucketed {
            None => {
                too_long(array, rows.clone(), |i, bytes| {
                    refuse(i, format!("value longer than {VALUE_BYTES_MAX} bytes: it has {bytes}"));
                });
                self.hash_values(array, rows, keys)?;
            }
            Some(buckets) if *array.data_type() == DataType::Int64 => {
                let values = &array.as_primitive::<Int64Type>().values()[rows.clone()];
                let keys = &mut keys[..values.len()];
                each_valid(array, rows, |i, is_valid| keys[i] = buckets.key_of_whole(values[i], is_valid));
            }
            Some(buckets) => numbers(array, rows, |i, value| {
                keys[i] = value.map_or(buckets.null_key(), |x| buckets.key(x));
                if value.is_some_and(f64::is_nan) {
                    refuse(i, "value is NaN".into());
                }
            })?,
        }
        if let Some(n) = self.buckets {
            keys.iter_mut().for_each(|key| *key = self.number_key(*key % n));
        }
        Ok(())
    }

    fn hash_values(&self, array: &dyn Array, rows: Range<usize>, keys: &mut [u64]) -> Result<()> {
        use DataType::*;
        match array.data_type() {
            Int8 => self.integers::<Int8Type>(array, rows, keys, |x| x as u64),
            Int16 => self.integers::<Int16Type>(array, rows, keys, |x| x as u64),
            Int32 => self.integers::<Int32Type>(array, rows, keys, |x| x as u64),
            Date32 => self.integers::<Date32Type>(array, rows, keys, |x| x as u64),
            Int64 => self.integers::<Int64Type>(array, rows, keys, |x| x as u64),
            Date64 => self.integers::<Date64Type>(array, rows, keys, |x| x as u64),
            UInt8 => self.integers::<UInt8Type>(array, rows, keys, |x| x as u64),
            UInt16 => self.integers::<UInt16Type>(array, rows, keys, |x| x as u64),
            UInt32 => self.integers::<UInt32Type>(array, rows, keys, |x| x as u64),
            UInt64 => self.integers::<UInt64Type>(array, rows, keys, |x| x),
            Timestamp(TimeUnit::Second, _) => self.integers::<TimestampSecondType>(array, rows, keys, |x| x as u64),
            Timestamp(TimeUnit::Millisecond, _) => {
                self.integers::<TimestampMillisecondType>(array, rows, keys, |x| x as u64)
            }
            Timestamp(TimeUnit::Microsecond, _) => {
                self.integers::<TimestampMicrosecondType>(array, rows, keys, |x| x as u64)
            }
            Timestamp(TimeUnit::Nanosecond, _) => {
                self.integers::<TimestampNanosecondType>(array, rows, keys, |x| x as u64)
            }
            // A float as a category is its value: both zeros are one, and so are all NaN.
            Float32 => self.integers::<Float32Type>(array, rows, keys, |x| float_bits(x as f64)),
            Float64 => self.integers::<Float64Type>(array, rows, keys, float_bits),
            Utf8 => {
                let text = array.as_string::<i32>();
                let nulls = some_nulls(array);
                for begin in (rows.start..rows.end).step_by(64) {
                    let end = rows.end.min(begin + 64);
                    let is_valid = valid_word(nulls, begin..end);
                    let names = Names {
                        bytes: text.value_data(),
                        offsets: &text.value_offsets()[begin..=end],
                        numbers: Numbers {
                            is_valid,
                            seed: self.seed,
                            null_key: self.null_key(),
                            keys: &mut keys[begin - rows.start..end - rows.start],
                        },
                    };
                    widest(names);
                }
            }
            LargeUtf8 => {
                let text = array.as_string::<i64>();
                self.each(array, rows, keys, |row| feature_key(text.value(row).as_bytes(), self.seed));
            }
            Utf8View => {
                let text = array.as_string_view();
                self.each(array, rows, keys, |row| feature_key(text.value(row).as_bytes(), self.seed));
            }
            Boolean => {
                let truth = array.as_boolean();
                self.each(array, rows, keys, |row| feature_key(&[truth.value(row) as u8], self.seed));
            }
            other => return Err(Error::internal(format!("{other} was bound as a category"))),
        }
        Ok(())
    }

    fn integers<T: ArrowPrimitiveType>(
        &self,
        array: &dyn Array,
        rows: Range<usize>,
        keys: &mut [u64],
        bits: impl Fn(T::Native) -> u64,
    ) {
        let values = &array.as_primitive::<T>().values()[rows.clone()];
        keys.iter_mut().zip(values).for_each(|(key, value)| *key = bits(*value));
        let nulls = some_nulls(array);
        for (begin, keys) in rows.step_by(64).zip(keys[..values.len()].chunks_mut(64)) {
            let is_valid = valid_word(nulls, begin..begin + keys.len());
            widest(Numbers { is_valid, seed: self.seed, null_key: self.null_key(), keys });
        }
    }

    #[inline(always)]
    fn each(&self, array: &dyn Array, rows: Range<usize>, keys: &mut [u64], key: impl Fn(usize) -> u64) {
        match some_nulls(array) {
            None => rows.zip(keys).for_each(|(row, out)| *out = key(row)),
            Some(nulls) => {
                let null_key = self.null_key();
                rows.zip(keys).for_each(|(row, out)| *out = if nulls.is_valid(row) { key(row) } else { null_key });
            }
        }
    }

    #[inline(always)]
    fn number_key(&self, x: u64) -> u64 {
        feature_key(&x.to_le_bytes(), self.seed)
    }

    /// Under another seed than any value, so that no value is taken for it.
    fn null_key(&self) -> u64 {
        feature_key(b"NULL", hash64(b"NULL", self.seed))
    }
}

/// Up to 64 names and where their keys go.
struct Names<'a> {
    bytes: &'a [u8],
    /// Where each begins in `bytes`, and the last one ends.
    offsets: &'a [i32],
    /// Where names of eight bytes are put, which are numbers.
    numbers: Numbers<'a>,
}

impl Kernel for Names<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { bytes, offsets, numbers } = self;
        let Numbers { is_valid, seed, null_key, keys } = numbers;
        // Names of one column are mostly of one length, and identifiers in hexadecimal of this one.
        if let Some(words) = words(bytes, offsets, is_valid) {
            let mut next = 0;
            for (i, key) in keys.iter_mut().enumerate() {
                *key = u64::from_le_bytes(words.get(next).copied().unwrap_or_default());
                next += (is_valid >> i & 1) as usize;
            }
            return Numbers { is_valid, seed, null_key, keys }.run();
        }
        for (i, (key, ends)) in keys.iter_mut().zip(offsets.windows(2)).enumerate() {
            let value = &bytes[ends[0] as usize..ends[1] as usize];
            *key = if is_valid >> i & 1 == 1 { feature_key(value, seed) } else { null_key };
        }
    }
}

/// Up to 64 whole numbers, in whose places their keys are put.
struct Numbers<'a> {
    /// A bit for each that is there.
    is_valid: u64,
    seed: u64,
    null_key: u64,
    keys: &'a mut [u64],
}

impl Kernel for Numbers<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { is_valid, seed, null_key, keys } = self;
        for (i, key) in (0u64..).zip(keys.iter_mut()) {
            let hashed = key_of_hash(hash64_of_u64(*key, seed));
            *key = if is_valid >> i & 1 == 1 { hashed } else { null_key };
        }
    }
}

/// The names that are there, if each is of eight bytes, and nothing stands where one is not there.
#[inline(always)]
fn words<'a>(bytes: &'a [u8], offsets: &[i32], is_valid: u64) -> Option<&'a [[u8; 8]]> {
    let mut is_other = false;
    for (i, ends) in offsets.windows(2).enumerate() {
        is_other |= ends[1] - ends[0] != 8 * (is_valid >> i & 1) as i32;
    }
    let (first, last) = (*offsets.first()? as usize, *offsets.last()? as usize);
    (!is_other).then(|| bytes[first..last].as_chunks().0)
}

/// Hands each of `rows`, by its place among them, with whether its value is there.
#[inline(always)]
fn each_valid(array: &dyn Array, rows: Range<usize>, mut take: impl FnMut(usize, bool)) {
    let nulls = some_nulls(array);
    // One loop for both, so that what it does for each is put into it.
    for begin in (0..rows.len()).step_by(64) {
        let end = rows.len().min(begin + 64);
        let word = valid_word(nulls, rows.start + begin..rows.start + end);
        for i in begin..end {
            take(i, word >> (i - begin) & 1 == 1);
        }
    }
}

/// Which values are NULL, if some are.
fn some_nulls(array: &dyn Array) -> Option<&NullBuffer> {
    array.nulls().filter(|nulls| nulls.null_count() > 0)
}

/// A bit for each of up to 64 rows whose value is there.
#[inline(always)]
fn valid_word(nulls: Option<&NullBuffer>, rows: Range<usize>) -> u64 {
    nulls.map_or(u64::MAX, |nulls| first_word(&nulls.inner().slice(rows.start, rows.len())))
}

/// The first 64 bits, or those that there are.
fn first_word(bits: &BooleanBuffer) -> u64 {
    let chunks = bits.bit_chunks();
    chunks.iter().next().unwrap_or_else(|| chunks.remainder_bits())
}

fn float_bits(x: f64) -> u64 {
    match x {
        _ if x.is_nan() => f64::NAN.to_bits(),
        _ => (x + 0.0).to_bits(),
    }
}
