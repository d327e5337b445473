//! JSON objects, one a line, into the declared columns; the same code reads files, pushed events and prediction requests.
//!
//! In: one object as bytes. Out: a row in every declared column, NULL where the object says nothing; keys that no column
//! has are counted and passed over. No tree is built on the way: values go from the text into the columns. An object that
//! turns out bad leaves no trace. Names are compared as written. Lines that are written like one before them are read
//! without being parsed ([`plain`]).

mod plain;
mod value;

use std::{collections::BTreeSet, fmt};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use serde_core::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, error::Category};
use tidemill_base::{Result, hash64};

use super::{columns::Columns, text::RowDecoder, words::show};
use plain::Pattern;
use value::{Cell, Skip, put_float, put_integer};

/// Lines that were read as any JSON before one of them is learned from again.
const LEARN_EVERY: u32 = 16;

/// Fills the declared columns from JSON objects.
pub struct JsonDecoder {
    columns: Columns,
    names: Names,
    unknown_keys: u64,
    /// What lines look like.
    pattern: Option<Pattern>,
    /// Lines that looked otherwise, since it was learned.
    unlike: u32,
}

/// Columns by name: open addressing over hashes, at most half full.
struct Names {
    names: Vec<String>,
    /// Column numbers, from 1; 0 is a free place.
    places: Vec<u32>,
}

impl JsonDecoder {
    /// A decoder without rows. Fails when a column has a type that JSON cannot fill.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let names = Names::new(schema.fields().iter().map(|f| f.name().clone()).collect());
        Ok(Self { columns: Columns::new(schema)?, names, unknown_keys: 0, pattern: None, unlike: LEARN_EVERY })
    }

    /// Adds the object in `line` as a row. A bad one leaves no trace; the error says what is wrong with it and where.
    pub fn push_line(&mut self, line: &[u8]) -> Result<(), String> {
        self.push_line_at(line, None)
    }

    /// As [`JsonDecoder::push_line`]; the column `fill.0`, a BIGINT or TIMESTAMP, gets the value `fill.1` when the object
    /// has none or `null` for it.
    pub fn push_line_at(&mut self, line: &[u8], fill: Option<(usize, i64)>) -> Result<(), String> {
        if let Some(pattern) = &self.pattern {
            if pattern.push(line, &mut self.columns, fill.map(|f| f.0))
                && fill_in(&mut self.columns, fill).and_then(|()| self.columns.fill_missing()).is_ok()
            {
                self.columns.commit();
                self.unknown_keys += pattern.unknown;
                return Ok(());
            }
            self.columns.rollback();
        }
        self.push_any(line, fill)?;
        self.unlike += 1;
        if self.unlike > LEARN_EVERY {
            self.pattern = Pattern::learn(line, &self.names, &mut self.columns);
            self.unlike = 0;
        }
        Ok(())
    }

    fn push_any(&mut self, line: &[u8], fill: Option<(usize, i64)>) -> Result<(), String> {
        let mut problem = None;
        let mut unknown = BTreeSet::new();
        let mut json = Deserializer::from_slice(line);
        let row = Row {
            columns: &mut self.columns,
            names: &self.names,
            unknown: &mut unknown,
            fill: fill.map(|f| f.0),
            problem: &mut problem,
        };
        let read = row.deserialize(&mut json).and_then(|()| json.end());
        let done = match read {
            Err(e) => Err(problem.unwrap_or_else(|| describe(&e, line.len()))),
            Ok(()) => fill_in(&mut self.columns, fill).and_then(|()| self.columns.fill_missing()),
        };
        match done {
            Ok(()) => {
                self.columns.commit();
                self.unknown_keys += unknown.len() as u64;
                Ok(())
            }
            Err(why) => {
                self.columns.rollback();
                Err(why)
            }
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.columns.rows()
    }

    /// The rows so far as a batch of the declared schema; the decoder is empty afterwards.
    pub fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }

    /// Forgets the rows so far.
    pub fn clear(&mut self) {
        self.columns.clear();
    }

    /// Keys, over all rows ever taken, that no column has.
    pub fn unknown_keys(&self) -> u64 {
        self.unknown_keys
    }
}

impl RowDecoder for JsonDecoder {
    fn push(&mut self, row: &[u8], _quoted: bool) -> Result<(), String> {
        self.push_line(row)
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}

fn fill_in(columns: &mut Columns, fill: Option<(usize, i64)>) -> Result<(), String> {
    let Some((column, value)) = fill else { return Ok(()) };
    let rows = columns.rows();
    let column = &mut columns.all()[column];
    match column.len() == rows {
        true => put_integer(column, value),
        false => Ok(()),
    }
}

/// What the parser itself found wrong, with the byte.
fn describe(e: &serde_json::Error, bytes: usize) -> String {
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let place = match e.line() {
        0 | 1 => format!("byte {}", e.column()),
        line => format!("line {line}, byte {}", e.column()),
    };
    match (e.classify(), what) {
        (Category::Eof, _) => format!("unexpected end at byte {bytes}"),
        (_, "trailing characters") => format!("trailing data at {place}"),
        _ => format!("{what} at {place}"),
    }
}

/// One object.
struct Row<'a> {
    columns: &'a mut Columns,
    names: &'a Names,
    /// Hashes of keys that no column has.
    unknown: &'a mut BTreeSet<u64>,
    /// A column for which `null` means that it is not there.
    fill: Option<usize>,
    /// What our own code found wrong: the parser would put its own words around it.
    problem: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

macro_rules! found {
    ($($visit:ident($t:ty) $word:expr),*) => {$(
        fn $visit<E: serde_core::de::Error>(self, _: $t) -> Result<(), E> {
            refuse(self.problem, format!("expected an object, found {}", $word))
        }
    )*};
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    found!(visit_bool(bool) "boolean", visit_i64(i64) "number", visit_u64(u64) "number", visit_f64(f64) "number", visit_str(&str) "string");

    fn visit_unit<E: serde_core::de::Error>(self) -> Result<(), E> {
        refuse(self.problem, "expected an object, found null".into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        refuse(self.problem, "expected an object, found array".into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let rows = self.columns.rows();
        loop {
            let key = Key { names: self.names, unknown: self.unknown, problem: self.problem };
            let Some(found) = map.next_key_seed(key)? else { return Ok(()) };
            let Some(i) = found else {
                map.next_value_seed(Skip { depth: 1, problem: self.problem })?;
                continue;
            };
            let column = &mut self.columns.all()[i];
            if column.len() > rows {
                return refuse(self.problem, format!("duplicate key '{}'", column.name()));
            }
            map.next_value_seed(Cell { column, absent_if_null: self.fill == Some(i), problem: self.problem })?;
        }
    }
}

/// A key: its column, or nothing when no column has it.
struct Key<'a> {
    names: &'a Names,
    unknown: &'a mut BTreeSet<u64>,
    problem: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<Option<usize>, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde_core::de::Error>(self, key: &str) -> Result<Option<usize>, E> {
        let hash = hash(key);
        let found = self.names.find(key, hash);
        if found.is_none() && !self.unknown.insert(hash) {
            return refuse(self.problem, format!("duplicate key '{}'", show(key.as_bytes())));
        }
        Ok(found)
    }
}

impl Names {
    fn new(names: Vec<String>) -> Self {
        let mut places = vec![0; (names.len() * 2).next_power_of_two()];
        for (i, name) in names.iter().enumerate() {
            let mut at = hash(name) as usize & (places.len() - 1);
            while places[at] != 0 {
                at = (at + 1) & (places.len() - 1);
            }
            places[at] = i as u32 + 1;
        }
        Self { names, places }
    }

    /// The column called `key`, whose hash is `hash`.
    #[inline]
    fn find(&self, key: &str, hash: u64) -> Option<usize> {
        let mut at = hash as usize;
        loop {
            at &= self.places.len() - 1;
            let column = (self.places[at] as usize).checked_sub(1)?;
            if self.names[column] == key {
                return Some(column);
            }
            at += 1;
        }
    }
}

fn hash(name: &str) -> u64 {
    hash64(name.as_bytes(), 0)
}

fn refuse<T, E: serde_core::de::Error>(problem: &mut Option<String>, why: String) -> Result<T, E> {
    *problem = Some(why);
    Err(E::custom(""))
}
