//! `resolve`: decisions that the operator must make, because the service must not.
//!
//! Each call makes one decision and logs it. Repeating a call that has succeeded changes nothing.

use std::path::Path;

use tracing::{info, warn};

use super::{
    Error,
    pending::{self, Pending},
};
use crate::{
    config::Config,
    event::{
        Position,
        record::{self, ReplicationMark},
    },
    replication::comparison::{Comparison, HistoryRelation},
    server::settings,
    storage::Storage,
    world::remove_read_models_of,
};

mod discard;

/// Why a decision is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("ImmuDB must be reachable: {0}")]
    NotCompared(#[source] Box<Error>),
    #[error("the database has events but no log:head; configure a new database name")]
    HeadMissing,
    #[error(
        "the histories differ after position {common}; use --give-up-pending --export DIR to export and \
         discard the local events after it"
    )]
    Diverged { common: Position },
    #[error("nothing to do: ImmuDB still has everything that was replicated (position {forwarded})")]
    NothingLost { forwarded: Position },
    #[error("nothing to do: the local log is empty")]
    EmptyLog,
    #[error("nothing to do: ImmuDB has all local events (position {common})")]
    NothingPending { common: Position },
    #[error(
        "nothing to discard: ImmuDB lost events after position {common}; replicate them again with \
         `resolve --resend`"
    )]
    LostByImmudb { common: Position },
    #[error(
        "nothing to discard: the local events continue ImmuDB's history after position {common}. The \
         service replicates them when it can write: run `serve`, or `serve --take-over` if another \
         writer has the database and is gone permanently"
    )]
    ContinuesImmudb { common: Position },
}

/// Records that ImmuDB has only the events up to its head, so that the next start replicates the
/// rest again.
///
/// # Errors
/// Returns an error if ImmuDB cannot be contacted, has a different history or lacks nothing, or if
/// the storage cannot be used.
pub(super) async fn resend(config: Config) -> Result<(), Error> {
    let mut storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let Comparison { common: position, fit, .. } = compare(&config, &storage).await?;
    match fit {
        HistoryRelation::Empty | HistoryRelation::Behind | HistoryRelation::Whole => {}
        HistoryRelation::HeadMissing => return Err(ResolveError::HeadMissing.into()),
        HistoryRelation::Diverged => {
            return Err(ResolveError::Diverged { common: position }.into());
        }
    }
    let known = storage.index.complete().forwarded;
    let tip = storage.log.tip();
    if position >= known.position {
        return Err(ResolveError::NothingLost { forwarded: known.position }.into());
    }
    let mark = ReplicationMark { position, snapshots: 0, immudb_tx: 0 };
    let mut group = storage.log.begin()?;
    group.mark(&record::encode_mark(mark));
    storage.log.write(group)?;
    storage.log.close()?;
    info!(
        from = position.next().0,
        to = tip.position.0,
        "events are pending again; the next start replicates them"
    );
    Ok(())
}

async fn compare(config: &Config, storage: &Storage) -> Result<Comparison, ResolveError> {
    pending::compare(config, storage).await.map_err(|error| ResolveError::NotCompared(Box::new(error)))
}

/// Exports the local events that do not fit ImmuDB's history, and renames the local log. The next
/// start that may write restores that history.
///
/// At whatever point this is interrupted, the local log exists until the export is durable. In
/// every intermediate state the service can be started, or the same call can be repeated to
/// continue.
///
/// # Errors
/// Returns an error if ImmuDB cannot be contacted, if the local events fit its history, if there
/// are none, or if a directory cannot be used.
pub(super) async fn give_up(config: Config, export: &Path) -> Result<(), Error> {
    let storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let last = storage.log.tip().position;
    if last == Position(0) {
        return Err(ResolveError::EmptyLog.into());
    }
    let comparison = compare(&config, &storage).await?;
    if let Some(why) = refusal(&comparison, storage.index.complete().forwarded.position) {
        return Err(why.into());
    }
    let pending = Pending::of(&storage, Some(&comparison));
    let counts = pending::write(&config, &pending, export)?;
    drop(pending);
    let Storage { lock, log, index, log_id, .. } = storage;
    drop((log, index));
    // The read models are derived from this log, and the next log will be a different one.
    let path = &config.world.read_models_path;
    if let Err(error) = remove_read_models_of(path, log_id.map(|id| id.to_string()).as_deref()) {
        warn!(%error, path = %path.display(), "read models cannot be deleted; delete them before the next \
         start");
    }
    let kept = discard::set_aside(&config.event_sourcing)?;
    // The lock moved with the log. It kept other processes from opening the log before the rename.
    drop(lock);
    info!(
        common = comparison.common.0,
        given_up = counts.events,
        export = %export.display(),
        kept = %kept.display(),
        "local log renamed; the next start restores the history from ImmuDB"
    );
    Ok(())
}

/// Returns the reason why there is nothing to discard, or `None` if the histories have diverged.
fn refusal(comparison: &Comparison, forwarded: Position) -> Option<ResolveError> {
    let common = comparison.common;
    match comparison.fit {
        HistoryRelation::Diverged => None,
        HistoryRelation::HeadMissing => Some(ResolveError::HeadMissing),
        HistoryRelation::Whole => Some(ResolveError::NothingPending { common }),
        HistoryRelation::Empty | HistoryRelation::Behind if common < forwarded => {
            Some(ResolveError::LostByImmudb { common })
        }
        HistoryRelation::Empty | HistoryRelation::Behind => Some(ResolveError::ContinuesImmudb { common }),
    }
}
