//! The label join's part of a checkpoint.
#![no_main]

#[path = "../rooms/panics.rs"]
mod panics;
#[path = "../rooms/state.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod state;

libfuzzer_sys::fuzz_target!(init: panics::only_ours_abort(), |bytes: &[u8]| {
    state::label_join(bytes);
});
