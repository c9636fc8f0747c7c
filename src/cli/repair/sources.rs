//! Where events may be had again: ImmuDB, and the event files.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use tracing::warn;

use crate::{
    config::Config,
    event::{Hash, Position, record},
    event_files::folder::Folder,
    forwarder::copy::records_between,
    immudb::Session,
    server::immudb_settings,
};

pub(super) struct Sources<'a> {
    config: &'a Config,
    /// The event files by position, once they were looked through.
    files: Option<BTreeMap<Position, PathBuf>>,
}

impl<'a> Sources<'a> {
    pub fn new(config: &'a Config) -> Self {
        Self { config, files: None }
    }

    /// What ImmuDB has behind `from` and before `until`; nothing where it can't be asked.
    pub async fn in_immudb(&self, from: Position, until: Position) -> Vec<Bytes> {
        self.ask_immudb(from, until).await.unwrap_or_else(|why| {
            warn!(%why, "ImmuDB can't help");
            Vec::new()
        })
    }

    async fn ask_immudb(&self, from: Position, until: Position) -> Result<Vec<Bytes>, String> {
        let immudb = self.config.immudb.as_ref().ok_or("no ImmuDB is configured")?;
        let settings = immudb_settings(immudb);
        let session = Session::open_existing(&settings).await.map_err(|error| error.to_string())?;
        let records = records_between(&session, from, until).await;
        session.close().await;
        records.map_err(|error| error.to_string())
    }

    /// What the event files have, with the hash that each record leads to.
    pub fn in_files(
        &mut self,
        from: Position,
        until: Position,
    ) -> impl Iterator<Item = (Bytes, Option<Hash>)> + use<'_> {
        let config = self.config;
        let files = self.files.get_or_insert_with(|| look_through(config));
        files
            .range(from.next()..until.max(from.next()))
            .map_while(|(_, path)| Folder::read_event(path).ok().flatten())
            .map(|event| (record::encode_recorded(&event), Some(event.hash)))
    }
}

fn look_through(config: &Config) -> BTreeMap<Position, PathBuf> {
    let folder = Folder::new(&config.event_sourcing.storage_path);
    let paths = folder.event_paths().unwrap_or_else(|why| {
        warn!(%why, "the event files can't help");
        Vec::new()
    });
    let mut files = BTreeMap::new();
    for path in paths {
        match Folder::read_event(&path) {
            Ok(Some(event)) => _ = files.insert(event.position, path),
            Ok(None) => warn!(file = %path.display(), "no event file"),
            Err(why) => warn!(file = %path.display(), %why, "can't be read"),
        }
    }
    files
}
