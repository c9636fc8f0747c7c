//! Tests of what a witness signs and refuses.

use std::path::Path;

use super::*;
use crate::{
    proof::{Hash, SignedNote, SigningKey, leaf_hash, root},
    witness::request::encode,
};

const ORIGIN: &str = "log.example/aethyr";
const TIME: u64 = 1_700_000_000;

/// A log and its witness.
struct Pair {
    log: SigningKey,
    witness: VerifierKey,
    cosigner: Cosigner,
    dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let log = SigningKey::generate(ORIGIN).unwrap();
        let key = CosigningKey::generate("witness.example/w1").unwrap();
        let (witness, dir) = (key.verifier().clone(), tempfile::tempdir().unwrap());
        let cosigner = Cosigner::new(vec![log.verifier().clone()], key, open(dir.path()));
        Self { log, witness, cosigner, dir }
    }

    fn note(&self, leaves: &[Hash]) -> String {
        note(ORIGIN, leaves.len() as u64, root(leaves), &self.log)
    }

    /// Asks for a cosignature of the tree with these leaves, and checks it.
    fn add(&self, old_size: u64, leaves: &[Hash]) -> Result<(), Refusal> {
        let proof = consistency::prove(leaves, old_size).unwrap_or_default();
        self.send(old_size, &proof, &self.note(leaves))
    }

    fn send(&self, old_size: u64, proof: &[Hash], note: &str) -> Result<(), Refusal> {
        let line = self.cosigner.add_checkpoint(encode(old_size, proof, note).as_bytes(), TIME)?;
        let (text, _) = split(note).unwrap();
        let cosigned = SignedNote::parse(format!("{text}\n{line}").as_bytes()).unwrap();
        assert_eq!(cosigned.cosigned_at(&self.witness), Ok(TIME));
        Ok(())
    }

    /// Returns the size of the newest checkpoint in the file.
    fn stored(&self) -> u64 {
        let bytes = std::fs::read_to_string(self.dir.path().join("state")).unwrap();
        let document: serde_json::Value = serde_json::from_str(&bytes).unwrap();
        document["state"]["logs"][0]["size"].as_u64().unwrap()
    }
}

fn open(folder: &Path) -> StateFile {
    StateFile::open(&folder.join("state")).unwrap()
}

fn note(origin: &str, size: u64, root: Hash, key: &SigningKey) -> String {
    let text = Checkpoint::new(origin, size, root, vec![]).unwrap().to_text();
    String::from_utf8(SignedNote::sign(text, key).unwrap().to_bytes()).unwrap()
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|leaf| leaf_hash(&leaf.to_be_bytes())).collect()
}

/// Another history: its last leaf is another one.
fn forked(count: u64) -> Vec<Hash> {
    let mut leaves = leaves(count);
    *leaves.last_mut().unwrap() = leaf_hash(b"another");
    leaves
}

#[test]
fn each_checkpoint_has_to_continue_the_one_before() {
    let pair = Pair::new();
    for (old_size, size) in [(0, 1), (1, 3), (3, 3), (3, 8), (8, 100)] {
        pair.add(old_size, &leaves(size)).unwrap();
        assert_eq!(pair.stored(), size);
    }
    let refused = pair.add(100, &forked(100)).unwrap_err();
    assert!(matches!(refused, Refusal::Inconsistent { old_size: 100, .. }), "{refused}");
    let mut other = forked(100);
    other.extend([[7; 32]; 20]);
    let refused = pair.add(100, &other).unwrap_err();
    assert!(matches!(refused, Refusal::Inconsistent { .. }), "{refused}");
    let refused = pair.send(100, &[], &pair.note(&leaves(120))).unwrap_err();
    assert!(matches!(refused, Refusal::Inconsistent { .. }), "{refused}");
    assert_eq!(pair.stored(), 100);
    pair.add(100, &leaves(120)).unwrap();
}

#[test]
fn the_size_never_decreases() {
    let pair = Pair::new();
    pair.add(0, &leaves(10)).unwrap();
    for (old_size, size) in [(0, 4), (0, 10), (4, 10), (9, 12), (11, 12)] {
        let refused = pair.add(old_size, &leaves(size)).unwrap_err();
        assert!(matches!(refused, Refusal::OtherSize { size: 10 }), "{old_size} to {size}: {refused}");
    }
    let refused = pair.add(10, &leaves(9)).unwrap_err();
    assert!(matches!(refused, Refusal::Smaller { old_size: 10, size: 9 }), "{refused}");
    assert_eq!(pair.stored(), 10);
}

#[test]
fn an_empty_tree_has_one_root_and_every_tree_continues_it() {
    let pair = Pair::new();
    let refused = pair.send(0, &[], &note(ORIGIN, 0, [7; 32], &pair.log)).unwrap_err();
    assert!(matches!(refused, Refusal::Inconsistent { .. }), "{refused}");
    pair.send(0, &[], &note(ORIGIN, 0, EMPTY_ROOT, &pair.log)).unwrap();
    pair.send(0, &[], &note(ORIGIN, 0, EMPTY_ROOT, &pair.log)).unwrap();
    let refused = pair.send(0, &[[7; 32]], &pair.note(&leaves(2))).unwrap_err();
    assert!(matches!(refused, Refusal::Inconsistent { .. }), "{refused}");
    pair.add(0, &leaves(2)).unwrap();
}

#[test]
fn only_a_known_log_is_served_and_only_with_its_signature() {
    let pair = Pair::new();
    let state = || std::fs::read(pair.dir.path().join("state")).unwrap();
    let before = state();
    let elsewhere = SigningKey::generate("log.example/other").unwrap();
    let refused = pair.send(0, &[], &note("log.example/other", 1, [7; 32], &elsewhere)).unwrap_err();
    assert!(matches!(&refused, Refusal::UnknownLog { origin } if origin == "log.example/other"), "{refused}");
    // The right name with another key, and the origin of the log in a note by another one.
    let impostor = SigningKey::generate(ORIGIN).unwrap();
    for key in [&impostor, &elsewhere] {
        let refused = pair.send(0, &[], &note(ORIGIN, 1, [7; 32], key)).unwrap_err();
        let missing = matches!(refused, Refusal::Signature(SignatureError::Missing { .. }));
        assert!(missing, "{refused}");
    }
    let changed = pair.note(&leaves(1)).replace("\n1\n", "\n2\n");
    let refused = pair.send(0, &[], &changed).unwrap_err();
    assert!(matches!(refused, Refusal::Signature(SignatureError::Invalid { .. })), "{refused}");
    let text = SignedNote::sign(format!("{ORIGIN}\n"), &pair.log).unwrap().to_bytes();
    let refused = pair.send(0, &[], &String::from_utf8(text).unwrap()).unwrap_err();
    assert!(matches!(refused, Refusal::Checkpoint(CheckpointError::Incomplete)), "{refused}");
    assert_eq!(state(), before);
}

#[test]
fn a_log_may_change_its_key() {
    let (pair, next) = (Pair::new(), SigningKey::generate(ORIGIN).unwrap());
    pair.add(0, &leaves(3)).unwrap();
    let Pair { log, dir, cosigner, .. } = pair;
    drop(cosigner);
    let key = CosigningKey::generate("witness.example/w2").unwrap();
    let cosigner =
        Cosigner::new(vec![log.verifier().clone(), next.verifier().clone()], key, open(dir.path()));
    for (old_size, key) in [(3, &log), (4, &next)] {
        let leaves = leaves(old_size + 1);
        let body = encode(
            old_size,
            &consistency::prove(&leaves, old_size).unwrap(),
            &note(ORIGIN, old_size + 1, root(&leaves), key),
        );
        cosigner.add_checkpoint(body.as_bytes(), TIME).unwrap();
    }
}

#[test]
fn the_newest_checkpoint_is_kept_with_the_signatures_of_its_log_only() {
    let pair = Pair::new();
    let hash = hex::encode(Sha256::digest(ORIGIN));
    assert_eq!(pair.cosigner.newest(&hash), None);
    let foreign = SigningKey::generate("foreign.example").unwrap();
    let plain = pair.note(&leaves(5));
    let (text, lines) = split(&plain).unwrap();
    let other = note(ORIGIN, 5, root(&leaves(5)), &foreign);
    let (_, added) = split(&other).unwrap();
    pair.send(0, &[], &format!("{text}\n{added}{lines}")).unwrap();

    let kept = pair.cosigner.newest(&hash).unwrap();
    assert!(kept.starts_with(&plain) && !kept.contains("foreign.example"), "{kept}");
    let kept = SignedNote::parse(kept.as_bytes()).unwrap();
    assert_eq!(kept.verify(pair.log.verifier()), Ok(text));
    assert_eq!(kept.cosigned_at(&pair.witness), Ok(TIME));
    assert_eq!(pair.cosigner.newest(&hash.to_uppercase()), None);
}

#[test]
fn of_many_histories_at_once_one_is_signed() {
    let pair = Pair::new();
    let histories: Vec<Vec<Hash>> = (0..16u8).map(|history| vec![leaf_hash(&[history]); 3]).collect();
    let signed: usize = std::thread::scope(|scope| {
        let pair = &pair;
        let add = histories.iter().map(|leaves| scope.spawn(move || pair.add(0, leaves).is_ok()));
        let threads: Vec<_> = add.collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    });
    assert_eq!(signed, 1);
}

#[test]
fn without_a_time_or_a_disk_nothing_is_signed() {
    let pair = Pair::new();
    let body = encode(0, &[], &pair.note(&leaves(1)));
    let refused = pair.cosigner.add_checkpoint(body.as_bytes(), 0).unwrap_err();
    assert!(matches!(refused, Refusal::Clock), "{refused}");
    std::fs::create_dir(pair.dir.path().join("state.new")).unwrap();
    let refused = pair.add(0, &leaves(1)).unwrap_err();
    assert!(matches!(refused, Refusal::State(_)), "{refused}");
    std::fs::remove_dir(pair.dir.path().join("state.new")).unwrap();
    pair.add(0, &leaves(1)).unwrap();
}
