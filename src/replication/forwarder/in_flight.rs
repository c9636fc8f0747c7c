//! Transactions that were sent to ImmuDB but not answered yet: one, or two if more is pending than
//! fits into one.
//!
//! The second is sent before the id of the first is known, so its precondition names the id that
//! the first gets if no other client writes. ImmuDB accepts that even if no such transaction
//! exists. The second therefore also requires the last event of the first, and is not committed
//! before that event exists. It also requires that its own first event does not exist: a request
//! that arrives late, after its events were retried, is not committed.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Link, LogPoint,
    receipts::{self, Receipt, SetResult},
    unchanged_since,
};
use crate::{
    immudb::{KeyValue, Precondition, Session, TxId, verify::SentEntries},
    replication::{BatchLimits, transaction::Batch},
};

/// What a transaction continues: the state of ImmuDB, or its state after the newest transaction in
/// flight.
#[derive(Debug, Clone)]
pub(super) struct Predecessor {
    pub reached: LogPoint,
    /// The key of the last event.
    last_event: Option<Bytes>,
    /// The last transaction that wrote the head.
    tx: TxId,
    is_in_flight: bool,
}

impl Predecessor {
    /// Returns the preconditions under which a transaction with this batch may be committed.
    fn conditions(&self, batch: &Batch) -> Vec<Precondition> {
        let mut conditions = unchanged_since(self.tx);
        // The preconditions on the head alone would also hold in an ImmuDB that was rolled back
        // during this session, or that lacks the transaction in flight.
        conditions.extend(self.last_event.clone().map(Precondition::KeyMustExist));
        if self.is_in_flight {
            conditions.extend(batch.first_event.clone().map(Precondition::KeyMustNotExist));
        }
        conditions
    }
}

/// What is known about a transaction when it is sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub before: Predecessor,
    /// Once this is committed, ImmuDB has the log up to here.
    pub reached: LogPoint,
    pub event_count: u64,
    pub frame_count: u64,
    pub record_bytes: usize,
    /// Size of all keys and values in the request.
    pub bytes: usize,
    pub at: Instant,
    /// The key of the last event that ImmuDB has once this is committed.
    pub last_event: Option<Bytes>,
    /// The size of the checkpoint that it stores.
    pub checkpoint: Option<u64>,
}

impl Sent {
    /// Returns the id that the transaction gets if no other client writes.
    pub(super) fn expected(&self) -> TxId {
        self.before.tx.next()
    }
}

/// A transaction with ImmuDB's answer, and when the answer arrived.
#[derive(Debug)]
pub(super) struct Answered {
    pub sent: Sent,
    pub answer: SetResult,
    pub at: Instant,
    /// What the answer must say.
    pub entries: SentEntries,
}

#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// In the order in which they were sent. ImmuDB commits none before its predecessor.
    transactions: VecDeque<(Sent, AbortOnDropHandle<Receipt>)>,
}

impl InFlight {
    const MAX: usize = 2;
    /// A larger transaction is not followed by another one, which could arrive completely before it
    /// and would then be refused.
    const FOLLOWED_BYTES_MAX: usize = 1024 * 1024;

    pub(super) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Returns when the oldest transaction was sent.
    pub(super) fn oldest_sent(&self) -> Option<Instant> {
        self.transactions.front().map(|(sent, _)| sent.at)
    }

    /// Returns what the next transaction continues.
    pub(super) fn before(&self, link: &Link) -> Predecessor {
        match self.transactions.back() {
            Some((newest, _)) => Predecessor {
                reached: newest.reached,
                last_event: newest.last_event.clone(),
                tx: newest.expected(),
                is_in_flight: true,
            },
            None => Predecessor {
                reached: link.reached,
                last_event: link.last_event.clone(),
                tx: link.head_tx,
                is_in_flight: false,
            },
        }
    }

    /// Returns whether another transaction may be sent that requires the last event of the newest
    /// one.
    pub(super) fn may_be_followed(&self) -> bool {
        let is_tie =
            |(newest, _): &(Sent, _)| newest.event_count > 0 && newest.bytes <= Self::FOLLOWED_BYTES_MAX;
        self.transactions.len() < Self::MAX && self.transactions.back().is_some_and(is_tie)
    }

    /// Returns whether the newest transaction uses at least a quarter of the limits. After a
    /// smaller one, there is rarely more pending than fits into one transaction, and it is answered
    /// soon.
    pub(super) fn is_large(&self, limits: BatchLimits) -> bool {
        let is_large = |(newest, _): &(Sent, _)| {
            newest.bytes >= limits.bytes_max / 4 || newest.event_count >= limits.keys_max as u64 / 8
        };
        self.transactions.back().is_some_and(is_large)
    }

    /// Returns whether this batch may be sent now. A batch without events is sent alone: it cannot
    /// be distinguished from its own duplicate.
    pub(super) fn takes(&self, batch: &Batch) -> bool {
        self.is_empty() || self.may_be_followed() && batch.first_event.is_some()
    }

    /// Sends the batch and the head. When this returns, sending has begun.
    pub(super) async fn send(&mut self, link: &Link, batch: Batch, head: KeyValue) {
        let before = self.before(link);
        let conditions = before.conditions(&batch);
        let last_event = batch.last_event.or_else(|| before.last_event.clone());
        let mut entries = batch.entries;
        entries.push(head);
        let sent = Sent {
            before,
            reached: batch.reached,
            event_count: batch.event_count,
            frame_count: batch.frame_count,
            record_bytes: batch.bytes,
            bytes: entries.iter().map(|entry| entry.key.len().saturating_add(entry.value.len())).sum(),
            at: Instant::now(),
            last_event,
            checkpoint: batch.checkpoint,
        };
        let session: Session = link.session.clone();
        let answer = async move { receipts::set(&session, entries, conditions).await };
        self.transactions.push_back((sent, AbortOnDropHandle::new(tokio::spawn(answer))));
        tokio::task::yield_now().await;
    }

    /// Waits for the answer to the oldest transaction. Returns `None` if there is none, or if the
    /// runtime is shutting down.
    pub(super) async fn next(&mut self) -> Option<Box<Answered>> {
        let (_, answer) = self.transactions.front_mut()?;
        let Receipt { answer, at, entries } = match answer.await {
            Ok(receipt) => receipt,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return None,
            },
        };
        self.transactions.pop_front().map(|(sent, _)| Box::new(Answered { sent, answer, at, entries }))
    }

    /// Waits until all transactions have been answered or have timed out. Their outcome is learned
    /// from the head. Returns what they were, in the order of sending.
    pub(super) async fn drain(&mut self) -> Vec<SentEntries> {
        let mut drained = Vec::new();
        while let Some(answered) = self.next().await {
            drained.push(answered.entries);
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Position, replication::head};

    fn before(last_event: Option<&'static str>, is_in_flight: bool) -> Predecessor {
        let reached = LogPoint { position: Position(7), tree: None, ..LogPoint::START };
        Predecessor { reached, last_event: last_event.map(Bytes::from), tx: TxId(9), is_in_flight }
    }

    fn batch() -> Batch {
        Batch {
            entries: Vec::new(),
            event_count: 2,
            frame_count: 1,
            bytes: 0,
            first_event: Some(Bytes::from("event:first")),
            last_event: Some(Bytes::from("event:last")),
            checkpoint: None,
            reached: before(None, false).reached,
        }
    }

    #[test]
    fn a_checkpoint_goes_only_behind_what_was_answered() {
        let checkpoint = Batch { checkpoint: Some(7), ..Batch::of_head(before(None, false).reached) };
        assert!(InFlight::default().takes(&checkpoint));
        assert_eq!(
            before(Some("event:before"), false).conditions(&checkpoint),
            before(Some("event:before"), false).conditions(&batch())
        );
        assert_eq!(checkpoint.first_event, None, "so nothing in flight takes it");
    }

    #[test]
    fn only_what_follows_one_in_flight_demands_that_its_first_event_is_not_there() {
        use Precondition::{KeyMustExist, KeyMustNotExist, KeyNotModifiedAfterTx};
        let key = Bytes::from_static(head::KEY);
        let unchanged = [KeyMustExist(key.clone()), KeyNotModifiedAfterTx { key, tx: TxId(9) }];
        assert_eq!(before(None, false).conditions(&batch()), unchanged);
        let last = [KeyMustExist("event:before".into())];
        let alone = [&unchanged[..], &last].concat();
        assert_eq!(before(Some("event:before"), false).conditions(&batch()), alone);
        let second = [&alone[..], &[KeyMustNotExist("event:first".into())]].concat();
        assert_eq!(before(Some("event:before"), true).conditions(&batch()), second);
    }
}
