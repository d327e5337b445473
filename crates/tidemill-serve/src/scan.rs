//! Goes through a JSON body without building a tree.
//!
//! In: the body as it came. Out: where its parts begin and end. Brackets and strings are only measured: what is in a part
//! is checked by whoever reads it. What is not as it must be is told with the place, and a body without an end ends.

use std::ops::Range;

use tidemill_base::{Error, Result};

/// Brackets within brackets, those of the request itself included.
const DEPTH_MAX: usize = 32;

/// A place in a body.
pub(crate) struct Cursor<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a body that is not empty.
    pub(crate) fn new(body: &'a [u8]) -> Result<Self> {
        let mut cursor = Self { body, at: 0 };
        match cursor.peek() {
            Some(_) => Ok(cursor),
            None => Err(Error::invalid("request body is empty")),
        }
    }

    /// The next byte that is not white space, left where it is.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while self.body.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.body.get(self.at).copied()
    }

    /// The same, and goes behind it.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Goes behind this byte, which begins `what`.
    pub(crate) fn expect(&mut self, byte: u8, what: &str) -> Result<()> {
        match self.peek() {
            Some(b) if b == byte => {
                self.at += 1;
                Ok(())
            }
            Some(b) if looks_like_json(b) => {
                Err(Error::invalid(format!("expected {what}, found {} at byte {}", kind_of(b), self.at)))
            }
            _ => Err(self.not_json(what)),
        }
    }

    /// Goes behind the string that begins here, and tells where its contents are.
    pub(crate) fn string(&mut self) -> Result<Range<usize>> {
        let mut at = self.at + 1;
        loop {
            match self.body.get(at) {
                None => return Err(Error::invalid(format!("the string that begins at byte {} never ends", self.at))),
                Some(b'\\') => at += 2,
                Some(b'"') => break,
                Some(_) => at += 1,
            }
        }
        let contents = self.at + 1..at;
        self.at = at + 1;
        Ok(contents)
    }

    /// A name, without its quotes; the colon behind it is [`Cursor::colon`]'s.
    pub(crate) fn name(&mut self) -> Result<&'a [u8]> {
        match self.peek() {
            Some(b'"') => Ok(&self.body[self.string()?]),
            _ => Err(self.not_json("a name in quotes")),
        }
    }

    /// The colon behind a name.
    pub(crate) fn colon(&mut self) -> Result<()> {
        match self.next() {
            Some(b':') => Ok(()),
            found => {
                self.at -= usize::from(found.is_some());
                Err(self.not_json("':'"))
            }
        }
    }

    /// Goes behind the object that begins here, `depth` brackets deep in the request, and tells where it is.
    pub(crate) fn object(&mut self, depth: usize, place: impl Fn() -> String) -> Result<Range<usize>> {
        match self.peek() {
            Some(b'{') => self.brackets(depth, place),
            Some(b) if looks_like_json(b) => {
                Err(Error::invalid(format!("{}: expected an object, found {}", place(), kind_of(b))))
            }
            _ => Err(self.not_json("an object")),
        }
    }

    /// Goes behind the brackets that open here, `depth` brackets deep in the request, and tells where they are.
    pub(crate) fn brackets(&mut self, depth: usize, place: impl Fn() -> String) -> Result<Range<usize>> {
        let (start, outside) = (self.at, depth);
        let mut depth = depth;
        loop {
            match self.body.get(self.at) {
                None => return Err(self.not_json(&format!("the end of {}", place()))),
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
            if depth > DEPTH_MAX {
                return Err(Error::invalid(format!("{}: nested deeper than {DEPTH_MAX}", place())));
            }
            if depth == outside {
                return Ok(start..self.at);
            }
        }
    }

    /// Whether nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(Error::invalid(format!("bytes behind the request's end, at byte {}", self.at))),
        }
    }

    /// What stands here is no JSON.
    pub(crate) fn not_json(&self, expected: &str) -> Error {
        match self.body.get(self.at) {
            None => Error::invalid(format!("request body ends where {expected} was expected")),
            Some(_) => Error::invalid(format!("request body is not JSON: expected {expected} at byte {}", self.at)),
        }
    }
}

fn looks_like_json(first: u8) -> bool {
    matches!(first, b'{' | b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')
}

fn kind_of(first: u8) -> &'static str {
    match first {
        b'{' => "an object",
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => "a number",
    }
}
