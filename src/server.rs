//! The whole service: put together, run, and taken down again in order.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use tokio::{
    net::TcpListener,
    runtime,
    sync::oneshot::{self, error::RecvError},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    clock::EventClock,
    config::{self, Config, ImmudbConfig},
    event::Position,
    event_files::EventFiles,
    forwarder::{BatchLimits, Forwarder, PendingLimits, Settings, Standing, State, copy::Unfinished},
    history::{History, HistoryError},
    immudb,
    index::Patience,
    log::{
        FolderOwner, Lock, LogId, OwnerFile, Tip,
        clean_stop::{self, Unclean},
    },
    sequencer::{self, Sequencer, SnapshotThresholds},
    stats::Counters,
    storage::{ReadOnly, Storage, StorageError},
    store::{EventSourcing, EventStore},
    telemetry,
    world::{
        self, Ends, World,
        handler::RawAppends,
        planning::EventLimits,
        projections::{self, Projection},
    },
};

mod connections;
mod failure;
mod health;
mod network;
mod opening;

use network::Network;

/// What the command line, or a game's own program, adds to the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file that errors name.
    pub config_file: PathBuf,
    pub take_over: bool,
    /// A person has said that the clock is right.
    pub accept_clock: bool,
    /// Makes the projections that keep the read models.
    pub projections: fn() -> Vec<Box<dyn Projection>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config_file: PathBuf::new(),
            take_over: false,
            accept_clock: false,
            projections: projections::all,
        }
    }
}

/// Why the service can't run.
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
    #[error(
        "the local log is an unfinished copy of what ImmuDB has, and the configuration has no section immudb"
    )]
    UnfinishedCopy,
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("{0} panicked")]
    Panicked(&'static str),
    #[error("the local log can't be written: {0}; a start finds out what is stored")]
    LogFailed(String),
}

/// The parts that run.
pub struct Parts {
    pub store: Arc<EventStore>,
    log_id: Option<LogId>,
    event_files: Option<Arc<EventFiles>>,
    sequencer_thread: sequencer::Running,
    /// Of the log, where it can be written.
    log_path: Option<PathBuf>,
    last_stop: Result<(), Unclean>,
    forwarder: Option<JoinHandle<Result<(), RecvError>>>,
    tasks: TaskTracker,
    /// Ends subscriptions and the health reports.
    closing: CancellationToken,
    /// Ends the forwarder and the event files.
    stopping: CancellationToken,
    /// Held to the very end.
    _locks: (Lock, [Option<FolderOwner>; 2], Option<ReadOnly>),
}

/// How long calls may take that are at work when a part of the service fails. What they wait for may have failed, too.
const FAILURE_GRACE: Duration = Duration::from_secs(2);

/// Serves on `listener` until `shutdown` resolves. While the storage is opened, callers hear that the service starts.
///
/// # Errors
/// The storage can't be opened, or the server fails.
pub async fn run(
    config: Config,
    options: Options,
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
                info!("shutting down before the storage was open");
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
                // Why the service could not start is worth more than why the network could not end.
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
                // Writes that wait for ImmuDB are stored: they are answered before the forwarder ends.
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
                // Before health is told otherwise for the last time.
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

/// What is told of the parts as long as they run.
fn report(config: &Config, parts: &Parts, network: &Network) {
    let closing = parts.closing.clone();
    parts.tasks.spawn(async move { closing.run_until_cancelled(telemetry::report_runtime()).await });
    let log_path = config.event_sourcing.log_path.clone();
    let health = health::watch(parts.store.clone(), network.health.clone(), log_path);
    let closing = parts.closing.clone();
    parts.tasks.spawn(async move { closing.run_until_cancelled(health).await });
}

fn start_world(config: &Config, options: &Options, parts: &Parts) -> Option<Arc<World>> {
    if !config.world.enabled {
        return None;
    }
    let settings = world::Settings {
        read_models_path: config.world.read_models_path.clone(),
        read_models_wal_max: config.world.read_models_wal_max as u64,
        log_id: parts.log_id.map(|id| id.to_string()),
        events: EventLimits {
            event_bytes_max: config.limits.event_bytes_max,
            append_bytes_max: config.limits.append_bytes_max,
            append_events_max: config.limits.append_events_max,
        },
        raw_appends: match config.world.raw_appends {
            config::RawAppends::Checked => RawAppends::Checked,
            config::RawAppends::Refused => RawAppends::Refused,
            config::RawAppends::Unchecked => RawAppends::Unchecked,
        },
        states_path: config.world.states_path.clone(),
    };
    let Parts { tasks, closing, stopping, .. } = parts;
    let ends = Ends { tasks: tasks.clone(), closing: closing.clone(), stopping: stopping.clone() };
    Some(World::start(parts.store.clone(), &settings, (options.projections)(), ends))
}

/// Starts everything but the server on the network.
///
/// # Errors
/// A thread can't be started.
pub fn start(config: &Config, options: &Options, storage: Storage) -> Result<Parts, ServerError> {
    let history = storage.history();
    let last_stop = opening::take_note_of_clean_stop(config, &storage);
    let standing = Arc::new(standing(config, &storage, last_stop)?);
    let complete = storage.index.complete();
    let newest = (complete.tip.position > Position(0)).then_some(complete.recorded_at);
    let clock = EventClock::start(config.event_sourcing.clock_jump_max, newest, options.accept_clock);
    let Storage { lock, log, index, index_owner, log_id, read_only, .. } = storage;
    let admission = {
        let standing = standing.clone();
        Arc::new(move |tip: Tip| standing.admit_write(tip))
    };
    let counters = Arc::new(Counters::default());
    let (sequencer, sequencer_thread) = Sequencer::start(
        log,
        index,
        sequencer_settings(config, read_only.as_ref(), clock),
        admission,
        counters.clone(),
    )
    .map_err(|source| ServerError::Io { what: "no thread", source })?;
    let (tasks, closing, stopping) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let immudb = config.immudb.as_ref().filter(|_| read_only.is_none());
    let forwarder = immudb.map(|immudb| {
        let settings = forwarder_settings(config, immudb, options);
        let (standing, sequencer) = (standing.clone(), sequencer.clone());
        // Callers wait for what its thread does besides.
        let history = History { patience: Patience::AtOnce, ..history.clone() };
        let forwarder = Forwarder::new(settings, standing, sequencer, history, stopping.clone());
        start_forwarder(forwarder, &tasks).map_err(|source| ServerError::Io { what: "no thread", source })
    });
    let forwarder = forwarder.transpose()?;
    let files_owner = match read_only {
        Some(_) => None,
        None => claim_event_files(config, log_id),
    };
    let event_files = match &files_owner {
        Some(_) => start_event_files(config, &standing, &sequencer, &history, &tasks, &stopping),
        None => None,
    };
    let event_sourcing = match config.event_sourcing.enabled {
        true => EventSourcing::Enabled,
        false => EventSourcing::Disabled { file: options.config_file.display().to_string() },
    };
    let store = Arc::new(EventStore::new(sequencer, standing, history, counters, event_sourcing));
    let log_path = read_only.is_none().then(|| config.event_sourcing.log_path.clone());
    Ok(Parts {
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

/// Runs the forwarder on a thread of its own: the next transaction must not queue behind the answers to those whose
/// events the last one had.
fn start_forwarder(
    forwarder: Forwarder,
    tasks: &TaskTracker,
) -> std::io::Result<JoinHandle<Result<(), RecvError>>> {
    let (ended, end) = oneshot::channel();
    let abandoned = CancellationToken::new();
    let kept = abandoned.clone().drop_guard();
    thread::Builder::new().name("forwarder".into()).spawn(move || {
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => _ = runtime.block_on(abandoned.run_until_cancelled(forwarder.run())),
            Err(error) => return error!(%error, "the forwarder has no runtime"),
        }
        _ = ended.send(());
    })?;
    // A panic drops the sender.
    Ok(tasks.spawn(async move {
        let _kept = kept;
        end.await
    }))
}

/// Of event files that belong to another log none is touched, and the service goes on without them.
fn claim_event_files(config: &Config, log_id: Option<LogId>) -> Option<FolderOwner> {
    const STORAGE_PATH: &str = "event_sourcing.storage_path";
    if !config.event_sourcing.event_files {
        return None;
    }
    let folder = &config.event_sourcing.storage_path;
    // Where none are left it does not matter whose they were.
    let none_left = EventFiles::are_none(&config.event_sourcing);
    match FolderOwner::claim(folder, OwnerFile::Beside, log_id.filter(|_| !none_left), STORAGE_PATH) {
        Ok(mut owner) => {
            if let Some(id) = log_id {
                owner.name(id);
            }
            Some(owner)
        }
        Err(error) => {
            error!(%error, "no event files are written");
            None
        }
    }
}

fn start_event_files(
    config: &Config,
    standing: &Arc<Standing>,
    sequencer: &Sequencer,
    history: &History,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Option<Arc<EventFiles>> {
    let tip = sequencer.watch_tip();
    let (files, ended) =
        EventFiles::start(&config.event_sourcing, history.clone(), standing.clone(), tip, stopping.clone());
    tasks.spawn(ended);
    Some(files)
}

fn standing(
    config: &Config,
    storage: &Storage,
    last_stop: Result<(), Unclean>,
) -> Result<Standing, ServerError> {
    let complete = storage.index.complete();
    let limits = PendingLimits {
        events_max: config.limits.pending_events_max,
        bytes_max: config.limits.pending_bytes_max,
        segment_bytes_max: config.event_sourcing.segment_bytes_max,
    };
    let unfinished = Unfinished::new(&config.event_sourcing.log_path).exists();
    let state = match (&config.immudb, unfinished) {
        (None, true) => return Err(ServerError::UnfinishedCopy),
        (None, false) => State::LocalOnly,
        (Some(_), true) => State::Copying,
        // Nothing can be claimed without a file.
        (Some(_), false) if storage.read_only.is_some() => State::Fallback,
        (Some(_), false) => State::Starting,
    };
    let contact_missing = opening::needs_contact(config, storage, last_stop);
    let forwarded = complete.forwarded.position.min(complete.tip.position);
    let place = storage.history().locate(forwarded, complete.tip)?.append_end;
    Ok(Standing::new(state, complete.forwarded, place, contact_missing, limits))
}

fn sequencer_settings(
    config: &Config,
    read_only: Option<&ReadOnly>,
    clock: EventClock,
) -> sequencer::Settings {
    let events = &config.event_sourcing;
    sequencer::Settings {
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

/// How ImmuDB is reached; the command line's own tools use it too.
pub fn immudb_settings(immudb: &ImmudbConfig) -> immudb::Settings {
    immudb::Settings {
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

fn forwarder_settings(config: &Config, immudb: &ImmudbConfig, options: &Options) -> Settings {
    Settings {
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

/// The forwarder ends after its transaction and releases the head; then the log is closed.
pub async fn stop(parts: Parts, grace: Duration) {
    let Parts { store, sequencer_thread, log_path, last_stop, tasks, closing, stopping, .. } = parts;
    store.standing().shut_down();
    closing.cancel();
    // Whatever was still admitted is durable before the head is released, or counts as pending.
    store.sequencer().drain().await;
    stopping.cancel();
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        warn!("ImmuDB did not answer before the end of server.shutdown_grace");
    }
    store.sequencer().stop().await;
    // A log that may be an older copy does not become the right one by a stop.
    let is_the_log = last_stop.is_ok() || store.standing().was_contacted();
    let log_is_sound = is_the_log && store.sequencer().poisoned().is_none();
    let joined = tokio::task::spawn_blocking(move || {
        if sequencer_thread.join()
            && log_is_sound
            && let Some(log_path) = log_path
            && let Err(error) = clean_stop::note(&log_path)
        {
            warn!(%error, "the next start takes this stop for a crash");
        }
    });
    if joined.await.is_err() {
        warn!("the sequencer could not be joined");
    }
    info!("stopped");
}
