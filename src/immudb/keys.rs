//! The keys of transactions, read back without their values, but with all that is hashed.
//!
//! Unlike a [`Transaction`](super::Transaction), this has the entries of every kind, so that
//! [`TransactionKeys::check`] can compare them with the header.

use bytes::Bytes;

use super::{
    Error, Sha256Hash, TxHeader, schema,
    verify::{HeaderMismatch, entries_hash, raw_entry_digest},
};

/// The codes of the attributes of an entry's metadata, in the order in which they are hashed.
const DELETED: u8 = 0;
const EXPIRES_AT: u8 = 1;
const NON_INDEXABLE: u8 = 2;

/// A committed transaction without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionKeys {
    /// The id, the hashes and the number of entries.
    pub header: TxHeader,
    /// All entries, in the order in which they were written.
    pub entries: Vec<EntryKey>,
}

/// An entry without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryKey {
    /// What kind of key it is.
    pub kind: KeyKind,
    /// The key, without the byte that tells its kind.
    pub key: Bytes,
    /// What was said about the entry when it was written.
    pub metadata: EntryMetadata,
    /// SHA-256 of the value as it is stored. A reference to another key has a value, too, so it
    /// cannot be distinguished from a plain entry.
    pub value_hash: Sha256Hash,
}

/// The kinds of keys that ImmuDB stores in one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// A key as [`Session::set`](super::Session::set) writes it, or a reference.
    Plain,
    /// A member of a sorted set.
    SortedSet,
    /// A row of a SQL table, an entry of its indexes, or one of the catalog.
    Sql,
    /// The same for a collection of documents.
    Document,
    /// A kind that is unknown here.
    Other(u8),
}

/// The attributes of an entry. A plain entry has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryMetadata {
    /// The entry deletes the key.
    pub deleted: bool,
    /// When the entry ceases to be valid, in seconds since 1970.
    pub expires_at: Option<i64>,
    /// The entry is not in the index, so that it can be read only by its transaction.
    pub non_indexable: bool,
}

impl TransactionKeys {
    /// Checks that the entries are those of the header.
    ///
    /// # Errors
    /// Returns an error if there are more or fewer entries, or others, or if the version of the
    /// header does not allow them.
    pub fn check(&self) -> Result<(), HeaderMismatch> {
        let TxHeader { id: tx, entry_count, entries_hash: expected, version, .. } = self.header;
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        if count != entry_count {
            return Err(HeaderMismatch::EntryCount { tx, expected: entry_count, found: count });
        }
        let digests: Option<Vec<Sha256Hash>> =
            self.entries.iter().map(|entry| entry.digest(version)).collect();
        let found = entries_hash(digests.ok_or(HeaderMismatch::Version { tx, found: version })?);
        if found != expected {
            return Err(HeaderMismatch::EntriesHash { tx, expected, found });
        }
        Ok(())
    }
}

impl EntryKey {
    /// Returns the digest of the entry in a transaction of this version. Returns `None` if such a
    /// transaction cannot have the entry.
    pub fn digest(&self, version: u16) -> Option<Sha256Hash> {
        raw_entry_digest(&self.raw_key(), &self.metadata.encode(), &self.value_hash, version)
    }

    /// Returns the key as it is stored, with the byte that tells its kind.
    fn raw_key(&self) -> Vec<u8> {
        [[self.kind.prefix()].as_slice(), &self.key].concat()
    }
}

impl KeyKind {
    /// Returns the kind that the first byte of a key tells.
    pub fn of_prefix(prefix: u8) -> KeyKind {
        match prefix {
            0 => KeyKind::Plain,
            1 => KeyKind::SortedSet,
            2 => KeyKind::Sql,
            3 => KeyKind::Document,
            other => KeyKind::Other(other),
        }
    }

    /// Returns the first byte of the keys of this kind.
    pub fn prefix(self) -> u8 {
        match self {
            KeyKind::Plain => 0,
            KeyKind::SortedSet => 1,
            KeyKind::Sql => 2,
            KeyKind::Document => 3,
            KeyKind::Other(prefix) => prefix,
        }
    }
}

impl EntryMetadata {
    /// Returns the bytes that are hashed.
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.deleted {
            bytes.push(DELETED);
        }
        if let Some(seconds) = self.expires_at {
            bytes.push(EXPIRES_AT);
            bytes.extend(seconds.to_be_bytes());
        }
        if self.non_indexable {
            bytes.push(NON_INDEXABLE);
        }
        bytes
    }
}

impl TryFrom<schema::Tx> for TransactionKeys {
    type Error = Error;

    fn try_from(wire: schema::Tx) -> Result<TransactionKeys, Error> {
        let header = wire.header.ok_or_else(|| Error::corrupted("Tx", "there is no header".into()))?;
        let header = TxHeader::try_from(header)?;
        let entries: Option<Vec<EntryKey>> = wire.entries.into_iter().map(EntryKey::read).collect();
        let malformed = || {
            let text = format!("transaction {}: the key or the hash of an entry is malformed", header.id);
            Error::corrupted("Tx", text)
        };
        Ok(TransactionKeys { entries: entries.ok_or_else(malformed)?, header })
    }
}

impl EntryKey {
    /// Returns `None` if there is no key, or if the hash has another length.
    fn read(wire: schema::TxEntry) -> Option<EntryKey> {
        let mut key = wire.key;
        let kind = KeyKind::of_prefix(*key.first()?);
        Some(EntryKey {
            kind,
            key: key.split_off(1),
            metadata: wire.metadata.map(EntryMetadata::from).unwrap_or_default(),
            value_hash: Sha256Hash::try_from(wire.h_value.as_ref()).ok()?,
        })
    }
}

impl From<schema::KvMetadata> for EntryMetadata {
    fn from(wire: schema::KvMetadata) -> EntryMetadata {
        EntryMetadata {
            deleted: wire.deleted,
            expires_at: wire.expiration.map(|expiration| expiration.expires_at),
            non_indexable: wire.non_indexable,
        }
    }
}

#[cfg(test)]
mod tests;
