//! `resolve`: what a person decides where the service must not. One choice a call, each logged, and each
//! with nothing to do when it is asked for again.

use std::path::Path;

use tracing::{info, warn};

use super::pending::{self, Pending};
use crate::{
    config::Config,
    event::{
        Position,
        record::{self, ForwardedMark},
    },
    forwarder::comparison::{Comparison, Fit},
    storage::Storage,
    world::remove_read_models_of,
};

mod aside;

/// Notes that ImmuDB has only what its head says. The next start sends it the rest again.
///
/// # Errors
/// ImmuDB can't be asked, has another history, or lacks nothing; or the storage can't be used.
pub async fn resend(config: Config) -> Result<(), String> {
    let mut storage =
        Storage::open(&config.event_sourcing, &config.limits).map_err(|error| error.to_string())?;
    let Comparison { common: position, fit, .. } = compare(&config, &storage).await?;
    match fit {
        Fit::Empty | Fit::Behind | Fit::Whole => {}
        Fit::HeadMissing => return Err(HEAD_MISSING.to_owned()),
        Fit::Diverged => {
            return Err(format!(
                "the database has another history than the local log behind position {position}; \
                 --give-up-pending --export DIR gives the local events behind it up"
            ));
        }
    }
    let known = storage.index.complete().forwarded;
    let tip = storage.log.tip();
    if position >= known.position {
        return Err(format!(
            "there is nothing to do: ImmuDB lacks nothing that it had (position {})",
            known.position
        ));
    }
    let mark = ForwardedMark { position, snapshots: 0, immudb_tx: 0 };
    let mut group = storage.log.begin().map_err(|error| error.to_string())?;
    group.mark(&record::encode_mark(mark));
    storage.log.write(group).map_err(|error| error.to_string())?;
    storage.log.close().map_err(|error| error.to_string())?;
    info!(from = position.next().0, to = tip.position.0, "will be sent again at the next start");
    Ok(())
}

async fn compare(config: &Config, storage: &Storage) -> Result<Comparison, String> {
    pending::compare(config, storage).await.map_err(|why| format!("ImmuDB has to be asked first: {why}"))
}

const HEAD_MISSING: &str = "the database has events, but no log:head: use a new database name";

/// Exports the local events that don't fit ImmuDB's history, and puts the local log aside. The next start
/// that may write copies that history.
///
/// Whatever ends it halfway, the log is there until the export is durable, and every state in between can
/// be started, or be gone on from by the same call.
///
/// # Errors
/// ImmuDB can't be asked, the local events fit, or there are none; or a folder can't be used.
pub async fn give_up(config: Config, export: &Path) -> Result<(), String> {
    let storage = Storage::open(&config.event_sourcing, &config.limits).map_err(|error| error.to_string())?;
    let last = storage.log.tip().position;
    if last == Position(0) {
        return Err("there is nothing to do: the local log is empty".to_owned());
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
    // They are made from the log, and the next one is another.
    let path = &config.world.read_models_path;
    if let Err(error) = remove_read_models_of(path, log_id.map(|id| id.to_string()).as_deref()) {
        warn!(%error, path = %path.display(), "delete the read models before the next start");
    }
    let kept = aside::put(&config.event_sourcing)?;
    // It went with the log, which nobody else could open before it had its new name.
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

/// Why nothing has to be given up.
fn refusal(comparison: &Comparison, forwarded: Position) -> Option<String> {
    let common = comparison.common;
    match comparison.fit {
        Fit::Diverged => None,
        Fit::HeadMissing => Some(HEAD_MISSING.to_owned()),
        Fit::Whole => {
            Some(format!("there is nothing to do: ImmuDB has all local events (position {common})"))
        }
        Fit::Empty | Fit::Behind if common < forwarded => Some(format!(
            "nothing has to be given up: ImmuDB lacks events that it had (behind position {common}), and can \
             take them again: `resolve --resend`"
        )),
        Fit::Empty | Fit::Behind => Some(format!(
            "nothing has to be given up: the local events fit ImmuDB's history (behind position {common}); \
             the service forwards them once it may write: `serve`, or `serve --take-over` if another writer \
             has the database and is gone for good"
        )),
    }
}
