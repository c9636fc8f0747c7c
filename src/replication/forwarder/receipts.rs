//! Checks each commit from what `Set` returns for it: that it is the next transaction of the
//! verified history, with the entries as they were sent.

use tokio::time::Instant;
use tracing::debug;

use super::{Forwarder, trust::TrustError};
use crate::{
    immudb::{KeyValue, Precondition, Session, SetError, TxHeader, TxId, verify::SentEntries},
    replication::{
        examination::Heads,
        head::TreeHead,
        ledger::{Contradiction, Verdict},
        tampering::Evidence,
    },
};

pub(super) type SetResult = Result<TxHeader, SetError>;

/// ImmuDB's answer to a transaction, when it arrived, and what it must say.
#[derive(Debug)]
pub(super) struct Receipt {
    pub answer: SetResult,
    pub at: Instant,
    pub entries: SentEntries,
}

/// Sends a transaction. Meanwhile, computes the hash of its entries.
pub(super) async fn set(session: &Session, entries: Vec<KeyValue>, conditions: Vec<Precondition>) -> Receipt {
    let sent = entries.clone();
    let answered = async { (session.set(entries, conditions).await, Instant::now()) };
    let hashed = async {
        // The request goes out first.
        tokio::task::yield_now().await;
        hash(sent).await
    };
    let ((answer, at), entries) = tokio::join!(answered, hashed);
    Receipt { answer, at, entries }
}

/// Computes the hash of entries, on another thread if that takes long.
async fn hash(entries: Vec<KeyValue>) -> SentEntries {
    const AT_ONCE_BYTES: usize = 16 * 1024;
    /// What an entry costs in addition to its bytes.
    const ENTRY_BYTES: usize = 256;
    let cost =
        |entry: &KeyValue| entry.key.len().saturating_add(entry.value.len()).saturating_add(ENTRY_BYTES);
    if entries.iter().map(cost).sum::<usize>() <= AT_ONCE_BYTES {
        return SentEntries::of(&entries);
    }
    match tokio::task::spawn_blocking(move || SentEntries::of(&entries)).await {
        Ok(sent) => sent,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    }
}

impl Forwarder {
    /// Judges the header of a committed transaction, and takes it into the history. If it is wrong,
    /// or if what comes before it cannot be read, the outcome counts as unknown. `tree` is in the
    /// head that was sent.
    pub(super) async fn judge(
        &mut self,
        session: &Session,
        header: &TxHeader,
        sent: SentEntries,
        tree: Option<TreeHead>,
    ) -> Result<(), TrustError> {
        let Some(ledger) = &mut self.trust.ledger else { return Err(TrustError::HeadChanged) };
        let judged = match ledger.judge(header, &sent) {
            Verdict::Expected => Ok(()),
            Verdict::Foreign { from, to } => {
                debug!(%from, %to, "transactions of other clients come before a commit");
                self.judge_behind(session, header, &sent, to).await
            }
            Verdict::Wrong(mismatch) => Err(Evidence::of_receipt(mismatch).into()),
        };
        match &judged {
            Ok(()) => {
                self.trust.trees.add(header.id, tree);
                self.publish_trust();
                self.save_trust_if_due().await;
            }
            Err(_) => self.note_unanswered(sent),
        }
        judged
    }

    /// Judges a header behind the transactions up to `to`, which are read first.
    async fn judge_behind(
        &mut self,
        session: &Session,
        header: &TxHeader,
        sent: &SentEntries,
        to: TxId,
    ) -> Result<(), TrustError> {
        // The conditions of the transaction exclude another head.
        let (mut ledger, report) = self.read_up_to(session, to, Heads::Unknown).await?;
        match ledger.judge(header, sent) {
            Verdict::Expected => self.accept(ledger, report).await,
            Verdict::Wrong(mismatch) => Err(Evidence::of_receipt(mismatch).into()),
            Verdict::Foreign { from, .. } => Err(Contradiction::Missing { expected: from }.into()),
        }
    }

    /// Records a transaction whose outcome is not known: it is recognized when it is read.
    pub(super) fn note_unanswered(&mut self, sent: SentEntries) {
        if let Some(ledger) = &mut self.trust.ledger {
            ledger.unanswered(sent);
        }
    }
}
