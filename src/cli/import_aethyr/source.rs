//! Where Aethyr's own event store has its events: a directory, or keys in a database of ImmuDB.
//!
//! Both have the same names: `{id}/{number}.event` and `event:{id}:{number}`, and the last number
//! of an aggregate in `{id}.sequence` and `sequence:{id}`. Numbers are decimal, without zeros in
//! front.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::sync::Mutex;
use tracing::debug;

use crate::{
    aethyr_import::INPUT_BYTES_MAX,
    event_files::folder::{EventFolder, read_file_up_to},
    immudb::{self, EntryKey, ErrorKind, KeyKind, Session, SessionSettings, TxId},
    printable::escaped,
    progress::Progress,
};

const EVENT_PREFIX: &str = "event:";
const SEQUENCE_PREFIX: &str = "sequence:";
const SNAPSHOT_PREFIX: &str = "snapshot:";

pub(super) enum Source {
    Folder(PathBuf),
    Immudb(Box<Database>),
}

/// A database of ImmuDB. The server ends a session that is idle while the log is opened and while
/// the destination is contacted, so another one is opened then.
pub(super) struct Database {
    settings: SessionSettings,
    session: Mutex<Session>,
}

impl Database {
    /// Connects and logs in. The database must exist.
    ///
    /// # Errors
    /// Returns an error if ImmuDB fails.
    pub(super) async fn open(settings: SessionSettings) -> Result<Self, immudb::Error> {
        let session = Mutex::new(Session::open_existing(&settings).await?);
        Ok(Self { settings, session })
    }

    async fn value(&self, key: &[u8]) -> Result<Option<Bytes>, immudb::Error> {
        let mut session = self.session.lock().await;
        let found = match session.get(key).await {
            Err(error) if error.kind == ErrorKind::SessionExpired => {
                debug!(%error, "logging in again to read Aethyr's events");
                *session = Session::open_existing(&self.settings).await?;
                session.get(key).await?
            }
            found => found?,
        };
        Ok(found.map(|found| found.value))
    }
}

/// What a source has.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The numbers of the events of each aggregate.
    pub aggregates: BTreeMap<String, BTreeSet<u64>>,
    pub snapshots: u64,
    /// Files and keys whose names are not those of an event.
    pub unreadable: Vec<String>,
}

/// Why an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error("has no value")]
    Missing,
}

impl SourceError {
    /// Returns whether the error concerns one event only, and the others can be read.
    pub(super) fn is_of_one_event(&self) -> bool {
        match self {
            Self::File(_) | Self::Missing => true,
            Self::Immudb(error) => matches!(error.kind, ErrorKind::TooLarge | ErrorKind::Corrupted),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Immudb(database) => write!(f, "the database {}", database.settings.database),
        }
    }
}

impl Source {
    /// Lists the events without reading them.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be read, or if ImmuDB fails.
    pub(super) async fn list(&self) -> Result<Contents, SourceError> {
        match self {
            Self::Folder(path) => Ok(files(path)?),
            Self::Immudb(database) => {
                let session = database.session.lock().await;
                Ok(keys(&session).await?)
            }
        }
    }

    /// Reads an event.
    ///
    /// # Errors
    /// See [`SourceError::is_of_one_event`].
    pub(super) async fn read(&self, aggregate: &str, number: u64) -> Result<Bytes, SourceError> {
        match self {
            Self::Folder(path) => {
                let path = path.join(aggregate).join(format!("{number}.event"));
                Ok(read_file_up_to(&path, INPUT_BYTES_MAX as u64)?.into())
            }
            Self::Immudb(database) => {
                let found = database.value(format!("{EVENT_PREFIX}{aggregate}:{number}").as_bytes()).await?;
                found.ok_or(SourceError::Missing)
            }
        }
    }

    /// Returns the last number of an aggregate as the event store noted it. Returns `None` if it
    /// did not, or if that cannot be read.
    ///
    /// # Errors
    /// Returns an error if ImmuDB fails.
    pub(super) async fn last_number(&self, aggregate: &str) -> Result<Option<u64>, SourceError> {
        const BYTES_MAX: u64 = 32;
        let text = match self {
            Self::Folder(path) => {
                read_file_up_to(&path.join(format!("{aggregate}.sequence")), BYTES_MAX).ok().map(Bytes::from)
            }
            Self::Immudb(database) => {
                database.value(format!("{SEQUENCE_PREFIX}{aggregate}").as_bytes()).await?
            }
        };
        Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()))
    }

    /// Ends the session with ImmuDB.
    pub(super) async fn close(self) {
        match self {
            Self::Folder(_) => {}
            Self::Immudb(database) => database.session.into_inner().close().await,
        }
    }
}

impl Contents {
    fn add(&mut self, aggregate: &str, number: u64) {
        match self.aggregates.get_mut(aggregate) {
            Some(numbers) => _ = numbers.insert(number),
            None => _ = self.aggregates.insert(aggregate.to_owned(), BTreeSet::from([number])),
        }
    }

    fn take_key(&mut self, entry: &EntryKey) {
        let Ok(key) = std::str::from_utf8(&entry.key) else { return self.take_malformed(&entry.key) };
        if key.starts_with(SNAPSHOT_PREFIX) {
            self.snapshots = self.snapshots.saturating_add(1);
        }
        let Some(event) = key.strip_prefix(EVENT_PREFIX) else { return };
        let parts = event.rsplit_once(':').and_then(|(id, text)| Some((id, number(text)?)));
        match parts {
            Some((id, number)) if entry.metadata.deleted => {
                if let Some(numbers) = self.aggregates.get_mut(id) {
                    numbers.remove(&number);
                }
            }
            Some((id, number)) => self.add(id, number),
            None => self.take_malformed(&entry.key),
        }
    }

    fn take_malformed(&mut self, key: &[u8]) {
        if key.starts_with(EVENT_PREFIX.as_bytes()) {
            self.unreadable.push(escaped(&String::from_utf8_lossy(key)).to_string());
        }
    }
}

fn files(root: &Path) -> io::Result<Contents> {
    let folder = EventFolder::new(root);
    let mut contents = Contents { snapshots: folder.snapshot_paths()?.len() as u64, ..Contents::default() };
    for path in folder.event_paths()? {
        let aggregate = path.parent().filter(|parent| *parent != root).and_then(Path::file_name);
        let stem = path.file_stem().and_then(|stem| number(stem.to_str()?));
        match (aggregate.and_then(|name| name.to_str()), stem) {
            (Some(aggregate), Some(number)) => contents.add(aggregate, number),
            // Another name, or a symbolic link in place of a directory.
            _ => contents.unreadable.push(path.display().to_string()),
        }
    }
    contents.unreadable.sort_unstable();
    Ok(contents)
}

/// Lists the keys from the history of the database, because its transactions can be read without
/// the values. A scan of the keys cannot continue behind its first page.
async fn keys(session: &Session) -> Result<Contents, immudb::Error> {
    const PAGE: u32 = 256;
    let last = session.current_tx().await?;
    let mut progress = Progress::new("listing the keys of ImmuDB", "transactions", 0, last.0);
    let mut contents = Contents::default();
    let mut next = TxId(1);
    while next <= last {
        let page = session.scan_headers(next, PAGE).await?;
        let Some(end) = page.last() else { break };
        next = end.header.id.next();
        progress.reached(end.header.id.0);
        for transaction in &page {
            let plain = transaction.entries.iter().filter(|entry| entry.kind == KeyKind::Plain);
            plain.for_each(|entry| contents.take_key(entry));
        }
    }
    contents.aggregates.retain(|_, numbers| !numbers.is_empty());
    Ok(contents)
}

/// Parses the number of an event.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::immudb::EntryMetadata;

    fn key(key: &str, deleted: bool) -> EntryKey {
        EntryKey {
            kind: KeyKind::Plain,
            key: Bytes::copy_from_slice(key.as_bytes()),
            metadata: EntryMetadata { deleted, ..EntryMetadata::default() },
            value_hash: [0; 32],
        }
    }

    #[test]
    fn keys_are_those_of_events_that_were_not_deleted() {
        let mut contents = Contents::default();
        for (name, deleted) in [
            ("event:a:1", false),
            ("event:a:10", false),
            ("event:a:b:2", false),
            ("event:a:1", false),
            ("event:a:3", false),
            ("event:a:3", true),
            ("sequence:a", false),
            ("snapshot:a", false),
            ("event:a:01", false),
            ("event:a", false),
            ("other", false),
        ] {
            contents.take_key(&key(name, deleted));
        }
        let expected = [("a", vec![1, 10]), ("a:b", vec![2])];
        let expected = expected.map(|(id, numbers)| (id.to_owned(), numbers.into_iter().collect()));
        assert_eq!(contents.aggregates, BTreeMap::from(expected));
        assert_eq!(contents.snapshots, 1);
        assert_eq!(contents.unreadable, ["event:a:01", "event:a"]);
    }

    #[test]
    fn files_with_other_names_are_reported_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let room = dir.path().join("room");
        fs::create_dir_all(&room).unwrap();
        for name in ["1.event", "2.event", "03.event", "x.event", "note.txt"] {
            fs::write(room.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(&room, dir.path().join("link")).unwrap();
        let contents = files(dir.path()).unwrap();
        let expected = [("room".to_owned(), BTreeSet::from([1, 2]))];
        assert_eq!(contents.aggregates, BTreeMap::from(expected));
        let names: Vec<_> = contents.unreadable.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["link", "03.event", "x.event"]);
    }
}
