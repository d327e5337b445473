//! The partitions of a history: those of a bounded source, under names that tell them from the stream's.
//!
//! In: a source that is files, objects or generated. Out: its partitions, in the order of their names; each reads as before.

use tidemill_base::Result;

use super::{HISTORY_NAME, Opened, Partition, Print, Read, SourceSpec};
use crate::Position;

/// Opens the partitions of a history; `known` are the names that earlier runs met, those of the stream among them.
/// `elsewhere` opens those that are not on this machine.
pub fn open_history(
    spec: &SourceSpec,
    known: &[String],
    elsewhere: impl FnOnce(&SourceSpec, &[String]) -> Result<Vec<Opened>>,
) -> Result<Vec<Opened>> {
    let known: Vec<String> =
        known.iter().filter_map(|name| Some(name.strip_prefix(HISTORY_NAME)?.to_string())).collect();
    let mut opened = super::open(spec, &known)?;
    opened.extend(elsewhere(spec, &known)?);
    Ok(opened.into_iter().map(named).collect())
}

fn named(opened: Opened) -> Opened {
    let name = format!("{HISTORY_NAME}{}", opened.partition.name());
    Opened { partition: Box::new(Renamed { partition: opened.partition, name }), ordered: opened.ordered }
}

struct Renamed {
    partition: Box<dyn Partition>,
    name: String,
}

impl Partition for Renamed {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        self.partition.read()
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.partition.seek(to)
    }

    fn print(&self, bytes: Option<u64>) -> Result<Option<Print>> {
        self.partition.print(bytes)
    }

    fn is_plain(&self) -> bool {
        self.partition.is_plain()
    }

    fn wait(&mut self, until: u64) -> Result<bool> {
        self.partition.wait(until)
    }

    fn is_behind(&self) -> bool {
        self.partition.is_behind()
    }

    fn trouble(&self) -> Option<String> {
        self.partition.trouble()
    }

    fn is_gone(&self) -> bool {
        self.partition.is_gone()
    }

    fn may_grow(&self) -> bool {
        self.partition.may_grow()
    }

    fn is_all_there(&self) -> bool {
        self.partition.is_all_there()
    }
}
