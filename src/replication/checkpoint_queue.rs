//! Hands checkpoints to the forwarder, and certificates back: a checkpoint is a signed note over
//! the tree of the log's events, and its certificate proves that ImmuDB has it.
//!
//! Nobody waits here. A checkpoint that was not stored before the next one was offered is left out.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::proof_file::ImmudbCertificate;

/// The newest checkpoint that ImmuDB should store, and the last ones that it has stored. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointQueue(Arc<Channels>);

#[derive(Debug)]
struct Channels {
    offered: watch::Sender<Option<Offer>>,
    /// In the order in which their proofs were fetched.
    certified: watch::Sender<Vec<Arc<Certified>>>,
}

/// A checkpoint that ImmuDB should store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// The number of events that it is over.
    pub size: u64,
    /// The note with the signatures of the log itself, without those of witnesses. So it is the
    /// same whenever it is offered.
    pub note: Bytes,
}

/// A checkpoint that ImmuDB has, with the proof of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certified {
    /// The number of events that it is over.
    pub size: u64,
    pub certificate: ImmudbCertificate,
}

impl CheckpointQueue {
    pub(crate) fn new() -> Self {
        let (offered, certified) = (watch::Sender::new(None), watch::Sender::new(Vec::new()));
        Self(Arc::new(Channels { offered, certified }))
    }

    /// Offers a checkpoint over the first `size` events. Only the largest one is kept.
    pub(crate) fn offer(&self, size: u64, note: Bytes) {
        self.0.offered.send_if_modified(|kept| {
            let is_newer = kept.as_ref().is_none_or(|kept| kept.size < size);
            if is_newer {
                *kept = Some(Offer { size, note });
            }
            is_newer
        });
    }

    /// Returns the last checkpoints that ImmuDB has, after their commits and their proofs were
    /// verified.
    pub(crate) fn certified(&self) -> watch::Receiver<Vec<Arc<Certified>>> {
        self.0.certified.subscribe()
    }

    /// Returns the newest checkpoint that ImmuDB should store.
    pub(super) fn offers(&self) -> watch::Receiver<Option<Offer>> {
        self.0.offered.subscribe()
    }

    /// Records that ImmuDB has a checkpoint.
    pub(super) fn certify(&self, size: u64, certificate: ImmudbCertificate) {
        /// More than are fetched before the receiver has kept those before.
        const KEPT: usize = 16;
        self.0.certified.send_modify(|all| {
            all.push(Arc::new(Certified { size, certificate }));
            let surplus = all.len().saturating_sub(KEPT);
            all.drain(..surplus);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::immudb::{TxHeader, TxId, verify::EntryProof};

    fn certificate(tx: u64) -> ImmudbCertificate {
        let header = TxHeader {
            id: TxId(tx),
            previous_hash: [0; 32],
            timestamp_seconds: 0,
            entry_count: 2,
            entries_hash: [0; 32],
            tree_tx: TxId(tx - 1),
            tree_root: [0; 32],
            version: 1,
            metadata: None,
        };
        ImmudbCertificate {
            database: "aethyr".to_owned(),
            key: Bytes::from_static(b"checkpoint:00000000000000000007"),
            value: Bytes::from_static(b"note"),
            header,
            proof: EntryProof { leaf: 0, width: 2, terms: vec![[1; 32]] },
            signature: None,
        }
    }

    #[test]
    fn only_the_newest_checkpoint_is_kept() {
        let queue = CheckpointQueue::new();
        let mut offers = queue.offers();
        assert_eq!(*offers.borrow_and_update(), None);
        for (size, note) in [(7, "seven"), (9, "nine"), (8, "eight"), (9, "another nine")] {
            queue.clone().offer(size, Bytes::from_static(note.as_bytes()));
        }
        assert!(offers.has_changed().unwrap());
        let kept = offers.borrow_and_update().clone();
        assert_eq!(kept, Some(Offer { size: 9, note: Bytes::from_static(b"nine") }));
        queue.offer(9, Bytes::from_static(b"another nine"));
        assert!(!offers.has_changed().unwrap(), "nobody is woken for nothing");
    }

    #[tokio::test]
    async fn a_certificate_reaches_everybody_who_waits_for_it() {
        let queue = CheckpointQueue::new();
        let (mut early, queue_of_another) = (queue.certified(), queue.clone());
        assert!(early.borrow_and_update().is_empty());
        queue_of_another.certify(7, certificate(12));
        early.changed().await.unwrap();
        let expected = Arc::new(Certified { size: 7, certificate: certificate(12) });
        assert_eq!(*early.borrow_and_update(), std::slice::from_ref(&expected));
        assert_eq!(*queue.certified().borrow(), [expected]);
        // None is lost because another one follows at once.
        (8..30).for_each(|size| queue.certify(size, certificate(size)));
        let sizes: Vec<u64> = early.borrow_and_update().iter().map(|certified| certified.size).collect();
        assert_eq!(sizes, (14..30).collect::<Vec<_>>());
    }
}
