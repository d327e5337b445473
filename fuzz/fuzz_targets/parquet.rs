//! Parquet files.
#![no_main]

#[path = "../rooms/panics.rs"]
mod panics;
#[path = "../rooms/stream.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod stream;

libfuzzer_sys::fuzz_target!(init: panics::only_ours_abort(), |bytes: &[u8]| {
    stream::parquet(bytes);
});
