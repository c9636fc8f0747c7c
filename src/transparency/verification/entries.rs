//! Compares the events of an aggregate with what ImmuDB has under their keys.
//!
//! The newest value of a key shows whether it was overwritten. ImmuDB's proof then shows that this
//! value is in the transaction that it names, and that the transaction is in the history that the
//! service has verified.

use std::ops::Deref;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{Contradiction, Outcome, Place, aggregate::Entry};
use crate::{
    event::AggregateId,
    immudb::{self, ErrorKind, Session, SessionSettings, verify::TrustedState},
    replication::event_key,
};

/// Whether ImmuDB has more to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    More,
    Ended,
}

#[derive(Debug)]
pub(super) struct ImmudbEntries {
    settings: SessionSettings,
    trusted: TrustedState,
    /// Opened for the first event.
    session: Option<OpenSession>,
}

/// A session that is closed when it is no longer used. ImmuDB has room for few sessions, and
/// forgets them only after minutes.
#[derive(Debug)]
pub(super) struct OpenSession(Session);

impl OpenSession {
    pub(super) async fn open(settings: &SessionSettings) -> Result<Self, immudb::Error> {
        Ok(Self(Session::open_existing(settings).await?))
    }
}

impl Deref for OpenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(self.0.clone().close()));
        }
    }
}

impl ImmudbEntries {
    pub(super) fn new(settings: SessionSettings, trusted: TrustedState) -> Self {
        Self { settings, trusted, session: None }
    }

    /// Compares events with what ImmuDB has.
    ///
    /// # Errors
    /// Returns why ImmuDB cannot be compared.
    pub(super) async fn compare(
        &mut self,
        id: &AggregateId,
        entries: Vec<Entry>,
        outcome: &mut Outcome,
    ) -> Result<Next, String> {
        let problem = |error: immudb::Error| error.to_string();
        let session = match self.session.take() {
            Some(session) => session,
            None => OpenSession::open(&self.settings).await.map_err(problem)?,
        };
        outcome.immudb_transaction = self.trusted.tx.0;
        for entry in entries {
            let difference = match self.difference(&session, id, &entry).await {
                Ok(difference) => difference,
                Err(error) if error.kind == ErrorKind::Corrupted => Some(error.to_string()),
                Err(error) => return Err(problem(error)),
            };
            match difference {
                None => outcome.immudb_events = outcome.immudb_events.saturating_add(1),
                Some(found) => {
                    let expected = digest(&entry.record);
                    let contradiction = Contradiction::at(Place::Immudb, entry.position, expected, found);
                    outcome.add(contradiction.of(id, entry.sequence));
                }
            }
        }
        self.session = Some(session);
        Ok(Next::More)
    }

    /// Returns what ImmuDB has instead of the record, or `None` if it has the record.
    async fn difference(
        &self,
        session: &Session,
        id: &AggregateId,
        entry: &Entry,
    ) -> Result<Option<String>, immudb::Error> {
        let key = event_key(id, entry.sequence);
        let Some(newest) = session.get(&key).await? else { return Ok(Some("no value".to_owned())) };
        if newest.value != entry.record {
            return Ok(Some(digest(&newest.value)));
        }
        let proven = session.verifiable_get(&key, newest.tx, self.trusted.tx).await?;
        if proven.value != entry.record {
            return Ok(Some(digest(&proven.value)));
        }
        Ok(proven.verify(self.trusted).err().map(|mismatch| mismatch.to_string()))
    }
}

/// Returns the SHA-256 of a value: values themselves are event data.
fn digest(value: &[u8]) -> String {
    hex::encode(Sha256::digest(value))
}
