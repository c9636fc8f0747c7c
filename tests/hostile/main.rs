//! Hostile clients on the wire: the real program, and attackers that send what no honest client
//! would, never finish, never read, or come in crowds. Honest clients are served all the while.
//!
//!     cargo test --test hostile -- --requests 1000000 --connections 10000 --seed 1
//!
//! The test decides what must hold, not how fast it is: its deadlines only find what hangs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it did"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

mod calls;
mod crowd;
mod floods;
mod frames;
mod greed;
mod honest;
mod messages;
mod raw;
mod report;
mod slow;
mod unread;
mod world;

use std::{process::ExitCode, time::Duration};

use aethyr_test_support as support;
use report::Report;
use support::service::{Service, Setup};

/// What `cargo test` runs by default.
const SEED: u64 = 1;
const REQUESTS: u64 = 20_000;
const CONNECTIONS: u64 = 1000;

/// From this many connections on, the limits are the defaults, or larger.
const FULL: u64 = 5000;

/// Longer than anything here may take, and shorter than the patience of the test's user.
pub const HANG: Duration = Duration::from_secs(120);

/// The target of the attacks, and their size.
#[derive(Debug, Clone)]
pub struct Target {
    pub port: u16,
    pub seed: u64,
    pub requests: u64,
    pub connections: u64,
    /// The value of `server.first_call_max` and `request_max`; `unread_max` is a little longer.
    pub patience: Duration,
}

impl Target {
    pub fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    pub fn calls_max(&self) -> u64 {
        self.connections * 2
    }

    pub fn call_bytes_max(&self) -> usize {
        if self.connections < FULL { 128 << 20 } else { 384 << 20 }
    }

    /// The most memory that the service may ever hold: its own and what the allocator keeps, the
    /// bytes of calls, and a little for every connection.
    pub fn resident_max(&self) -> u64 {
        const OWN: u64 = 256 << 20;
        const CONNECTION: u64 = 12 << 10;
        OWN + self.call_bytes_max() as u64 + self.connections * CONNECTION
    }

    /// Longer than a read waits for bytes, so that such reads are refused before their connections
    /// are closed.
    pub fn unread_max(&self) -> Duration {
        self.patience + Duration::from_secs(2)
    }

    pub fn streams_max(&self) -> u64 {
        self.connections / 10
    }

    /// Returns the limits in the proportions of the defaults. With 10 000 connections they are
    /// exactly the defaults.
    fn setup(&self) -> Setup {
        let seconds = self.patience.as_secs_f64();
        Setup::local()
            .set("server", &format!("first_call_max: {seconds}"))
            .set("server", &format!("request_max: {seconds}"))
            .set("server", &format!("unread_max: {}", self.unread_max().as_secs_f64()))
            .set("limits", &format!("connections_max: {}", self.connections))
            .set("limits", &format!("concurrent_calls_max: {}", self.calls_max()))
            .set("limits", &format!("streams_open_max: {}", self.streams_max()))
            .set("limits", &format!("call_bytes_max: {}", self.call_bytes_max()))
    }
}

fn target() -> Result<Target, String> {
    let patience = Duration::from_millis(1500);
    let mut target = Target { port: 0, seed: SEED, requests: REQUESTS, connections: CONNECTIONS, patience };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let place = match word.as_str() {
            "--seed" => &mut target.seed,
            "--requests" => &mut target.requests,
            "--connections" => &mut target.connections,
            // Passed by cargo to every test program.
            "--quiet" | "--nocapture" | "--include-ignored" => continue,
            // A filter for the tests of other programs.
            other if !other.starts_with('-') => return Err(format!("{other} is for other tests")),
            other => return Err(format!("{other}: --requests N --connections C --seed S are known")),
        };
        let value = words.next().and_then(|value| value.parse().ok());
        *place = value.ok_or(format!("{word} wants a number"))?;
    }
    target.connections = target.connections.max(100);
    // A crowd takes longer to gather.
    if target.connections >= FULL {
        target.patience = Duration::from_secs(10);
    }
    Ok(target)
}

fn main() -> ExitCode {
    let target = match target() {
        Ok(target) => target,
        Err(why) => {
            println!("hostile: nothing to do: {why}");
            return ExitCode::SUCCESS;
        }
    };
    crowd::raise_file_limit(target.connections);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let attacks = runtime.block_on(run(target));
    // For tools that count tests by the last line.
    println!("hostile: {attacks} passed, 0 failed");
    ExitCode::SUCCESS
}

async fn run(mut target: Target) -> u64 {
    use Allowed::{Nothing, Refusals};
    let service = Service::start(target.setup()).await;
    target.port = service.port();
    let mut report = Report::begin(service, target.resident_max()).await;
    report.attack("bytes that are no HTTP/2", Nothing, raw::run(&target)).await;
    report.attack("calls that are no gRPC", Nothing, calls::run(&target)).await;
    report.attack("messages of 64 MiB", Nothing, calls::oversized(&target)).await;
    report.attack("connections that say nothing", Nothing, crowd::silent(&target)).await;
    report.attack("connections that never call", Nothing, crowd::idle(&target)).await;
    report.attack("a byte at a time", Nothing, slow::run(&target)).await;
    report.attack("large requests half sent", Nothing, floods::half_sent(&target)).await;
    report.attack("appends over the limits", Nothing, floods::appends(&target)).await;
    report.attack("more streams than a connection has", Refusals, floods::streams(&target)).await;
    report.attack("more calls than may run", Refusals, floods::calls(&target)).await;
    report.attack("the game world's calls", Refusals, world::run(&target)).await;
    report.fill_for_readers().await;
    report.attack("more subscriptions than may be open", Refusals, unread::subscriptions(&target)).await;
    report.attack("answers unread, windows shut", Refusals, unread::shut(&target)).await;
    report.attack("answers unread, windows open a little", Refusals, unread::narrow(&target)).await;
    report.attack("sockets unread", Refusals, unread::sockets(&target)).await;
    report.attack("large frames unread", Refusals, greed::large_frames(&target)).await;
    report.attack("subscriptions unread", Refusals, greed::subscriptions(&target)).await;
    report.attack("differences unread", Refusals, greed::differences(&target)).await;
    report.attack("reads asked for and given up", Refusals, greed::resets(&target)).await;
    report.attack("messages read a little at a time", Refusals, greed::slow_readers(&target)).await;
    report.attack("known ids", Refusals, greed::known_ids(&target)).await;
    report.end().await
}

/// What may happen to honest clients during an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    Nothing,
    /// The attack uses up a limit that all clients share; the answer names it.
    Refusals,
}
