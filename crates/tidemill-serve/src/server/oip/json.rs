//! The body of an inference request, read once from its first byte to its last.
//!
//! In: the JSON part, and the bytes behind it that tensors may stand in. Out: an [`InferRequest`] whose tensors hold their
//! values already: where a tensor says its shape and datatype before its data, as all clients do, each number goes from
//! the text to its place in one step, and no tree is built. What is wrong is said with its place.

use std::{borrow::Cow, fmt, ops::Range};

use serde_json::{Map, Value};
use tidemill_base::{Error, Result};

use super::number::{self, Number, Plain};
use crate::predict::tensor::{Datatype, RANK_MAX, Shape, Tensor, Values, datatype_names};
use crate::server::shown;

/// Tensors in a request at most.
const TENSORS_MAX: usize = 65_536;
/// Brackets within brackets in what is passed over.
const DEPTH_MAX: usize = 32;

/// What is asked for.
#[derive(Debug, Default, PartialEq)]
pub(in crate::server) struct InferRequest<'a> {
    pub id: Option<Cow<'a, str>>,
    pub inputs: Vec<Tensor<'a>>,
    /// All outputs when absent.
    pub outputs: Option<Vec<RequestedOutput<'a>>>,
    /// Whether outputs that do not say it themselves come as bytes.
    pub binary: bool,
    /// Whether an input that is not there is NULL.
    pub missing_as_null: bool,
}

/// An output that is asked for.
#[derive(Debug, PartialEq)]
pub(in crate::server) struct RequestedOutput<'a> {
    pub name: Cow<'a, str>,
    /// Whether it comes as bytes.
    pub binary: Option<bool>,
}

/// Reads `json`; `bytes` follow it in the body.
pub(in crate::server) fn read<'a>(json: &'a [u8], bytes: &'a [u8]) -> Result<InferRequest<'a>> {
    let mut r = Reader { body: json, at: 0, bytes, bytes_taken: 0 };
    if r.peek().is_none() {
        return Err(Error::invalid("request body is empty"));
    }
    let mut request = InferRequest::default();
    let mut seen = Seen::default();
    r.object("an object like {\"inputs\":[{...}]}", |r, key| match key {
        b"id" => {
            seen.once("id")?;
            request.id = Some(r.string("id")?);
            Ok(())
        }
        b"inputs" => seen.once("inputs").and_then(|()| r.inputs(&mut request.inputs)),
        b"outputs" => {
            seen.once("outputs")?;
            request.outputs = Some(r.outputs()?);
            Ok(())
        }
        b"parameters" => {
            seen.once("parameters")?;
            let parameters = r.parameters("parameters")?;
            request.binary = flag(&parameters, "parameters", "binary_data_output")?.unwrap_or(false);
            request.missing_as_null = flag(&parameters, "parameters", "missing_as_null")?.unwrap_or(false);
            Ok(())
        }
        other => Err(Error::invalid(format!(
            "unknown name '{}' in the request; names are id, parameters, inputs, outputs",
            shown(&String::from_utf8_lossy(other))
        ))),
    })?;
    if r.peek().is_some() {
        return Err(Error::invalid(format!("bytes behind the request's end, at byte {}", r.at)));
    }
    if !seen.has("inputs") {
        return Err(Error::invalid("no \"inputs\" in the request"));
    }
    if r.bytes_taken != bytes.len() {
        return Err(Error::invalid(format!(
            "{} bytes behind the JSON; inputs take {} of them by binary_data_size",
            bytes.len(),
            r.bytes_taken
        )));
    }
    Ok(request)
}

/// Names that were there; a request has four.
#[derive(Default)]
struct Seen([Option<&'static str>; 4]);

impl Seen {
    fn once(&mut self, name: &'static str) -> Result<()> {
        if self.has(name) {
            return Err(Error::invalid(format!("\"{name}\" is there twice")));
        }
        let free = self.0.iter_mut().find(|seen| seen.is_none());
        *free.expect("there are as many places as names") = Some(name);
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(&Some(name))
    }
}

/// What of an input has been read.
#[derive(Default)]
struct Draft<'a> {
    name: Option<Cow<'a, str>>,
    shape: Option<Shape>,
    datatype: Option<Datatype>,
    values: Option<(Values, Vec<u32>)>,
    /// Where data stands that came before shape or datatype.
    later: Option<Range<usize>>,
    binary_size: Option<usize>,
}

/// The text behind the quote at `at`, and where it ends, if it is short and nothing in it has a meaning of its own.
#[inline(always)]
fn short_text(body: &[u8], at: usize) -> Option<(&[u8], usize)> {
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    // The top bit of each byte that is zero; a byte behind the first such one may have it as well.
    const fn zeros(word: u64) -> u64 {
        word.wrapping_sub(all(1)) & !word & all(0x80)
    }
    let start = at + 1;
    for i in [start, start + 8] {
        let word = u64::from_le_bytes(*body.get(i..)?.first_chunk()?);
        let control = word.wrapping_sub(all(0x20)) & !word & all(0x80);
        let special = zeros(word ^ all(b'"')) | zeros(word ^ all(b'\\')) | control;
        if special != 0 {
            let end = i + special.trailing_zeros() as usize / 8;
            return (body[at] == b'"' && body[end] == b'"').then(|| (&body[start..end], end + 1));
        }
    }
    None
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    bytes: &'a [u8],
    bytes_taken: usize,
}

impl<'a> Reader<'a> {
    fn inputs(&mut self, inputs: &mut Vec<Tensor<'a>>) -> Result<()> {
        self.array("an array of inputs", |r| {
            if inputs.len() >= TENSORS_MAX {
                return Err(Error::invalid(format!("more than {TENSORS_MAX} inputs")));
            }
            let i = inputs.len();
            inputs.push(r.input(i)?);
            Ok(())
        })?;
        match inputs.is_empty() {
            true => Err(Error::invalid("inputs is empty")),
            false => Ok(()),
        }
    }

    fn input(&mut self, i: usize) -> Result<Tensor<'a>> {
        let mut draft = Draft::default();
        let twice = |what: &str| Error::invalid(format!("inputs[{i}]: \"{what}\" is there twice"));
        self.object("an object for each input", |r, key| match key {
            b"name" => match draft.name.replace(r.string("name")?) {
                None => Ok(()),
                Some(_) => Err(twice("name")),
            },
            b"shape" => match draft.shape.replace(r.shape(i)?) {
                None => Ok(()),
                Some(_) => Err(twice("shape")),
            },
            b"datatype" => match draft.datatype.replace(r.datatype(i)?) {
                None => Ok(()),
                Some(_) => Err(twice("datatype")),
            },
            b"parameters" => {
                let parameters = r.parameters("parameters of an input")?;
                draft.binary_size = binary_size(i, &parameters)?;
                Ok(())
            }
            b"data" if draft.values.is_some() || draft.later.is_some() => Err(twice("data")),
            b"data" => match (draft.shape, draft.datatype) {
                (Some(shape), Some(datatype)) => {
                    draft.values = Some(r.data(Place(i, draft.name.as_deref()), shape, datatype)?);
                    Ok(())
                }
                _ => {
                    draft.later = Some(r.skip()?);
                    Ok(())
                }
            },
            other => Err(Error::invalid(format!(
                "inputs[{i}]: unknown name '{}'; names are name, shape, datatype, parameters, data",
                shown(&String::from_utf8_lossy(other))
            ))),
        })?;
        self.finish(i, draft)
    }

    fn finish(&mut self, i: usize, draft: Draft<'a>) -> Result<Tensor<'a>> {
        let missing = |what: &str| Error::invalid(format!("{} has no \"{what}\"", Place(i, draft.name.as_deref())));
        if draft.name.is_none() {
            return Err(missing("name"));
        }
        let shape = draft.shape.ok_or_else(|| missing("shape"))?;
        let datatype = draft.datatype.ok_or_else(|| missing("datatype"))?;
        let (values, nulls) = match (draft.values, draft.later, draft.binary_size) {
            (None, None, None) => {
                return Err(Error::invalid(format!("{} has no \"data\"", Place(i, draft.name.as_deref()))));
            }
            (None, None, Some(size)) => {
                let bytes = self.take_bytes(Place(i, draft.name.as_deref()), size)?;
                let values =
                    Values::from_bytes(datatype, &shape, bytes).map_err(|e| e.at(Place(i, draft.name.as_deref())))?;
                (values, Vec::new())
            }
            (_, _, Some(_)) => {
                let name = Place(i, draft.name.as_deref());
                return Err(Error::invalid(format!("{name} has both data and binary_data_size; send one of them")));
            }
            (Some(read), _, None) => read,
            (None, Some(later), None) => {
                let end = std::mem::replace(&mut self.at, later.start);
                let read = self.data(Place(i, draft.name.as_deref()), shape, datatype)?;
                self.at = end;
                read
            }
        };
        Ok(Tensor { name: draft.name.unwrap_or_default(), shape, datatype, values, nulls })
    }

    fn take_bytes(&mut self, input: Place<'_>, size: usize) -> Result<&'a [u8]> {
        let left = &self.bytes[self.bytes_taken..];
        let bytes = left.get(..size).ok_or_else(|| {
            Error::invalid(format!(
                "{input} has binary_data_size {size}, and {} bytes are left in the body",
                left.len()
            ))
        })?;
        self.bytes_taken += size;
        Ok(bytes)
    }

    fn shape(&mut self, i: usize) -> Result<Shape> {
        let mut shape = Shape::default();
        let too_many = |i| {
            let message = format!("inputs[{i}]: shape has more than {RANK_MAX} dimensions; a model takes one or two");
            Error::invalid(message)
        };
        self.array("an array of numbers for a shape", |r| {
            if let Some(dim) = r.small_whole() {
                return shape.push(dim).ok_or_else(|| too_many(i));
            }
            let dim = match r.number() {
                Some(number) => number.text().parse::<u64>().map_err(|_| {
                    Error::invalid(format!("inputs[{i}]: shape holds {}; dimensions are whole numbers", number.text()))
                })?,
                None => return Err(r.unexpected("a dimension")),
            };
            shape.push(dim).ok_or_else(|| too_many(i))
        })?;
        Ok(shape)
    }

    fn datatype(&mut self, i: usize) -> Result<Datatype> {
        let name = self.string("datatype")?;
        Datatype::parse(&name).ok_or_else(|| {
            Error::invalid(format!(
                "inputs[{i}]: unknown datatype '{}'; datatypes are {}",
                shown(&name),
                datatype_names()
            ))
        })
    }

    fn outputs(&mut self) -> Result<Vec<RequestedOutput<'a>>> {
        let mut outputs = Vec::new();
        self.array("an array of outputs", |r| {
            let i = outputs.len();
            if i >= TENSORS_MAX {
                return Err(Error::invalid(format!("more than {TENSORS_MAX} outputs")));
            }
            let (mut name, mut binary) = (None, None);
            r.object("an object for each output", |r, key| match key {
                b"name" => {
                    name = Some(r.string("name")?);
                    Ok(())
                }
                b"parameters" => {
                    let parameters = r.parameters("parameters of an output")?;
                    if parameters.contains_key("classification") {
                        return Err(Error::invalid(format!("outputs[{i}]: classification is not offered")));
                    }
                    no_shared_memory(&format!("outputs[{i}]"), &parameters)?;
                    binary = flag(&parameters, &format!("outputs[{i}]"), "binary_data")?;
                    Ok(())
                }
                other => Err(Error::invalid(format!(
                    "outputs[{i}]: unknown name '{}'; names are name, parameters",
                    shown(&String::from_utf8_lossy(other))
                ))),
            })?;
            let name = name.ok_or_else(|| Error::invalid(format!("outputs[{i}] has no \"name\"")))?;
            outputs.push(RequestedOutput { name, binary });
            Ok(())
        })?;
        Ok(outputs)
    }

    /// A tensor's data: flat, or nested as the shape says.
    fn data(&mut self, input: Place<'_>, shape: Shape, datatype: Datatype) -> Result<(Values, Vec<u32>)> {
        let mut values = datatype.values(shape.count().unwrap_or(0).min(self.body.len() - self.at));
        let mut nulls = Vec::new();
        if self.peek() != Some(b'[') {
            return Err(self.unexpected("an array of data"));
        }
        self.at += 1;
        let nested = self.peek() == Some(b'[');
        self.at -= 1;
        // A nested array has as many brackets as the shape has dimensions; a flat one has one.
        let dims = if nested { shape.dims() } else { &[][..] };
        self.level(input, dims, &mut values, &mut nulls)?;
        if Some(values.len()) != shape.count() {
            return Err(Error::invalid(format!("{input} has {} values; shape {shape} says otherwise", values.len())));
        }
        if datatype == Datatype::Fp16 {
            values.round_to_fp16();
            values.check_finite().map_err(|e| e.at(input))?;
        }
        if let Values::Int(whole) = &values {
            let (least, largest) = datatype.bounds();
            if let Some(x) = whole.iter().find(|x| **x < least || **x > largest) {
                return Err(Error::invalid(format!("{input}: {x} is out of range of {}", datatype.name())));
            }
        }
        Ok((values, nulls))
    }

    /// One array, `dims` being its length and those of what is inside; the innermost when there is one or none.
    fn level(&mut self, input: Place<'_>, dims: &[u64], values: &mut Values, nulls: &mut Vec<u32>) -> Result<()> {
        if dims.len() <= 1 {
            let before = values.len();
            self.values(input, values, nulls)?;
            return match dims.first() {
                Some(dim) if *dim != (values.len() - before) as u64 => Err(Error::invalid(format!(
                    "{input} has an array of {} values where its shape says {dim}",
                    values.len() - before
                ))),
                _ => Ok(()),
            };
        }
        let mut count = 0;
        self.array("an array inside the data", |r| {
            count += 1;
            r.level(input, &dims[1..], values, nulls)
        })?;
        match count == dims[0] {
            true => Ok(()),
            false => Err(Error::invalid(format!("{input} has {count} arrays where its shape says {}", dims[0]))),
        }
    }

    /// An array of values and nothing else.
    fn values(&mut self, input: Place<'_>, values: &mut Values, nulls: &mut Vec<u32>) -> Result<()> {
        if self.peek() != Some(b'[') {
            return Err(self.unexpected(&format!("data of {input}")));
        }
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let plain = match values {
            Values::Fp32(v) => number::plain(self.body, self.at, v),
            Values::Fp64(v) => number::plain(self.body, self.at, v),
            _ => Plain::Element(self.at),
        };
        match plain {
            Plain::Element(at) => self.at = at,
            Plain::Ended(at) => {
                self.at = at;
                return Ok(());
            }
        }
        loop {
            if self.peek() == Some(b'n') && self.body[self.at..].starts_with(b"null") {
                self.at += 4;
                nulls.push(values.len() as u32);
                values.push_zero();
            } else {
                self.value(input, values)?;
            }
            // Most are separated by a comma and nothing else.
            match self.next() {
                Some(b',') => {}
                Some(b']') => return Ok(()),
                _ => {
                    self.at -= 1;
                    return Err(self.unexpected("',' or ']' in the data"));
                }
            }
        }
    }

    #[inline(always)]
    fn value(&mut self, input: Place<'_>, values: &mut Values) -> Result<()> {
        match values {
            Values::Fp32(v) => {
                let number = self.number_of(input)?;
                let x = number.to_f32();
                v.push(finite(input, &number, x, x.is_finite())?);
            }
            Values::Fp64(v) => {
                let number = self.number_of(input)?;
                let x = number.to_f64();
                v.push(finite(input, &number, x, x.is_finite())?);
            }
            Values::Int(v) => {
                let number = self.number_of(input)?;
                let whole = number.to_i64().ok_or_else(|| {
                    Error::invalid(format!("{input}: {} is not a whole number of 64 bits", shown(number.text())))
                })?;
                v.push(whole);
            }
            Values::Bool(v) => {
                let rest = &self.body[self.at..];
                let truth = rest.starts_with(b"true");
                if !truth && !rest.starts_with(b"false") {
                    return Err(self.unexpected(&format!("true or false for {input}")));
                }
                self.at += if truth { 4 } else { 5 };
                v.push(truth);
            }
            Values::Bytes(v) => v.push(self.string("a value")?.as_bytes()),
        }
        Ok(())
    }

    #[inline(always)]
    fn number_of(&mut self, input: Place<'_>) -> Result<Number<'a>> {
        match self.number() {
            Some(number) => Ok(number),
            None => Err(self.unexpected(&format!("a number for {input}"))),
        }
    }

    /// A whole number of a few digits with a comma or a bracket behind it, as a shape has them.
    #[inline(always)]
    fn small_whole(&mut self) -> Option<u64> {
        self.peek();
        let digits = self.body[self.at..].iter().take(8).take_while(|b| b.is_ascii_digit()).count();
        let (text, behind) = self.body[self.at..].split_at(digits);
        let is_small = matches!(behind, [b',' | b']', ..]) && matches!(text, [b'0'] | [b'1'..=b'9', ..]);
        is_small.then(|| {
            self.at += digits;
            text.iter().fold(0, |x, digit| x * 10 + u64::from(digit - b'0'))
        })
    }

    #[inline(always)]
    fn number(&mut self) -> Option<Number<'a>> {
        self.peek();
        let (number, end) = number::read(self.body, self.at)?;
        self.at = end;
        Some(number)
    }

    /// Each name of an object, handed to `entry` to read what belongs to it.
    fn object(&mut self, expected: &str, mut entry: impl FnMut(&mut Self, &[u8]) -> Result<()>) -> Result<()> {
        if self.peek() != Some(b'{') {
            return Err(self.unexpected(expected));
        }
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a name in quotes"));
            }
            let key = self.text("a name")?;
            if self.peek() != Some(b':') {
                return Err(self.unexpected("':'"));
            }
            self.at += 1;
            entry(self, &key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("',' or '}'")),
            }
        }
    }

    /// Each element of an array, read by `element`.
    fn array(&mut self, expected: &str, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if self.peek() != Some(b'[') {
            return Err(self.unexpected(expected));
        }
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("',' or ']'")),
            }
        }
    }

    /// Parameters are few and small: they alone become a tree.
    fn parameters(&mut self, what: &str) -> Result<Map<String, Value>> {
        if self.peek() != Some(b'{') {
            return Err(self.unexpected(&format!("an object of {what}")));
        }
        let span = self.skip()?;
        serde_json::from_slice(&self.body[span.clone()])
            .map_err(|e| Error::invalid(format!("{what} at byte {}: {e}", span.start)))
    }

    /// A text; it is the body's own where nothing in it is escaped.
    fn string(&mut self, what: &str) -> Result<Cow<'a, str>> {
        let not_utf8 = |at: usize| Error::invalid(format!("not UTF-8 at byte {at}"));
        self.peek();
        let start = self.at + 1;
        match self.text(what)? {
            Cow::Borrowed(text) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(e) => Err(not_utf8(start + e.valid_up_to())),
            },
            Cow::Owned(text) => String::from_utf8(text).map(Cow::Owned).map_err(|_| not_utf8(start)),
        }
    }

    /// The bytes of a text.
    #[inline(always)]
    fn text(&mut self, what: &str) -> Result<Cow<'a, [u8]>> {
        match short_text(self.body, self.at) {
            Some((text, end)) => {
                self.at = end;
                Ok(Cow::Borrowed(text))
            }
            None => self.any_text(what),
        }
    }

    #[inline(never)]
    fn any_text(&mut self, what: &str) -> Result<Cow<'a, [u8]>> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(&format!("a string for {what}")));
        }
        let start = self.at + 1;
        let mut i = start;
        loop {
            match self.body.get(i) {
                Some(b'"') => break,
                Some(b'\\') => return self.escaped(what),
                Some(0x20..) => i += 1,
                Some(_) => return Err(Error::invalid(format!("a control character in a string, at byte {i}"))),
                None => return Err(Error::invalid(format!("the string that begins at byte {} never ends", self.at))),
            }
        }
        self.at = i + 1;
        Ok(Cow::Borrowed(&self.body[start..i]))
    }

    fn escaped(&mut self, what: &str) -> Result<Cow<'a, [u8]>> {
        let start = self.at;
        self.skip_string()?;
        let text: String = serde_json::from_slice(&self.body[start..self.at])
            .map_err(|e| Error::invalid(format!("string for {what} at byte {start}: {e}")))?;
        Ok(Cow::Owned(text.into_bytes()))
    }

    fn skip_string(&mut self) -> Result<()> {
        let mut i = self.at + 1;
        loop {
            match self.body.get(i) {
                None => return Err(Error::invalid(format!("the string that begins at byte {} never ends", self.at))),
                Some(b'\\') => i += 2,
                Some(b'"') => break,
                Some(_) => i += 1,
            }
        }
        self.at = i + 1;
        Ok(())
    }

    /// Passes over an array or an object, and says where it stands. Only brackets and strings are looked at.
    fn skip(&mut self) -> Result<Range<usize>> {
        if !matches!(self.peek(), Some(b'[' | b'{')) {
            return Err(self.unexpected("an array or an object"));
        }
        let start = self.at;
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(b'[' | b'{') => depth += 1,
                Some(b']' | b'}') => depth -= 1,
                Some(b'"') => {
                    self.skip_string()?;
                    continue;
                }
                Some(_) => {}
                None => return Err(self.unexpected("the end of an array or object")),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(start..self.at);
            }
            if depth > DEPTH_MAX {
                return Err(Error::invalid(format!("nested deeper than {DEPTH_MAX} at byte {}", self.at)));
            }
        }
    }

    /// The next byte that is not white space, left where it is.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        while let Some(b) = self.body.get(self.at) {
            if *b > b' ' || !matches!(b, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*b);
            }
            self.at += 1;
        }
        None
    }

    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    #[cold]
    fn unexpected(&mut self, expected: &str) -> Error {
        match self.peek() {
            None => Error::invalid(format!("request body ends where {expected} was expected")),
            Some(found) => {
                let found = match found {
                    b'{' => "an object".to_string(),
                    b'[' => "an array".to_string(),
                    b'"' => "a string".to_string(),
                    other => format!("'{}'", char::from(other).escape_default()),
                };
                Error::invalid(format!("expected {expected}, found {found} at byte {}", self.at))
            }
        }
    }
}

#[inline(always)]
fn finite<T>(input: Place<'_>, number: &Number<'_>, x: T, is_finite: bool) -> Result<T> {
    match is_finite {
        true => Ok(x),
        false => Err(Error::invalid(format!("{input}: {} is beyond what its datatype holds", shown(number.text())))),
    }
}

/// Which input a message is about; written down only when there is one.
#[derive(Clone, Copy)]
struct Place<'p>(usize, Option<&'p str>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(name) => write!(f, "input '{}'", shown(name)),
            None => write!(f, "inputs[{}]", self.0),
        }
    }
}

fn binary_size(i: usize, parameters: &Map<String, Value>) -> Result<Option<usize>> {
    let place = format!("inputs[{i}]");
    no_shared_memory(&place, parameters)?;
    let Some(size) = parameters.get("binary_data_size") else { return Ok(None) };
    let size = size.as_u64().and_then(|n| usize::try_from(n).ok());
    size.map(Some).ok_or_else(|| Error::invalid(format!("{place}: binary_data_size is a whole number of bytes")))
}

fn no_shared_memory(place: &str, parameters: &Map<String, Value>) -> Result<()> {
    match parameters.contains_key("shared_memory_region") {
        true => Err(Error::invalid(format!("{place}: shared memory is not offered; send the data itself"))),
        false => Ok(()),
    }
}

fn flag(parameters: &Map<String, Value>, place: &str, name: &str) -> Result<Option<bool>> {
    match parameters.get(name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(Error::invalid(format!("{place}: {name} is true or false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts are looked at eight bytes at a time where there is room, and say what they say one byte at a time.
    #[test]
    fn texts_are_read_as_everybody_reads_them() {
        let specials =
            ["", "\"", "\\n", "\\\"", "\\u00e9", "\u{e9}", "\u{1}", "\n", " ", "\u{7f}", "\u{80}", "\\", "{"];
        for (length, special) in (0..20).flat_map(|length| specials.map(|special| (length, special))) {
            for at in 0..=length {
                let text = format!("\"{}{special}{}\"", "a".repeat(at), "b".repeat(length - at));
                for behind in ["", ",", "                    "] {
                    let body = format!("{text}{behind}");
                    let mut r = Reader { body: body.as_bytes(), at: 0, bytes: &[], bytes_taken: 0 };
                    let read = r.string("a test").map(|text| (text.into_owned(), r.at));
                    let mut expected = serde_json::Deserializer::from_str(&body).into_iter::<String>();
                    match expected.next() {
                        Some(Ok(told)) => assert_eq!(read.unwrap(), (told, expected.byte_offset()), "{body}"),
                        // Something behind the text is for whoever reads on.
                        _ if special == "\"" => assert_eq!(read.unwrap().0, "a".repeat(at), "{body}"),
                        _ => assert!(read.is_err(), "{body}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_shape_is_whole_numbers() {
        let shape = |text: &str| {
            let body = format!("{text}           ");
            let mut r = Reader { body: body.as_bytes(), at: 0, bytes: &[], bytes_taken: 0 };
            r.shape(0).map(|shape| shape.dims().to_vec())
        };
        assert_eq!(shape("[1,39]").unwrap(), [1, 39]);
        assert_eq!(shape("[ 12345678 , 123456789 ]").unwrap(), [12_345_678, 123_456_789]);
        assert_eq!(shape("[0]").unwrap(), [0]);
        for text in ["[01]", "[1.5]", "[-1]", "[1e2]", "[]x", "[1 2]", "[99999999999999999999]", "[\"1\"]", "[1"] {
            assert!(shape(text).is_err() || text == "[]x", "{text}");
        }
    }
}
