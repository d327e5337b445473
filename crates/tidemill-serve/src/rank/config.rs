//! A ranking as it is written: `{"functions": {...}, "defaults": {...}, "score": "..."}`.
//!
//! In: JSON. Out: a [`Config`] whose functions are within their ranges, whose names shadow nothing and whose score parses,
//! or the first thing that is wrong with it, by its place. Which names the score may use is decided when it is compiled.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tidemill_base::{Error, Result};

use super::{
    nearest,
    parse::{Tree, parse},
    token::{Source, Token, short},
};
use crate::{moment, strict_json};

/// What can be called; functions of a config may not be named so.
pub(super) const BUILT_IN: [&str; 18] = [
    "ln",
    "log",
    "sin",
    "cos",
    "tan",
    "abs",
    "min",
    "max",
    "trunc",
    "round",
    "decay_linear",
    "decay_exp",
    "decay_gauss",
    "rand",
    "rand_normal",
    "to_unix_timestamp",
    "dist",
    "now",
];
/// Names that mean something of their own wherever they stand.
const RESERVED: [&str; 3] = ["true", "false", "external"];
/// Functions, and defaults, in one config.
const ENTRIES_MAX: usize = 256;

/// A ranking: named decays, values for what is NULL, and the expression that items are ordered by.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub(super) functions: Vec<(String, Decay)>,
    pub(super) defaults: BTreeMap<String, Fallback>,
    pub(super) text: String,
    pub(super) tree: Tree,
}

/// What stands for NULL.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fallback {
    /// Numbers, truths as 0 and 1, moments in milliseconds; NaN for `null`, which only says that there is such a column.
    Number(f64),
    Text(String),
}

/// How something wanes with its distance from the best.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decay {
    pub base: Base,
    pub scale: Length,
    pub offset: Length,
    pub decay: f64,
    /// `None`: now for times, 0 for numbers.
    pub origin: Option<f64>,
    pub direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Base {
    Linear,
    Exp,
    Gauss,
}

/// On which side of the origin there is a decay; on the other the value is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Both,
    Left,
    Right,
}

/// A distance: in milliseconds if it was written with a unit, otherwise in the unit of what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Length {
    pub size: f64,
    pub timed: bool,
}

pub(super) const BASES: [(&str, Base); 3] =
    [("decay_linear", Base::Linear), ("decay_exp", Base::Exp), ("decay_gauss", Base::Gauss)];
const DIRECTIONS: [(&str, Direction); 3] =
    [("both", Direction::Both), ("left", Direction::Left), ("right", Direction::Right)];
const FIVE_DAYS_MS: f64 = 5.0 * 86_400_000.0;

impl Decay {
    /// The decay that `decay_linear` and its like are without a config.
    pub fn bare(base: Base) -> Self {
        Self {
            base,
            scale: Length { size: FIVE_DAYS_MS, timed: true },
            offset: Length { size: 0.0, timed: false },
            decay: 0.5,
            origin: None,
            direction: Direction::Both,
        }
    }
}

impl Config {
    /// Reads a config from JSON text.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let value = strict_json::from_slice(json).map_err(|e| e.at("ranking is not JSON"))?;
        Self::from_value(&value)
    }

    /// A config that is nothing but a score.
    pub fn from_score(text: &str) -> Result<Self> {
        let tree = parse("score", text)?;
        Ok(Self { functions: Vec::new(), defaults: BTreeMap::new(), text: text.to_string(), tree })
    }

    /// Reads a config.
    pub fn from_value(value: &Value) -> Result<Self> {
        let fields = object(value, "ranking")?;
        known_keys(fields, "ranking", &["functions", "defaults", "score"])?;
        let functions = match fields.get("functions") {
            Some(value) => functions(object(value, "functions")?)?,
            None => Vec::new(),
        };
        let defaults = match fields.get("defaults") {
            Some(value) => defaults(object(value, "defaults")?, &functions)?,
            None => BTreeMap::new(),
        };
        match fields.get("score") {
            Some(Value::String(text)) => Ok(Self { functions, defaults, ..Self::from_score(text)? }),
            Some(other) => Err(Error::invalid(format!("score: expected an expression as text, found {}", kind(other)))),
            None => Err(Error::invalid(r#"ranking: no "score"; it is the expression to order by, as in "pctr * bid""#)),
        }
    }
}

fn functions(written: &Map<String, Value>) -> Result<Vec<(String, Decay)>> {
    bounded(written, "functions")?;
    let mut functions: Vec<(String, Decay)> = Vec::new();
    for (name, value) in written {
        let place = format!("functions.{}", short(name));
        let folded = name.to_ascii_lowercase();
        if !is_name(&folded) {
            return Err(Error::invalid(format!("{place}: a function's name is made of letters, digits and _")));
        }
        if BUILT_IN.contains(&folded.as_str()) || RESERVED.contains(&folded.as_str()) {
            return Err(Error::invalid(format!("{place}: the name shadows what is built in; take another")));
        }
        if functions.iter().any(|(known, _)| *known == folded) {
            return Err(Error::invalid(format!("{place}: the name is there twice; function names fold to lower case")));
        }
        functions.push((folded, decay(object(value, &place)?, &place)?));
    }
    Ok(functions)
}

fn decay(written: &Map<String, Value>, place: &str) -> Result<Decay> {
    known_keys(written, place, &["base", "scale", "offset", "decay", "origin", "direction"])?;
    let Some(base) = written.get("base") else {
        return Err(Error::invalid(format!("{place}: no \"base\"; it is decay_linear, decay_exp or decay_gauss")));
    };
    let mut decay = Decay::bare(choice(base, &format!("{place}.base"), &BASES)?);
    if let Some(value) = written.get("scale") {
        decay.scale = length(value, &format!("{place}.scale"))?;
    }
    if let Some(value) = written.get("offset") {
        decay.offset = length(value, &format!("{place}.offset"))?;
    }
    if let Some(value) = written.get("decay") {
        decay.decay = number(value, &format!("{place}.decay"))?;
    }
    if let Some(value) = written.get("direction") {
        decay.direction = choice(value, &format!("{place}.direction"), &DIRECTIONS)?;
    }
    decay.origin = match written.get("origin") {
        None => None,
        Some(Value::String(text)) if text == "now" => None,
        Some(Value::String(text)) => match moment::parse(text) {
            Some(ms) => Some(ms),
            None => Some(length(&Value::String(text.clone()), &format!("{place}.origin"))?.size),
        },
        Some(value) => Some(number(value, &format!("{place}.origin"))?),
    };
    if decay.scale.size <= 0.0 {
        return Err(Error::invalid(format!("{place}.scale: {} is not above 0", decay.scale.size)));
    }
    if decay.offset.size < 0.0 {
        return Err(Error::invalid(format!("{place}.offset: {} is below 0", decay.offset.size)));
    }
    if !(decay.decay > 0.0 && decay.decay < 1.0) {
        return Err(Error::invalid(format!("{place}.decay: {} is not between 0 and 1", decay.decay)));
    }
    Ok(decay)
}

fn defaults(written: &Map<String, Value>, functions: &[(String, Decay)]) -> Result<BTreeMap<String, Fallback>> {
    bounded(written, "defaults")?;
    let mut defaults = BTreeMap::new();
    for (name, value) in written {
        let place = format!("defaults.{}", short(name));
        if !name.split('.').all(is_name) {
            return Err(Error::invalid(format!("{place}: a column's name is made of letters, digits, _ and points")));
        }
        if BUILT_IN.contains(&name.as_str())
            || RESERVED.contains(&name.as_str())
            || functions.iter().any(|(known, _)| known == name)
        {
            return Err(Error::invalid(format!("{place}: the name shadows a function; rename one of them")));
        }
        let fallback = match value {
            Value::Null => Fallback::Number(f64::NAN),
            Value::Bool(truth) => Fallback::Number(f64::from(u8::from(*truth))),
            Value::String(text) => moment::parse(text).map_or(Fallback::Text(text.clone()), Fallback::Number),
            value => Fallback::Number(number(value, &place)?),
        };
        defaults.insert(name.clone(), fallback);
    }
    Ok(defaults)
}

/// `100`, `"5d"`, `"1d12h"`.
fn length(value: &Value, place: &str) -> Result<Length> {
    let Value::String(text) = value else { return Ok(Length { size: number(value, place)?, timed: false }) };
    let source = Source { what: place, text };
    match source.tokens()?[..] {
        [(Token::Number(size), _), _] => Ok(Length { size, timed: false }),
        [(Token::Duration(size), _), _] => Ok(Length { size, timed: true }),
        _ => Err(Error::invalid(format!(
            "{place}: '{}' is neither a number nor a length of time like 1d12h",
            short(text)
        ))),
    }
}

fn number(value: &Value, place: &str) -> Result<f64> {
    match value.as_f64().filter(|x| x.is_finite()) {
        Some(x) => Ok(x),
        None => Err(Error::invalid(format!("{place}: expected a number, found {}", kind(value)))),
    }
}

fn choice<T: Copy>(value: &Value, place: &str, known: &[(&str, T)]) -> Result<T> {
    let Value::String(word) = value else {
        return Err(Error::invalid(format!("{place}: expected a text, found {}", kind(value))));
    };
    match known.iter().find(|(name, _)| name == word) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Err(Error::invalid(format!("{place}: '{}' is not one of {}", short(word), names.join(", "))))
        }
    }
}

pub(super) fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| Error::invalid(format!("{place}: expected an object, found {}", kind(value))))
}

pub(super) fn known_keys(fields: &Map<String, Value>, place: &str, known: &[&str]) -> Result<()> {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let advice = nearest(key, known.iter().copied()).map_or_else(
                || format!("; known are {}", known.join(", ")),
                |near| format!("; did you mean '{near}'?"),
            );
            Err(Error::invalid(format!("{place}: unknown name '{}'{advice}", short(key))))
        }
    }
}

fn bounded(entries: &Map<String, Value>, place: &str) -> Result<()> {
    match entries.len() > ENTRIES_MAX {
        true => Err(Error::invalid(format!("{place}: {} of them; the limit is {ENTRIES_MAX}", entries.len()))),
        false => Ok(()),
    }
}

fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(text) => format!("the text '{}'", short(text)),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(config: Value) -> String {
        Config::from_value(&config).unwrap_err().message().to_string()
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = Config::from_value(&json!({
            "functions": {"Fresh": {"base": "decay_exp"},
                          "near": {"base": "decay_gauss", "scale": 100, "offset": "1d12h", "origin": 7, "direction": "left"}},
            "score": "fresh(time)",
        }))
        .unwrap();
        assert_eq!(config.functions[0], ("fresh".to_string(), Decay::bare(Base::Exp)));
        let near = &config.functions[1].1;
        assert_eq!((near.scale, near.origin), (Length { size: 100.0, timed: false }, Some(7.0)));
        assert_eq!((near.offset, near.direction), (Length { size: 129_600_000.0, timed: true }, Direction::Left));
    }

    #[test]
    fn what_is_wrong_with_a_config_is_said_with_its_place() {
        let decay =
            |key: &str, value: Value| json!({"functions": {"f": {"base": "decay_exp", key: value}}, "score": "1"});
        for (config, message) in [
            (json!([]), "ranking: expected an object, found an array"),
            (json!({}), r#"ranking: no "score"; it is the expression to order by, as in "pctr * bid""#),
            (json!({"score": 1}), "score: expected an expression as text, found the number 1"),
            (json!({"scores": "1"}), "ranking: unknown name 'scores'; did you mean 'score'?"),
            (json!({"score": "1 +"}), "score, character 4: expected a number, a name or a bracket, found the end"),
            (decay("scale", json!(0)), "functions.f.scale: 0 is not above 0"),
            (decay("scale", json!(-1)), "functions.f.scale: -1 is not above 0"),
            (
                decay("scale", json!("5 days")),
                "functions.f.scale: '5 days' is neither a number nor a length of time like 1d12h",
            ),
            (
                decay("scale", json!("5y")),
                "functions.f.scale, character 2: 'y' behind a number is no unit of time; units are s, m (minutes), h, d and w",
            ),
            (decay("offset", json!(-2)), "functions.f.offset: -2 is below 0"),
            (decay("decay", json!(0)), "functions.f.decay: 0 is not between 0 and 1"),
            (decay("decay", json!(1)), "functions.f.decay: 1 is not between 0 and 1"),
            (decay("decay", json!(1.5)), "functions.f.decay: 1.5 is not between 0 and 1"),
            (decay("decay", json!("half")), "functions.f.decay: expected a number, found the text 'half'"),
            (decay("direction", json!("up")), "functions.f.direction: 'up' is not one of both, left, right"),
            (
                decay("base", json!("gauss")),
                "functions.f.base: 'gauss' is not one of decay_linear, decay_exp, decay_gauss",
            ),
            (decay("scael", json!(1)), "functions.f: unknown name 'scael'; did you mean 'scale'?"),
            (
                json!({"functions": {"f": {}}, "score": "1"}),
                "functions.f: no \"base\"; it is decay_linear, decay_exp or decay_gauss",
            ),
            (
                json!({"functions": {"Ln": {"base": "decay_exp"}}, "score": "1"}),
                "functions.Ln: the name shadows what is built in; take another",
            ),
            (
                json!({"functions": {"a b": {"base": "decay_exp"}}, "score": "1"}),
                "functions.a b: a function's name is made of letters, digits and _",
            ),
            (
                json!({"functions": {"f": {"base": "decay_exp"}, "F": {"base": "decay_exp"}}, "score": "1"}),
                "functions.F: the name is there twice; function names fold to lower case",
            ),
            (
                json!({"defaults": {"min": 1}, "score": "1"}),
                "defaults.min: the name shadows a function; rename one of them",
            ),
            (
                json!({"functions": {"f": {"base": "decay_exp"}}, "defaults": {"f": 1}, "score": "1"}),
                "defaults.f: the name shadows a function; rename one of them",
            ),
            (json!({"defaults": {"a": [1]}, "score": "1"}), "defaults.a: expected a number, found an array"),
            (
                json!({"defaults": {"a..b": 1}, "score": "1"}),
                "defaults.a..b: a column's name is made of letters, digits, _ and points",
            ),
        ] {
            assert_eq!(refused(config.clone()), message, "{config}");
        }
    }
}
