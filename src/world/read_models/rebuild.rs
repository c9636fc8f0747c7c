//! Rebuilds the world. Replays and checks every event of every aggregate, builds new read models
//! next to the live ones, compares the two, and replaces the live ones if they differ.
//!
//! The live tables stay in use meanwhile. Damaged aggregates are reported here; repairing them is
//! left to the commands.

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
    ReadModelError, ReadModels, Tables, files,
    projector::{BuiltTables, Follower, ProjectorError, build_tables},
};
use crate::{
    error::{StoreError, Unavailable},
    event::{AggregateId, Position, SequenceNumber},
    store::{AggregateFilter, EventStore, Tip},
    world::{
        error::{AggregateDamage, WorldError},
        history::replay::{self, AggregateSource},
        model::aggregate::Kind,
    },
};

/// The maximum number of findings that are named. The others are only counted.
const NAMED_MAX: usize = 1000;

/// The number of aggregates listed at a time.
const PAGE: usize = 1000;

/// What a rebuild is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildPhase {
    /// The events of each aggregate are replayed and checked.
    Replaying,
    /// New read models are built.
    Projecting,
    /// The new read models are compared with the live ones.
    Comparing,
    /// The live read models are replaced. Skipped if they are correct.
    Swapping,
}

/// The progress of a rebuild. Replaying and projecting run in parallel.
#[derive(Debug, Default)]
pub struct RebuildProgress {
    /// The number of events in total.
    pub total: AtomicU64,
    /// The number of replayed events. At the end, events outside the world are included.
    pub replayed: AtomicU64,
    /// The position that the new read models have reached.
    pub projected: AtomicU64,
    /// The step after replaying and projecting, once it has been reached.
    later: Mutex<Option<RebuildPhase>>,
}

impl RebuildProgress {
    fn enter(&self, step: RebuildPhase) {
        *self.later.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    /// Returns the current step, and how many of its events are done.
    pub fn step(&self) -> (RebuildPhase, u64) {
        let later = *self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let done = |count: &AtomicU64| count.load(Ordering::Relaxed);
        match later {
            Some(step) => (step, done(&self.total)),
            // The one that lags behind determines how long it takes.
            None if done(&self.replayed) < done(&self.projected) => {
                (RebuildPhase::Replaying, done(&self.replayed))
            }
            None => (RebuildPhase::Projecting, done(&self.projected)),
        }
    }
}

/// The result of a rebuild.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The number of aggregates of the world.
    pub aggregates: u64,
    /// The number of their events, including excluded ones.
    pub events: u64,
    /// Aggregates with a damaged history, and damage that prevents new read models.
    pub damaged: Findings,
    /// Events that are excluded from now on.
    pub repaired: Findings,
    /// Irregularities that are not damage, for example dangling exits.
    pub warnings: Findings,
    /// The number of rows in which the live tables differed from the correct ones, by table.
    pub differences: BTreeMap<String, u64>,
    /// The read models include all events up to this position.
    pub reached: Position,
    /// The duration without the repairs.
    pub took: Duration,
}

/// The first findings of a kind, and how many there are in total.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first findings. The others are only counted.
    pub named: Vec<Finding>,
    /// The total number of findings.
    pub count: u64,
}

/// A finding of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Empty if the finding is not about one aggregate.
    pub aggregate_id: String,
    /// 0 if the finding is not about an event.
    pub sequence: SequenceNumber,
    /// A description of the finding.
    pub problem: String,
}

impl Findings {
    pub(crate) fn add(&mut self, aggregate_id: &str, sequence: SequenceNumber, problem: String) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < NAMED_MAX {
            self.named.push(Finding { aggregate_id: aggregate_id.to_owned(), sequence, problem });
        }
    }
}

/// Runs a whole rebuild. May take long; `watched` shows the progress.
///
/// # Errors
/// Returns an error if the events or the tables cannot be read or written. Damaged aggregates are
/// no error, but are reported.
pub fn rebuild(
    source: &AggregateSource,
    (read_models, contents): (&ReadModels, &ReadModels),
    watched: &RebuildProgress,
    stopping: &CancellationToken,
) -> Result<Report, WorldError> {
    let began = Instant::now();
    watched.total.store(source.store.tip().position.0, Ordering::Relaxed);
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
        "rebuilt the world"
    );
    Ok(report)
}

/// Replays and projects in parallel, then compares.
fn rebuild_beside(
    source: &AggregateSource,
    read_models: &ReadModels,
    watched: &RebuildProgress,
    stopping: &CancellationToken,
) -> Result<Report, WorldError> {
    let store = &*source.store;
    let path = beside(read_models);
    let (replayed, projected) = std::thread::scope(|scope| {
        let projecting = scope.spawn(|| {
            build_tables(store, &path, read_models.projections(), |done| {
                watched.projected.store(done.0, Ordering::Relaxed);
                go_on(stopping)
            })
        });
        let replayed = replay_all(source, &watched.replayed, stopping);
        // Events that belong to no aggregate of the world count as replayed.
        watched.replayed.store(watched.total.load(Ordering::Relaxed), Ordering::Relaxed);
        let panicked = |_| Err(ProjectorError::ReadModels(rusqlite::Error::InvalidQuery.into()));
        (replayed, projecting.join().unwrap_or_else(panicked))
    });
    let mut report = replayed?;
    let built = match projected {
        Ok(built) => built,
        // The read models cannot get past this point in the order of events. What was found in the
        // aggregates is reported all the same.
        Err(ProjectorError::Store(error @ StoreError::Damaged(_))) => {
            let problem = format!("cannot rebuild the read models: {error}");
            report.damaged.add("", SequenceNumber(0), problem);
            report.reached = read_models.position();
            return Ok(report);
        }
        Err(error) => return Err(error.into()),
    };
    warn_dangling_refs(built.tables.rows(), &mut report.warnings)?;
    replace(store, read_models, built, &mut report, watched)?;
    Ok(report)
}

/// Rebuilds the container table. It is not a read model for clients, so a failure does not stop the
/// rebuild.
fn rebuild_contents(
    store: &EventStore,
    contents: &ReadModels,
    report: &mut Report,
    stopping: &CancellationToken,
) {
    let path = beside(contents);
    let mut rebuild = || -> Result<(), WorldError> {
        contents.check_owner(&path)?;
        let built = build_tables(store, &path, contents.projections(), |_| go_on(stopping))?;
        // The container table does not count as a step, and does not tell the position of the read
        // models.
        let mut its = Report::default();
        replace(store, contents, built, &mut its, &RebuildProgress::default())?;
        report.differences.extend(its.differences);
        Ok(())
    };
    if let Err(error) = rebuild() {
        warn!(%error, "cannot rebuild the container table");
    }
    if let Err(error) = files::remove(&path) {
        warn!(%error, "cannot remove a temporary file of the container table");
    }
}

fn beside(read_models: &ReadModels) -> PathBuf {
    files::with_suffix(read_models.path(), ".rebuilding")
}

/// Returns an error if the service is shutting down.
fn go_on(stopping: &CancellationToken) -> Result<(), StoreError> {
    if stopping.is_cancelled() { Err(StoreError::Unavailable(Unavailable::ShuttingDown)) } else { Ok(()) }
}

/// Replays every aggregate of the world from its first event, and compares its stored state with
/// the result.
fn replay_all(
    source: &AggregateSource,
    replayed: &AtomicU64,
    stopping: &CancellationToken,
) -> Result<Report, WorldError> {
    let mut report = Report::default();
    let mut after: Option<AggregateId> = None;
    loop {
        go_on(stopping)?;
        let page = source.store.aggregates(&AggregateFilter::default(), after.as_ref(), PAGE)?;
        for (id, head) in &page.aggregates {
            if Kind::of(&head.aggregate_type).is_none() {
                continue;
            }
            report.aggregates = report.aggregates.saturating_add(1);
            report.events = report.events.saturating_add(head.last.0);
            match replay::check(source, id) {
                Ok((loaded, wrong)) => {
                    if loaded.passed_over > 0 {
                        let problem = format!(
                            "{} of its events are excluded from replay by repairs",
                            loaded.passed_over
                        );
                        report.warnings.add(id.as_str(), SequenceNumber(0), problem);
                    }
                    if let Some(wrong) = wrong {
                        report.warnings.add(id.as_str(), wrong, remove_state(source, id));
                    }
                }
                Err(WorldError::Damaged(AggregateDamage { id, sequence, problem })) => {
                    report.damaged.add(id.as_str(), sequence, problem.to_string());
                }
                // Data that cannot be read is also a problem of one aggregate.
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

/// Removes a stored state that differs from the result of the replay. Returns a message about it
/// and the outcome.
fn remove_state(source: &AggregateSource, id: &AggregateId) -> String {
    match source.states.remove(id) {
        Ok(()) => "the stored state differed from the result of the replay and was removed".to_owned(),
        Err(error) => {
            format!(
                "the stored state differs from the result of the replay and could not be removed: \
             {error}"
            )
        }
    }
}

/// Warns about exits and containers that do not exist.
fn warn_dangling_refs(rows: &Connection, warnings: &mut Findings) -> Result<(), ReadModelError> {
    let mut exits = rows.prepare(
        "SELECT room_id, direction, target_room_id FROM room_exits
         WHERE NOT EXISTS (SELECT 1 FROM rooms WHERE id = target_room_id) ORDER BY room_id, direction",
    )?;
    let mut found = exits.query([])?;
    while let Some(row) = found.next()? {
        let (room, direction, target): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let problem = format!("its exit {direction:?} leads to {target}, which is not a room");
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

/// Brings the new tables to the position of the live ones, compares the two, and replaces the live
/// ones if they differ.
fn replace(
    store: &EventStore,
    read_models: &ReadModels,
    built: BuiltTables,
    report: &mut Report,
    watched: &RebuildProgress,
) -> Result<(), WorldError> {
    let BuiltTables { mut tables, mut follower } = built;
    read_models.ensure_exists()?;
    let mut stands_still = false;
    let comparing = attached(read_models)?;
    // Catch up first while the live tables continue, so that they stop only for the rest.
    catch_up(&mut follower, &mut tables, read_models, store.tip())?;
    let tip = {
        let mut live = read_models.writer();
        let tip = store.tip();
        catch_up(&mut follower, &mut tables, read_models, tip)?;
        let live = live.as_mut().ok_or_else(|| read_models.not_open())?;
        // If the live tables cannot be updated, they are replaced in any case.
        if let Err(error) = catch_live_up(store, live, read_models, tip) {
            warn!(%error, "cannot update the live read models");
            stands_still = true;
        }
        // From here on the comparison sees the live tables as they are now, and they continue.
        let pin = "BEGIN; SELECT count(*) FROM main.projections";
        comparing.execute_batch(pin).map_err(ReadModelError::from)?;
        tip
    };
    report.reached = tip.position;
    watched.enter(RebuildPhase::Comparing);
    let differences = differences(&comparing, read_models);
    drop(comparing);
    if stands_still || differences.values().any(|count| *count > 0) {
        watched.enter(RebuildPhase::Swapping);
        warn!(?differences, "the read models differed from the events and are replaced");
        let mut live = read_models.writer();
        let live = live.as_mut().ok_or_else(|| read_models.not_open())?;
        read_models.bound_wal(live)?;
        let tip = store.tip();
        catch_up(&mut follower, &mut tables, read_models, tip)?;
        read_models.name_log(&tables)?;
        live.restore_from(&tables)?;
        read_models.changed();
        report.reached = tip.position;
        read_models.reach(live.reached(), tip.position);
    }
    report.differences = differences;
    Ok(())
}

fn catch_live_up(
    store: &EventStore,
    live: &mut Tables,
    read_models: &ReadModels,
    tip: Tip,
) -> Result<(), WorldError> {
    let mut its = Follower::after(store, live, read_models.projections())?;
    catch_up(&mut its, live, read_models, tip)
}

fn catch_up(
    follower: &mut Follower,
    tables: &mut Tables,
    read_models: &ReadModels,
    tip: Tip,
) -> Result<(), WorldError> {
    while !follower.step(tables, read_models.projections(), tip)? {}
    Ok(())
}

/// Opens a connection to the live tables as `main`, and to the new ones as `rebuilt`.
fn attached(read_models: &ReadModels) -> Result<Connection, ReadModelError> {
    let connection = read_models.reader()?;
    connection.execute("ATTACH DATABASE ?1 AS rebuilt", [beside(read_models).to_string_lossy()])?;
    Ok(connection)
}

/// Counts the rows that are in only one of the two, by table. A table that cannot be read counts as
/// at least one.
fn differences(comparing: &Connection, read_models: &ReadModels) -> BTreeMap<String, u64> {
    let count =
        |sql: &str| -> Result<i64, rusqlite::Error> { comparing.query_row(sql, [], |row| row.get(0)) };
    let missing = |table: &str, one: &str, other: &str| {
        count(&format!(
            "SELECT count(*) FROM (SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {other}.{table})"
        ))
    };
    let differing = |table: &str| -> Result<i64, rusqlite::Error> {
        // A duplicate row is not missing on either side.
        let rows = |schema: &str| count(&format!("SELECT count(*) FROM {schema}.{table}"));
        let more = rows("main")?.abs_diff(rows("rebuilt")?).cast_signed();
        Ok(missing(table, "main", "rebuilt")?.max(missing(table, "rebuilt", "main")?).max(more))
    };
    let tables = read_models.projections().iter().flat_map(|projection| projection.tables());
    let counted = tables.map(|table| {
        let count = differing(table).unwrap_or_else(|error| {
            warn!(table, %error, "cannot read a live table");
            1
        });
        ((*table).to_owned(), count.cast_unsigned())
    });
    counted.collect()
}
