//! What a job reads, and whether it may.
//!
//! In: a bound job, its directory and its journal. Out: the partitions of its sources, each with the number that the journal
//! knows it by; a refusal where another program was here, or where what was read before is gone.

use std::{fs, path::Path};

use tidemill_base::{Error, Result};
use tidemill_connect::Connections;
use tidemill_sql::{Input, TrainJob};
use tidemill_stream::{
    journal::{PartitionId, Record},
    source::{self, Connector, HISTORY_NAME, SwitchAt},
};
use tidemill_train::TrainSpec;

use super::journal::{Journal, Past};
use crate::{engine::Engine, push::PushHub};

/// The inputs of a job, left first.
pub fn inputs(job: &TrainJob) -> Vec<&Input> {
    std::iter::once(&job.pipeline.left).chain(job.pipeline.join.iter().flat_map(|j| &j.right)).collect()
}

/// Opens every partition in the order in which earlier runs met them, then new ones.
pub fn open_partitions(
    engine: &mut Engine,
    job: &TrainJob,
    past: &Past,
    push: &PushHub,
    connections: &mut Connections,
    mut journal: Option<&mut Journal>,
) -> Result<()> {
    for (i, input) in inputs(job).into_iter().enumerate() {
        let known: Vec<String> = past.partitions.iter().filter(|p| p.0 as usize == i).map(|p| p.1.clone()).collect();
        let of_stream: Vec<String> = known.iter().filter(|name| !name.starts_with(HISTORY_NAME)).cloned().collect();
        let mut opened = Vec::new();
        if let Some(history) = &input.source.history {
            engine.sequencer.switch(i, history.at);
            opened =
                source::open_history(&history.source, &known, |spec, known| connections.open_history(spec, known))?;
        }
        let histories = opened.len();
        opened.extend(source::open(&input.source, &of_stream)?);
        opened.extend(connections.open(i, &input.source, &of_stream)?);
        if input.source.push {
            opened.push(push.partition(&input.source)?);
        }
        one_partition(input, opened.len() - histories)?;
        for name in &known {
            let at = opened.iter().position(|o| o.partition.name() == name).ok_or_else(|| {
                Error::conflict(format!(
                    "source {}: partition '{name}' was read before and is no longer there; \
                     put it back, or start again with --from-scratch",
                    input.source.name
                ))
            })?;
            let id = add_partition(engine, i, opened.remove(at), None)?;
            if let Some(print) = past.prints.get(&id) {
                engine.sequencer.check_print(id, *print, &input.source.name)?;
            }
        }
        for new in opened {
            add_partition(engine, i, new, journal.as_deref_mut())?;
        }
    }
    let Some(journal) = journal else { return Ok(()) };
    keep_prints(engine, journal)?;
    if past.is_opened { Ok(()) } else { journal.append(&Record::Opened) }
}

/// Writes down what the files are that have been read, so that a restart does not go on in others.
pub(super) fn keep_prints(engine: &mut Engine, journal: &mut Journal) -> Result<()> {
    for (id, print) in engine.sequencer.new_prints()? {
        journal.append(&Record::Print(id, print))?;
        engine.sequencer.keep_print(id, print);
    }
    Ok(())
}

pub(super) fn add_partition(
    engine: &mut Engine,
    input: usize,
    opened: source::Opened,
    journal: Option<&mut Journal>,
) -> Result<PartitionId> {
    if let Some(journal) = journal {
        let name = opened.partition.name().to_string();
        journal.append(&Record::Partition { input: input as u32, name, ordered: opened.ordered })?;
    }
    if opened.partition.name().starts_with(HISTORY_NAME) {
        return Ok(engine.sequencer.add_history(input, opened.partition));
    }
    Ok(engine.sequencer.add_partition(input, opened.partition, opened.ordered))
}

/// An offset is a place in one partition.
fn one_partition(input: &Input, partitions: usize) -> Result<()> {
    match &input.source.history {
        Some(history) if matches!(history.at, SwitchAt::Offset(_)) && partitions != 1 => Err(Error::invalid(format!(
            "source '{}' has {partitions} partitions, and SWITCH TO ... AT OFFSET says one place; write AT TIMESTAMP, or leave \
             AT out: then it goes on behind the latest event of the history",
            input.source.name
        ))),
        _ => Ok(()),
    }
}

/// Refuses another program on this job's journal. `Some`: nothing was learned here yet, and this text is to be kept.
pub(super) fn check_program(dir: &Path, job: &TrainJob) -> Result<Option<String>> {
    let path = dir.join("program.sql");
    // Sinks may change, and who learns beside; but whoever reads checkpoints has to know them.
    let sinks = match job.state_fingerprint == job.fingerprint {
        true => String::new(),
        false => format!("-- with sinks {:016x}\n", job.state_fingerprint),
    };
    let text = format!("-- fingerprint {:016x}\n{sinks}{}\n", job.fingerprint, job.text);
    let is_sinks = |line: &&str| line.starts_with("-- with sinks ");
    match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Some(text)),
        Err(e) => Err(Error::io("read", &path, e)),
        Ok(old) if old.lines().next() == text.lines().next() => {
            let same = old.lines().nth(1).filter(is_sinks) == text.lines().nth(1).filter(is_sinks);
            Ok((!same).then_some(text))
        }
        Ok(_) => Err(Error::conflict(format!(
            "model '{}' in {} was learned by another program; use another model name or --data-dir, \
             or --from-scratch to forget what it learned",
            job.model,
            dir.display()
        ))),
    }
}

/// Only what ends can be learned from again.
pub(super) fn check_passes(spec: &TrainSpec, job: &TrainJob) -> Result<()> {
    match inputs(job).into_iter().find(|i| spec.passes > 1 && !i.source.bounded()) {
        Some(input) => Err(Error::invalid(format!(
            "train.passes = {}: source '{}' never ends; passes need sources that do",
            spec.passes, input.source.name
        ))),
        None => Ok(()),
    }
}

/// A source's key is watched by the label join, while the attribution window is open. Elsewhere nothing drops a second event,
/// and that is said.
pub(super) fn unwatched_key(job: &TrainJob) -> Option<String> {
    let watched = job.pipeline.join.as_ref().is_some_and(|j| j.spec.dedup.is_some());
    let source = &job.pipeline.left.source;
    (source.primary_key.is_some() && !watched).then(|| {
        format!(
            "the PRIMARY KEY of '{}' is watched only by a label join on it: here an event that comes twice counts twice",
            source.name
        )
    })
}

/// The moment at which a stream that is paced begins; `None` where none is.
pub(super) fn realtime_start(job: &TrainJob) -> Option<i64> {
    inputs(job).into_iter().find_map(|i| match &i.source.connector {
        Connector::Generator(g) if g.realtime => Some(g.start_ms),
        _ => None,
    })
}

/// The generator's drift steps up to an event time.
pub(super) fn drifts(job: &TrainJob, until: Option<i64>) -> Vec<i64> {
    let Some(until) = until else { return Vec::new() };
    let steps = inputs(job).into_iter().find_map(|i| match &i.source.connector {
        Connector::Generator(g) => g.drift_every_ms.map(|every| (g.start_ms, every)),
        _ => None,
    });
    let Some((start, every)) = steps else { return Vec::new() };
    (1..=1000).map(|k| start + k * every).take_while(|t| *t <= until).collect()
}
