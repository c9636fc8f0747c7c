//! What lies in what, and which exits lead where, as the newest event left it. No aggregate says that of itself, and some
//! rules depend on it.
//!
//! It is a table in a file of its own, derived like the read models and kept as they are; but nobody else reads it, and who
//! asks has all events up to the tip taken in first.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, params};
use tokio_util::sync::CancellationToken;

use super::{
    Ends, Settings,
    command::Contents as Becomes,
    executed::LeftBehind,
    known::{Known, Place},
    moving::CONTAINERS_MAX,
    projector::{self, Follower, ProjectorError},
    read_models::{ReadModelError, ReadModels},
};
use crate::{
    event::AggregateId,
    log::Tip,
    store::{EventStore, StoreError},
};

mod places;

/// Between two looks for events that nobody has asked about.
const EVERY: Duration = Duration::from_secs(1);

/// The file, in the folder of what the world keeps for itself.
const FILE: &str = "contents.sqlite";
/// The configuration's key of that folder.
const KEY: &str = "world.states_path";
/// What problems call it.
const NAME: &str = "the rows of what lies in what";

/// Who asks waits for no more events than that to be taken in.
const BEHIND_MAX: u64 = 10_000;

/// Things that are looked at below one that is moved.
const BELOW_MAX: usize = 100_000;

/// The table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Contents {
    store: Arc<EventStore>,
    rows: Arc<ReadModels>,
    following: Arc<Mutex<Following>>,
}

/// Who takes the events in, and for which rows: they are of this history then.
type Following = Option<(Follower, u64)>;

impl Contents {
    /// Starts the task that takes events in where nobody asks for long.
    pub fn start(store: Arc<EventStore>, settings: &Settings, ends: &Ends) -> Self {
        let (path, wal_max) = (settings.states_path.join(FILE), settings.read_models_wal_max);
        let rows = ReadModels::new(path, wal_max, vec![Box::new(places::Places)]).of_key(KEY);
        let rows = Arc::new(rows.of_log(settings.log_id.clone()).of_ours_alone().named(NAME));
        if let Err(error) = rows.be_there() {
            rows.problems.they_do_not_follow(&error.to_string());
        }
        let contents = Self { store, rows, following: Arc::default() };
        ends.tasks.spawn(contents.clone().follow_now_and_then(ends.stopping.clone()));
        contents
    }

    /// The rows.
    pub fn rows(&self) -> &Arc<ReadModels> {
        &self.rows
    }

    async fn follow_now_and_then(self, stopping: CancellationToken) {
        let mut tip = self.store.sequencer().watch_tip();
        let following = async {
            loop {
                let (contents, ends) = (self.clone(), stopping.clone());
                let followed = tokio::task::spawn_blocking(move || contents.follow(&ends)).await;
                tokio::time::sleep(EVERY).await;
                // After a failure, which is told where it is found, it is tried again although nothing comes.
                let is_at_tip = matches!(followed, Ok(Ok(())));
                if is_at_tip {
                    tokio::select! {
                        changed = tip.changed() => if changed.is_err() { return },
                        () = self.rows.woken.notified() => {}
                    }
                }
            }
        };
        stopping.run_until_cancelled(following).await;
    }

    /// Takes in all events that there are. Who asks comes in between.
    fn follow(&self, stopping: &CancellationToken) -> Result<(), ProjectorError> {
        let tip = self.store.sequencer().tip();
        while !stopping.is_cancelled() && !self.step(&mut self.following(), tip)? {}
        Ok(())
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes some more in; says whether that is all up to the tip. Rows of another history are made anew.
    fn step(&self, following: &mut Following, tip: Tip) -> Result<bool, ProjectorError> {
        match self.try_step(following, tip).or_else(|error| match is_for_now(&error) {
            false if projector::mend(&error, &self.rows, tip.position) => self.try_step(following, tip),
            _ => Err(error),
        }) {
            Ok(is_at_tip) => {
                self.rows.problems.they_follow();
                self.rows.follow_to(self.rows.position());
                Ok(is_at_tip)
            }
            Err(error) => {
                if !is_for_now(&error) {
                    self.rows.problems.they_do_not_follow(&error.to_string());
                }
                Err(error)
            }
        }
    }

    fn try_step(&self, following: &mut Following, tip: Tip) -> Result<bool, ProjectorError> {
        self.rows.be_there()?;
        let generation = self.rows.generation();
        let is_of_this_history = following.as_ref().is_some_and(|(_, its)| *its == generation);
        if is_of_this_history && self.rows.position() >= tip.position {
            return Ok(true);
        }
        let (kept, is_at_end) = projector::follow(&self.store, &self.rows, following.take(), tip)?;
        *following = Some(kept);
        Ok(is_at_end)
    }

    /// Asks the table as it is now. What would take long is not waited for.
    fn ask<T>(&self, query: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, ProjectorError> {
        const TRIES_MAX: usize = 3;
        if let Some(why) = self.rows.problems.why_not() {
            return Err(ReadModelError::NotOpen(why).into());
        }
        let tip = self.store.sequencer().tip();
        for _ in 0..TRIES_MAX {
            let generation = self.follow_soon(tip)?;
            let (answer, position) = self.rows.read(&CancellationToken::new(), &query)?;
            // Unless other rows took the place of those meanwhile.
            if position >= tip.position && self.rows.generation() == generation {
                return Ok(answer);
            }
        }
        Err(ReadModelError::NotOpen(format!("{NAME} are being made anew")).into())
    }

    /// Takes in what is left up to the tip, if that is little. Says which rows these are.
    fn follow_soon(&self, tip: Tip) -> Result<u64, ProjectorError> {
        let mut following = self.following();
        loop {
            let behind = tip.position.0.saturating_sub(self.rows.position().0);
            if behind > BEHIND_MAX {
                return Err(ReadModelError::NotOpen(format!("{NAME} are {behind} events behind")).into());
            }
            if self.step(&mut following, tip)? {
                return Ok(self.rows.generation());
            }
        }
    }

    /// What lies directly in an object, by id, as far as that may be moved, and one more. What is known already is not looked
    /// up.
    ///
    /// # Errors
    /// The table can't be read.
    pub fn of(&self, id: &AggregateId, known: &Known) -> Result<Vec<AggregateId>, ProjectorError> {
        let sql = "SELECT id FROM places
             WHERE container_id = ?1 AND id NOT IN (SELECT value ->> 0 FROM json_each(?2)) ORDER BY id LIMIT ?3";
        let found: Vec<String> = self.ask(|rows| {
            let mut query = rows.prepare_cached(sql)?;
            let count = number(Becomes::MOVED_MAX + 1);
            query.query_map(params![id.as_str(), json(known), count], |row| row.get(0))?.collect()
        })?;
        let found = found.iter().filter_map(|id| AggregateId::new(id).ok());
        let here = known.places().filter(|(_, container)| *container == Some(id)).map(|(id, _)| id.clone());
        let mut all: Vec<AggregateId> = found.chain(here).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// How many steps down things lie in an object, as far as that counts.
    ///
    /// # Errors
    /// The table can't be read.
    pub fn height(&self, id: &AggregateId, known: &Known) -> Result<usize, ProjectorError> {
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
        // One more is too many already.
        let (steps, below) = (number(CONTAINERS_MAX + 1), number(BELOW_MAX));
        let steps: i64 = self.ask(|rows| {
            let mut query = rows.prepare_cached(sql)?;
            query.query_row(params![id.as_str(), json(known), steps, below], |row| row.get(0))
        })?;
        Ok(usize::try_from(steps).unwrap_or_default())
    }

    /// What a room that is to be deleted leaves behind.
    ///
    /// # Errors
    /// The table can't be read.
    pub fn left_behind(&self, room: &AggregateId, known: &Known) -> Result<LeftBehind, ProjectorError> {
        let exits = "SELECT room_id, direction FROM exits
             WHERE target_room_id = ?1 AND room_id NOT IN (SELECT value ->> 0 FROM json_each(?3))
             ORDER BY room_id, direction LIMIT ?2";
        let players = "SELECT id FROM places WHERE container_id = ?1 AND aggregate_type = 'Player'
             AND id NOT IN (SELECT value ->> 0 FROM json_each(?3)) ORDER BY id LIMIT ?2";
        let (known, count) = (json(known), number(LeftBehind::NAMED_MAX));
        self.ask(|rows| {
            let exits = rows
                .prepare_cached(exits)?
                .query_map(params![room.as_str(), count, known], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let players = rows
                .prepare_cached(players)?
                .query_map(params![room.as_str(), count, known], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(LeftBehind { exits, players })
        })
    }
}

/// While the service starts or copies nothing can be read yet.
fn is_for_now(error: &ProjectorError) -> bool {
    matches!(error, ProjectorError::Store(StoreError::Unavailable(_)))
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is known already: each object, and what it lies in.
fn json(known: &Known) -> String {
    let place = |(id, container): Place<'_>| (id.as_str().to_owned(), container.map(ToString::to_string));
    let places: Vec<_> = known.places().map(place).collect();
    serde_json::to_string(&places).unwrap_or_default()
}
