//! The stream room at its border: what goes in and what comes out, whatever the inside looks like.

mod aggregate;
mod join;
mod join_policies;
mod join_spill;
mod sequencer;
