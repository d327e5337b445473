//! What operators have decided about a model, on its way to those who follow it.
//!
//! In: what stands beside the versions of the process that learns: which one is live, labels, the split of traffic, rankings.
//! Out: the same as one line of JSON, and back. It has no place in the order of deltas: the newest is what counts. Of a
//! rollout it holds the label and the share of its stage; what a stage is judged by stays with who judges.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tidemill_base::{Error, Result, StateHash};

use crate::registry::{LABELS_MAX, Live, check_label};

/// Who gets which version, and by which rankings.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// What answers who asks for no version.
    pub live: Live,
    /// Versions by label; `live` is kept apart.
    pub labels: BTreeMap<String, u64>,
    /// Percentages by label, those of `live` included; empty: all goes to the live version.
    pub split: Vec<(String, f64)>,
    /// State hashes of the versions that answer by it: a number alone may be that of another history.
    pub states: BTreeMap<u64, StateHash>,
    /// Rankings as they were put, by name.
    pub rankings: BTreeMap<String, Value>,
}

impl Default for Decided {
    /// Nobody has decided anything yet.
    fn default() -> Self {
        let (labels, states, rankings) = Default::default();
        Self { live: Live::Latest, labels, split: Vec::new(), states, rankings }
    }
}

impl Decided {
    /// As one line.
    pub fn to_text(&self) -> String {
        let live = match self.live {
            Live::Latest => Value::Null,
            Live::Pinned(version) => version.into(),
        };
        let split: Map<String, Value> = self.split.iter().map(|(label, w)| (label.clone(), (*w).into())).collect();
        let states: Map<String, Value> =
            self.states.iter().map(|(version, state)| (version.to_string(), state.to_string().into())).collect();
        json!({
            "live": live, "labels": self.labels, "split": split, "states": states, "rankings": self.rankings,
        })
        .to_string()
    }

    /// Reads [`Decided::to_text`]; names it does not know are a newer program's, and are passed over.
    pub fn parse(text: &str) -> Result<Self> {
        let damaged = || Error::corrupt("what was decided about the versions cannot be read");
        let fields: Value = serde_json::from_str(text).map_err(|_| damaged())?;
        let object = |name: &str| fields[name].as_object().ok_or_else(damaged);
        let live = match &fields["live"] {
            Value::Null => Live::Latest,
            version => Live::Pinned(version.as_u64().ok_or_else(damaged)?),
        };
        let number = |(label, v): (&String, &Value)| Ok((label.clone(), v.as_u64().ok_or_else(damaged)?));
        let weight = |(label, w): (&String, &Value)| Ok((label.clone(), w.as_f64().ok_or_else(damaged)?));
        let state = |(version, state): (&String, &Value)| {
            let state = state.as_str().and_then(|state| state.parse().ok());
            version.parse().ok().zip(state).ok_or_else(damaged)
        };
        let labels: BTreeMap<String, u64> = object("labels")?.iter().map(number).collect::<Result<_>>()?;
        labels.keys().try_for_each(|label| check_label(label))?;
        if labels.len() > LABELS_MAX {
            return Err(damaged());
        }
        Ok(Self {
            live,
            labels,
            split: object("split")?.iter().map(weight).collect::<Result<_>>()?,
            states: object("states")?.iter().map(state).collect::<Result<_>>()?,
            rankings: object("rankings")?.iter().map(|(name, json)| (name.clone(), json.clone())).collect(),
        })
    }

    /// The versions that answer by it, each once.
    pub fn versions(&self) -> Vec<u64> {
        let pinned = if let Live::Pinned(version) = self.live { Some(version) } else { None };
        let mut all: Vec<u64> = pinned.into_iter().chain(self.labels.values().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_decided_comes_back() {
        let decided = Decided {
            live: Live::Pinned(7),
            labels: [("canary".to_string(), 9), ("shadow".to_string(), 7)].into(),
            split: vec![("canary".into(), 12.5), ("live".into(), 87.5)],
            states: [(7, StateHash::default()), (9, StateHash::default())].into(),
            rankings: [("feed".to_string(), json!({"score": "score * 2"}))].into(),
        };
        assert_eq!(Decided::parse(&decided.to_text()).unwrap(), decided);
        assert_eq!(decided.versions(), [7, 9]);
        assert_eq!(Decided::parse(&Decided::default().to_text()).unwrap(), Decided::default());
    }

    #[test]
    fn what_cannot_have_been_decided_is_refused() {
        let good = r#"{"live": 3, "labels": {"a": 1}, "split": {}, "states": {}, "rankings": {}, "newer": 1}"#;
        assert!(Decided::parse(good).is_ok());
        for (from, to) in [("3", "-3"), ("3", "\"x\""), ("\"a\"", "\"A\""), ("1}", "1.5}"), ("{}", "3"), ("}", "")] {
            let bad = good.replacen(from, to, 1);
            assert!(Decided::parse(&bad).is_err(), "{bad}");
        }
    }
}
