//! What a replica is answered.
#![no_main]

#[path = "../rooms/kept.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod kept;
#[path = "../rooms/serve.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod serve;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kept::follow(bytes);
});
