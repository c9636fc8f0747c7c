//! The whole service: assembles its parts, runs them, and stops them in order.
//!
//! It listens from the start. While the storage is being opened, calls are answered with the error
//! that the service is starting. A stop makes admitted writes durable, releases the head, and
//! records a clean stop if the log is sound. What each part does is left to its own module.

use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{config::Config, log::clean_stop, telemetry};

mod components;
mod error;
mod failure;
mod health;
mod listen;
mod opening;
mod proofs;
pub mod settings;

pub use components::Components;
pub use error::ServerError;
use listen::Network;
pub use settings::ServerOptions;

/// How long calls in progress may continue after a part of the service has failed. They may be
/// waiting for the part that failed.
const FAILURE_GRACE: Duration = Duration::from_secs(2);

/// Serves on `listener` until `shutdown` resolves. While the storage is being opened, calls are
/// answered with the error that the service is starting.
///
/// # Errors
/// Returns an error if the storage cannot be opened, or if the server or one of its parts fails.
pub async fn run(
    config: Config,
    options: ServerOptions,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let grace = config.server.shutdown_grace;
    let network = Network::new(settings::transport(&config), settings::game_world(&config));
    let served = network.serve(listener)?;
    tokio::pin!(served, shutdown);
    let mut read_only_openings = 0u32;
    loop {
        let opening = opening::open(&config, network.closing());
        tokio::pin!(opening);
        let opened = tokio::select! {
            ended = &mut served => return Ok(ended?),
            opened = &mut opening => opened,
            () = &mut shutdown => {
                info!("shutting down while the storage is being opened");
                network.close();
                let opened = tokio::time::timeout(grace, opening);
                let (ended, _) = tokio::join!(Network::end(served, grace), opened);
                info!("stopped");
                return ended;
            }
        };
        let is_read_only = opened.as_ref().is_ok_and(|storage| storage.read_only.is_some());
        read_only_openings = if is_read_only { read_only_openings.saturating_add(1) } else { 0 };
        let mut parts = match opened.and_then(|storage| Components::start(&config, &options, storage)) {
            Ok(parts) => parts,
            Err(error) => {
                network.close();
                // The reason why the service could not start matters more than an error of the
                // network.
                _ = Network::end(served, grace).await;
                return Err(error);
            }
        };
        let world = parts.start_world(&config, &options);
        report(&config, &parts, &network);
        let broken = failure::of_parts(&mut parts, config.event_sourcing.log_failure_grace);
        network.open(parts.services(&config, world, network.bounds()));
        let ended = tokio::select! {
            ended = &mut served => Some(ended.map_err(ServerError::from)),
            error = broken => {
                // Writes that wait for ImmuDB are already stored, so answer them before the
                // forwarder ends.
                close(&parts, &network);
                _ = Network::end(&mut served, grace.min(FAILURE_GRACE)).await;
                Some(Err(error))
            }
            () = opening::until_writable(config.event_sourcing.log_path.clone(), read_only_openings) => None,
            () = &mut shutdown => {
                info!("shutting down");
                close(&parts, &network);
                Some(Network::end(&mut served, grace).await)
            }
        };
        let Some(ended) = ended else {
            // Stop the health reports first, so that `leave` makes the last one.
            parts.closing.cancel();
            network.leave();
            stop(parts, grace).await;
            continue;
        };
        network.close();
        stop(parts, grace).await;
        return ended;
    }
}

/// Starts the reports on the runtime and on health, which last as long as the parts run.
fn report(config: &Config, parts: &Components, network: &Network) {
    let closing = parts.closing.clone();
    parts.tasks.spawn(async move { closing.run_until_cancelled(telemetry::report_runtime()).await });
    let log_path = config.event_sourcing.log_path.clone();
    let health = health::watch(parts.store.clone(), network.health.clone(), log_path);
    let closing = parts.closing.clone();
    parts.tasks.spawn(async move { closing.run_until_cancelled(health).await });
}

/// Stops accepting calls, and ends those that do not end by themselves.
fn close(parts: &Components, network: &Network) {
    parts.closing.cancel();
    network.close();
}

/// Stops the service. The forwarder ends after its transaction and releases the head; then the log
/// is closed.
pub async fn stop(parts: Components, grace: Duration) {
    let Components { store, sequencer_thread, log_path, last_stop, tasks, closing, stopping, .. } = parts;
    store.replication().shut_down();
    closing.cancel();
    // Writes that are already admitted are durable before the head is released, or count as
    // pending.
    store.sequencer().drain().await;
    stopping.cancel();
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        warn!("background tasks did not finish within server.shutdown_grace");
    }
    store.sequencer().stop().await;
    // Do not record a clean stop for a log that may be an older copy, or the next start would trust
    // it.
    let is_the_log = last_stop.is_ok() || store.replication().was_contacted();
    let log_is_sound = is_the_log && store.sequencer().poisoned().is_none();
    let joined = tokio::task::spawn_blocking(move || {
        if sequencer_thread.join()
            && log_is_sound
            && let Some(log_path) = log_path
            && let Err(error) = clean_stop::note(&log_path)
        {
            warn!(%error, "cannot record the clean stop; the next start treats it as a crash");
        }
    });
    if joined.await.is_err() {
        warn!("the sequencer thread did not stop cleanly");
    }
    info!("stopped");
}
