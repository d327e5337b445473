//! Little-endian bytes for everything stored: the journal, checkpoints, versions.
//!
//! [`Encoder`] appends; [`Decoder`] refuses to read past its end and never allocates more than the bytes it was given.

use crate::{Error, Result};

/// Appends numbers and strings to a growing buffer.
#[derive(Default, Debug)]
pub struct Encoder {
    bytes: Vec<u8>,
}

/// Reads back what an [`Encoder`] wrote.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'a str,
}

macro_rules! numbers {
    ($($put:ident $get:ident $t:ty),*) => {
        impl Encoder {$(
            #[doc = concat!("Appends one `", stringify!($t), "`.")]
            #[inline]
            pub fn $put(&mut self, x: $t) -> &mut Self {
                self.bytes.extend_from_slice(&x.to_le_bytes());
                self
            }
        )*}
        impl Decoder<'_> {$(
            #[doc = concat!("Reads one `", stringify!($t), "`.")]
            #[inline]
            pub fn $get(&mut self) -> Result<$t> {
                let (head, _) = self.take(size_of::<$t>())?.as_chunks();
                Ok(<$t>::from_le_bytes(head[0]))
            }
        )*}
    };
}
numbers!(put_u8 u8 u8, put_u32 u32 u32, put_u64 u64 u64, put_i64 i64 i64, put_f32 f32 f32, put_f64 f64 f64, put_u128 u128 u128);

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for so many bytes more, at once.
    pub fn reserve(&mut self, bytes: usize) -> &mut Self {
        self.bytes.reserve(bytes);
        self
    }

    /// Appends numbers, one after the other.
    pub fn put_f32s(&mut self, numbers: &[f32]) -> &mut Self {
        let begin = self.bytes.len();
        self.bytes.resize(begin + size_of_val(numbers), 0);
        let (places, _) = self.bytes[begin..].as_chunks_mut();
        places.iter_mut().zip(numbers).for_each(|(place, x)| *place = x.to_le_bytes());
        self
    }

    /// Appends an unsigned number in as few bytes as it needs (LEB128).
    pub fn put_varint(&mut self, mut x: u64) -> &mut Self {
        while x >= 0x80 {
            self.bytes.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.bytes.push(x as u8);
        self
    }

    /// Appends bytes behind their length.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.put_varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a string behind its length.
    pub fn put_str(&mut self, s: &str) -> &mut Self {
        self.put_bytes(s.as_bytes())
    }

    /// Forgets all bytes and keeps their room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The finished buffer.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

impl<'a> Decoder<'a> {
    /// Reads `bytes`; `what` names them in errors ("checkpoint 42, section join").
    pub fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { bytes, at: 0, what }
    }

    /// The next `n` bytes as they are.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&e| e <= self.bytes.len()).ok_or_else(|| self.short(n))?;
        let out = &self.bytes[self.at..end];
        self.at = end;
        Ok(out)
    }

    /// A number written by [`Encoder::put_varint`].
    pub fn varint(&mut self) -> Result<u64> {
        let mut x = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            x |= ((b & 0x7f) as u64) << shift;
            if b < 0x80 {
                return Ok(x);
            }
        }
        Err(Error::corrupt(format!("{}: number longer than 64 bits at byte {}", self.what, self.at)))
    }

    /// A count of things that take at least `bytes_each` bytes: refused when the rest is too short for it, so that a
    /// damaged length cannot ask for memory.
    pub fn count(&mut self, bytes_each: usize) -> Result<usize> {
        let n = self.varint()?;
        if n.saturating_mul(bytes_each.max(1) as u64) > self.left() as u64 {
            return Err(self.short(n as usize));
        }
        Ok(n as usize)
    }

    /// Bytes written by [`Encoder::put_bytes`].
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.count(1)?;
        self.take(n)
    }

    /// A string written by [`Encoder::put_str`].
    pub fn str(&mut self) -> Result<&'a str> {
        let what = self.what;
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::corrupt(format!("{what}: a name is not UTF-8")))
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Fails when bytes are left over.
    pub fn end(&self) -> Result<()> {
        match self.left() {
            0 => Ok(()),
            n => Err(Error::corrupt(format!("{}: {n} bytes left over at byte {}", self.what, self.at))),
        }
    }

    fn short(&self, wanted: usize) -> Error {
        Error::corrupt(format!("{}: ends at byte {} where {wanted} more were expected", self.what, self.bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_comes_back_and_nothing_more() {
        let mut e = Encoder::new();
        e.put_u32(7).put_varint(300).put_str("tide").put_f64(-0.5);
        let bytes = e.finish();
        let mut d = Decoder::new(&bytes, "test");
        assert_eq!((d.u32().unwrap(), d.varint().unwrap(), d.str().unwrap(), d.f64().unwrap()), (7, 300, "tide", -0.5));
        assert!(d.end().is_ok());
        assert!(d.u8().unwrap_err().message().contains("ends at byte"));
    }

    /// A flipped length byte must not make the process ask for gigabytes.
    #[test]
    fn a_length_beyond_the_end_is_refused_before_it_is_believed() {
        let mut e = Encoder::new();
        e.put_varint(u64::MAX >> 1);
        let bytes = e.finish();
        assert!(Decoder::new(&bytes, "test").count(8).is_err());
    }
}
