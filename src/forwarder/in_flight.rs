//! Transactions that were sent to ImmuDB and are not answered yet: one, or two where more waits than one takes.
//!
//! The second one is sent before the number of the first is known, so it names the number that the first one has if
//! nobody else writes. ImmuDB takes that condition for met also where no such transaction exists, so alone it proves
//! nothing. The second one therefore demands the last event of the first: it is not committed before that event is there.
//! And it demands that its own first event is not there: a copy of it that arrives late, after it was given up and its
//! events were sent again, is not committed behind them.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{BatchLimits, Link, Reached, batch::Batch, unchanged_since};
use crate::immudb::{KeyValue, Precondition, Session, SetError, TxHeader, TxId};

/// What a transaction continues: what ImmuDB has, or will have once it has the newest one in flight.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub reached: Reached,
    /// The key of the last event.
    last_event: Option<Bytes>,
    /// The transaction in which the head was written last.
    tx: TxId,
    is_in_flight: bool,
}

impl Before {
    /// What has to be so in ImmuDB for a transaction with this batch to be committed.
    fn conditions(&self, batch: &Batch) -> Vec<Precondition> {
        let mut conditions = unchanged_since(self.tx);
        // That alone would pass on an ImmuDB that was put back below this session, or that lacks the one in flight.
        conditions.extend(self.last_event.clone().map(Precondition::KeyMustExist));
        if self.is_in_flight {
            conditions.extend(batch.first_event.clone().map(Precondition::KeyMustNotExist));
        }
        conditions
    }
}

/// What is known of a transaction when it is sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub before: Before,
    /// ImmuDB has the log up to here with it.
    pub reached: Reached,
    pub event_count: u64,
    pub frame_count: u64,
    pub record_bytes: usize,
    /// Of the request.
    pub bytes: usize,
    pub at: Instant,
    /// The key of the last event that ImmuDB has with it.
    pub last_event: Option<Bytes>,
}

impl Sent {
    /// The number that it has if nobody else writes.
    pub fn expected(&self) -> TxId {
        self.before.tx.next()
    }
}

pub(super) type Answer = Result<TxHeader, SetError>;

/// A transaction with what ImmuDB answered, and when.
#[derive(Debug)]
pub(super) struct Answered {
    pub sent: Sent,
    pub answer: Answer,
    pub at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// In the order in which they were sent. ImmuDB commits none before the one that it follows.
    transactions: VecDeque<(Sent, AbortOnDropHandle<(Answer, Instant)>)>,
}

impl InFlight {
    const MAX: usize = 2;
    /// A larger one is not followed: the next one could be complete before it, and would be refused.
    const FOLLOWED_BYTES_MAX: usize = 1024 * 1024;

    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// When the one was sent that is answered next.
    pub fn oldest_sent(&self) -> Option<Instant> {
        self.transactions.front().map(|(sent, _)| sent.at)
    }

    /// What the next transaction continues.
    pub fn before(&self, link: &Link) -> Before {
        match self.transactions.back() {
            Some((newest, _)) => Before {
                reached: newest.reached,
                last_event: newest.last_event.clone(),
                tx: newest.expected(),
                is_in_flight: true,
            },
            None => Before {
                reached: link.reached,
                last_event: link.last_event.clone(),
                tx: link.head_tx,
                is_in_flight: false,
            },
        }
    }

    /// Whether one that is tied to the last event of the newest may be sent.
    pub fn may_be_followed(&self) -> bool {
        let is_tie =
            |(newest, _): &(Sent, _)| newest.event_count > 0 && newest.bytes <= Self::FOLLOWED_BYTES_MAX;
        self.transactions.len() < Self::MAX && self.transactions.back().is_some_and(is_tie)
    }

    /// Whether the newest has at least a quarter of what a transaction takes. Behind a smaller one there is hardly ever
    /// more than one takes, and it is soon answered.
    pub fn is_large(&self, limits: BatchLimits) -> bool {
        let is_large = |(newest, _): &(Sent, _)| {
            newest.bytes >= limits.bytes_max / 4 || newest.event_count >= limits.keys_max as u64 / 8
        };
        self.transactions.back().is_some_and(is_large)
    }

    /// Whether this one may go now. One without events goes alone: it can't be told from its repetition.
    pub fn takes(&self, batch: &Batch) -> bool {
        self.is_empty() || self.may_be_followed() && batch.first_event.is_some()
    }

    /// Sends the batch and the head. When this returns, it has begun to go out.
    pub async fn send(&mut self, link: &Link, batch: Batch, head: KeyValue) {
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
        };
        let session: Session = link.session.clone();
        let answer = async move { (session.set(entries, conditions).await, Instant::now()) };
        self.transactions.push_back((sent, AbortOnDropHandle::new(tokio::spawn(answer))));
        tokio::task::yield_now().await;
    }

    /// The oldest one, once it is answered. `None`: there is none, or the runtime is going down.
    pub async fn next(&mut self) -> Option<Box<Answered>> {
        let (_, answer) = self.transactions.front_mut()?;
        let (answer, at) = match answer.await {
            Ok(answered) => answered,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return None,
            },
        };
        self.transactions.pop_front().map(|(sent, _)| Box::new(Answered { sent, answer, at }))
    }

    /// Waits until all are answered or have timed out. What became of them, the head tells.
    pub async fn drain(&mut self) {
        while self.next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Hash, Position},
        forwarder::head,
        log::Place,
    };

    fn before(last_event: Option<&'static str>, is_in_flight: bool) -> Before {
        let reached = Reached { place: Place::START, position: Position(7), hash: Hash::START, snapshots: 0 };
        Before { reached, last_event: last_event.map(Bytes::from), tx: TxId(9), is_in_flight }
    }

    fn batch() -> Batch {
        Batch {
            entries: Vec::new(),
            event_count: 2,
            frame_count: 1,
            bytes: 0,
            first_event: Some(Bytes::from("event:first")),
            last_event: Some(Bytes::from("event:last")),
            reached: before(None, false).reached,
        }
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
