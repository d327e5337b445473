//! Replicas: another process serves the model while this one learns it.
//!
//! In, at the trainer: deltas and versions as they are published. Out: frames, in their order, to whoever follows
//! ([`feed`]). In, at the replica: an address and the position it has come to. Out: the same frames ([`client`]). A position
//! is the number of a delta; numbers of a later start of the trainer are larger than all earlier ones, and what a replica
//! has is a prefix of what the trainer has learned, because a frame leaves only when the journal it stands on is durable. So
//! a replica that was away goes on from its position as long as the deltas behind it are kept, and a trainer that was
//! killed tells it what changed since the checkpoint it was restored from. Otherwise the model is sent whole. What operators
//! decide beside it (which version is live, labels, split, rankings) goes the same way ([`decided`]).
//! docs/0006 has every byte.

pub mod client;
pub mod decided;
pub mod feed;
pub mod frame;
pub(crate) mod stream;

/// What the body of a reply to a follower is called.
pub const CONTENT_TYPE: &str = "application/vnd.tidemill.follow";

/// Positions of one start of a trainer.
const POSITIONS_PER_START: u64 = 1 << 40;

/// The position before the first delta of a trainer's `starts`th start.
pub const fn first_position(starts: u64) -> u64 {
    starts * POSITIONS_PER_START
}

/// Which start of the trainer a position belongs to.
pub const fn start_of(position: u64) -> u64 {
    position / POSITIONS_PER_START
}

/// How far somebody has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last delta that is in.
    pub position: u64,
    /// Mini-batches learned from, at least.
    pub mini_batch: u64,
    /// The last version published.
    pub version: u64,
}

/// What a replica has when it asks to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Which history it is of; 0: it has nothing.
    pub lineage: u64,
    /// How far it has come.
    pub position: u64,
    /// Mini-batches in what it has.
    pub mini_batch: u64,
    /// It takes over what operators decide.
    pub takes_decisions: bool,
}

impl Ask {
    /// As the query of a request.
    pub fn to_query(self) -> String {
        let decisions = if self.takes_decisions { "&takes=decisions" } else { "" };
        format!("lineage={:016x}&position={}&mini_batch={}{decisions}", self.lineage, self.position, self.mini_batch)
    }

    /// Reads a query; what is not there is 0. `None` when a value is not a number.
    pub fn from_query(query: &str) -> Option<Self> {
        let mut ask = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "lineage" => ask.lineage = u64::from_str_radix(value, 16).ok()?,
                "position" => ask.position = value.parse().ok()?,
                "mini_batch" => ask.mini_batch = value.parse().ok()?,
                "takes" => ask.takes_decisions = value.split(',').any(|what| what == "decisions"),
                _ => {}
            }
        }
        Some(ask)
    }
}

/// How a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the delta behind the position that was asked for.
    Resume,
    /// With one delta that holds whatever changed since the trainer's checkpoint.
    Rebase,
    /// With the whole model.
    Snapshot,
}
