//! Measures a lower bound for the latency of an append by one caller: a synced write, and an empty
//! gRPC call.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    grpc::{Call, Connection, frame},
    outcome::Outcome,
    process::Process,
    statistics::{Percentiles, latencies},
};

/// The command line option that starts the empty server instead of a measurement.
pub const SERVE: &str = "--bare-server";
const LISTENING: &str = "listening on port ";
/// The bytes that an event with 256 bytes of data takes in the log.
const RECORD_BYTES: usize = 532;
const SPACE_BYTES: u64 = 64 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Floor {
    pub synced_write: Percentiles,
    pub empty_call: Percentiles,
}

/// A separate process that serves only `grpc.health.v1.Health`, the smallest service that tonic
/// provides.
pub struct BareServer {
    _process: Process,
    connection: Connection,
    check: Call,
}

impl BareServer {
    pub async fn start(folder: &Path) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let log = folder.join("bare-server.log");
        let mut process = Process::start("the bare server", Command::new(program).arg(SERVE), &log)?;
        let port = process.ready(async |process| {
            let log = process.log();
            log.lines().find_map(|line| line.strip_prefix(LISTENING)?.parse().ok())
        });
        let connection = Connection::open(port.await?).await?;
        Ok(Self { _process: process, connection, check: Call::new("/grpc.health.v1.Health/Check") })
    }

    /// Makes sequential calls for `length`.
    async fn call(&mut self, length: Duration) -> Outcome<Percentiles> {
        let mut all = latencies();
        let began = Instant::now();
        while began.elapsed() < length {
            let called = Instant::now();
            self.connection.ask(&self.check, frame(|_| ())).await?;
            all.saturating_record(called.elapsed().as_nanos() as u64);
        }
        Ok(Percentiles::of(&all))
    }

    pub async fn measure(&mut self, folder: &Path, length: Duration) -> Outcome<Floor> {
        let synced_write = synced_writes(folder, length / 2).map_err(|error| error.to_string())?;
        Ok(Floor { synced_write, empty_call: self.call(length / 2).await? })
    }
}

/// Serves until the process is terminated.
pub fn serve() -> Outcome<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let listener =
            tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        println!("{LISTENING}{}", address.port());
        let (_reporter, health) = tonic_health::server::health_reporter();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = Server::builder().add_service(health).serve_with_incoming(incoming);
        serving.await.map_err(|error| error.to_string())
    })
}

/// Makes sequential synced writes into preallocated space, as the log does.
fn synced_writes(folder: &Path, length: Duration) -> std::io::Result<Percentiles> {
    let path = folder.join("synced-writes");
    let file = File::create(&path)?;
    fallocate(&file, FallocateFlags::empty(), 0, SPACE_BYTES)?;
    file.sync_all()?;
    let mut all = latencies();
    let began = Instant::now();
    let offsets = (0..SPACE_BYTES - RECORD_BYTES as u64).step_by(RECORD_BYTES);
    for offset in offsets.take_while(|_| began.elapsed() < length) {
        let called = Instant::now();
        file.write_all_at(&[0x5a; RECORD_BYTES], offset)?;
        file.sync_data()?;
        all.saturating_record(called.elapsed().as_nanos() as u64);
    }
    std::fs::remove_file(path)?;
    Ok(Percentiles::of(&all))
}
