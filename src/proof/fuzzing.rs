//! Notes, checkpoints, keys and proof files for the fuzz targets. See [`crate::fuzzing`].
//!
//! Panics if something that is accepted has a second encoding, or if a changed note verifies.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a broken promise has to end the run")]

use super::{Checkpoint, SignedNote, SigningKey, TlogProof, VerifierKey};

/// The private key 0, 1, 2 … 31.
const KEY: &str = "PRIVATE+KEY+log.example/aethyr+887ecb9c+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

/// The public key of the private key 32, 33, 34 … 63.
const WITNESS: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";

/// Reads the bytes as each of the formats, and signs them as the text of a note.
pub fn notes(bytes: &[u8]) {
    let key = SigningKey::from_encoded(KEY).expect("a key");
    let witness = VerifierKey::parse(WITNESS).expect("a key");
    if let Ok(note) = SignedNote::parse(bytes) {
        assert_eq!(note.to_bytes(), bytes, "a note");
        if let Ok(text) = note.verify(key.verifier()) {
            assert!(bytes.starts_with(text.as_bytes()) && text.ends_with('\n'));
        }
        if let Ok(time) = note.cosigned_at(&witness) {
            i64::try_from(time).expect("a time of the format");
        }
    }
    if let Ok(proof) = TlogProof::parse(bytes) {
        assert_eq!(proof.to_bytes(), bytes, "a proof");
        if let Ok(verified) = proof.verify(&[7; 32], key.verifier(), &[witness]) {
            assert_eq!(verified.checkpoint.origin(), key.verifier().name());
            assert!(proof.index < verified.checkpoint.size());
        }
    }
    if let Ok(text) = str::from_utf8(bytes) {
        keys(text);
        checkpoint(text);
        signed(text, &key);
    }
}

fn keys(text: &str) {
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text, "a verifier key");
    }
    if let Ok(key) = SigningKey::from_encoded(text) {
        assert_eq!(key.encoded().expose(), text, "a private key");
        let public = key.verifier().to_string();
        assert_eq!(VerifierKey::parse(&public).as_ref(), Ok(key.verifier()));
    }
}

fn checkpoint(text: &str) {
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_text(), text, "a checkpoint");
    }
}

/// Checks that a signed text can be read back, and is not accepted with one bit flipped.
fn signed(text: &str, key: &SigningKey) {
    let Ok(note) = SignedNote::sign(text.to_owned(), key) else { return };
    let mut bytes = note.to_bytes();
    assert_eq!(SignedNote::parse(&bytes).as_ref(), Ok(&note));
    assert_eq!(note.verify(key.verifier()), Ok(text));
    let chosen = usize::from(text.as_bytes()[0]) * 31 + text.len() * 7;
    let at = chosen % bytes.len();
    bytes[at] ^= 1 << (chosen % 8);
    if let Ok(flipped) = SignedNote::parse(&bytes) {
        flipped.verify(key.verifier()).expect_err("a changed note");
    }
}
