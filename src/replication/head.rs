//! `log:head`, the key that every transaction writes. It records how far ImmuDB has the log, and
//! which writer owns the database.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::{ChainHash, Position};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_as_it_was_and_garbage_is_no_head() {
        let head = LogHead {
            position: Position(u64::MAX),
            hash: ChainHash::START.chain(b"x"),
            writer: Uuid::new_v4(),
            written_at: 1_700_000_000,
            released: true,
        };
        assert_eq!(LogHead::decode(&head.encode()), Some(head));
        assert_eq!(LogHead::decode(b"{}"), None);
        assert_eq!(LogHead::decode(b"\x00"), None);
    }
}
