//! Tensors as requests bring them, whatever protocol they came by.
//!
//! In: a name, a shape, a datatype and values, from JSON, from bytes or from gRPC. Out: a [`Tensor`] whose values are as
//! many as its shape says, whole numbers as 64-bit ones, text as UTF-8, floating-point numbers all finite.

use std::borrow::Cow;

use half::f16;
use tidemill_base::{Error, Result};

/// Dimensions that are read at all; a model takes one or two.
pub const RANK_MAX: usize = 8;

/// A tensor of a request.
#[derive(Debug, PartialEq)]
pub struct Tensor<'a> {
    /// What it is called.
    pub name: Cow<'a, str>,
    /// Its dimensions.
    pub shape: Shape,
    /// What its values are.
    pub datatype: Datatype,
    /// The values, row by row.
    pub values: Values,
    /// Places of the values that are NULL, ascending; there the values are zero or empty.
    pub nulls: Vec<u32>,
}

/// The dimensions of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    dims: [u64; RANK_MAX],
    rank: usize,
}

/// What the values of a tensor are, in the words of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Datatype {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

/// Values of a tensor.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Texts),
}

/// Texts, one behind the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    /// For each text where it ends.
    pub ends: Vec<i32>,
    /// All of them.
    pub bytes: Vec<u8>,
}

impl Shape {
    /// Of these dimensions, or nothing when there are too many.
    pub fn new(dims: &[u64]) -> Option<Self> {
        let mut shape = Self::default();
        dims.iter().try_for_each(|dim| shape.push(*dim)).is_some().then_some(shape)
    }

    /// One more dimension, or nothing when there are too many.
    pub fn push(&mut self, dim: u64) -> Option<()> {
        *self.dims.get_mut(self.rank)? = dim;
        self.rank += 1;
        Some(())
    }

    /// The dimensions, the outermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.rank]
    }

    /// How many values there are; nothing when the number is beyond any memory.
    pub fn count(&self) -> Option<usize> {
        let count = self.dims().iter().try_fold(1u64, |count, dim| count.checked_mul(*dim))?;
        usize::try_from(count).ok()
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.dims().iter().map(u64::to_string).collect();
        write!(f, "[{}]", dims.join(","))
    }
}

/// Every datatype with its name, the bytes of a value (texts have none of their own) and the bounds of a whole number.
const DATATYPES: [(Datatype, &str, usize, i64, i64); 13] = [
    (Datatype::Fp32, "FP32", 4, 0, 0),
    (Datatype::Fp64, "FP64", 8, 0, 0),
    (Datatype::Int64, "INT64", 8, i64::MIN, i64::MAX),
    (Datatype::Int32, "INT32", 4, i32::MIN as i64, i32::MAX as i64),
    (Datatype::Bytes, "BYTES", 0, 0, 0),
    (Datatype::Bool, "BOOL", 1, 0, 0),
    (Datatype::Int16, "INT16", 2, i16::MIN as i64, i16::MAX as i64),
    (Datatype::Int8, "INT8", 1, i8::MIN as i64, i8::MAX as i64),
    (Datatype::Uint8, "UINT8", 1, 0, u8::MAX as i64),
    (Datatype::Uint16, "UINT16", 2, 0, u16::MAX as i64),
    (Datatype::Uint32, "UINT32", 4, 0, u32::MAX as i64),
    // No column holds more than 63 bits.
    (Datatype::Uint64, "UINT64", 8, 0, i64::MAX),
    (Datatype::Fp16, "FP16", 2, 0, 0),
];

impl Datatype {
    /// The datatype of this name.
    pub fn parse(name: &str) -> Option<Self> {
        DATATYPES.iter().find(|d| d.1 == name).map(|d| d.0)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Least and largest whole number that it holds and a column can take.
    pub fn bounds(self) -> (i64, i64) {
        (self.row().3, self.row().4)
    }

    /// No values of it, with room for some.
    pub fn values(self, room: usize) -> Values {
        match self {
            Self::Bool => Values::Bool(Vec::with_capacity(room)),
            Self::Fp16 | Self::Fp32 => Values::Fp32(Vec::with_capacity(room)),
            Self::Fp64 => Values::Fp64(Vec::with_capacity(room)),
            Self::Bytes => Values::Bytes(Texts { ends: Vec::with_capacity(room), bytes: Vec::new() }),
            _ => Values::Int(Vec::with_capacity(room)),
        }
    }

    fn row(self) -> &'static (Datatype, &'static str, usize, i64, i64) {
        DATATYPES.iter().find(|d| d.0 == self).expect("every datatype is in the table")
    }
}

/// The datatypes that are understood, for messages.
pub fn datatype_names() -> String {
    DATATYPES.map(|d| d.1).join(", ")
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(v) => v.len(),
            Self::Int(v) => v.len(),
            Self::Fp32(v) => v.len(),
            Self::Fp64(v) => v.len(),
            Self::Bytes(v) => v.ends.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A zero or an empty text, to stand where a NULL is.
    pub fn push_zero(&mut self) {
        match self {
            Self::Bool(v) => v.push(false),
            Self::Int(v) => v.push(0),
            Self::Fp32(v) => v.push(0.0),
            Self::Fp64(v) => v.push(0.0),
            Self::Bytes(v) => v.ends.push(v.bytes.len() as i32),
        }
    }

    /// Values as little-endian bytes, texts each behind its length in four bytes. `shape` says how many there are.
    pub fn from_bytes(datatype: Datatype, shape: &Shape, bytes: &[u8]) -> Result<Self> {
        let size = datatype.row().2;
        let count = shape.count().filter(|n| *n <= bytes.len());
        if datatype == Datatype::Bytes {
            return Ok(Self::Bytes(texts(shape, bytes)?));
        }
        if count.and_then(|n| n.checked_mul(size)) != Some(bytes.len()) {
            return Err(Error::invalid(format!(
                "{} bytes of data; {} of shape {shape} are {} bytes",
                bytes.len(),
                datatype.name(),
                shape.count().and_then(|n| n.checked_mul(size)).map_or("too many".to_string(), |n| n.to_string())
            )));
        }
        macro_rules! each {
            ($t:ty, $size:literal) => {
                bytes.as_chunks::<$size>().0.iter().map(|b| <$t>::from_le_bytes(*b))
            };
        }
        Ok(match datatype {
            Datatype::Fp16 => Self::Fp32(each!(f16, 2).map(f16::to_f32).collect()),
            Datatype::Fp32 => Self::Fp32(each!(f32, 4).collect()),
            Datatype::Fp64 => Self::Fp64(each!(f64, 8).collect()),
            Datatype::Int64 => Self::Int(each!(i64, 8).collect()),
            Datatype::Int32 => Self::Int(each!(i32, 4).map(i64::from).collect()),
            Datatype::Int16 => Self::Int(each!(i16, 2).map(i64::from).collect()),
            Datatype::Int8 => Self::Int(each!(i8, 1).map(i64::from).collect()),
            Datatype::Uint8 => Self::Int(bytes.iter().map(|b| i64::from(*b)).collect()),
            Datatype::Uint16 => Self::Int(each!(u16, 2).map(i64::from).collect()),
            Datatype::Uint32 => Self::Int(each!(u32, 4).map(i64::from).collect()),
            Datatype::Uint64 => {
                let whole = |x: u64| i64::try_from(x).map_err(|_| Error::invalid(format!("{x} is beyond 2^63")));
                Self::Int(each!(u64, 8).map(whole).collect::<Result<_>>()?)
            }
            Datatype::Bool => match bytes.iter().find(|b| **b > 1) {
                Some(b) => return Err(Error::invalid(format!("a BOOL is a byte 0 or 1, found {b}"))),
                None => Self::Bool(bytes.iter().map(|b| *b == 1).collect()),
            },
            Datatype::Bytes => unreachable!("answered above"),
        })
    }

    /// Makes numbers of 16 bits of those of 32: what is written as text is rounded as if it had come as bytes.
    pub fn round_to_fp16(&mut self) {
        if let Self::Fp32(values) = self {
            values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
    }

    /// Refuses numbers that are not finite: nothing can be predicted from them.
    pub fn check_finite(&self) -> Result<()> {
        let bad = match self {
            Self::Fp32(v) if !all_finite(v) => v.iter().position(|x| !x.is_finite()).map(|i| (i, f64::from(v[i]))),
            Self::Fp64(v) => v.iter().position(|x| !x.is_finite()).map(|i| (i, v[i])),
            _ => None,
        };
        match bad {
            Some((i, x)) => Err(Error::invalid(format!("value {i} is {x}; numbers must be finite"))),
            None => Ok(()),
        }
    }
}

/// Without a branch for each number.
fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |all, x| all & x.is_finite())
}

impl Texts {
    /// One more text.
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        // A request's body is far below 2 GiB.
        self.ends.push(self.bytes.len() as i32);
    }
}

fn texts(shape: &Shape, mut bytes: &[u8]) -> Result<Texts> {
    let total = bytes.len();
    let mut texts = Texts::default();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((text, rest)) = rest.split_at_checked(length) else { break };
        if let Err(e) = std::str::from_utf8(text) {
            let i = texts.ends.len();
            return Err(Error::invalid(format!("value {i} is not UTF-8 at its byte {}", e.valid_up_to())));
        }
        texts.push(text);
        bytes = rest;
    }
    if !bytes.is_empty() {
        let at = total - bytes.len();
        return Err(Error::invalid(format!(
            "the text at byte {at} ends beyond the data; each stands behind its length in four bytes"
        )));
    }
    match shape.count() == Some(texts.ends.len()) {
        true => Ok(texts),
        false => Err(Error::invalid(format!("{} values; shape {shape} says otherwise", texts.ends.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_bytes(datatype: &str, dims: &[u64], bytes: &[u8]) -> Result<Values, String> {
        let datatype = Datatype::parse(datatype).unwrap();
        Values::from_bytes(datatype, &Shape::new(dims).unwrap(), bytes).map_err(|e| e.message().to_string())
    }

    #[test]
    fn bytes_are_read_as_their_datatype_says() {
        for (datatype, bytes, values) in [
            ("FP32", 1.5f32.to_le_bytes().to_vec(), Values::Fp32(vec![1.5])),
            ("FP16", vec![0x00, 0x3e], Values::Fp32(vec![1.5])),
            ("FP64", (-2.5f64).to_le_bytes().to_vec(), Values::Fp64(vec![-2.5])),
            ("INT64", (-7i64).to_le_bytes().to_vec(), Values::Int(vec![-7])),
            ("INT32", (-7i32).to_le_bytes().to_vec(), Values::Int(vec![-7])),
            ("INT16", (-7i16).to_le_bytes().to_vec(), Values::Int(vec![-7])),
            ("INT8", vec![0xf9], Values::Int(vec![-7])),
            ("UINT8", vec![0xf9], Values::Int(vec![249])),
            ("UINT16", vec![1, 2], Values::Int(vec![513])),
            ("UINT32", vec![0xff; 4], Values::Int(vec![u32::MAX as i64])),
            ("UINT64", 7u64.to_le_bytes().to_vec(), Values::Int(vec![7])),
            ("BOOL", vec![1], Values::Bool(vec![true])),
            ("BYTES", b"\x02\0\0\0ab".to_vec(), Values::Bytes(Texts { ends: vec![2], bytes: b"ab".to_vec() })),
        ] {
            assert_eq!(from_bytes(datatype, &[1], &bytes), Ok(values.clone()), "{datatype}");
            assert_eq!(from_bytes(datatype, &[1, 1], &bytes), Ok(values), "{datatype}");
        }
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused() {
        for (datatype, dims, bytes, message) in [
            ("FP32", &[2][..], &[0; 7][..], "7 bytes of data; FP32 of shape [2] are 8 bytes"),
            ("FP32", &[1, 2], &[0; 12], "12 bytes of data; FP32 of shape [1,2] are 8 bytes"),
            (
                "FP32",
                &[u64::MAX, 2],
                &[0; 8],
                "8 bytes of data; FP32 of shape [18446744073709551615,2] are too many bytes",
            ),
            ("UINT64", &[1], &[0xff; 8], "18446744073709551615 is beyond 2^63"),
            ("BOOL", &[2], &[1, 2], "a BOOL is a byte 0 or 1, found 2"),
            (
                "BYTES",
                &[1],
                b"\x03\0\0\0ab",
                "the text at byte 0 ends beyond the data; each stands behind its length in four bytes",
            ),
            (
                "BYTES",
                &[1],
                b"\0\0\0\0x",
                "the text at byte 4 ends beyond the data; each stands behind its length in four bytes",
            ),
            ("BYTES", &[2], b"\0\0\0\0", "1 values; shape [2] says otherwise"),
            ("BYTES", &[1], b"\x02\0\0\0a\xff", "value 0 is not UTF-8 at its byte 1"),
        ] {
            assert_eq!(from_bytes(datatype, dims, bytes), Err(message.to_string()));
        }
        let nan = Values::Fp32(vec![1.0, f32::NAN]);
        assert_eq!(nan.check_finite().unwrap_err().message(), "value 1 is NaN; numbers must be finite");
        let infinite = Values::Fp64(vec![f64::NEG_INFINITY]);
        assert_eq!(infinite.check_finite().unwrap_err().message(), "value 0 is -inf; numbers must be finite");
    }
}
