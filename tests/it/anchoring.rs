//! Checkpoints that are published outside of the service and of ImmuDB: they get there, and they
//! show that the history is another one than before.

use std::{fs, path::Path};

use aethyr_event_store::{
    grpc::wire::{RecordedEvent, State},
    proof::{Checkpoint, SignedNote, VerifierKey, root},
};
use serde_json::Value;

use crate::{
    proving::{
        checkpoint_of, file::Proof, leaves, proof_of, signed_checkpoint, verifier::Verifier, verifier_key,
    },
    support::{
        events::{append, event, whole_order},
        service::{Service, Setup},
    },
};

mod cosigning;
pub mod discarding;
mod giving_up;
mod lost_disk;
mod publishing;
mod putting_back;

/// The kind of finding that an anchor leads to.
const ANCHOR_DIFFERS: &str = "anchor_differs";

/// Sets the anchors, each in the flow style of YAML.
pub fn with_anchors(setup: Setup, anchors: &[String]) -> Setup {
    setup.set("proof", &format!("anchors: [{}]", anchors.join(", ")))
}

pub fn file_anchor(path: &Path) -> String {
    format!("{{file: '{}'}}", path.display())
}

/// Returns the notes in the file of an anchor, without one that is being written. Below each note
/// is a blank line.
pub fn notes(anchor: &Path) -> Vec<SignedNote> {
    let text = fs::read_to_string(anchor).unwrap_or_default();
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let parts: Vec<&str> = whole.split("\n\n").collect();
    let notes = parts.chunks_exact(2).map(|parts| format!("{}\n\n{}\n", parts[0], parts[1]));
    notes.map(|note| SignedNote::parse(note.as_bytes()).unwrap()).collect()
}

/// Returns the checkpoint of a note, without a look at its signatures.
fn unverified(note: &SignedNote) -> Checkpoint {
    let note = String::from_utf8(note.to_bytes()).unwrap();
    let (text, _) = note.rsplit_once("\n\n").unwrap();
    Checkpoint::parse(&format!("{text}\n")).unwrap()
}

/// Returns the sizes of the checkpoints in the file of an anchor.
pub fn sizes(anchor: &Path) -> Vec<u64> {
    notes(anchor).iter().map(|note| unverified(note).size()).collect()
}

/// Waits until the file of an anchor has a checkpoint of at least this size.
async fn wait_for_size(service: &Service, anchor: &Path, size: u64) {
    let is_there = async || sizes(anchor).last().is_some_and(|last| *last >= size);
    service.wait_until("the checkpoint is in the file", is_there).await;
}

/// Asserts that these events are the history that the checkpoints in the file are of, as the
/// command `verify --against` says, too.
pub async fn assert_continues_anchor(service: &Service, anchor: &Path, order: &[RecordedEvent]) {
    let (key, leaves) = (verifier_key(service), leaves(order));
    let notes = notes(anchor);
    assert!(!notes.is_empty(), "the file has no checkpoint");
    for note in notes {
        let checkpoint = signed_checkpoint(&note.to_bytes(), &key);
        assert_eq!(*checkpoint.root(), root(&leaves[..checkpoint.size() as usize]), "{checkpoint:?}");
    }
    let (code, said) = against(service, anchor);
    assert_eq!(code, Some(0), "{said}");
}

/// Runs `verify --against`. Returns its exit code, and all that it said.
fn against(service: &Service, anchor: &Path) -> (Option<i32>, String) {
    against_with(service, anchor, &["--address", &service.address()])
}

/// Runs `verify --against` on the stopped storage.
fn against_storage(service: &Service, anchor: &Path) -> (Option<i32>, String) {
    against_with(service, anchor, &[])
}

fn against_with(service: &Service, anchor: &Path, more: &[&str]) -> (Option<i32>, String) {
    let command = [&["verify", "--against", anchor.to_str().unwrap()][..], more].concat();
    let output = service.command(&command).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Returns the kinds of all findings.
fn findings(service: &Service) -> Vec<String> {
    let output = service.command(&["findings", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let findings = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    findings.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

/// What was published before an operator shortened or exchanged the history.
struct Before {
    key: VerifierKey,
    /// The history at that time.
    order: Vec<RecordedEvent>,
    /// Of events that are in both histories, and of events that are only in the former one.
    proofs: Vec<Proof>,
    notes: Vec<SignedNote>,
    /// The number of events that both histories have in common.
    agreed: usize,
}

impl Before {
    /// Takes everything from a service that has these events in common with its next history.
    async fn of(service: &Service, anchor: &Path, agreed: usize) -> Self {
        let mut client = service.client();
        let order = whole_order(&mut client).await;
        wait_for_size(service, anchor, order.len() as u64).await;
        let mut proofs = Vec::new();
        for event in &order {
            proofs.push(proof_of(&mut client, event).await);
        }
        Self { key: verifier_key(service), order, proofs, notes: notes(anchor), agreed }
    }

    /// Asserts that the service publishes its next history under the next origin, and that what was
    /// published before keeps its worth.
    async fn assert_next_generation(&self, service: &mut Service, anchor: &Path) {
        for _ in 0..2 {
            let mut client = service.client();
            append(&mut client, (0..self.order.len()).map(|_| event("room-1")).collect()).await;
            let order = whole_order(&mut client).await;
            assert_eq!(order[..self.agreed], self.order[..self.agreed]);
            let origin = format!("{}/2", self.key.name());
            let is_published = async || {
                let last = notes(anchor).last().map(unverified);
                last.is_some_and(|last| last.origin() == origin && last.size() == order.len() as u64)
            };
            service.wait_until("the file has a checkpoint of the next history", is_published).await;
            let newest = checkpoint_of(service, order.len() as u64).await;
            let key = VerifierKey::parse(&newest.verifier_key).unwrap();
            assert_eq!((key.name(), &key), (&*origin, &verifier_key(service)));
            self.assert_published(anchor, &key, &order);
            let verifier = Verifier::of(&key);
            for event in [&order[0], order.last().unwrap()] {
                let proof = proof_of(&mut client, event).await;
                proof.assert_proves(event, &key);
                verifier.assert_accepts(proof.text.as_bytes(), &[]);
            }
            let (code, said) = against(service, anchor);
            assert_eq!(code, Some(0), "{said}");
            let stats = service.stats().await;
            assert_eq!((stats.open_findings, findings(service).len()), (0, 0), "{}", service.log());
            assert_ne!(stats.state(), State::Tampered);
            // The anchor is compared at the next start, too.
            assert!(service.stop().success());
            service.restart().await;
        }
        let verifier = Verifier::of(&self.key);
        for proof in &self.proofs {
            verifier.assert_accepts(proof.text.as_bytes(), &[]);
        }
    }

    /// Asserts that the file has everything from before, and then only the next history.
    fn assert_published(&self, anchor: &Path, key: &VerifierKey, order: &[RecordedEvent]) {
        let (notes, leaves) = (notes(anchor), leaves(order));
        let (before, after) = notes.split_at(self.notes.len());
        assert_eq!(before, self.notes);
        for (number, note) in after.iter().enumerate() {
            let checkpoint = signed_checkpoint(&note.to_bytes(), key);
            assert_eq!(*checkpoint.root(), root(&leaves[..checkpoint.size() as usize]), "{checkpoint:?}");
            // Only the first one says what it follows, and how far it agrees with that.
            let agreed = format!("agreed {}", self.agreed);
            assert_eq!(checkpoint.extensions().contains(&agreed), number == 0, "{checkpoint:?}");
            assert_eq!(checkpoint.extensions().is_empty(), number > 0, "{checkpoint:?}");
        }
    }
}
