//! A second opinion on hash trees, signed notes and proof files: the packages of Go's checksum
//! database verify what this library makes, and the other way round.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use aethyr_event_store::proof::{
    Checkpoint, Hash, RightEdge, SignedNote, SigningKey, TlogProof, VerifierKey, consistency, inclusion,
    leaf_hash, root,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tempfile::tempdir;

use crate::support::go::Module;

const MODULE: Module = Module { source: "tests/notes", target: "notes" };
const SOURCES: [&str; 4] = ["go.mod", "files.go", "main.go", "make.go"];

/// The seed of the program's random sizes and indexes.
const SEED: &str = "17";
/// The largest tree of the program.
const LEAVES_MAX: u64 = 100_000;
/// The largest tree whose proofs are made here again.
const REMADE_MAX: u64 = 300;

/// A line that the program prints and reads. `tests/notes/main.go` says which kind has which
/// fields. Hashes are base64.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    kind: String,
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    root: String,
    index: u64,
    old_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    old_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    leaf: String,
    proof: Vec<String>,
    verifier: String,
    text: String,
    file: String,
    extra: String,
    signer: String,
    witness: String,
    cosigned_at: u64,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    accepted: bool,
    #[serde(default)]
    why: String,
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| MODULE.build("notes", ".", &SOURCES))
}

/// Returns the JSON objects that the program printed, one per line.
fn printed<T: for<'d> Deserialize<'d>>(output: &Output) -> Vec<T> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn encode(hash: &Hash) -> String {
    STANDARD.encode(hash)
}

fn decode(text: &str) -> Hash {
    STANDARD.decode(text).unwrap().try_into().unwrap_or_else(|_| panic!("{text} is not a hash"))
}

fn decode_all(texts: &[String]) -> Vec<Hash> {
    texts.iter().map(|text| decode(text)).collect()
}

/// Returns the first leaf hashes of the program's tree.
fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|index| leaf_hash(index.to_string().as_bytes())).collect()
}

#[test]
fn what_go_makes_is_accepted() {
    let output = Command::new(program()).args(["make", SEED]).output().unwrap();
    let leaves = leaves(LEAVES_MAX);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut roots: BTreeMap<u64, Hash> = BTreeMap::new();
    for line in printed::<Line>(&output) {
        match line.kind.as_str() {
            "tree" => _ = roots.insert(line.size, decode(&line.root)),
            "inclusion" => included(&line, &leaves),
            "consistency" => continued(&line, &leaves),
            "note" => signed(&line),
            "tlog-proof" => proven(&line),
            other => panic!("the kind {other}"),
        }
        *counts.entry(line.kind).or_default() += 1;
    }
    assert!(counts["inclusion"] > 5000 && counts["consistency"] > 5000, "{counts:?}");
    assert!(counts["note"] >= 12 && counts["tlog-proof"] >= 12, "{counts:?}");

    assert!((0..=REMADE_MAX).all(|size| roots.contains_key(&size)), "a size is missing");
    assert!(roots.len() > 320, "{} sizes", roots.len());
    let mut edge = RightEdge::new();
    for leaf in leaves {
        if let Some(root) = roots.get(&edge.size()) {
            assert_eq!(edge.root(), *root, "{} leaves", edge.size());
        }
        edge.push(leaf);
    }
}

fn included(line: &Line, leaves: &[Hash]) {
    let (leaf, root, proof) = (decode(&line.leaf), decode(&line.root), decode_all(&line.proof));
    assert_eq!(leaf, leaves[line.index as usize]);
    let verified = inclusion::verify(&leaf, line.index, line.size, &proof, &root);
    assert_eq!(verified, Ok(()), "{line:?}");
    if line.size <= REMADE_MAX {
        assert_eq!(inclusion::prove(&leaves[..line.size as usize], line.index), Some(proof), "{line:?}");
    }
}

fn continued(line: &Line, leaves: &[Hash]) {
    let (old_root, new_root) = (decode(&line.old_root), decode(&line.root));
    let proof = decode_all(&line.proof);
    let verified = consistency::verify(line.old_size, &old_root, line.size, &new_root, &proof);
    assert_eq!(verified, Ok(()), "{line:?}");
    if line.size <= REMADE_MAX {
        assert_eq!(consistency::prove(&leaves[..line.size as usize], line.old_size), Some(proof), "{line:?}");
    }
}

fn signed(line: &Line) {
    let note = SignedNote::parse(line.file.as_bytes()).unwrap();
    assert_eq!(note.to_bytes(), line.file.as_bytes());
    let [key, witness] = [&line.verifier, &line.witness].map(|key| VerifierKey::parse(key).unwrap());
    assert_eq!((key.to_string(), witness.to_string()), (line.verifier.clone(), line.witness.clone()));
    assert_eq!(note.verify(&key), Ok(line.text.as_str()));
    assert_eq!(note.cosigned_at(&witness), Ok(line.cosigned_at));
    // The same key makes the same signature, which is the first one of the note.
    let signer = SigningKey::from_encoded(&line.signer).unwrap();
    assert_eq!(*signer.verifier(), key);
    let signed = SignedNote::sign(line.text.clone(), &signer).unwrap().to_bytes();
    assert!(line.file.as_bytes().starts_with(&signed), "{line:?}");
}

fn proven(line: &Line) {
    let proof = TlogProof::parse(line.file.as_bytes()).unwrap();
    assert_eq!(proof.to_bytes(), line.file.as_bytes());
    assert_eq!((proof.index, STANDARD.encode(&proof.extra)), (line.index, line.extra.clone()));
    let [log, witness] = [&line.verifier, &line.witness].map(|key| VerifierKey::parse(key).unwrap());
    let verified = proof.verify(&decode(&line.leaf), &log, &[witness]).unwrap();
    assert_eq!(verified.cosigned_at, [line.cosigned_at]);
    let checkpoint = Checkpoint::new(log.name(), line.size, decode(&line.root), vec![]);
    assert_eq!(Ok(verified.checkpoint), checkpoint);
    assert!(proof.verify(&leaf_hash(b"another leaf"), &log, &[]).is_err(), "{line:?}");
}

/// Lines for the program to check, each with the verdict that is right.
#[derive(Default)]
struct Sent {
    lines: Vec<(Line, bool)>,
}

impl Sent {
    /// Adds a proof, and the same with a change that makes it wrong.
    fn proof(&mut self, line: Line) {
        let changed = changed(line.clone(), self.lines.len());
        self.lines.extend([(line, true), (changed, false)]);
    }

    fn push(&mut self, line: &Line, is_right: bool) {
        self.lines.push((line.clone(), is_right));
    }

    fn check(&self) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("lines");
        let text: String =
            self.lines.iter().map(|(line, _)| serde_json::to_string(line).unwrap() + "\n").collect();
        fs::write(&path, text).unwrap();
        let input = Stdio::from(fs::File::open(&path).unwrap());
        let output = Command::new(program()).arg("check").stdin(input).output().unwrap();
        let verdicts: Vec<Verdict> = printed(&output);
        assert_eq!(verdicts.len(), self.lines.len());
        for ((line, is_right), verdict) in self.lines.iter().zip(verdicts) {
            assert_eq!(verdict.accepted, *is_right, "{}: {line:?}", verdict.why);
        }
    }
}

/// Flips a bit of the root or of a hash of the proof, or drops the proof's last hash.
fn changed(mut line: Line, number: usize) -> Line {
    match (number % 3, line.proof.len()) {
        (_, 0) | (0, _) => flip(&mut line.root, number),
        (1, count) => flip(&mut line.proof[number % count], number),
        (_, _) => _ = line.proof.pop(),
    }
    line
}

fn flip(text: &mut String, bit: usize) {
    let mut hash = decode(text);
    hash[bit / 8 % 32] ^= 1 << (bit % 8);
    *text = encode(&hash);
}

/// Adds the proofs that the leaf is in the tree, and that the tree continues the one that ends with
/// the leaf.
fn proofs(sent: &mut Sent, leaves: &[Hash], index: u64) {
    let (size, root_hash) = (leaves.len() as u64, root(leaves));
    let proof = inclusion::prove(leaves, index).unwrap();
    sent.proof(Line {
        kind: "inclusion".into(),
        size,
        root: encode(&root_hash),
        index,
        leaf: encode(&leaves[index as usize]),
        proof: proof.iter().map(encode).collect(),
        ..Line::default()
    });
    let old_size = index + 1;
    let proof = consistency::prove(leaves, old_size).unwrap();
    sent.proof(Line {
        kind: "consistency".into(),
        size,
        root: encode(&root_hash),
        old_size,
        old_root: encode(&root(&leaves[..old_size as usize])),
        proof: proof.iter().map(encode).collect(),
        ..Line::default()
    });
}

#[test]
fn go_accepts_the_proofs_made_here_and_no_changed_one() {
    let leaves = leaves(LEAVES_MAX);
    let mut sent = Sent::default();
    for size in 1..=300_u64 {
        let tree = &leaves[..size as usize];
        let few = [0, size / 3, size / 2, size.saturating_sub(2), size - 1];
        let indexes: Vec<u64> = if size <= 40 { (0..size).collect() } else { few.to_vec() };
        indexes.into_iter().for_each(|index| proofs(&mut sent, tree, index));
    }
    for size in [1 << 12, (1 << 16) + 1, LEAVES_MAX] {
        let tree = &leaves[..size as usize];
        [size / 5, size - 1].into_iter().for_each(|index| proofs(&mut sent, tree, index));
    }
    assert!(sent.lines.len() > 8000, "{} lines", sent.lines.len());
    sent.check();
}

#[test]
fn go_accepts_the_notes_signed_here_and_no_changed_one() {
    let key = SigningKey::generate("log.example/notes").unwrap();
    let other = SigningKey::generate("log.example/notes").unwrap();
    let mut sent = Sent::default();
    for text in ["\n", "a\n", "a\n\nb\n", "\n\n\n", "— a b\n", "é\u{a0}\u{2028}+\u{7f}\n"] {
        let file = SignedNote::sign(text.to_owned(), &key).unwrap().to_bytes();
        let line = Line {
            kind: "note".into(),
            verifier: key.verifier().to_string(),
            text: text.to_owned(),
            file: String::from_utf8(file).unwrap(),
            ..Line::default()
        };
        sent.push(&line, true);
        sent.push(&Line { file: format!("b{}", line.file), text: format!("b{text}"), ..line.clone() }, false);
        sent.push(&Line { verifier: other.verifier().to_string(), ..line.clone() }, false);
    }
    sent.check();
}

#[test]
fn go_accepts_the_proof_files_made_here_and_no_changed_one() {
    let key = SigningKey::generate("log.example/notes").unwrap();
    let leaves = leaves(300);
    let mut sent = Sent::default();
    for (size, index) in [(1, 0), (2, 1), (7, 6), (8, 0), (255, 254), (257, 256), (300, 123)] {
        let tree = &leaves[..size as usize];
        let checkpoint = Checkpoint::new(key.verifier().name(), size, root(tree), vec![]).unwrap();
        let proof = TlogProof {
            extra: b"a record".repeat(index as usize % 3),
            index,
            inclusion: inclusion::prove(tree, index).unwrap(),
            checkpoint: SignedNote::sign(checkpoint.to_text(), &key).unwrap(),
        };
        let file = |proof: &TlogProof| String::from_utf8(proof.to_bytes()).unwrap();
        let line = Line {
            kind: "tlog-proof".into(),
            verifier: key.verifier().to_string(),
            leaf: encode(&leaves[index as usize]),
            extra: STANDARD.encode(&proof.extra),
            file: file(&proof),
            ..Line::default()
        };
        sent.push(&line, true);
        sent.push(&Line { leaf: encode(&leaf_hash(b"another leaf")), ..line.clone() }, false);
        sent.push(
            &Line { file: file(&TlogProof { index: index + 1, ..proof.clone() }), ..line.clone() },
            false,
        );
        let larger = Checkpoint::new(key.verifier().name(), size + 1, root(tree), vec![]).unwrap();
        let checkpoint = line.file.replace(&checkpoint.to_text(), &larger.to_text());
        sent.push(&Line { file: checkpoint, ..line.clone() }, false);
    }
    sent.check();
}
