//! A partition whose chunks come widened: steps 1 and 2 of one partition, on whatever thread reads it.

use tidemill_base::Result;

use super::{
    Pause,
    ahead::{Ahead, Permits},
};
use crate::{
    Position,
    source::{Partition, Print, Read},
    window::{WideChunk, Window},
};

/// A partition and how its chunks are widened.
pub(super) struct Wide {
    pub partition: Box<dyn Partition>,
    pub window: Window,
}

impl Wide {
    /// Pauses when rows were read, and when they were widened.
    pub fn read(&mut self, pause: Option<&Pause>) -> Result<Read<WideChunk>> {
        let read = self.partition.read().map_err(|e| e.at(format!("partition '{}'", self.partition.name())))?;
        let chunk = match read {
            Read::Chunk(chunk) => chunk,
            Read::Pending => return Ok(Read::Pending),
            Read::End => return Ok(Read::End),
        };
        pause.iter().for_each(|pause| pause());
        let wide = self.window.widen(chunk)?;
        pause.iter().for_each(|pause| pause());
        Ok(Read::Chunk(wide))
    }

    /// Whether there are rows behind the end.
    pub fn has_more(&mut self) -> Result<bool> {
        Ok(self.partition.may_grow() && matches!(self.partition.read()?, Read::Chunk(_)))
    }
}

/// Where a lane's chunks come from.
pub(super) enum Rows {
    /// Read by who asks.
    Here(Wide),
    /// Read ahead.
    Ahead(Ahead),
}

impl Rows {
    /// Of a partition, read ahead where there are permits and it can be.
    pub fn new(partition: Box<dyn Partition>, window: Window, permits: Option<&Permits>) -> Self {
        let permits = permits.filter(|_| partition.is_all_there());
        let wide = Wide { partition, window };
        match permits {
            Some(permits) => Self::Ahead(Ahead::new(wide, permits.clone())),
            None => Self::Here(wide),
        }
    }

    /// Pauses between the steps, where they are done by who asks.
    pub fn read(&mut self, pause: Option<&Pause>) -> Result<Read<WideChunk>> {
        match self {
            Self::Here(wide) => wide.read(pause),
            Self::Ahead(ahead) => ahead.read(pause),
        }
    }

    pub fn seek(&mut self, to: Position) -> Result<()> {
        match self {
            Self::Here(wide) => wide.partition.seek(to),
            Self::Ahead(ahead) => ahead.seek(to),
        }
    }

    pub fn print(&self, bytes: Option<u64>) -> Result<Option<Print>> {
        match self {
            Self::Here(wide) => wide.partition.print(bytes),
            Self::Ahead(ahead) => ahead.print(bytes),
        }
    }

    pub fn is_plain(&self) -> bool {
        match self {
            Self::Here(wide) => wide.partition.is_plain(),
            Self::Ahead(ahead) => ahead.is_plain(),
        }
    }

    pub fn has_more(&mut self) -> Result<bool> {
        match self {
            Self::Here(wide) => wide.has_more(),
            Self::Ahead(ahead) => ahead.has_more(),
        }
    }

    pub fn wait(&mut self, until: u64) -> Result<bool> {
        match self {
            Self::Here(wide) => wide.partition.wait(until),
            Self::Ahead(_) => Ok(false),
        }
    }

    /// The partition, where more can be asked of it than its rows: of one that is read ahead they are all there.
    pub fn live(&self) -> Option<&dyn Partition> {
        match self {
            Self::Here(wide) => Some(wide.partition.as_ref()),
            Self::Ahead(_) => None,
        }
    }
}
