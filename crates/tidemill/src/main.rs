//! The `tidemill` program.

mod allocator;

use std::{
    hash::{BuildHasher, Hasher},
    process::ExitCode,
};

use tidemill_base::Scatter;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    allocator::give_back_soon();
    tidemill_base::contained::keep_contained_panics_quiet();
    secret().set_of_process();
    tidemill::cli::main()
}

/// Where keys stand in tables, drawn anew by every process: nothing that is computed depends on it.
#[expect(
    clippy::disallowed_types,
    reason = "it is not a hasher here, but where the standard library has random numbers"
)]
fn secret() -> Scatter {
    let drawn = || std::hash::RandomState::new().build_hasher().finish();
    Scatter::new(drawn(), drawn())
}
