//! Logs of pushed events.
#![no_main]

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod base;
#[path = "../rooms/rows.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod rows;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rows::push_log(bytes);
});
