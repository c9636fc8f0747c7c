//! Tests of the trees: known roots and proofs, and that only the right proof of the right leaf in
//! the right tree is accepted.

use proptest::prelude::*;

use super::{
    reference::{root_of_inclusion, roots_of_consistency},
    *,
};

/// The leaves of the tests of Certificate Transparency, as hexadecimal digits.
const KNOWN_LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

/// The roots of the trees of the first 0, 1, 2 … of these leaves.
const KNOWN_ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn hash(digits: &str) -> Hash {
    hex::decode(digits).unwrap().try_into().unwrap()
}

fn known_leaves() -> Vec<Hash> {
    KNOWN_LEAVES.map(|digits| leaf_hash(&hex::decode(digits).unwrap())).to_vec()
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
}

fn edge(leaves: &[Hash]) -> RightEdge {
    let mut edge = RightEdge::new();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    edge
}

#[test]
fn the_known_leaves_have_the_known_roots() {
    let leaves = known_leaves();
    for (size, expected) in KNOWN_ROOTS.iter().enumerate() {
        assert_eq!(root(&leaves[..size]), hash(expected), "{size} leaves");
        assert_eq!(edge(&leaves[..size]).root(), hash(expected), "{size} leaves");
    }
    assert_eq!(EMPTY_ROOT, hash(KNOWN_ROOTS[0]));
}

#[test]
fn the_known_leaves_have_the_known_proofs() {
    let [h0, h1, h4, h7, h01, h23, h45, h67, h0123] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "46f6ffadd3d06a09ff3c5860d2755c8b9819db7df44251788c7d8e3180de8eb1",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    .map(hash);
    let leaves = known_leaves();
    let h4567 = node_hash(&h45, &h67);
    assert_eq!(inclusion::prove(&leaves, 0).unwrap(), [h1, h23, h4567]);
    assert_eq!(inclusion::prove(&leaves, 5).unwrap(), [h4, h67, h0123]);
    assert_eq!(inclusion::prove(&leaves, 6).unwrap(), [h7, h45, h0123]);
    assert_eq!(inclusion::prove(&leaves[..3], 2).unwrap(), [h01]);
    assert_eq!(inclusion::prove(&leaves[..5], 1).unwrap(), [h0, h23, h4]);
    assert_eq!(inclusion::prove(&leaves[..1], 0).unwrap(), [EMPTY_ROOT; 0]);
    assert_eq!(consistency::prove(&leaves, 1).unwrap(), [h1, h23, h4567]);
    assert_eq!(consistency::prove(&leaves, 6).unwrap(), [h45, h67, h0123]);
    assert_eq!(consistency::prove(&leaves[..5], 2).unwrap(), [h23, h4]);
}

#[test]
fn an_edge_has_the_root_of_its_leaves_at_each_size() {
    let leaves = leaves(300);
    let mut edge = RightEdge::new();
    for (size, leaf) in leaves.iter().enumerate() {
        assert_eq!(edge.root(), root(&leaves[..size]), "{size} leaves");
        let restored = RightEdge::from_parts(edge.size(), edge.hashes().to_vec());
        assert_eq!(restored.as_ref(), Some(&edge), "{size} leaves");
        edge.push(*leaf);
    }
    assert_eq!((edge.size(), edge.root()), (300, root(&leaves)));
    let expected = [root(&leaves[..256]), root(&leaves[256..288]), root(&leaves[288..296])];
    assert_eq!(edge.hashes()[..3], expected, "the largest first");
}

#[test]
fn an_edge_has_one_hash_for_each_set_bit_of_its_size() {
    let hashes = |count| vec![EMPTY_ROOT; count];
    for (size, right) in [(0, 0), (1, 1), (6, 2), (8, 1), (RightEdge::SIZE_MAX, 63)] {
        for count in 0..=64 {
            let edge = RightEdge::from_parts(size, hashes(count));
            assert_eq!(edge.is_some(), count == right, "{size} leaves, {count} hashes");
        }
    }
    assert_eq!(RightEdge::from_parts(RightEdge::SIZE_MAX + 1, hashes(1)), None);
    let mut edge = RightEdge::from_parts(RightEdge::SIZE_MAX, hashes(63)).unwrap();
    edge.push(EMPTY_ROOT);
    assert_eq!((edge.size(), edge.hashes().len()), (1 << 63, 1));
}

#[test]
fn every_leaf_has_a_proof_and_no_proof_fits_another_leaf() {
    for size in 0..=33 {
        let leaves = leaves(size);
        let root = root(&leaves);
        assert_eq!(inclusion::prove(&leaves, size), None);
        assert_eq!(inclusion::prove(&leaves, u64::MAX), None);
        for index in 0..size {
            let proof = inclusion::prove(&leaves, index).unwrap();
            for (other, leaf) in (0..).zip(&leaves) {
                let verified = inclusion::verify(leaf, index, size, &proof, &root);
                assert_eq!(verified.is_ok(), other == index, "{index} of {size}: {verified:?}");
                let verified = inclusion::verify(&leaves[index as usize], other, size, &proof, &root);
                assert_eq!(verified.is_ok(), other == index, "{index} of {size}: {verified:?}");
            }
            let beyond = inclusion::verify(&leaves[index as usize], size, size, &proof, &root);
            assert_eq!(beyond, Err(ProofError::NoLeaf { index: size, size }));
        }
    }
}

#[test]
fn every_tree_is_proven_to_continue_each_smaller_one_and_no_other() {
    let all = leaves(34);
    for size in 0..=33 {
        let leaves = &all[..size as usize];
        let new_root = root(leaves);
        assert_eq!(consistency::prove(leaves, size + 1), None);
        for old in 0..=size {
            let proof = consistency::prove(leaves, old).unwrap();
            let old_root = root(&all[..old as usize]);
            assert_eq!(
                consistency::verify(old, &old_root, size, &new_root, &proof),
                Ok(()),
                "{old} of {size}"
            );
            let other = root(&all[1..=old as usize]);
            let verified = consistency::verify(old, &other, size, &new_root, &proof);
            assert_eq!(verified.is_ok(), old == 0, "{old} of {size}: another history before");
            let other = root(&all[1..=size as usize]);
            let verified = consistency::verify(old, &old_root, size, &other, &proof);
            assert_eq!(verified.is_ok(), old == 0, "{old} of {size}: another history after");
        }
        let shrunk = consistency::verify(size + 1, &new_root, size, &new_root, &[]);
        assert_eq!(shrunk, Err(ProofError::Shrunk { old: size + 1, new: size }));
    }
}

/// Wrong sizes may have paths of the same shape, so the definitions decide what is right.
#[test]
fn a_proof_of_inclusion_is_verified_as_by_definition_for_each_index_and_size() {
    let mut accepted = 0;
    for size in 1..=18 {
        let leaves = leaves(size);
        let root = root(&leaves);
        for (index, leaf) in (0..).zip(&leaves) {
            let proof = inclusion::prove(&leaves, index).unwrap();
            for other_size in 0..=19 {
                for other_index in 0..=other_size {
                    let verified = inclusion::verify(leaf, other_index, other_size, &proof, &root);
                    let expected = root_of_inclusion(leaf, other_index, other_size, &proof) == Some(root);
                    assert_eq!(
                        verified.is_ok(),
                        expected,
                        "{index} of {size}, {other_index} of {other_size}"
                    );
                    accepted += usize::from(expected);
                }
            }
        }
    }
    assert!(accepted >= 18 * 19 / 2, "{accepted} are right");
}

#[test]
fn a_proof_of_consistency_is_verified_as_by_definition_for_each_pair_of_sizes() {
    let mut accepted = 0;
    for size in 2..=18 {
        let leaves = leaves(size);
        let new_root = root(&leaves);
        for old in 1..size {
            let proof = consistency::prove(&leaves, old).unwrap();
            let old_root = root(&leaves[..old as usize]);
            for other_size in 2..=19 {
                for other_old in 1..other_size {
                    let verified =
                        consistency::verify(other_old, &old_root, other_size, &new_root, &proof).is_ok();
                    let expected = roots_of_consistency(other_old, &old_root, other_size, &proof)
                        == Some((old_root, new_root));
                    assert_eq!(verified, expected, "{old} of {size}, {other_old} of {other_size}");
                    accepted += usize::from(expected);
                }
            }
        }
    }
    assert!(accepted >= 17 * 18 / 2, "{accepted} are right");
}

#[test]
fn an_error_says_what_was_expected_and_found() {
    let leaves = leaves(3);
    let proof = inclusion::prove(&leaves, 1).unwrap();
    let error = inclusion::verify(&leaves[1], 1, 3, &proof, &EMPTY_ROOT).unwrap_err().to_string();
    let [expected, found] = [EMPTY_ROOT, root(&leaves)].map(hex::encode);
    assert_eq!(error, format!("the proof gives the root {found} for 3 leaves, but it is {expected}"));
    let error = inclusion::verify(&leaves[1], 1, 3, &proof[..1], &EMPTY_ROOT).unwrap_err().to_string();
    assert_eq!(error, "the proof has 1 hashes, which is not the number for these sizes");
}

/// A change of a proof that makes it wrong.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Drop(prop::sample::Index),
    Add(prop::sample::Index, Hash),
    Swap(prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        at().prop_map(Change::Drop),
        (at(), any::<Hash>()).prop_map(|(at, hash)| Change::Add(at, hash)),
        at().prop_map(Change::Swap),
    ]
}

/// Returns the changed proof, or `None` if it has too few hashes for this change.
fn changed(proof: &[Hash], change: &Change) -> Option<Vec<Hash>> {
    let mut proof = proof.to_vec();
    match change {
        Change::Add(at, hash) => proof.insert(at.index(proof.len() + 1), *hash),
        Change::Flip(..) | Change::Drop(_) if proof.is_empty() => return None,
        Change::Swap(_) if proof.len() < 2 => return None,
        Change::Flip(at, bit) => flip(at.get_mut(&mut proof), *bit),
        Change::Drop(at) => _ = proof.remove(at.index(proof.len())),
        Change::Swap(at) => {
            let at = at.index(proof.len() - 1);
            proof.swap(at, at + 1);
        }
    }
    Some(proof)
}

fn flip(hash: &mut Hash, bit: u8) {
    hash[usize::from(bit / 8)] ^= 1 << (bit % 8);
}

/// Returns the hash with one bit flipped.
fn flipped(hash: &Hash, bit: u8) -> Hash {
    let mut hash = *hash;
    flip(&mut hash, bit);
    hash
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_changed_proof_of_inclusion_is_rejected(
        size in 1..400u64,
        index in any::<prop::sample::Index>(),
        change in changes(),
        bit in any::<u8>(),
    ) {
        let leaves = leaves(size);
        let (index, root) = (index.index(leaves.len()), root(&leaves));
        let leaf = &leaves[index];
        let index = index as u64;
        let proof = inclusion::prove(&leaves, index).unwrap();
        prop_assert_eq!(inclusion::verify(leaf, index, size, &proof, &root), Ok(()));
        if let Some(changed) = changed(&proof, &change) {
            prop_assert!(inclusion::verify(leaf, index, size, &changed, &root).is_err());
        }
        prop_assert!(inclusion::verify(&flipped(leaf, bit), index, size, &proof, &root).is_err());
        prop_assert!(inclusion::verify(leaf, index, size, &proof, &flipped(&root, bit)).is_err());
    }

    #[test]
    fn a_changed_proof_of_consistency_is_rejected(
        size in 2..400u64,
        old in any::<prop::sample::Index>(),
        change in changes(),
        bit in any::<u8>(),
    ) {
        let leaves = leaves(size);
        let old = 1 + old.index(leaves.len() - 1);
        let (old_root, new_root) = (root(&leaves[..old]), root(&leaves));
        let old = old as u64;
        let proof = consistency::prove(&leaves, old).unwrap();
        prop_assert_eq!(consistency::verify(old, &old_root, size, &new_root, &proof), Ok(()));
        if let Some(changed) = changed(&proof, &change) {
            prop_assert!(consistency::verify(old, &old_root, size, &new_root, &changed).is_err());
        }
        let other = flipped(&old_root, bit);
        prop_assert!(consistency::verify(old, &other, size, &new_root, &proof).is_err());
        let other = flipped(&new_root, bit);
        prop_assert!(consistency::verify(old, &old_root, size, &other, &proof).is_err());
    }

    #[test]
    fn any_sizes_and_hashes_are_verified_as_by_definition(
        sizes in [any::<u64>(), any::<u64>()],
        bits in [0..64u32, 0..64],
        hashes in prop::collection::vec(any::<Hash>(), 70),
        first in any::<Hash>(),
    ) {
        let [small, large] = [sizes[0] >> bits[0], sizes[1] >> bits[1]];
        let mut accepted = [0, 0];
        for length in 0..=hashes.len() {
            let proof = &hashes[..length];
            let found = root_of_inclusion(&first, small, large, proof);
            let verified = inclusion::verify(&first, small, large, proof, &found.unwrap_or(EMPTY_ROOT));
            prop_assert_eq!(verified.is_ok(), found.is_some());
            accepted[0] += usize::from(found.is_some());
            if small == 0 || small >= large {
                continue;
            }
            let found = roots_of_consistency(small, &first, large, proof);
            let (old, new) = found.unwrap_or((first, EMPTY_ROOT));
            let verified = consistency::verify(small, &old, large, &new, proof);
            prop_assert_eq!(verified.is_ok(), found.is_some());
            accepted[1] += usize::from(found.is_some());
        }
        prop_assert_eq!(accepted, [usize::from(small < large), usize::from(0 < small && small < large)]);
    }
}
