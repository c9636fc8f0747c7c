//! The program's entry point.
//!
//! Everything else is in the library.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Unlike glibc's arenas, jemalloc returns memory to the system after many concurrent calls.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    aethyr_event_store::cli::main()
}
