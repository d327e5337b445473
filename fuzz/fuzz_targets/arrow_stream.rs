//! Arrow IPC streams.
#![no_main]

#[path = "../rooms/panics.rs"]
mod panics;
#[path = "../rooms/serve.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod serve;

libfuzzer_sys::fuzz_target!(init: panics::only_ours_abort(), |bytes: &[u8]| {
    serve::arrow_stream(bytes);
});
