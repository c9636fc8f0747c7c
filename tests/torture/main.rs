//! The torture test: the real program and a real ImmuDB, clients that do everything, and faults
//! that overlap. Every call and answer goes into a history, from which a checker proves the
//! promises.
//!
//!     cargo test --test torture -- --seed 7 --seconds 60
//!
//! The same seed gives the same faults. A run that fails keeps its directory, with the history of
//! all calls, and prints the path. `Arguments` describes the other modes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it did"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

mod callers;
mod checker;
mod crowds;
mod faults;
mod full_load;
mod history;
mod late;
mod names;
mod power;
mod probe;
mod recovery;
mod stalls;
mod watch;
mod world;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use aethyr_test_support as support;
use callers::{Callers, Known};
use faults::Faults;
use probe::Probe;
use stalls::Stalls;
use watch::Watch;
use world::World;

/// What `cargo test` runs by default.
const SEED: u64 = 1;
const SECONDS: u64 = 60;
const CALLERS: u64 = 16;
const FOLLOWERS: u64 = 4;
/// A run of at least this many seconds reports what became of memory and other resources.
const LONG_RUN: u64 = 300;
/// More than the machine has processors: a fault that blocks for a moment holds up no other task.
const WORKERS: usize = 8;
/// The limit of memory, however many streams are unread and whatever is sent.
const MEBIBYTES_MAX: u64 = 768;
/// The limit of threads, however many clients there are.
const THREADS_MAX: u64 = 128;

/// The command line. Examples of the other modes:
///
///     cargo test --test torture -- --mostly "late answers"
///     cargo test --test torture -- --load --seconds 1800
///     cargo test --test torture -- --load --pace 5000 --followers 20 --callers 64 --seconds 1800
///     cargo test --test torture -- --late --seconds 60
///     cargo test --test torture -- --recovery --seconds 30 --runs 10
#[derive(Debug)]
struct Arguments {
    seed: u64,
    seconds: u64,
    /// The number of seeds, which run one after the other.
    runs: u64,
    callers: u64,
    /// For a load without faults.
    followers: u64,
    /// Appends per second of a load without faults; 0 for as many as possible.
    pace: u64,
    /// A fault that happens more often.
    mostly: Option<String>,
    /// Runs without faults, and checks what resources of the machine the service uses.
    load: bool,
    /// Runs only with late answers: ImmuDB answers late by several delays, for `seconds` each, and
    /// the waits of clients are checked.
    late: bool,
    /// Runs only with a full disk and then without free file descriptors, for `seconds` each and
    /// `runs` times each, and checks when appends are accepted again.
    recovery: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seed: SEED,
        seconds: SECONDS,
        runs: 1,
        callers: CALLERS,
        followers: FOLLOWERS,
        pace: 0,
        mostly: None,
        load: false,
        late: false,
        recovery: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let place = match word.as_str() {
            "--seed" => &mut arguments.seed,
            "--seconds" => &mut arguments.seconds,
            "--runs" => &mut arguments.runs,
            "--callers" => &mut arguments.callers,
            "--followers" => &mut arguments.followers,
            "--pace" => &mut arguments.pace,
            "--mostly" => {
                let fault = words.next().ok_or("--mostly wants a fault")?;
                if !faults::may_be_frequent(&fault) {
                    return Err(format!("{fault} is none of the faults that --mostly knows"));
                }
                arguments.mostly = Some(fault);
                continue;
            }
            "--load" => {
                arguments.load = true;
                continue;
            }
            "--late" => {
                arguments.late = true;
                continue;
            }
            "--recovery" => {
                arguments.recovery = true;
                continue;
            }
            // Passed by cargo to every test program.
            "--quiet" | "--nocapture" | "--include-ignored" => continue,
            // A filter for the tests of other programs.
            other if !other.starts_with('-') => return Err(format!("{other} is for other tests")),
            other => {
                return Err(format!(
                    "{other}: --seed N --seconds S --runs R --callers C --mostly FAULT --load --followers F --pace P --late --recovery are known"
                ));
            }
        };
        let value = words.next().and_then(|value| value.parse().ok());
        *place = value.ok_or(format!("{word} wants a number"))?;
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            println!("torture: nothing to do: {why}");
            return ExitCode::SUCCESS;
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
    let length = Duration::from_secs(arguments.seconds);
    let alone = if arguments.load {
        let Arguments { seed, callers, followers, pace, .. } = arguments;
        let load = full_load::Load { seed, length, callers, followers, pace };
        Some(("full load", runtime.block_on(full_load::run(load))))
    } else if arguments.late {
        Some(("late answers", runtime.block_on(late::run(length))))
    } else if arguments.recovery {
        Some(("recovery", runtime.block_on(recovery::run(arguments.seed, length, arguments.runs))))
    } else {
        None
    };
    match alone {
        Some((_, Ok(()))) => return ExitCode::SUCCESS,
        Some((what, Err(problems))) => {
            println!("torture: {what} FAILED\n{problems}");
            return ExitCode::FAILURE;
        }
        None => {}
    }
    let mut totals = Totals::default();
    for seed in arguments.seed..arguments.seed + arguments.runs {
        let outcome = runtime.block_on(run(seed, &arguments));
        if let Err(problems) = outcome.as_ref() {
            println!("torture: seed {seed} FAILED\n{problems}");
            return ExitCode::FAILURE;
        }
        totals.add(&outcome.unwrap());
    }
    println!("torture: {} seeds, {totals}", arguments.runs);
    // For tools that count tests by the last line.
    println!("torture: {} passed, 0 failed", arguments.runs);
    ExitCode::SUCCESS
}

/// The observations of one run, or of all runs.
#[derive(Debug, Default)]
struct Totals {
    faults: std::collections::BTreeMap<&'static str, u64>,
    calls: u64,
    acknowledged: u64,
    unknown: u64,
    conflicts: u64,
    longest_wait: Duration,
    most_waits: usize,
    long_waits: usize,
    excused_waits: usize,
    excused_time: Duration,
    time: Duration,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.calls += other.calls;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.conflicts += other.conflicts;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.most_waits = self.most_waits.max(other.most_waits);
        self.long_waits += other.long_waits;
        self.excused_waits += other.excused_waits;
        self.excused_time += other.excused_time;
        self.time += other.time;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults: u64 = self.faults.values().sum();
        write!(
            f,
            "{faults} faults {:?}, {} calls, {} events acknowledged, {} appends of unknown outcome, \
             {} conflicts, longest wait in an outage of ImmuDB {:.2} s, {} long ones, at most {} of a caller in one outage ({} more with the service down or the machine stalled, {:.0} % of the time)",
            self.faults,
            self.calls,
            self.acknowledged,
            self.unknown,
            self.conflicts,
            self.longest_wait.as_secs_f64(),
            self.long_waits,
            self.most_waits,
            self.excused_waits,
            100.0 * self.excused_time.as_secs_f64() / self.time.as_secs_f64()
        )
    }
}

async fn run(seed: u64, arguments: &Arguments) -> Result<Totals, String> {
    let began = Instant::now();
    let world = World::build(seed).await;
    let known = Arc::new(Known::default());
    let callers = Callers::start(&world, seed, arguments.callers, &known);
    let probe = Probe::start(&world);
    let stalls = Stalls::note(&world);
    let mut watch = Watch::new();
    let length = Duration::from_secs(arguments.seconds);
    let mut faults = tokio::select! {
        faults = Faults::run(&world, &known, seed, length, arguments.mostly.as_deref()) => faults,
        () = world.watch(&mut watch) => unreachable!("it watches forever"),
    };
    world.heal().await;
    let mut history = callers.end().await;
    history.add(probe.end().await);
    history.add(std::mem::take(&mut faults.history));
    let time = began.elapsed();
    faults.stalls = stalls.end().await;
    faults.service_down = world.downs();
    if let Some(peak) = watch.memory_peak().filter(|peak| *peak > MEBIBYTES_MAX) {
        history.violation("memory", format!("{peak} MiB"));
    }
    if let Some(peak) = watch.threads_peak().filter(|peak| *peak > THREADS_MAX) {
        history.violation("threads", format!("{peak} of them"));
    }
    let peaks = (watch.memory_peak().unwrap_or(0), watch.threads_peak().unwrap_or(0));
    let verdict = checker::check(&world, &history, &faults).await;
    if verdict.is_err() {
        std::fs::write(world.folder().join("history"), history.text()).unwrap();
    }
    world.end(verdict.is_err()).await;
    let mut totals = verdict.map_err(|problems| {
        let folder = world.folder().display();
        format!(
            "{}\nfaults: {:?}\nthe folder {folder} is kept; again: --seed {seed} --seconds {}",
            problems.join("\n"),
            faults.counts,
            arguments.seconds
        )
    })?;
    totals.time = time;
    println!(
        "torture: seed {seed}: {totals}, at most {} MiB and {} threads, no violation, {:.0} s",
        peaks.0,
        peaks.1,
        began.elapsed().as_secs_f64()
    );
    if arguments.seconds >= LONG_RUN {
        println!("{watch}");
    }
    Ok(totals)
}
