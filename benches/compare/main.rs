//! The comparison: Aethyr Event Store beside what others use, with the same work on the same disk, and from one
//! run the report in `docs/benchmarks.md`.
//!
//!     cargo bench --bench compare
//!     cargo bench --bench compare -- --quick
//!     cargo bench --bench compare -- --only aethyr-local,umadb --work conditional-64 --seconds 10
//!
//! What is compared with is installed below the target folder at the first run, and so is all data kept there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark fails as a whole, and says what it did"
)]
#![allow(dead_code, reason = "not all that the tests share is needed here")]

mod load;
mod measure;
mod options;
mod peers;
mod plan;
mod process;
mod rows;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use load::Outcome;
use measure::appends::{self, Appends};
use options::Options;
use peers::Peers;
use plan::Plan;
use rows::{Row, System};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            println!("compare: {why}");
            return ExitCode::from(64);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    match local.block_on(&runtime, until_stopped(run(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("compare: FAILED: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// A signal ends the run as a problem does, so that what it started ends too.
async fn until_stopped(run: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tokio::select! {
        outcome = run => outcome,
        _ = terminate.recv() => Err("stopped".to_owned()),
        _ = interrupt.recv() => Err("stopped".to_owned()),
    }
}

/// Below cargo's target folder.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp").join("compare")
}

async fn run(options: &Options) -> Outcome<()> {
    let mut plan = if options.quick { Plan::quick() } else { Plan::full() };
    if let Some(seconds) = options.seconds {
        plan.round = Duration::from_secs_f64(seconds);
    }
    if let Some(rounds) = options.rounds {
        plan.rounds = rounds;
    }
    if !options.work.is_empty() {
        plan.works.clone_from(&options.work);
    }
    let rows = if options.only.is_empty() { Row::ALL.to_vec() } else { options.only.clone() };
    let folder = folder();
    peers::make_folder(&folder)?;
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_aethyr-event-store"));
    let peers = Peers::new(options.server.clone().unwrap_or_else(built), folder.clone());
    let mut systems = Vec::new();
    for row in rows {
        systems.push((row, System::start(row, &peers, &folder.join("data").join(row.key())).await?));
    }
    for work in plan.works {
        let mut prepared = Vec::new();
        for (row, system) in &systems {
            let mut appends = Appends::prepare(system, work).await?;
            appends.turn(system, plan.warm_up).await?;
            prepared.push((*row, system, appends));
        }
        for _ in 0..plan.rounds {
            for (row, system, appends) in &mut prepared {
                let turn = appends.turn(system, plan.round).await?;
                println!("{}", appends::describe(*row, work, &turn));
            }
        }
    }
    for (row, system) in &systems {
        println!("{:<20} {} bytes on disk", row.key(), system.disk_bytes());
    }
    Ok(())
}
