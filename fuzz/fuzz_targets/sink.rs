//! What a sink keeps.
#![no_main]

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod base;
#[path = "../rooms/panics.rs"]
mod panics;
#[path = "../rooms/rows.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod rows;

libfuzzer_sys::fuzz_target!(init: panics::only_ours_abort(), |bytes: &[u8]| {
    rows::sink(bytes);
});
