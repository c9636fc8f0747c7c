//! The whole service: assembles its parts, runs them, and stops them in order.
//!
//! It listens from the start. While the storage is being opened, calls are answered with the error
//! that the service is starting. A stop makes admitted writes durable, releases the head, and
//! records a clean stop if the log is sound. What each part does is left to its own module.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, runtime, sync::oneshot::error::RecvError, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    clock::EventClock,
    config::{self, Config, ImmudbConfig},
    event::Position,
    event_files::EventFiles,
    history::{History, HistoryError},
    immudb,
    index::WaitMode,
    log::{
        FolderOwner, Lock, LogId, OwnerFile, Tip,
        clean_stop::{self, Unclean},
    },
    replication::{
        BatchLimits, PendingLimits,
        forwarder::{Forwarder, ForwarderSettings},
        restore::RestoreMarker,
        state::State,
        status::ReplicationStatus,
    },
    sequencer::{self, Sequencer, SnapshotThresholds},
    stats::Counters,
    storage::{ReadOnly, Storage, StorageError},
    store::{EventSourcing, EventStore},
    telemetry, threads,
    world::{
        self, World,
        read_models::projections::{self, Projection},
        settings::{EventLimits, RawAppendPolicy, Shutdown},
    },
};

mod failure;
mod health;
mod listen;
mod opening;

use listen::Network;

/// Settings from the command line, or from a game's own program, in addition to the configuration.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The configuration file, for error messages.
    pub config_file: PathBuf,
    pub take_over: bool,
    /// The operator has confirmed that the clock is right.
    pub accept_clock: bool,
    /// Creates the projections that maintain the read models.
    pub projections: fn() -> Vec<Box<dyn Projection>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            config_file: PathBuf::new(),
            take_over: false,
            accept_clock: false,
            projections: projections::all,
        }
    }
}

/// The reason why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error("server: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the local log is an incomplete copy from ImmuDB, and no ImmuDB is configured (section immudb)")]
    UnfinishedCopy,
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("{0} panicked")]
    Panicked(&'static str),
    #[error("cannot write the local log: {0}; restart the service to find out what is stored")]
    LogFailed(String),
}

/// How the thread of the forwarder ended: with an error if it could not run.
type ForwarderEnd = Result<std::io::Result<()>, RecvError>;

/// The running parts of the service.
pub struct Components {
    pub store: Arc<EventStore>,
    log_id: Option<LogId>,
    event_files: Option<Arc<EventFiles>>,
    sequencer_thread: sequencer::SequencerThread,
    /// The directory of the log, or `None` if it cannot be written.
    log_path: Option<PathBuf>,
    last_stop: Result<(), Unclean>,
    forwarder: Option<JoinHandle<ForwarderEnd>>,
    tasks: TaskTracker,
    /// Ends subscriptions and the health reports.
    closing: CancellationToken,
    /// Ends the forwarder and the writer of event files.
    stopping: CancellationToken,
    /// Held until everything else has stopped.
    _locks: (Lock, [Option<FolderOwner>; 2], Option<ReadOnly>),
}

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
    let network = Network::new(&config);
    let served = network.serve(&config, listener)?;
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
        read_only_openings = match &opened {
            Ok(storage) if storage.read_only.is_some() => read_only_openings.saturating_add(1),
            Ok(_) | Err(_) => 0,
        };
        let mut parts = match opened.and_then(|storage| start(&config, &options, storage)) {
            Ok(parts) => parts,
            Err(error) => {
                network.close();
                // The reason why the service could not start matters more than an error of the
                // network.
                _ = Network::end(served, grace).await;
                return Err(error);
            }
        };
        let world = start_world(&config, &options, &parts);
        report(&config, &parts, &network);
        let broken = failure::of_parts(&mut parts, &config.event_sourcing);
        network.open(&config, &parts, world);
        let ended = tokio::select! {
            ended = &mut served => Some(ended.map_err(ServerError::from)),
            error = broken => {
                // Writes that wait for ImmuDB are already stored, so answer them before the
                // forwarder ends.
                parts.closing.cancel();
                network.close();
                _ = Network::end(&mut served, grace.min(FAILURE_GRACE)).await;
                Some(Err(error))
            }
            () = opening::until_writable(config.event_sourcing.clone(), read_only_openings) => None,
            () = &mut shutdown => {
                info!("shutting down");
                parts.closing.cancel();
                network.close();
                Some(Network::end(&mut served, grace).await)
            }
        };
        match ended {
            Some(_) => network.close(),
            None => {
                // Stop the health reports first, so that `leave` makes the last one.
                parts.closing.cancel();
                network.leave();
            }
        }
        stop(parts, grace).await;
        if let Some(ended) = ended {
            return ended;
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

fn start_world(config: &Config, options: &ServerOptions, parts: &Components) -> Option<Arc<World>> {
    if !config.world.enabled {
        return None;
    }
    let settings = world::settings::WorldSettings {
        read_models_path: config.world.read_models_path.clone(),
        read_models_wal_max: config.world.read_models_wal_max as u64,
        log_id: parts.log_id.map(|id| id.to_string()),
        events: EventLimits {
            event_bytes_max: config.limits.event_bytes_max,
            append_bytes_max: config.limits.append_bytes_max,
            append_events_max: config.limits.append_events_max,
        },
        raw_appends: match config.world.raw_appends {
            config::RawAppends::Checked => RawAppendPolicy::Checked,
            config::RawAppends::Refused => RawAppendPolicy::Refused,
            config::RawAppends::Unchecked => RawAppendPolicy::Unchecked,
        },
        states_path: config.world.states_path.clone(),
    };
    let Components { tasks, closing, stopping, .. } = parts;
    let shutdown = Shutdown { tasks: tasks.clone(), closing: closing.clone(), stopping: stopping.clone() };
    Some(World::start(parts.store.clone(), &settings, (options.projections)(), shutdown))
}

/// Starts everything except the server on the network.
///
/// # Errors
/// Returns an error if the log cannot be read, if its restore from ImmuDB is unfinished and no
/// ImmuDB is configured, or if a thread cannot be started.
pub fn start(config: &Config, options: &ServerOptions, storage: Storage) -> Result<Components, ServerError> {
    let history = storage.history();
    let last_stop = opening::take_note_of_clean_stop(config, &storage);
    let replication = Arc::new(replication(config, &storage, last_stop)?);
    let complete = storage.index.complete();
    let newest = (complete.tip.position > Position(0)).then_some(complete.recorded_at);
    let clock = EventClock::start(config.event_sourcing.clock_jump_max, newest, options.accept_clock);
    let Storage { lock, log, index, index_owner, log_id, read_only, .. } = storage;
    let admission = {
        let replication = replication.clone();
        Arc::new(move |tip: Tip| replication.admit_write(tip))
    };
    let counters = Arc::new(Counters::default());
    let (sequencer, sequencer_thread) = Sequencer::start(
        log,
        index,
        sequencer_settings(config, read_only.as_ref(), clock),
        admission,
        counters.clone(),
    )
    .map_err(|source| ServerError::Io { what: "cannot start a thread", source })?;
    let (tasks, closing, stopping) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let immudb = config.immudb.as_ref().filter(|_| read_only.is_none());
    let forwarder = immudb.map(|immudb| {
        let settings = forwarder_settings(config, immudb, options);
        let (replication, sequencer) = (replication.clone(), sequencer.clone());
        // Clients wait for the other work of this thread, so it must not rebuild index files
        // itself.
        let history = History { wait_mode: WaitMode::AtOnce, ..history.clone() };
        let forwarder = Forwarder::new(settings, replication, sequencer, history, stopping.clone());
        start_forwarder(forwarder, &tasks)
            .map_err(|source| ServerError::Io { what: "cannot start a thread", source })
    });
    let forwarder = forwarder.transpose()?;
    let files_owner = match read_only {
        Some(_) => None,
        None => claim_event_files(config, log_id),
    };
    let event_files = match &files_owner {
        Some(_) => start_event_files(config, &replication, &sequencer, &history, &tasks, &stopping),
        None => None,
    };
    let event_sourcing = if config.event_sourcing.enabled {
        EventSourcing::Enabled
    } else {
        EventSourcing::Disabled { file: options.config_file.display().to_string() }
    };
    let store = Arc::new(EventStore::new(sequencer, replication, history, counters, event_sourcing));
    let log_path = read_only.is_none().then(|| config.event_sourcing.log_path.clone());
    Ok(Components {
        store,
        log_path,
        last_stop,
        log_id,
        event_files,
        sequencer_thread,
        forwarder,
        tasks,
        closing,
        stopping,
        _locks: (lock, [index_owner, files_owner], read_only),
    })
}

/// Runs the forwarder on its own thread, so that the next transaction does not queue behind the
/// answers to the clients whose events the last one contained.
fn start_forwarder(forwarder: Forwarder, tasks: &TaskTracker) -> std::io::Result<JoinHandle<ForwarderEnd>> {
    let abandoned = CancellationToken::new();
    let kept = abandoned.clone().drop_guard();
    let (_, end) = threads::spawn("forwarder", move || {
        // Built here, because a runtime must not be dropped where another one runs.
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        _ = runtime.block_on(abandoned.run_until_cancelled(forwarder.run()));
        Ok(())
    })?;
    Ok(tasks.spawn(async move {
        let _kept = kept;
        end.await
    }))
}

/// Claims the directory of the event files. If it belongs to another log, its files are not
/// touched, and the service runs without event files.
fn claim_event_files(config: &Config, log_id: Option<LogId>) -> Option<FolderOwner> {
    const STORAGE_PATH: &str = "event_sourcing.storage_path";
    if !config.event_sourcing.event_files {
        return None;
    }
    let folder = &config.event_sourcing.storage_path;
    // If there are no event files left, it does not matter which log the directory belonged to.
    let none_left = EventFiles::are_none(&config.event_sourcing);
    match FolderOwner::claim(folder, OwnerFile::Beside, log_id.filter(|_| !none_left), STORAGE_PATH) {
        Ok(mut owner) => {
            if let Some(id) = log_id {
                owner.name(id);
            }
            Some(owner)
        }
        Err(error) => {
            error!(%error, "event files are disabled");
            None
        }
    }
}

fn start_event_files(
    config: &Config,
    replication: &Arc<ReplicationStatus>,
    sequencer: &Sequencer,
    history: &History,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Option<Arc<EventFiles>> {
    let tip = sequencer.watch_tip();
    let (files, ended) = EventFiles::start(
        &config.event_sourcing,
        history.clone(),
        replication.clone(),
        tip,
        stopping.clone(),
    );
    tasks.spawn(ended);
    Some(files)
}

fn replication(
    config: &Config,
    storage: &Storage,
    last_stop: Result<(), Unclean>,
) -> Result<ReplicationStatus, ServerError> {
    let complete = storage.index.complete();
    let limits = PendingLimits {
        events_max: config.limits.pending_events_max,
        bytes_max: config.limits.pending_bytes_max,
        segment_bytes_max: config.event_sourcing.segment_bytes_max,
    };
    let unfinished = RestoreMarker::new(&config.event_sourcing.log_path).exists();
    let state = match (&config.immudb, unfinished) {
        (None, true) => return Err(ServerError::UnfinishedCopy),
        (None, false) => State::LocalOnly,
        (Some(_), true) => State::Copying,
        // ImmuDB cannot be claimed without writing a file.
        (Some(_), false) if storage.read_only.is_some() => State::Fallback,
        (Some(_), false) => State::Starting,
    };
    let contact_missing = opening::needs_contact(config, storage, last_stop);
    let forwarded = complete.forwarded.position.min(complete.tip.position);
    let place = storage.history().locate(forwarded, complete.tip)?.append_end;
    Ok(ReplicationStatus::new(state, complete.forwarded, place, contact_missing, limits))
}

fn sequencer_settings(
    config: &Config,
    read_only: Option<&ReadOnly>,
    clock: EventClock,
) -> sequencer::SequencerSettings {
    let events = &config.event_sourcing;
    sequencer::SequencerSettings {
        folder: events.log_path.clone(),
        thresholds: SnapshotThresholds {
            default: events.snapshot_threshold,
            by_type: events.snapshot_thresholds.clone(),
            by_id: events.snapshot_thresholds_by_id.clone(),
        },
        calls_waiting_max: config.limits.calls_waiting_max,
        calls_waiting_bytes_max: config.limits.calls_waiting_bytes_max as u64,
        disk_free_min: config.limits.disk_free_min,
        clock: Arc::new(clock),
        in_doubt: read_only.map(|read_only| read_only.in_doubt.clone()).unwrap_or_default(),
    }
}

/// Returns the settings for connecting to ImmuDB. Also used by commands other than `serve`.
pub fn immudb_settings(immudb: &ImmudbConfig) -> immudb::SessionSettings {
    immudb::SessionSettings {
        address: immudb.address.clone(),
        port: immudb.port,
        username: immudb.username.clone(),
        password: immudb.password.clone(),
        database: immudb.database.clone(),
        connect_timeout: immudb.connect_timeout,
        request_timeout: immudb.request_timeout,
        response_bytes_max: immudb.response_bytes_max,
    }
}

fn forwarder_settings(config: &Config, immudb: &ImmudbConfig, options: &ServerOptions) -> ForwarderSettings {
    ForwarderSettings {
        immudb: immudb_settings(immudb),
        folder: config.event_sourcing.log_path.clone(),
        take_over: options.take_over,
        retry_count: immudb.retry_count,
        retry_delay: immudb.retry_delay,
        retry_delay_max: immudb.retry_delay_max,
        fallback_after: immudb.fallback_after,
        keep_alive: immudb.keep_alive,
        batch: BatchLimits { keys_max: immudb.batch_keys_max, bytes_max: immudb.batch_bytes_max },
    }
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
