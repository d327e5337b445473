//! The program as a person meets it: command lines, files, HTTP, signals. Every test starts the real binary.

#![allow(clippy::disallowed_methods, reason = "a test watches real processes by the real clock")]

mod bad_input;
mod bad_values;
mod bench;
mod border;
mod changed_files;
mod checkpoints;
mod cli;
#[cfg(all(feature = "kafka", feature = "nats"))]
mod connect;
mod emission;
mod event_time;
mod faults;
mod fuzz;
mod http;
mod infer;
mod join_state;
mod kill;
mod large;
mod predict;
mod reference;
mod replica;
mod replica_decisions;
mod rollout;
mod serve;
#[cfg(all(feature = "kafka", feature = "nats"))]
mod sink_servers;
mod sinks;
mod slots;
mod steps;
mod support;
mod survival;
mod switch;
#[cfg(all(feature = "kafka", feature = "nats"))]
mod switch_servers;
mod tidy;
mod together;
#[cfg(all(feature = "kafka", feature = "nats"))]
mod transactions;
mod versions;
mod views;
