//! Who may write: what `log:head` and our log together allow. Pure.

use uuid::Uuid;

use super::head::Head;
use crate::event::{Hash, Position};

/// What our side of the comparison knows.
#[derive(Debug, Clone)]
pub struct Ours<'a> {
    /// All ids that this log ever claimed with.
    pub ids: &'a [Uuid],
    /// The id that this process claimed with.
    pub current: Option<Uuid>,
    /// Position of our last event.
    pub last: Position,
    /// ImmuDB had everything up to here.
    pub forwarded: Position,
    /// Our hash at the head's position, if our log reaches it.
    pub hash_at_head: Option<Hash>,
    /// Events were taken, or might have been, since the process started.
    pub serving: Serving,
    /// The administrator said `--take-over`.
    pub take_over: bool,
}

/// Whether the service takes events already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    NotYet,
    Began,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nobody ever wrote there: claim it.
    ClaimEmpty,
    /// Claim it; the database has nothing that our log lacks.
    Claim,
    /// Our log lacks what the database has: check that it fits, claim, copy.
    ClaimAndCopy,
    /// It is ours in this process: go on behind the head's position.
    Resume,
    Fenced(Fence),
    Suspect(Doubt),
}

/// Why nothing may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fence {
    #[error("another writer has the database (start with --take-over if it is gone for good)")]
    OtherWriter,
    #[error("the database has another history than the local log")]
    Diverged,
    #[error("the database has more than the local log, which already takes events; restart the service")]
    Ahead,
}

/// What ImmuDB lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("log:head is missing, though events were forwarded")]
    Emptied,
    #[error("ImmuDB has less than it had")]
    RolledBack,
    #[error("the database has events of ours, but no log:head")]
    HeadMissing,
    #[error(
        "the database has events of Aethyr's own event store, which can't be taken over (Ruby's Marshal format): name another \
         database (immudb.database)"
    )]
    OfAethyr,
    #[error("ImmuDB lacks the event that log:head is at")]
    EventMissing,
}

/// What lies under the keys of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    None,
    Ours,
    /// Aethyr's own event store has the same keys.
    OfAethyr,
}

/// `events` are looked at where there is no head.
pub fn decide(head: Option<&Head>, events: Events, ours: &Ours<'_>) -> Decision {
    let Some(head) = head else {
        return match (ours.forwarded > Position(0) || ours.current.is_some(), events) {
            (true, _) => Decision::Suspect(Doubt::Emptied),
            (false, Events::Ours) => Decision::Suspect(Doubt::HeadMissing),
            (false, Events::OfAethyr) => Decision::Suspect(Doubt::OfAethyr),
            (false, Events::None) => Decision::ClaimEmpty,
        };
    };
    let mine = ours.ids.contains(&head.writer);
    match ours.current {
        Some(current) if current == head.writer => compare(head, ours, Decision::Resume),
        // Only an ImmuDB that was put back names an id of ours that is not the newest.
        Some(_) if mine => Decision::Suspect(Doubt::RolledBack),
        Some(_) => Decision::Fenced(Fence::OtherWriter),
        None => {
            let open = ours.serving == Serving::NotYet && (head.released || ours.take_over);
            match mine || open {
                true => compare(head, ours, Decision::Claim),
                false => Decision::Fenced(Fence::OtherWriter),
            }
        }
    }
}

fn compare(head: &Head, ours: &Ours<'_>, if_equal: Decision) -> Decision {
    if head.position > ours.last {
        return match (ours.serving, if_equal) {
            (Serving::NotYet, _) => Decision::ClaimAndCopy,
            (Serving::Began, _) => Decision::Fenced(Fence::Ahead),
        };
    }
    if ours.hash_at_head != Some(head.hash) {
        return Decision::Fenced(Fence::Diverged);
    }
    if head.position < ours.forwarded {
        return Decision::Suspect(Doubt::RolledBack);
    }
    if_equal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(writer: Uuid, position: u64, hash: Hash, released: bool) -> Head {
        Head { position: Position(position), hash, writer, written_at: 0, released }
    }

    #[test]
    fn a_writer_claims_only_what_is_its_own_or_free() {
        let (mine, old, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let ids = [old, mine];
        let (hash, foreign) = (Hash::START.chain(b"ours"), Hash::START.chain(b"theirs"));
        let start = Ours {
            ids: &ids,
            current: None,
            last: Position(10),
            forwarded: Position(5),
            hash_at_head: Some(hash),
            serving: Serving::NotYet,
            take_over: false,
        };
        let began = Ours { serving: Serving::Began, ..start.clone() };
        let claimed = Ours { current: Some(mine), ..began.clone() };
        let take_over = Ours { take_over: true, ..start.clone() };
        let fresh =
            Ours { ids: &[], last: Position(0), forwarded: Position(0), hash_at_head: None, ..start.clone() };
        let fresh_take_over = Ours { take_over: true, ..fresh.clone() };
        let late_take_over = Ours { take_over: true, ..began.clone() };
        use Decision::{Claim, ClaimAndCopy, Fenced, Resume, Suspect};
        let table = [
            ("own id at the start", head(mine, 7, hash, false), &start, Claim),
            ("an older id at the start", head(old, 7, hash, false), &start, Claim),
            ("own id later", head(mine, 7, hash, false), &began, Claim),
            ("own claim again", head(mine, 7, hash, false), &claimed, Resume),
            ("another writer at the start", head(other, 7, hash, false), &start, Fenced(Fence::OtherWriter)),
            ("another writer later", head(other, 7, hash, false), &claimed, Fenced(Fence::OtherWriter)),
            ("released at the start", head(other, 7, hash, true), &start, Claim),
            ("released, but too late", head(other, 7, hash, true), &began, Fenced(Fence::OtherWriter)),
            ("--take-over at the start", head(other, 7, hash, false), &take_over, Claim),
            (
                "--take-over, but too late",
                head(other, 7, hash, false),
                &late_take_over,
                Fenced(Fence::OtherWriter),
            ),
            (
                "--take-over with other events",
                head(other, 7, foreign, false),
                &take_over,
                Fenced(Fence::Diverged),
            ),
            ("an empty disk, not ours", head(other, 7, hash, false), &fresh, Fenced(Fence::OtherWriter)),
            ("an empty disk, released", head(other, 7, hash, true), &fresh, ClaimAndCopy),
            ("an empty disk, --take-over", head(other, 7, hash, false), &fresh_take_over, ClaimAndCopy),
            ("our end is lost", head(mine, 11, hash, false), &start, ClaimAndCopy),
            ("our end is lost, too late", head(mine, 11, hash, false), &began, Fenced(Fence::Ahead)),
            ("another history", head(mine, 7, foreign, false), &start, Fenced(Fence::Diverged)),
            ("rolled back", head(mine, 4, hash, false), &start, Suspect(Doubt::RolledBack)),
            ("rolled back under way", head(mine, 4, hash, false), &claimed, Suspect(Doubt::RolledBack)),
            ("rolled back before the claim", head(old, 7, hash, false), &claimed, Suspect(Doubt::RolledBack)),
        ];
        for (what, head, ours, expected) in table {
            assert_eq!(decide(Some(&head), Events::Ours, ours), expected, "{what}");
        }
    }

    #[test]
    fn only_a_database_without_anything_of_ours_is_claimed_as_empty() {
        let fresh = Ours {
            ids: &[],
            current: None,
            last: Position(10),
            forwarded: Position(0),
            hash_at_head: None,
            serving: Serving::Began,
            take_over: false,
        };
        assert_eq!(decide(None, Events::None, &fresh), Decision::ClaimEmpty);
        assert_eq!(decide(None, Events::OfAethyr, &fresh), Decision::Suspect(Doubt::OfAethyr));
        assert_eq!(decide(None, Events::Ours, &fresh), Decision::Suspect(Doubt::HeadMissing));
        let forwarded = Ours { forwarded: Position(1), ..fresh.clone() };
        assert_eq!(decide(None, Events::None, &forwarded), Decision::Suspect(Doubt::Emptied));
        let claimed = Ours { current: Some(Uuid::new_v4()), ..fresh };
        assert_eq!(decide(None, Events::None, &claimed), Decision::Suspect(Doubt::Emptied));
    }
}
