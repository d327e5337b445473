//! Small files of jobs and replicas.
#![no_main]

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod base;
#[path = "../rooms/job.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod job;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    job::kept_file(bytes);
});
