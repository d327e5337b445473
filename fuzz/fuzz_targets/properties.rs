//! Properties of clients.
#![no_main]

#[path = "../rooms/stream.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod stream;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    stream::properties(bytes);
});
