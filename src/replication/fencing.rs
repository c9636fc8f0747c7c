//! Decides whether this service may write to the database, from `log:head` and the local log.
//! Performs no I/O: the forwarder reads both, and carries out the decision.

use uuid::Uuid;

use super::head::LogHead;
use crate::event::{ChainHash, Position};

/// The local side of the comparison.
#[derive(Debug, Clone)]
pub(crate) struct LocalState<'a> {
    /// All writer ids with which this log has ever claimed the database.
    pub ids: &'a [Uuid],
    /// The writer id with which this process has claimed the database.
    pub current: Option<Uuid>,
    /// Position of the last local event.
    pub last: Position,
    /// The forwarded position: ImmuDB had everything up to here.
    pub forwarded: Position,
    /// The local chain hash at the head's position, if the local log reaches it.
    pub hash_at_head: Option<ChainHash>,
    /// Whether events have been accepted, or might have been, since the process started.
    pub serving: Serving,
    /// The operator passed `--take-over`.
    pub take_over: bool,
}

/// Whether the service accepts events already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    NotYet,
    Began,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The database has never been written to: claim it.
    ClaimEmpty,
    /// Claim the database; it has nothing that the local log lacks.
    Claim,
    /// The local log lacks events that the database has: check that they fit, claim, restore.
    ClaimAndCopy,
    /// This process owns the database: continue after the head's position.
    Resume,
    Fenced(FenceReason),
    Suspect(SuspectReason),
}

/// Why nothing may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FenceReason {
    #[error("another writer has the database (start with --take-over if that writer is permanently gone)")]
    OtherWriter,
    #[error("the history in the database differs from the local log")]
    Diverged,
    #[error("the database is ahead of the local log, which already accepts events; restart the service")]
    Ahead,
}

/// Why the contents of ImmuDB are suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SuspectReason {
    #[error("log:head is missing although events have been replicated")]
    Emptied,
    #[error("ImmuDB has lost transactions that it had committed")]
    RolledBack,
    #[error("the database has events of this service, but no log:head")]
    HeadMissing,
    #[error(
        "the database contains events of Aethyr's own event store (Ruby Marshal format); to import them, stop \
         the service and run `aethyr-event-store import-aethyr immudb`; then set immudb.database to another \
         database"
    )]
    OfAethyr,
    #[error("ImmuDB lacks the event at the position of log:head")]
    EventMissing,
    #[error(
        "ImmuDB cannot read the events behind the end of the local log, which was restored up to the \
         damage; set immudb.database to another database"
    )]
    EndDamaged,
}

/// The kind of events in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Events {
    None,
    OfThisService,
    /// Aethyr's own event store uses the same keys.
    OfAethyr,
}

/// Decides what to do next. `events` matters only if there is no head.
pub(crate) fn decide(head: Option<&LogHead>, events: Events, ours: &LocalState<'_>) -> Decision {
    let Some(head) = head else {
        return match (ours.forwarded > Position(0) || ours.current.is_some(), events) {
            (true, _) => Decision::Suspect(SuspectReason::Emptied),
            (false, Events::OfThisService) => Decision::Suspect(SuspectReason::HeadMissing),
            (false, Events::OfAethyr) => Decision::Suspect(SuspectReason::OfAethyr),
            (false, Events::None) => Decision::ClaimEmpty,
        };
    };
    let mine = ours.ids.contains(&head.writer);
    match ours.current {
        Some(current) if current == head.writer => compare(head, ours, Decision::Resume),
        // Only an ImmuDB that was rolled back names an id of this log that is not the current one.
        Some(_) if mine => Decision::Suspect(SuspectReason::RolledBack),
        Some(_) => Decision::Fenced(FenceReason::OtherWriter),
        None => {
            let open = ours.serving == Serving::NotYet && (head.released || ours.take_over);
            if mine || open {
                compare(head, ours, Decision::Claim)
            } else {
                Decision::Fenced(FenceReason::OtherWriter)
            }
        }
    }
}

fn compare(head: &LogHead, ours: &LocalState<'_>, if_equal: Decision) -> Decision {
    if head.position > ours.last {
        return match (ours.serving, if_equal) {
            (Serving::NotYet, _) => Decision::ClaimAndCopy,
            (Serving::Began, _) => Decision::Fenced(FenceReason::Ahead),
        };
    }
    if ours.hash_at_head != Some(head.hash) {
        return Decision::Fenced(FenceReason::Diverged);
    }
    if head.position < ours.forwarded {
        return Decision::Suspect(SuspectReason::RolledBack);
    }
    if_equal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(writer: Uuid, position: u64, hash: ChainHash, released: bool) -> LogHead {
        LogHead { position: Position(position), hash, writer, written_at: 0, released, tree: None }
    }

    #[test]
    fn a_writer_claims_only_what_is_its_own_or_free() {
        let (mine, old, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let ids = [old, mine];
        let (hash, foreign) = (ChainHash::START.chain(b"ours"), ChainHash::START.chain(b"theirs"));
        let start = LocalState {
            ids: &ids,
            current: None,
            last: Position(10),
            forwarded: Position(5),
            hash_at_head: Some(hash),
            serving: Serving::NotYet,
            take_over: false,
        };
        let began = LocalState { serving: Serving::Began, ..start.clone() };
        let claimed = LocalState { current: Some(mine), ..began.clone() };
        let take_over = LocalState { take_over: true, ..start.clone() };
        let fresh = LocalState {
            ids: &[],
            last: Position(0),
            forwarded: Position(0),
            hash_at_head: None,
            ..start.clone()
        };
        let fresh_take_over = LocalState { take_over: true, ..fresh.clone() };
        let late_take_over = LocalState { take_over: true, ..began.clone() };
        use Decision::{Claim, ClaimAndCopy, Fenced, Resume, Suspect};
        use FenceReason::{Ahead, Diverged, OtherWriter};
        use SuspectReason::RolledBack;
        let table = [
            ("own id at the start", head(mine, 7, hash, false), &start, Claim),
            ("an older id at the start", head(old, 7, hash, false), &start, Claim),
            ("own id later", head(mine, 7, hash, false), &began, Claim),
            ("own claim again", head(mine, 7, hash, false), &claimed, Resume),
            ("another writer at the start", head(other, 7, hash, false), &start, Fenced(OtherWriter)),
            ("another writer later", head(other, 7, hash, false), &claimed, Fenced(OtherWriter)),
            ("released at the start", head(other, 7, hash, true), &start, Claim),
            ("released, but too late", head(other, 7, hash, true), &began, Fenced(OtherWriter)),
            ("--take-over at the start", head(other, 7, hash, false), &take_over, Claim),
            ("--take-over, but too late", head(other, 7, hash, false), &late_take_over, Fenced(OtherWriter)),
            ("--take-over with other events", head(other, 7, foreign, false), &take_over, Fenced(Diverged)),
            ("an empty disk, not ours", head(other, 7, hash, false), &fresh, Fenced(OtherWriter)),
            ("an empty disk, released", head(other, 7, hash, true), &fresh, ClaimAndCopy),
            ("an empty disk, --take-over", head(other, 7, hash, false), &fresh_take_over, ClaimAndCopy),
            ("our end is lost", head(mine, 11, hash, false), &start, ClaimAndCopy),
            ("our end is lost, too late", head(mine, 11, hash, false), &began, Fenced(Ahead)),
            ("another history", head(mine, 7, foreign, false), &start, Fenced(Diverged)),
            ("rolled back", head(mine, 4, hash, false), &start, Suspect(RolledBack)),
            ("rolled back under way", head(mine, 4, hash, false), &claimed, Suspect(RolledBack)),
            ("rolled back before the claim", head(old, 7, hash, false), &claimed, Suspect(RolledBack)),
        ];
        for (what, head, ours, expected) in table {
            assert_eq!(decide(Some(&head), Events::OfThisService, ours), expected, "{what}");
        }
    }

    #[test]
    fn only_a_database_without_anything_of_ours_is_claimed_as_empty() {
        let fresh = LocalState {
            ids: &[],
            current: None,
            last: Position(10),
            forwarded: Position(0),
            hash_at_head: None,
            serving: Serving::Began,
            take_over: false,
        };
        assert_eq!(decide(None, Events::None, &fresh), Decision::ClaimEmpty);
        assert_eq!(decide(None, Events::OfAethyr, &fresh), Decision::Suspect(SuspectReason::OfAethyr));
        assert_eq!(
            decide(None, Events::OfThisService, &fresh),
            Decision::Suspect(SuspectReason::HeadMissing)
        );
        let forwarded = LocalState { forwarded: Position(1), ..fresh.clone() };
        assert_eq!(decide(None, Events::None, &forwarded), Decision::Suspect(SuspectReason::Emptied));
        let claimed = LocalState { current: Some(Uuid::new_v4()), ..fresh };
        assert_eq!(decide(None, Events::None, &claimed), Decision::Suspect(SuspectReason::Emptied));
    }
}
