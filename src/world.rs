//! The game world, built on the event store as any client could. The store does not depend on it.
//!
//! - Pure rules turn commands into events, appended only if nothing examined has changed.
//! - Events are replayed into an aggregate, now or at any moment.
//! - Events are projected into read models (SQLite), which answer lists.
//!
//! Each module may use those before it: [`settings`], [`model`], [`rules`], [`error`],
//! [`history`], [`read_models`], [`commands`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::BoxFuture;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    error::{Limit, StoreError},
    event::{AggregateId, Position, SequenceNumber},
    shared_limit::{Caller, Resource, SharedLimit},
    store::{Append, Appended, Attempt, EventStore, Filter, OrderStart, Origin},
};

pub mod commands;
pub mod error;
pub mod history;
pub mod model;
pub mod read_models;
pub mod rules;
pub mod settings;

use commands::{
    executed::Executed,
    handler::{Handler, raw_names::without_reservations, reserving::ReservingError},
};
use error::WorldError;
use history::{
    difference, entries,
    replay::{self, AggregateSource, AggregateState, Moment},
    states::StateStore,
};
use read_models::{
    Checkpoint, ReadModels,
    contents::ContainerTable,
    lists::{self, FoundPlayer, ObjectFilter, Page},
    projections::Projection,
    projector, rebuild,
};
pub use read_models::{ReadModelError, remove_those_of as remove_read_models_of};
use rules::{command::Commands, refusal::Refusal};
pub use settings::{Settings, Shutdown};

/// The game world. Shared by all calls.
#[derive(Debug)]
pub struct World {
    source: AggregateSource,
    handler: Handler,
    contents: ContainerTable,
    read_models: Arc<ReadModels>,
    rebuilding: Arc<AtomicBool>,
    /// The budget in bytes that all differences share.
    differences: Arc<SharedLimit>,
    shutdown: Shutdown,
}

/// The progress of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectionState {
    /// The name of the projection.
    pub name: &'static str,
    /// The tables include all events up to this position.
    pub position: Position,
    /// The number of events up to the tip that have not been examined yet.
    pub lag: u64,
    /// Why the projection does not follow the events, and which events it skipped. Empty if there
    /// is no problem.
    pub problem: String,
}

impl World {
    /// Starts the tasks that maintain the stored states and the read models. If the read models
    /// cannot be opened, reports that and continues without them until they can.
    pub fn start(
        store: Arc<EventStore>,
        settings: &Settings,
        projections: Vec<Box<dyn Projection>>,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let (path, wal_max) = (settings.read_models_path.clone(), settings.read_models_wal_max);
        let history = store.clone();
        let fits = move |rows: Checkpoint| {
            let start = OrderStart::After(rows.position, Some(rows.hash));
            history.read(start, Filter::default()).is_ok()
        };
        let read_models = ReadModels::new(path, wal_max, projections).of_mode(settings.read_models_mode);
        let read_models = Arc::new(read_models.of_log(settings.log_id.clone()).of_history(fits));
        if let Err(error) = read_models.ensure_exists() {
            read_models.problems.record_stalled(&error.to_string());
        }
        let source =
            AggregateSource { store: store.clone(), states: StateStore::start(settings.states_path.clone()) };
        shutdown.tasks.spawn(projector::start(store.clone(), read_models.clone(), shutdown.stopping.clone()));
        let contents = ContainerTable::start(store, settings, &shutdown);
        let rules = (settings.raw_appends, settings.unique_names);
        let handler = Handler::new(source.clone(), contents.clone(), settings.events, rules);
        let rebuilding = Arc::default();
        let differences = Arc::new(SharedLimit::new(
            Limit::CallBytes,
            Resource::DifferenceBytes,
            difference::HELD_BYTES_MAX,
        ));
        Arc::new(Self { source, handler, contents, read_models, rebuilding, differences, shutdown })
    }

    /// Returns what aggregates are loaded from.
    pub fn source(&self) -> &AggregateSource {
        &self.source
    }

    /// Executes the commands in order, all or none. Their events get the name of the identity in
    /// `origin`. `reserve` is called with the size of the response before anything is stored.
    ///
    /// # Errors
    /// See [`WorldError`]. Also returns the errors of `reserve`.
    pub async fn execute(
        &self,
        commands: Commands,
        origin: Origin,
        reserve: impl Fn(usize) -> BoxFuture<'static, Result<(), StoreError>>,
    ) -> Result<Executed, WorldError> {
        self.handler.execute(commands, origin, reserve).await
    }

    /// Appends the events of a client that makes its own decisions, all or none. Each event must be
    /// valid for its object if that is part of the world.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub async fn append(&self, append: Append, origin: Origin) -> Result<Appended, WorldError> {
        let sent = append.events.len();
        let stored = self.handler.append_raw(append, origin).await?;
        let stored_in =
            self.source.store.wait_for_commit(stored.end, stored.bounds.last, Attempt::of(&stored)).await?;
        Ok(Appended { stored: without_reservations(stored, sent), stored_in })
    }

    /// Returns whether the names of all players are reserved, or need not be.
    pub fn player_names_are_reserved(&self) -> bool {
        self.handler.player_names_are_reserved()
    }

    /// Reserves the names of the players that exist, if names are to be unique. Until that has been
    /// done, commands that change a name are refused as unavailable. Ends early when the service
    /// closes.
    ///
    /// # Errors
    /// Returns an error if players share a name, or if something cannot be read or written at
    /// present.
    pub async fn reserve_player_names(&self) -> Result<(), ReservingError> {
        self.handler.reserve_player_names(&self.shutdown.closing).await
    }

    /// Returns an aggregate as it is, or as it was at an earlier moment. May block on disk I/O.
    ///
    /// # Errors
    /// Returns an error if the aggregate did not exist at that moment, is not part of the world, or
    /// is damaged.
    pub fn get(
        &self,
        id: &AggregateId,
        moment: Moment,
        given_up: &CancellationToken,
    ) -> Result<AggregateState, WorldError> {
        let state = replay::load_unless(&self.source, id, moment, given_up)?;
        state.ok_or_else(|| Refusal::NoSuchObject(id.clone()).into())
    }

    /// Opens the history of an aggregate, from one sequence number to another or to the last one.
    ///
    /// # Errors
    /// See [`World::get`].
    pub fn history(
        &self,
        id: AggregateId,
        from: SequenceNumber,
        to: Option<SequenceNumber>,
        given_up: &CancellationToken,
    ) -> Result<entries::HistoryReader, WorldError> {
        entries::HistoryReader::open(&self.source, id, from, to, given_up)
    }

    /// Opens a comparison of the world at two moments.
    ///
    /// # Errors
    /// Returns an error if `from` is later than `to`, or if the log cannot be read. If too much
    /// changed, the reader reports that.
    pub fn difference(
        &self,
        comparison: difference::Comparison,
        caller: &Caller,
    ) -> Result<difference::DifferenceReader, WorldError> {
        difference::DifferenceReader::open(&self.source.store, comparison, (&self.differences, caller))
    }

    /// Returns the objects that match, in order of id, and the position that the read models
    /// represent.
    ///
    /// # Errors
    /// Returns an error if the read models cannot be read.
    pub fn list(
        &self,
        filter: &ObjectFilter,
        after: &str,
        count: usize,
        given_up: &CancellationToken,
    ) -> Result<(Page, Position), WorldError> {
        self.read(given_up, |rows| lists::game_objects(rows, filter, after, count))
    }

    /// Returns the direct contents of an object, in order of id.
    ///
    /// # Errors
    /// Returns an error if the read models cannot be read.
    pub fn contents(
        &self,
        container: &str,
        after: &str,
        count: usize,
        given_up: &CancellationToken,
    ) -> Result<(Page, Position), WorldError> {
        self.read(given_up, |rows| lists::contents(rows, container, after, count))
    }

    /// Returns the contents of an object on all levels. `after` is the path to the last object of
    /// the previous page.
    ///
    /// # Errors
    /// Returns an error if the read models cannot be read.
    pub fn below(
        &self,
        top: &str,
        after: &[String],
        count: usize,
        given_up: &CancellationToken,
    ) -> Result<(Page, Position), WorldError> {
        self.read(given_up, |rows| lists::below(rows, top, after, count))
    }

    /// Returns the players with a name.
    ///
    /// # Errors
    /// Returns an error if the read models cannot be read.
    pub fn find_player(
        &self,
        filter: &lists::PlayerFilter,
        count: u32,
        given_up: &CancellationToken,
    ) -> Result<(Vec<FoundPlayer>, Position), WorldError> {
        self.read(given_up, |rows| lists::players(rows, filter, count))
    }

    /// Runs a query on the read models. Ends early when `given_up` is cancelled.
    fn read<T>(
        &self,
        given_up: &CancellationToken,
        query: impl Fn(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<(T, Position), WorldError> {
        const TRIES_MAX: usize = 5;
        self.source.store.admit_read()?;
        let mut failed = ReadModelError::RebuiltRepeatedly;
        // The number of attempts is limited: if the file cannot be recreated, every attempt fails.
        for _ in 0..TRIES_MAX {
            let generation = self.read_models.generation();
            // Retry if other rows replaced these meanwhile.
            match (self.read_models.read(given_up, &query), self.read_models.generation() == generation) {
                (Ok(answer), true) => return Ok(answer),
                (Err(error), true) => return Err(error.into()),
                (Ok(_), false) => {}
                (Err(error), false) => failed = error,
            }
        }
        Err(failed.into())
    }

    /// Returns the progress of each projection, including the container table.
    pub fn projections(&self) -> Vec<ProjectionState> {
        let tip = self.source.store.sequencer().tip();
        let of = |rows: &ReadModels| -> Vec<ProjectionState> {
            let position = rows.position();
            // Rows ahead of the tip belong to another history, and contain no event of this one.
            let lag = tip.position.0.checked_sub(position.0).unwrap_or(tip.position.0.max(1));
            let state = |name| ProjectionState { name, position, lag, problem: rows.problems.of(name) };
            rows.projections().iter().map(|projection| state(projection.name())).collect()
        };
        let mut all = of(&self.read_models);
        all.extend(of(self.contents.rows()));
        all
    }

    /// Returns why the read models do not follow the events at the moment, or `None` if they do.
    pub fn read_models_problem(&self) -> Option<String> {
        self.read_models.problems.stalled_reason()
    }

    async fn repair(&self, repairs: &Repairs) -> Result<rebuild::Findings, WorldError> {
        let mut repaired = rebuild::Findings::default();
        for id in &repairs.objects {
            let by = repairs.recorded_by.clone();
            let invalid_events = self.handler.repair(id, &repairs.actor, by).await?;
            if let Some((first, problem)) = invalid_events.first() {
                let count = invalid_events.len();
                warn!(aggregate = %id, count, %first, %problem, "events are excluded from replay from now \
                 on");
            }
            for (sequence, problem) in invalid_events {
                repaired.add(id.as_str(), sequence, problem.to_string());
            }
        }
        Ok(repaired)
    }

    /// Starts a rebuild of the world. First repairs the objects that `repairs` names. Only one
    /// rebuild runs at a time.
    ///
    /// # Errors
    /// Returns an error if a rebuild is already running.
    pub fn rebuild(self: &Arc<Self>, repairs: Repairs) -> Result<Rebuild, WorldError> {
        if self.rebuilding.swap(true, Ordering::AcqRel) {
            return Err(WorldError::RebuildRunning);
        }
        let watched = Arc::new(rebuild::RebuildProgress::default());
        let (world, watching) = (self.clone(), watched.clone());
        let rebuilding = Rebuilding::begin(self);
        let running = self.shutdown.tasks.spawn(async move {
            let rebuilding = rebuilding;
            let repaired = world.repair(&repairs).await?;
            let rebuild = move || {
                let _rebuilding = rebuilding;
                let (read_models, contents) = (&world.read_models, world.contents.rows());
                rebuild::rebuild(&world.source, (read_models, contents), &watching, &world.shutdown.closing)
            };
            let rebuilt = tokio::task::spawn_blocking(rebuild).await;
            let rebuilt = rebuilt.unwrap_or_else(|error| Err(aborted(&error)));
            let report = rebuilt.inspect_err(|error| warn!(%error, "the rebuild of the world failed"))?;
            Ok(rebuild::Report { repaired, ..report })
        });
        Ok(Rebuild { watched, running })
    }
}

/// The objects to repair, and who requested it.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// The objects to repair. Those that are not damaged are left unchanged.
    pub objects: Vec<AggregateId>,
    /// The actor, recorded in the repairs. Empty if not specified.
    pub actor: String,
    /// The name of the identity that calls. Empty while access control is off.
    pub recorded_by: Arc<str>,
}

/// Marks the rebuild as running until this is dropped, even if the rebuild panics.
struct Rebuilding(Arc<World>);

impl Rebuilding {
    fn begin(world: &Arc<World>) -> Self {
        world.read_models.set_being_rebuilt(true);
        world.contents.rows().set_being_rebuilt(true);
        Self(world.clone())
    }
}

impl Drop for Rebuilding {
    fn drop(&mut self) {
        self.0.read_models.set_being_rebuilt(false);
        self.0.contents.rows().set_being_rebuilt(false);
        self.0.rebuilding.store(false, Ordering::Release);
    }
}

fn aborted(error: &JoinError) -> WorldError {
    StoreError::of_writing_task(error, "the rebuild").into()
}

/// A rebuild in progress. It continues even if this is dropped.
#[derive(Debug)]
pub struct Rebuild {
    /// The progress so far.
    pub watched: Arc<rebuild::RebuildProgress>,
    running: tokio::task::JoinHandle<Result<rebuild::Report, WorldError>>,
}

impl Rebuild {
    /// Waits until the rebuild ends.
    ///
    /// # Errors
    /// Returns an error if the rebuild failed.
    pub async fn report(&mut self) -> Result<rebuild::Report, WorldError> {
        let ended = (&mut self.running).await;
        ended.unwrap_or_else(|error| Err(aborted(&error)))
    }
}

#[cfg(test)]
mod tests;
