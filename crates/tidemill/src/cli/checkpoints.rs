//! `tidemill checkpoints`: which there are, whether their bytes are right, and what they hold.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use tidemill_base::{Error, Result, thousands};

use super::{DataDirectory, models::table, run::print_line};
use crate::{checkpoints::Inspect, data::Data};

/// Ends of the names of what a checkpoint is made of, and of what says how to read it.
const EVERY_BYTE: &[&str] = &["program.sql", ".ck", ".part"];

#[derive(Subcommand)]
pub(super) enum Checkpoints {
    /// The checkpoints of a model's job, oldest first
    Ls(Common),
    /// Read every byte of one or all of them, and derive the state hash of each
    Verify(Common),
    /// Write keys, parameters and optimizer state of one into a file
    Export {
        #[command(flatten)]
        common: Common,
        /// The file; its name ends in .csv or .parquet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct Common {
    /// MODEL, or MODEL@MINI_BATCH for one of them
    name: String,
    #[command(flatten)]
    data: DataDirectory,
    /// For each checkpoint one line, a JSON object
    #[arg(long)]
    json: bool,
}

impl Checkpoints {
    pub fn run(&self) -> Result<()> {
        match self {
            Checkpoints::Ls(common) => list(common),
            Checkpoints::Verify(common) => verify(common),
            Checkpoints::Export { common, to } => {
                let (_data, inspect, mini_batch) = common.open(EVERY_BYTE)?;
                let exported = inspect.export(mini_batch, to)?;
                let (mini_batch, entries) = (exported.mini_batch, exported.entries);
                match common.json {
                    true => print_line(
                        &json!({"mini_batch": mini_batch, "entries": entries, "file": to.display().to_string()})
                            .to_string(),
                    ),
                    false => print_line(&format!(
                        "{} entries of checkpoint {mini_batch} in {}",
                        thousands(entries),
                        to.display()
                    )),
                }
            }
        }
    }
}

impl Common {
    /// Opens the checkpoints; of a bucket the files come that end so, as long as the first is held.
    fn open(&self, wanted: &[&str]) -> Result<(Data, Inspect, Option<u64>)> {
        let (model, mini_batch) = match self.name.split_once('@') {
            None => (self.name.as_str(), None),
            Some((model, number)) => {
                let bad =
                    |_| Error::invalid(format!("'{}' is not MODEL@MINI_BATCH; write for example ctr@6006", self.name));
                (model, Some(number.parse().map_err(bad)?))
            }
        };
        let of_model = format!("models/{model}/job/");
        let data =
            self.data.read(&|path| path.starts_with(&of_model) && wanted.iter().any(|end| path.ends_with(end)))?;
        let inspect = Inspect::open(data.root(), model)?;
        Ok((data, inspect, mini_batch))
    }
}

fn list(common: &Common) -> Result<()> {
    let (_data, inspect, only) = common.open(&["program.sql", ".ck"])?;
    let mut lines = vec![["mini-batch", "bytes", "parts", "bytes of parts", "entries"].map(str::to_string)];
    for listed in inspect.list().into_iter().filter(|listed| only.is_none_or(|only| only == listed.mini_batch)) {
        let (mini_batch, bytes) = (listed.mini_batch, listed.bytes);
        if common.json {
            let mut line = json!({"mini_batch": mini_batch, "bytes": bytes});
            match &listed.parts {
                Ok((parts, of_parts)) => {
                    line["parts"] = json!(parts);
                    line["parts_bytes"] = json!(of_parts);
                    line["shares"] = json!(listed.shares);
                }
                Err(e) => line["damaged"] = json!(e.message()),
            }
            print_line(&line.to_string())?;
            continue;
        }
        let (parts, of_parts, entries) = match &listed.parts {
            Ok((parts, of_parts)) => {
                let entries = match (parts, listed.shares) {
                    (1, _) => "all, in a part of its own",
                    (_, true) => "what changed, behind parts shared with the one before",
                    (_, false) => "what changed, behind parts of its own",
                };
                (parts.to_string(), thousands(*of_parts), entries.to_string())
            }
            Err(e) => ("-".into(), "-".into(), format!("damaged: {}", e.message())),
        };
        lines.push([mini_batch.to_string(), thousands(bytes), parts, of_parts, entries]);
    }
    match (common.json, lines.len()) {
        (true, _) => Ok(()),
        (false, 1) => print_line("no checkpoints"),
        (false, _) => print_line(&table(&lines)),
    }
}

/// Goes through all of them, and fails at the end if any was damaged.
fn verify(common: &Common) -> Result<()> {
    let (_data, inspect, only) = common.open(EVERY_BYTE)?;
    let all: Vec<u64> = match only {
        Some(one) => vec![one],
        None => inspect.list().into_iter().map(|listed| listed.mini_batch).collect(),
    };
    let mut first = None;
    for mini_batch in &all {
        let line = match inspect.verify(*mini_batch) {
            Ok(v) if common.json => {
                let hash = v.state_hash.to_string();
                json!({"mini_batch": v.mini_batch, "state_hash": hash, "entries": v.entries, "samples": v.samples})
                    .to_string()
            }
            Ok(v) => format!(
                "checkpoint {}: state {}, {} entries, {} samples",
                v.mini_batch,
                v.state_hash,
                thousands(v.entries),
                thousands(v.samples)
            ),
            Err(e) => {
                let line = match common.json {
                    true => json!({"mini_batch": mini_batch, "damaged": e.message()}).to_string(),
                    false => e.message().to_string(),
                };
                first.get_or_insert(e);
                line
            }
        };
        print_line(&line)?;
    }
    if all.is_empty() && !common.json {
        print_line("no checkpoints")?;
    }
    first.map_or(Ok(()), Err)
}
