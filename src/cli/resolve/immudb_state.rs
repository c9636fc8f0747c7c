//! ImmuDB's present state, which the log continues from after a decision.

use super::{ResolveError, trusted_file};
use crate::{
    cli::Error,
    config::Config,
    event::record::ReplicationMark,
    immudb::{self, Session, verify::Chain},
    replication::{
        comparison::{Comparison, ComparisonError},
        head::{self, LogHead},
        ledger::Contradiction,
        past_state::{self, PastState, PastStateError},
        trusted_state::{FetchError, SavedState, fetch_chain},
    },
    server::settings,
    storage::Storage,
};

/// ImmuDB's present state, with a session.
pub(super) struct ImmudbState {
    session: Session,
    /// The history up to the present state, as ImmuDB proves it.
    pub chain: Chain,
}

impl ImmudbState {
    /// Connects, and compares ImmuDB with the local log. Creates a database that does not exist.
    ///
    /// # Errors
    /// Returns an error if ImmuDB cannot be contacted or contradicts itself.
    pub(super) async fn compared(
        config: &Config,
        storage: &Storage,
    ) -> Result<(Self, Comparison), ResolveError> {
        let immudb = config.immudb.as_ref().ok_or_else(|| not_compared(Error::NoImmudb))?;
        let session = Session::open(&settings::immudb(immudb)).await.map_err(no_answer)?;
        let compared = Comparison::ask(&session, &storage.history(), storage.log.tip()).await;
        let comparison = compared.map_err(|error| not_compared(error.into()))?;
        Ok((Self::of(session).await?, comparison))
    }

    /// Connects to an existing database.
    ///
    /// # Errors
    /// See [`Self::compared`].
    pub(super) async fn present(config: &Config) -> Result<Self, ResolveError> {
        let immudb = config.immudb.as_ref().ok_or_else(|| not_compared(Error::NoImmudb))?;
        Self::of(Session::open_existing(&settings::immudb(immudb)).await.map_err(no_answer)?).await
    }

    async fn of(session: Session) -> Result<Self, ResolveError> {
        let found = session.current_state().await.map_err(no_answer)?;
        match fetch_chain(&session, found.state).await {
            Ok(chain) => Ok(Self { session, chain }),
            Err(FetchError::Immudb(error)) => Err(no_answer(error)),
            Err(FetchError::Contradiction(contradiction)) => {
                Err(ResolveError::Changed { evidence: Some(contradiction.to_string()) })
            }
        }
    }

    /// Returns the present state, if it does not continue the trusted one that a new log would take
    /// over.
    ///
    /// # Errors
    /// See [`Self::compared`].
    pub(super) async fn exchanged(config: &Config, storage: &Storage) -> Result<Option<Self>, ResolveError> {
        // A new log ignores a file that is damaged or of another database, too.
        let taken_over = trusted_file(config, storage).load_for(&ReplicationMark::default());
        let Ok(Some((saved, _))) = taken_over else { return Ok(None) };
        let (present, trusted) = (Self::present(config).await?, saved.chain.state());
        if present.chain.state().tx < trusted.tx {
            return Ok(Some(present));
        }
        match fetch_chain(&present.session, trusted).await {
            Ok(_) => Ok(None),
            Err(FetchError::Contradiction(Contradiction::OtherHash { .. })) => Ok(Some(present)),
            Err(FetchError::Contradiction(contradiction)) => {
                Err(ResolveError::Changed { evidence: Some(contradiction.to_string()) })
            }
            Err(FetchError::Immudb(error)) => Err(no_answer(error)),
        }
    }

    /// Returns an error if the present state, which is before the trusted one, was never a state of
    /// this history.
    ///
    /// # Errors
    /// Returns an error if ImmuDB or the local log cannot be read.
    pub(super) async fn change(&self, storage: &Storage) -> Result<Option<ResolveError>, Error> {
        let (history, tip) = (storage.history(), storage.log.tip());
        match past_state::compare(&self.session, &history, tip, self.chain.state()).await {
            Ok(PastState::OfThisHistory | PastState::Unknown) => Ok(None),
            Ok(PastState::Other(evidence)) => {
                Ok(Some(ResolveError::Changed { evidence: Some(evidence.to_string()) }))
            }
            Err(PastStateError::Immudb(error)) => Err(no_answer(error).into()),
            Err(PastStateError::History(error)) => Err(error.into()),
        }
    }

    /// Returns the head, or `None` if there is none or if it is not one.
    ///
    /// # Errors
    /// Returns an error if ImmuDB cannot be read.
    pub(super) async fn head(&self) -> Result<Option<LogHead>, ResolveError> {
        let entry = self.session.get(head::KEY).await.map_err(no_answer)?;
        Ok(entry.and_then(|entry| LogHead::decode(&entry.value)))
    }

    pub(super) fn into_saved(self) -> SavedState {
        SavedState { server: self.session.server_uuid().to_owned(), chain: self.chain, tree: None }
    }
}

fn no_answer(error: immudb::Error) -> ResolveError {
    not_compared(ComparisonError::from(error).into())
}

fn not_compared(error: Error) -> ResolveError {
    ResolveError::NotCompared(Box::new(error))
}
