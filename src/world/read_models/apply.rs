//! Applies the events of one transaction, and contains the mistakes of projections: a projection
//! either applies an event completely or skips it without affecting the others, and the transaction
//! stays consistent.
//!
//! An error of the environment (a full disk, a lock) ends the transaction, and is retried later.
//! Any other error is a mistake of the projection, which a retry would only repeat.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use rusqlite::{
    Connection, Error, ErrorCode, OptionalExtension, Result, Transaction,
    hooks::{AuthAction, AuthContext, Authorization},
    params,
};

use super::{
    checkpoint::Checkpoint,
    problems::Problems,
    projections::{ProjectedEvent, Projection},
};
use crate::{
    event::{Position, RecordedEvent},
    world::model::event::WorldEvent,
};

/// The maximum number of times that one projection may roll back a transaction. After that it skips
/// all events of the transaction, because each rollback requires all events to be applied again.
const ROLLBACKS_MAX: usize = 4;

/// The name of our savepoints.
const SAVEPOINT: &str = "_event";

/// A panic, with its message if it had one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(String);

impl Panicked {
    /// Extracts the message from the payload of a panic.
    pub fn with(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "no message".to_owned()))
    }
}

/// What a projection did to the transaction instead of to its rows.
#[derive(Debug, thiserror::Error)]
enum ProjectionFault {
    #[error("the projection rolled back the transaction")]
    RolledBack,
    #[error("the projection rolled back the transaction: {0}")]
    RolledBackWith(Error),
    #[error("rows of {table} refer to rows that do not exist (FOREIGN KEY)")]
    ForeignKey { table: String },
    #[error("the projection rolled back the transaction {ROLLBACKS_MAX} times")]
    RolledBackOften,
}

impl From<ProjectionFault> for Error {
    fn from(mistake: ProjectionFault) -> Self {
        Self::ToSqlConversionFailure(Box::new(mistake))
    }
}

/// Another program removed a table.
#[derive(Debug, thiserror::Error)]
#[error("the table {table} is missing")]
struct MissingTable {
    table: &'static str,
}

/// Returns whether an error comes from the machine, the disk or another program, and not from a
/// statement of a projection.
pub(super) fn is_of_the_environment(error: &Error) -> bool {
    use ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, FileLockingProtocolFailed,
        NoLargeFileSupport, NotADatabase, OperationInterrupted, OutOfMemory, PermissionDenied, ReadOnly,
        SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseCorrupt
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | NoLargeFileSupport
                | NotADatabase
                | OperationInterrupted
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure
        )
    )
}

/// Keeps the statements of projections from beginning, committing or rolling back the transaction,
/// which is not theirs, and from releasing our savepoints. SQLite checks each statement when it is
/// prepared.
///
/// # Errors
/// Returns an error if the database fails.
pub(super) fn guard(rows: &mut Connection) -> Result<()> {
    rows.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::Transaction { .. } if is_projecting() => Authorization::Deny,
        AuthAction::Savepoint { savepoint_name, .. } if is_projecting() && savepoint_name == SAVEPOINT => {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    }))
}

std::thread_local! {
    /// Whether a projection is running on this thread.
    static PROJECTING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn is_projecting() -> bool {
    PROJECTING.get()
}

/// The events of one transaction, and the projections that apply them.
struct EventBatch<'b> {
    events: Vec<&'b RecordedEvent>,
    projections: &'b [Box<dyn Projection>],
    /// Where the tables are after the transaction.
    reached: Checkpoint,
}

/// What one transaction skips.
#[derive(Default)]
struct SkippedWork {
    /// Single events, by the index of the projection.
    events: BTreeSet<(usize, Position)>,
    rollbacks: BTreeMap<usize, usize>,
    /// Projections that skip all events of the transaction, with the reason.
    wholly: BTreeMap<usize, String>,
    /// The skipped events to report once the transaction is committed.
    told: Vec<(&'static str, Position, Error)>,
}

/// The outcome of an attempt.
enum Tried {
    Committed,
    /// The projection ended the transaction, at this event.
    RolledBack(usize, Position, Error),
    /// Rows of these projections refer to rows that do not exist.
    Dangling(BTreeMap<usize, String>),
}

/// Applies the events after `after`, in one transaction with `reached`.
///
/// # Errors
/// Returns an error if the environment fails. No event has been applied then.
pub(super) fn apply_events(
    rows: &mut Connection,
    projections: &[Box<dyn Projection>],
    events: &[RecordedEvent],
    (after, reached): (Position, Checkpoint),
    problems: &Problems,
) -> Result<()> {
    let events = events.iter().filter(|event| event.position > after).collect();
    let batch = EventBatch { events, projections, reached };
    let mut without = SkippedWork::default();
    // First without savepoints, which is enough as long as nothing goes wrong.
    if let Some(Tried::Committed) = attempt(rows, &batch, &mut without, false)? {
        return Ok(());
    }
    loop {
        without.told.clear();
        match attempt(rows, &batch, &mut without, true)? {
            None | Some(Tried::Committed) => break,
            Some(Tried::RolledBack(number, position, error)) => {
                without.events.insert((number, position));
                let rollbacks = without.rollbacks.entry(number).or_default();
                *rollbacks += 1;
                if *rollbacks >= ROLLBACKS_MAX {
                    without.wholly.insert(number, ProjectionFault::RolledBackOften.to_string());
                }
                if let Some(projection) = projections.get(number) {
                    problems.record_skipped(projection.name(), position, &error);
                }
            }
            Some(Tried::Dangling(found)) => without.wholly.extend(found),
        }
    }
    for (projection, position, error) in without.told {
        problems.record_skipped(projection, position, &error);
    }
    Ok(())
}

/// Makes one attempt. Returns `None` if an event has to be skipped, which requires savepoints.
fn attempt(
    rows: &mut Connection,
    batch: &EventBatch<'_>,
    without: &mut SkippedWork,
    with_savepoints: bool,
) -> Result<Option<Tried>> {
    let transaction = rows.transaction()?;
    for recorded in &batch.events {
        let happened = WorldEvent::read(recorded).ok();
        let event = ProjectedEvent { recorded, happened: happened.as_ref() };
        for (number, projection) in batch.projections.iter().enumerate() {
            if !projection.aggregate_types().contains(&event.aggregate_type())
                || without.events.contains(&(number, recorded.position))
            {
                continue;
            }
            if let Some(why) = without.wholly.get(&number) {
                let error = Error::ToSqlConversionFailure(why.clone().into());
                without.told.push((projection.name(), recorded.position, error));
                continue;
            }
            if with_savepoints {
                transaction.execute_batch(&format!("SAVEPOINT {SAVEPOINT}"))?;
            }
            let applied = apply(&transaction, &**projection, &event);
            if applied.as_ref().is_err_and(is_of_the_environment) {
                return applied.map(|()| None);
            }
            if transaction.is_autocommit() {
                let error = match applied {
                    Err(error) => ProjectionFault::RolledBackWith(error),
                    Ok(()) => ProjectionFault::RolledBack,
                };
                return Ok(Some(Tried::RolledBack(number, recorded.position, error.into())));
            }
            match applied {
                Err(_) if !with_savepoints => return Ok(None),
                Err(error) => {
                    transaction.execute_batch(&format!("ROLLBACK TO {SAVEPOINT}; RELEASE {SAVEPOINT}"))?;
                    missing_table(&transaction, &**projection)?;
                    without.told.push((projection.name(), recorded.position, error));
                }
                Ok(()) if with_savepoints => transaction.execute_batch(&format!("RELEASE {SAVEPOINT}"))?,
                Ok(()) => {}
            }
        }
    }
    transaction
        .prepare_cached("UPDATE projections SET position = ?1, hash = ?2")?
        .execute(params![batch.reached.position.0.cast_signed(), batch.reached.hash.0])?;
    commit(transaction, batch.projections, &without.wholly)
}

/// Commits the transaction. Deferred foreign keys are checked only here, and it is unknown which
/// event broke one. Skips the projections whose rows refer to others. If that is not enough, skips
/// those whose rows are referred to, and finally all.
fn commit(
    transaction: Transaction<'_>,
    projections: &[Box<dyn Projection>],
    passed_over: &BTreeMap<usize, String>,
) -> Result<Option<Tried>> {
    let error = match transaction.execute_batch("COMMIT") {
        Ok(()) => return Ok(Some(Tried::Committed)),
        Err(error) => error,
    };
    if error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation) {
        return Err(error);
    }
    let mut check = transaction.prepare("SELECT DISTINCT \"table\", parent FROM pragma_foreign_key_check")?;
    let broken = check.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let broken = broken.collect::<Result<Vec<(String, String)>>>()?;
    let owns = |number: usize, table: &String| {
        projections.get(number).is_some_and(|projection| projection.tables().contains(&table.as_str()))
    };
    let left = || (0..projections.len()).filter(|number| !passed_over.contains_key(number));
    let blamed = |guilty: &dyn Fn(usize, &(String, String)) -> bool| -> BTreeMap<usize, String> {
        let of = |number| broken.iter().find(|pair| guilty(number, pair)).map(|(table, _)| (number, table));
        let why = |table: &String| ProjectionFault::ForeignKey { table: table.clone() }.to_string();
        left().filter_map(of).map(|(number, table)| (number, why(table))).collect()
    };
    let found = blamed(&|number, (table, _)| owns(number, table));
    let found = if found.is_empty() { blamed(&|number, (_, parent)| owns(number, parent)) } else { found };
    let found = if found.is_empty() { blamed(&|_, _| true) } else { found };
    if found.is_empty() { Err(error) } else { Ok(Some(Tried::Dangling(found))) }
}

/// Returns an error if another program removed a table. The event is not at fault then, and the
/// tables are rebuilt.
fn missing_table(rows: &Connection, projection: &dyn Projection) -> Result<()> {
    for &table in projection.tables() {
        let found: Option<i64> = rows
            .prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = ?1")?
            .query_row([table], |row| row.get(0))
            .optional()?;
        // A table that the projection's own schema does not create never existed.
        if found.is_none() && makes(projection, table) {
            return Err(Error::ToSqlConversionFailure(Box::new(MissingTable { table })));
        }
    }
    Ok(())
}

fn makes(projection: &dyn Projection, table: &str) -> bool {
    let making = || {
        let rows = Connection::open_in_memory()?;
        rows.execute_batch(projection.schema())?;
        rows.query_row("SELECT count(*) > 0 FROM sqlite_schema WHERE name = ?1", [table], |row| row.get(0))
    };
    making().unwrap_or(false)
}

/// Applies an event. A projection written for a game may panic. It has then made nothing of the
/// event, and the other projections continue.
fn apply(rows: &Connection, projection: &dyn Projection, event: &ProjectedEvent<'_>) -> Result<()> {
    PROJECTING.set(true);
    let applied = catch_unwind(AssertUnwindSafe(|| projection.apply(rows, event)));
    PROJECTING.set(false);
    applied.unwrap_or_else(|panic| {
        let panicked = Panicked::with(&*panic);
        Err(Error::ToSqlConversionFailure(Box::new(panicked)))
    })
}
