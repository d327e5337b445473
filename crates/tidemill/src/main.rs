//! The `tidemill` program.

mod allocator;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    allocator::give_back_soon();
    tidemill_base::contained::keep_contained_panics_quiet();
    tidemill::cli::main()
}
