//! Rows of parameters in as few bytes as hold every bit of them.
//!
//! In: rows. Out: each in the smallest form that gives the same bits back: what was rounded ([`crate::precision`]) takes 16
//! or 8 bits a parameter, everything else 32. The form is found by looking at the numbers, so the same row has the same bytes
//! wherever it is written.
//!
//! ```text
//! 0 f32    4 bytes a parameter
//! 1 f16    2 bytes
//! 2 int8   exponent i8 | steps i8 each: a parameter is steps * 2^exponent
//! 3 zero   nothing
//! ```

use half::f16;
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::{
    entries::{Entries, ascend},
    precision::{power_of_two, step_exponent},
};

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    F32 = 0,
    F16 = 1,
    Int8 = 2,
    Zero = 3,
}

impl Form {
    pub const ALL: [Form; 4] = [Form::F32, Form::F16, Form::Int8, Form::Zero];

    /// The smallest form that holds every bit of a row.
    pub fn of(row: &[f32]) -> Self {
        if row.iter().all(|x| x.to_bits() == 0) {
            return Form::Zero;
        }
        if is_steps(row) {
            return Form::Int8;
        }
        let is_half = |x: &f32| x.is_finite() && f16::from_f32(*x).to_f32().to_bits() == x.to_bits();
        if row.iter().all(is_half) { Form::F16 } else { Form::F32 }
    }

    /// Bytes of a row.
    pub fn bytes(self, width: usize) -> usize {
        match self {
            Form::F32 => 4 * width,
            Form::F16 => 2 * width,
            Form::Int8 => width + 1,
            Form::Zero => 0,
        }
    }

    /// Appends a row that this form holds.
    pub fn write(self, row: &[f32], out: &mut Vec<u8>) {
        match self {
            Form::F32 => out.extend(row.iter().flat_map(|x| x.to_le_bytes())),
            Form::F16 => out.extend(row.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
            Form::Int8 => {
                // A row of zeros has any exponent.
                let exponent = step_exponent(row).unwrap_or(0);
                let step = power_of_two(exponent);
                out.push(exponent as i8 as u8);
                out.extend(row.iter().map(|x| (x / step) as i8 as u8));
            }
            Form::Zero => {}
        }
    }

    /// Appends the parameters of a row, whose bytes are as many as [`Form::bytes`] says.
    #[inline(always)]
    pub fn read(self, bytes: &[u8], width: usize, out: &mut Vec<f32>) {
        match self {
            Form::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Form::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Form::Int8 => {
                let Some((exponent, steps)) = bytes.split_first() else { return };
                // The exponents that are written are within -100 and 101; another one gives another number, no harm.
                let step = power_of_two(i32::from(*exponent as i8).clamp(-126, 127));
                out.extend(steps.iter().map(|s| f32::from(*s as i8) * step));
            }
            Form::Zero => out.resize(out.len() + width, 0.0),
        }
    }
}

/// Whether all of a row are whole numbers of its step.
fn is_steps(row: &[f32]) -> bool {
    let Some(exponent) = step_exponent(row) else { return false };
    let step = power_of_two(exponent);
    row.iter().all(|x| {
        let steps = x / step;
        steps.abs() <= 127.0 && (f32::from(steps as i8) * step).to_bits() == x.to_bits()
    })
}

/// Zeros that a reader makes of nothing, at most.
const ZEROS_MAX: usize = 1 << 28;

/// Parameters that a reader makes of so many bytes, at most: a row of zeros takes none, so bytes that anybody made up could
/// ask for all there is. A key alone is enough for a row of every learner but the widest.
fn params_max(bytes: usize) -> usize {
    bytes.saturating_mul(128).max(1 << 24)
}

/// The form of each row, where smaller ones save a tenth at least; where they don't, older programs are let read on.
pub(crate) fn forms(entries: &Entries) -> Option<Vec<Form>> {
    let forms: Vec<Form> = entries.iter().map(|(_, row)| Form::of(row)).collect();
    let bytes: usize = forms.iter().map(|form| form.bytes(entries.width)).sum();
    let zeros = forms.iter().filter(|form| **form == Form::Zero).count() * entries.width;
    let is_believed = zeros <= ZEROS_MAX && entries.params.len() <= params_max(bytes + entries.len() * 8);
    (!entries.is_empty() && is_believed && bytes * 10 <= entries.params.len() * 4 * 9).then_some(forms)
}

/// Appends entries: width, count, keys, the form of each in two bits, rows.
pub(crate) fn encode(entries: &Entries, forms: &[Form], out: &mut Encoder) {
    out.put_varint(entries.width as u64).put_varint(entries.len() as u64);
    entries.keys.iter().for_each(|key| _ = out.put_u64(*key));
    for four in forms.chunks(4) {
        out.put_u8(four.iter().enumerate().fold(0, |byte, (i, form)| byte | (*form as u8) << (2 * i)));
    }
    let mut rows = Vec::new();
    entries.iter().zip(forms).for_each(|((_, row), form)| form.write(row, &mut rows));
    out.put_bytes(&rows);
}

/// Reads back what [`encode`] wrote.
pub(crate) fn decode(d: &mut Decoder) -> Result<Entries> {
    let width = d.varint()? as usize;
    let (bytes, count) = (d.left(), d.count(8)?);
    let keys: Vec<u64> = (0..count).map(|_| d.u64()).collect::<Result<_>>()?;
    if !ascend(&keys) || (width == 0 && count > 0) {
        return Err(Error::corrupt("entries: keys do not ascend from 1"));
    }
    let params = count.checked_mul(width).filter(|params| *params <= params_max(bytes));
    let params = params.ok_or_else(|| {
        Error::corrupt(format!("entries: {count} rows of {width} parameters in {bytes} bytes are not believed"))
    })?;
    let packed = d.take(count.div_ceil(4))?.to_vec();
    let rows = d.bytes()?;
    let form = |i: usize| Form::ALL[usize::from(packed[i / 4] >> (2 * (i % 4)) & 3)];
    if (0..count).filter(|i| form(*i) == Form::Zero).count().saturating_mul(width) > ZEROS_MAX {
        return Err(Error::corrupt("entries: more zeros than a delta has"));
    }
    let (mut params, mut at) = (Vec::with_capacity(params), 0usize);
    for form in (0..count).map(form) {
        let end = at.checked_add(form.bytes(width)).filter(|end| *end <= rows.len());
        let end = end.ok_or_else(|| Error::corrupt("entries: rows end early"))?;
        form.read(&rows[at..end], width, &mut params);
        at = end;
    }
    match at == rows.len() {
        true => Ok(Entries { width, keys, params }),
        false => Err(Error::corrupt("entries: bytes behind the last row")),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;
    use crate::precision::Precision;

    fn row(form: Form, rng: &mut Rng) -> Vec<f32> {
        let mut row: Vec<f32> = (0..5).map(|_| rng.normal() as f32).collect();
        match form {
            Form::F32 => {}
            Form::F16 => Precision::F16.round(&mut row),
            Form::Int8 => Precision::Int8.round(&mut row),
            Form::Zero => row.fill(0.0),
        }
        row
    }

    #[test]
    fn every_row_takes_its_smallest_form_and_comes_back_to_the_bit() {
        let mut rng = Rng::seeded(2);
        let mut entries = Entries::new(5);
        for i in 0..4_000 {
            let form = Form::ALL[rng.below(4) as usize];
            let row = row(form, &mut rng);
            assert_eq!(Form::of(&row), form, "{row:?}");
            entries.push(i + 1, &row);
        }
        for odd in [[-0.0, 0.0, 1.0, 2.0, 3.0], [f32::NAN; 5], [f32::MAX; 5], [f32::MIN_POSITIVE / 2.0; 5]] {
            let mut bytes = Vec::new();
            let form = Form::of(&odd);
            form.write(&odd, &mut bytes);
            let mut back = Vec::new();
            form.read(&bytes, 5, &mut back);
            assert!(back.iter().zip(&odd).all(|(a, b)| a.to_bits() == b.to_bits()), "{odd:?} as {form:?}: {back:?}");
        }
        let mut out = Encoder::new();
        encode(&entries, &forms(&entries).unwrap(), &mut out);
        let bytes = out.finish();
        let mut d = Decoder::new(&bytes, "test");
        assert_eq!(decode(&mut d).unwrap(), entries);
        d.end().unwrap();
        // A quarter each of 20, 10, 6 and no bytes, beside keys, forms and lengths.
        let expected = 4_000 * 9 + 4_000 * 8 + 1_000;
        assert!((bytes.len() as i64 - expected).abs() < 2_000, "{} {expected}", bytes.len());
    }

    /// Whatever the bytes are, they are entries or an error.
    #[test]
    fn bytes_that_are_no_entries_are_refused() {
        let mut rng = Rng::seeded(3);
        let entries = Entries { width: 2, keys: vec![1, 2, 3], params: vec![0.5, 0.25, 0.0, 0.0, 0.1, 0.2] };
        let mut out = Encoder::new();
        encode(&entries, &forms(&entries).unwrap(), &mut out);
        let bytes = out.finish();
        for _ in 0..20_000 {
            let mut bad = bytes.clone();
            let at = rng.below(bad.len() as u64) as usize;
            bad[at] ^= 1 << rng.below(8);
            bad.truncate(bad.len() - rng.below(3) as usize);
            let mut d = Decoder::new(&bad, "test");
            if let Ok(read) = decode(&mut d) {
                assert_eq!(read.params.len(), read.width * read.len());
            }
        }
    }

    /// Rows of zeros take no bytes, so what is made of few bytes is bounded: a width that nobody has is not multiplied, and not
    /// believed.
    #[test]
    fn few_bytes_do_not_ask_for_much_memory() {
        let written = |width: u64, count: u64| {
            let mut out = Encoder::new();
            out.put_varint(width).put_varint(count);
            (1..=count).for_each(|key| _ = out.put_u64(key));
            (0..count.div_ceil(4)).for_each(|_| _ = out.put_u8(0b11_11_11_11));
            out.put_bytes(&[]);
            out.finish()
        };
        let read = |width, count| decode(&mut Decoder::new(&written(width, count), "test"));
        assert_eq!(read(1024, 20_000).unwrap().params.len(), 20_480_000, "what learners have is read");
        for (width, count) in [(1 << 26, 1), (1 << 62, 4), (u64::MAX, 1), (u64::MAX / 2, 3), (4_000_000, 40)] {
            let e = read(width, count).unwrap_err();
            assert!(e.message().contains("are not believed"), "{width} * {count}: {e}");
        }
        assert!(read(1024, 300_000).unwrap_err().message().contains("more zeros than a delta has"));
        // What would not be read is not written.
        let wide = |width| Entries { width, keys: vec![1, 2], params: vec![0.0; 2 * width] };
        assert!(forms(&wide(1 << 23)).is_some() && forms(&wide(1 << 24)).is_none());
    }
}
