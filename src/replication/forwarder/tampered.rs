//! What the forwarder does when ImmuDB contradicts the history: it looks a second time over a new
//! session, and then either goes on, or stops until an operator has decided.

use tracing::{error, info, warn};

use super::{Ended, Forwarder, Learned, claim::ClaimError, trust::Refusal};
use crate::{
    crash_point::CrashPoint,
    event::{Timestamp, record::ReplicationMark},
    immudb::{self, ErrorKind},
    replication::{
        fencing::{FenceReason, SuspectReason},
        head,
        state::{Signal, State},
        tampering::{Condition, Evidence},
    },
};

/// The reason of a state that a former run has found.
#[derive(Debug, thiserror::Error)]
#[error("the history in ImmuDB was changed (open findings: {open})")]
struct FoundBefore {
    open: u64,
}

impl Forwarder {
    /// Handles a contradiction. Returns it if this was the second look already. Otherwise, the next
    /// contact is the second look.
    pub(super) async fn doubted(&mut self, evidence: Evidence) -> Option<Evidence> {
        if self.trust.doubt.take().is_some() {
            return Some(evidence);
        }
        warn!(%evidence, "ImmuDB contradicts the history; looking again over a new session");
        let (kind, operation) = (ErrorKind::Busy, "verification");
        let error = immudb::Error { kind, operation, message: evidence.to_string() };
        self.trust.doubt = Some(evidence);
        // It may follow from the same. What is true is found again.
        self.alleged = None;
        self.trust.take_back();
        self.publish_trust();
        // A server that lies each time must not keep the forwarder busy.
        if std::mem::replace(&mut self.trust.was_doubted, true) {
            self.failed(&error).await;
        }
        None
    }

    /// Ends a doubt that the second look has not confirmed. Everything that may have begun it must
    /// have been read again, values included: otherwise the looks would go on forever.
    pub(super) async fn end_doubt(&mut self) {
        let Some(evidence) = self.trust.doubt.take() else { return };
        warn!(%evidence, "the second look found the history intact: an answer of ImmuDB was wrong");
        for finding in evidence.findings {
            let mut wrong = Condition::WrongAnswer.finding(finding.expected, finding.found);
            (wrong.transaction, wrong.key) = (finding.transaction, finding.key);
            self.trust.findings.record(wrong, Timestamp::now());
        }
        self.publish_findings().await;
    }

    /// Handles a refused claim. Returns whether it was refused for the same reason before, so that
    /// an operator has to act. Otherwise, the next contact is the second look: what was read may
    /// not be what ImmuDB has.
    pub(super) async fn refused_again(&mut self, reason: &ClaimError) -> bool {
        let of_writer =
            matches!(reason, ClaimError::FencedBy { .. } | ClaimError::Fenced(FenceReason::OtherWriter));
        // Nobody who has taken the database over gives it back.
        let may_end = of_writer && self.writer.is_none_or(|writer| !writer.confirmed);
        let refusal = Refusal { reason: reason.to_string(), may_end };
        match self.trust.refusal.replace(refusal) {
            Some(before) if before.reason == reason.to_string() => return true,
            Some(_) => {
                // A server that lies differently each time must not keep the forwarder busy.
                let (kind, operation) = (ErrorKind::Busy, "verification");
                self.failed(&immudb::Error { kind, operation, message: reason.to_string() }).await;
            }
            None => info!(%reason, "the database cannot be claimed; looking again over a new session"),
        }
        false
    }

    /// Records that a claim succeeded. If the one before was refused, an answer was wrong, unless
    /// another writer has released the database since.
    pub(super) async fn end_refusal(&mut self) {
        let Some(Refusal { reason, may_end: false }) = self.trust.refusal.take() else { return };
        warn!(reason, "the second look found the database intact: an answer of ImmuDB was wrong");
        let wrong = Condition::WrongAnswer.finding("what the history has", reason).of_key(head::KEY);
        self.trust.findings.record(wrong, Timestamp::now());
        self.publish_findings().await;
    }

    /// Stops because of a contradiction that was confirmed.
    pub(super) async fn stop_because_of(&mut self, evidence: Evidence) -> Ended {
        if evidence.condition == Condition::OlderState {
            self.park(evidence.condition, &SuspectReason::RolledBack)
        } else {
            self.stop_tampered(evidence).await
        }
    }

    /// Records durably that the history was changed, and stops.
    pub(super) async fn stop_tampered(&mut self, evidence: Evidence) -> Ended {
        // No client waits for ImmuDB while this is recorded.
        self.replication.failed(self.is_reachable(evidence.condition), evidence.to_string());
        self.apply_signal(Signal::Tampered);
        for finding in evidence.findings.clone() {
            self.trust.findings.record(finding, Timestamp::now());
        }
        self.save_findings().await;
        if self.machine.state() == State::Copying
            && let Err(error) = self.unfinished().begin()
        {
            error!(%error, "cannot note that the local log lacks events of ImmuDB");
        }
        let newest = self.trust.newest();
        // After a restore, only the log knows what ImmuDB has.
        let marked = self.history.index.complete().forwarded;
        let forwarded = self.replication.view().forwarded;
        let is_restored = marked.position > forwarded.position;
        let forwarded = if is_restored { marked } else { forwarded };
        let mark = ReplicationMark {
            immudb_tx: newest.map_or(forwarded.immudb_tx, |newest| newest.tx.0),
            immudb_hash: newest.map_or(forwarded.immudb_hash, |newest| Some(newest.alh)),
            tampered: true,
            ..forwarded
        };
        self.sequencer.mark(mark);
        if is_restored && let Ok(located) = self.history.locate(mark.position, self.sequencer.tip()) {
            // What ImmuDB has must not count towards the limits of what is pending.
            self.replication.advance(mark, located.append_end, Learned::ByHead);
        }
        // The mark goes with the next group, and this makes one.
        self.sequencer.drain().await;
        CrashPoint::TamperedMarked.reached();
        self.park(evidence.condition, &evidence)
    }

    /// Reports the state that a former run has found, and that goes on.
    pub(super) fn report_tampered(&self) {
        let reason = FoundBefore { open: self.trust.findings.open_count() };
        let way_out = Condition::KeyOverwritten.row().way_out;
        error!(%reason, %way_out, "replication to ImmuDB is stopped; operator action is required");
        self.replication.failed(false, reason.to_string());
    }
}
