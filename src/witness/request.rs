//! The body of a request to a witness: a proof of consistency and a checkpoint.

use crate::proof::{Hash, NoteError, SignedNote, encoding};

/// The maximum number of hashes of a proof, as the protocol has it.
pub(super) const HASHES_MAX: usize = 63;

/// The maximum length of a body, in bytes: the longest proof, and a checkpoint with many
/// signatures.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// Why a body is not such a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the request is not UTF-8")]
    NotUtf8,
    #[error("the request has no checkpoint below a blank line")]
    NoCheckpoint,
    #[error("the first line of the request is not \"old\" and a size in decimal digits")]
    OldSize,
    #[error("hash {number} of the proof is not 32 bytes in base64")]
    Hash {
        /// From 1 on.
        number: usize,
    },
    #[error("the proof has more than {HASHES_MAX} hashes")]
    TooManyHashes,
    #[error("the checkpoint of the request is malformed: {0}")]
    Note(#[from] NoteError),
}

/// A request to cosign a checkpoint (`add-checkpoint`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddCheckpoint {
    /// The size of the newest checkpoint that the witness has cosigned.
    pub old_size: u64,
    /// That the checkpoint continues that one.
    pub proof: Vec<Hash>,
    /// The first line of the checkpoint, which says whose keys have to have signed it.
    pub origin: String,
    pub note: SignedNote,
}

impl AddCheckpoint {
    pub(super) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let text = str::from_utf8(body).map_err(|_| RequestError::NotUtf8)?;
        let (head, note) = text.split_once("\n\n").ok_or(RequestError::NoCheckpoint)?;
        let mut lines = head.split('\n');
        let old_size = lines.next().and_then(|line| line.strip_prefix("old "));
        let old_size = old_size.and_then(encoding::decode_decimal).ok_or(RequestError::OldSize)?;
        let proof = (1..).zip(lines).map(|(number, line)| {
            if number > HASHES_MAX {
                return Err(RequestError::TooManyHashes);
            }
            encoding::decode_hash(line).ok_or(RequestError::Hash { number })
        });
        let proof = proof.collect::<Result<_, _>>()?;
        let origin = note.split('\n').next().unwrap_or_default().to_owned();
        Ok(Self { old_size, proof, origin, note: SignedNote::parse(note.as_bytes())? })
    }
}

/// Returns the body of a request.
pub(super) fn encode(old_size: u64, proof: &[Hash], note: &str) -> String {
    let mut body = format!("old {old_size}\n");
    for hash in proof {
        body.push_str(&encoding::encode(hash));
        body.push('\n');
    }
    body.push('\n');
    body.push_str(note);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::SigningKey;

    /// The key of `log.example/aethyr`, and a checkpoint that it has signed.
    const KEY: &str = "PRIVATE+KEY+log.example/aethyr+887ecb9c+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    const TEXT: &str = "log.example/aethyr\n5\ntnSPbtepnefahP2X4aO6xvq4mZ9KQ2lcq5Uoot5DEUc=\n";

    fn note() -> String {
        let key = SigningKey::from_encoded(KEY).unwrap();
        String::from_utf8(SignedNote::sign(TEXT.to_owned(), &key).unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn a_request_is_read_back() {
        for (old_size, hashes) in [(0, 0), (1, 1), (3, 2), (u64::MAX, HASHES_MAX)] {
            let proof = vec![[7; 32]; hashes];
            let body = encode(old_size, &proof, &note());
            let request = AddCheckpoint::parse(body.as_bytes()).unwrap();
            assert_eq!((request.old_size, &request.proof), (old_size, &proof));
            assert_eq!(request.origin, "log.example/aethyr");
            assert_eq!(encode(request.old_size, &request.proof, &note()), body);
        }
    }

    #[test]
    fn a_request_has_the_form_of_the_protocol() {
        let expected = format!("old 3\n{}\n\n{}", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", note());
        assert_eq!(encode(3, &[[7; 32]], &note()), expected);
        assert_eq!(encode(0, &[], &note()), format!("old 0\n\n{}", note()));
    }

    #[test]
    fn a_malformed_request_is_rejected() {
        let hash = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
        for (text, expected) in [
            (String::new(), RequestError::NoCheckpoint),
            ("old 0\n".to_owned(), RequestError::NoCheckpoint),
            (format!("\n\n{}", note()), RequestError::OldSize),
            (format!("old\n\n{}", note()), RequestError::OldSize),
            (format!("old 01\n\n{}", note()), RequestError::OldSize),
            (format!("old  1\n\n{}", note()), RequestError::OldSize),
            (format!("old -1\n\n{}", note()), RequestError::OldSize),
            (format!("size 1\n\n{}", note()), RequestError::OldSize),
            (format!("old 1\n{hash}{}\n\n{}", "BwcH", note()), RequestError::Hash { number: 2 }),
            (format!("old 1\n{}\n{}", hash.repeat(64), note()), RequestError::TooManyHashes),
            (format!("old 0\n\n{TEXT}"), RequestError::Note(NoteError::NotSigned)),
        ] {
            assert_eq!(AddCheckpoint::parse(text.as_bytes()), Err(expected), "{text:?}");
        }
        assert_eq!(AddCheckpoint::parse(b"old 0\n\n\xff"), Err(RequestError::NotUtf8));
    }
}
