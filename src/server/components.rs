//! Builds the parts of the service, each with its own settings, and holds those that run.
//!
//! Opening the storage is left to `opening`, and the order in which the parts are stopped to the
//! parent module.

use std::{path::PathBuf, sync::Arc};

use tokio::{runtime, sync::oneshot::error::RecvError, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use super::{
    error::ServerError,
    opening,
    proofs::{ForwarderEnds, ProofParts, Proofs},
    settings::{self, ServerOptions},
};
use crate::{
    clock::EventClock,
    config::Config,
    event::Position,
    event_files::{self, EventFiles, folder::EventFolder},
    grpc::{
        Bounds, CertificateEnd, EventStoreCalls, EventStoreParts, WorldCalls,
        transport::client::ClientRegistry,
        wire::{
            server::event_store_service_server::EventStoreServiceServer,
            world::{command_service_server::CommandServiceServer, world_service_server::WorldServiceServer},
        },
    },
    history::History,
    index::WaitMode,
    log::{FolderOwner, Lock, LogId, OwnerFile, Tip, clean_stop::Unclean},
    replication::{
        forwarder::{Forwarder, ForwarderParts, ForwarderSettings},
        restore::RestoreMarker,
        state::State,
        status::ReplicationStatus,
    },
    sequencer::{Sequencer, SequencerThread},
    stats::Counters,
    storage::Storage,
    store::EventStore,
    threads, usage,
    world::{Shutdown, World},
};

/// How the thread of the forwarder ended: with an error if it could not run.
type ForwarderEnd = Result<std::io::Result<()>, RecvError>;

/// The running parts of the service.
pub struct Components {
    /// Stores and reads the events.
    pub store: Arc<EventStore>,
    log_id: Option<LogId>,
    event_files: Option<Arc<EventFiles>>,
    proofs: Proofs,
    clients: ClientRegistry,
    pub(super) sequencer_thread: SequencerThread,
    /// The directory of the log, or `None` if it cannot be written.
    pub(super) log_path: Option<PathBuf>,
    pub(super) last_stop: Result<(), Unclean>,
    pub(super) forwarder: Option<JoinHandle<ForwarderEnd>>,
    pub(super) tasks: TaskTracker,
    /// Ends subscriptions and the health reports.
    pub(super) closing: CancellationToken,
    /// Ends the forwarder and the writer of event files.
    pub(super) stopping: CancellationToken,
    /// Held until everything else has stopped.
    _locks: (Lock, [Option<FolderOwner>; 2]),
}

/// The gRPC services that answer from the parts.
pub(super) struct Services {
    pub events: EventStoreServiceServer<EventStoreCalls>,
    /// `None` if the game world is disabled.
    pub world: Option<WorldServices>,
}

pub(super) struct WorldServices {
    pub commands: CommandServiceServer<WorldCalls>,
    pub queries: WorldServiceServer<WorldCalls>,
}

impl Components {
    /// Starts everything except the world and the server on the network.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read, if its restore from ImmuDB is unfinished and no
    /// ImmuDB is configured, or if a thread cannot be started.
    pub fn start(config: &Config, options: &ServerOptions, storage: Storage) -> Result<Self, ServerError> {
        Self::start_for(config, options, &ClientRegistry::new(), storage)
    }

    /// Same as [`Components::start`], with the clients that call over the network.
    pub(super) fn start_for(
        config: &Config,
        options: &ServerOptions,
        clients: &ClientRegistry,
        storage: Storage,
    ) -> Result<Self, ServerError> {
        let history = storage.history();
        let last_stop = opening::take_note_of_clean_stop(config, &storage);
        let replication = Arc::new(replication(config, &storage, last_stop)?);
        let clock = clock(config, options, &storage);
        let Storage { lock, log, index, index_owner, log_id, read_only, .. } = storage;
        let is_writable = read_only.is_none();
        let in_doubt = read_only.map(|read_only| read_only.in_doubt).unwrap_or_default();
        let admission = {
            let replication = replication.clone();
            Arc::new(move |tip: Tip| replication.admit_write(tip))
        };
        let counters = Arc::new(Counters::default());
        let settings = settings::sequencer(config, clock, in_doubt);
        let (sequencer, sequencer_thread) =
            Sequencer::start(log, index, settings, admission, counters.clone()).map_err(no_thread)?;
        let (tasks, closing, stopping) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let parts = ProofParts {
            history: &history,
            sequencer: &sequencer,
            replication: &replication,
            tasks: &tasks,
            stopping: &stopping,
        };
        let (proofs, ends) =
            Proofs::start(config, log_id.filter(|_| is_writable), &parts).map_err(no_thread)?;
        let forwarder = match settings::forwarder(config, options, log_id).filter(|_| is_writable) {
            Some(settings) => Some(start_forwarder(settings, ends, &parts).map_err(no_thread)?),
            None => {
                ends.record_only(config, &parts);
                None
            }
        };
        if let Some(settings) = settings::usage(config).filter(|_| is_writable) {
            let used_up = clients.used_up().clone();
            let (history, tip) = (history.clone(), sequencer.watch_tip());
            let ended = usage::follower::follow(settings, used_up, history, tip, stopping.clone());
            tasks.spawn(ended.map_err(no_thread)?);
        }
        let event_files = settings::event_files(&config.event_sourcing).filter(|_| is_writable);
        let event_files = event_files.and_then(|settings| {
            let owner = claim_event_files(&settings, log_id)?;
            let (history, replication) = (history.clone(), replication.clone());
            let (files, ended) =
                EventFiles::start(settings, history, replication, sequencer.watch_tip(), stopping.clone());
            tasks.spawn(ended);
            Some((owner, files))
        });
        let (files_owner, event_files) = event_files.unzip();
        let event_sourcing = settings::event_sourcing(&config.event_sourcing, options);
        let log_path = is_writable.then(|| config.event_sourcing.log_path.clone());
        Ok(Self {
            store: Arc::new(EventStore::new(sequencer, replication, history, counters, event_sourcing)),
            log_id,
            event_files,
            proofs,
            clients: clients.clone(),
            sequencer_thread,
            log_path,
            last_stop,
            forwarder,
            tasks,
            closing,
            stopping,
            _locks: (lock, [index_owner, files_owner]),
        })
    }

    /// Starts the game world. Returns `None` if it is disabled.
    pub(super) fn start_world(&self, config: &Config, options: &ServerOptions) -> Option<Arc<World>> {
        let settings = settings::world(config, self.log_id)?;
        let Self { tasks, closing, stopping, .. } = self;
        let shutdown =
            Shutdown { tasks: tasks.clone(), closing: closing.clone(), stopping: stopping.clone() };
        Some(World::start(self.store.clone(), &settings, (options.projections)(), shutdown))
    }

    /// Creates the gRPC services, which share `bounds`.
    pub(super) fn services(
        &self,
        config: &Config,
        world: Option<Arc<World>>,
        bounds: Bounds,
        certificate_end: Option<CertificateEnd>,
    ) -> Services {
        let Proofs { transparency, verifier, audit } = self.proofs.clone();
        let parts = EventStoreParts {
            store: self.store.clone(),
            event_files: self.event_files.clone(),
            world: world.clone(),
            transparency,
            verifier,
            audit,
            clients: self.clients.clone(),
            certificate_end,
        };
        let settings = settings::event_store(config);
        let limits = settings.limits.clone();
        let calls = EventStoreCalls::new(parts, settings, bounds.clone(), self.closing.clone());
        let world = world.map(|world| {
            let calls = WorldCalls::new(world, limits, bounds, self.closing.clone());
            WorldServices {
                commands: CommandServiceServer::new(calls.clone()),
                queries: WorldServiceServer::new(calls),
            }
        });
        Services { events: EventStoreServiceServer::new(calls), world }
    }
}

fn no_thread(source: std::io::Error) -> ServerError {
    ServerError::Io { what: "cannot start a thread", source }
}

fn clock(config: &Config, options: &ServerOptions, storage: &Storage) -> EventClock {
    let complete = storage.index.complete();
    let newest = (complete.tip.position > Position(0)).then_some(complete.recorded_at);
    EventClock::start(config.event_sourcing.clock_jump_max, newest, options.accept_clock)
}

fn replication(
    config: &Config,
    storage: &Storage,
    last_stop: Result<(), Unclean>,
) -> Result<ReplicationStatus, ServerError> {
    let complete = storage.index.complete();
    let limits = settings::pending_limits(config);
    let unfinished = RestoreMarker::new(&config.event_sourcing.log_path).exists();
    let state = match (&config.immudb, unfinished) {
        (None, true) => return Err(ServerError::UnfinishedCopy),
        (None, false) => State::LocalOnly,
        (Some(_), true) => State::Copying,
        // An operator ends this state, not a restart.
        (Some(_), false) if complete.forwarded.tampered => State::Tampered,
        // ImmuDB cannot be claimed without writing a file.
        (Some(_), false) if storage.read_only.is_some() => State::Fallback,
        (Some(_), false) => State::Starting,
    };
    let contact_missing = opening::needs_contact(config, storage, last_stop);
    let forwarded = complete.forwarded.position.min(complete.tip.position);
    let place = storage.history().locate(forwarded, complete.tip)?.append_end;
    Ok(ReplicationStatus::new(state, complete.forwarded, place, contact_missing, limits))
}

/// Runs the forwarder on its own thread, so that the next transaction does not queue behind the
/// answers to the clients whose events the last one contained.
fn start_forwarder(
    settings: ForwarderSettings,
    ForwarderEnds { tree, checkpoints, reports }: ForwarderEnds,
    parts: &ProofParts<'_>,
) -> std::io::Result<JoinHandle<ForwarderEnd>> {
    let ProofParts { history, sequencer, replication, tasks, stopping } = *parts;
    let parts = ForwarderParts {
        replication: replication.clone(),
        sequencer: sequencer.clone(),
        // Clients wait for the other work of this thread, so it must not rebuild index files
        // itself.
        history: History { wait_mode: WaitMode::AtOnce, ..history.clone() },
        tree,
        checkpoints,
        reports,
    };
    let forwarder = Forwarder::new(settings, parts, stopping.clone());
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
fn claim_event_files(settings: &event_files::Settings, log_id: Option<LogId>) -> Option<FolderOwner> {
    const STORAGE_PATH: &str = "event_sourcing.storage_path";
    // If there are no event files left, it does not matter which log the directory belonged to.
    let none_left = EventFolder::new(&settings.folder).has_events().is_ok_and(|any| !any);
    let log = log_id.filter(|_| !none_left);
    match FolderOwner::claim(&settings.folder, OwnerFile::Beside, log, STORAGE_PATH) {
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
