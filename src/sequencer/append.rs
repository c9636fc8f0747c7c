//! An append as a caller sends it, and appends and snapshots as the log stores them.

use std::collections::BTreeMap;

use crate::{
    event::{AggregateId, AppendBounds, Content, ContentDigest, EventId, NewEvent, SequenceNumber},
    log::LogOffset,
};

/// The contents of an append request, validated as far as possible without looking at stored
/// events.
#[derive(Debug)]
pub struct Append {
    /// The events in the order of the request, with the digests of what was sent.
    pub events: Vec<(NewEvent, ContentDigest)>,
    /// The last number that each aggregate must have; 0 if it must not exist.
    pub expected: Vec<(AggregateId, SequenceNumber)>,
}

impl Append {
    pub(super) fn byte_count(&self) -> u64 {
        self.events.iter().map(|(event, _)| byte_count(&event.content, &event.metadata)).sum()
    }
}

/// Estimates the memory used by an event or a snapshot.
pub(super) fn byte_count(content: &Content, metadata: &BTreeMap<String, String>) -> u64 {
    const OVERHEAD: usize = 1024;
    const ENTRY_OVERHEAD: usize = 64;
    let entries = metadata.iter().map(|(key, value)| key.len() + value.len() + ENTRY_OVERHEAD);
    (content.byte_count() + entries.sum::<usize>() + OVERHEAD) as u64
}

/// An append that is durable in the local log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAppend {
    /// Each aggregate once, in the order of their first events.
    pub aggregates: Vec<StoredAggregate>,
    /// The ids of the events, in the order of the request.
    pub event_ids: Vec<EventId>,
    /// The positions of the first and the last event.
    pub bounds: AppendBounds,
    /// Any copy of the log that reaches this offset contains these events.
    pub end: LogOffset,
    /// Whether the events were stored by an earlier call.
    pub already: bool,
}

/// One aggregate's share of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAggregate {
    /// The id of the aggregate.
    pub id: AggregateId,
    /// The number of its first event in the append.
    pub first: SequenceNumber,
    /// The number of its last event in the append.
    pub last: SequenceNumber,
    /// Whether the events since its last snapshot reach the threshold.
    pub snapshot_due: bool,
}

/// A snapshot that is durable in the local log. Any copy of the log that reaches `end` contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The end of the snapshot or, if it was dropped, of the newer one.
    pub end: LogOffset,
    /// Whether this snapshot was dropped because a newer one exists.
    pub dropped: bool,
}
