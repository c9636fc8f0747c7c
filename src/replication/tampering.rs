//! What leads to which state, and what ends that state: one table for everything that can be wrong
//! with the history in ImmuDB. `docs/operations/fenced-and-suspect.md` has the same table.

use std::fmt;

use super::{
    fencing::{FenceReason, SuspectReason},
    findings::{Finding, FindingKind},
    ledger::Contradiction,
    state::{Signal, State},
};
use crate::immudb::verify::HeaderMismatch;

/// What is wrong with the history in ImmuDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Condition {
    OtherWriter,
    OtherHistory,
    HeadMissing,
    OlderState,
    EndDamaged,
    OtherHash,
    BrokenChain,
    WrongReceipt,
    KeyOverwritten,
    KeyDeleted,
    ValuesDeleted,
    WrongAnswer,
    ForeignTransaction,
    BadSignature,
    RecordDiffers,
    DamagedInImmudb,
    LocalDamage,
    AnchorDiffers,
}

/// What an operator does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayOut {
    /// Stop the other writer, or start with `--take-over` if it is gone.
    TakeOver,
    /// `resolve --give-up-pending`.
    GiveUpPending,
    /// `resolve --resend`.
    Resend,
    /// `resolve --accept-findings`, or `resolve --resend` into a new database.
    AcceptFindings,
    /// Restore a newer copy of the storage, or `resolve --accept-findings`.
    RestoreStorage,
    /// `repair`.
    Repair,
    /// Nothing has to end, but somebody should look.
    FindTheCause,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// The condition as a clause.
    pub text: &'static str,
    /// The state that it leads to, or `None` if the state stays.
    pub state: Option<State>,
    pub way_out: WayOut,
    /// How it is recorded, if it is.
    pub finding: Option<FindingKind>,
}

impl Condition {
    /// Returns the row of the table.
    pub(crate) fn row(self) -> Row {
        use FindingKind as Kind;
        use State::{Fallback, Fenced, Suspect, Tampered};
        use WayOut::{AcceptFindings, FindTheCause, GiveUpPending, Repair, Resend, RestoreStorage, TakeOver};
        let (text, state, way_out, finding) = match self {
            Self::OtherWriter => ("log:head names another writer", Some(Fenced), TakeOver, None),
            Self::OtherHistory => {
                ("the events in the database differ from the local log", Some(Fenced), GiveUpPending, None)
            }
            Self::HeadMissing => ("the database has no log:head, or is empty", Some(Suspect), Resend, None),
            Self::OlderState => {
                ("the newest transaction is an older one of this history", Some(Suspect), Resend, None)
            }
            Self::EndDamaged => {
                let text = "the local log was restored up to a damage in ImmuDB";
                (text, Some(Suspect), Resend, None)
            }
            Self::OtherHash => {
                let text = "a transaction does not have the hash that was verified before";
                (text, Some(Tampered), AcceptFindings, Some(Kind::OtherHash))
            }
            Self::BrokenChain => {
                let text = "a transaction does not continue the history in ImmuDB";
                (text, Some(Tampered), AcceptFindings, Some(Kind::HeaderMismatch))
            }
            Self::WrongReceipt => {
                let text = "ImmuDB committed something other than what was sent, or on another history";
                (text, Some(Tampered), AcceptFindings, Some(Kind::HeaderMismatch))
            }
            Self::KeyOverwritten => {
                let text = "a key of this service was overwritten";
                (text, Some(Tampered), AcceptFindings, Some(Kind::ForeignKey))
            }
            Self::KeyDeleted => {
                let text = "a key of this service was deleted";
                (text, Some(Tampered), AcceptFindings, Some(Kind::KeyDeleted))
            }
            Self::ValuesDeleted => {
                let text = "values were deleted on purpose";
                (text, Some(Tampered), AcceptFindings, Some(Kind::Truncated))
            }
            Self::WrongAnswer => {
                let text = "an answer of ImmuDB was wrong, and a second look found the history intact";
                (text, None, FindTheCause, Some(Kind::WrongAnswer))
            }
            Self::ForeignTransaction => {
                let text = "another client has written to the database, but to no key of this service";
                (text, None, FindTheCause, Some(Kind::ForeignTransaction))
            }
            Self::BadSignature => {
                let text = "ImmuDB's state is not signed with the key in immudb.public_key_file";
                (text, Some(Fallback), FindTheCause, Some(Kind::BadSignature))
            }
            Self::RecordDiffers => {
                let text = "a record in ImmuDB is not that of the local log";
                (text, Some(Tampered), AcceptFindings, Some(Kind::RecordDiffers))
            }
            Self::DamagedInImmudb => {
                ("ImmuDB cannot read a part of its history", None, FindTheCause, Some(Kind::Damaged))
            }
            Self::LocalDamage => {
                ("a part of the local log is damaged", None, Repair, Some(Kind::LocalDamage))
            }
            Self::AnchorDiffers => {
                let text = "an anchor has a checkpoint that this history does not continue";
                (text, Some(Tampered), RestoreStorage, Some(Kind::AnchorDiffers))
            }
        };
        Row { text, state, way_out, finding }
    }

    /// Returns the signal that leads to the state, or `None` if it ends without an operator.
    pub(crate) fn signal(self) -> Option<Signal> {
        match self.row().state {
            Some(State::Fenced) => Some(Signal::OtherWriter),
            Some(State::Suspect) => Some(Signal::HistoryMissing),
            Some(State::Tampered) => Some(Signal::Tampered),
            Some(
                State::Starting
                | State::Connected
                | State::Fallback
                | State::Migrating
                | State::LocalOnly
                | State::Copying,
            )
            | None => None,
        }
    }

    /// Returns a finding of this condition.
    pub(crate) fn finding(self, expected: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(self.row().finding.unwrap_or(FindingKind::HeaderMismatch), expected, found)
    }
}

impl From<FenceReason> for Condition {
    fn from(reason: FenceReason) -> Self {
        match reason {
            FenceReason::OtherWriter => Self::OtherWriter,
            FenceReason::Diverged | FenceReason::Ahead => Self::OtherHistory,
        }
    }
}

impl From<SuspectReason> for Condition {
    fn from(reason: SuspectReason) -> Self {
        match reason {
            SuspectReason::Emptied | SuspectReason::HeadMissing | SuspectReason::OfAethyr => {
                Self::HeadMissing
            }
            SuspectReason::RolledBack | SuspectReason::EventMissing => Self::OlderState,
            SuspectReason::EndDamaged => Self::EndDamaged,
        }
    }
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TakeOver => "stop the other writer, or start with --take-over if it is gone permanently",
            Self::GiveUpPending => "`aethyr-event-store resolve --give-up-pending --export DIR`",
            Self::Resend => "`aethyr-event-store resolve --resend`",
            Self::AcceptFindings => {
                "`aethyr-event-store findings`, then `resolve --resend` into a new database, or `resolve \
                 --accept-findings`"
            }
            Self::RestoreStorage => {
                "`aethyr-event-store findings`, then restore a newer copy of the storage, or `resolve \
                 --accept-findings`"
            }
            Self::Repair => "stop the service, then `aethyr-event-store repair`",
            Self::FindTheCause => "find the cause; `aethyr-event-store findings` has the details",
        })
    }
}

/// What was seen of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub condition: Condition,
    /// At least one.
    pub findings: Vec<Finding>,
}

impl Evidence {
    /// Evidence of one finding.
    pub(crate) fn of(condition: Condition, finding: Finding) -> Self {
        Self { condition, findings: vec![finding] }
    }

    /// Evidence from keys that other clients wrote. The findings tell the condition.
    pub(crate) fn of_keys(findings: Vec<Finding>) -> Self {
        let is_deleted = |finding: &Finding| finding.kind == FindingKind::KeyDeleted;
        let condition =
            if findings.iter().all(is_deleted) { Condition::KeyDeleted } else { Condition::KeyOverwritten };
        Self { condition, findings }
    }

    /// Evidence from the header that `Set` returned.
    pub(crate) fn of_receipt(mismatch: HeaderMismatch) -> Self {
        let evidence = Self::from(Contradiction::Header(mismatch));
        match evidence.condition {
            Condition::BrokenChain => Self { condition: Condition::WrongReceipt, ..evidence },
            _ => evidence,
        }
    }
}

impl From<Contradiction> for Evidence {
    fn from(contradiction: Contradiction) -> Self {
        let condition = match &contradiction {
            Contradiction::Header(HeaderMismatch::Truncated { .. }) => Condition::ValuesDeleted,
            Contradiction::Header(
                HeaderMismatch::Id { .. }
                | HeaderMismatch::EntryCount { .. }
                | HeaderMismatch::EntriesHash { .. }
                | HeaderMismatch::PreviousHash { .. }
                | HeaderMismatch::TreeTx { .. }
                | HeaderMismatch::TreeRoot { .. }
                | HeaderMismatch::Version { .. },
            )
            | Contradiction::Missing { .. }
            | Contradiction::Proof { .. } => Condition::BrokenChain,
            Contradiction::OtherHash { .. } => Condition::OtherHash,
        };
        let (expected, found) = contradiction.sides();
        let finding = condition.finding(expected, found).in_transaction(contradiction.transaction().0);
        Self::of(condition, finding)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.condition.row().text)?;
        let Some(first) = self.findings.first() else { return Ok(()) };
        if let Some(transaction) = first.transaction {
            write!(f, "; transaction {transaction}")?;
        }
        if let Some(key) = &first.key {
            write!(f, ", key {key}")?;
        }
        write!(f, ": expected {}, found {}", first.expected, first.found)?;
        match self.findings.len() {
            0 | 1 => Ok(()),
            count => write!(f, " (and {} more)", count.saturating_sub(1)),
        }
    }
}

impl std::error::Error for Evidence {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::immudb::TxId;

    const CONDITIONS: [Condition; 18] = [
        Condition::OtherWriter,
        Condition::OtherHistory,
        Condition::HeadMissing,
        Condition::OlderState,
        Condition::EndDamaged,
        Condition::OtherHash,
        Condition::BrokenChain,
        Condition::WrongReceipt,
        Condition::KeyOverwritten,
        Condition::KeyDeleted,
        Condition::ValuesDeleted,
        Condition::WrongAnswer,
        Condition::ForeignTransaction,
        Condition::BadSignature,
        Condition::RecordDiffers,
        Condition::DamagedInImmudb,
        Condition::LocalDamage,
        Condition::AnchorDiffers,
    ];

    #[test]
    fn only_states_that_an_operator_ends_have_a_way_out_of_their_own() {
        for condition in CONDITIONS {
            let row = condition.row();
            let (signal, ways): (_, &[WayOut]) = match row.state {
                Some(State::Fenced) => {
                    (Some(Signal::OtherWriter), &[WayOut::TakeOver, WayOut::GiveUpPending])
                }
                Some(State::Suspect) => (Some(Signal::HistoryMissing), &[WayOut::Resend]),
                Some(State::Tampered) => {
                    (Some(Signal::Tampered), &[WayOut::AcceptFindings, WayOut::RestoreStorage])
                }
                Some(State::Fallback) => (None, &[WayOut::FindTheCause]),
                None => (None, &[WayOut::FindTheCause, WayOut::Repair]),
                other => panic!("{condition:?} leads to {other:?}"),
            };
            assert_eq!(condition.signal(), signal, "{condition:?}");
            assert!(ways.contains(&row.way_out), "{condition:?}");
            // What an operator ends by its findings has findings.
            assert!(row.way_out != WayOut::AcceptFindings || row.finding.is_some(), "{condition:?}");
        }
    }

    #[test]
    fn no_two_conditions_read_the_same() {
        let texts: HashSet<&str> = CONDITIONS.iter().map(|condition| condition.row().text).collect();
        assert_eq!(texts.len(), CONDITIONS.len());
        // The last variant is the last of the list, so none is missing there.
        assert_eq!(Condition::AnchorDiffers as usize, CONDITIONS.len() - 1);
    }

    #[test]
    fn every_kind_of_finding_is_in_the_table() {
        use FindingKind::*;
        for kind in [
            WrongAnswer,
            ForeignTransaction,
            ForeignKey,
            KeyDeleted,
            HeaderMismatch,
            OtherHash,
            Truncated,
            BadSignature,
            RecordDiffers,
            Damaged,
            LocalDamage,
            AnchorDiffers,
        ] {
            assert!(CONDITIONS.iter().any(|condition| condition.row().finding == Some(kind)), "{kind:?}");
        }
    }

    #[test]
    fn the_runbook_has_the_same_table() {
        let page = include_str!("../../docs/operations/fenced-and-suspect.md");
        for condition in CONDITIONS {
            let Row { state, finding, .. } = condition.row();
            let kind = finding.map(|kind| serde_json::to_value(kind).unwrap());
            let kind = kind.map(|kind| format!("`{}`", kind.as_str().unwrap())).unwrap_or_default();
            let state = match state {
                Some(state) => {
                    let name = format!("{state:?}").to_uppercase();
                    format!("`STATE_{name}`")
                }
                None => "as before".to_owned(),
            };
            let is_row = |line: &&str| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                cells.len() == 6 && (cells[2], cells[3]) == (&*state, &*kind)
            };
            assert!(page.lines().any(|line| is_row(&line)), "{condition:?}: {state} {kind}");
        }
    }

    #[test]
    fn evidence_names_the_condition_and_the_first_finding() {
        let mismatch = HeaderMismatch::Id { expected: TxId(7), found: TxId(3) };
        let receipt = Evidence::of_receipt(mismatch.clone());
        assert_eq!(receipt.condition, Condition::WrongReceipt);
        assert_eq!(
            receipt.to_string(),
            "ImmuDB committed something other than what was sent, or on another history; transaction 3: \
             expected the next transaction of the history, found expected transaction 7, found 3"
        );
        let read = Evidence::from(Contradiction::Header(mismatch));
        assert_eq!((read.condition, read.findings.len()), (Condition::BrokenChain, 1));
        let truncated = HeaderMismatch::Truncated { tx: TxId(7), truncated: TxId(3) };
        assert_eq!(Evidence::of_receipt(truncated).condition, Condition::ValuesDeleted);
        let deleted = Finding::new(FindingKind::KeyDeleted, "a value", "a deletion").of_key(b"event:a:1");
        let written =
            Finding::new(FindingKind::ForeignKey, "00", "01").in_transaction(9).of_key(b"event:a:2");
        assert_eq!(Evidence::of_keys(vec![deleted.clone()]).condition, Condition::KeyDeleted);
        let both = Evidence::of_keys(vec![written, deleted]);
        assert_eq!(
            both.to_string(),
            "a key of this service was overwritten; transaction 9, key event:a:2: expected 00, found 01 \
             (and 1 more)"
        );
    }
}
