//! Groups of leaves that are verified at once.

use super::*;

#[test]
fn leaves_around_an_event_are_verified_at_once() {
    let (_dir, path) = place();
    let log = Log::new(1100);
    let tree = log.tree(&path);
    for index in (0..1100).step_by(7) {
        log.read.set(0);
        let (first, leaves) = tree.leaves_around(index, &log).unwrap();
        let end = (first + SUBTREE_LEAVES).min(1100);
        assert!((first..end).contains(&index) && first.is_multiple_of(SUBTREE_LEAVES), "{first} for {index}");
        assert_eq!(leaves, log.leaves[first as usize..end as usize]);
        assert!(log.read.get() <= 32, "{index}: {} leaves were read", log.read.get());
    }
    let refused = tree.leaves_around(1100, &log).unwrap_err();
    assert!(matches!(refused, TreeError::Proof(ProofError::NoLeaf { index: 1100, size: 1100 })), "{refused}");
    // Whichever node above them is forged, they are not accepted.
    let record = Node { level: LEVEL + 4, index: 1 }.record();
    tree.nodes.write(record, &[[7; 32]]).unwrap();
    assert!(matches!(tree.leaves_around(3, &log), Err(TreeError::Proof(ProofError::OtherRoot { .. }))));
}
