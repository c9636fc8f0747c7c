//! The digests of entries, and the hash of all entries of a transaction.

use sha2::{Digest, Sha256};

use crate::{
    immudb::{Sha256Hash, transaction::PLAIN},
    merkle::{RightEdge, leaf_hash},
};

/// Returns the digest of a plain entry without metadata, in a transaction of version 1: what
/// [`Session::set`](crate::immudb::Session::set) writes.
pub fn entry_digest(key: &[u8], value: &[u8]) -> Sha256Hash {
    let value_hash = Sha256::new().chain_update([PLAIN]).chain_update(value).finalize();
    // ImmuDB accepts no longer key, so the digest of one needs only be another.
    let key_length = u16::try_from(key.len()).unwrap_or(u16::MAX).saturating_add(1);
    Sha256::new()
        .chain_update(0_u16.to_be_bytes())
        .chain_update(key_length.to_be_bytes())
        .chain_update([PLAIN])
        .chain_update(key)
        .chain_update(value_hash)
        .finalize()
        .into()
}

/// Returns the digest of an entry that was read back, in a transaction of this version.
///
/// `key` begins with the byte that tells its kind. Returns `None` if there can be no such entry:
/// the version is unknown, or has no metadata, or the key or the metadata is too long.
pub fn raw_entry_digest(
    key: &[u8],
    metadata: &[u8],
    value_hash: &Sha256Hash,
    version: u16,
) -> Option<Sha256Hash> {
    let key_length = u16::try_from(key.len()).ok()?;
    let metadata_length = u16::try_from(metadata.len()).ok()?;
    let hash = match version {
        0 if metadata.is_empty() => Sha256::new(),
        1 => Sha256::new()
            .chain_update(metadata_length.to_be_bytes())
            .chain_update(metadata)
            .chain_update(key_length.to_be_bytes()),
        _ => return None,
    };
    Some(hash.chain_update(key).chain_update(value_hash).finalize().into())
}

/// Returns the hash of all entries of a transaction, from their digests in the order in which they
/// were written.
pub fn entries_hash(digests: impl IntoIterator<Item = Sha256Hash>) -> Sha256Hash {
    let mut tree = RightEdge::new();
    for digest in digests {
        tree.push(leaf_hash(&digest));
    }
    tree.root()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE_HASH: &str = "7377811838091e7b3c61c2fc4a67260c46c22d417c3a574303f8e5661cb1ee94";

    fn hash(hex: &str) -> Sha256Hash {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    #[test]
    fn a_plain_entry_has_the_digest_that_immudb_computes() {
        let digest = entry_digest(b"event:room-1:00000000000000000001", b"value");
        assert_eq!(digest, hash("33bcd99b446d3261f684c702df364ffbc756f9cbc40527e2733d1197307c86f8"));
        let empty = entry_digest(b"a", b"");
        assert_eq!(empty, hash("7a0fb3dd4d9b6180718d31bf88ebdb2d998431c4933a3ac7cb9d66276ab15d53"));
    }

    #[test]
    fn an_entry_that_is_read_back_has_the_digest_of_its_version() {
        let value_hash = hash(VALUE_HASH);
        let digest = |metadata: &[u8], version| raw_entry_digest(b"\0gone", metadata, &value_hash, version);
        let deleted = hash("1d58cf17c340c4bd5d27e2b4d0a6d2ab52e47b36e5cf0829109d54d62b5dc2c6");
        assert_eq!(digest(b"\0", 1), Some(deleted));
        let all = [&[0, 1][..], &1_700_000_000_i64.to_be_bytes(), &[2]].concat();
        let of_all = hash("59fff1fa47031877a883d80fd93453741638f8016805184c2928b4202c2cb42a");
        assert_eq!(digest(&all, 1), Some(of_all));
        let of_version_0 = hash("1f19231a402b2e0e3023d64b40bf9d1192f192bf725f3a7ca34a3c139c1faa0e");
        assert_eq!(digest(b"", 0), Some(of_version_0));
        let plain = raw_entry_digest(b"\0gone", b"", &value_hash, 1);
        assert_eq!(plain, Some(entry_digest(b"gone", b"value")));
    }

    #[test]
    fn an_entry_that_cannot_be_has_no_digest() {
        let value_hash = hash(VALUE_HASH);
        assert_eq!(raw_entry_digest(b"\0gone", b"\0", &value_hash, 0), None, "metadata in version 0");
        assert_eq!(raw_entry_digest(b"\0gone", b"", &value_hash, 2), None, "an unknown version");
        let long = vec![0; usize::from(u16::MAX) + 1];
        assert_eq!(raw_entry_digest(&long, b"", &value_hash, 1), None, "a long key");
        assert_eq!(raw_entry_digest(b"\0gone", &long, &value_hash, 1), None, "long metadata");
        assert!(raw_entry_digest(&long[1..], b"", &value_hash, 1).is_some());
        assert_ne!(entry_digest(&long, b""), entry_digest(&long[1..], b""));
    }

    #[test]
    fn the_entries_are_the_leaves_of_a_tree() {
        let expected = [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "dcffe786ded16d283c663846ad0c4ff26558fccde36ca9d30b2ea19eade9fc0e"),
            (2, "3a066e0f40c6a1981ebfa60d2411625d0517ae22c2fc8c7c1784ff8a75c78565"),
            (3, "df896896c799531f1fd1e556cea26a6989ab06853bcbfdd3e4f5097a611f658f"),
            (5, "c51042bb8b9d81dfc115ef99d0e2cecf1954cfc078d70032d187b46615f01b90"),
        ];
        for (count, root) in expected {
            let digests = (1..=count).map(|number| [number; 32]);
            assert_eq!(entries_hash(digests), hash(root), "{count} entries");
        }
    }
}
