//! The sources of lost events: ImmuDB and the event files.
//!
//! A source that cannot be used is logged and returns nothing. Whether its records fit the history
//! is left to the caller.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use tracing::warn;

use crate::{
    config::Config,
    event::{ChainHash, Position, record},
    event_files::folder::EventFolder,
    immudb::{self, Session},
    replication::restore::records_between,
    server::settings,
};

/// Why ImmuDB cannot be used.
#[derive(Debug, thiserror::Error)]
enum ImmudbError {
    #[error("no ImmuDB is configured")]
    NotConfigured,
    #[error(transparent)]
    Failed(#[from] immudb::Error),
}

pub(super) struct Sources<'a> {
    config: &'a Config,
    /// The event files by position, once the directory has been read.
    files: Option<BTreeMap<Position, PathBuf>>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, files: None }
    }

    /// Returns the records in ImmuDB after `from` and before `until`, or none if ImmuDB cannot be
    /// used.
    pub(super) async fn in_immudb(&self, from: Position, until: Position) -> Vec<Bytes> {
        self.ask_immudb(from, until).await.unwrap_or_else(|why| {
            warn!(%why, "ImmuDB cannot be used for the repair");
            Vec::new()
        })
    }

    async fn ask_immudb(&self, from: Position, until: Position) -> Result<Vec<Bytes>, ImmudbError> {
        let immudb = self.config.immudb.as_ref().ok_or(ImmudbError::NotConfigured)?;
        let settings = settings::immudb(immudb);
        let session = Session::open_existing(&settings).await?;
        let records = records_between(&session, from, until).await;
        session.close().await;
        Ok(records?)
    }

    /// Returns the records in the event files after `from` and before `until`, up to the first file
    /// that cannot be read, each with the chain hash after it.
    pub(super) fn in_files(
        &mut self,
        from: Position,
        until: Position,
    ) -> impl Iterator<Item = (Bytes, Option<ChainHash>)> + use<'_> {
        let config = self.config;
        let files = self.files.get_or_insert_with(|| look_through(config));
        files
            .range(from.next()..until.max(from.next()))
            .map_while(|(_, path)| EventFolder::read_event(path).ok().flatten())
            .map(|event| (record::encode_recorded(&event), Some(event.hash)))
    }
}

fn look_through(config: &Config) -> BTreeMap<Position, PathBuf> {
    let folder = EventFolder::new(&config.event_sourcing.storage_path);
    let paths = folder.event_paths().unwrap_or_else(|why| {
        warn!(%why, "event files cannot be used");
        Vec::new()
    });
    let mut files = BTreeMap::new();
    for path in paths {
        match EventFolder::read_event(&path) {
            Ok(Some(event)) => _ = files.insert(event.position, path),
            Ok(None) => warn!(file = %path.display(), "not an event file"),
            Err(why) => warn!(file = %path.display(), %why, "file cannot be read"),
        }
    }
    files
}
