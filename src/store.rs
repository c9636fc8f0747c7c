//! What each call means: append, load, snapshot, list, read, subscribe, figures.
//!
//! It asks whether the service takes or serves anything just now, has the sequencer store, waits for as
//! long as the state asks for, and reads from the local log. It knows nothing of the wire.

use std::sync::Arc;

use crate::{
    event::{AggregateId, EventId, Position, RecordedEvent, Snapshot, Timestamp},
    forwarder::{Settled, Standing, View},
    history::{History, HistoryError},
    index::{Complete, Head, Patience, Totals},
    log::Place,
    sequencer::{Append, Earlier, Origin, Sequencer, Stored},
    stats::Counters,
};

mod aggregate_reader;
mod error;
mod order_reader;

pub use aggregate_reader::{AggregateReader, LoadRequest};
pub use error::{Conflict, Limit, Precondition, StoreError, Unavailable};
pub use order_reader::{Filter, OrderChunk, OrderReader, OrderStart};

/// Where a write lies when its answer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredIn {
    LocalLog,
    /// With the transaction, where that is known.
    Immudb(u64),
}

/// The answer to an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    pub stored: Stored,
    pub stored_in: StoredIn,
}

/// A page of aggregates.
#[derive(Debug)]
pub struct AggregatePage {
    pub aggregates: Vec<(AggregateId, Head)>,
    /// Go on behind this id; `None` at the end.
    pub next: Option<AggregateId>,
}

/// All figures at one moment.
#[derive(Debug)]
pub struct Figures {
    pub complete: Complete,
    pub totals: Totals,
    pub view: View,
    pub pending_events: u64,
    pub pending_snapshots: u64,
    /// In seconds: see [`crate::clock::EventClock::difference`].
    pub clock_difference: f64,
    /// In seconds: how far the newest event was recorded in the future.
    pub recorded_ahead: f64,
}

/// Whether an append was stored by this call, or by one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// Its events are stored, whatever became of them since.
    Repeated,
}

impl Attempt {
    pub fn of(stored: &Stored) -> Self {
        if stored.already { Self::Repeated } else { Self::First }
    }
}

/// Whether writes are allowed at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventSourcing {
    Enabled,
    /// With the file that says so.
    Disabled {
        file: String,
    },
}

/// The event store. Shared by all calls.
#[derive(Debug)]
pub struct EventStore {
    pub(crate) sequencer: Sequencer,
    pub(crate) standing: Arc<Standing>,
    pub(crate) history: History,
    pub counters: Arc<Counters>,
    pub event_sourcing: EventSourcing,
    pub started_at: Timestamp,
}

impl EventStore {
    pub fn new(
        sequencer: Sequencer,
        standing: Arc<Standing>,
        history: History,
        counters: Arc<Counters>,
        event_sourcing: EventSourcing,
    ) -> Self {
        Self { sequencer, standing, history, counters, event_sourcing, started_at: Timestamp::now() }
    }

    /// Stores events, all or none, on the service's own behalf.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.append_for(append, Origin::default()).await
    }

    /// Stores events, all or none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append_for(&self, append: Append, origin: Origin) -> Result<Appended, StoreError> {
        let stored = self.append_here(append, origin).await?;
        let stored_in = self.settle(stored.end, stored.bounds.last, Attempt::of(&stored)).await?;
        Ok(Appended { stored, stored_in })
    }

    /// The first half of an append: its events are durable here. The caller's answer has to wait for
    /// [`EventStore::settle`]. What was stored before is answered before anything is refused that concerns new events
    /// only.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append_here(&self, append: Append, origin: Origin) -> Result<Stored, StoreError> {
        let stored = self.append_or_find(append, origin).await;
        self.counted_write(stored)
    }

    async fn append_or_find(&self, append: Append, origin: Origin) -> Result<Stored, StoreError> {
        self.standing.admit_resend(self.sequencer.tip())?;
        // From here on, so that a resend that is refused meanwhile knows of this one.
        let under_way = self.sequencer.under_way(&append, &origin);
        let absent_up_to = match self.sequencer.stored_before(&append).await? {
            Earlier::Stored(stored) => return Ok(stored),
            Earlier::NotFound { absent_up_to } => absent_up_to,
        };
        if let Err(refusal) = self.admit_write() {
            // Before the wait: two that are refused must not wait for each other.
            drop(under_way);
            return self.first_answer(&append).await?.ok_or(refusal);
        }
        self.sequencer.append_under_way(append, absent_up_to, origin, under_way).await
    }

    /// The answer to an earlier attempt, which may still be under way; `None`: none of it is stored.
    pub(crate) async fn first_answer(&self, append: &Append) -> Result<Option<Stored>, StoreError> {
        self.standing.admit_resend(self.sequencer.tip())?;
        self.sequencer.until_decided(append).await;
        Ok(self.sequencer.stored_before(append).await?.stored())
    }

    /// The second half: waits for as long as the state asks for. Says where the append lies that ends at `end` with
    /// the event at `last`.
    ///
    /// # Errors
    /// The outcome is not known.
    pub async fn settle(&self, end: Place, last: Position, attempt: Attempt) -> Result<StoredIn, StoreError> {
        self.counted_write(match self.standing.settle(end, Some(last), self.sequencer.tip()).await {
            Settled::Local => Ok(StoredIn::LocalLog),
            Settled::Immudb => Ok(StoredIn::Immudb(self.transaction(last))),
            Settled::Unknown => match attempt {
                Attempt::First => Err(StoreError::OutcomeUnknown),
                Attempt::Repeated if self.standing.is_forwarded(end, last) => {
                    Ok(StoredIn::Immudb(self.transaction(last)))
                }
                Attempt::Repeated => Ok(StoredIn::LocalLog),
            },
        })
    }

    /// The transaction that took the event at `position`; 0 where that is not known. The append is stored, so nothing
    /// here may make a failure of it.
    fn transaction(&self, position: Position) -> u64 {
        if let Some(tx) = self.standing.committed_transaction(position) {
            return tx;
        }
        let tx = self.history.index.transaction(position, Patience::AtOnce).unwrap_or_else(|error| {
            tracing::warn!(%error, position = position.0, "the transaction of an event can't be looked up");
            None
        });
        tx.or_else(|| self.standing.supposed_transaction(position)).unwrap_or(0)
    }

    /// Keeps a snapshot, unless a newer one is there. Says where it lies.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn save_snapshot(&self, snapshot: Snapshot, origin: Origin) -> Result<StoredIn, StoreError> {
        let stored_in = self.save(snapshot, origin).await;
        self.counted_write(stored_in)
    }

    async fn save(&self, snapshot: Snapshot, origin: Origin) -> Result<StoredIn, StoreError> {
        self.admit_write()?;
        let stored = self.sequencer.snapshot(snapshot, origin).await?;
        match self.standing.settle(stored.end, None, self.sequencer.tip()).await {
            Settled::Local => Ok(StoredIn::LocalLog),
            Settled::Immudb => Ok(StoredIn::Immudb(0)),
            Settled::Unknown => Err(StoreError::OutcomeUnknown),
        }
    }

    fn counted_write<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.as_ref().is_err_and(StoreError::is_failure) {
            self.counters.store_failures.add(1);
        }
        result
    }

    pub(crate) fn admit_write(&self) -> Result<(), StoreError> {
        if let EventSourcing::Disabled { file } = &self.event_sourcing {
            return Err(Precondition::EventSourcingDisabled { file: file.clone() }.into());
        }
        self.standing.admit_write(self.sequencer.tip())
    }

    /// Why a write would be refused at this moment. That event sourcing is off is no fault, and no reason here. Asks the
    /// disk.
    pub fn write_refusal(&self) -> Option<StoreError> {
        let admitted = self.standing.admit_write(self.sequencer.tip());
        admitted.and_then(|()| self.sequencer.admit_log()).err()
    }

    /// Whether a write would be taken at this moment.
    ///
    /// # Errors
    /// Says why not.
    pub fn writes_taken(&self) -> Result<(), StoreError> {
        self.admit_write()?;
        self.write_refusal().map_or(Ok(()), Err)
    }

    /// # Errors
    /// Nothing may be read yet.
    pub fn admit_read(&self) -> Result<(), StoreError> {
        self.standing.admit_read(self.sequencer.tip())
    }

    /// Starts reading an aggregate's events.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn load(&self, request: LoadRequest) -> Result<AggregateReader, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            AggregateReader::open(self.history.clone(), request)
        })
    }

    /// The event with this id, if one was stored.
    ///
    /// # Errors
    /// It is damaged; see [`StoreError`].
    pub fn find(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            let place = self.history.index.event(id)?;
            Ok(place.map(|place| self.history.event(place)).transpose()?)
        })
    }

    /// The newest snapshot of an aggregate.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn load_snapshot(&self, id: &AggregateId) -> Result<Snapshot, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            let head = self.history.index.head(id)?.and_then(|head| head.snapshot);
            let head = head.ok_or_else(|| StoreError::NoSnapshot(id.clone()))?;
            let snapshot = self.history.snapshot(head.place)?;
            self.counters.snapshots_loaded.add(1);
            Ok(snapshot)
        })
    }

    /// Starts reading the whole order.
    ///
    /// # Errors
    /// The checkpoint belongs to another history; see [`StoreError`].
    pub fn read(&self, start: OrderStart, filter: Filter) -> Result<OrderReader, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            OrderReader::open(self.history.clone(), self.sequencer.tip(), start, filter)
        })
    }

    fn counted_load<T>(&self, load: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = load();
        if result.as_ref().is_err_and(StoreError::is_failure) {
            self.counters.load_failures.add(1);
        }
        result
    }

    /// At most `count` aggregates of a type (empty: all) behind the id `after`. Where few match, a page may
    /// be short and still have a successor: a call looks at no more than so many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn aggregates(
        &self,
        aggregate_type: &str,
        prefix: &str,
        after: Option<&AggregateId>,
        count: usize,
    ) -> Result<AggregatePage, StoreError> {
        const LOOKED_AT_MAX: usize = 10_000;
        let looked_at = if aggregate_type.is_empty() { count } else { LOOKED_AT_MAX };
        // One more tells whether there is a next page.
        let mut found = self.counted_load(|| {
            self.admit_read()?;
            let (after, count) = (after.map(AggregateId::as_str), looked_at.saturating_add(1));
            Ok(self.history.index.aggregates(prefix, after, count)?)
        })?;
        let more = found.len() > looked_at;
        found.truncate(looked_at);
        let last_looked_at = found.last().map(|(id, _)| id.clone());
        let mut matching = found
            .into_iter()
            .filter(|(_, head)| aggregate_type.is_empty() || *head.aggregate_type == *aggregate_type);
        let aggregates: Vec<_> = matching.by_ref().take(count).collect();
        let next = match matching.next() {
            Some(_) => aggregates.last().map(|(id, _)| id.clone()),
            None => last_looked_at.filter(|_| more),
        };
        Ok(AggregatePage { aggregates, next })
    }

    pub fn figures(&self) -> Figures {
        // In this order: what ImmuDB has is never ahead of what is stored.
        let view = self.standing.view();
        let (complete, totals) = self.history.index.figures();
        let (pending_events, pending_snapshots) = match view.state {
            crate::forwarder::State::LocalOnly => (0, 0),
            _ => (
                complete.tip.position.0.saturating_sub(view.forwarded.position.0),
                complete.tip.snapshots.saturating_sub(view.forwarded.snapshots),
            ),
        };
        let clock_difference = self.sequencer.clock().difference();
        let recorded_ahead = self.sequencer.clock().ahead(complete.recorded_at);
        Figures {
            complete,
            totals,
            view,
            pending_events,
            pending_snapshots,
            clock_difference,
            recorded_ahead,
        }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }
}

impl From<HistoryError> for StoreError {
    fn from(error: HistoryError) -> Self {
        Self::Damaged(error.to_string())
    }
}

#[cfg(test)]
pub(crate) mod tests;
