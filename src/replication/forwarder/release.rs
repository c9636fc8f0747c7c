//! Releases `log:head` when the service is stopped in an orderly way. The head stays claimed if
//! anything is pending or in doubt.

use tracing::{debug, info, warn};

use super::{Forwarder, Link, Released, receipts, trust::TrustError, unchanged_since};
use crate::{
    crash_point::CrashPoint,
    immudb::{Error, ErrorKind, Session, SetError, TxId},
    replication::{
        examination::Heads,
        head::{self, LogHead},
    },
};

impl Forwarder {
    /// Releases the head if ImmuDB lacks nothing of the local log. Another service may then claim
    /// the database at once.
    pub(super) async fn release(&mut self, link: Link) {
        if !self.shutdown.is_cancelled() {
            // The sequencer is gone, so it is unknown whether anything is pending.
            return;
        }
        let tip = self.sequencer.tip();
        if tip.position > link.reached.position || tip.snapshots > link.reached.snapshots {
            info!("log:head is not released because events are pending");
            link.session.close().await;
            return;
        }
        if self.sequencer.poisoned().is_some() {
            // The last group may or may not be in the log. The next start of this service finds
            // out.
            info!("log:head is not released because the local log is poisoned");
            link.session.close().await;
            return;
        }
        CrashPoint::BeforeRelease.reached();
        let mut session = link.session.clone();
        let mut released = self.release_by(&session, &link, link.head_tx).await;
        if let Err(SetError::NotWritten(error) | SetError::Unknown(error)) = &released
            && matches!(error.kind, ErrorKind::SessionExpired | ErrorKind::Unreachable)
        {
            // ImmuDB may have been restarted since the last transaction.
            released = match self.find_again(&link).await {
                Ok(Some((renewed, seen))) => {
                    session = renewed;
                    self.release_by(&session, &link, seen).await
                }
                Ok(None) => Err(SetError::Conflict),
                Err(error) => Err(SetError::Unknown(error)),
            };
        }
        match released {
            Ok(()) => {
                CrashPoint::AfterRelease.reached();
                info!("released log:head");
            }
            Err(error) => warn!(?error, "cannot release log:head"),
        }
        session.close().await;
    }

    async fn release_by(&mut self, session: &Session, link: &Link, seen: TxId) -> Result<(), SetError> {
        let mut reached = link.reached;
        if reached.tree.is_none() {
            reached.tree = self.tree_at(reached.position).await;
        }
        let entries = vec![self.head_entry(reached, Released::Yes)];
        let receipt = receipts::set(session, entries, unchanged_since(seen)).await;
        let header = match receipt.answer {
            Ok(header) => header,
            Err(error) => {
                // It may have been committed, and is then recognized.
                self.note_unanswered(receipt.entries);
                return Err(error);
            }
        };
        // If it is not as it was sent, the next start finds out what it is.
        let judged = self.judge(session, &header, receipt.entries, reached.tree).await;
        judged.map_err(|error| SetError::Unknown(unverified(error)))?;
        // Nothing follows that would verify its time. Another writer may have claimed the database
        // since.
        if let Err(error) = self.catch_up(session, Heads::Unknown).await {
            debug!(%error, "the next start verifies the release");
        }
        Ok(())
    }

    /// Opens a new session. Returns it with the transaction of the head, or `None` if the head is
    /// no longer as this process wrote it.
    async fn find_again(&mut self, link: &Link) -> Result<Option<(Session, TxId)>, Error> {
        let session = Session::open_existing(&self.settings.immudb).await?;
        let entry = session.get(head::KEY).await?;
        let writer = self.writer.map(|writer| writer.id);
        let found = entry.filter(|entry| {
            LogHead::decode(&entry.value).is_some_and(|head| {
                Some(head.writer) == writer
                    && (head.position, head.hash) == (link.reached.position, link.reached.hash)
            })
        });
        let Some(entry) = found else { return Ok(None) };
        self.catch_up(&session, Heads::Local).await.map_err(unverified)?;
        Ok(Some((session, entry.tx)))
    }
}

fn unverified(error: TrustError) -> Error {
    match error {
        TrustError::Immudb(error) => error,
        error @ (TrustError::Local(_) | TrustError::HeadChanged | TrustError::Wrong(_)) => {
            let (kind, operation) = (ErrorKind::Corrupted, "verification");
            Error { kind, operation, message: error.to_string() }
        }
    }
}
