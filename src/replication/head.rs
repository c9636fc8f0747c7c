//! `log:head`, the key that every transaction writes. It records how far ImmuDB has the log, and
//! which writer owns the database.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    event::{ChainHash, Position},
    immudb::TxId,
    merkle::{EMPTY_ROOT, Hash, RightEdge},
};

pub(crate) const KEY: &[u8] = b"log:head";

/// The contents of `log:head`. Encoded as JSON, so that an operator can read it with ImmuDB's own
/// client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogHead {
    /// The database has every event up to this position.
    #[serde(with = "position")]
    pub position: Position,
    /// The chain hash at that position.
    #[serde(with = "hash")]
    pub hash: ChainHash,
    /// The writer id, generated when a process first claims the database, and kept in the directory
    /// of the writer's log.
    pub writer: Uuid,
    /// When it was written, in seconds since 1970, by the writer's clock.
    pub written_at: i64,
    /// The writer has stopped with nothing pending: another one may take over.
    pub released: bool,
    /// The tree over all events up to the position. `None` if the writer did not know it, or was an
    /// earlier version of the program.
    #[serde(flatten)]
    pub tree: Option<TreeHead>,
}

/// The size and the root of the tree over the first events of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeHead {
    /// The number of leaves, which is the position of the last event.
    #[serde(rename = "tree_size")]
    pub size: u64,
    #[serde(rename = "tree_root", with = "root")]
    pub root: Hash,
}

impl TreeHead {
    /// The tree of an empty log.
    pub(crate) const EMPTY: Self = Self { size: 0, root: EMPTY_ROOT };

    pub(crate) fn of(edge: &RightEdge) -> Self {
        Self { size: edge.size(), root: edge.root() }
    }
}

/// A tree whose head ImmuDB has, in the value of `log:head` that a verified transaction wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VerifiedTree {
    pub head: TreeHead,
    pub tx: TxId,
}

impl LogHead {
    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

mod position {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::event::Position;

    pub(super) fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        position.0.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        u64::deserialize(deserializer).map(Position)
    }
}

mod hash {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::event::ChainHash;

    pub(super) fn serialize<S: Serializer>(hash: &ChainHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChainHash, D::Error> {
        let text = String::deserialize(deserializer)?;
        ChainHash::from_hex(&text).ok_or_else(|| D::Error::custom("invalid hash"))
    }
}

mod root {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::merkle::Hash;

    pub(super) fn serialize<S: Serializer>(root: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(root))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(text).map_err(|_| D::Error::custom("invalid hash"))?;
        Hash::try_from(bytes).map_err(|_| D::Error::custom("invalid hash"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head as earlier versions of the program know it.
    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct EarlierHead {
        position: u64,
        hash: String,
        writer: Uuid,
        written_at: i64,
        released: bool,
    }

    fn with_tree(tree: Option<TreeHead>) -> LogHead {
        LogHead {
            position: Position(7),
            hash: ChainHash::START.chain(b"x"),
            writer: Uuid::nil(),
            written_at: 1_700_000_000,
            released: false,
            tree,
        }
    }

    #[test]
    fn a_head_has_its_tree_and_earlier_versions_read_it_as_well() {
        let tree = TreeHead { size: 7, root: [0xab; 32] };
        let encoded = with_tree(Some(tree)).encode();
        assert_eq!(LogHead::decode(&encoded), Some(with_tree(Some(tree))));
        let text = String::from_utf8(encoded.to_vec()).unwrap();
        let fields = format!(r#""released":false,"tree_size":7,"tree_root":"{}"}}"#, "ab".repeat(32));
        assert!(text.ends_with(&fields), "{text}");
        let earlier: EarlierHead = serde_json::from_slice(&encoded).unwrap();
        let writer = Uuid::nil();
        let hash = ChainHash::START.chain(b"x").to_string();
        let written_at = 1_700_000_000;
        assert_eq!(earlier, EarlierHead { position: 7, hash, writer, written_at, released: false });
    }

    #[test]
    fn a_head_without_a_tree_is_a_head() {
        let encoded = with_tree(None).encode();
        let text = String::from_utf8(encoded.to_vec()).unwrap();
        assert!(!text.contains("tree"), "{text}");
        assert_eq!(LogHead::decode(&encoded), Some(with_tree(None)));
        // Half a tree is none.
        for half in [r#""tree_size":7"#, r#""tree_size":7,"tree_root":"00""#] {
            let with_half = text.replace("}", &format!(",{half}}}"));
            assert_eq!(LogHead::decode(with_half.as_bytes()), Some(with_tree(None)), "{half}");
        }
    }

    #[test]
    fn a_head_comes_back_as_it_was_and_garbage_is_no_head() {
        let head = LogHead {
            position: Position(u64::MAX),
            hash: ChainHash::START.chain(b"x"),
            writer: Uuid::new_v4(),
            written_at: 1_700_000_000,
            released: true,
            tree: Some(TreeHead { size: u64::MAX, root: [1; 32] }),
        };
        assert_eq!(LogHead::decode(&head.encode()), Some(head));
        assert_eq!(LogHead::decode(b"{}"), None);
        assert_eq!(LogHead::decode(b"\x00"), None);
    }
}
