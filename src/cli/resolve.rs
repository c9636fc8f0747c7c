//! `resolve`: decisions that the operator must make, because the service must not.
//!
//! Each call makes one decision and logs it. Repeating a call that has succeeded changes nothing.

use std::path::Path;

use tracing::{info, warn};

use super::pending::{self, Pending};
use crate::{
    config::Config,
    event::{
        Position,
        record::{self, ReplicationMark},
    },
    replication::comparison::{Comparison, HistoryRelation},
    storage::Storage,
    world::remove_read_models_of,
};

mod discard;

/// Records that ImmuDB has only the events up to its head, so that the next start replicates the
/// rest again.
///
/// # Errors
/// Returns an error if ImmuDB cannot be contacted, has a different history or lacks nothing, or if
/// the storage cannot be used.
pub async fn resend(config: Config) -> Result<(), String> {
    let mut storage =
        Storage::open(&config.event_sourcing, &config.limits).map_err(|error| error.to_string())?;
    let Comparison { common: position, fit, .. } = compare(&config, &storage).await?;
    match fit {
        HistoryRelation::Empty | HistoryRelation::Behind | HistoryRelation::Whole => {}
        HistoryRelation::HeadMissing => return Err(HEAD_MISSING.to_owned()),
        HistoryRelation::Diverged => {
            return Err(format!(
                "the histories differ after position {position}; use --give-up-pending --export DIR to \
                 export and discard the local events after it"
            ));
        }
    }
    let known = storage.index.complete().forwarded;
    let tip = storage.log.tip();
    if position >= known.position {
        return Err(format!(
            "nothing to do: ImmuDB still has everything that was replicated (position {})",
            known.position
        ));
    }
    let mark = ReplicationMark { position, snapshots: 0, immudb_tx: 0 };
    let mut group = storage.log.begin().map_err(|error| error.to_string())?;
    group.mark(&record::encode_mark(mark));
    storage.log.write(group).map_err(|error| error.to_string())?;
    storage.log.close().map_err(|error| error.to_string())?;
    info!(
        from = position.next().0,
        to = tip.position.0,
        "events are pending again; the next start replicates them"
    );
    Ok(())
}

async fn compare(config: &Config, storage: &Storage) -> Result<Comparison, String> {
    pending::compare(config, storage).await.map_err(|why| format!("ImmuDB must be reachable: {why}"))
}

const HEAD_MISSING: &str = "the database has events but no log:head; configure a new database name";

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
pub async fn give_up(config: Config, export: &Path) -> Result<(), String> {
    let storage = Storage::open(&config.event_sourcing, &config.limits).map_err(|error| error.to_string())?;
    let last = storage.log.tip().position;
    if last == Position(0) {
        return Err("nothing to do: the local log is empty".to_owned());
    }
    let comparison = compare(&config, &storage).await?;
    if let Some(why) = refusal(&comparison, storage.index.complete().forwarded.position) {
        return Err(why);
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
fn refusal(comparison: &Comparison, forwarded: Position) -> Option<String> {
    let common = comparison.common;
    match comparison.fit {
        HistoryRelation::Diverged => None,
        HistoryRelation::HeadMissing => Some(HEAD_MISSING.to_owned()),
        HistoryRelation::Whole => {
            Some(format!("nothing to do: ImmuDB has all local events (position {common})"))
        }
        HistoryRelation::Empty | HistoryRelation::Behind if common < forwarded => Some(format!(
            "nothing to discard: ImmuDB lost events after position {common}; replicate them again with \
             `resolve --resend`"
        )),
        HistoryRelation::Empty | HistoryRelation::Behind => Some(format!(
            "nothing to discard: the local events continue ImmuDB's history after position {common}. The \
             service replicates them when it can write: run `serve`, or `serve --take-over` if another \
             writer has the database and is gone permanently"
        )),
    }
}
