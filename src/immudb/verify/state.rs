//! The state of a database as ImmuDB states it, and the signature over it.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::TrustedState;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// How every public key on the curve P-256 begins in DER, if its point is not compressed: the
/// algorithm, the curve, and the length of the point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The size of a point: a byte that says how it is encoded, and two coordinates.
const POINT_BYTES: usize = 65;
const NOT_COMPRESSED: u8 = 4;

/// What ImmuDB states about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseState {
    /// The name of the database.
    pub database: String,
    /// The last committed transaction, or 0 if there is none.
    pub state: TrustedState,
    /// The signature over both, if the server has a signing key.
    pub signature: Option<Bytes>,
}

impl DatabaseState {
    /// Returns the bytes that are signed.
    fn signed_bytes(&self) -> Vec<u8> {
        // The name of a database has at most 128 characters.
        let length = u32::try_from(self.database.len()).unwrap_or(u32::MAX);
        let tx = self.state.tx.0.to_be_bytes();
        [length.to_be_bytes().as_slice(), self.database.as_bytes(), &tx, &self.state.alh].concat()
    }
}

/// The public key of an ImmuDB server that signs its states: a point on the curve P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    point: [u8; POINT_BYTES],
}

impl PublicKey {
    /// Reads a public key in PEM, as `openssl ec -pubout` writes it. Text around it is skipped. A
    /// point that is not on the curve is accepted, and verifies no signature.
    ///
    /// # Errors
    /// Returns an error if there is no public key in the text, or another kind of key.
    pub fn from_pem(text: &str) -> Result<PublicKey, PublicKeyError> {
        let (_, after) = text.split_once(BEGIN).ok_or(PublicKeyError::Missing)?;
        let (body, _) = after.split_once(END).ok_or(PublicKeyError::Missing)?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| PublicKeyError::Base64)?;
        let point = der.strip_prefix(&SPKI_PREFIX).ok_or(PublicKeyError::OtherKind)?;
        let point = <[u8; POINT_BYTES]>::try_from(point).map_err(|_| PublicKeyError::OtherKind)?;
        if point.first() != Some(&NOT_COMPRESSED) {
            return Err(PublicKeyError::OtherKind);
        }
        Ok(PublicKey { point })
    }
}

/// Why a text has no usable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// There is no block with a public key.
    #[error("no PUBLIC KEY block in PEM")]
    Missing,
    /// The block cannot be decoded.
    #[error("the PUBLIC KEY block is not Base64")]
    Base64,
    /// The key is for another algorithm, or on another curve, or its point is compressed.
    #[error("the public key is not an uncompressed one on the curve P-256")]
    OtherKind,
}

/// Why nobody vouches for a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The server has no signing key.
    #[error("the state is not signed")]
    Missing,
    /// The signature is of another key, or over another state.
    #[error("the signature does not fit the state and the key")]
    Invalid,
}

/// Checks that a state, including the name of the database, was signed with this key.
///
/// # Errors
/// Returns an error if there is no signature, or another one.
pub fn verify_signature(state: &DatabaseState, key: &PublicKey) -> Result<(), SignatureError> {
    let signature = state.signature.as_ref().ok_or(SignatureError::Missing)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point.as_slice())
        .verify(&state.signed_bytes(), signature)
        .map_err(|_| SignatureError::Invalid)
}

#[cfg(test)]
mod tests;
