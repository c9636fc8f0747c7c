//! Proofs of ImmuDB are accepted as they are, and rejected with any change.

use super::*;
use crate::immudb::VerifiableEntry;

/// Returns every proof that differs from this one in one hash or in one field of a header, and
/// those with a hash more or less.
fn changed(proof: &DualProof) -> Vec<DualProof> {
    let mut all = Vec::new();
    for (_, source) in flipped_headers(&proof.source) {
        all.push(DualProof { source, ..proof.clone() });
    }
    for (_, target) in flipped_headers(&proof.target) {
        all.push(DualProof { target, ..proof.clone() });
    }
    for byte in 0..32 {
        let mut target_tree_alh = proof.target_tree_alh;
        target_tree_alh[byte] ^= 1;
        all.push(DualProof { target_tree_alh, ..proof.clone() });
    }
    for inclusion in changed_hashes(&proof.inclusion) {
        all.push(DualProof { inclusion, ..proof.clone() });
    }
    for consistency in changed_hashes(&proof.consistency) {
        all.push(DualProof { consistency, ..proof.clone() });
    }
    for last_inclusion in changed_hashes(&proof.last_inclusion) {
        all.push(DualProof { last_inclusion, ..proof.clone() });
    }
    for terms in changed_hashes(&proof.linear.terms) {
        all.push(DualProof { linear: LinearProof { terms, ..proof.linear.clone() }, ..proof.clone() });
    }
    for bit in 0..64 {
        let (source, target) = (proof.linear.source, proof.linear.target);
        let other = LinearProof { source: TxId(source.0 ^ (1 << bit)), ..proof.linear.clone() };
        all.push(DualProof { linear: other, ..proof.clone() });
        let other = LinearProof { target: TxId(target.0 ^ (1 << bit)), ..proof.linear.clone() };
        all.push(DualProof { linear: other, ..proof.clone() });
    }
    all
}

/// Returns the hashes with each byte of them changed, one less, and one more.
fn changed_hashes(hashes: &[Sha256Hash]) -> Vec<Vec<Sha256Hash>> {
    let mut all = Vec::new();
    for (index, byte) in (0..hashes.len()).flat_map(|index| (0..32).map(move |byte| (index, byte))) {
        let mut changed = hashes.to_vec();
        changed[index][byte] ^= 1;
        all.push(changed);
    }
    for index in 0..hashes.len() {
        let mut shorter = hashes.to_vec();
        shorter.remove(index);
        all.push(shorter);
    }
    for index in 0..=hashes.len() {
        let mut longer = hashes.to_vec();
        longer.insert(index, hashes.first().copied().unwrap_or([1; 32]));
        all.push(longer);
    }
    all
}

#[test]
fn the_proof_between_any_two_transactions_is_accepted() {
    let history = fixed_history(34);
    for target in 1..=34 {
        for source in 1..=target {
            let proof = history.dual_proof(source, target);
            let verified = verify_dual_proof(&proof, history.state(source), history.state(target));
            assert_eq!(verified, Ok(()), "{source} to {target}");
        }
    }
}

#[test]
fn a_proof_with_any_change_is_rejected() {
    let history = fixed_history(16);
    let mut changes = 0;
    for (source, target) in [(1, 1), (1, 2), (2, 2), (2, 3), (1, 5), (3, 3), (4, 5), (3, 8), (5, 9), (7, 16)]
    {
        let proof = history.dual_proof(source, target);
        let (from, to) = (history.state(source), history.state(target));
        for wrong in changed(&proof) {
            assert!(verify_dual_proof(&wrong, from, to).is_err(), "{source} to {target}: {wrong:?}");
            changes += 1;
        }
    }
    assert!(changes > 5000, "{changes} changes");
}

#[test]
fn a_proof_is_of_its_states_only() {
    let history = fixed_history(9);
    let proof = history.dual_proof(4, 8);
    let (from, to) = (history.state(4), history.state(8));
    for (source, target) in
        [(to, from), (from, from), (to, to), (history.state(3), to), (from, history.state(9))]
    {
        assert!(verify_dual_proof(&proof, source, target).is_err(), "{source:?} {target:?}");
    }
    let other = TrustedState { alh: [1; 32], ..from };
    let found = from.alh;
    assert_eq!(
        verify_dual_proof(&proof, other, to),
        Err(ProofMismatch::OtherState { tx: TxId(4), expected: [1; 32], found })
    );
    let nothing = TrustedState::empty();
    let of_nothing = verify_dual_proof(&history.dual_proof(1, 1), nothing, history.state(1));
    assert!(matches!(of_nothing, Err(ProofMismatch::Header(HeaderMismatch::Id { .. }))), "{of_nothing:?}");
    let in_reverse = verify_dual_proof(&proof, to, from);
    assert_eq!(in_reverse, Err(ProofMismatch::Order { source_tx: TxId(8), target: TxId(4) }));
}

#[test]
fn a_transaction_is_verified_from_an_earlier_and_from_a_later_state() {
    let history = fixed_history(13);
    for (tx, since) in [(1, 1), (5, 2), (2, 5), (13, 1), (1, 13), (7, 7), (8, 9), (9, 8)] {
        let answer = history.verifiable_tx(tx, since);
        assert_eq!(answer.verify(history.state(since)), Ok(history.state(tx)), "{tx} since {since}");
        let other = TrustedState { alh: [1; 32], ..history.state(since) };
        assert!(answer.verify(other).is_err(), "{tx} since {since}");

        let mut other_entry = answer.clone();
        other_entry.transaction.entries[0].value_hash[0] ^= 1;
        let mismatch = other_entry.verify(history.state(since));
        assert!(matches!(mismatch, Err(ProofMismatch::Header(HeaderMismatch::EntriesHash { .. }))));
        let mut other_header = answer.clone();
        other_header.transaction.header.timestamp_seconds ^= 1;
        assert!(other_header.verify(history.state(since)).is_err(), "{tx} since {since}");
    }
}

#[test]
fn the_right_edge_follows_from_one_proof() {
    let history = fixed_history(40);
    for tx in 1..=40 {
        let answer = history.verifiable_tx(tx, tx);
        assert_eq!(answer.chain(), Ok(history.chain(tx)), "{tx}");
        if tx == 1 {
            // There is no tree before it, and so no edge to read.
            continue;
        }
        for last_inclusion in changed_hashes(&answer.proof.last_inclusion) {
            let proof = DualProof { last_inclusion, ..answer.proof.clone() };
            assert!(VerifiableTx { proof, ..answer.clone() }.chain().is_err(), "{tx}");
        }
    }
    let mut other_end = history.verifiable_tx(9, 9);
    other_end.proof.target_tree_alh[0] ^= 1;
    assert!(other_end.chain().is_err());
    let mut behind = history.verifiable_tx(9, 9);
    behind.proof.target.tree_tx = TxId(7);
    let mismatch = HeaderMismatch::TreeTx { tx: TxId(9), expected: TxId(8), found: TxId(7) };
    assert_eq!(behind.chain(), Err(ProofMismatch::Header(mismatch)));
}

#[test]
fn an_entry_is_at_its_place_only() {
    for width in 1..=33_u8 {
        let leaves: Vec<Sha256Hash> = (0..width).map(|number| sha256(&[&[0], &[number; 32]])).collect();
        let mut header = fixed_history(1).header(1).clone();
        (header.entry_count, header.entries_hash) = (width.into(), tree_root(&leaves));
        for leaf in 0..width {
            let terms = path(leaf.into(), &leaves);
            let proof = EntryProof { leaf: leaf.into(), width: width.into(), terms };
            let digest = [leaf; 32];
            assert_eq!(verify_entry(&proof, &digest, &header), Ok(()), "{leaf} of {width}");
            let wrong = Err(ProofMismatch::Entry { tx: TxId(1) });
            assert_eq!(verify_entry(&proof, &[leaf + 1; 32], &header), wrong, "{leaf} of {width}");
            for other in (0..40).filter(|other| *other != u32::from(leaf)) {
                let moved = EntryProof { leaf: other, ..proof.clone() };
                assert_eq!(verify_entry(&moved, &digest, &header), wrong, "{other} for {leaf} of {width}");
            }
            for other in (0..40).filter(|other| *other != u32::from(width)) {
                let resized = EntryProof { width: other, ..proof.clone() };
                assert_eq!(verify_entry(&resized, &digest, &header), wrong, "{leaf} of {other}");
            }
            for terms in changed_hashes(&proof.terms) {
                let other = EntryProof { terms, ..proof.clone() };
                assert_eq!(verify_entry(&other, &digest, &header), wrong, "{leaf} of {width}");
            }
        }
    }
}

/// A history of this number of transactions. The one with the number `tx` writes a value under a
/// key, between two other entries.
fn history_with(value: &[u8], tx: u8, size: u8) -> History {
    let written = EntryKey { value_hash: sha256(&[&[0], value]), ..plain(100) };
    let contents = (1..=size).map(|number| Contents {
        seconds: 1_700_000_000,
        version: 1,
        extra: Vec::new(),
        entries: if number == tx { vec![plain(1), written.clone(), plain(2)] } else { vec![plain(number)] },
    });
    History::of(&contents.collect::<Vec<_>>())
}

/// Returns that value as ImmuDB sends it.
fn verifiable_entry(history: &History, value: &'static [u8], tx: u64, since: u64) -> VerifiableEntry {
    let TransactionKeys { header, entries } = history.transactions[tx as usize - 1].clone();
    let leaves: Vec<Sha256Hash> =
        entries.iter().map(|entry| sha256(&[&[0], &digest(header.version, entry)])).collect();
    VerifiableEntry {
        key: plain(100).key,
        value: Bytes::from_static(value),
        proof: EntryProof { leaf: 1, width: header.entry_count, terms: path(1, &leaves) },
        dual: history.dual_proof(tx.min(since), tx.max(since)),
        header,
        signature: None,
    }
}

#[test]
fn a_value_is_verified_from_an_earlier_and_from_a_later_state() {
    let history = history_with(b"value", 6, 11);
    for since in 1..=11 {
        let answer = verifiable_entry(&history, b"value", 6, since);
        assert_eq!(answer.verify(history.state(since)), Ok(history.state(6)), "since {since}");
        let other = TrustedState { alh: [1; 32], ..history.state(since) };
        assert!(answer.verify(other).is_err(), "since {since}");
        let wrong = [
            VerifiableEntry { key: Bytes::from_static(b"other"), ..answer.clone() },
            VerifiableEntry { value: Bytes::from_static(b"valuf"), ..answer.clone() },
            VerifiableEntry { value: Bytes::new(), ..answer.clone() },
        ];
        let headers = flipped_headers(&answer.header).into_iter();
        let headers = headers.map(|(_, header)| VerifiableEntry { header, ..answer.clone() });
        let proofs = changed_hashes(&answer.proof.terms).into_iter().map(|terms| VerifiableEntry {
            proof: EntryProof { terms, ..answer.proof.clone() },
            ..answer.clone()
        });
        let duals = changed(&answer.dual).into_iter();
        let duals = duals.map(|dual| VerifiableEntry { dual, ..answer.clone() });
        for wrong in wrong.into_iter().chain(headers).chain(proofs).chain(duals) {
            assert!(wrong.verify(history.state(since)).is_err(), "since {since}: {wrong:?}");
        }
    }
}

/// Two histories that a server can show to one client, in turn, if transactions that the tree does
/// not cover are not held against it.
struct Forgery {
    honest: TxHeader,
    /// Its tree ends one transaction too early.
    behind: TxHeader,
    /// Its tree has the false transaction in place of the honest one.
    last: TxHeader,
    fake: TxHeader,
    /// The hashes in the tree of the last one.
    in_tree: Vec<Sha256Hash>,
}

fn forgery() -> Forgery {
    let history = fixed_history(2);
    let of = |number| Contents {
        seconds: 1_700_000_000,
        version: 1,
        extra: Vec::new(),
        entries: vec![plain(number)],
    };
    let first = history.state(1).alh;
    let honest = history.header(2).clone();
    let fake = fixed_history(1).next(&of(0xfa));
    let behind =
        TxHeader { tree_tx: TxId(1), tree_root: tree_root(&history.leaves[..1]), ..history.next(&of(3)) };
    let mut fourth = behind.clone();
    (fourth.id, fourth.previous_hash) = (TxId(4), alh(&behind));
    let in_tree = vec![first, alh(&fake), alh(&behind), alh(&fourth)];
    let leaves: Vec<Sha256Hash> = in_tree.iter().map(|alh| sha256(&[&[0], alh])).collect();
    let last = TxHeader {
        id: TxId(5),
        previous_hash: alh(&fourth),
        tree_tx: TxId(4),
        tree_root: tree_root(&leaves),
        ..fourth
    };
    Forgery { honest, behind, last, fake, in_tree }
}

fn state_of(header: &TxHeader) -> TrustedState {
    TrustedState { tx: header.id, alh: alh(header) }
}

/// What clients checked before they held the transactions outside of the tree against it.
fn is_accepted_without_the_check(proof: &DualProof) -> bool {
    let (source, target) = (state_of(&proof.source), state_of(&proof.target));
    let tree = TrustedState { tx: proof.target.tree_tx, alh: proof.target_tree_alh };
    let included = source.tx >= tree.tx || verify_inclusion(source, &proof.target, &proof.inclusion).is_ok();
    let start = if source.tx < tree.tx { tree } else { source };
    let [first, added] = proof.linear.terms[..] else { return false };
    included
        && verify_consistency(&proof.source, &proof.target, &proof.consistency).is_ok()
        && verify_last_inclusion(tree.alh, &proof.target, &proof.last_inclusion).is_ok()
        && first == start.alh
        && sha256(&[&target.tx.0.to_be_bytes(), &first, &added]) == target.alh
}

#[test]
fn a_second_transaction_2_cannot_be_shown_after_5() {
    let Forgery { honest, behind, last, fake, in_tree } = forgery();
    assert_ne!(alh(&honest), alh(&fake));
    let honest_tree = [in_tree[0], alh(&honest)];
    let to_3 = dual_proof(&honest, &behind, &honest_tree);
    let to_5 = dual_proof(&behind, &last, &in_tree);
    let back_to_2 = dual_proof(&fake, &last, &in_tree);
    for proof in [&to_3, &to_5, &back_to_2] {
        assert!(is_accepted_without_the_check(proof), "it is the forgery: {proof:?}");
    }

    let behind_1 = HeaderMismatch::TreeTx { tx: TxId(3), expected: TxId(2), found: TxId(1) };
    let verified = verify_dual_proof(&to_3, state_of(&honest), state_of(&behind));
    assert_eq!(verified, Err(ProofMismatch::Header(behind_1.clone())));
    let verified = verify_dual_proof(&to_5, state_of(&behind), state_of(&last));
    assert_eq!(verified, Err(ProofMismatch::Header(behind_1.clone())));
    // Without the way over transaction 3, the honest one is not in the tree.
    for inclusion in [dual_proof(&honest, &last, &in_tree).inclusion, back_to_2.inclusion] {
        let proof = DualProof { inclusion, ..dual_proof(&honest, &last, &in_tree) };
        let verified = verify_dual_proof(&proof, state_of(&honest), state_of(&last));
        assert_eq!(verified, Err(ProofMismatch::Inclusion { tx: TxId(2), later: TxId(5) }));
    }
    let mut chain = fixed_history(2).chain(2);
    assert_eq!(chain.state(), state_of(&honest));
    assert_eq!(chain.append(&behind, None), Err(behind_1));
}
