use super::*;
use crate::immudb::{ErrorKind, TxId};

fn wire_entry(key: &'static [u8], metadata: Option<schema::KvMetadata>) -> schema::TxEntry {
    schema::TxEntry {
        key: Bytes::from_static(key),
        h_value: Bytes::from_static(&[9; 32]),
        metadata,
        ..Default::default()
    }
}

fn wire(entries: Vec<schema::TxEntry>) -> schema::Tx {
    let hash = Bytes::from_static(&[7; 32]);
    let header = schema::TxHeader {
        id: 9,
        nentries: i32::try_from(entries.len()).unwrap(),
        version: 1,
        prev_alh: hash.clone(),
        e_h: hash.clone(),
        bl_root: hash,
        ..Default::default()
    };
    schema::Tx { header: Some(header), entries }
}

/// Returns a transaction with entries of every kind, and with the hash of them.
fn transaction() -> TransactionKeys {
    let deleted = schema::KvMetadata { deleted: true, ..Default::default() };
    let expiring = schema::KvMetadata {
        expiration: Some(schema::Expiration { expires_at: 1_700_000_000 }),
        non_indexable: true,
        ..Default::default()
    };
    let entries = vec![
        wire_entry(b"\0event:room-1:1", None),
        wire_entry(b"\0gone", Some(deleted)),
        wire_entry(b"\0soon gone", Some(expiring)),
        wire_entry(b"\x01set", Some(schema::KvMetadata::default())),
        wire_entry(b"\x02row", None),
        wire_entry(b"\x03document", None),
        wire_entry(b"\xffunknown", None),
    ];
    let mut transaction = TransactionKeys::try_from(wire(entries)).unwrap();
    let digests = transaction.entries.iter().map(|entry| entry.digest(1).unwrap());
    transaction.header.entries_hash = entries_hash(digests.collect::<Vec<_>>());
    transaction
}

#[test]
fn entries_of_every_kind_are_read() {
    let transaction = transaction();
    let read: Vec<(KeyKind, &[u8])> =
        transaction.entries.iter().map(|entry| (entry.kind, entry.key.as_ref())).collect();
    assert_eq!(
        read,
        [
            (KeyKind::Plain, &b"event:room-1:1"[..]),
            (KeyKind::Plain, b"gone"),
            (KeyKind::Plain, b"soon gone"),
            (KeyKind::SortedSet, b"set"),
            (KeyKind::Sql, b"row"),
            (KeyKind::Document, b"document"),
            (KeyKind::Other(255), b"unknown"),
        ]
    );
    let metadata: Vec<EntryMetadata> = transaction.entries.iter().map(|entry| entry.metadata).collect();
    assert!(metadata[1].deleted && !metadata[0].deleted);
    assert_eq!((metadata[2].expires_at, metadata[2].non_indexable), (Some(1_700_000_000), true));
    assert_eq!(metadata[3], EntryMetadata::default());
    assert!((0..=u8::MAX).all(|prefix| KeyKind::of_prefix(prefix).prefix() == prefix));
}

#[test]
fn the_attributes_are_hashed_in_their_order() {
    let all = EntryMetadata { deleted: true, expires_at: Some(-2), non_indexable: true };
    assert_eq!(all.encode(), [&[0, 1][..], &[0xff; 7], &[0xfe, 2]].concat());
    assert_eq!(EntryMetadata::default().encode(), [0_u8; 0]);
}

#[test]
fn the_entries_of_the_header_are_accepted_and_no_others() {
    let right = transaction();
    assert_eq!(right.check(), Ok(()));
    let tx = TxId(9);
    let mut wrong = Vec::new();
    for index in 0..right.entries.len() {
        let mut change = |change: &dyn Fn(&mut EntryKey)| {
            let mut changed = right.clone();
            change(&mut changed.entries[index]);
            wrong.push(changed);
        };
        for byte in 0..32 {
            change(&|entry| entry.value_hash[byte] ^= 1);
        }
        for byte in 0..right.entries[index].key.len() {
            change(&|entry| {
                let mut key = entry.key.to_vec();
                key[byte] ^= 1;
                entry.key = key.into();
            });
        }
        change(&|entry| entry.kind = KeyKind::Other(entry.kind.prefix() ^ 0x80));
        change(&|entry| entry.metadata.deleted ^= true);
        change(&|entry| entry.metadata.non_indexable ^= true);
        change(&|entry| entry.metadata.expires_at = entry.metadata.expires_at.map_or(Some(1), |_| None));
        let mut swapped = right.clone();
        swapped.entries.swap(index, (index + 1) % right.entries.len());
        wrong.push(swapped);
        let mut doubled = right.clone();
        doubled.entries[index] = right.entries[(index + 1) % right.entries.len()].clone();
        wrong.push(doubled);
    }
    assert!(wrong.len() > 300, "{} changes", wrong.len());
    for changed in wrong {
        let mismatch = changed.check().unwrap_err();
        assert!(
            matches!(mismatch, HeaderMismatch::EntriesHash { tx: at, expected, .. }
                if at == tx && expected == right.header.entries_hash),
            "{mismatch}"
        );
    }
    let mut dropped = right.clone();
    dropped.entries.pop();
    assert_eq!(dropped.check(), Err(HeaderMismatch::EntryCount { tx, expected: 7, found: 6 }));
}

#[test]
fn metadata_in_a_version_without_it_is_rejected() {
    let mut transaction = transaction();
    transaction.header.version = 0;
    let mismatch = HeaderMismatch::Version { tx: TxId(9), found: 0 };
    assert_eq!(transaction.check(), Err(mismatch));
}

#[test]
fn a_malformed_entry_is_corruption() {
    let short = schema::TxEntry { h_value: Bytes::from_static(b"short"), ..wire_entry(b"\0a", None) };
    for wrong in [wire(vec![wire_entry(b"", None)]), wire(vec![short]), schema::Tx::default()] {
        let error = TransactionKeys::try_from(wrong).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupted, "{error}");
    }
}
