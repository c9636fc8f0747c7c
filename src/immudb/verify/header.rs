//! The hash of a header, which is the state of the database after its transaction.

use sha2::{Digest, Sha256};

use crate::immudb::{Sha256Hash, TxHeader, TxId, TxMetadata};

/// The codes of the attributes of a transaction's metadata, in the order in which they are hashed.
const TRUNCATED_TX: u8 = 0;
const EXTRA: u8 = 1;

/// The maximum size of the data of the program that wrote a transaction: ImmuDB's own limit.
const EXTRA_BYTES_MAX: u16 = 256;

impl TxHeader {
    /// Returns the accumulated hash of the transaction: ImmuDB's state after it, which commits to
    /// the whole history up to here.
    ///
    /// Returns `None` if no transaction can have this header: its version is unknown, or does not
    /// allow its metadata or its number of entries.
    pub fn accumulated_hash(&self) -> Option<Sha256Hash> {
        Some(accumulate(self.id, &self.previous_hash, &self.inner_hash()?))
    }

    /// Returns the hash of what the transaction adds to the history.
    fn inner_hash(&self) -> Option<Sha256Hash> {
        let metadata = self.metadata.as_ref().map_or_else(|| Some(Vec::new()), TxMetadata::encode)?;
        let metadata_length = u16::try_from(metadata.len()).ok()?;
        let hash = Sha256::new()
            .chain_update(self.timestamp_seconds.to_be_bytes())
            .chain_update(self.version.to_be_bytes());
        let hash = match self.version {
            0 if metadata.is_empty() => {
                hash.chain_update(u16::try_from(self.entry_count).ok()?.to_be_bytes())
            }
            1 => hash
                .chain_update(metadata_length.to_be_bytes())
                .chain_update(metadata)
                .chain_update(self.entry_count.to_be_bytes()),
            _ => return None,
        };
        let hash = hash
            .chain_update(self.entries_hash)
            .chain_update(self.tree_tx.0.to_be_bytes())
            .chain_update(self.tree_root);
        Some(hash.finalize().into())
    }
}

impl TxMetadata {
    /// Returns the bytes that are hashed. Returns `None` if there is more data than ImmuDB allows.
    fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(tx) = self.truncated_tx {
            bytes.push(TRUNCATED_TX);
            bytes.extend(tx.0.to_be_bytes());
        }
        if !self.extra.is_empty() {
            let length = u16::try_from(self.extra.len()).ok().filter(|length| *length <= EXTRA_BYTES_MAX)?;
            bytes.push(EXTRA);
            bytes.extend(length.to_be_bytes());
            bytes.extend_from_slice(&self.extra);
        }
        Some(bytes)
    }
}

/// Returns the accumulated hash of a transaction, from that of the one before it and from what it
/// adds.
pub(super) fn accumulate(tx: TxId, previous: &Sha256Hash, inner: &Sha256Hash) -> Sha256Hash {
    Sha256::new()
        .chain_update(tx.0.to_be_bytes())
        .chain_update(previous)
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn header(version: u16, metadata: Option<TxMetadata>) -> TxHeader {
        TxHeader {
            id: TxId(7),
            previous_hash: [0x11; 32],
            timestamp_seconds: 1_700_000_000,
            entry_count: 3,
            entries_hash: [0x22; 32],
            tree_tx: TxId(6),
            tree_root: [0x33; 32],
            version,
            metadata,
        }
    }

    fn metadata(truncated_tx: Option<u64>, extra: &'static [u8]) -> Option<TxMetadata> {
        Some(TxMetadata { truncated_tx: truncated_tx.map(TxId), extra: Bytes::from_static(extra) })
    }

    #[test]
    fn a_header_has_the_hash_that_immudb_computes() {
        let before_1970 = TxHeader { timestamp_seconds: -1, ..header(1, None) };
        let expected = [
            (header(1, None), "5ffa021a4986e3e08c4efc217fe0684d7e289c607e41f325d53a5167d79c404c"),
            (
                header(1, metadata(None, b"extra")),
                "689ed8b5de9bbb30fc8f8f9ef0b37446b0f4f2e40c92517f4dfaa97b1079239e",
            ),
            (
                header(1, metadata(Some(4), b"")),
                "87ffe269efb5359b170a609380cee57476327cbc1833b48c9528bf6f5ccc7c27",
            ),
            (
                header(1, metadata(Some(4), b"extra")),
                "81b09b7b7670d6935819745d3e00628fe54350e23afe1ea273199c6c746da928",
            ),
            (header(0, None), "8a30e93a6c64a6439396051ab32958d549a5ae5dc6dc4e9ba25e1f5da72af738"),
            (before_1970, "45c371001802dad796513803123c49e5f676f7c7cadd9fc53d5a860505b847e6"),
        ];
        for (header, hash) in expected {
            assert_eq!(header.accumulated_hash().map(hex::encode).as_deref(), Some(hash), "{header:?}");
        }
    }

    #[test]
    fn metadata_without_an_attribute_is_none() {
        let empty = header(1, metadata(None, b""));
        assert_eq!(empty.accumulated_hash(), header(1, None).accumulated_hash());
        assert_eq!(header(0, metadata(None, b"")).accumulated_hash(), header(0, None).accumulated_hash());
    }

    #[test]
    fn a_header_that_no_transaction_has_has_no_hash() {
        assert_eq!(header(2, None).accumulated_hash(), None, "an unknown version");
        assert_eq!(header(u16::MAX, None).accumulated_hash(), None, "an unknown version");
        assert_eq!(header(0, metadata(None, b"x")).accumulated_hash(), None, "metadata in version 0");
        let many = |version| TxHeader { entry_count: 0x1_0000, ..header(version, None) };
        assert_eq!(many(0).accumulated_hash(), None, "more entries than version 0 can count");
        assert!(many(1).accumulated_hash().is_some());
        assert!(header(1, metadata(None, &[7; 256])).accumulated_hash().is_some());
        assert_eq!(header(1, metadata(None, &[7; 257])).accumulated_hash(), None, "long metadata");
    }
}
