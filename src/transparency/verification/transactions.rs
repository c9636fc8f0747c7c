//! Compares all transactions in ImmuDB with the local log, as the auditor does it.
//!
//! The auditor goes to the last transaction that the service has verified. This goes to the last
//! one that ImmuDB has at the moment, which has to continue the verified one.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{
    Contradiction, Outcome, Place, VerifierParts,
    entries::{Next, OpenSession},
};
use crate::{
    event::{AggregateId, Position, SequenceNumber},
    immudb::{self, ErrorKind, SessionSettings, verify::TrustedState},
    replication::{
        audit::{self, Step, Walk, WalkError, WalkParts},
        findings::Finding,
        parse_event_key,
        reports::Report,
        tampering::Condition,
    },
};

/// The number of events that are read at once. Callers wait for ImmuDB meanwhile.
const PAGE_EVENTS: u64 = 2000;

#[derive(Debug)]
pub(super) struct ImmudbTransactions {
    settings: SessionSettings,
    trusted: TrustedState,
    /// Opened by the first step.
    walk: Option<OpenWalk>,
}

/// A walk whose session is closed when it is no longer used.
#[derive(Debug)]
struct OpenWalk(Option<Walk>);

impl Drop for OpenWalk {
    fn drop(&mut self) {
        if let Some(walk) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn(walk.into_session().close()));
        }
    }
}

impl ImmudbTransactions {
    pub(super) fn new(settings: SessionSettings, trusted: TrustedState) -> Self {
        Self { settings, trusted, walk: None }
    }

    /// Compares the next page.
    ///
    /// # Errors
    /// Returns why ImmuDB, or the local log for it, cannot be read.
    pub(super) async fn step(
        &mut self,
        parts: &VerifierParts,
        outcome: &mut Outcome,
    ) -> Result<Next, String> {
        if self.walk.is_none() {
            self.walk = Some(self.begin(parts, outcome).await.map_err(|error| error.to_string())?);
        }
        let open = self.walk.as_mut().and_then(|open| open.0.as_mut());
        let Some(walk) = open else { return Ok(Next::Ended) };
        match walk.next().await.map_err(|error| error.to_string())? {
            Step::Ended => Ok(Next::Ended),
            Step::Checked(checked) => {
                outcome.immudb_events = outcome.immudb_events.saturating_add(checked.events);
                for contradiction in checked.reports.into_iter().filter_map(contradiction) {
                    outcome.add(contradiction);
                }
                Ok(Next::More)
            }
        }
    }

    /// Begins with the first transaction.
    async fn begin(&self, parts: &VerifierParts, outcome: &mut Outcome) -> Result<OpenWalk, WalkError> {
        let session = OpenSession::open(&self.settings).await?;
        let end = session.current_state().await?.state;
        if let Some(found) = self.break_before(&session, end).await? {
            let expected = format!("transaction {} with the verified hash", self.trusted.tx);
            outcome.add(Contradiction::at(Place::Immudb, Position(0), expected, found));
        }
        drop(session);
        outcome.immudb_transaction = end.tx.0;
        let walk_parts = WalkParts {
            immudb: self.settings.clone(),
            history: parts.history.clone(),
            end,
            page_events_max: Some(PAGE_EVENTS),
            checkpoints: Some(Arc::new(parts.transparency.clone())),
        };
        Ok(OpenWalk(Some(Walk::start(walk_parts, audit::Place::new()).await?)))
    }

    /// Returns why the history up to `end` does not continue the verified one, or `None` if it
    /// does.
    async fn break_before(
        &self,
        session: &OpenSession,
        end: TrustedState,
    ) -> Result<Option<String>, immudb::Error> {
        if end.tx < self.trusted.tx {
            return Ok(Some(format!("{} as the last transaction", end.tx)));
        }
        let proven = match session.verifiable_tx(end.tx, self.trusted.tx).await {
            Ok(proven) => proven,
            Err(error) if error.kind == ErrorKind::Corrupted => return Ok(Some(error.to_string())),
            Err(error) => return Err(error),
        };
        Ok(match proven.verify(self.trusted) {
            Ok(found) if found == end => None,
            Ok(found) => Some(format!("another hash of transaction {}", found.tx)),
            Err(mismatch) => Some(mismatch.to_string()),
        })
    }
}

/// Returns what a report says about the history, or `None` if it leaves the history intact.
fn contradiction(Report { condition, finding }: Report) -> Option<Contradiction> {
    let place = match condition {
        Condition::ForeignTransaction | Condition::WrongAnswer => return None,
        Condition::LocalDamage => Place::LocalLog,
        _ => Place::Immudb,
    };
    let Finding { transaction, key, expected, found, .. } = finding;
    let event = key.as_deref().and_then(event_of);
    let at = match (transaction, key) {
        (Some(tx), Some(key)) => format!(" (transaction {tx}, key {key})"),
        (Some(tx), None) => format!(" (transaction {tx})"),
        (None, Some(key)) => format!(" (key {key})"),
        (None, None) => String::new(),
    };
    let contradiction = Contradiction::at(place, Position(0), expected, format!("{found}{at}"));
    Some(match event {
        Some((aggregate, sequence)) => contradiction.of(&aggregate, sequence),
        None => contradiction,
    })
}

/// Returns the event that a key belongs to. The id of an aggregate with a long one cannot be
/// decoded.
fn event_of(key: &str) -> Option<(AggregateId, SequenceNumber)> {
    let (encoded, sequence) = parse_event_key(key.as_bytes())?;
    let text = percent_encoding::percent_decode_str(encoded).decode_utf8().ok()?;
    let aggregate = AggregateId::new(&text).ok().filter(|id| id.encoded() == encoded)?;
    Some((aggregate, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::event_key;

    #[test]
    fn only_what_changes_the_history_is_a_contradiction() {
        let report = |condition: Condition| {
            let finding = condition.finding("this", "that").in_transaction(7).of_key(b"event:room-1");
            contradiction(Report { condition, finding })
        };
        assert_eq!(report(Condition::ForeignTransaction), None);
        assert_eq!(report(Condition::WrongAnswer), None);
        let found = report(Condition::KeyOverwritten).unwrap();
        assert_eq!((found.place, found.expected.as_str()), (Place::Immudb, "this"));
        assert_eq!(found.found, "that (transaction 7, key event:room-1)");
        assert_eq!(found.aggregate, None);
        assert_eq!(report(Condition::LocalDamage).unwrap().place, Place::LocalLog);
    }

    #[test]
    fn the_key_of_an_event_tells_which_one_it_is() {
        let id = AggregateId::new("room:ä").unwrap();
        let key = event_key(&id, SequenceNumber(7));
        assert_eq!(event_of(str::from_utf8(&key).unwrap()), Some((id, SequenceNumber(7))));
        let long = event_key(&AggregateId::new(&"ä".repeat(120)).unwrap(), SequenceNumber(7));
        for other in [str::from_utf8(&long).unwrap(), "log:head", "event:room-1", "(index)"] {
            assert_eq!(event_of(other), None, "{other}");
        }
    }
}
