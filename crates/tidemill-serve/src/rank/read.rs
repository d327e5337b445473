//! Columns out of JSON objects: what a score reads of candidates and context, and nothing else.
//!
//! In: the names that are wanted, some of which lead into objects, and one object after the other. Out: numbers by column
//! (NaN where there is none), ids, and the values by which a page is kept diverse. No tree is built. What is not wanted is
//! passed over, its name kept where nobody else knows it either. Objects have been measured before, and are read once more
//! by the strict decoder of the model's columns: here it is enough to find one's way.

use std::borrow::Cow;

use tidemill_base::hash64;

use super::{select::ItemId, token::short};
use crate::moment;

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
        let sink = &mut Sink { row, seen: &mut self.seen, unknown: &mut self.unknown };
        Text { json, at: 0 }.object(&mut self.root, sink, true)
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
            Scalar::Text(text) => moment::parse(text),
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

/// An object on its way.
struct Text<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    fn peek(&mut self) -> Option<u8> {
        while self.json.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn malformed<T>(&self) -> Result<T, String> {
        Err(format!(": not JSON at byte {} of the object", self.at))
    }

    fn object(&mut self, names: &mut Names, sink: &mut Sink<'_>, outside: bool) -> Result<(), String> {
        if !self.takes(b'{') {
            return self.malformed();
        }
        if self.takes(b'}') {
            return Ok(());
        }
        for place in 0.. {
            if self.peek() != Some(b'"') {
                return self.malformed();
            }
            let name = self.string()?;
            if !self.takes(b':') {
                return self.malformed();
            }
            match names.find(&name, place) {
                Some(at) => self.value(&mut names.entries[at], sink)?,
                None => {
                    if outside && sink.unknown.len() < UNKNOWN_MAX && !sink.unknown.iter().any(|n| *n == name) {
                        sink.unknown.push(name.into_owned());
                    }
                    self.pass_over()?;
                }
            }
            if !self.takes(b',') {
                break;
            }
        }
        if self.takes(b'}') { Ok(()) } else { self.malformed() }
    }

    fn value(&mut self, entry: &mut Entry, sink: &mut Sink<'_>) -> Result<(), String> {
        if entry.wanted.is_empty() && entry.below.entries.is_empty() {
            // Known to others only.
            return self.pass_over();
        }
        let scalar = match self.peek() {
            Some(b'{') if entry.wanted.is_empty() => {
                let inside = self.object(&mut entry.below, sink, false);
                return inside.map_err(|problem| format!(".{}{problem}", entry.name));
            }
            Some(b'[') if entry.wanted.is_empty() => return self.pass_over(),
            Some(first @ (b'{' | b'[')) => {
                let found = if first == b'{' { "an object" } else { "an array" };
                return Err(format!(".{}: expected a number or a text, found {found}", entry.name));
            }
            Some(b'"') => {
                let text = self.string()?;
                sink.see(entry);
                return sink.put(entry, Scalar::Text(&text));
            }
            _ => match self.word() {
                b"null" => None,
                b"true" => Some(Scalar::Truth(true)),
                b"false" => Some(Scalar::Truth(false)),
                number => match number_of(number) {
                    Some(scalar) => Some(scalar),
                    None => return self.malformed(),
                },
            },
        };
        sink.see(entry);
        scalar.map_or(Ok(()), |scalar| sink.put(entry, scalar))
    }

    /// The string that begins here, as it is meant.
    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        let start = self.at;
        let escaped = self.pass_over_string()?;
        let quoted = &self.json[start..self.at];
        if escaped {
            return serde_json::from_slice(quoted).map(Cow::Owned).or_else(|_| self.malformed());
        }
        match std::str::from_utf8(&quoted[1..quoted.len() - 1]) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) => self.malformed(),
        }
    }

    /// Goes behind the string that begins here; whether anything in it is escaped.
    fn pass_over_string(&mut self) -> Result<bool, String> {
        let mut escaped = false;
        let mut at = self.at + 1;
        loop {
            match self.json.get(at) {
                None => return self.malformed(),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(escaped)
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> &'a [u8] {
        let start = self.at;
        let word = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.');
        self.at += self.json[start..].iter().take_while(word).count();
        &self.json[start..self.at]
    }

    fn pass_over(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(b'"') => self.pass_over_string().map(drop),
            Some(b'{' | b'[') => {
                let mut depth = 0;
                loop {
                    match self.json.get(self.at) {
                        None => return self.malformed(),
                        Some(b'"') => {
                            self.pass_over_string()?;
                            continue;
                        }
                        Some(b'{' | b'[') => depth += 1,
                        Some(b'}' | b']') => depth -= 1,
                        Some(_) => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
            }
            _ if self.word().is_empty() => self.malformed(),
            _ => Ok(()),
        }
    }
}

fn number_of(word: &[u8]) -> Option<Scalar<'static>> {
    let text = std::str::from_utf8(word).ok().filter(|t| t.starts_with(|c: char| c == '-' || c.is_ascii_digit()))?;
    let whole = word.len() <= 20 && word.iter().all(|b| b.is_ascii_digit() || *b == b'-');
    match whole {
        true => text.parse().ok().map(Scalar::Whole),
        false => text.parse().ok().map(Scalar::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Whatever bytes come: an answer, and no panic.
        #[test]
        fn any_bytes_are_answered(words in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", "\"", ",", ":", "\\", "\"a\":", "\"b\":{", "\"c\":\"x\"", "1", "-", "true", "null", " ", "é",
        ]), 0..40)) {
            let wanted = [("a", Wanted::Number(0)), ("b.c", Wanted::TextIs(1, "x".into())), ("c", Wanted::Group)];
            let mut reader = Reader::new(&wanted, 2, ["d"].into_iter());
            let json = format!("{{{}", words.concat());
            let _ = reader.read(json.as_bytes(), &mut Row::default());
        }
    }

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
        let escaped =
            read(r#" { "b\u0069d" : -1.5e1 , "id" : "\u0061\"" , "kind" : null , "user" : "}\\" , "counts":[1,{}] } "#)
                .unwrap();
        assert_eq!((escaped.numbers[0], escaped.id), (-15.0, Some(ItemId::Text("a\"".into()))));
        assert!(escaped.numbers[2].is_nan());
        for (json, message) in [
            (r#"{"bid":"much"}"#, ".bid: expected a number, found the text 'much'"),
            (r#"{"bid":[1]}"#, ".bid: expected a number or a text, found an array"),
            (r#"{"counts":{"like":{}}}"#, ".counts.like: expected a number or a text, found an object"),
            (r#"{"counts":{"like":"x"}}"#, ".counts.like: expected a number, found the text 'x'"),
            (r#"{"kind":1}"#, ".kind: expected a text, found 1"),
            (r#"{"id":1.5}"#, ".id: expected a whole number or a text, found 1.5"),
            (r#"{"bid":}"#, ": not JSON at byte 7 of the object"),
            (r#"{"user":,"bid":1}"#, ": not JSON at byte 8 of the object"),
            (r#"{"bid" 1}"#, ": not JSON at byte 7 of the object"),
            (r#"{"bid":1 2}"#, ": not JSON at byte 9 of the object"),
            (r#"{"bid":"1}"#, ": not JSON at byte 7 of the object"),
        ] {
            assert_eq!(read(json).unwrap_err(), message);
        }
        assert_eq!((reader.unknown, reader.seen), (vec!["new".to_string(), "bid2".into()], vec![true; 4]));
    }
}
