//! Histories of a database and proofs about them, built by the definitions alone, for the tests of
//! all parts.

mod chains;
mod proofs;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use sha2::{Digest, Sha256};

use super::*;
use crate::immudb::{
    EntryKey, EntryMetadata, KeyKind, Sha256Hash, TransactionKeys, TxHeader, TxId, TxMetadata, VerifiableTx,
};

/// A transaction apart from its place in the history.
#[derive(Debug, Clone)]
struct Contents {
    seconds: i64,
    version: u16,
    extra: Vec<u8>,
    entries: Vec<EntryKey>,
}

#[derive(Debug, Clone)]
struct History {
    transactions: Vec<TransactionKeys>,
    alhs: Vec<Sha256Hash>,
    leaves: Vec<Sha256Hash>,
}

fn entry(has_metadata: bool) -> impl Strategy<Value = EntryKey> {
    let metadata = (any::<bool>(), any::<Option<i64>>(), any::<bool>());
    let key = vec(any::<u8>(), 0..20);
    (any::<u8>(), key, metadata, any::<Sha256Hash>()).prop_map(move |(prefix, key, metadata, value_hash)| {
        let (deleted, expires_at, non_indexable) = metadata;
        let metadata = EntryMetadata { deleted, expires_at, non_indexable };
        EntryKey {
            kind: KeyKind::of_prefix(prefix),
            key: key.into(),
            metadata: if has_metadata { metadata } else { EntryMetadata::default() },
            value_hash,
        }
    })
}

fn contents() -> impl Strategy<Value = Contents> {
    let of_version = |version: u16, extra_max: usize| {
        (any::<i64>(), vec(any::<u8>(), 0..=extra_max), vec(entry(version > 0), 1..6))
            .prop_map(move |(seconds, extra, entries)| Contents { seconds, version, extra, entries })
    };
    prop_oneof![of_version(0, 0), of_version(1, 20), of_version(1, 0)]
}

/// Returns histories with a number of transactions in this range.
fn histories(sizes: std::ops::Range<usize>) -> impl Strategy<Value = History> {
    vec(contents(), sizes).prop_map(|contents| History::of(&contents))
}

/// Returns a history of this number of transactions that is the same each time.
fn fixed_history(size: u8) -> History {
    let contents: Vec<Contents> = (0..size)
        .map(|number| Contents {
            seconds: 1_700_000_000 + i64::from(number),
            version: 1,
            extra: Vec::new(),
            entries: vec![plain(number)],
        })
        .collect();
    History::of(&contents)
}

fn plain(number: u8) -> EntryKey {
    EntryKey {
        kind: KeyKind::Plain,
        key: Bytes::copy_from_slice(&[number]),
        metadata: EntryMetadata::default(),
        value_hash: [number; 32],
    }
}

impl History {
    fn of(contents: &[Contents]) -> History {
        let mut history = History { transactions: Vec::new(), alhs: Vec::new(), leaves: Vec::new() };
        for contents in contents {
            let header = history.next(contents);
            history.push(header, contents);
        }
        history
    }

    /// Returns the header of the next transaction.
    fn next(&self, contents: &Contents) -> TxHeader {
        let before = self.alhs.len();
        let digests = contents.entries.iter().map(|entry| digest(contents.version, entry));
        TxHeader {
            id: TxId(before as u64 + 1),
            previous_hash: self.alhs.last().copied().unwrap_or_else(|| sha256(&[])),
            timestamp_seconds: contents.seconds,
            entry_count: u32::try_from(contents.entries.len()).unwrap(),
            entries_hash: tree_root(&digests.map(|digest| sha256(&[&[0], &digest])).collect::<Vec<_>>()),
            tree_tx: TxId(before as u64),
            tree_root: if before == 0 { [0; 32] } else { tree_root(&self.leaves) },
            version: contents.version,
            metadata: (!contents.extra.is_empty())
                .then(|| TxMetadata { truncated_tx: None, extra: contents.extra.clone().into() }),
        }
    }

    fn push(&mut self, header: TxHeader, contents: &Contents) {
        let alh = alh(&header);
        self.alhs.push(alh);
        self.leaves.push(sha256(&[&[0], &alh]));
        self.transactions.push(TransactionKeys { header, entries: contents.entries.clone() });
    }

    fn header(&self, tx: u64) -> &TxHeader {
        &self.transactions[tx as usize - 1].header
    }

    fn state(&self, tx: u64) -> TrustedState {
        TrustedState { tx: TxId(tx), alh: self.alhs[tx as usize - 1] }
    }

    /// Returns the chain up to a transaction, which may be 0.
    fn chain(&self, tx: u64) -> Chain {
        let mut chain = Chain::empty();
        for tx in 1..=tx {
            chain.append(self.header(tx), None).unwrap();
        }
        chain
    }

    /// Returns the proof as ImmuDB sends it.
    fn dual_proof(&self, source: u64, target: u64) -> DualProof {
        dual_proof(self.header(source), self.header(target), &self.alhs)
    }

    fn verifiable_tx(&self, tx: u64, since: u64) -> VerifiableTx {
        VerifiableTx {
            transaction: self.transactions[tx as usize - 1].clone(),
            proof: self.dual_proof(tx.min(since), tx.max(since)),
            signature: None,
        }
    }
}

/// Returns the proof as ImmuDB sends it, where the tree is over these accumulated hashes, and ends
/// where the headers say.
fn dual_proof(source: &TxHeader, target: &TxHeader, alhs: &[Sha256Hash]) -> DualProof {
    let (source_tree, tree) = (source.tree_tx.0 as usize, target.tree_tx.0 as usize);
    let leaves: Vec<Sha256Hash> = alhs[..tree].iter().map(|alh| sha256(&[&[0], alh])).collect();
    let (source_id, target_id) = (source.id.0 as usize, target.id.0 as usize);
    let start = source_id.max(tree);
    let start_alh = if start == source_id { alh(source) } else { alhs[start - 1] };
    let added = (start < target_id).then(|| inner(target));
    DualProof {
        source: source.clone(),
        target: target.clone(),
        inclusion: if source_id < tree { path(source_id - 1, &leaves) } else { Vec::new() },
        consistency: consistency(source_tree, &leaves),
        target_tree_alh: if tree > 0 { alhs[tree - 1] } else { [0; 32] },
        last_inclusion: if tree > 0 { path(tree - 1, &leaves) } else { Vec::new() },
        linear: LinearProof {
            source: TxId(start as u64),
            target: target.id,
            terms: [start_alh].into_iter().chain(added).collect(),
        },
    }
}

fn sha256(parts: &[&[u8]]) -> Sha256Hash {
    Sha256::digest(parts.concat()).into()
}

fn digest(version: u16, entry: &EntryKey) -> Sha256Hash {
    let key = [&[entry.kind.prefix()][..], &entry.key].concat();
    let EntryMetadata { deleted, expires_at, non_indexable } = entry.metadata;
    let mut metadata: Vec<u8> = Vec::new();
    metadata.extend(deleted.then_some(0));
    metadata.extend(expires_at.into_iter().flat_map(|at| [&[1_u8][..], &at.to_be_bytes()].concat()));
    metadata.extend(non_indexable.then_some(2));
    let size = |bytes: &[u8]| (bytes.len() as u16).to_be_bytes();
    match version {
        0 => sha256(&[&key, &entry.value_hash]),
        _ => sha256(&[&size(&metadata), &metadata, &size(&key), &key, &entry.value_hash]),
    }
}

fn inner(header: &TxHeader) -> Sha256Hash {
    let extra = header.metadata.as_ref().map(|metadata| metadata.extra.clone()).unwrap_or_default();
    let metadata = match extra.len() {
        0 => Vec::new(),
        size => [&[1, 0, size as u8][..], &extra].concat(),
    };
    let counts = match header.version {
        0 => (header.entry_count as u16).to_be_bytes().to_vec(),
        _ => [&[0, metadata.len() as u8][..], &metadata, &header.entry_count.to_be_bytes()].concat(),
    };
    sha256(&[
        &header.timestamp_seconds.to_be_bytes(),
        &header.version.to_be_bytes(),
        &counts,
        &header.entries_hash,
        &header.tree_tx.0.to_be_bytes(),
        &header.tree_root,
    ])
}

fn alh(header: &TxHeader) -> Sha256Hash {
    sha256(&[&header.id.0.to_be_bytes(), &header.previous_hash, &inner(header)])
}

/// The root of a tree by its definition in RFC 6962.
fn tree_root(leaves: &[Sha256Hash]) -> Sha256Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = halves(leaves);
            sha256(&[&[1], &tree_root(left), &tree_root(right)])
        }
    }
}

fn halves(leaves: &[Sha256Hash]) -> (&[Sha256Hash], &[Sha256Hash]) {
    let mut left = 1;
    while left * 2 < leaves.len() {
        left *= 2;
    }
    leaves.split_at(left)
}

/// The hashes beside the path from a leaf to the root.
fn path(index: usize, leaves: &[Sha256Hash]) -> Vec<Sha256Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = halves(leaves);
    let (mut below, beside) = match index.checked_sub(left.len()) {
        None => (path(index, left), tree_root(right)),
        Some(index) => (path(index, right), tree_root(left)),
    };
    below.push(beside);
    below
}

/// The proof that a tree continues the one of its first `old` leaves, as ImmuDB sends it: with the
/// old root where RFC 6962 omits it, and not empty between a tree and itself.
fn consistency(old: usize, leaves: &[Sha256Hash]) -> Vec<Sha256Hash> {
    if old == 0 || leaves.len() == 1 {
        return Vec::new();
    }
    if old == leaves.len() {
        let (left, right) = halves(leaves);
        return vec![tree_root(right), tree_root(left)];
    }
    subproof(old, leaves)
}

/// RFC 6962 omits the innermost hash if it is the old root. ImmuDB does not.
fn subproof(old: usize, leaves: &[Sha256Hash]) -> Vec<Sha256Hash> {
    if old == leaves.len() {
        return vec![tree_root(leaves)];
    }
    let (left, right) = halves(leaves);
    let (mut below, beside) = match old.checked_sub(left.len()) {
        None | Some(0) => (subproof(old, left), tree_root(right)),
        Some(old) => (subproof(old, right), tree_root(left)),
    };
    below.push(beside);
    below
}

/// Which part of a header was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    PreviousHash,
    Seconds,
    EntryCount,
    EntriesHash,
    TreeTx,
    TreeRoot,
    Version,
    Extra,
}

/// Returns the header with each of its bytes flipped.
fn flipped_headers(header: &TxHeader) -> Vec<(Field, TxHeader)> {
    let mut all = Vec::new();
    let mut add = |field, change: &dyn Fn(&mut TxHeader)| {
        let mut changed = header.clone();
        change(&mut changed);
        all.push((field, changed));
    };
    for byte in 0..32 {
        add(Field::PreviousHash, &|header| header.previous_hash[byte] ^= 0xff);
        add(Field::EntriesHash, &|header| header.entries_hash[byte] ^= 0xff);
        add(Field::TreeRoot, &|header| header.tree_root[byte] ^= 0xff);
    }
    for byte in 0..8 {
        add(Field::Id, &|header| header.id.0 ^= 0xff << (8 * byte));
        add(Field::TreeTx, &|header| header.tree_tx.0 ^= 0xff << (8 * byte));
        add(Field::Seconds, &|header| header.timestamp_seconds ^= 0xff << (8 * byte));
    }
    for byte in 0..4 {
        add(Field::EntryCount, &|header| header.entry_count ^= 0xff << (8 * byte));
    }
    for flip in [0x0001, 0x00ff, 0xff00] {
        add(Field::Version, &|header| header.version ^= flip);
    }
    let extra_bytes = header.metadata.as_ref().map_or(0, |metadata| metadata.extra.len());
    for byte in 0..extra_bytes {
        add(Field::Extra, &|header| {
            let metadata = header.metadata.as_mut().unwrap();
            let mut extra = metadata.extra.to_vec();
            extra[byte] ^= 0xff;
            metadata.extra = extra.into();
        });
    }
    all
}
