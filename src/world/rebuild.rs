//! Rebuilding the world: every event of every aggregate is replayed and checked, and the read models are made anew
//! beside the live ones, compared with them, and put in their place where they differ.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    aggregate::Kind,
    error::{Damage, WorldError},
    projector::{Follower, ProjectorError, project_anew},
    read_models::{ReadModelError, ReadModels, Tables, files},
    replay::{self, Source},
};
use crate::{
    event::{AggregateId, Position, SequenceNumber},
    log::Tip,
    store::{EventStore, StoreError, Unavailable},
};

/// So many findings are named; the others are counted.
const NAMED_MAX: usize = 1000;

/// Aggregates that are listed at a time.
const PAGE: usize = 1000;

/// What it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Replaying,
    Projecting,
    Comparing,
    Swapping,
}

/// How far a rebuild is, for whoever watches it. Replaying and projecting go on side by side.
#[derive(Debug, Default)]
pub struct Watched {
    /// Events in all.
    pub total: AtomicU64,
    pub replayed: AtomicU64,
    pub projected: AtomicU64,
    /// What it is at behind these two.
    later: Mutex<Option<Step>>,
}

impl Watched {
    fn enter(&self, step: Step) {
        *self.later.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    /// What it is at, and how many events of that are done.
    pub fn step(&self) -> (Step, u64) {
        let later = *self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let done = |count: &AtomicU64| count.load(Ordering::Relaxed);
        match later {
            Some(step) => (step, done(&self.total)),
            // The one that is behind says how long it takes.
            None if done(&self.replayed) < done(&self.projected) => (Step::Replaying, done(&self.replayed)),
            None => (Step::Projecting, done(&self.projected)),
        }
    }
}

/// What a rebuild found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub aggregates: u64,
    pub events: u64,
    pub damaged: Findings,
    /// Events that are passed over from now on.
    pub repaired: Findings,
    pub warnings: Findings,
    /// Rows in which the live tables differed from what they should be.
    pub differences: BTreeMap<String, u64>,
    pub reached: Position,
    pub took: Duration,
}

/// What was found: the first, and how much in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub named: Vec<Finding>,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub aggregate_id: String,
    /// 0: it is about no event.
    pub sequence: SequenceNumber,
    pub problem: String,
}

impl Findings {
    pub(super) fn add(&mut self, aggregate_id: &str, sequence: SequenceNumber, problem: String) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < NAMED_MAX {
            self.named.push(Finding { aggregate_id: aggregate_id.to_owned(), sequence, problem });
        }
    }
}

/// All of it. May take long; `watched` says how far it is.
///
/// # Errors
/// The events or the tables can't be read or written. Damaged aggregates are no error, but are reported.
pub fn rebuild(
    source: &Source,
    (read_models, contents): (&ReadModels, &ReadModels),
    watched: &Watched,
    stopping: &CancellationToken,
) -> Result<Report, WorldError> {
    let began = Instant::now();
    watched.total.store(source.store.sequencer().tip().position.0, Ordering::Relaxed);
    read_models.check_owner(&beside(read_models))?;
    let rebuilt = rebuild_beside(source, read_models, watched, stopping);
    let removed = files::remove(&beside(read_models));
    let mut report = rebuilt?;
    removed?;
    rebuild_contents(&source.store, contents, &mut report, stopping);
    report.took = began.elapsed();
    info!(
        aggregates = report.aggregates,
        events = report.events,
        damaged = report.damaged.count,
        warnings = report.warnings.count,
        differences = ?report.differences,
        took = ?report.took,
        "the world was rebuilt"
    );
    Ok(report)
}

/// Replays and projects side by side, then compares.
fn rebuild_beside(
    source: &Source,
    read_models: &ReadModels,
    watched: &Watched,
    stopping: &CancellationToken,
) -> Result<Report, WorldError> {
    let store = &*source.store;
    let path = beside(read_models);
    let (replayed, projected) = std::thread::scope(|scope| {
        let projecting = scope.spawn(|| {
            project_anew(store, &path, read_models.projections(), |done| {
                watched.projected.store(done.0, Ordering::Relaxed);
                go_on(stopping)
            })
        });
        let replayed = replay_all(source, &watched.replayed, stopping);
        // What is of no aggregate of the world counts as replayed.
        watched.replayed.store(watched.total.load(Ordering::Relaxed), Ordering::Relaxed);
        let panicked = |_| Err(ProjectorError::ReadModels(rusqlite::Error::InvalidQuery.into()));
        (replayed, projecting.join().unwrap_or_else(panicked))
    });
    let mut report = replayed?;
    let (tables, follower) = match projected {
        Ok(projected) => projected,
        // The order of all events ends there for the read models; what each aggregate has is told all the same.
        Err(ProjectorError::Store(error @ StoreError::Damaged(_))) => {
            let problem = format!("the read models can't be made anew: {error}");
            report.damaged.add("", SequenceNumber(0), problem);
            report.reached = read_models.position();
            return Ok(report);
        }
        Err(error) => return Err(error.into()),
    };
    warn_of_nowhere(tables.rows(), &mut report.warnings)?;
    replace(store, read_models, tables, follower, &mut report, watched)?;
    Ok(report)
}

/// The table of what lies in what is no read model of anybody's, and stops no rebuild.
fn rebuild_contents(
    store: &EventStore,
    contents: &ReadModels,
    report: &mut Report,
    stopping: &CancellationToken,
) {
    let path = beside(contents);
    let mut rebuild = || -> Result<(), WorldError> {
        contents.check_owner(&path)?;
        let (tables, follower) = project_anew(store, &path, contents.projections(), |_| go_on(stopping))?;
        // It neither counts as a step, nor says how far the read models are.
        let mut its = Report::default();
        replace(store, contents, tables, follower, &mut its, &Watched::default())?;
        report.differences.extend(its.differences);
        Ok(())
    };
    if let Err(error) = rebuild() {
        warn!(%error, "the table of what lies in what was not made anew");
    }
    if let Err(error) = files::remove(&path) {
        warn!(%error, "the table of what lies in what left a file behind");
    }
}

fn beside(read_models: &ReadModels) -> PathBuf {
    files::with_suffix(read_models.path(), ".rebuilding")
}

/// Not when the service ends.
fn go_on(stopping: &CancellationToken) -> Result<(), StoreError> {
    match stopping.is_cancelled() {
        true => Err(StoreError::Unavailable(Unavailable::ShuttingDown)),
        false => Ok(()),
    }
}

/// Replays every aggregate of the world from its first event, and checks the state that is kept of it against that.
fn replay_all(
    source: &Source,
    replayed: &AtomicU64,
    stopping: &CancellationToken,
) -> Result<Report, WorldError> {
    let mut report = Report::default();
    let mut after: Option<AggregateId> = None;
    loop {
        go_on(stopping)?;
        let page = source.store.aggregates("", "", after.as_ref(), PAGE)?;
        for (id, head) in &page.aggregates {
            if Kind::of(&head.aggregate_type).is_none() {
                continue;
            }
            report.aggregates = report.aggregates.saturating_add(1);
            report.events = report.events.saturating_add(head.last.0);
            match replay::check(source, id) {
                Ok((loaded, wrong)) => {
                    if loaded.passed_over > 0 {
                        let problem =
                            format!("{} of its events are passed over, by a repair", loaded.passed_over);
                        report.warnings.add(id.as_str(), SequenceNumber(0), problem);
                    }
                    if let Some(wrong) = wrong {
                        report.warnings.add(id.as_str(), wrong, remove_state(source, id));
                    }
                }
                Err(WorldError::Damaged(Damage { id, sequence, problem })) => {
                    report.damaged.add(id.as_str(), sequence, problem.to_string());
                }
                // What can't be read back is one aggregate's trouble, too.
                Err(WorldError::Store(error @ StoreError::Damaged(_))) => {
                    report.damaged.add(id.as_str(), SequenceNumber(0), error.to_string());
                }
                Err(error) => return Err(error),
            }
            replayed.store(report.events, Ordering::Relaxed);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(report),
        }
    }
}

/// It is not what the events lead to. Says so, and what became of it.
fn remove_state(source: &Source, id: &AggregateId) -> String {
    match source.states.remove(id) {
        Ok(()) => "the state that was kept is not what its events lead to, and was removed".to_owned(),
        Err(error) => {
            format!("the state that is kept is not what its events lead to, and stays: {error}")
        }
    }
}

/// Exits and containers that are not there.
fn warn_of_nowhere(rows: &Connection, warnings: &mut Findings) -> Result<(), ReadModelError> {
    let mut exits = rows.prepare(
        "SELECT room_id, direction, target_room_id FROM room_exits
         WHERE NOT EXISTS (SELECT 1 FROM rooms WHERE id = target_room_id) ORDER BY room_id, direction",
    )?;
    let mut found = exits.query([])?;
    while let Some(row) = found.next()? {
        let (room, direction, target): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let problem = format!("its exit {direction:?} leads to {target}, which is no room");
        warnings.add(&room, SequenceNumber(0), problem);
    }
    let mut contained = rows.prepare(
        "SELECT id, container_id FROM game_objects AS inner WHERE container_id IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM game_objects WHERE id = inner.container_id) ORDER BY id",
    )?;
    let mut found = contained.query([])?;
    while let Some(row) = found.next()? {
        let (id, container): (String, String) = (row.get(0)?, row.get(1)?);
        warnings.add(&id, SequenceNumber(0), format!("it lies in {container}, which does not exist"));
    }
    Ok(())
}

/// Brings the new tables to where the live ones are, compares them, and puts them in their place where they differ.
fn replace(
    store: &EventStore,
    read_models: &ReadModels,
    mut tables: Tables,
    mut follower: Follower,
    report: &mut Report,
    watched: &Watched,
) -> Result<(), WorldError> {
    read_models.be_there()?;
    let mut stands_still = false;
    let comparing = attached(read_models)?;
    // First while the live ones go on, so that they stand still only for what is left then.
    bring_up(&mut follower, &mut tables, read_models, store.sequencer().tip())?;
    let tip = {
        let mut live = read_models.writer();
        let tip = store.sequencer().tip();
        bring_up(&mut follower, &mut tables, read_models, tip)?;
        let live = live.as_mut().ok_or_else(|| read_models.not_open())?;
        // Where the live ones take nothing any more, others take their place in any case.
        if let Err(error) = bring_live_up(store, live, read_models, tip) {
            warn!(%error, "the live read models take no events any more");
            stands_still = true;
        }
        // From here on the comparison sees the live ones as they are now, and they go on.
        let pin = "BEGIN; SELECT count(*) FROM main.projections";
        comparing.execute_batch(pin).map_err(ReadModelError::from)?;
        tip
    };
    report.reached = tip.position;
    watched.enter(Step::Comparing);
    let differences = differences(&comparing, read_models);
    drop(comparing);
    if stands_still || differences.values().any(|count| *count > 0) {
        watched.enter(Step::Swapping);
        warn!(?differences, "the read models were not what the events make of them");
        let mut live = read_models.writer();
        let live = live.as_mut().ok_or_else(|| read_models.not_open())?;
        read_models.bound_wal(live)?;
        let tip = store.sequencer().tip();
        bring_up(&mut follower, &mut tables, read_models, tip)?;
        read_models.name_log(&tables)?;
        live.become_like(&tables)?;
        read_models.changed();
        report.reached = tip.position;
        read_models.reach(live.reached(), tip.position);
    }
    report.differences = differences;
    Ok(())
}

fn bring_live_up(
    store: &EventStore,
    live: &mut Tables,
    read_models: &ReadModels,
    tip: Tip,
) -> Result<(), WorldError> {
    let mut its = Follower::behind(store, live, read_models.projections())?;
    bring_up(&mut its, live, read_models, tip)
}

fn bring_up(
    follower: &mut Follower,
    tables: &mut Tables,
    read_models: &ReadModels,
    tip: Tip,
) -> Result<(), WorldError> {
    while !follower.step(tables, read_models.projections(), tip)? {}
    Ok(())
}

/// A connection to the live tables, as `main`, and to the new ones, as `anew`.
fn attached(read_models: &ReadModels) -> Result<Connection, ReadModelError> {
    let connection = read_models.reader()?;
    connection.execute("ATTACH DATABASE ?1 AS anew", [beside(read_models).to_string_lossy()])?;
    Ok(connection)
}

/// Rows that are in one and not in the other, by table. A table that can't be read has one at least.
fn differences(comparing: &Connection, read_models: &ReadModels) -> BTreeMap<String, u64> {
    let count =
        |sql: &str| -> Result<i64, rusqlite::Error> { comparing.query_row(sql, [], |row| row.get(0)) };
    let missing = |table: &str, one: &str, other: &str| {
        count(&format!(
            "SELECT count(*) FROM (SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {other}.{table})"
        ))
    };
    let differing = |table: &str| -> Result<i64, rusqlite::Error> {
        // A row that is there twice is missing nowhere.
        let rows = |schema: &str| count(&format!("SELECT count(*) FROM {schema}.{table}"));
        let more = rows("main")?.abs_diff(rows("anew")?).cast_signed();
        Ok(missing(table, "main", "anew")?.max(missing(table, "anew", "main")?).max(more))
    };
    let tables = read_models.projections().iter().flat_map(|projection| projection.tables());
    let counted = tables.map(|table| {
        let count = differing(table).unwrap_or_else(|error| {
            warn!(table, %error, "a live table can't be read");
            1
        });
        ((*table).to_owned(), count.cast_unsigned())
    });
    counted.collect()
}
