//! The chain accepts exactly the headers of the next transactions.

use super::*;
use crate::immudb::KeyValue;

/// Returns what the service would have sent. Only transactions of version 1 can be its own.
fn sent(header: &TxHeader) -> Option<SentEntries> {
    (header.version == 1).then_some(SentEntries { count: header.entry_count, hash: header.entries_hash })
}

/// Appends a wrong header, and then the right next one. Returns the first error.
fn rejection(
    before: &Chain,
    header: &TxHeader,
    sent: Option<&SentEntries>,
    next: &TxHeader,
) -> HeaderMismatch {
    let mut chain = before.clone();
    if let Err(mismatch) = chain.append(header, sent) {
        assert_eq!(chain, *before, "unchanged");
        return mismatch;
    }
    chain.append(next, None).unwrap_err()
}

/// Returns whether the error names the field that was changed. What only the hash has shows at the
/// next transaction.
fn names(mismatch: &HeaderMismatch, field: Field, is_own: bool, tx: TxId) -> bool {
    use HeaderMismatch::{EntriesHash, EntryCount, Id, PreviousHash, TreeRoot, TreeTx, Version};
    let at_next = matches!(mismatch, PreviousHash { tx: at, .. } if *at == tx.next());
    match field {
        Field::Id => matches!(mismatch, Id { expected, .. } if *expected == tx),
        Field::PreviousHash => matches!(mismatch, PreviousHash { tx: at, .. } if *at == tx),
        Field::TreeTx => matches!(mismatch, TreeTx { tx: at, .. } if *at == tx),
        Field::TreeRoot => matches!(mismatch, TreeRoot { tx: at, .. } if *at == tx),
        Field::EntryCount if is_own => matches!(mismatch, EntryCount { tx: at, .. } if *at == tx),
        Field::EntriesHash if is_own => matches!(mismatch, EntriesHash { tx: at, .. } if *at == tx),
        Field::Version if is_own => matches!(mismatch, Version { tx: at, .. } if *at == tx),
        // A transaction of version 0 has at most 65 535 entries.
        Field::Version | Field::EntryCount => {
            at_next || matches!(mismatch, Version { tx: at, .. } if *at == tx)
        }
        Field::Seconds | Field::EntriesHash | Field::Extra => at_next,
    }
}

proptest! {
    #[test]
    fn the_headers_of_a_history_are_accepted(history in histories(1..40)) {
        let mut chain = Chain::empty();
        for tx in 1..=history.alhs.len() as u64 {
            let header = history.header(tx);
            prop_assert_eq!(header.accumulated_hash(), Some(history.state(tx).alh));
            prop_assert_eq!(history.transactions[tx as usize - 1].check(), Ok(()));
            prop_assert_eq!(chain.append(header, sent(header).as_ref()), Ok(()));
            prop_assert_eq!(chain.state(), history.state(tx));
            prop_assert_eq!(chain.edge().root(), tree_root(&history.leaves[..tx as usize]));
            let saved = Chain::from_parts(chain.state(), chain.edge_hashes().to_vec());
            prop_assert_eq!(saved.as_ref(), Some(&chain));
        }
    }

    #[test]
    fn a_flipped_byte_of_a_header_is_named(history in histories(2..20), at in any::<prop::sample::Index>()) {
        let tx = at.index(history.alhs.len() - 1) as u64 + 1;
        let (before, header, next) = (history.chain(tx - 1), history.header(tx), history.header(tx + 1));
        for (field, wrong) in flipped_headers(header) {
            let entries = sent(header);
            for sent in [None, entries.as_ref()] {
                let mismatch = rejection(&before, &wrong, sent, next);
                prop_assert!(names(&mismatch, field, sent.is_some(), TxId(tx)), "{:?}: {}", field, mismatch);
            }
        }
    }

    #[test]
    fn another_place_or_history_is_rejected(
        history in histories(2..20),
        other in histories(20..21),
        at in any::<prop::sample::Index>(),
    ) {
        let tx = at.index(history.alhs.len() - 1) as u64 + 1;
        let chain = history.chain(tx - 1);
        // The next one was dropped.
        let dropped = chain.clone().append(history.header(tx + 1), None);
        prop_assert_eq!(dropped, Err(HeaderMismatch::Id { expected: TxId(tx), found: TxId(tx + 1) }));
        // The last one is repeated.
        let repeated = history.chain(tx).append(history.header(tx), None);
        prop_assert_eq!(repeated, Err(HeaderMismatch::Id { expected: TxId(tx + 1), found: TxId(tx) }));
        let expected = history.state(tx).alh;
        let found = other.header(tx + 1).previous_hash;
        let foreign = history.chain(tx).append(other.header(tx + 1), None);
        prop_assert_eq!(foreign, Err(HeaderMismatch::PreviousHash { tx: TxId(tx + 1), expected, found }));
    }

    #[test]
    fn other_entries_than_those_sent_are_rejected(
        entries in prop::collection::btree_map(vec(any::<u8>(), 1..8), vec(any::<u8>(), 0..8), 2..40),
        at in any::<prop::sample::Index>(),
    ) {
        let entries: Vec<KeyValue> = entries
            .into_iter()
            .map(|(key, value)| KeyValue { key: key.into(), value: value.into() })
            .collect();
        let SentEntries { count, hash } = SentEntries::of(&entries);
        let (seconds, extra) = (0, Vec::new());
        let contents = Contents { seconds, version: 1, extra, entries: Vec::new() };
        let header = TxHeader { entry_count: count, entries_hash: hash, ..History::of(&[]).next(&contents) };
        let append = |entries: &[KeyValue]| Chain::empty().append(&header, Some(&SentEntries::of(entries)));
        prop_assert_eq!(append(&entries), Ok(()));

        let tx = TxId(1);
        let at = at.index(entries.len());
        let mut dropped = entries.clone();
        dropped.remove(at);
        let expected = count - 1;
        prop_assert_eq!(append(&dropped), Err(HeaderMismatch::EntryCount { tx, expected, found: count }));
        let mut swapped = entries.clone();
        swapped.swap(at, (at + 1) % entries.len());
        let expected = SentEntries::of(&swapped).hash;
        prop_assert_eq!(append(&swapped), Err(HeaderMismatch::EntriesHash { tx, expected, found: hash }));
        let mut changed = entries.clone();
        changed[at].value = [&changed[at].value[..], b"\0"].concat().into();
        let is_named = matches!(append(&changed), Err(HeaderMismatch::EntriesHash { .. }));
        prop_assert!(is_named);
    }
}

#[test]
fn a_truncation_is_rejected_by_name() {
    let history = fixed_history(3);
    let metadata = Some(TxMetadata { truncated_tx: Some(TxId(2)), extra: Bytes::new() });
    let header = TxHeader { metadata, ..history.header(3).clone() };
    let mismatch = history.chain(2).append(&header, None).unwrap_err();
    assert_eq!(mismatch, HeaderMismatch::Truncated { tx: TxId(3), truncated: TxId(2) });
    assert_eq!(mismatch.to_string(), "transaction 3: the values before transaction 2 were deleted");
}

#[test]
fn an_error_has_both_hashes_in_hexadecimal() {
    let history = fixed_history(2);
    let header = TxHeader { previous_hash: [0xab; 32], ..history.header(2).clone() };
    let text = history.chain(1).append(&header, None).unwrap_err().to_string();
    assert!(text.contains(&hex::encode(history.state(1).alh)), "{text}");
    assert!(text.contains(&"ab".repeat(32)), "{text}");
}

#[test]
fn parts_that_do_not_belong_together_are_no_chain() {
    let empty = TrustedState::empty();
    assert_eq!(Chain::from_parts(empty, Vec::new()), Some(Chain::empty()));
    assert_eq!(Chain::from_parts(TrustedState { alh: [1; 32], ..empty }, Vec::new()), None);
    assert_eq!(Chain::from_parts(empty, vec![[1; 32]]), None);

    let chain = fixed_history(7).chain(7);
    let (state, edge) = (chain.state(), chain.edge_hashes().to_vec());
    assert_eq!(Chain::from_parts(state, edge[..2].to_vec()), None, "a subtree is missing");
    assert_eq!(Chain::from_parts(TrustedState { alh: [1; 32], ..state }, edge.clone()), None);
    assert_eq!(Chain::from_parts(TrustedState { tx: TxId(8), ..state }, edge), None, "another size");
    let highest = TrustedState { tx: TxId(u64::MAX), alh: [1; 32] };
    assert_eq!(Chain::from_parts(highest, vec![[1; 32]; 64]), None, "no transaction could follow");
}
