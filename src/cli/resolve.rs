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
    immudb::TxId,
    replication::{
        comparison::{Comparison, HistoryRelation},
        trusted_state::TrustedFile,
    },
    server::settings,
    storage::Storage,
    transparency::generations::{self, Generation},
    world::remove_read_models_of,
};

mod accept;
mod discard;
mod immudb_state;

pub(super) use accept::accept_findings;
use immudb_state::ImmudbState;

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
    #[error(
        "the history in ImmuDB was changed (STATE_TAMPERED), and would replace the local one: accept the \
         findings first (`resolve --accept-findings`), or use a new database"
    )]
    Tampered,
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
    #[error(
        "the history in ImmuDB was changed: configure a new database name, or accept what `findings` lists \
         with `resolve --accept-findings`{}",
        reason(evidence.as_deref())
    )]
    Changed {
        /// What shows it, if that was seen just now.
        evidence: Option<String>,
    },
    #[error("nothing to accept: no findings are open")]
    NothingFound,
    #[error("{number}: there is no such open finding; open: {}", listed(open))]
    NoSuchFinding { number: u64, open: Vec<u64> },
    #[error("all open findings must be named; open: {}", listed(open))]
    NotAllNamed { open: Vec<u64> },
}

fn reason(evidence: Option<&str>) -> String {
    evidence.map(|evidence| format!(" ({evidence})")).unwrap_or_default()
}

fn listed(numbers: &[u64]) -> String {
    match numbers {
        [] => "none".to_owned(),
        _ => numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Records that ImmuDB has only the events up to its head, so that the next start replicates the
/// rest again. The trusted state moves back to ImmuDB's present one. If the database does not
/// exist, it is created.
///
/// # Errors
/// Returns an error if ImmuDB cannot be contacted, has a different history or lacks nothing, if its
/// history was changed, or if the storage cannot be used.
pub(super) async fn resend(config: Config) -> Result<(), Error> {
    let mut storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let (immudb, comparison) = ImmudbState::compared(&config, &storage).await?;
    let Comparison { common: position, fit, .. } = comparison;
    match fit {
        HistoryRelation::Empty | HistoryRelation::Behind | HistoryRelation::Whole => {}
        HistoryRelation::HeadMissing => return Err(ResolveError::HeadMissing.into()),
        HistoryRelation::Diverged => {
            return Err(ResolveError::Diverged { common: position }.into());
        }
    }
    let known = storage.index.complete().forwarded;
    let tip = storage.log.tip();
    let file = trusted_file(&config, &storage);
    let trusted = trusted_tx(&file, known);
    let is_lower = trusted.is_some_and(|trusted| immudb.chain.state().tx < trusted);
    let changed = if fit == HistoryRelation::Empty {
        // Nothing of this log is there.
        None
    } else if is_lower {
        immudb.change(&storage).await?
    } else {
        let is_changed = known.tampered || (trusted.is_some() && position < known.position);
        is_changed.then_some(ResolveError::Changed { evidence: None })
    };
    if let Some(changed) = changed {
        return Err(changed.into());
    }
    if position >= known.position && !is_lower && !known.tampered {
        return Err(ResolveError::NothingLost { forwarded: known.position }.into());
    }
    let state = immudb.chain.state();
    // The start finds out what ImmuDB has behind the forwarded position.
    let position = position.min(known.position);
    // The file first: with an older mark, nothing has changed yet.
    file.replace(&immudb.into_saved()).map_err(|error| Error::of_file(file.path(), error))?;
    let mut group = storage.log.begin()?;
    group.mark(&record::encode_mark(ReplicationMark {
        position,
        snapshots: 0,
        immudb_tx: state.tx.0,
        immudb_hash: Some(state.alh),
        tampered: false,
    }));
    storage.log.write(group)?;
    storage.log.close()?;
    info!(
        from = position.next().0,
        to = tip.position.0,
        "events are pending again; the next start replicates them"
    );
    Ok(())
}

/// Returns the file with the trusted state of the configured database.
fn trusted_file(config: &Config, storage: &Storage) -> TrustedFile {
    let log = storage.log_id.map(|id| id.to_string()).unwrap_or_default();
    let database = config.immudb.as_ref().map(|immudb| immudb.database.clone()).unwrap_or_default();
    TrustedFile::new(&config.event_sourcing.log_path, log, database)
}

/// Returns the newest transaction that is trusted, in the file or in the last mark. A mark of a
/// version that verifies nothing counts only behind a state that was trusted.
fn trusted_tx(file: &TrustedFile, mark: ReplicationMark) -> Option<TxId> {
    let saved = file.load_for(&mark).unwrap_or_else(|error| {
        warn!(%error, file = %file.path().display(), "ignored the saved trusted state");
        None
    });
    let saved = saved.map(|(saved, _)| saved.chain.state().tx);
    saved.max(Some(TxId(mark.immudb_tx)).filter(|_| mark.immudb_hash.is_some() || saved.is_some()))
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
    if storage.index.complete().forwarded.tampered {
        return Err(ResolveError::Tampered.into());
    }
    let comparison = compare(&config, &storage).await?;
    let forwarded = storage.index.complete().forwarded.position;
    if let Some(why) = refusal(&comparison, forwarded) {
        return Err(why.into());
    }
    // Events are given up that ImmuDB had: it was put back before another writer continued it.
    let exchanged =
        if comparison.common < forwarded { ImmudbState::exchanged(&config, &storage).await? } else { None };
    let pending = Pending::of(&storage, Some(&comparison));
    let counts = pending::write(&config, &pending, export)?;
    drop(pending);
    if let Some(immudb) = exchanged {
        let file = trusted_file(&config, &storage);
        let transaction = immudb.chain.state().tx.0;
        warn!(
            transaction,
            "the history in ImmuDB does not continue the verified one; as its events are given \
              up, the next start trusts what ImmuDB has"
        );
        // The new log takes this file over.
        file.replace(&immudb.into_saved()).map_err(|error| Error::of_file(file.path(), error))?;
    }
    let Storage { lock, log, index, log_id, .. } = storage;
    drop((log, index));
    // The read models are derived from this log, and the next log will be a different one.
    let path = &config.world.read_models_path;
    if let Err(error) = remove_read_models_of(path, log_id.map(|id| id.to_string()).as_deref()) {
        warn!(%error, path = %path.display(), "read models cannot be deleted; delete them before the next \
         start");
    }
    // While the log is there: a generation that has begun twice is one.
    let because = "the events after the common position did not fit the history in ImmuDB";
    let generation = Generation::by_operator(comparison.common, "resolve --give-up-pending", because);
    let log_path = &config.event_sourcing.log_path;
    generations::begin(log_path, generation)
        .map_err(|error| Error::of_file(&generations::path(log_path), error))?;
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
