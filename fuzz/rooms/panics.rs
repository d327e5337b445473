//! Which panics end a run of a fuzzer.
//!
//! Libraries that read Arrow and Parquet panic over some damaged bytes; whoever calls them contains that and tells it as
//! damage. A fuzzer aborts at any panic, contained or not. Here only ours count; those of libraries that nobody contained
//! end the run as well, where they come out of the target.

use std::panic;

/// From now on a panic in this project's own code aborts, and one in a library goes on to whoever contains it.
pub fn only_ours_abort() {
    panic::set_hook(Box::new(|info| {
        let is_ours = |file: &str| file.contains("crates/tidemill") || file.contains("rooms/");
        if info.location().is_none_or(|location| is_ours(location.file())) {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}
