//! Expressions of rankings.
#![no_main]

#[path = "../rooms/serve.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod serve;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    serve::expression(bytes);
});
