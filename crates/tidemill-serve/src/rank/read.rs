//! Columns out of JSON objects: what a score reads of candidates and context, and nothing else.
//!
//! In: the names that are wanted, some of which lead into objects, and one object after the other. Out: numbers by column
//! (NaN where there is none), ids, and the values by which a page is kept diverse. No tree is built. What is not wanted is
//! passed over, its name kept where nobody else knows it either.

use std::fmt;

use serde_core::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tidemill_base::hash64;

use super::{select::ItemId, time, token::short};

/// Names that nobody knows, kept for the reply.
const UNKNOWN_MAX: usize = 32;

/// What is done with a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// A number for this column.
    Number(usize),
    /// Whether it is this text, for this column.
    TextIs(usize, String),
    /// What the item is called.
    Id,
    /// The group of the item.
    Group,
}

/// What one object said.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// By column.
    pub numbers: Vec<f64>,
    pub id: Option<ItemId>,
    pub group: Option<u64>,
}

/// Reads objects.
#[derive(Debug)]
pub(super) struct Reader {
    root: Names,
    columns: usize,
    /// By column: whether any object had it, be it NULL.
    pub seen: Vec<bool>,
    /// Names at the outside of objects that are neither wanted nor known.
    pub unknown: Vec<String>,
}

/// The names inside one object.
#[derive(Debug, Default)]
struct Names {
    /// Ascending.
    entries: Vec<Entry>,
    /// Which entry stood where in the last object: objects of one request mostly have one order.
    order: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    wanted: Vec<Wanted>,
    below: Names,
}

impl Reader {
    /// A reader of these paths. `known` are names that others read: nobody is told that they are unknown.
    pub fn new<'a>(wanted: &[(&str, Wanted)], columns: usize, known: impl Iterator<Item = &'a str>) -> Self {
        let mut root = Names::default();
        for name in known {
            root.entry(name);
        }
        for (path, wanted) in wanted {
            // A name with points may stand in the object as it is written, too.
            if path.contains('.') {
                root.entry(path).wanted.push(wanted.clone());
            }
            let mut parts = path.split('.');
            let first = root.entry(parts.next().unwrap_or_default());
            parts.fold(first, |entry, part| entry.below.entry(part)).wanted.push(wanted.clone());
        }
        Self { root, columns, seen: vec![false; columns], unknown: Vec::new() }
    }

    /// Reads one object into `row`; the error says which name and what is wrong with it.
    pub fn read(&mut self, json: &[u8], row: &mut Row) -> Result<(), String> {
        row.numbers.clear();
        row.numbers.resize(self.columns, f64::NAN);
        (row.id, row.group) = (None, None);
        let mut problem = None;
        let mut text = serde_json::Deserializer::from_slice(json);
        let sink = &mut Sink { row, seen: &mut self.seen, unknown: &mut self.unknown, problem: &mut problem };
        let read = Object { names: &mut self.root, sink, outside: true }.deserialize(&mut text);
        match read.and_then(|()| text.end()) {
            Ok(()) => Ok(()),
            Err(e) => Err(problem.unwrap_or_else(|| format!(": {e}"))),
        }
    }
}

impl Names {
    fn entry(&mut self, name: &str) -> &mut Entry {
        let at = match self.entries.binary_search_by(|e| e.name.as_str().cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, Entry { name: name.to_string(), wanted: Vec::new(), below: Names::default() });
                at
            }
        };
        &mut self.entries[at]
    }

    /// The entry of a name that stands at this place of an object.
    fn find(&mut self, name: &str, place: usize) -> Option<usize> {
        if let Some(at) = self.order.get(place)
            && self.entries[*at].name == name
        {
            return Some(*at);
        }
        let found = self.entries.binary_search_by(|e| e.name.as_str().cmp(name)).ok()?;
        if place < self.entries.len() * 2 {
            self.order.resize(self.order.len().max(place + 1), 0);
            self.order[place] = found;
        }
        Some(found)
    }
}

/// Where values go.
struct Sink<'a> {
    row: &'a mut Row,
    seen: &'a mut Vec<bool>,
    unknown: &'a mut Vec<String>,
    problem: &'a mut Option<String>,
}

/// A value that is neither NULL nor made of others.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Truth(bool),
    Whole(i128),
    Number(f64),
    Text(&'a str),
}

impl Scalar<'_> {
    fn number(self) -> Option<f64> {
        match self {
            Scalar::Truth(truth) => Some(f64::from(u8::from(truth))),
            Scalar::Whole(x) => Some(x as f64),
            Scalar::Number(x) => Some(x),
            Scalar::Text(text) => time::parse(text),
        }
    }

    fn group(self) -> u64 {
        match self {
            Scalar::Truth(truth) => hash64(&[u8::from(truth)], 1),
            Scalar::Whole(x) => hash64(&x.to_le_bytes(), 2),
            Scalar::Number(x) => hash64(&x.to_bits().to_le_bytes(), 3),
            Scalar::Text(text) => hash64(text.as_bytes(), 4),
        }
    }

    fn shown(self) -> String {
        match self {
            Scalar::Truth(truth) => truth.to_string(),
            Scalar::Whole(x) => x.to_string(),
            Scalar::Number(x) => x.to_string(),
            Scalar::Text(text) => format!("the text '{}'", short(text)),
        }
    }
}

impl Sink<'_> {
    fn put(&mut self, entry: &Entry, scalar: Scalar<'_>) -> Result<(), String> {
        let refuse = |expected: &str| Err(format!(".{}: expected {expected}, found {}", entry.name, scalar.shown()));
        for wanted in &entry.wanted {
            match (wanted, scalar) {
                (Wanted::Number(column), scalar) => match scalar.number() {
                    Some(x) => self.row.numbers[*column] = x,
                    None => return refuse("a number"),
                },
                (Wanted::TextIs(column, text), Scalar::Text(found)) => {
                    self.row.numbers[*column] = f64::from(u8::from(found == text));
                }
                (Wanted::TextIs(..), _) => return refuse("a text"),
                (Wanted::Id, Scalar::Whole(x)) => self.row.id = Some(ItemId::Number(x)),
                (Wanted::Id, Scalar::Text(text)) => self.row.id = Some(ItemId::Text(text.to_string())),
                (Wanted::Id, _) => return refuse("a whole number or a text"),
                (Wanted::Group, scalar) => self.row.group = Some(scalar.group()),
            }
        }
        Ok(())
    }

    /// The name is there, whatever its value is.
    fn see(&mut self, entry: &Entry) {
        for wanted in &entry.wanted {
            if let Wanted::Number(column) | Wanted::TextIs(column, _) = wanted {
                self.seen[*column] = true;
            }
        }
    }
}

struct Object<'a, 'b> {
    names: &'a mut Names,
    sink: &'a mut Sink<'b>,
    outside: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Object { names, sink, outside } = self;
        let mut place = 0;
        while let Some(found) = map.next_key_seed(Key { names, sink, outside, place })? {
            place += 1;
            match found {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(at) => map.next_value_seed(Cell { entry: &mut names.entries[at], sink })?,
            }
        }
        Ok(())
    }
}

/// A name: which entry it is, if any.
struct Key<'a, 'b> {
    names: &'a mut Names,
    sink: &'a mut Sink<'b>,
    outside: bool,
    place: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Option<usize>;
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<Option<usize>, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde_core::de::Error>(self, name: &str) -> Result<Option<usize>, E> {
        let found = self.names.find(name, self.place);
        let unknown = &mut self.sink.unknown;
        if found.is_none() && self.outside && unknown.len() < UNKNOWN_MAX && !unknown.iter().any(|n| n == name) {
            unknown.push(name.to_string());
        }
        Ok(found)
    }
}

/// The value of a name that is wanted.
struct Cell<'a, 'b> {
    entry: &'a mut Entry,
    sink: &'a mut Sink<'b>,
}

impl Cell<'_, '_> {
    fn scalar<E: serde_core::de::Error>(self, scalar: Scalar<'_>) -> Result<(), E> {
        self.sink.see(self.entry);
        self.sink.put(self.entry, scalar).map_err(|problem| {
            *self.sink.problem = Some(problem);
            E::custom("")
        })
    }

    fn refuse<T, E: serde_core::de::Error>(self, found: &str) -> Result<T, E> {
        *self.sink.problem = Some(format!(".{}: expected a number or a text, found {found}", self.entry.name));
        Err(E::custom(""))
    }
}

impl<'de> DeserializeSeed<'de> for Cell<'_, '_> {
    type Value = ();
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        match self.entry.wanted.is_empty() && self.entry.below.entries.is_empty() {
            // Known to others only.
            true => d.deserialize_ignored_any(IgnoredAny).map(drop),
            false => d.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Cell<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde_core::de::Error>(self) -> Result<(), E> {
        self.sink.see(self.entry);
        Ok(())
    }

    fn visit_bool<E: serde_core::de::Error>(self, x: bool) -> Result<(), E> {
        self.scalar(Scalar::Truth(x))
    }

    fn visit_i64<E: serde_core::de::Error>(self, x: i64) -> Result<(), E> {
        self.scalar(Scalar::Whole(x.into()))
    }

    fn visit_u64<E: serde_core::de::Error>(self, x: u64) -> Result<(), E> {
        self.scalar(Scalar::Whole(x.into()))
    }

    fn visit_f64<E: serde_core::de::Error>(self, x: f64) -> Result<(), E> {
        self.scalar(Scalar::Number(x))
    }

    fn visit_str<E: serde_core::de::Error>(self, x: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(x))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !self.entry.wanted.is_empty() {
            return self.refuse("an array");
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        if !self.entry.wanted.is_empty() {
            return self.refuse("an object");
        }
        let prefix = &self.entry.name;
        let inside = Object { names: &mut self.entry.below, sink: &mut *self.sink, outside: false };
        inside.visit_map(map).map_err(|e| {
            if let Some(problem) = self.sink.problem.as_mut() {
                *problem = format!(".{prefix}{problem}");
                return A::Error::custom("");
            }
            e
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_found_wherever_it_stands() {
        let wanted = [
            ("bid", Wanted::Number(0)),
            ("counts.like", Wanted::Number(1)),
            ("kind", Wanted::TextIs(2, "news".into())),
            ("id", Wanted::Id),
            ("by.author", Wanted::Group),
            ("since", Wanted::Number(3)),
        ];
        let mut reader = Reader::new(&wanted, 4, ["user"].into_iter());
        let mut row = Row::default();
        let mut read = |json: &str| reader.read(json.as_bytes(), &mut row).map(|()| row.clone());
        let row = read(r#"{"id":7,"user":{"a":[1]},"bid":2.5,"counts":{"x":[{}],"like":3},"kind":"news","by":{"author":"z"},"since":"1970-01-02","new":1}"#).unwrap();
        assert_eq!(row.numbers, [2.5, 3.0, 1.0, 86_400_000.0]);
        assert_eq!(row.id, Some(ItemId::Number(7)));
        let second =
            read(r#"{"by":{"author":"z"},"bid":null,"id":"a","counts.like":4,"kind":"x","counts":null,"bid2":true}"#)
                .unwrap();
        assert!(second.numbers[0].is_nan() && second.numbers[1..3] == [4.0, 0.0]);
        assert_eq!((&second.id, second.group), (&Some(ItemId::Text("a".into())), row.group));
        for (json, message) in [
            (r#"{"bid":"much"}"#, ".bid: expected a number, found the text 'much'"),
            (r#"{"bid":[1]}"#, ".bid: expected a number or a text, found an array"),
            (r#"{"counts":{"like":{}}}"#, ".counts.like: expected a number or a text, found an object"),
            (r#"{"counts":{"like":"x"}}"#, ".counts.like: expected a number, found the text 'x'"),
            (r#"{"kind":1}"#, ".kind: expected a text, found 1"),
            (r#"{"id":1.5}"#, ".id: expected a whole number or a text, found 1.5"),
            (r#"{"bid":}"#, ": expected value at line 1 column 8"),
        ] {
            assert_eq!(read(json).unwrap_err(), message);
        }
        assert_eq!((reader.unknown, reader.seen), (vec!["new".to_string(), "bid2".into()], vec![true; 4]));
    }
}
