//! The file with the nodes of the tree is lost or damaged, or the process is killed. Proofs and
//! checkpoints are right again after the start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::{
    grpc::wire::RecordedEvent,
    proof::{VerifierKey, root},
};
use tempfile::tempdir;

use super::{checkpoint_of, leaves, proof_of, verifier_key, with_checkpoints};
use crate::{
    anchoring::{self, assert_continues_anchor, file_anchor, with_anchors},
    support::{
        events::{append, append_to, event, whole_order},
        load::{Load, assert_all_there},
        service::{Service, Setup},
    },
};

/// Many nodes of 32 leaves, and some leaves behind them.
const EVENTS: u64 = 600;
/// Proofs of these have nodes of the file, and hashes that are read from the log.
const PROVEN: [usize; 6] = [0, 31, 32, 300, 575, 599];

/// What happens to the file while the service is stopped.
#[derive(Debug, Clone, Copy)]
enum Change {
    Deleted,
    Emptied,
    Cut,
    /// One bit, at this part of the length in percent.
    Flipped(usize),
    /// All of it is zeros.
    Zeros,
}

const CHANGES: [Change; 7] = [
    Change::Deleted,
    Change::Emptied,
    Change::Cut,
    Change::Flipped(0),
    Change::Flipped(50),
    Change::Flipped(99),
    Change::Zeros,
];

impl Change {
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let length = bytes.len();
        match self {
            Self::Deleted => return fs::remove_file(path).unwrap(),
            Self::Emptied => bytes.clear(),
            Self::Cut => bytes.truncate(length / 2),
            Self::Flipped(percent) => bytes[length * percent / 100] ^= 1,
            Self::Zeros => bytes.fill(0),
        }
        fs::write(path, bytes).unwrap();
    }
}

fn tree_file(service: &Service) -> PathBuf {
    service.storage().join("log.tree")
}

/// Asserts that the service makes right proofs of events from everywhere in its history.
async fn assert_proves(service: &Service, order: &[RecordedEvent], key: &VerifierKey) {
    let mut client = service.client();
    let leaves = leaves(order);
    for place in PROVEN.into_iter().chain([order.len() - 1]) {
        let checkpoint = proof_of(&mut client, &order[place]).await.assert_proves(&order[place], key);
        assert_eq!(*checkpoint.root(), root(&leaves[..checkpoint.size() as usize]), "{checkpoint:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_tree_file_costs_no_proof() {
    let mut service = Service::start(with_checkpoints(Setup::local())).await;
    for number in 0..EVENTS / 50 {
        append(&mut service.client(), (0..50).map(|_| event(&format!("room-{number}"))).collect()).await;
    }
    checkpoint_of(&service, EVENTS).await;
    let key = verifier_key(&service);
    for change in CHANGES {
        assert!(service.stop().success());
        assert!(fs::metadata(tree_file(&service)).unwrap().len() > 64, "no node was kept");
        change.apply(&tree_file(&service));
        service.restart().await;
        append_to(&mut service.client(), "room-1", 1).await;
        let order = whole_order(&mut service.client()).await;
        assert_proves(&service, &order, &key).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_continues_its_tree_and_its_checkpoints() {
    let dir = tempdir().unwrap();
    let anchor = dir.path().join("anchor");
    let setup = with_anchors(with_checkpoints(Setup::local()), &[file_anchor(&anchor)]);
    let mut service = Service::start(setup).await;
    let key = verifier_key(&service);
    for _ in 0..3 {
        let before = anchoring::sizes(&anchor).last().copied().unwrap_or_default();
        let load = Load::start(&service.client(), 4, 5);
        let has_grown = async || {
            let last = anchoring::sizes(&anchor).last().copied().unwrap_or_default();
            last > before.max(EVENTS) && service.stats().await.event_count > last
        };
        service.wait_until("a checkpoint under load", has_grown).await;
        service.kill();
        let calls = load.end().await;
        service.restart().await;
        let order = whole_order(&mut service.client()).await;
        assert_all_there(&calls, &order);
        assert_proves(&service, &order, &key).await;
        assert_continues_anchor(&service, &anchor, &order).await;
    }
}
