//! Ranking: candidates and an expression in, a page out.
//!
//! A [`Config`] is a ranking as it is written: named decays, defaults, and a score, an expression over columns of the
//! items, numbers of the request and what the model says. Compiled against what is [`Known`], it is a [`Program`] that
//! runs over columns. The bits of a score depend on the item, the request's numbers and its seed only: not on the other
//! items, nor on the machine. No score that is not a number gets near a comparison.

pub(crate) mod answer;
mod compile;
mod config;
mod emit;
mod kernel;
pub(crate) mod named;
mod parse;
mod program;
mod random;
mod read;
mod request;
mod select;
mod token;

#[cfg(test)]
mod tests;

use serde_json::Value;
use tidemill_base::{Error, Result};

use crate::moment;
pub use answer::{RankReply, RankedItem};
pub use compile::{Column, ColumnType, Given, Known, Output};
pub use config::Config;
pub use program::RunScratch;
pub use request::CANDIDATES_MAX;
pub use select::ItemId;

/// A ranking, ready to be run.
#[derive(Clone, Debug)]
pub struct Program {
    code: program::Code,
    columns: Vec<Column>,
    given: Vec<Given>,
}

impl Program {
    /// Compiles a config against what is known of columns and model.
    pub fn compile(config: &Config, known: &Known) -> Result<Self> {
        compile::compile(config, known)
    }

    /// The columns that [`Program::run`] reads, in the order in which it wants them.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The numbers of the request that [`Program::run`] reads, in its order.
    pub fn given(&self, now_ms: i64, external: &Value) -> Result<Vec<f64>> {
        let one = |given: &Given| match given {
            Given::Now => Ok(now_ms as f64),
            Given::External { path, default } => external_number(external, path, *default),
        };
        self.given.iter().map(one).collect()
    }

    /// Computes the score of each item into `out`. `columns` are those of [`Program::columns`], each as long as `out`,
    /// with NaN for NULL; `given` are the numbers of [`Program::given`]; `items` are hashes of the items' ids, as many as
    /// there are items, and `seed` is the request's: what random numbers come from.
    pub fn run(
        &self,
        columns: &[&[f64]],
        given: &[f64],
        items: &[u64],
        seed: u64,
        scratch: &mut RunScratch,
        out: &mut [f64],
    ) {
        assert!(columns.len() == self.columns.len() && columns.iter().all(|c| c.len() == out.len()), "columns fit");
        assert_eq!(items.len(), out.len(), "every item has its hash");
        self.code.run(program::Input { columns, given, items, seed }, scratch, out);
    }
}

fn external_number(external: &Value, path: &str, default: Option<f64>) -> Result<f64> {
    let found = path.split('.').try_fold(external, |value, part| value.get(part));
    match found.filter(|value| !value.is_null()) {
        None => default.ok_or_else(|| compile::no_external(path)),
        Some(Value::Bool(truth)) => Ok(f64::from(u8::from(*truth))),
        Some(value) => {
            let moment = value.as_str().and_then(moment::parse);
            value.as_f64().or(moment).ok_or_else(|| {
                let path = token::short(path);
                Error::invalid(format!("external.{path}: expected a number, found {}", config::kind(value)))
            })
        }
    }
}

/// The type of a column; into an object that is a column of the source leads no type.
fn column_type(columns: &[(String, ColumnType)], path: &str) -> Option<ColumnType> {
    columns.iter().find(|(name, _)| name == path).map(|(_, ty)| *ty)
}

/// The known word that is nearest to what was written, if one is a typing mistake away.
fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = written.chars().count();
    if length > 64 {
        return None;
    }
    let near = known.map(|word| (strsim::damerau_levenshtein(&word.to_lowercase(), &written.to_lowercase()), word));
    let near = near.filter(|(distance, word)| {
        let longer = length.max(word.chars().count());
        *distance <= (longer / 3).max(1) && *distance < longer
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}
