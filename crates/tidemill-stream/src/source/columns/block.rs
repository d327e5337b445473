//! One column of many rows at once.
//!
//! In: text, and where the column's field of each row begins and ends. Out: values behind those that are there, as far as
//! the fields are good. What is bad is told by nothing but where it stops: that row is read again by itself
//! ([`Column::push_text`]), which knows the words for it. Sixty-four rows go together, through loops that ask nothing about
//! a single field; a group with a field that is written in an unusual way is read field by field.

use arrow::{
    array::BooleanBufferBuilder,
    buffer::{BooleanBuffer, NullBuffer},
};
use tidemill_base::simd::{Kernel, widest};

use super::{Column, Data, end};
use crate::source::number::{
    NotANumber,
    eight::{EIGHT, decimal, long_whole_number, whole_number},
    parse_bool, parse_f32, parse_f64, parse_i32, parse_i64,
};

/// Rows of a group: one word of bits.
pub(in crate::source) const GROUP: usize = 64;
/// Short texts are copied as so many bytes whatever their length: no call, and no question.
const SHORT: usize = 16;

/// The fields of one column.
pub(in crate::source) trait Fields {
    /// Where the fields of the rows from `first` on begin and end.
    fn write(&self, first: usize, from: &mut [u32], to: &mut [u32]);
}

/// Text whose rows are being taken.
#[derive(Clone, Copy)]
pub(in crate::source) struct Block<'a> {
    /// The text, valid UTF-8.
    pub(in crate::source) text: &'a [u8],
    /// What stands for NULL.
    pub(in crate::source) null: &'a [u8],
    /// Rows to take.
    pub(in crate::source) rows: usize,
}

/// One column's fields in some rows.
struct Group<'a> {
    text: &'a [u8],
    rows: usize,
    from: [u32; GROUP],
    to: [u32; GROUP],
    /// Bits of the rows whose field is not NULL; where it is, it is empty.
    there: u64,
    /// Bits of the rows whose field is empty.
    empty: u64,
    longest: usize,
}

impl Column {
    /// Adds the fields of the block's rows; returns how many of the first rows were good. It may have added more.
    /// `valid` is room to work in.
    pub(in crate::source) fn push_block(&mut self, block: &Block, fields: &impl Fields, valid: &mut Vec<u64>) -> usize {
        valid.clear();
        let name = &self.name;
        let good = widest(Reading { data: &mut self.data, name, block, fields, valid });
        let good = if self.nullable { good } else { good.min(first_null(valid)) };
        self.len += good;
        match first_null(valid) >= good {
            true => self.nulls.append_n_non_nulls(good),
            false => {
                let bits = BooleanBuffer::new(valid.clone().into(), 0, good);
                self.nulls.append_buffer(&NullBuffer::new(bits));
            }
        }
        good
    }
}

/// The fields of one column on their way to its values.
struct Reading<'a, F> {
    data: &'a mut Data,
    name: &'a str,
    block: &'a Block<'a>,
    fields: &'a F,
    valid: &'a mut Vec<u64>,
}

impl<F: Fields> Kernel for Reading<'_, F> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Self { data, name, block, fields, valid } = self;
        match data {
            Data::Int64(v) | Data::Timestamp(v) => block.numbers(v, fields, valid, whole_numbers, parse_i64),
            Data::Int32(v) => block.numbers(v, fields, valid, small_numbers, parse_i32),
            Data::Float64(v) => block.numbers(v, fields, valid, doubles, parse_f64),
            Data::Float32(v) => block.numbers(v, fields, valid, floats, parse_f32),
            Data::Bool(v) => block.groups(fields, valid, &mut Truths(v)),
            Data::Utf8 { ends, bytes } => block.groups(fields, valid, &mut Texts { ends, bytes, name }),
            Data::Sparse { .. } => 0,
        }
    }
}

/// Where groups of fields go. No closure: it would be called, and for narrower registers.
trait Take {
    /// Takes a group; returns how many of its first rows were good.
    fn take(&mut self, group: &Group) -> usize;
}

/// The first row whose bit is not set.
fn first_null(valid: &[u64]) -> usize {
    let word = valid.iter().position(|word| *word != u64::MAX);
    word.map_or(valid.len() * GROUP, |i| i * GROUP + valid[i].trailing_ones() as usize)
}

impl<'a> Block<'a> {
    /// Hands group after group to `taker`, which returns how many of its rows were good, until that is not all of them.
    #[inline(always)]
    fn groups(&self, fields: &impl Fields, valid: &mut Vec<u64>, taker: &mut impl Take) -> usize {
        let mut group =
            Group { text: self.text, rows: 0, from: [0; GROUP], to: [0; GROUP], there: 0, empty: 0, longest: 0 };
        for first in (0..self.rows).step_by(GROUP) {
            group.rows = GROUP.min(self.rows - first);
            fields.write(first, &mut group.from[..group.rows], &mut group.to[..group.rows]);
            group.look(self.null);
            valid.push(group.there);
            match taker.take(&group) {
                good if good < group.rows => return first + good,
                _ => {}
            }
        }
        self.rows
    }

    #[inline(always)]
    fn numbers<T: Copy + Default>(
        &self,
        out: &mut Vec<T>,
        fields: &impl Fields,
        valid: &mut Vec<u64>,
        all: impl Fn(&Group, &mut [T]) -> bool,
        parse: impl Fn(&[u8]) -> Result<T, NotANumber>,
    ) -> usize {
        let at = out.len();
        out.resize(at + self.rows, T::default());
        self.groups(fields, valid, &mut Numbers { out: &mut out[at..], at: 0, all, parse })
    }
}

/// Numbers, read all together where they are written as usual, and else one by one.
struct Numbers<'a, T, A, P> {
    out: &'a mut [T],
    at: usize,
    all: A,
    parse: P,
}

impl<T, A, P> Take for Numbers<'_, T, A, P>
where
    T: Copy + Default,
    A: Fn(&Group, &mut [T]) -> bool,
    P: Fn(&[u8]) -> Result<T, NotANumber>,
{
    #[inline(always)]
    fn take(&mut self, group: &Group) -> usize {
        let out = &mut self.out[self.at..][..group.rows];
        self.at += group.rows;
        // An empty field that is not NULL is no number.
        if group.there & group.empty == 0 && (self.all)(group, out) {
            return group.rows;
        }
        group.each(|i, field| {
            let x = field.map_or(Ok(T::default()), &self.parse);
            x.map(|x| out[i] = x).is_ok()
        })
    }
}

struct Truths<'a>(&'a mut BooleanBufferBuilder);

impl Take for Truths<'_> {
    fn take(&mut self, group: &Group) -> usize {
        group.each(|_, field| field.map_or(Ok(false), parse_bool).map(|x| self.0.append(x)).is_ok())
    }
}

struct Texts<'a> {
    ends: &'a mut Vec<i32>,
    bytes: &'a mut Vec<u8>,
    name: &'a str,
}

impl Take for Texts<'_> {
    #[inline(always)]
    fn take(&mut self, group: &Group) -> usize {
        group.texts(self.ends, self.bytes, self.name).unwrap_or(0)
    }
}

impl Group<'_> {
    /// Finds out what is true of the whole group.
    #[inline(always)]
    fn look(&mut self, null: &[u8]) {
        let (mut longest, mut shortest) = (0, u32::MAX);
        for (from, to) in self.from.iter().zip(&self.to).take(self.rows) {
            longest = longest.max(to - from);
            shortest = shortest.min(to - from);
        }
        let every = u64::MAX >> (GROUP - self.rows);
        (self.longest, self.there, self.empty) = (longest as usize, every, 0);
        if shortest == 0 {
            let fields = self.from.iter().zip(&self.to).take(self.rows);
            self.there = fields.enumerate().fold(0, |there, (i, (from, to))| there | u64::from(from != to) << i);
            self.empty = every & !self.there;
        }
        if !null.is_empty() {
            self.there = every;
            for i in 0..self.rows {
                if self.text[self.from[i] as usize..self.to[i] as usize] == *null {
                    self.from[i] = self.to[i];
                    self.there &= !(1 << i);
                }
            }
        }
    }

    /// Hands field after field, `None` for NULL, to `take` until that refuses one; returns how many it took.
    #[inline(always)]
    fn each(&self, mut take: impl FnMut(usize, Option<&[u8]>) -> bool) -> usize {
        let field = |i: usize| &self.text[self.from[i] as usize..self.to[i] as usize];
        (0..self.rows).find(|&i| !take(i, (self.there >> i & 1 == 1).then(|| field(i)))).unwrap_or(self.rows)
    }

    /// Hands the last `BYTES` bytes of each field to `read`; `false` if a field is longer, or one was not good.
    #[inline(always)]
    fn words<T, const BYTES: usize>(&self, out: &mut [T], read: impl Fn(&[u8; BYTES], usize) -> (T, u64)) -> bool {
        // Only at the very beginning of a text there are not so many bytes before a field's end.
        if self.longest > BYTES || (self.to[0] as usize) < BYTES {
            return false;
        }
        // Apart from what is computed of them, so that the words of several fields are computed together.
        let mut words = [[0; BYTES]; GROUP];
        for (word, to) in words.iter_mut().zip(&self.to[..self.rows]) {
            let Some(bytes) = self.text[..*to as usize].last_chunk::<BYTES>() else { return false };
            *word = *bytes;
        }
        let mut all_bad = 0;
        for (((out, word), from), to) in out.iter_mut().zip(&words).zip(&self.from).zip(&self.to) {
            let (x, bad) = read(word, (to - from) as usize);
            *out = x;
            all_bad |= bad;
        }
        all_bad == 0
    }

    #[inline(always)]
    fn texts(&self, ends: &mut Vec<i32>, bytes: &mut Vec<u8>, name: &str) -> Result<usize, String> {
        let mut lengths = [0; GROUP];
        let mut sum = 0;
        for (length, (from, to)) in lengths.iter_mut().zip(self.from.iter().zip(&self.to)).take(self.rows) {
            *length = to - from;
            sum += *length;
        }
        let at = bytes.len();
        end(at + sum as usize, name)?;
        let mut at = at as u32;
        bytes.resize((at + sum) as usize + SHORT, 0);
        let ends = {
            let first = ends.len();
            ends.resize(first + self.rows, 0);
            &mut ends[first..]
        };
        let (from, lengths) = (&self.from[..self.rows], &lengths[..self.rows]);
        // Where there are so many bytes behind each, and nearly everywhere there are.
        let is_inside = self.to[self.rows - 1] as usize + SHORT <= self.text.len();
        if self.longest <= SHORT && is_inside {
            for ((from, length), end) in from.iter().zip(lengths).zip(ends) {
                let short = self.text[*from as usize..].first_chunk::<SHORT>();
                bytes[at as usize..][..SHORT].copy_from_slice(short.unwrap_or(&[0; SHORT]));
                at += length;
                *end = at as i32;
            }
        } else {
            for ((from, length), end) in from.iter().zip(lengths).zip(ends) {
                let field = &self.text[*from as usize..][..*length as usize];
                bytes[at as usize..][..field.len()].copy_from_slice(field);
                at += length;
                *end = at as i32;
            }
        }
        bytes.truncate(at as usize);
        Ok(self.rows)
    }
}

#[inline(always)]
fn whole_numbers(group: &Group, out: &mut [i64]) -> bool {
    if group.longest <= EIGHT {
        return group.words(out, |bytes, length| whole_number(u64::from_le_bytes(*bytes), length));
    }
    group.words(out, |bytes: &[u8; 2 * EIGHT], length| {
        let (words, _) = bytes.as_chunks::<EIGHT>();
        long_whole_number([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])], length)
    })
}

/// Eight digits always fit into 32 bits.
#[inline(always)]
fn small_numbers(group: &Group, out: &mut [i32]) -> bool {
    group.words(out, |bytes, length| {
        let (x, bad) = whole_number(u64::from_le_bytes(*bytes), length);
        (x as i32, bad)
    })
}

/// Exact: a `f64` holds eight digits and these powers of ten, and one division rounds once.
#[inline(always)]
fn doubles(group: &Group, out: &mut [f64]) -> bool {
    const POWERS: [f64; EIGHT] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
    group.words(out, |bytes, length| {
        let (x, places, negative, bad) = decimal(u64::from_le_bytes(*bytes), length);
        let x = x as i64 as f64 / POWERS[places % EIGHT];
        (f64::from_bits(x.to_bits() ^ (negative as u64) << 63), bad)
    })
}

/// Exact as [`doubles`] as long as a `f32` holds the digits.
#[inline(always)]
fn floats(group: &Group, out: &mut [f32]) -> bool {
    const POWERS: [f32; EIGHT] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
    group.words(out, |bytes, length| {
        let (digits, places, negative, bad) = decimal(u64::from_le_bytes(*bytes), length);
        let x = digits as i64 as f32 / POWERS[places % EIGHT];
        (f32::from_bits(x.to_bits() ^ (negative as u32) << 31), bad | digits >> 24)
    })
}
