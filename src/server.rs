//! The whole service: assembles its parts, runs them, and stops them in order.
//!
//! It listens from the start. While the storage is being opened, calls are answered with the error
//! that the service is starting. A stop makes admitted writes durable, releases the head, and
//! records a clean stop if the log is sound. What each part does is left to its own module.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    access::{AccessControl, Policy},
    access_log::{AccessLog, AccessLogGuard},
    config::Config,
    event::time,
    grpc::{CertificateEnd, transport::accept::TlsSettings},
    log::clean_stop,
    replication::state::State,
    retry::RetryDelays,
    telemetry,
    world::{World, commands::handler::reserving::ReservingError},
};

mod bind;
mod components;
mod error;
mod failure;
mod health;
mod listen;
mod opening;
mod proofs;
mod reload;
pub mod settings;
mod tls;

pub use bind::{BindError, bind};
pub use components::Components;
pub use error::ServerError;
use listen::Network;
use reload::{PolicyReload, Reload, TlsReload, Versions};
pub use settings::{ReloadSignal, ServerOptions};
pub use tls::TlsError;
use tls::{Tls, TlsWatch};

pub use crate::grpc::transport::listeners::Listeners;

/// How long calls in progress may continue after a part of the service has failed. They may be
/// waiting for the part that failed.
const FAILURE_GRACE: Duration = Duration::from_secs(2);

/// How long the services stay unavailable while nothing is known of ImmuDB, if names of players are
/// to be reserved.
const STATE_UNKNOWN_MAX: Duration = Duration::from_secs(30);

/// The first and the longest delay before names of players are reserved again.
const NAMES_RETRIED_AFTER: Duration = Duration::from_secs(1);
const NAMES_RETRIED_AFTER_MAX: Duration = Duration::from_secs(60);

/// Serves on `listeners` until `shutdown` resolves. While the storage is being opened, calls are
/// answered with the error that the service is starting.
///
/// # Errors
/// Returns an error if the files of access control or TLS cannot be used, if the storage cannot be
/// opened, or if the server or one of its parts fails.
pub async fn run(
    config: Config,
    options: ServerOptions,
    listeners: impl Into<Listeners>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let grace = config.server.shutdown_grace;
    let Front { control, tls, certificate_end, reload, access_log, log_guard: _log_guard } = front(&config)?;
    let (transport, game_world) = (settings::transport(&config), settings::game_world(&config));
    let network = Network::new(transport, game_world, control, access_log);
    let served = network.serve(listeners.into(), tls)?;
    let _reload = AbortOnDropHandle::new(tokio::spawn(reload.run(options.reload.clone())));
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
        let mut parts = match opened
            .and_then(|storage| Components::start_for(&config, &options, network.clients(), storage))
        {
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
        let broken = failure::of_parts(&mut parts, config.event_sourcing.log_failure_grace);
        let services = parts.services(&config, world.clone(), network.bounds(), certificate_end.clone());
        // Not before the services are open, so that a service that is serving accepts calls.
        let opened = || {
            network.open(services);
            report(&config, &parts, &network);
        };
        let broken = first_of(broken, open(opened, world));
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

/// Returns the first reason to end.
async fn first_of(
    broken: impl Future<Output = ServerError>,
    opening: impl Future<Output = ServerError>,
) -> ServerError {
    tokio::select! {
        error = broken => error,
        error = opening => error,
    }
}

/// Calls `open` to make the services available. If names of players are to be unique, they are
/// reserved before that, or as soon as that is possible. Resolves only if the first attempt finds
/// players that share a name: what is found later ends no service that is running.
async fn open(open: impl FnOnce(), world: Option<Arc<World>>) -> ServerError {
    let Some(world) = world.filter(|world| !world.player_names_are_reserved()) else {
        open();
        return std::future::pending().await;
    };
    let mut state = world.source().store.replication().watch_state();
    // Until then, no data is accepted or served, and it is not known which players there are. The
    // state is gone only if the store is.
    let is_known = |state: &State| !matches!(state, State::Starting | State::Copying);
    let mut open = Some(open);
    if tokio::time::timeout(STATE_UNKNOWN_MAX, state.wait_for(is_known)).await.is_err() {
        // The statistics say what the service is waiting for.
        if let Some(open) = open.take() {
            open();
        }
        _ = state.wait_for(is_known).await;
    }
    let mut reserved = world.reserve_player_names().await;
    if let Err(ReservingError::Shared(shared)) = reserved {
        return shared.into();
    }
    if let Some(open) = open {
        open();
    }
    let mut delays = RetryDelays::new(NAMES_RETRIED_AFTER, NAMES_RETRIED_AFTER_MAX);
    let mut told = String::new();
    while let Err(error) = reserved {
        if error.is_final() {
            info!(%error, "names of players are not reserved, and cannot change");
            break;
        }
        let why = error.to_string();
        if why != told {
            warn!(%error, "names of players are not reserved yet; they cannot change until then");
            told = why;
        }
        tokio::select! {
            () = tokio::time::sleep(delays.next_delay()) => {}
            // Another state may be the one that takes writes.
            Ok(()) = state.changed() => {}
        }
        reserved = world.reserve_player_names().await;
    }
    std::future::pending().await
}

/// Who may connect and call.
struct Front {
    control: AccessControl,
    /// `None`: connections are not encrypted.
    tls: Option<TlsSettings>,
    certificate_end: Option<CertificateEnd>,
    reload: Reload,
    access_log: AccessLog,
    log_guard: Option<AccessLogGuard>,
}

/// Reads the files of access control and of TLS.
fn front(config: &Config) -> Result<Front, ServerError> {
    let (file, files) = (config.access.file.as_deref(), settings::tls(&config.server));
    // Before the files are read, so that a change meanwhile is noticed later.
    let versions = Versions::of(file, files.as_ref());
    let settings = settings::access(config);
    let policy = Policy::load(file, &settings)?;
    if settings.allow_cleartext && !policy.is_off() {
        warn!("access.allow_cleartext: tokens are accepted over unencrypted connections");
    }
    for warning in policy.warnings(&settings) {
        warn!("{warning}");
    }
    let (access_log, log_guard) = open_access_log(config, &policy);
    let (sender, control) = AccessControl::channel(policy);
    let policy = file.map(|file| PolicyReload { file: file.to_owned(), settings, policy: sender });
    let (mut tls, mut certificate_end, mut of_tls) = (None, None, None);
    if let Some(files) = files {
        let present = Tls::load(&files)?;
        let valid_until = time::format(present.valid_until);
        info!(certificate = %files.certificate.display(), valid_until, "TLS on all TCP addresses");
        let (config, configs) = watch::channel(present.config.clone());
        let (valid_until, watch) = TlsWatch::channel(present.valid_until);
        tls = Some(configs);
        certificate_end = Some(CertificateEnd::new(move || watch.valid_until()));
        of_tls = Some(TlsReload { files, present, config, valid_until });
    }
    let reload = Reload::new(policy, of_tls, versions, access_log.clone());
    Ok(Front { control, tls, certificate_end, reload, access_log, log_guard })
}

/// Opens the access log, if callers are asked who they are.
fn open_access_log(config: &Config, policy: &Policy) -> (AccessLog, Option<AccessLogGuard>) {
    if policy.is_off() {
        return (AccessLog::default(), None);
    }
    match AccessLog::open(settings::access_log(config)) {
        Ok((log, guard)) => (log, Some(guard)),
        Err(error) => {
            warn!(%error, "cannot start the thread of the access log; there is no access log");
            (AccessLog::default(), None)
        }
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
