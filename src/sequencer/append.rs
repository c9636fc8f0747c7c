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
    pub events: Vec<(NewEvent, ContentDigest)>,
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
    pub aggregates: Vec<StoredAggregate>,
    pub event_ids: Vec<EventId>,
    pub bounds: AppendBounds,
    /// Any copy of the log that reaches this offset contains these events.
    pub end: LogOffset,
    /// Whether the events were stored by an earlier call.
    pub already: bool,
}

/// One aggregate's share of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAggregate {
    pub id: AggregateId,
    pub first: SequenceNumber,
    pub last: SequenceNumber,
    pub snapshot_due: bool,
}

/// A snapshot that is durable in the local log. Any copy of the log that reaches `end` contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSnapshot {
    pub end: LogOffset,
    /// Whether this snapshot was dropped because a newer one exists.
    pub dropped: bool,
}
