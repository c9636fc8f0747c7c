//! The container of every object and the targets of all exits, as of the newest event. No aggregate
//! holds this information, and some rules depend on it.
//!
//! The table has a file of its own, and is derived and maintained like the read models. Unlike them
//! it is private to the service, and a query first has all events up to the tip applied.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, params};
use tokio_util::sync::CancellationToken;

use super::{
    NotOpenReason, ReadModelError, ReadModels,
    dangling_references::DanglingReferences,
    projector::{self, Follower, ProjectorError},
};
use crate::{
    error::StoreError,
    event::AggregateId,
    store::{EventStore, Tip},
    world::{
        rules::{
            command::ContentsPolicy as Becomes,
            moving::CONTAINERS_MAX,
            world_view::{Containment, WorldView},
        },
        settings::{Settings, Shutdown},
    },
};

mod places;

/// The longest pause before new events are applied without a query.
const EVERY: Duration = Duration::from_secs(1);

/// The name of the file, in the directory of the world's internal data.
const FILE: &str = "contents.sqlite";
/// The configuration key of that directory.
const KEY: &str = "world.states_path";
/// The name that problem reports use.
const NAME: &str = "the container table";

/// The backlog of events that ends the pause, so that queries rarely find a backlog that is too
/// large to wait for.
const BEHIND_SOON: u64 = 1_000;

/// The largest backlog of events that a query waits for.
const BEHIND_MAX: u64 = 10_000;

/// The maximum number of objects examined below one that is moved.
const BELOW_MAX: usize = 100_000;

/// The container table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContainerTable {
    store: Arc<EventStore>,
    rows: Arc<ReadModels>,
    following: Arc<Mutex<Following>>,
}

/// The follower that applies the events, and the generation of the rows it follows. Those rows are
/// known to belong to this history.
type Following = Option<(Follower, u64)>;

impl ContainerTable {
    /// Opens the table, and starts the task that applies events if no query does so for some time.
    pub fn start(store: Arc<EventStore>, settings: &Settings, shutdown: &Shutdown) -> Self {
        let (path, wal_max) = (settings.states_path.join(FILE), settings.read_models_wal_max);
        let rows = ReadModels::new(path, wal_max, vec![Box::new(places::Places)]).of_key(KEY);
        let rows = Arc::new(rows.of_log(settings.log_id.clone()).of_ours_alone().named(NAME));
        if let Err(error) = rows.ensure_exists() {
            rows.problems.record_stalled(&error.to_string());
        }
        let contents = Self { store, rows, following: Arc::default() };
        shutdown.tasks.spawn(contents.clone().follow_periodically(shutdown.stopping.clone()));
        contents
    }

    /// Returns the tables.
    pub fn rows(&self) -> &Arc<ReadModels> {
        &self.rows
    }

    /// Applies events that no query has applied. Runs at normal priority, unlike the projector:
    /// commands wait for the lock that a step holds, and a thread of the lowest priority could hold
    /// it for long while the machine is busy.
    async fn follow_periodically(self, stopping: CancellationToken) {
        let mut tip = self.store.watch_tip();
        let following = async {
            loop {
                let (contents, ends) = (self.clone(), stopping.clone());
                let followed = tokio::task::spawn_blocking(move || contents.follow(&ends)).await;
                // A failure is reported where it is detected. Retry even if no event arrives.
                let Ok(Ok(())) = followed else {
                    tokio::time::sleep(EVERY).await;
                    continue;
                };
                let applied = self.rows.position().0;
                let is_far = |tip: &Tip| tip.position.0 >= applied.saturating_add(BEHIND_SOON);
                _ = tokio::time::timeout(EVERY, tip.wait_for(is_far)).await;
                tokio::select! {
                    newer = tip.wait_for(|tip| tip.position.0 > applied) => if newer.is_err() { return },
                    () = self.rows.woken.notified() => {}
                }
            }
        };
        stopping.run_until_cancelled(following).await;
    }

    /// Applies all events up to the tip. Queries get their turn in between.
    fn follow(&self, stopping: &CancellationToken) -> Result<(), ProjectorError> {
        let tip = self.store.tip();
        while !stopping.is_cancelled() && !self.step(&mut self.following(), tip)? {}
        Ok(())
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies some more events. Returns whether those were all up to the tip. Rows of another
    /// history are rebuilt.
    fn step(&self, following: &mut Following, tip: Tip) -> Result<bool, ProjectorError> {
        match self.try_step(following, tip).or_else(|error| match is_for_now(&error) {
            false if projector::rebuild_if_needed(&error, &self.rows, tip.position) => {
                self.try_step(following, tip)
            }
            _ => Err(error),
        }) {
            Ok(is_at_tip) => {
                self.rows.problems.record_following();
                self.rows.follow_to(self.rows.position());
                Ok(is_at_tip)
            }
            Err(error) => {
                if !is_for_now(&error) {
                    self.rows.problems.record_stalled(&error.to_string());
                }
                Err(error)
            }
        }
    }

    fn try_step(&self, following: &mut Following, tip: Tip) -> Result<bool, ProjectorError> {
        self.rows.ensure_exists()?;
        let generation = self.rows.generation();
        let is_of_this_history = following.as_ref().is_some_and(|(_, its)| *its == generation);
        if is_of_this_history && self.rows.position() >= tip.position {
            return Ok(true);
        }
        let (kept, is_at_end) = projector::follow(&self.store, &self.rows, following.take(), tip)?;
        *following = Some(kept);
        Ok(is_at_end)
    }

    /// Queries the table as it is now. Fails instead of waiting for a long time.
    fn ask<T>(&self, query: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, ProjectorError> {
        const TRIES_MAX: usize = 3;
        if let Some(why) = self.rows.problems.stalled_reason() {
            return Err(ReadModelError::from(NotOpenReason::Stalled(why)).into());
        }
        let tip = self.store.tip();
        for _ in 0..TRIES_MAX {
            let generation = self.follow_soon(tip)?;
            let (answer, position) = self.rows.read(&CancellationToken::new(), &query)?;
            // Retry if other rows replaced these meanwhile.
            if position >= tip.position && self.rows.generation() == generation {
                return Ok(answer);
            }
        }
        Err(ReadModelError::from(NotOpenReason::Rebuilding { tables: NAME }).into())
    }

    /// Applies the remaining events up to the tip if they are few. Returns the generation of the
    /// rows.
    fn follow_soon(&self, tip: Tip) -> Result<u64, ProjectorError> {
        let mut following = self.following();
        loop {
            let events = tip.position.0.saturating_sub(self.rows.position().0);
            if events > BEHIND_MAX {
                return Err(ReadModelError::from(NotOpenReason::Behind { tables: NAME, events }).into());
            }
            if self.step(&mut following, tip)? {
                return Ok(self.rows.generation());
            }
        }
    }

    /// Returns the direct contents of an object, in order of id. Looks up at most one more than may
    /// be moved at once. Objects in `known` are not looked up, and come in addition to that.
    ///
    /// # Errors
    /// Returns an error if the table cannot be read.
    pub fn of(&self, id: &AggregateId, known: &WorldView) -> Result<Vec<AggregateId>, ProjectorError> {
        let sql = "SELECT id FROM places
             WHERE container_id = ?1 AND id NOT IN (SELECT value ->> 0 FROM json_each(?2)) ORDER BY id LIMIT ?3";
        let found: Vec<String> = self.ask(|rows| {
            let mut query = rows.prepare_cached(sql)?;
            let count = number(Becomes::MOVED_MAX + 1);
            query.query_map(params![id.as_str(), json(known), count], |row| row.get(0))?.collect()
        })?;
        let found = found.iter().filter_map(|id| AggregateId::new(id).ok());
        let here =
            known.containments().filter(|(_, container)| *container == Some(id)).map(|(id, _)| id.clone());
        let mut all: Vec<AggregateId> = found.chain(here).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Returns the number of levels below an object, as far as that matters.
    ///
    /// # Errors
    /// Returns an error if the table cannot be read.
    pub fn height(&self, id: &AggregateId, known: &WorldView) -> Result<usize, ProjectorError> {
        let sql = "WITH RECURSIVE
             known (id, container_id) AS (SELECT value ->> 0, value ->> 1 FROM json_each(?2)),
             below (id, steps) AS (
                 VALUES (?1, 0)
                 UNION SELECT places.id, steps + 1 FROM below JOIN places ON places.container_id = below.id
                     WHERE steps < ?3 AND places.id NOT IN (SELECT id FROM known)
                 UNION SELECT known.id, steps + 1 FROM below JOIN known ON known.container_id = below.id
                     WHERE steps < ?3
                 LIMIT ?4)
             SELECT max(steps) FROM below";
        // One more than the maximum is already too many.
        let (steps, below) = (number(CONTAINERS_MAX + 1), number(BELOW_MAX));
        let steps: i64 = self.ask(|rows| {
            let mut query = rows.prepare_cached(sql)?;
            query.query_row(params![id.as_str(), json(known), steps, below], |row| row.get(0))
        })?;
        Ok(usize::try_from(steps).unwrap_or_default())
    }

    /// Returns what a room that is to be deleted leaves behind.
    ///
    /// # Errors
    /// Returns an error if the table cannot be read.
    pub fn dangling_references(
        &self,
        room: &AggregateId,
        known: &WorldView,
    ) -> Result<DanglingReferences, ProjectorError> {
        let exits = "SELECT room_id, direction FROM exits
             WHERE target_room_id = ?1 AND room_id NOT IN (SELECT value ->> 0 FROM json_each(?3))
             ORDER BY room_id, direction LIMIT ?2";
        let players = "SELECT id FROM places WHERE container_id = ?1 AND aggregate_type = 'Player'
             AND id NOT IN (SELECT value ->> 0 FROM json_each(?3)) ORDER BY id LIMIT ?2";
        let (known, count) = (json(known), number(DanglingReferences::NAMED_MAX));
        self.ask(|rows| {
            let exits = rows
                .prepare_cached(exits)?
                .query_map(params![room.as_str(), count, known], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let players = rows
                .prepare_cached(players)?
                .query_map(params![room.as_str(), count, known], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(DanglingReferences { exits, players })
        })
    }
}

/// Returns whether an error is temporary: nothing can be read while the service starts or restores
/// the log.
fn is_for_now(error: &ProjectorError) -> bool {
    matches!(error, ProjectorError::Store(StoreError::Unavailable(_)))
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Encodes what is known already: each object with its container.
fn json(known: &WorldView) -> String {
    let place =
        |(id, container): Containment<'_>| (id.as_str().to_owned(), container.map(ToString::to_string));
    let places: Vec<_> = known.containments().map(place).collect();
    serde_json::to_string(&places).unwrap_or_default()
}
