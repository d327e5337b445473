//! The `tidemill` program.

mod allocator;
mod purge;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    purge::give_back_soon();
    tidemill::cli::main()
}
