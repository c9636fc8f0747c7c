//! Transactions as ImmuDB returns them when the history is read back. Entries of kinds that this
//! service never writes are counted, but not returned.

use std::fmt;

use bytes::Bytes;

use super::{error::Error, schema};

/// The byte that ImmuDB puts before a plain key or value.
pub(super) const PLAIN: u8 = 0;

/// A SHA-256 hash.
pub type Sha256Hash = [u8; 32];

/// A transaction id. Ids count 1, 2, 3 … without gaps, in the order of commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub u64);

impl TxId {
    /// Returns the id of the next transaction.
    pub fn next(self) -> TxId {
        TxId(self.0.saturating_add(1))
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The id, the hashes and the number of all entries.
    pub header: TxHeader,
    /// The key and value of each plain entry, in the order in which they were written.
    pub entries: Vec<(Bytes, Bytes)>,
}

impl Transaction {
    /// Returns the number of entries that are not in `entries` because they are not plain values:
    /// deletions, entries that expire or are not indexed, references, sorted sets, SQL rows. This
    /// service writes none of them.
    pub fn foreign_entries(&self) -> usize {
        (self.header.entry_count as usize).saturating_sub(self.entries.len())
    }
}

/// The data that ImmuDB certifies with a commit. It is sufficient to recompute ImmuDB's hash chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxHeader {
    /// The id of the transaction.
    pub id: TxId,
    /// Accumulated hash of the previous transaction.
    pub previous_hash: Sha256Hash,
    /// Time of the commit by ImmuDB's clock, in whole seconds since 1970.
    pub timestamp_seconds: i64,
    /// The number of entries, including those that are not plain.
    pub entry_count: u32,
    /// Root of the hash tree over the entries.
    pub entries_hash: Sha256Hash,
    /// The last transaction in the hash tree over transactions.
    pub tree_tx: TxId,
    /// The root of that tree.
    pub tree_root: Sha256Hash,
    /// The version of the format, which determines how the header is hashed.
    pub version: u16,
    /// The metadata of the transaction. `None` for a transaction of this service.
    pub metadata: Option<TxMetadata>,
}

/// The metadata of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxMetadata {
    /// Values before this transaction were deleted. Never set in a database of this service.
    pub truncated_tx: Option<TxId>,
    /// Data of the program that wrote the transaction. This service sends none.
    pub extra: Bytes,
}

impl TryFrom<schema::TxHeader> for TxHeader {
    type Error = Error;

    fn try_from(wire: schema::TxHeader) -> Result<TxHeader, Error> {
        let field = |name| {
            move || Error::corrupted("TxHeader", format!("transaction {}: {name} is malformed", wire.id))
        };
        let hash = |bytes: &Bytes| Sha256Hash::try_from(bytes.as_ref()).ok();
        Ok(TxHeader {
            id: TxId(wire.id),
            previous_hash: hash(&wire.prev_alh).ok_or_else(field("prevAlh"))?,
            timestamp_seconds: wire.ts,
            entry_count: u32::try_from(wire.nentries).ok().ok_or_else(field("nentries"))?,
            entries_hash: hash(&wire.e_h).ok_or_else(field("eH"))?,
            tree_tx: TxId(wire.bl_tx_id),
            tree_root: hash(&wire.bl_root).ok_or_else(field("blRoot"))?,
            version: u16::try_from(wire.version).ok().ok_or_else(field("version"))?,
            metadata: wire.metadata.filter(is_told).map(TxMetadata::from),
        })
    }
}

/// Returns whether there is metadata. ImmuDB sends empty metadata instead of none.
fn is_told(metadata: &schema::TxMetadata) -> bool {
    *metadata != schema::TxMetadata::default()
}

impl From<schema::TxMetadata> for TxMetadata {
    fn from(wire: schema::TxMetadata) -> TxMetadata {
        TxMetadata {
            truncated_tx: (wire.truncated_tx_id > 0).then_some(TxId(wire.truncated_tx_id)),
            extra: wire.extra,
        }
    }
}

impl TryFrom<schema::Tx> for Transaction {
    type Error = Error;

    fn try_from(wire: schema::Tx) -> Result<Transaction, Error> {
        let header =
            wire.header.ok_or_else(|| Error::corrupted("TxScan", "a transaction has no header".into()))?;
        Ok(Transaction {
            header: header.try_into()?,
            entries: wire.entries.into_iter().filter_map(plain).collect(),
        })
    }
}

/// Returns the key and value without the bytes that tell their kind. Returns `None` if the entry is
/// of another kind.
fn plain(entry: schema::TxEntry) -> Option<(Bytes, Bytes)> {
    if entry.metadata.is_some_and(|metadata| metadata != schema::KvMetadata::default()) {
        return None;
    }
    Some((stripped(entry.key)?, stripped(entry.value)?))
}

fn stripped(mut bytes: Bytes) -> Option<Bytes> {
    if bytes.first() != Some(&PLAIN) {
        return None;
    }
    Some(bytes.split_off(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(
        key: &'static [u8],
        value: &'static [u8],
        metadata: Option<schema::KvMetadata>,
    ) -> schema::TxEntry {
        schema::TxEntry {
            key: Bytes::from_static(key),
            value: Bytes::from_static(value),
            metadata,
            ..Default::default()
        }
    }

    fn header() -> schema::TxHeader {
        let hash = Bytes::from_static(&[7; 32]);
        schema::TxHeader {
            id: 9,
            nentries: 5,
            version: 1,
            prev_alh: hash.clone(),
            e_h: hash.clone(),
            bl_root: hash,
            ..Default::default()
        }
    }

    #[test]
    fn only_plain_entries_are_handed_out_and_the_others_are_counted() {
        let expiring = schema::KvMetadata {
            expiration: Some(schema::Expiration { expires_at: 1 }),
            ..Default::default()
        };
        let deleted = schema::KvMetadata { deleted: true, ..Default::default() };
        let wire = schema::Tx {
            header: Some(header()),
            entries: vec![
                entry(b"\0key", b"\0value", None),
                entry(b"\0reference", b"\x01target", None),
                entry(b"\x02row", b"\0row", None),
                entry(b"\0gone", b"", Some(deleted)),
                entry(b"\0soon gone", b"\0value", Some(expiring)),
            ],
        };
        let transaction = Transaction::try_from(wire).unwrap();
        assert_eq!(transaction.entries, [(Bytes::from("key"), Bytes::from("value"))]);
        assert_eq!(transaction.foreign_entries(), 4);
    }

    #[test]
    fn a_hash_of_another_length_is_corruption() {
        let wire = schema::TxHeader { e_h: Bytes::from_static(b"short"), ..header() };
        let error = TxHeader::try_from(wire).unwrap_err();
        assert_eq!(error.kind, super::super::ErrorKind::Corrupted);
        assert!(error.to_string().contains("eH"), "{error}");
    }
}
