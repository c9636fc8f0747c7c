//! The program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    aethyr_event_store::cli::main()
}
