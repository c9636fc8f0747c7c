//! The game world on top of the event store: commands, aggregates, projections, questions, rebuilding.
//!
//! ```text
//! command --> handler --> decide (pure) --> events --> the store's append, if nothing looked at has changed
//! events --> replay --> an aggregate, now or at any moment
//! events --> projector --> projections --> read models (SQLite) --> lists
//! ```
//!
//! It uses the store as any caller could, and nothing of the store knows of it. The modules, in the order of a
//! command's way: [`command`], [`handler`], [`planning`] with [`call`], [`contents`], [`known`] and [`decide`] with [`moving`], [`capacity`] and [`weight`], the aggregates
//! ([`game_object`], [`player`], [`room`], one of which is an [`aggregate`], with each [`rule`]), [`event`], [`executed`]. Of a question's way:
//! [`replay`] with [`states`] and [`life`], [`history`], [`difference`], [`changes`]. Of the read models': [`projector`], [`projections`],
//! [`read_models`], [`lists`], [`rebuild`] with [`repairing`] and [`repairs`].

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    event::{AggregateId, Position, SequenceNumber},
    sequencer::{Append, Origin},
    shared_limit::{Caller, Resource, SharedLimit},
    store::{Appended, Attempt, EventStore, Filter, Limit, OrderStart, StoreError},
};

pub mod aggregate;
pub mod call;
pub mod capacity;
pub mod changes;
pub mod command;
pub mod contents;
pub mod decide;
pub mod difference;
pub mod error;
pub mod event;
pub mod executed;
pub mod game_object;
pub mod handler;
pub mod history;
pub mod known;
pub mod life;
pub mod lists;
pub mod moving;
pub mod password;
pub mod planning;
pub mod player;
pub mod projections;
pub mod projector;
pub mod read_models;
pub mod rebuild;
pub mod refusal;
pub mod repairing;
pub mod repairs;
pub mod replay;
pub mod room;
pub mod rule;
pub mod states;
mod turns;
pub mod weight;

use command::Commands;
use contents::Contents;
use error::WorldError;
use executed::Executed;
use handler::{Handler, RawAppends};
use lists::{FoundPlayer, ObjectFilter, Page};
use planning::EventLimits;
use projections::Projection;
use read_models::{Reached, ReadModels};
pub use read_models::{ReadModelError, remove_those_of as remove_read_models_of};
use refusal::Refusal;
use replay::{Moment, Source, State};
use states::States;

/// What the world is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub read_models_path: PathBuf,
    pub states_path: PathBuf,
    pub read_models_wal_max: u64,
    /// The log that the read models are made from.
    pub log_id: Option<String>,
    pub events: EventLimits,
    pub raw_appends: RawAppends,
}

/// What the world's tasks end with.
#[derive(Debug, Clone)]
pub struct Ends {
    pub tasks: TaskTracker,
    /// The service takes no calls any more: what a caller waits for ends.
    pub closing: CancellationToken,
    /// The last calls are over.
    pub stopping: CancellationToken,
}

/// The game world. Shared by all calls.
#[derive(Debug)]
pub struct World {
    source: Source,
    handler: Handler,
    contents: Contents,
    read_models: Arc<ReadModels>,
    rebuilding: Arc<AtomicBool>,
    /// Bytes that all differences may hold.
    differences: Arc<SharedLimit>,
    ends: Ends,
}

/// How far the read models are behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectionState {
    pub name: &'static str,
    pub position: Position,
    pub lag: u64,
    /// Why it does not follow, and what it left out; empty: nothing is wrong.
    pub problem: String,
}

impl World {
    /// Starts the tasks that keep states and the read models. Where these can't be opened it says so, and goes on
    /// without until they can.
    pub fn start(
        store: Arc<EventStore>,
        settings: &Settings,
        projections: Vec<Box<dyn Projection>>,
        ends: Ends,
    ) -> Arc<Self> {
        let (path, wal_max) = (settings.read_models_path.clone(), settings.read_models_wal_max);
        let history = store.clone();
        let fits = move |rows: Reached| {
            let start = OrderStart::After(rows.position, Some(rows.hash));
            history.read(start, Filter::default()).is_ok()
        };
        let read_models = ReadModels::new(path, wal_max, projections);
        let read_models = Arc::new(read_models.of_log(settings.log_id.clone()).of_history(fits));
        if let Err(error) = read_models.be_there() {
            read_models.problems.they_do_not_follow(&error.to_string());
        }
        let source = Source { store: store.clone(), states: States::start(settings.states_path.clone()) };
        ends.tasks.spawn(projector::start(store.clone(), read_models.clone(), ends.stopping.clone()));
        let contents = Contents::start(store, settings, &ends);
        let handler = Handler::new(source.clone(), contents.clone(), settings.events, settings.raw_appends);
        let rebuilding = Arc::default();
        let differences = Arc::new(SharedLimit::new(
            Limit::CallBytes,
            Resource::DifferenceBytes,
            difference::HELD_BYTES_MAX,
        ));
        Arc::new(Self { source, handler, contents, read_models, rebuilding, differences, ends })
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Executes the commands in their order, all or none. `reserve` is asked for the bytes of the answer before anything
    /// is stored.
    ///
    /// # Errors
    /// See [`WorldError`], and what `reserve` says.
    pub async fn execute(
        &self,
        commands: Commands,
        caller: &Caller,
        reserve: impl Fn(usize) -> BoxFuture<'static, Result<(), StoreError>>,
    ) -> Result<Executed, WorldError> {
        self.handler.execute(commands, caller, reserve).await
    }

    /// Stores events of a caller that decides for itself, all or none, if they fit the objects of the world that they are of.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub async fn append(&self, append: Append, origin: Origin) -> Result<Appended, WorldError> {
        let stored = self.handler.append_raw(append, origin).await?;
        let stored_in =
            self.source.store.settle(stored.end, stored.bounds.last, Attempt::of(&stored)).await?;
        Ok(Appended { stored, stored_in })
    }

    /// An aggregate as it is, or as it was. May wait for the disk.
    ///
    /// # Errors
    /// It did not exist, is none of the world's, or is damaged.
    pub fn get(
        &self,
        id: &AggregateId,
        moment: Moment,
        given_up: &CancellationToken,
    ) -> Result<State, WorldError> {
        let state = replay::load_unless(&self.source, id, moment, given_up)?;
        state.ok_or_else(|| Refusal::NoSuchObject(id.clone()).into())
    }

    /// The history of an aggregate, from one number to another.
    ///
    /// # Errors
    /// As [`World::get`].
    pub fn history(
        &self,
        id: AggregateId,
        from: SequenceNumber,
        to: SequenceNumber,
        given_up: &CancellationToken,
    ) -> Result<history::HistoryReader, WorldError> {
        history::HistoryReader::open(&self.source, id, from, to, given_up)
    }

    /// What changed between two moments.
    ///
    /// # Errors
    /// Too much did.
    pub fn difference(
        &self,
        from: difference::WorldMoment,
        to: difference::WorldMoment,
        caller: &Caller,
    ) -> Result<difference::DifferenceReader, WorldError> {
        difference::DifferenceReader::open(&self.source.store, from, to, (&self.differences, caller))
    }

    /// Objects that match, by id, and up to where the events are in it.
    ///
    /// # Errors
    /// The read models can't be read.
    pub fn list(
        &self,
        filter: &ObjectFilter,
        after: &str,
        count: usize,
        given_up: &CancellationToken,
    ) -> Result<(Page, Position), WorldError> {
        self.read(given_up, |rows| lists::game_objects(rows, filter, after, count))
    }

    /// What lies directly in an object, by id.
    ///
    /// # Errors
    /// The read models can't be read.
    pub fn contents(
        &self,
        container: &str,
        after: &str,
        count: usize,
        given_up: &CancellationToken,
    ) -> Result<(Page, Position), WorldError> {
        self.read(given_up, |rows| lists::contents(rows, container, after, count))
    }

    /// All that lies below an object, over however many steps; `after` is the way to the last of the page before.
    ///
    /// # Errors
    /// The read models can't be read.
    pub fn below(
        &self,
        top: &str,
        after: &[String],
        count: usize,
        given_up: &CancellationToken,
    ) -> Result<(Page, Position), WorldError> {
        self.read(given_up, |rows| lists::below(rows, top, after, count))
    }

    /// Players of a name.
    ///
    /// # Errors
    /// The read models can't be read.
    pub fn find_player(
        &self,
        name: &str,
        count: u32,
        given_up: &CancellationToken,
    ) -> Result<(Vec<FoundPlayer>, Position), WorldError> {
        self.read(given_up, |rows| lists::players(rows, name, count))
    }

    /// Ends early when the answer is given up.
    fn read<T>(
        &self,
        given_up: &CancellationToken,
        query: impl Fn(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<(T, Position), WorldError> {
        const TRIES_MAX: usize = 5;
        self.source.store.admit_read()?;
        let mut failed = "they are made anew again and again".to_owned();
        // Where the file can't be made anew, each try fails.
        for _ in 0..TRIES_MAX {
            let generation = self.read_models.generation();
            // Unless other rows took the place of those meanwhile.
            match (self.read_models.read(given_up, &query), self.read_models.generation() == generation) {
                (Ok(answer), true) => return Ok(answer),
                (Err(error), true) => return Err(WorldError::ReadModels(error.to_string())),
                (Ok(_), false) => {}
                (Err(error), false) => failed = error.to_string(),
            }
        }
        Err(WorldError::ReadModels(failed))
    }

    /// How far each projection is, and the table of what lies in what.
    pub fn projections(&self) -> Vec<ProjectionState> {
        let tip = self.source.store.sequencer().tip();
        let of = |rows: &ReadModels| -> Vec<ProjectionState> {
            let position = rows.position();
            // Ahead of what there is, they belong to another history, and nothing of this one is in them.
            let lag = tip.position.0.checked_sub(position.0).unwrap_or(tip.position.0.max(1));
            let state = |name| ProjectionState { name, position, lag, problem: rows.problems.of(name) };
            rows.projections().iter().map(|projection| state(projection.name())).collect()
        };
        let mut all = of(&self.read_models);
        all.extend(of(self.contents.rows()));
        all
    }

    /// Why the read models do not follow just now; `None`: they do.
    pub fn read_models_problem(&self) -> Option<String> {
        self.read_models.problems.why_not()
    }

    async fn repair(&self, repairs: &Repairs) -> Result<rebuild::Findings, WorldError> {
        let mut repaired = rebuild::Findings::default();
        for id in &repairs.objects {
            let misfits = self.handler.repair(id, &repairs.actor).await?;
            if let Some((first, problem)) = misfits.first() {
                let count = misfits.len();
                warn!(aggregate = %id, count, %first, %problem, "events are passed over from now on");
            }
            for (sequence, problem) in misfits {
                repaired.add(id.as_str(), sequence, problem.to_string());
            }
        }
        Ok(repaired)
    }

    /// Begins to rebuild the world; one at a time. Before that, the objects are repaired that are named.
    ///
    /// # Errors
    /// One is running.
    pub fn rebuild(self: &Arc<Self>, repairs: Repairs) -> Result<Rebuild, WorldError> {
        if self.rebuilding.swap(true, Ordering::AcqRel) {
            return Err(WorldError::RebuildRunning);
        }
        let watched = Arc::new(rebuild::Watched::default());
        let (world, watching) = (self.clone(), watched.clone());
        let rebuilding = Rebuilding::begin(self);
        let running = self.ends.tasks.spawn(async move {
            let rebuilding = rebuilding;
            let repaired = world.repair(&repairs).await?;
            let rebuild = move || {
                let _rebuilding = rebuilding;
                let (read_models, contents) = (&world.read_models, world.contents.rows());
                rebuild::rebuild(&world.source, (read_models, contents), &watching, &world.ends.closing)
            };
            let rebuilt = tokio::task::spawn_blocking(rebuild).await;
            let rebuilt = rebuilt.unwrap_or_else(|_| Err(aborted()));
            let report = rebuilt.inspect_err(|error| warn!(%error, "the world was not rebuilt"))?;
            Ok(rebuild::Report { repaired, ..report })
        });
        Ok(Rebuild { watched, running })
    }
}

/// Which objects are to be repaired, and for whom.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    pub objects: Vec<AggregateId>,
    pub actor: String,
}

/// Ends with the rebuild, also where it panics.
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

fn aborted() -> WorldError {
    StoreError::Damaged("the rebuild was aborted".to_owned()).into()
}

/// A rebuild under way. It goes on when nobody waits for it.
#[derive(Debug)]
pub struct Rebuild {
    pub watched: Arc<rebuild::Watched>,
    running: tokio::task::JoinHandle<Result<rebuild::Report, WorldError>>,
}

impl Rebuild {
    /// Waits for the end.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn report(&mut self) -> Result<rebuild::Report, WorldError> {
        let ended = (&mut self.running).await;
        ended.unwrap_or_else(|_| Err(aborted()))
    }
}

#[cfg(test)]
mod tests;
