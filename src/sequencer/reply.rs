//! The answers that wait for the sync of their group.

use super::{
    append::{StoredAppend, StoredSnapshot},
    call::Reply,
    group_error::GroupError,
    restored::RestoreError,
    settings::Settings,
    under_way::UnderWay,
};
use crate::{error::StoreError, event::Position, log::Tip, stats::Counters};

/// An answer and its caller. A caller that is gone needs no answer.
pub(super) enum PendingReply {
    Append(Reply<StoredAppend>, Result<StoredAppend, StoreError>, UnderWay),
    Snapshot(Reply<StoredSnapshot>, Result<StoredSnapshot, StoreError>),
    Restore(Reply<Tip, RestoreError>, Result<Tip, RestoreError>),
    RestoreSnapshot(Reply<(), RestoreError>, Result<(), RestoreError>),
}

/// The outcome of a group, on which its answers depend.
pub(super) struct GroupOutcome<'a> {
    /// Why the group was not stored, if it was not.
    pub failed: Option<&'a GroupError>,
    /// The position up to which the log is durable and findable.
    pub published: Position,
    pub settings: &'a Settings,
    pub counters: &'a Counters,
}

impl PendingReply {
    /// Sends the answer. If the group failed, the caller gets the failure and not a result that was
    /// derived from the group.
    pub(super) fn send(self, group: &GroupOutcome<'_>) {
        let for_caller = || group.failed.map(|error| error.for_caller(group.settings));
        let for_restorer = || group.failed.cloned().map(RestoreError::from);
        match self {
            Self::Append(reply, result, under_way) => {
                let result = match result {
                    // Stored by an earlier group, so the outcome of this one does not matter.
                    Ok(stored) if stored.already && stored.bounds.last <= group.published => Ok(stored),
                    result => for_caller().map_or(result, Err),
                };
                if let Ok(stored) = result.as_ref()
                    && !stored.already
                {
                    group.counters.events_stored.add(stored.bounds.event_count());
                }
                _ = reply.send(result);
                drop(under_way);
            }
            Self::Snapshot(reply, result) => {
                let result = for_caller().map_or(result, Err);
                if result.as_ref().is_ok_and(|stored| !stored.dropped) {
                    group.counters.snapshots_stored.add(1);
                }
                _ = reply.send(result);
            }
            Self::Restore(reply, result) => _ = reply.send(for_restorer().map_or(result, Err)),
            Self::RestoreSnapshot(reply, result) => _ = reply.send(for_restorer().map_or(result, Err)),
        }
    }
}
