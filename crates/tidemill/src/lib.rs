//! Floor 3: the engine, the command line and the API for embedding.
//!
//! [`engine`] is the line end to end; [`job`] runs it with a clock, a journal and checkpoints; [`host`] shows it to the
//! server; [`cli`] is the program's face. Only this floor reads the clock, the environment and the command line.

pub mod bench;
pub mod catalog;
pub mod checkpoints;
pub mod cli;
pub mod data;
pub mod engine;
pub mod evaluate;
pub mod failpoint;
pub mod figures;
pub mod host;
pub mod job;
pub mod program;
pub mod push;
pub mod replica;
pub mod score;
pub mod signal;
pub mod sinks;
pub mod status;
pub mod steps;
pub mod verify;
