//! Implements the meaning of each call: append, load, snapshot, list, read, subscribe, figures.
//!
//! Checks whether the service accepts or serves anything at the moment, lets the sequencer store,
//! waits as long as the state requires, and reads from the local log. Knows nothing about the wire
//! format.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use crate::{
    error::{FailedPrecondition, StoreError},
    event::{AggregateId, EventId, Position, RecordedEvent, Snapshot, Timestamp},
    history::History,
    index::{Complete, Head, Totals, WaitMode},
    log::LogOffset,
    replication::{
        commit_waiters::CommitOutcome,
        status::{ReplicationStatus, View},
    },
    sequencer::{EarlierAttempt, Sequencer},
    stats::Counters,
};

mod aggregate_reader;
mod event_ref;
mod order_reader;

pub use aggregate_reader::{AggregateReader, LoadRequest};
pub(crate) use event_ref::EventRef;
pub use order_reader::{Filter, OrderChunk, OrderReader, OrderStart};

pub use crate::{
    log::Tip,
    sequencer::{Append, Origin, StoredAggregate, StoredAppend},
};

/// Where a write is stored when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredIn {
    /// In the local log. ImmuDB may not have it yet.
    LocalLog,
    /// In ImmuDB, by this transaction if it is known.
    Immudb(Option<u64>),
}

/// The answer to an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The append as the local log stores it.
    pub stored: StoredAppend,
    /// Where the append is stored now.
    pub stored_in: StoredIn,
}

/// A page of aggregates.
#[derive(Debug)]
pub struct AggregatePage {
    /// The aggregates in the bytewise order of their ids.
    pub aggregates: Vec<(AggregateId, Head)>,
    /// Continue after this id. `None` at the end.
    pub next: Option<AggregateId>,
}

/// Which aggregates to list. By default, all.
#[derive(Debug, Clone, Default)]
pub struct AggregateFilter {
    /// The type of the aggregates. If empty, all types.
    pub aggregate_type: String,
    /// What the ids start with.
    pub prefix: String,
    /// Only aggregates that are due for a snapshot.
    pub snapshot_due: bool,
}

/// All figures at one moment.
#[derive(Debug)]
pub struct Figures {
    /// How far the index is complete, with the state at that point.
    pub complete: Complete,
    /// The totals by type at the same point.
    pub totals: Totals,
    /// The replication status.
    pub view: View,
    /// The events that ImmuDB does not have yet; 0 if none is configured.
    pub pending_events: u64,
    /// The snapshots that ImmuDB does not have yet; 0 if none is configured.
    pub pending_snapshots: u64,
    /// In seconds: see `EventClock::difference`.
    pub clock_difference: f64,
    /// How far in the future the newest event was recorded, in seconds.
    pub recorded_ahead: f64,
}

/// Whether an append was stored by this call, or by an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Its events are stored by this call.
    First,
    /// Its events are stored, whatever happened to them since.
    Repeated,
}

impl Attempt {
    /// Returns whether this call or an earlier one stored the append.
    pub fn of(stored: &StoredAppend) -> Self {
        if stored.already { Self::Repeated } else { Self::First }
    }
}

/// Whether writes are allowed at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventSourcing {
    /// Writes are allowed.
    Enabled,
    /// Disabled; `file` is the file that says so.
    Disabled {
        /// The path of the configuration file.
        file: PathBuf,
    },
}

/// The event store, shared by all calls.
#[derive(Debug)]
pub struct EventStore {
    pub(crate) sequencer: Sequencer,
    pub(crate) replication: Arc<ReplicationStatus>,
    pub(crate) history: History,
    /// The counters of the service, which start at 0.
    pub counters: Arc<Counters>,
    /// Whether writes are allowed at all.
    pub event_sourcing: EventSourcing,
    /// When the store was created: at the start of the service, or when its log was opened again.
    pub started_at: Timestamp,
}

impl EventStore {
    /// Creates the store.
    pub fn new(
        sequencer: Sequencer,
        replication: Arc<ReplicationStatus>,
        history: History,
        counters: Arc<Counters>,
        event_sourcing: EventSourcing,
    ) -> Self {
        Self { sequencer, replication, history, counters, event_sourcing, started_at: Timestamp::now() }
    }

    /// Stores events, all or none, on behalf of the service itself.
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
        let stored_in = self.wait_for_commit(stored.end, stored.bounds.last, Attempt::of(&stored)).await?;
        Ok(Appended { stored, stored_in })
    }

    /// The first half of an append: makes its events durable locally. The client's answer must wait
    /// for [`EventStore::wait_for_commit`]. A retry is answered from the stored events before any
    /// check that concerns only new events can refuse it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append_here(&self, append: Append, origin: Origin) -> Result<StoredAppend, StoreError> {
        let stored = self.append_or_find(append, origin).await;
        self.counted_write(stored)
    }

    async fn append_or_find(&self, append: Append, origin: Origin) -> Result<StoredAppend, StoreError> {
        self.replication.admit_retry(self.tip())?;
        // Registered from here on, so that a retry that is refused meanwhile knows about this
        // attempt.
        let under_way = self.sequencer.under_way(&append, &origin);
        let absent_up_to = match self.sequencer.stored_before(&append).await? {
            EarlierAttempt::Stored(stored) => return Ok(stored),
            EarlierAttempt::NotFound { absent_up_to } => absent_up_to,
        };
        // Only now: the repeated answer to a stored append uses nothing up.
        let _reserved = match self.admit_write().and_then(|()| origin.admit_append(&append)) {
            Ok(reserved) => reserved,
            Err(refusal) => {
                // Dropped before the wait: two refused attempts must not wait for each other.
                drop(under_way);
                return self.first_answer(&append).await?.ok_or(refusal);
            }
        };
        self.sequencer.append_under_way(append, absent_up_to, origin, under_way).await
    }

    /// Returns the answer to an earlier attempt, which may still be in progress. Returns `None` if
    /// none of it is stored.
    pub(crate) async fn first_answer(&self, append: &Append) -> Result<Option<StoredAppend>, StoreError> {
        self.replication.admit_retry(self.tip())?;
        self.sequencer.until_decided(append).await;
        Ok(self.sequencer.stored_before(append).await?.stored())
    }

    /// The second half of an append: waits as long as the state requires. Returns where the append
    /// is stored. It ends at `end`, with its last event at `last`.
    ///
    /// # Errors
    /// Returns an error if the outcome is unknown.
    pub async fn wait_for_commit(
        &self,
        end: LogOffset,
        last: Position,
        attempt: Attempt,
    ) -> Result<StoredIn, StoreError> {
        self.counted_write(match self.replication.wait_for_commit(end, Some(last), self.tip()).await {
            CommitOutcome::Local => Ok(StoredIn::LocalLog),
            CommitOutcome::Immudb => Ok(StoredIn::Immudb(self.transaction(last))),
            CommitOutcome::Unknown => match attempt {
                Attempt::First => Err(StoreError::OutcomeUnknown),
                Attempt::Repeated if self.replication.is_forwarded(end, last) => {
                    Ok(StoredIn::Immudb(self.transaction(last)))
                }
                Attempt::Repeated => Ok(StoredIn::LocalLog),
            },
        })
    }

    /// Returns the transaction that contains the event at `position`, if it is known. The append is
    /// stored, so nothing here may turn it into a failure.
    fn transaction(&self, position: Position) -> Option<u64> {
        if let Some(tx) = self.replication.committed_transaction(position) {
            return Some(tx);
        }
        let tx = self.history.index.transaction(position, WaitMode::AtOnce).unwrap_or_else(|error| {
            tracing::warn!(%error, position = position.0, "cannot look up the ImmuDB transaction of an \
             event");
            None
        });
        tx.or_else(|| self.replication.supposed_transaction(position))
    }

    /// Stores a snapshot, unless there is a newer one. Returns where it is stored.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn save_snapshot(&self, snapshot: Snapshot, origin: Origin) -> Result<StoredIn, StoreError> {
        let stored_in = self.save(snapshot, origin).await;
        self.counted_write(stored_in)
    }

    async fn save(&self, snapshot: Snapshot, origin: Origin) -> Result<StoredIn, StoreError> {
        self.admit_write()?;
        let _reserved = origin.admit_snapshot(&snapshot)?;
        let stored = self.sequencer.snapshot(snapshot, origin).await?;
        match self.replication.wait_for_commit(stored.end, None, self.tip()).await {
            CommitOutcome::Local => Ok(StoredIn::LocalLog),
            CommitOutcome::Immudb => Ok(StoredIn::Immudb(None)),
            CommitOutcome::Unknown => Err(StoreError::OutcomeUnknown),
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
            return Err(FailedPrecondition::EventSourcingDisabled { file: file.clone() }.into());
        }
        self.replication.admit_write(self.tip())
    }

    /// Returns why a write would be refused at this moment. Disabled event sourcing is no fault, so
    /// it is no reason here. Accesses the disk.
    pub fn write_refusal(&self) -> Option<StoreError> {
        let admitted = self.replication.admit_write(self.tip());
        admitted.and_then(|()| self.sequencer.admit_log()).err()
    }

    /// Checks whether a write would be accepted at this moment.
    ///
    /// # Errors
    /// Returns the reason if it would not.
    pub fn writes_taken(&self) -> Result<(), StoreError> {
        self.admit_write()?;
        self.write_refusal().map_or(Ok(()), Err)
    }

    /// Checks whether reads are served.
    ///
    /// # Errors
    /// Returns an error if nothing may be read yet.
    pub fn admit_read(&self) -> Result<(), StoreError> {
        self.replication.admit_read(self.tip())
    }

    /// Returns the head of an aggregate, or `None` if the aggregate does not exist.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn head(&self, id: &AggregateId) -> Result<Option<Head>, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            Ok(self.history.index.head(id)?)
        })
    }

    /// Starts reading the events of an aggregate.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn load(&self, request: LoadRequest) -> Result<AggregateReader, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            AggregateReader::open(self.history.clone(), request)
        })
    }

    /// Returns the event with this id, if it is stored.
    ///
    /// # Errors
    /// Returns an error if the event is damaged; see [`StoreError`].
    pub fn find(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            let place = self.history.index.event(id)?;
            Ok(place.map(|place| self.history.event(place)).transpose()?)
        })
    }

    /// Returns the newest snapshot of an aggregate.
    ///
    /// # Errors
    /// Returns an error if there is none, or if it is damaged.
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

    /// Starts reading the global order.
    ///
    /// # Errors
    /// Returns an error if the checkpoint belongs to another history; see [`StoreError`].
    pub fn read(&self, start: OrderStart, filter: Filter) -> Result<OrderReader, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            OrderReader::open(self.history.clone(), self.tip(), start, filter)
        })
    }

    fn counted_load<T>(&self, load: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = load();
        if result.as_ref().is_err_and(StoreError::is_failure) {
            self.counters.load_failures.add(1);
        }
        result
    }

    /// Returns at most `count` aggregates that match, after the id `after`. If few of them match, a
    /// page may be short although another one follows: a call examines a bounded number.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn aggregates(
        &self,
        filter: &AggregateFilter,
        after: Option<&AggregateId>,
        count: usize,
    ) -> Result<AggregatePage, StoreError> {
        const LOOKED_AT_MAX: usize = 10_000;
        let AggregateFilter { aggregate_type, prefix, snapshot_due } = filter;
        let all_match = aggregate_type.is_empty() && !snapshot_due;
        let looked_at = if all_match { count } else { LOOKED_AT_MAX };
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
            .filter(|(_, head)| aggregate_type.is_empty() || *head.aggregate_type == **aggregate_type)
            .filter(|(id, head)| !snapshot_due || self.sequencer.snapshot_due(id, head));
        let aggregates: Vec<_> = matching.by_ref().take(count).collect();
        let next = match matching.next() {
            Some(_) => aggregates.last().map(|(id, _)| id.clone()),
            None => last_looked_at.filter(|_| more),
        };
        Ok(AggregatePage { aggregates, next })
    }

    /// Returns all figures.
    pub fn figures(&self) -> Figures {
        // In this order, so that ImmuDB is never ahead of the local log.
        let view = self.replication.view();
        let (complete, totals) = self.history.index.figures();
        let (pending_events, pending_snapshots) = match view.state {
            crate::replication::state::State::LocalOnly => (0, 0),
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

    /// Returns the stored events, for reads that [`EventStore::admit_read`] does not guard.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Returns the tip, up to which everything is durable and may be read.
    pub fn tip(&self) -> Tip {
        self.sequencer.tip()
    }

    /// Returns a receiver that follows the tip.
    pub fn watch_tip(&self) -> watch::Receiver<Tip> {
        self.sequencer.watch_tip()
    }

    /// Returns the handle to the sequencer.
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// Returns the replication status.
    pub fn replication(&self) -> &Arc<ReplicationStatus> {
        &self.replication
    }
}

#[cfg(test)]
pub(crate) mod tests;
