//! What operators ask for about versions, over HTTP: labels, split, rollout.
//!
//! In: small JSON bodies. Out: the change, done or refused with a sentence that says what to send. And the routing key of a
//! request: the header `X-Routing-Key`, or else the request itself.

use hyper::HeaderMap;
use serde_json::{Map, Value};
use tidemill_base::{Error, Result};

use super::{host::ServedModel, shown};
use crate::{rollout::Plan, strict_json};

const KEY: &str = "x-routing-key";

/// What a person may ask for, as the path says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Label,
    Split,
    Rollout,
}

/// What an operator may do to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Rollback,
    Promote,
    Change(Change),
}

impl Act {
    const ALL: [Self; 5] = [
        Self::Rollback,
        Self::Promote,
        Self::Change(Change::Label),
        Self::Change(Change::Split),
        Self::Change(Change::Rollout),
    ];

    pub fn parse(verb: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.verb() == verb)
    }

    /// As the path, refusals and metrics say it.
    pub fn verb(self) -> &'static str {
        match self {
            Act::Rollback => "rollback",
            Act::Promote => "promote",
            Act::Change(Change::Label) => "label",
            Act::Change(Change::Split) => "split",
            Act::Change(Change::Rollout) => "rollout",
        }
    }
}

/// What tells requests apart where traffic is split.
pub(super) fn routing_key<'a>(headers: &'a HeaderMap, otherwise: &'a [u8]) -> &'a [u8] {
    headers.get(KEY).map_or(otherwise, |key| key.as_bytes())
}

/// Does what a body asks for.
pub(super) fn change(model: &ServedModel, change: Change, body: &[u8]) -> Result<()> {
    let fields = match change {
        Change::Rollout if body.iter().all(u8::is_ascii_whitespace) => Map::new(),
        _ => object(body, expected(change))?,
    };
    match change {
        Change::Label => label(model, &fields),
        Change::Split => split(model, &fields),
        Change::Rollout => rollout(model, fields),
    }
}

/// The version that a request wants to be live.
pub(super) fn rolled_back_to(body: &[u8]) -> Result<u64> {
    const EXPECTED: &str = r#"say to which version: {"version":41}"#;
    let fields = object(body, EXPECTED)?;
    refuse_others(&fields, &["version"])?;
    fields.get("version").and_then(Value::as_u64).ok_or_else(|| Error::invalid(EXPECTED))
}

/// That nothing is said to a request that needs nothing.
pub(super) fn promoted(body: &[u8]) -> Result<()> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let fields = object(body, "the newest version is promoted; send no body, or {}")?;
    match fields.keys().next() {
        Some(name) => Err(Error::invalid(format!("unknown name \"{}\"; nothing is said here", shown(name)))),
        None => Ok(()),
    }
}

/// Each name once; `expected` is what to send instead of something else than an object.
fn object(body: &[u8], expected: &str) -> Result<Map<String, Value>> {
    match strict_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Err(e) if serde_json::from_slice::<Map<String, Value>>(body).is_ok() => Err(e),
        _ => Err(Error::invalid(expected)),
    }
}

fn expected(change: Change) -> &'static str {
    match change {
        Change::Label => r#"say which label and version: {"label":"canary","version":7}; version null removes it"#,
        Change::Split => r#"say the percentages, live among them: {"live":90,"canary":10}"#,
        Change::Rollout => {
            r#"say what is rolled out: {"version":7,"stages":"1%, 10%, 100%","each":"5s"}, or {"abort":true}"#
        }
    }
}

fn label(model: &ServedModel, fields: &Map<String, Value>) -> Result<()> {
    refuse_others(fields, &["label", "version"])?;
    let label = fields.get("label").and_then(Value::as_str);
    let label =
        label.ok_or_else(|| Error::invalid(r#"label: expected a name, as in {"label":"canary","version":7}"#))?;
    match fields.get("version") {
        Some(Value::Null) => model.versions().remove_label(label),
        Some(version) if version.is_u64() => model.versions().set_label(label, version.as_u64().unwrap_or_default()),
        _ => Err(Error::invalid("version: expected the number of a version, or null to remove the label")),
    }
}

fn split(model: &ServedModel, fields: &Map<String, Value>) -> Result<()> {
    let mut weights = Vec::new();
    for (label, weight) in fields {
        let weight = weight.as_f64();
        let expected = || Error::invalid(format!("weight of '{}': expected a number of percent", shown(label)));
        weights.push((label.clone(), weight.ok_or_else(expected)?));
    }
    model.versions().split(&weights)
}

fn rollout(model: &ServedModel, fields: Map<String, Value>) -> Result<()> {
    if fields.get("abort") == Some(&Value::Bool(true)) {
        refuse_others(&fields, &["abort"])?;
        return model.versions().abort();
    }
    let version = match fields.get("version") {
        None | Some(Value::Null) => None,
        Some(version) if version.is_u64() => version.as_u64(),
        Some(_) => return Err(Error::invalid("version: expected the number of a version")),
    };
    model.versions().roll_out(version, Plan::from_json(&fields)?)
}

fn refuse_others(fields: &Map<String, Value>, known: &[&str]) -> Result<()> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(other) => {
            Err(Error::invalid(format!("unknown name \"{}\"; known are {}", shown(other), known.join(", "))))
        }
        None => Ok(()),
    }
}
