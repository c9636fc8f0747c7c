//! `resolve`: what a person decides where the service must not.

use tracing::info;

use crate::{
    config::Config,
    event::{
        Position,
        record::{self, ForwardedMark},
    },
    forwarder::head::{self, Head},
    immudb::Session,
    server::immudb_settings,
    storage::Storage,
};

/// Notes that ImmuDB has only what its head says. The next start sends it the rest again.
///
/// # Errors
/// ImmuDB can't be asked, has another history, or lacks nothing; or the storage can't be used.
pub async fn resend(config: Config) -> Result<(), String> {
    let immudb = config.immudb.as_ref().ok_or("the configuration has no section immudb")?;
    let mut storage = Storage::open(&config.event_sourcing).map_err(|error| error.to_string())?;
    let session = Session::open(&immudb_settings(immudb)).await.map_err(|error| error.to_string())?;
    let entry = session.get(head::KEY).await.map_err(|error| error.to_string())?;
    let tip = storage.log.tip();
    let known = storage.index.complete().forwarded;
    let position = match entry {
        None => {
            let left = session.scan_keys(b"event:", 1).await.map_err(|error| error.to_string())?;
            if !left.is_empty() {
                return Err("the database has events, but no log:head: use a new database name".to_owned());
            }
            Position(0)
        }
        Some(entry) => {
            let head = Head::decode(&entry.value).ok_or("log:head holds something else than a head")?;
            let ours = storage.history().locate(head.position, tip).map_err(|error| error.to_string())?;
            if ours.hash != head.hash {
                return Err("the database has another history than the local log".to_owned());
            }
            head.position
        }
    };
    session.close().await;
    if position >= known.position {
        return Err(format!("ImmuDB lacks nothing that it had (position {})", known.position));
    }
    let mark = ForwardedMark { position, snapshots: 0, immudb_tx: 0 };
    let mut group = storage.log.begin().map_err(|error| error.to_string())?;
    group.mark(&record::encode_mark(mark));
    storage.log.write(group).map_err(|error| error.to_string())?;
    info!(from = position.next().0, to = tip.position.0, "will be sent again at the next start");
    Ok(())
}
