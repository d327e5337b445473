//! Snapshots.
#![no_main]

#[path = "../rooms/model.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    model::snapshot(bytes);
});
