//! One JSON value on its way into one column.
//!
//! In: what the parser found. Out: the value in its column, or a refusal that names the column, what was expected and what
//! was found. Values that no column wants are checked for depth and passed over.

use std::fmt;

use serde_core::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::refuse;
use crate::source::{
    columns::{Column, Data, end},
    sparse::FEATURES_MAX,
};

/// Objects and arrays inside one another, at most.
const DEPTH_MAX: usize = 32;

/// One value on its way into its column.
pub(super) struct Cell<'a> {
    pub(super) column: &'a mut Column,
    pub(super) absent_if_null: bool,
    pub(super) problem: &'a mut Option<String>,
}

impl Cell<'_> {
    fn mismatch<E: serde_core::de::Error>(self, found: &str) -> Result<(), E> {
        let expected = match self.column.data() {
            Data::Utf8 { .. } => "string",
            Data::Bool(_) => "boolean",
            Data::Sparse { .. } => "array of {\"index\", \"value\"}",
            _ => "number",
        };
        refuse(self.problem, format!("column '{}': expected {expected}, found {found}", self.column.name()))
    }

    fn done<E: serde_core::de::Error>(self, put: Result<(), String>) -> Result<(), E> {
        put.or_else(|why| refuse(self.problem, why))
    }

    fn number<E: serde_core::de::Error>(
        self,
        x: f64,
        put: impl FnOnce(&mut Column) -> Result<(), String>,
    ) -> Result<(), E> {
        match self.column.data() {
            Data::Int64(_) | Data::Timestamp(_) | Data::Int32(_) => {
                let put = put(self.column);
                self.done(put)
            }
            Data::Float64(_) | Data::Float32(_) => {
                let put = put_float(self.column, x);
                self.done(put)
            }
            _ => self.mismatch("number"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde_core::de::Error>(self) -> Result<(), E> {
        if self.absent_if_null {
            return Ok(());
        }
        let put = self.column.push_null();
        self.done(put)
    }

    fn visit_bool<E: serde_core::de::Error>(self, x: bool) -> Result<(), E> {
        let Data::Bool(values) = self.column.data() else { return self.mismatch("boolean") };
        values.append(x);
        self.column.commit_value();
        Ok(())
    }

    fn visit_i64<E: serde_core::de::Error>(self, x: i64) -> Result<(), E> {
        self.number(x as f64, |column| put_integer(column, x))
    }

    fn visit_u64<E: serde_core::de::Error>(self, x: u64) -> Result<(), E> {
        self.number(x as f64, |column| match i64::try_from(x) {
            Ok(x) => put_integer(column, x),
            Err(_) => Err(out_of_range(column, &x)),
        })
    }

    fn visit_f64<E: serde_core::de::Error>(self, x: f64) -> Result<(), E> {
        self.number(x, |column| match x {
            // Some producers write every number with a point; up to 2^53 that loses nothing.
            _ if x.fract() == 0.0 && x.abs() <= (1u64 << 53) as f64 => put_integer(column, x as i64),
            _ if x.fract() == 0.0 => Err(out_of_range(column, &x)),
            _ => Err(format!("column '{}': expected a whole number, found {x}", column.name())),
        })
    }

    fn visit_str<E: serde_core::de::Error>(self, x: &str) -> Result<(), E> {
        match self.column.data() {
            Data::Utf8 { .. } => {
                let put = self.column.push_text(x.as_bytes());
                self.done(put)
            }
            _ => self.mismatch("string"),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !matches!(self.column.data(), Data::Sparse { .. }) {
            return self.mismatch("array");
        }
        let mut count = 0;
        while let Some((index, value)) =
            seq.next_element_seed(Entry { column: self.column.name(), problem: self.problem })?
        {
            count += 1;
            let Data::Sparse { indices, values, .. } = self.column.data() else { unreachable!("checked above") };
            indices.push(index);
            values.push(value);
            if count > FEATURES_MAX {
                return refuse(
                    self.problem,
                    format!("column '{}': more than {FEATURES_MAX} features", self.column.name()),
                );
            }
        }
        let Data::Sparse { ends, indices, .. } = self.column.data() else { unreachable!("checked above") };
        match end(indices.len(), "features") {
            Ok(at) => ends.push(at),
            Err(why) => return self.done(Err(why)),
        }
        self.column.commit_value();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.mismatch("object")
    }
}

pub(super) fn put_integer(column: &mut Column, x: i64) -> Result<(), String> {
    match column.data() {
        Data::Int64(v) | Data::Timestamp(v) => v.push(x),
        Data::Int32(v) => match i32::try_from(x) {
            Ok(x) => v.push(x),
            Err(_) => return Err(out_of_range(column, &x)),
        },
        _ => return Err(format!("column '{}': is no whole number", column.name())),
    }
    column.commit_value();
    Ok(())
}

pub(super) fn put_float(column: &mut Column, x: f64) -> Result<(), String> {
    match column.data() {
        Data::Float32(_) if !(x as f32).is_finite() => return Err(out_of_range(column, &x)),
        Data::Float32(v) => v.push(x as f32),
        Data::Float64(v) => v.push(x),
        _ => return Err(format!("column '{}': is no number", column.name())),
    }
    column.commit_value();
    Ok(())
}

fn out_of_range(column: &Column, x: &dyn fmt::Debug) -> String {
    format!("column '{}': {x:?} is out of range of {}", column.name(), column.type_name())
}

const ENTRY: &str = "an entry is {\"index\": 7, \"value\": 0.5} or [7, 0.5], the index not negative";

/// An entry of a sparse column: `{"index": 7, "value": 0.5}` or `[7, 0.5]`.
struct Entry<'a> {
    column: &'a str,
    problem: &'a mut Option<String>,
}

impl Entry<'_> {
    fn make<E: serde_core::de::Error>(self, index: Option<u64>, value: Option<f64>) -> Result<(u64, f32), E> {
        match (index, value.map(|v| v as f32)) {
            (Some(index), Some(value)) if value.is_finite() => Ok((index, value)),
            (Some(_), Some(_)) => self.bad("value out of range of FLOAT"),
            _ => self.bad(ENTRY),
        }
    }

    fn bad<T, E: serde_core::de::Error>(self, why: &str) -> Result<T, E> {
        refuse(self.problem, format!("column '{}': {why}", self.column))
    }
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = (u64, f32);
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<(u64, f32), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = (u64, f32);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(ENTRY)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(u64, f32), A::Error> {
        let index = seq.next_element::<u64>().unwrap_or(None);
        let value = if index.is_some() { seq.next_element::<f64>().unwrap_or(None) } else { None };
        if value.is_some() && seq.next_element::<IgnoredAny>()?.is_some() {
            return self.make(None, None);
        }
        self.make(index, value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(u64, f32), A::Error> {
        let (mut index, mut value) = (None, None);
        while let Some(key) = map.next_key::<std::borrow::Cow<str>>()? {
            match key.as_ref() {
                "index" if index.is_none() => index = map.next_value::<u64>().ok(),
                "value" if value.is_none() => value = map.next_value::<f64>().ok(),
                _ => return self.make(None, None),
            }
            if index.is_none() && value.is_none() {
                return self.make(None, None);
            }
        }
        self.make(index, value)
    }
}

/// A value nobody asked for: checked for depth and passed over.
pub(super) struct Skip<'a> {
    pub(super) depth: usize,
    pub(super) problem: &'a mut Option<String>,
}

impl Skip<'_> {
    fn deeper<E: serde_core::de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return refuse(self.problem, format!("deeper than {DEPTH_MAX} levels"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Skip<'_> {
    type Value = ();
    fn deserialize<D: serde_core::de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

macro_rules! pass_over {
    ($($visit:ident($t:ty)),*) => {$(
        fn $visit<E: serde_core::de::Error>(self, _: $t) -> Result<(), E> {
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Skip<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    pass_over!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_unit<E: serde_core::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.deeper()?;
        while seq.next_element_seed(Skip { depth: self.depth, problem: self.problem })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.deeper()?;
        while map.next_key_seed(Skip { depth: self.depth, problem: self.problem })?.is_some() {
            map.next_value_seed(Skip { depth: self.depth, problem: self.problem })?;
        }
        Ok(())
    }
}
