//! Ed25519 keys that sign and verify notes, with their names and ids.

use std::fmt;

use ring::{
    rand::{self, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use sha2::{Digest, Sha256};

use super::encoding;
use crate::{merkle::Hash, secret::Secret};

/// The maximum length of a key's name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// What an encoded private key begins with.
pub(crate) const PRIVATE: &str = "PRIVATE+KEY+";

/// Why a key is not accepted. No text shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text has another form than a verifier key.
    #[error("a verifier key has the form NAME+ID+KEY, with 8 hexadecimal digits and base64")]
    NotAVerifierKey,
    /// The text has another form than a private key.
    #[error("a private key has the form PRIVATE+KEY+NAME+ID+KEY, with 8 hexadecimal digits and base64")]
    NotAPrivateKey,
    /// The name is empty, too long, or has characters that a name cannot have.
    #[error(
        "a key's name has 1 to {NAME_BYTES_MAX} bytes, without spaces, plus signs and control characters"
    )]
    Name,
    /// The type of the key is not supported.
    #[error("keys of the type {0:#04x} are not supported, only Ed25519 (0x01, and 0x04 for witnesses)")]
    Algorithm(u8),
    /// The key has the wrong length.
    #[error("an Ed25519 key has 32 bytes, not {0}")]
    Length(usize),
    /// The id does not follow from the name and the key.
    #[error("the key has the id {expected}, not {found}")]
    Id {
        /// The id that follows from the name and the key.
        expected: KeyId,
        /// The id in the text.
        found: KeyId,
    },
    /// The operating system did not provide random numbers.
    #[error("the operating system provides no random numbers")]
    NoRandomNumbers,
}

/// What tells keys with the same name apart: the first bytes of SHA-256 over name, type and key. It
/// is short on purpose, and proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    fn of(name: &str, algorithm: Algorithm, public_key: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update(name)
            .chain_update(b"\n")
            .chain_update([algorithm.byte()])
            .chain_update(public_key);
        let [a, b, c, d, ..]: Hash = digest.finalize().into();
        Self([a, b, c, d])
    }

    fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 4];
        hex::decode_to_slice(text, &mut id).ok()?;
        // Lowercase digits only.
        let id = Self(id);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a key signs. It is a part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The text of a note.
    Ed25519,
    /// The text of a checkpoint and the time at which a witness saw it (`cosignature/v1`).
    CosignatureV1,
}

impl Algorithm {
    /// Returns the byte that stands for it in a key.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureV1 => 0x04,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::CosignatureV1].into_iter().find(|algorithm| algorithm.byte() == byte)
    }
}

/// A public key with its name. Its text form is `NAME+ID+KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: KeyId,
    algorithm: Algorithm,
    public_key: [u8; 32],
}

impl VerifierKey {
    /// Returns the key with this name and these 32 bytes of an Ed25519 key.
    pub fn new(name: &str, algorithm: Algorithm, public_key: &[u8]) -> Result<Self, KeyError> {
        if !is_key_name(name) {
            return Err(KeyError::Name);
        }
        let id = KeyId::of(name, algorithm, public_key);
        let public_key: [u8; 32] = public_key.try_into().map_err(|_| KeyError::Length(public_key.len()))?;
        Ok(Self { name: name.to_owned(), id, algorithm, public_key })
    }

    /// Parses the text form, without spaces or line ends around it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let parts = Parts::of(text).ok_or(KeyError::NotAVerifierKey)?;
        let algorithm = Algorithm::of_byte(parts.algorithm).ok_or(KeyError::Algorithm(parts.algorithm))?;
        let key = Self::new(parts.name, algorithm, &parts.key)?;
        key.check_id(parts.id)?;
        Ok(key)
    }

    /// Returns the name. For a log, it is the origin of its checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id, which signatures by this key have.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns what the key signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Checks a signature under the text of a note. Returns `None` if it is not by this key.
    pub(super) fn check(&self, text: &str, signature: &[u8]) -> Option<ValidSignature> {
        match self.algorithm {
            Algorithm::Ed25519 => {
                self.check_ed25519(text.as_bytes(), signature)?;
                Some(ValidSignature { cosigned_at: None })
            }
            Algorithm::CosignatureV1 => {
                let (time, signature) = signature.split_first_chunk()?;
                let time = u64::from_be_bytes(*time);
                // The format does not allow later times.
                i64::try_from(time).ok()?;
                self.check_ed25519(format!("cosignature/v1\ntime {time}\n{text}").as_bytes(), signature)?;
                Some(ValidSignature { cosigned_at: Some(time) })
            }
        }
    }

    fn check_ed25519(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        UnparsedPublicKey::new(&ED25519, &self.public_key).verify(message, signature).ok()
    }

    /// Checks that this is the id of the key.
    pub(crate) fn check_id(&self, found: KeyId) -> Result<(), KeyError> {
        if found == self.id { Ok(()) } else { Err(KeyError::Id { expected: self.id, found }) }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[self.algorithm.byte()].as_slice(), &self.public_key].concat();
        write!(f, "{}+{}+{}", self.name, self.id, encoding::encode(&key))
    }
}

/// A signature that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ValidSignature {
    /// The time that a witness gives, in seconds since 1970.
    pub(super) cosigned_at: Option<u64>,
}

/// A private key that signs notes. Printing it shows no secret.
#[derive(Debug)]
pub struct SigningKey {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
    encoded: Secret,
}

impl SigningKey {
    /// Makes a new key.
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        let seed = rand::generate(&SystemRandom::new()).map_err(|_| KeyError::NoRandomNumbers)?;
        let seed: [u8; 32] = seed.expose();
        Self::of_seed(name, &seed)
    }

    /// Reads a key in the text form of [`SigningKey::encoded`].
    pub fn from_encoded(text: &str) -> Result<Self, KeyError> {
        let parts = text.strip_prefix(PRIVATE).and_then(Parts::of).ok_or(KeyError::NotAPrivateKey)?;
        if parts.algorithm != Algorithm::Ed25519.byte() {
            return Err(KeyError::Algorithm(parts.algorithm));
        }
        let seed: &[u8; 32] =
            parts.key.as_slice().try_into().map_err(|_| KeyError::Length(parts.key.len()))?;
        let key = Self::of_seed(parts.name, seed)?;
        key.verifier.check_id(parts.id)?;
        Ok(key)
    }

    /// Returns the same key with another name, which gives it another id.
    pub fn renamed(&self, name: &str) -> Result<Self, KeyError> {
        let parts = self.encoded.expose().strip_prefix(PRIVATE).and_then(Parts::of);
        let key = parts.ok_or(KeyError::NotAPrivateKey)?.key;
        let seed = key.as_slice().try_into().map_err(|_| KeyError::Length(key.len()))?;
        Self::of_seed(name, seed)
    }

    fn of_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        // Only the length can be wrong.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Length(seed.len()))?;
        let verifier = VerifierKey::new(name, Algorithm::Ed25519, pair.public_key().as_ref())?;
        let key = encoding::encode(&[[verifier.algorithm.byte()].as_slice(), seed].concat());
        let encoded = Secret::new(format!("{PRIVATE}{name}+{}+{key}", verifier.id));
        Ok(Self { pair, verifier, encoded })
    }

    /// Returns the text form, as Go's `sumdb/note` has it: `PRIVATE+KEY+NAME+ID+KEY`. It is secret.
    pub fn encoded(&self) -> &Secret {
        &self.encoded
    }

    /// Returns the public key.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs the text of a note.
    pub(super) fn sign(&self, text: &str) -> Vec<u8> {
        self.pair.sign(text.as_bytes()).as_ref().to_vec()
    }
}

/// The parts of `NAME+ID+KEY`. Only the key may have further plus signs.
pub(crate) struct Parts<'t> {
    pub name: &'t str,
    pub id: KeyId,
    pub algorithm: u8,
    pub key: Vec<u8>,
}

impl<'t> Parts<'t> {
    /// Takes a key in its text form apart. Nothing is checked but the form.
    pub(crate) fn of(text: &'t str) -> Option<Self> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let id = KeyId::parse(id)?;
        let key = encoding::decode(key)?;
        let (algorithm, key) = key.split_first()?;
        Some(Self { name, id, algorithm: *algorithm, key: key.to_vec() })
    }
}

/// Returns whether a key can have this name.
pub fn is_key_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && is_name(name)
}

/// Returns whether a signature line can have this name.
pub(super) fn is_name(name: &str) -> bool {
    let is_allowed =
        |character: char| character != '+' && !character.is_whitespace() && !character.is_control();
    !name.is_empty() && name.chars().all(is_allowed)
}
