//! A proof file in parts, read by its documented format.

use aethyr_event_store::{
    event::{ChainHash, record},
    grpc::wire::RecordedEvent,
    proof::{Checkpoint, TlogProof, VerifierKey, leaf_hash},
};
use bytes::Bytes;
use prost::Message;

/// The extra data, as `proto/aethyr/storage/v1/proof.proto` has it.
#[derive(Clone, PartialEq, Message)]
pub struct Extra {
    #[prost(bytes = "bytes", tag = "1")]
    pub record: Bytes,
    #[prost(bytes = "vec", tag = "2")]
    pub previous_hash: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub immudb: Option<Certificate>,
}

/// The fields of ImmuDB's part that the tests look at.
#[derive(Clone, PartialEq, Message)]
pub struct Certificate {
    #[prost(string, tag = "1")]
    pub database: String,
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub entries_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "15")]
    pub signature: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Proof {
    pub text: String,
    pub file: TlogProof,
    pub extra: Extra,
}

impl Proof {
    pub fn parse(text: &str) -> Self {
        let file = TlogProof::parse(text.as_bytes()).unwrap();
        assert_eq!(file.to_bytes(), text.as_bytes());
        let extra = Extra::decode(&*file.extra).unwrap();
        Self { text: text.to_owned(), file, extra }
    }

    /// Returns the size that the checkpoint names, without a look at its signature.
    pub fn checkpoint_size(&self) -> u64 {
        let note = String::from_utf8(self.file.checkpoint.to_bytes()).unwrap();
        note.lines().nth(1).unwrap().parse().unwrap()
    }

    /// Asserts that the proof has this event, and that the event is in the tree of the checkpoint,
    /// which the key has signed. Returns the checkpoint.
    pub fn assert_proves(&self, event: &RecordedEvent, key: &VerifierKey) -> Checkpoint {
        assert_eq!(self.file.index + 1, event.position);
        let previous = ChainHash::from_slice(&self.extra.previous_hash).unwrap();
        assert_eq!(previous.chain(&self.extra.record).0.as_slice(), event.chain_hash.as_ref());
        let found = record::decode(self.extra.record.clone(), previous).unwrap();
        assert_eq!(found.event.id.to_string(), event.event_id);
        let verified = self.file.verify(&leaf_hash(&event.chain_hash), key, &[]).unwrap();
        assert_eq!(verified.checkpoint.origin(), key.name());
        verified.checkpoint
    }

    /// Returns the file with a bit changed in the middle of a part of its extra data.
    pub fn flipped(&self, part: &[u8]) -> Vec<u8> {
        assert!(!part.is_empty(), "nothing to change");
        let mut file = self.file.clone();
        let at = file.extra.windows(part.len()).position(|window| window == part).unwrap();
        file.extra[at + part.len() / 2] ^= 1;
        file.to_bytes()
    }

    /// Returns the file with other parts.
    pub fn changed(&self, change: impl FnOnce(&mut TlogProof)) -> Vec<u8> {
        let mut file = self.file.clone();
        change(&mut file);
        file.to_bytes()
    }
}
