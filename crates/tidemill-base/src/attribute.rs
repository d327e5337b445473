//! Attributes: the settings people write in `WITH (...)` and `WITH name = value`.
//!
//! Each is declared once, as an [`Attribute`]; parsing, range checks, diagnostics with the nearest
//! known word and the reference page all come from the declaration.

use crate::{Error, Result, duration::parse_duration_ms};

/// What kind of value an attribute takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Type {
    /// A finite number in `[min, max]`.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// A whole number in `[min, max]`.
    Integer {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
    },
    /// `true` or `false`.
    Bool,
    /// A length of time with its unit, kept in milliseconds.
    Duration,
    /// A number of bytes: `64KiB`, `1GiB`, or plain.
    Bytes,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any of the others, and for slots that are named a value of their own: `0.1; user=0.05`.
    BySlot(&'static Type),
}

/// One setting: its name, what it takes, what it is when nobody says, and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Dotted lower-case name.
    pub name: &'static str,
    /// What it takes.
    pub ty: Type,
    /// Its value when it is not written, in the form people write; `None`: it must be written or has no value.
    pub default: Option<&'static str>,
    /// One line: what it does, with its unit.
    pub doc: &'static str,
}

/// A parsed value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Type::Number`].
    Number(f64),
    /// Of [`Type::Integer`], [`Type::Duration`] (milliseconds) and [`Type::Bytes`].
    Integer(i64),
    /// Of [`Type::Bool`].
    Bool(bool),
    /// Of [`Type::Text`] and [`Type::Choice`].
    Text(String),
}

/// What one attribute was set to.
#[derive(Clone, Debug)]
struct Written {
    name: &'static str,
    /// For everything that has no value of its own; `None`: the default.
    value: Option<Value>,
    /// Slots with a value of their own.
    of_slots: Vec<(String, Value)>,
}

impl Attribute {
    /// Parses `text` as this attribute's value; the error names the attribute, the value and what would do.
    pub fn parse(&self, text: &str) -> Result<Value> {
        self.parse_as(self.ty, text)
    }

    fn parse_as(&self, ty: Type, text: &str) -> Result<Value> {
        let name = self.name;
        let refuse = |expected: String| Error::invalid(format!("{name} expects {expected}, got '{text}'"));
        match ty {
            Type::BySlot(ty) => self.parse_as(*ty, text),
            Type::Number { min, max } => match text.parse::<f64>() {
                Ok(x) if x.is_finite() && (min..=max).contains(&x) => Ok(Value::Number(x)),
                Ok(x) => Err(Error::invalid(format!("{name} must be in [{min}, {max}], got {x}"))),
                Err(_) => Err(refuse("a number".into())),
            },
            Type::Integer { min, max } => match text.parse::<i64>() {
                Ok(x) if (min..=max).contains(&x) => Ok(Value::Integer(x)),
                Ok(x) => Err(Error::invalid(format!("{name} must be in [{min}, {max}], got {x}"))),
                Err(_) => Err(refuse("a whole number".into())),
            },
            Type::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "on" => Ok(Value::Bool(true)),
                "false" | "0" | "off" => Ok(Value::Bool(false)),
                _ => Err(refuse("true or false".into())),
            },
            Type::Duration => parse_duration_ms(text).map(Value::Integer).map_err(|e| e.at(name)),
            Type::Bytes => parse_bytes(text).map(Value::Integer).map_err(|e| e.at(name)),
            Type::Text => Ok(Value::Text(text.to_string())),
            Type::Choice(words) => match words.iter().find(|w| w.eq_ignore_ascii_case(text)) {
                Some(w) => Ok(Value::Text(w.to_string())),
                None => Err(refuse(format!("one of {}", words.join(", ")))),
            },
        }
    }

    /// Parses what was written: one value, or where the attribute may differ by slot also `0.1; user=0.05`.
    fn parse_written(&self, text: &str) -> Result<Written> {
        let mut written = Written { name: self.name, value: None, of_slots: Vec::new() };
        if !matches!(self.ty, Type::BySlot(_)) {
            written.value = Some(self.parse(text).map_err(|e| match is_by_slot(text) {
                true => Error::invalid(format!(
                    "{} cannot differ by slot: '{text}' names one; write one value for all",
                    self.name
                )),
                false => e,
            })?);
            return Ok(written);
        }
        for (i, part) in text.split(';').map(str::trim).enumerate() {
            match part.rsplit_once('=') {
                Some((slot, value)) => {
                    let slot = slot.trim();
                    if written.of_slots.iter().any(|(there, _)| there == slot) {
                        return Err(Error::invalid(format!("{}: slot '{slot}' is named twice", self.name)));
                    }
                    let value = self.parse(value.trim()).map_err(|e| e.at(format!("slot '{slot}'")))?;
                    written.of_slots.push((slot.to_string(), value));
                }
                None if i == 0 => written.value = Some(self.parse(part)?),
                None if part.is_empty() => {}
                None => {
                    return Err(Error::invalid(format!(
                        "{}: '{part}' is not SLOT=VALUE, as in user={part}",
                        self.name
                    )));
                }
            }
        }
        Ok(written)
    }
}

/// Whether a text looks like values of slots.
fn is_by_slot(text: &str) -> bool {
    text.contains('=')
}

/// Parses `512`, `64KiB`, `1.5GiB`, `10MB`.
pub fn parse_bytes(text: &str) -> Result<i64> {
    const UNITS: [(&str, f64); 8] = [
        ("", 1.0),
        ("b", 1.0),
        ("kib", 1024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
    ];
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = text[split..].trim().to_ascii_lowercase();
    let number: Option<f64> = text[..split].parse().ok();
    match (number, UNITS.iter().find(|(u, _)| *u == unit)) {
        (Some(n), Some((_, size))) if n * size < 9e18 => Ok((n * size) as i64),
        _ => Err(Error::invalid(format!("'{text}' is not a number of bytes; write for example 64KiB, 10MiB or 2GiB"))),
    }
}

/// Settings of one thing, each of a declared attribute; what was not written has its default.
#[derive(Clone, Debug)]
pub struct Settings {
    declared: Vec<&'static Attribute>,
    written: Vec<Written>,
}

impl Settings {
    /// No setting written yet; `declared` are the attributes this thing knows.
    pub fn new(declared: impl IntoIterator<Item = &'static Attribute>) -> Self {
        Self { declared: declared.into_iter().collect(), written: Vec::new() }
    }

    /// Names of all attributes this thing knows.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.declared.iter().map(|a| a.name)
    }

    /// Parses and keeps one written setting. An unknown name is refused; the caller adds the nearest known word.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(attribute) = self.declared.iter().find(|a| a.name.eq_ignore_ascii_case(name)) else {
            return Err(Error::invalid(format!(
                "no attribute '{name}'; known are {}",
                self.names().collect::<Vec<_>>().join(", ")
            )));
        };
        if self.written.iter().any(|w| w.name == attribute.name) {
            return Err(Error::invalid(format!("{name} is written twice")));
        }
        self.written.push(attribute.parse_written(text)?);
        Ok(())
    }

    /// Whether the setting was written for all slots, not only defaulted.
    pub fn is_written(&self, name: &str) -> bool {
        self.written.iter().any(|w| w.name == name && w.value.is_some())
    }

    /// The values that slots have of their own, in the order in which they were written.
    pub fn by_slot(&self, name: &str) -> &[(String, Value)] {
        self.written.iter().find(|w| w.name == name).map_or(&[], |w| &w.of_slots)
    }

    /// The settings as they are for one slot.
    pub fn of_slot(&self, slot: &str) -> Self {
        let mut own = self.clone();
        for written in &mut own.written {
            let of_slots = std::mem::take(&mut written.of_slots);
            if let Some((_, value)) = of_slots.into_iter().find(|(name, _)| name == slot) {
                written.value = Some(value);
            }
        }
        own
    }

    /// Every slot that has some value of its own, by name, with the attribute that names it first.
    pub fn slots(&self) -> Vec<(&str, &'static str)> {
        let mut slots: Vec<(&str, &'static str)> = Vec::new();
        for (slot, name) in self.written.iter().flat_map(|w| w.of_slots.iter().map(|(slot, _)| (slot.as_str(), w.name)))
        {
            if slots.iter().all(|(there, _)| *there != slot) {
                slots.push((slot, name));
            }
        }
        slots.sort_unstable();
        slots
    }

    /// The value, written or default. Panics when no attribute of that name was declared: that is our own mistake.
    pub fn get(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.written.iter().find(|w| w.name == name).and_then(|w| w.value.clone()) {
            return Some(value);
        }
        let attribute =
            self.declared.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("attribute {name} is not declared"));
        attribute.default.map(|d| attribute.parse(d).expect("a default is a value of its own attribute"))
    }

    /// A number, or the default.
    pub fn number(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Value::Number(x)) => x,
            Some(Value::Integer(x)) => x as f64,
            v => panic!("attribute {name} is no number: {v:?}"),
        }
    }

    /// A [`Type::Number`] that may be left out.
    pub fn number_opt(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Value::Number(x)) => Some(x),
            Some(Value::Integer(x)) => Some(x as f64),
            _ => None,
        }
    }

    /// A whole number, a duration in milliseconds or bytes, or the default.
    pub fn integer(&self, name: &str) -> i64 {
        self.integer_opt(name).unwrap_or_else(|| panic!("attribute {name} has neither value nor default"))
    }

    /// A whole number when one is written or defaulted.
    pub fn integer_opt(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Value::Integer(x)) => Some(x),
            None => None,
            v => panic!("attribute {name} is no whole number: {v:?}"),
        }
    }

    /// A yes or no, or the default.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// A text when one is written or defaulted.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.get(name) {
            Some(Value::Text(s)) => Some(s),
            None => None,
            v => panic!("attribute {name} is no text: {v:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ALPHA: Attribute = Attribute {
        name: "alpha",
        ty: Type::Number { min: 0.0, max: 100.0 },
        default: Some("0.1"),
        doc: "learning rate",
    };
    static WAIT: Attribute = Attribute { name: "wait", ty: Type::Duration, default: None, doc: "how long" };

    static RATE: Attribute = Attribute {
        name: "rate",
        ty: Type::BySlot(&Type::Number { min: 0.0, max: 100.0 }),
        default: Some("0.1"),
        doc: "learning rate",
    };

    /// One way of writing for every attribute that slots may have of their own.
    #[test]
    fn slots_have_values_of_their_own() {
        let read = |text: &str| {
            let mut s = Settings::new([&RATE, &ALPHA]);
            s.set("rate", text).map(|()| s)
        };
        let s = read("0.5; user=0.05 ;item x city = 2;").unwrap();
        let rates = ["user", "item x city", "other"].map(|slot| s.of_slot(slot).number("rate"));
        assert_eq!((s.number("rate"), rates), (0.5, [0.05, 2.0, 0.5]));
        assert_eq!(s.slots(), [("item x city", "rate"), ("user", "rate")]);
        let s = read("user=0.05").unwrap();
        assert_eq!((s.number("rate"), s.is_written("rate")), (0.1, false), "the others have the default");
        let why = |text: &str| read(text).unwrap_err().message().to_string();
        assert_eq!(why("0.5; user=-1"), "slot 'user': rate must be in [0, 100], got -1");
        assert_eq!(why("0.5; 0.6"), "rate: '0.6' is not SLOT=VALUE, as in user=0.6");
        assert_eq!(why("0.5; user=1; user=2"), "rate: slot 'user' is named twice");
        assert_eq!(why(""), "rate expects a number, got ''");
        let mut s = Settings::new([&ALPHA]);
        assert_eq!(
            s.set("alpha", "0.5; user=1").unwrap_err().message(),
            "alpha cannot differ by slot: '0.5; user=1' names one; write one value for all"
        );
    }

    #[test]
    fn a_setting_is_checked_where_it_is_written() {
        let mut s = Settings::new([&ALPHA, &WAIT]);
        assert_eq!(s.number("alpha"), 0.1);
        s.set("alpha", "0.5").unwrap();
        assert_eq!(s.number("alpha"), 0.5);
        assert_eq!(s.set("alpha", "0.5").unwrap_err().message(), "alpha is written twice");
        assert_eq!(
            s.set("wait", "15").unwrap_err().message(),
            "wait: '15' has no unit; write \"15ms\", \"15s\", \"15m\" or \"15h\""
        );
        assert!(s.set("alfa", "1").unwrap_err().message().contains("no attribute 'alfa'; known are alpha, wait"));
        assert_eq!(ALPHA.parse("fast").unwrap_err().message(), "alpha expects a number, got 'fast'");
        assert_eq!(ALPHA.parse("-0.1").unwrap_err().message(), "alpha must be in [0, 100], got -0.1");
        assert_eq!(parse_bytes("1.5KiB").unwrap(), 1536);
    }
}
