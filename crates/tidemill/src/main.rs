//! The `tidemill` program.

mod purge;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    purge::give_back_soon();
    tidemill::cli::main()
}
