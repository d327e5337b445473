//! The trainer's part of a checkpoint.
#![no_main]

#[path = "../rooms/train.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod train;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    train::trainer(bytes);
});
