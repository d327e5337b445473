//! Records of the journal.
#![no_main]

#[path = "../rooms/state.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod state;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    state::journal(bytes);
});
