//! Stores checkpoints in ImmuDB, and fetches the proofs that it has them.
//!
//! A checkpoint is stored by a transaction of its own, on the same conditions as every other one.
//! The value of its key is never replaced: the key is read first, which also shows what an earlier
//! attempt or an earlier process has stored. Keys and proofs are read by other tasks, so that no
//! event waits for them, and what could not be fetched is fetched later.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{
    Forwarder, Link,
    trust::{TrustError, read_key},
    uncertified::Uncertified,
};
use crate::{
    crash_point::CrashPoint,
    event::{Position, Timestamp},
    immudb::{
        self, KeyValue, Session, TxId, VersionedValue,
        verify::{DatabaseState, ProofMismatch, TrustedState, entry_digest, verify_signature},
    },
    proof_file::ImmudbCertificate,
    replication::{
        checkpoint_digests::CheckpointDigests,
        checkpoint_queue::{CheckpointQueue, Offer},
        examination::Heads,
        notice::Notice,
        tampering::Condition,
        transaction::{Batch, checkpoint_key},
    },
};

/// The checkpoints that are offered, and what is known of them in ImmuDB.
#[derive(Debug)]
pub(super) struct Checkpoints {
    queue: CheckpointQueue,
    offers: watch::Receiver<Option<Offer>>,
    /// The largest checkpoint that ImmuDB has, or for whose size it has another one.
    settled: Option<u64>,
    /// ImmuDB does not have this one, so it may be sent.
    absent: Option<u64>,
    /// The one that was sent.
    sent: Option<Offer>,
    /// The number of transactions since one could have been sent.
    waited: u32,
    reading: Option<AbortOnDropHandle<Read>>,
    read: Option<Read>,
    /// When a key is read again after a failure.
    retry_at: Option<Instant>,
    uncertified: Uncertified,
    /// The checkpoints that this process has seen in ImmuDB.
    digests: CheckpointDigests,
    failed: Notice,
}

/// What was read from ImmuDB.
#[derive(Debug)]
enum Read {
    Key { offer: Offer, found: Result<Option<VersionedValue>, immudb::Error> },
    Proof { size: u64, tx: TxId, proof: Result<Box<ImmudbCertificate>, ProofError> },
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
enum ProofError {
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error(transparent)]
    Mismatch(#[from] ProofMismatch),
    /// The signature cannot be verified with the configured key.
    #[error("{0}")]
    Signature(String),
}

impl Checkpoints {
    /// The number of transactions for which a checkpoint waits for a moment without events.
    const WAITS_MAX: u32 = 4;

    pub(super) fn new(queue: CheckpointQueue) -> Self {
        let offers = queue.offers();
        Self {
            queue,
            offers,
            settled: None,
            absent: None,
            sent: None,
            waited: 0,
            reading: None,
            read: None,
            retry_at: None,
            uncertified: Uncertified::default(),
            digests: CheckpointDigests::default(),
            failed: Notice::default(),
        }
    }

    /// Returns the checkpoint that is offered, if ImmuDB has all events that it is over.
    fn due(&self, reached: Position) -> Option<Offer> {
        let offers = self.offers.borrow();
        let offer = offers.as_ref()?;
        let is_new = self.settled.is_none_or(|settled| offer.size > settled);
        (is_new && offer.size <= reached.0).then(|| offer.clone())
    }

    /// Returns the checkpoint that may be sent now.
    fn ready(&self, reached: Position) -> Option<Offer> {
        self.due(reached).filter(|offer| self.absent == Some(offer.size))
    }

    /// Returns whether a checkpoint has waited long enough.
    pub(super) fn has_waited(&self) -> bool {
        self.waited >= Self::WAITS_MAX
    }

    /// Adds the checkpoint to a transaction that is empty otherwise.
    pub(super) fn add_to(&self, batch: Batch) -> Batch {
        if !batch.entries.is_empty() {
            return batch;
        }
        let Some(Offer { size, note }) = self.ready(batch.reached.position) else { return batch };
        let entry = KeyValue { key: checkpoint_key(size), value: note };
        Batch { entries: vec![entry], checkpoint: Some(size), ..batch }
    }

    /// Records that a transaction is sent. If it has a checkpoint, its outcome is not known from
    /// now on.
    pub(super) fn sends(&mut self, batch: &Batch) {
        if let Some(size) = batch.checkpoint {
            self.sent = self.ready(batch.reached.position).filter(|offer| offer.size == size);
            (self.absent, self.waited) = (None, 0);
        }
    }

    /// Records that a transaction was committed, and that ImmuDB has the log up to `reached`.
    /// Returns the checkpoint that it has stored.
    fn committed(&mut self, reached: Position, checkpoint: Option<u64>) -> Option<Offer> {
        let stored = self.sent.take().filter(|offer| checkpoint == Some(offer.size));
        if let Some(offer) = &stored {
            self.settle(offer);
        }
        self.waited = if self.ready(reached).is_some() { self.waited.saturating_add(1) } else { 0 };
        stored
    }

    /// Records that ImmuDB has this checkpoint.
    fn settle(&mut self, offer: &Offer) {
        self.settled = self.settled.max(Some(offer.size));
        self.digests.add(offer.size, entry_digest(&checkpoint_key(offer.size), &offer.note));
    }

    /// Begins to read the key of the checkpoint that is due, unless that is known already.
    fn look(&mut self, session: &Session, reached: Position) {
        let is_late = self.retry_at.is_none_or(|at| at <= Instant::now());
        if self.reading.is_some() || self.read.is_some() || !is_late {
            return;
        }
        let Some(offer) = self.due(reached).filter(|offer| self.absent != Some(offer.size)) else { return };
        self.retry_at = None;
        let session = session.clone();
        self.begin(async move {
            let found = session.get(&checkpoint_key(offer.size)).await;
            Read::Key { offer, found }
        });
    }

    fn begin(&mut self, reading: impl Future<Output = Read> + Send + 'static) {
        self.reading = Some(AbortOnDropHandle::new(tokio::spawn(reading)));
    }

    /// Waits until a checkpoint is offered or something was read. May be cancelled.
    pub(super) async fn woken(&mut self) {
        if self.read.is_some() {
            return;
        }
        tokio::select! {
            read = finished(&mut self.reading) => self.read = Some(read),
            changed = self.offers.changed() => {
                if changed.is_err() {
                    // The queue is kept here, so there is always a sender.
                    std::future::pending().await
                }
            }
        }
    }

    /// Returns what was read, if that has ended.
    async fn take_read(&mut self) -> Option<Read> {
        if self.read.is_none() && self.reading.as_ref().is_some_and(AbortOnDropHandle::is_finished) {
            return Some(finished(&mut self.reading).await);
        }
        self.read.take()
    }

    /// Logs a failure, at most once a minute.
    fn note_failure(&mut self, error: &dyn std::error::Error) {
        if let Some(failures) = self.failed.add(1) {
            warn!(%error, failures, "cannot store a checkpoint in ImmuDB, or prove that it has one");
        }
    }

    /// Returns the digests of the checkpoints that ImmuDB is known to have.
    pub(super) fn digests(&self) -> CheckpointDigests {
        self.digests.clone()
    }
}

impl Forwarder {
    /// Continues what concerns checkpoints. Does not wait for ImmuDB, unless it has given a proof
    /// that contradicts the history.
    pub(super) async fn tend_checkpoints(&mut self, link: &Link) -> Result<(), TrustError> {
        match self.checkpoints.take_read().await {
            Some(Read::Key { offer, found }) => self.key_was_read(&link.session, offer, found),
            Some(Read::Proof { size, tx, proof }) => {
                self.proof_was_read(&link.session, (size, tx), proof).await?;
            }
            None => {}
        }
        self.checkpoints.look(&link.session, link.reached.position);
        if self.checkpoints.reading.is_none() && self.checkpoints.read.is_none() {
            self.fetch_due_proof(&link.session);
        }
        Ok(())
    }

    fn key_was_read(
        &mut self,
        session: &Session,
        offer: Offer,
        found: Result<Option<VersionedValue>, immudb::Error>,
    ) {
        const RETRY_AFTER: Duration = Duration::from_secs(10);
        let size = offer.size;
        match found {
            Ok(None) => self.checkpoints.absent = Some(size),
            // An attempt whose answer was lost, or an earlier process, has stored it.
            Ok(Some(found)) if found.value == offer.note => {
                self.checkpoints.settle(&offer);
                self.fetch_proof(session, offer, found.tx);
            }
            // The checkpoint of an earlier generation or of another key.
            Ok(Some(_)) => {
                info!(size, "ImmuDB has another checkpoint over as many events, and keeps it");
                self.checkpoints.settled = self.checkpoints.settled.max(Some(size));
            }
            Err(error) => {
                self.checkpoints.retry_at = Some(Instant::now() + RETRY_AFTER);
                self.checkpoints.note_failure(&error);
            }
        }
    }

    /// Handles a commit: if it has stored a checkpoint, the proof of it is fetched.
    pub(super) fn note_checkpoint(&mut self, link: &Link, checkpoint: Option<u64>) {
        if let Some(offer) = self.checkpoints.committed(link.reached.position, checkpoint) {
            debug!(size = offer.size, transaction = link.head_tx.0, "stored a checkpoint in ImmuDB");
            CrashPoint::CheckpointStored.reached();
            self.fetch_proof(&link.session, offer, link.head_tx);
        }
    }

    /// Begins to fetch the proof that a transaction has stored a checkpoint. If that fails, it is
    /// tried again later.
    fn fetch_proof(&mut self, session: &Session, offer: Offer, tx: TxId) {
        self.checkpoints.uncertified.add(offer, tx);
        self.fetch_due_proof(session);
    }

    fn fetch_due_proof(&mut self, session: &Session) {
        let Some((offer, tx)) = self.checkpoints.uncertified.due() else { return };
        let verified = self.trust.hash_of(tx).map(|alh| TrustedState { tx, alh });
        // The transaction was verified long ago, or by an earlier process.
        let settled = self.trust.ledger.as_ref().map(|ledger| ledger.settled().state());
        let Some(trusted) = verified.or(settled.filter(|settled| tx <= settled.tx)) else { return };
        let (session, key_file) = (session.clone(), self.settings.public_key_file.clone());
        self.checkpoints.begin(async move {
            let size = offer.size;
            let proof = prove(&session, offer, (tx, trusted), key_file).await;
            Read::Proof { size, tx, proof: proof.map(Box::new) }
        });
    }

    async fn proof_was_read(
        &mut self,
        session: &Session,
        (size, tx): (u64, TxId),
        proof: Result<Box<ImmudbCertificate>, ProofError>,
    ) -> Result<(), TrustError> {
        match proof {
            Ok(certificate) => {
                self.checkpoints.uncertified.certified(size);
                self.checkpoints.queue.certify(size, *certificate);
            }
            Err(ProofError::Mismatch(mismatch)) => {
                self.checkpoints.uncertified.failed();
                // If the history is another one, this fails.
                self.catch_up(session, Heads::Unknown).await?;
                let condition = Condition::WrongAnswer;
                let finding = condition.finding("a proof that it is in the history", mismatch.to_string());
                let finding = finding.in_transaction(tx.0).of_key(&checkpoint_key(size));
                self.trust.findings.record(finding, Timestamp::now());
                self.publish_findings().await;
            }
            Err(error @ (ProofError::Immudb(_) | ProofError::Signature(_))) => {
                self.checkpoints.uncertified.failed();
                self.checkpoints.note_failure(&error);
            }
        }
        Ok(())
    }
}

/// Waits for what is being read. Does not return if that is nothing. May be cancelled.
async fn finished(reading: &mut Option<AbortOnDropHandle<Read>>) -> Read {
    let Some(task) = reading else { return std::future::pending().await };
    let done = task.await;
    *reading = None;
    match done {
        Ok(read) => read,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Fetches the proof that a transaction of the trusted history has stored a checkpoint, and
/// verifies it. The proof leads to the state after that transaction and no later one, so its
/// signature is that of this state as well.
async fn prove(
    session: &Session,
    offer: Offer,
    (tx, trusted): (TxId, TrustedState),
    key_file: Option<PathBuf>,
) -> Result<ImmudbCertificate, ProofError> {
    let state = if tx == trusted.tx {
        trusted
    } else {
        session.verifiable_tx(tx, trusted.tx).await?.verify(trusted)?
    };
    let key = checkpoint_key(offer.size);
    let found = session.verifiable_get(&key, state.tx, state.tx).await?;
    found.verify(state)?;
    if found.value != offer.note {
        return Err(ProofMismatch::Entry { tx: state.tx }.into());
    }
    let database = session.database().to_owned();
    let certified = DatabaseState { database, state, signature: found.signature };
    if let Some(file) = key_file {
        let key = read_key(&file).map_err(ProofError::Signature)?;
        verify_signature(&certified, &key)
            .map_err(|error| ProofError::Signature(format!("immudb.public_key_file: {error}")))?;
    }
    let DatabaseState { database, signature, .. } = certified;
    let (header, proof) = (found.header, found.proof);
    Ok(ImmudbCertificate { database, key, value: found.value, header, proof, signature })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::replication::transaction::LogPoint;

    fn offer(size: u64) -> Offer {
        Offer { size, note: Bytes::from(format!("note {size}")) }
    }

    fn reached(position: u64) -> LogPoint {
        LogPoint { position: Position(position), tree: None, ..LogPoint::START }
    }

    fn with_offer(size: u64) -> (CheckpointQueue, Checkpoints) {
        let queue = CheckpointQueue::new();
        let checkpoints = Checkpoints::new(queue.clone());
        queue.offer(size, offer(size).note);
        (queue, checkpoints)
    }

    /// Returns the size of the checkpoint that an empty transaction gets.
    fn added(checkpoints: &Checkpoints, position: u64) -> Option<u64> {
        checkpoints.add_to(Batch::of_head(reached(position))).checkpoint
    }

    #[test]
    fn a_checkpoint_is_sent_once_its_events_are_there_and_its_key_is_not() {
        let (_queue, mut checkpoints) = with_offer(7);
        assert_eq!([added(&checkpoints, 6), added(&checkpoints, 7)], [None, None], "the key was not read");
        checkpoints.absent = Some(7);
        assert_eq!([added(&checkpoints, 6), added(&checkpoints, 7)], [None, Some(7)]);
        let batch = checkpoints.add_to(Batch::of_head(reached(8)));
        let entry = KeyValue { key: checkpoint_key(7), value: offer(7).note };
        assert_eq!(batch.entries, std::slice::from_ref(&entry));
        assert!(batch.first_event.is_none(), "so it is sent alone");
        // Never together with anything else.
        let full = Batch { entries: vec![entry], ..Batch::of_head(reached(8)) };
        assert_eq!(checkpoints.add_to(full).checkpoint, None);
    }

    #[test]
    fn after_a_lost_answer_the_key_is_read_again() {
        let (_queue, mut checkpoints) = with_offer(7);
        checkpoints.absent = Some(7);
        let batch = checkpoints.add_to(Batch::of_head(reached(7)));
        checkpoints.sends(&batch);
        assert_eq!(checkpoints.due(Position(7)), Some(offer(7)));
        assert_eq!(added(&checkpoints, 7), None, "it may have been committed");
        // Another transaction is committed first.
        assert_eq!(checkpoints.committed(Position(7), None), None);
        assert_eq!(added(&checkpoints, 7), None);
    }

    #[test]
    fn what_was_committed_is_not_sent_again_and_is_known() {
        let (queue, mut checkpoints) = with_offer(7);
        checkpoints.absent = Some(7);
        let batch = checkpoints.add_to(Batch::of_head(reached(7)));
        checkpoints.sends(&batch);
        // A newer one is offered meanwhile.
        queue.offer(9, offer(9).note);
        assert_eq!(checkpoints.committed(Position(9), Some(7)), Some(offer(7)));
        let digest = entry_digest(&checkpoint_key(7), &offer(7).note);
        assert_eq!(checkpoints.digests().get(7), Some(digest));
        assert_eq!(checkpoints.due(Position(9)), Some(offer(9)));
        checkpoints.settle(&offer(9));
        assert_eq!(checkpoints.due(Position(100)), None);
    }

    #[test]
    fn a_checkpoint_waits_for_a_few_transactions_only() {
        let (queue, mut checkpoints) = with_offer(7);
        for _ in 0..10 {
            checkpoints.committed(Position(9), None);
            assert!(!checkpoints.has_waited(), "the key was not read");
        }
        checkpoints.absent = Some(7);
        for count in 1..=4 {
            checkpoints.committed(Position(9), None);
            assert_eq!(checkpoints.has_waited(), count == 4, "{count} transactions");
        }
        let batch = checkpoints.add_to(Batch::of_head(reached(9)));
        checkpoints.sends(&batch);
        assert!(!checkpoints.has_waited());
        checkpoints.committed(Position(9), Some(7));
        assert!(!checkpoints.has_waited());
        // The key of a newer one has to be read first.
        queue.offer(8, offer(8).note);
        checkpoints.committed(Position(9), None);
        assert_eq!((checkpoints.waited, added(&checkpoints, 9)), (0, None));
    }

    #[tokio::test]
    async fn an_offer_and_what_was_read_wake_the_forwarder() {
        let (queue, mut checkpoints) = with_offer(7);
        checkpoints.woken().await;
        let read = || Read::Key { offer: offer(7), found: Ok(None) };
        checkpoints.begin(async move { read() });
        checkpoints.woken().await;
        checkpoints.woken().await;
        assert!(matches!(checkpoints.take_read().await, Some(Read::Key { found: Ok(None), .. })));
        assert!(checkpoints.take_read().await.is_none() && checkpoints.reading.is_none());
        queue.offer(7, offer(7).note);
        let mut woken = std::pin::pin!(checkpoints.woken());
        assert!(futures_util::poll!(&mut woken).is_pending(), "the same offer is no news");
    }
}
