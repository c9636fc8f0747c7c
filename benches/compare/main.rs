//! Compares Aethyr Event Store with other event stores, with the same workloads on the same disk,
//! and generates the report in `docs/benchmarks.md`.
//!
//!     cargo bench --bench compare
//!     cargo bench --bench compare -- --quick
//!     cargo bench --bench compare -- --only aethyr-local,umadb --work conditional-64 --seconds 10
//!
//! The first run installs the other systems below cargo's target directory. All data is stored
//! there, too.
//!
//! The modules, from top to bottom. A module uses only those below it:
//!
//! - [`comparison`] runs one part after the other, and [`report`] writes the page.
//! - [`options`] are those of the command line. A [`plan`] has the parts and their lengths.
//! - [`results`] stores what was measured.
//! - [`measure`] has the measurements, and [`load`] the callers that make the calls.
//! - [`systems`] starts the servers of the compared systems, and has a client for each.
//! - [`peers`] installs their programs, [`process`] runs them, and [`machine`] describes where.
//! - [`grpc`] is the client that all systems with a gRPC API share.
//! - [`row`], [`work`], [`draft`], [`supply`], [`statistics`] and [`outcome`] are values that the
//!   others share.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark panics on errors and prints its progress"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

mod comparison;
mod draft;
mod grpc;
mod load;
mod machine;
mod measure;
mod options;
mod outcome;
mod peers;
mod plan;
mod process;
mod report;
mod results;
mod row;
mod statistics;
mod supply;
mod systems;
mod work;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
};

use aethyr_test_support as support;
use comparison::Comparison;
use measure::floor;
use options::Options;
use outcome::Outcome;
use results::Results;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == floor::SERVE) {
        return ended(floor::serve());
    }
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            println!("compare: {why}");
            return ExitCode::from(64);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    ended(local.block_on(&runtime, until_stopped(run(&options))))
}

fn ended(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("compare: FAILED: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Ends the run with an error at a signal, so that the processes that it started are stopped, too.
async fn until_stopped(run: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tokio::select! {
        outcome = run => outcome,
        _ = terminate.recv() => Err("stopped".to_owned()),
        _ = interrupt.recv() => Err("stopped".to_owned()),
    }
}

/// Returns the directory of the comparison, below cargo's target directory.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp").join("compare")
}

async fn run(options: &Options) -> Outcome<()> {
    let folder = folder();
    peers::make_folder(&folder)?;
    let saved = folder.join("results.json");
    if options.report {
        return report::write(&Results::read(&saved)?);
    }
    machine::refuse_ram_disk(&folder)?;
    // Concurrent runs would delete each other's stores and distort the measurements.
    let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    lock.try_lock().map_err(|_| "another run uses this target directory".to_owned())?;
    let results = Comparison::new(options, &folder)?.run().await?;
    if options.partial() {
        println!("compare: only a part was measured; no report was written");
        return Ok(());
    }
    results.write(&saved)?;
    report::write(&results)
}
