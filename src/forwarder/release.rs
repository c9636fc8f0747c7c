//! The end of a service that is stopped in order: the head is released.

use tracing::{info, warn};

use super::{
    Forwarder, Link, Released,
    head::{self, Head},
    unchanged_since,
};
use crate::{
    crash_point::CrashPoint,
    immudb::{Error, ErrorKind, Session, SetError, TxId},
};

impl Forwarder {
    /// Another service may take the database over at once, if it lacks nothing of ours.
    pub(super) async fn release(self, link: Link) {
        if !self.shutdown.is_cancelled() {
            // The sequencer is gone, and with it who knows what is pending.
            return;
        }
        let tip = self.sequencer.tip();
        if tip.position > link.reached.position || tip.snapshots > link.reached.snapshots {
            info!("events are pending: the head is not released");
            link.session.close().await;
            return;
        }
        if self.sequencer.poisoned().is_some() {
            // The last group may lie in the log: whether it does is for the next start of this service to say.
            info!("the local log is poisoned: the head is not released");
            link.session.close().await;
            return;
        }
        CrashPoint::BeforeRelease.reached();
        let mut session = link.session.clone();
        let mut released = self.release_by(&session, &link, link.head_tx).await;
        if let Err(SetError::NotWritten(error) | SetError::Unknown(error)) = &released
            && matches!(error.kind, ErrorKind::SessionExpired | ErrorKind::Unreachable)
        {
            // ImmuDB was restarted since the last transaction.
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
                info!("the head is released");
            }
            Err(error) => warn!(?error, "the head is not released"),
        }
        session.close().await;
    }

    async fn release_by(&self, session: &Session, link: &Link, seen: TxId) -> Result<(), SetError> {
        let entries = vec![self.head_entry(link.reached, Released::Yes)];
        session.set(entries, unchanged_since(seen)).await.map(|_| ())
    }

    /// A new session, and the transaction of the head, if that is still as we wrote it.
    async fn find_again(&self, link: &Link) -> Result<Option<(Session, TxId)>, Error> {
        let session = Session::open_existing(&self.settings.immudb).await?;
        let entry = session.get(head::KEY).await?;
        let writer = self.writer.map(|writer| writer.id);
        let found = entry.filter(|entry| {
            Head::decode(&entry.value).is_some_and(|head| {
                Some(head.writer) == writer
                    && (head.position, head.hash) == (link.reached.position, link.reached.hash)
            })
        });
        Ok(found.map(|entry| (session, entry.tx)))
    }
}
