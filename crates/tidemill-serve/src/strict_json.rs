//! JSON in which no name may stand twice: files that decide something are read as they were meant, or not at all.
//!
//! In: bytes. Out: the value, or what is wrong with its line and column. Of two equal names other readers take the last
//! one, so a rule that somebody believes to be in force would be gone without a word.

use std::fmt;

use serde_core::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use tidemill_base::{Error, Result};

use crate::shown;

/// Reads a value.
pub(crate) fn from_slice(json: &[u8]) -> Result<Value> {
    let read: Result<Strict, _> = serde_json::from_slice(json);
    read.map(|strict| strict.0).map_err(|e| Error::invalid(e.to_string()))
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue).map(Strict)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            all.push(value);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(A::Error::custom(format!("the name '{}' is there twice", shown(&name))));
            }
            let Strict(value) = object.next_value()?;
            all.insert(name, value);
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read alike by both, but for names that stand twice.
    #[test]
    fn what_has_no_name_twice_is_read_as_it_is() {
        for json in
            ["null", "[1, -2, 3.5, 1e300, \"a\\n\", true, {}]", "{\"a\": {\"b\": [{\"a\": 1}, {\"a\": 1}]}, \"b\": 0}"]
        {
            assert_eq!(from_slice(json.as_bytes()).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        }
        let e = from_slice(b"{\"a\": 1,\n \"b\": {\"c\": 1, \"c\": 2}}").unwrap_err();
        assert!(e.message().starts_with("the name 'c' is there twice at line 2 column "), "{e}");
        assert!(from_slice(&b"[".repeat(100_000)).is_err(), "depth is bounded");
        assert!(from_slice(b"1 2").is_err());
    }
}
