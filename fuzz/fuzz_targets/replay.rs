//! Journals, replayed.
#![no_main]

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod base;
#[path = "../rooms/job.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod job;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    job::replay(bytes);
});
