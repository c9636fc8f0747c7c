//! A witness cosigns the checkpoints, and does not cosign those of an older history.

use std::{
    fs::{self, File},
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use aethyr_event_store::{
    grpc::wire::{GetCheckpointRequest, GetCheckpointResponse, StatsResponse},
    proof::{Algorithm, SignedNote, VerifierKey},
};
use tempfile::{TempDir, tempdir};
use tonic::Code;

use super::{ANCHOR_DIFFERS, findings, with_anchors};
use crate::{
    copy::copy_folder,
    proving::{checkpoint_of, proof_of, verifier::Verifier, verifier_key, with_checkpoints},
    support::{
        events::{append, event, whole_order},
        port::Port,
        service::{PATIENCE, Service, Setup, program_in},
    },
};

const POLL: Duration = Duration::from_millis(20);
const EVENTS: u64 = 5;
/// A key with the same name.
const ANOTHER_WITNESS: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";

/// The program as a witness, with a state and a key of its own.
struct Witness {
    dir: TempDir,
    port: Port,
    /// The key of the log that it cosigns for.
    log: String,
    process: Option<Child>,
}

impl Witness {
    fn of(log: &VerifierKey) -> Self {
        let mut witness =
            Self { dir: tempdir().unwrap(), port: Port::free(), log: log.to_string(), process: None };
        witness.start();
        witness
    }

    fn start(&mut self) {
        let file = |name: &str| File::create(self.dir.path().join(name)).unwrap();
        let listen = format!("127.0.0.1:{}", self.port.number());
        let mut command = program_in(self.dir.path(), &[]);
        command.args(["witness", "--listen", &listen, "--state", "state", "--log", &self.log]);
        command.args(["--key-file", "witness.key", "--name", "witness.example/w1"]);
        self.process = Some(command.stdout(file("printed")).stderr(file("said")).spawn().unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Returns the public key, which it prints.
    async fn key(&self) -> VerifierKey {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let printed = read("printed");
            let mut keys = printed.split_whitespace().filter_map(|word| VerifierKey::parse(word).ok());
            if let Some(key) = keys.find(|key| key.algorithm() == Algorithm::CosignatureV1) {
                return key;
            }
            assert!(Instant::now() < until, "no key in {printed:?}: {}", read("said"));
            tokio::time::sleep(POLL).await;
        }
    }

    fn anchor(&self, key: &VerifierKey) -> String {
        format!("{{witness: {{url: 'http://127.0.0.1:{}', key: '{key}'}}}}", self.port.number())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Appends events at once, so that a checkpoint has all of them or none.
async fn append_some(service: &Service) {
    append(&mut service.client(), (0..EVENTS).map(|_| event("room-1")).collect()).await;
}

/// Returns when the witness saw the checkpoint.
fn cosigned_at(found: &GetCheckpointResponse, witness: &VerifierKey) -> Option<u64> {
    SignedNote::parse(found.checkpoint.as_bytes()).unwrap().cosigned_at(witness).ok()
}

/// Waits until the newest checkpoint has this size, and the signature of the witness.
async fn wait_until_cosigned(service: &Service, size: u64, witness: &VerifierKey) {
    let is_cosigned = async || cosigned_at(&checkpoint_of(service, size).await, witness).is_some();
    service.wait_until("the newest checkpoint is cosigned", is_cosigned).await;
}

/// Puts a copy of the storage in the place of the stopped service's storage.
fn put_back(service: &Service, kept: &Path) {
    fs::remove_dir_all(service.storage()).unwrap();
    fs::rename(kept, service.storage()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_checkpoints_and_shows_that_the_storage_was_put_back() {
    let dir = tempdir().unwrap();
    let mut service = Service::start(with_checkpoints(Setup::local())).await;
    append_some(&service).await;
    checkpoint_of(&service, EVENTS).await;
    let log = verifier_key(&service);
    assert!(service.stop().success());

    let mut witness = Witness::of(&log);
    let key = witness.key().await;
    let setup = with_anchors(with_checkpoints(Setup::local()), &[witness.anchor(&key)]);
    service.reconfigure(setup);
    service.restart().await;
    append_some(&service).await;
    wait_until_cosigned(&service, 2 * EVENTS, &key).await;
    let order = whole_order(&mut service.client()).await;
    let verifier = Verifier::of(&log);
    for event in [&order[0], order.last().unwrap()] {
        let proof = proof_of(&mut service.client(), event).await;
        proof.assert_proves(event, &log);
        let printed = verifier.assert_accepts(proof.text.as_bytes(), &["--witness", &key.to_string()]);
        assert!(printed.contains(&format!("by the word of {}", key.name())), "{printed}");
        verifier.assert_refuses(proof.text.as_bytes(), &["--witness", ANOTHER_WITNESS]);
    }

    // A witness that is gone for a while costs nothing, and gets the newest checkpoint later.
    witness.stop();
    append_some(&service).await;
    let alone = checkpoint_of(&service, 3 * EVENTS).await;
    assert_eq!(cosigned_at(&alone, &key), None);
    let is_counted = |found: &StatsResponse| {
        found.anchors.iter().any(|anchor| anchor.failures > 0 && !anchor.last_error.is_empty())
    };
    service.wait_for("the failure is counted", is_counted).await;
    witness.start();
    assert_eq!(witness.key().await, key, "the key was kept");
    wait_until_cosigned(&service, 3 * EVENTS, &key).await;
    assert_eq!(findings(&service).len(), 0);

    // The storage from here is put back later.
    assert!(service.stop().success());
    let kept = dir.path().join("kept");
    copy_folder(&service.storage(), &kept);
    service.restart().await;
    append_some(&service).await;
    wait_until_cosigned(&service, 4 * EVENTS, &key).await;
    assert!(service.stop().success());
    put_back(&service, &kept);
    service.restart().await;
    let is_found = async || findings(&service).iter().any(|kind| kind == ANCHOR_DIFFERS);
    service.wait_until("the witness knows another history", is_found).await;
    // Appends go on, but two histories are never signed with one key.
    append_some(&service).await;
    let request = GetCheckpointRequest { size: 4 * EVENTS };
    let refused = service.client().get_checkpoint(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
}
