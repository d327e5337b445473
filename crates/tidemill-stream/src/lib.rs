//! Floor 1: events in, samples out.
//!
//! [`source`] reads partitions, [`window`] gives every event its time and its computed columns, [`sequencer`] cuts
//! mini-batches and [`journal`] writes the cuts down, [`join`] turns impressions and feedback into samples. All of it is
//! a function of the journal and the sources' contents: no clock, no thread timing; files are opened in [`source`] and
//! [`sink`] only.

pub mod aggregate;
pub mod chunk;
mod contained;
pub mod flow;
mod held;
pub mod join;
pub mod journal;
pub mod sequencer;
pub mod sink;
pub mod source;
pub mod transform;
pub mod window;

pub use chunk::{Chunk, Position, Refused};
pub use transform::{Transform, Transformed};
