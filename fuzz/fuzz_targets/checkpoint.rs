//! Checkpoints, gone on from.
#![no_main]

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod base;
#[path = "../rooms/job.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod job;
#[path = "../rooms/panics.rs"]
mod panics;

libfuzzer_sys::fuzz_target!(init: panics::only_ours_abort(), |bytes: &[u8]| {
    job::checkpoint(bytes);
});
