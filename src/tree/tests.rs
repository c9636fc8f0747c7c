//! Tests of the tree: its roots and proofs are those of RFC 6962, whatever happened to its file.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
};

use tempfile::TempDir;

use super::{
    file::{HEADER_BYTES, RECORD_BYTES, offset},
    *,
};
use crate::merkle::{ProofError, consistency, inclusion, leaf_hash, root};

mod around;
mod versions;

const LOG: Uuid = Uuid::from_u128(7);

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("lost")]
struct Lost;

/// What the log answers for a range.
type Answer = fn(&[Hash]) -> Result<Vec<Hash>, Lost>;

/// A log of events that only have chain hashes.
struct Log {
    hashes: Vec<ChainHash>,
    leaves: Vec<Hash>,
    answer: Answer,
    /// The number of leaves that were read.
    read: Cell<usize>,
    /// The roots that were needed so far, by size.
    roots: RefCell<BTreeMap<u64, Hash>>,
}

impl Leaves for Log {
    type Error = Lost;

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, Lost> {
        let leaves = &self.leaves[range.start as usize..range.end as usize];
        assert!(leaves.len() as u64 <= SUBTREE_LEAVES, "{range:?}");
        self.read.set(self.read.get() + leaves.len());
        (self.answer)(leaves)
    }
}

impl Log {
    fn new(size: u64) -> Self {
        Self::other_from(size, size)
    }

    /// Returns a log that has another history from the event with this index on.
    fn other_from(start: u64, size: u64) -> Self {
        let hash = |index: u64| leaf_hash(&[u64::from(index >= start), index].map(u64::to_be_bytes).concat());
        let hashes: Vec<_> = (0..size).map(|index| ChainHash(hash(index))).collect();
        let leaves = hashes.iter().map(|hash| leaf_hash(&hash.0)).collect();
        let (read, roots) = (Cell::new(0), RefCell::default());
        Self { hashes, leaves, answer: |leaves| Ok(leaves.to_vec()), read, roots }
    }

    fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Returns the root by its definition.
    fn root_at(&self, size: u64) -> Hash {
        *self.roots.borrow_mut().entry(size).or_insert_with(|| root(&self.leaves[..size as usize]))
    }

    /// Opens the tree, and appends what it lacks.
    fn tree(&self, path: &Path) -> EventTree {
        let mut tree = EventTree::open(path, LOG, self.size(), self).unwrap();
        self.catch_up(&mut tree);
        tree
    }

    fn catch_up(&self, tree: &mut EventTree) {
        self.hashes[tree.size() as usize..].iter().for_each(|hash| tree.push(*hash));
        tree.write().unwrap();
        assert_eq!(tree.size(), self.size());
    }

    /// Checks a proof of inclusion.
    fn includes(&self, tree: &TreeView, index: u64, size: u64) {
        let proof = tree.inclusion(index, size, self).unwrap();
        let (leaf, root) = (&self.leaves[index as usize], self.root_at(size));
        assert_eq!(inclusion::verify(leaf, index, size, &proof, &root), Ok(()), "{index} of {size}");
    }

    /// Checks a proof of consistency.
    fn continues(&self, tree: &TreeView, old: u64, new: u64) {
        let proof = tree.consistency(old, new, self).unwrap();
        let (old_root, new_root) = (self.root_at(old), self.root_at(new));
        let verified = consistency::verify(old, &old_root, new, &new_root, &proof);
        assert_eq!(verified, Ok(()), "{old} of {new}");
    }

    /// Checks the root, and a proof from each subtree of 32 leaves. These need each kept node.
    fn is_proven_by(&self, tree: &TreeView) {
        assert_eq!((tree.size(), tree.root()), (self.size(), self.root_at(self.size())));
        for index in (0..self.size()).step_by(SUBTREE_LEAVES as usize) {
            self.includes(tree, index, self.size());
        }
    }
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tree");
    (dir, path)
}

/// Returns the number of leaves below the kept nodes of a tree.
fn whole(size: u64) -> u64 {
    size / SUBTREE_LEAVES * SUBTREE_LEAVES
}

/// Returns the file of the tree of a log.
fn file_of(log: &Log, path: &Path) -> Vec<u8> {
    drop(log.tree(path));
    fs::read(path).unwrap()
}

#[test]
fn roots_and_proofs_of_each_size_are_those_of_the_definition() {
    let (_dir, path) = place();
    let log = Log::new(1100);
    let tree = log.tree(&path);
    let mut edge = RightEdge::new();
    for size in 0..=log.size() {
        assert_eq!(tree.root_at(size, &log).unwrap(), log.root_at(size), "{size} leaves");
        assert_eq!(tree.edge_at(size, &log).unwrap(), edge, "{size} leaves");
        log.leaves.get(size as usize).into_iter().for_each(|leaf| edge.push(*leaf));
        for index in [0, size / 3, size.saturating_sub(257), size.saturating_sub(1)] {
            if index < size {
                log.includes(&tree, index, size);
            }
        }
        for old in [0, 1, size / 2, whole(size), size.saturating_sub(1), size] {
            if old <= size {
                log.continues(&tree, old, size);
            }
        }
    }
    for size in [1, 2, 255, 256, 257, 767, 768, 1024, 1100] {
        let leaves = &log.leaves[..size as usize];
        for number in [0, 1, 100, 255, 256, 511, 700, 1023] {
            let expected = inclusion::prove(leaves, number);
            assert_eq!(tree.inclusion(number, size, &log).ok(), expected, "{number} of {size}");
            let expected = consistency::prove(leaves, number);
            assert_eq!(tree.consistency(number, size, &log).ok(), expected, "{number} of {size}");
        }
    }
}

#[test]
fn a_growing_tree_has_the_proofs_of_each_size() {
    let (_dir, path) = place();
    let log = Log::new(1100);
    let mut random = fastrand::Rng::with_seed(1);
    let mut tree = EventTree::open(&path, LOG, 0, &log).unwrap();
    for (size, hash) in (1..).zip(&log.hashes) {
        tree.push(*hash);
        if random.u8(..) == 0 {
            tree.write().unwrap();
        }
        assert_eq!((tree.size(), tree.root()), (size, log.root_at(size)));
        log.includes(&tree, random.u64(..size), size);
        log.continues(&tree, random.u64(..=size), size);
    }
    assert_eq!(tree.edge().hashes().len() as u32, 1100u64.count_ones());
}

#[test]
fn large_trees_have_right_proofs() {
    let (_dir, path) = place();
    let log = Log::new(200_000);
    let mut roots = vec![RightEdge::new().root()];
    let mut edge = RightEdge::new();
    for leaf in &log.leaves {
        edge.push(*leaf);
        roots.push(edge.root());
    }
    let tree = log.tree(&path);
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..400 {
        let size = random.u64(1..=log.size());
        let (index, old) = (random.u64(..size), random.u64(..=size));
        let [old_root, root] = [old, size].map(|size| roots[size as usize]);
        log.read.set(0);
        let proof = tree.inclusion(index, size, &log).unwrap();
        let verified = inclusion::verify(&log.leaves[index as usize], index, size, &proof, &root);
        assert_eq!(verified, Ok(()), "{index} of {size}");
        assert!(log.read.get() as u64 <= 2 * SUBTREE_LEAVES, "{} leaves were read", log.read.get());
        let proof = tree.consistency(old, size, &log).unwrap();
        let verified = consistency::verify(old, &old_root, size, &root, &proof);
        assert_eq!(verified, Ok(()), "{old} of {size}");
    }
    let subtrees = 200_000 / SUBTREE_LEAVES;
    assert_eq!(fs::metadata(&path).unwrap().len(), offset(layout::records(subtrees)));
}

#[test]
fn what_the_tree_lacks_is_refused() {
    let (_dir, path) = place();
    let log = Log::new(600);
    let tree = log.tree(&path);
    for size in [601, u64::MAX] {
        let refused = tree.root_at(size, &log).unwrap_err();
        assert!(matches!(refused, TreeError::TooSmall { expected, found: 600 } if expected == size));
        assert!(matches!(tree.edge_at(size, &log), Err(TreeError::TooSmall { .. })));
        assert!(matches!(tree.inclusion(0, size, &log), Err(TreeError::TooSmall { .. })));
        assert!(matches!(tree.consistency(600, size, &log), Err(TreeError::TooSmall { .. })));
    }
    for (index, size) in [(0, 0), (300, 300), (600, 600), (u64::MAX, 600)] {
        let refused = tree.inclusion(index, size, &log).unwrap_err();
        assert!(matches!(refused, TreeError::Proof(ProofError::NoLeaf { .. })), "{refused}");
    }
    let refused = tree.consistency(600, 300, &log).unwrap_err();
    assert!(matches!(refused, TreeError::Proof(ProofError::Shrunk { old: 600, new: 300 })), "{refused}");
}

#[test]
fn a_start_reads_32_leaves_and_keeps_all_nodes() {
    for size in [0, 1, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1024, 1100] {
        let (_dir, path) = place();
        let log = Log::new(size);
        let before = file_of(&log, &path);
        log.read.set(0);
        let mut tree = EventTree::open(&path, LOG, size, &log).unwrap();
        assert_eq!(tree.size(), whole(size));
        assert_eq!(log.read.get(), if size < 32 { 0 } else { 32 });
        log.catch_up(&mut tree);
        log.is_proven_by(&tree);
        assert_eq!(fs::read(&path).unwrap(), before, "{size} leaves");
    }
}

#[test]
fn the_file_has_the_documented_format() {
    let (_dir, path) = place();
    let log = Log::new(75);
    let bytes = file_of(&log, &path);
    assert_eq!(bytes.len() as u64, HEADER_BYTES + 3 * RECORD_BYTES);
    let (header, records) = bytes.split_at(48);
    assert_eq!(header[..12], *b"AETHYRTR\x02\0\0\0");
    assert_eq!(header[12..28], *LOG.as_bytes());
    let salt = &header[28..44];
    assert_ne!(*salt, [0; 16]);
    assert_eq!(header[44..], crc32c::crc32c(&header[..44]).to_le_bytes());
    let nodes = [root(&log.leaves[..32]), root(&log.leaves[32..64]), root(&log.leaves[..64])];
    for ((number, record), node) in (0u64..).zip(records.chunks(36)).zip(nodes) {
        assert_eq!(record[..32], node);
        let checked = [salt, &number.to_le_bytes(), &node].concat();
        assert_eq!(record[32..], crc32c::crc32c(&checked).to_le_bytes());
    }
}

#[test]
fn a_file_of_any_length_is_completed() {
    let (_dir, path) = place();
    let log = Log::new(212);
    let whole = file_of(&log, &path);
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let mut tree = EventTree::open(&path, LOG, log.size(), &log).unwrap();
        let records = (length as u64).saturating_sub(HEADER_BYTES) / RECORD_BYTES;
        assert_eq!(tree.size(), layout::subtrees(records) * SUBTREE_LEAVES, "{length} bytes");
        log.catch_up(&mut tree);
        log.is_proven_by(&tree);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), whole.len());
        assert!(bytes == whole || length < 48, "{length} bytes");
    }
    // Space that was allocated, but not written before a power cut.
    for length in [whole.len() - 100, whole.len(), whole.len() + 1000] {
        let mut bytes = whole[..whole.len() - 100].to_vec();
        bytes.resize(length, 0);
        fs::write(&path, &bytes).unwrap();
        log.is_proven_by(&log.tree(&path));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_flipped_byte_is_reported_or_computed_again() {
    let (_dir, path) = place();
    let log = Log::new(212);
    let whole = file_of(&log, &path);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        if at < 8 {
            let refused = EventTree::open(&path, LOG, log.size(), &log).unwrap_err();
            assert!(matches!(refused, TreeError::File(TreeFileError::NotATree { .. })), "{at}: {refused}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
            continue;
        }
        log.is_proven_by(&log.tree(&path));
        assert!(at < 48 || fs::read(&path).unwrap() == whole, "byte {at} is computed again");
    }
}

#[test]
fn damage_below_an_open_tree_is_computed_again() {
    let (_dir, path) = place();
    let log = Log::new(212);
    let tree = log.tree(&path);
    let whole = fs::read(&path).unwrap();
    for record in 0..layout::records(6) {
        let mut bytes = whole.clone();
        bytes[offset(record) as usize + 5] ^= 1;
        fs::write(&path, &bytes).unwrap();
        log.is_proven_by(&tree);
        assert_eq!(fs::read(&path).unwrap(), whole, "record {record}");
    }
    fs::write(&path, &whole[..48]).unwrap();
    log.is_proven_by(&tree);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn no_proof_is_wrong_whatever_the_file_has() {
    let (_dir, path) = place();
    let log = Log::new(212);
    let whole = file_of(&log, &path);
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..6) {
            let start = random.usize(48..bytes.len());
            let end = bytes.len().min(start + random.usize(1..100));
            if random.bool() {
                bytes[start..end].fill(random.u8(..));
            } else {
                bytes.copy_within(48..48 + end - start, start);
            }
        }
        bytes.truncate(random.usize(48..bytes.len() * 2));
        fs::write(&path, &bytes).unwrap();
        log.is_proven_by(&log.tree(&path));
    }
}

#[test]
fn a_forged_node_with_a_right_checksum_gives_no_proof() {
    let (_dir, path) = place();
    let log = Log::new(212);
    let tree = log.tree(&path);
    let whole = fs::read(&path).unwrap();
    for record in 0..layout::records(6) {
        tree.nodes.write(record, &[[7; 32]]).unwrap();
        let mut refused = 0;
        for index in (0..log.size()).step_by(SUBTREE_LEAVES as usize) {
            match tree.inclusion(index, log.size(), &log) {
                Ok(proof) => {
                    let (leaf, root) = (&log.leaves[index as usize], tree.root());
                    assert_eq!(inclusion::verify(leaf, index, log.size(), &proof, &root), Ok(()));
                }
                Err(TreeError::Proof(ProofError::OtherRoot { .. }) | TreeError::OtherLeaves { .. }) => {
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 0, "record {record}");
        for size in (0..=log.size()).step_by(8) {
            let edge = tree.edge_at(size, &log);
            assert!(edge.is_err() || edge.unwrap().root() == log.root_at(size), "record {record}, {size}");
        }
        fs::write(&path, &whole).unwrap();
    }
    log.is_proven_by(&tree);
}

#[test]
fn leaves_that_differ_from_the_kept_node_are_named() {
    let (_dir, path) = place();
    let mut log = Log::new(125);
    let tree = log.tree(&path);
    log.answer = |leaves| Ok(leaves.iter().rev().copied().collect());
    let refused = tree.inclusion(37, 125, &log).unwrap_err();
    let (expected, found) = (root(&log.leaves[32..64]), refused.to_string());
    assert!(matches!(&refused, TreeError::OtherLeaves { range, expected: kept, .. }
        if *range == (32..64) && *kept == expected));
    assert!(found.starts_with("the leaves from 32 to 64 have the node "), "{found}");
    assert!(tree.inclusion(112, 125, &log).is_ok(), "the last leaves are in memory");
    log.answer = |leaves| Ok(leaves[1..].to_vec());
    let refused = tree.root_at(87, &log).unwrap_err();
    assert!(matches!(&refused, TreeError::LeafCount { range, found: 31 } if *range == (64..96)));
    log.answer = |_| Err(Lost);
    let refused = tree.consistency(87, 125, &log).unwrap_err();
    assert!(matches!(refused, TreeError::Leaves(Lost)), "{refused}");
    assert!(matches!(EventTree::open(&path, LOG, 125, &log), Err(TreeError::Leaves(Lost))));
}

#[test]
fn nodes_of_another_history_are_removed() {
    for (common, size) in [(0, 3000), (1000, 3000), (2815, 3000), (2816, 3000), (3000, 3000), (1000, 1300)] {
        let (_dir, path) = place();
        file_of(&Log::new(3000), &path);
        let log = Log::other_from(common, size);
        let tree = EventTree::open(&path, LOG, size, &log).unwrap();
        assert_eq!(tree.size(), whole(common.min(size)), "{common} are common");
        log.is_proven_by(&log.tree(&path));
    }
    // The log lost its end, or is an older copy.
    for size in [0, 31, 32, 2000] {
        let (_dir, path) = place();
        file_of(&Log::new(3000), &path);
        let log = Log::new(size);
        assert_eq!(EventTree::open(&path, LOG, size, &log).unwrap().size(), whole(size));
        log.is_proven_by(&log.tree(&path));
        assert_eq!(fs::metadata(&path).unwrap().len(), offset(layout::records(size / SUBTREE_LEAVES)));
    }
}

#[test]
fn the_file_of_another_log_is_refused() {
    let (_dir, path) = place();
    let log = Log::new(600);
    let before = file_of(&log, &path);
    let other = Uuid::from_u128(8);
    let refused = EventTree::open(&path, other, 600, &log).unwrap_err();
    assert!(matches!(&refused, TreeError::File(TreeFileError::AnotherLog { expected, found, .. })
        if (*expected, *found) == (other, LOG)));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_rebuild_goes_on_where_it_was_stopped() {
    let (_dir, path) = place();
    let log = Log::new(150_000);
    for (from, until) in [(0, 131_072), (131_072, 140_000), (140_000, 140_001)] {
        let mut tree = EventTree::open(&path, LOG, log.size(), &log).unwrap();
        assert_eq!(tree.size(), from);
        log.hashes[from as usize..until].iter().for_each(|hash| tree.push(*hash));
        assert!(!tree.is_written() || until == 140_001);
        tree.write().unwrap();
        assert!(tree.is_written());
        assert_eq!(tree.root(), log.root_at(until as u64));
    }
    let mut tree = EventTree::open(&path, LOG, log.size(), &log).unwrap();
    assert_eq!(tree.size(), 140_000);
    log.catch_up(&mut tree);
    assert_eq!(tree.root(), log.root_at(log.size()));
}

#[test]
fn nodes_that_are_not_written_yet_are_used() {
    let (_dir, path) = place();
    let log = Log::new(3000);
    let mut tree = EventTree::open(&path, LOG, log.size(), &log).unwrap();
    log.hashes.iter().for_each(|hash| tree.push(*hash));
    assert_eq!(fs::metadata(&path).unwrap().len(), HEADER_BYTES);
    log.is_proven_by(&tree);
    log.continues(&tree, 700, 2000);
    tree.write().unwrap();
    log.is_proven_by(&tree);
    assert_eq!(EventTree::open(&path, LOG, log.size(), &log).unwrap().size(), 2976);
}

#[test]
fn a_view_stays_as_it_is_while_the_tree_grows() {
    let (_dir, path) = place();
    let (log, small) = (Log::new(3000), Log::new(700));
    let mut tree = EventTree::open(&path, LOG, 0, &log).unwrap();
    log.hashes[..700].iter().for_each(|hash| tree.push(*hash));
    let view = tree.view();
    assert!(log.hashes[..700] == small.hashes[..], "it is the same history");
    thread::scope(|scope| {
        let reading = scope.spawn(move || (0..20).for_each(|_| small.is_proven_by(&view)));
        log.catch_up(&mut tree);
        reading.join().unwrap();
    });
    log.is_proven_by(&tree);
}
