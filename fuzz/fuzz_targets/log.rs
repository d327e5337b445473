//! Logs.
#![no_main]

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod base;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    base::log(bytes);
});
