//! What stands beside the versions about who gets which: labels, the split of traffic, a rollout that is going on, and what
//! became of versions.
//!
//! In and out: one JSON file, `routing.json`, which a person can read. It is replaced as a whole, so that labels and split
//! never disagree, and a restart finds what was there.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde_json::{Map, Value, json};
use tidemill_base::{Error, Result, store::atomic_file};

use crate::rollout::{
    Plan,
    plan::{self, GUARD_NAMES},
};

const FILE: &str = "routing.json";
const FORMAT: u64 = 1;
/// Labels of one model, each of which keeps a version in memory.
pub const LABELS_MAX: usize = 16;
/// What a reason begins with where the last live requests were too much for a version.
pub(crate) const WARM_UP: &str = "warm_up";
const LABEL_CHARACTERS_MAX: usize = 32;
/// What became of versions: the last so many are kept.
const VERDICTS_MAX: usize = 100;

/// Who gets which version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// Versions by label; `live` is kept apart.
    pub labels: BTreeMap<String, u64>,
    /// Percentages by label, those of `live` included; empty: all goes to the live version.
    pub split: Vec<(String, f64)>,
    /// The rollout that is going on.
    pub rollout: Option<RolledOut>,
    /// What became of versions, oldest first.
    pub verdicts: Vec<Verdict>,
    /// How often what became of one since the process began, by outcome and guard; not on disk.
    pub told: BTreeMap<(Outcome, &'static str), u64>,
}

/// A rollout and how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct RolledOut {
    /// The version on trial.
    pub version: u64,
    /// What is to be done.
    pub plan: Plan,
    /// The stage, from 0.
    pub stage: usize,
}

/// What became of a version, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// The version.
    pub version: u64,
    /// What was done with it.
    pub outcome: Outcome,
    /// In a sentence.
    pub reason: String,
}

/// What was done with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It passed every stage and is live.
    Promoted,
    /// It was worse: the live version answers everybody again.
    RolledBack,
    /// Its rollout was ended by hand.
    Ended,
    /// It was not published.
    Held,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Outcome; 4] = [Outcome::Promoted, Outcome::RolledBack, Outcome::Ended, Outcome::Held];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Promoted => "promoted",
            Outcome::RolledBack => "rolled back",
            Outcome::Ended => "ended",
            Outcome::Held => "held",
        }
    }
}

impl Verdict {
    /// The guard that decided, which the reason begins with; `other` where there was none.
    pub fn guard(&self) -> &'static str {
        let begin = self.reason.split_once(": ").map_or("", |(begin, _)| begin);
        GUARD_NAMES.into_iter().chain([WARM_UP]).find(|name| *name == begin).unwrap_or("other")
    }

    /// As the page and the command line show it.
    pub fn to_json(&self) -> Value {
        json!({"at_ms": self.at_ms, "version": self.version, "outcome": self.outcome.word(), "reason": self.reason})
    }

    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            at_ms: value["at_ms"].as_i64()?,
            version: value["version"].as_u64()?,
            outcome: *Outcome::ALL.iter().find(|o| value["outcome"].as_str() == Some(o.word()))?,
            reason: value["reason"].as_str()?.to_string(),
        })
    }
}

impl Routing {
    /// What lies in `dir`; nothing where there is no file.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let fields: Option<Value> = serde_json::from_str(&text).ok();
        match fields.as_ref().and_then(|f| f["format"].as_u64()) {
            Some(newer) if newer > FORMAT => {
                return Err(Error::conflict(format!(
                    "{}: format {newer} is newer than this binary ({FORMAT})",
                    path.display()
                )));
            }
            _ => {}
        }
        fields.as_ref().and_then(from_json).ok_or_else(|| {
            Error::corrupt(format!(
                "{} cannot be read; restore it from a copy, or remove it to go on without labels, split and rollout",
                path.display()
            ))
        })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let rollout = self.rollout.as_ref().map(|r| plan::to_json(&r.plan, r.version, r.stage));
        let split: Map<String, Value> = self.split.iter().map(|(label, w)| (label.clone(), (*w).into())).collect();
        let verdicts: Vec<Value> = self.verdicts.iter().map(Verdict::to_json).collect();
        let fields = json!({
            "format": FORMAT, "labels": self.labels, "split": split, "rollout": rollout, "verdicts": verdicts,
        });
        atomic_file::replace(&dir.join(FILE), format!("{fields:#}\n").as_bytes())
    }

    /// Remembers what became of a version.
    pub fn tell(&mut self, verdict: Verdict) {
        *self.told.entry((verdict.outcome, verdict.guard())).or_default() += 1;
        self.verdicts.push(verdict);
        let over = self.verdicts.len().saturating_sub(VERDICTS_MAX);
        self.verdicts.drain(..over);
    }

    /// Labels that point at a version.
    pub fn labels_of(&self, version: u64) -> Vec<&str> {
        self.labels.iter().filter(|(_, v)| **v == version).map(|(label, _)| label.as_str()).collect()
    }

    /// The same with the share of the traffic that each has: `canary 10%`.
    pub fn labels_in_words(&self, version: u64) -> Vec<String> {
        let share = |label: &str| self.split.iter().find(|(l, _)| l == label).map(|(_, weight)| format!(" {weight}%"));
        self.labels_of(version).iter().map(|label| format!("{label}{}", share(label).unwrap_or_default())).collect()
    }
}

fn from_json(fields: &Value) -> Option<Routing> {
    let labels = fields["labels"].as_object()?.iter().map(|(label, v)| Some((label.clone(), v.as_u64()?)));
    let split = fields["split"].as_object()?.iter().map(|(label, w)| Some((label.clone(), w.as_f64()?)));
    let rollout = match &fields["rollout"] {
        Value::Null => None,
        r => Some(RolledOut {
            version: r["version"].as_u64()?,
            plan: Plan::from_json(r["plan"].as_object()?).ok()?,
            stage: r["stage"].as_u64()? as usize,
        }),
    };
    Some(Routing {
        labels: labels.collect::<Option<_>>()?,
        split: split.collect::<Option<_>>()?,
        rollout,
        verdicts: fields["verdicts"].as_array()?.iter().map(Verdict::from_json).collect::<Option<_>>()?,
        told: BTreeMap::new(),
    })
}

/// Refuses what would be no label: a label is told from a version by its first letter.
pub fn check_label(label: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let begins = label.starts_with(|c: char| c.is_ascii_lowercase());
    if begins && label.chars().all(good) && label.len() <= LABEL_CHARACTERS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "label '{}': a label begins with a letter and holds lower-case letters, digits, '-' and '_', at most \
         {LABEL_CHARACTERS_MAX}",
        crate::shown(label)
    )))
}
