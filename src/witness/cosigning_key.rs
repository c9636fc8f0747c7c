//! The private key of a witness, which signs checkpoints together with the time.

use ring::{
    rand::{self, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::{
    proof::{Algorithm, KeyError, PRIVATE, Parts, VerifierKey, encoding},
    secret::Secret,
};

/// Why a key is not accepted. No text shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosigningKeyError {
    /// The text is not a private key, or no key can be generated.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is of another type, such as that of a log. One key must not do both.
    #[error("the key has the type {0:#04x}; that of a witness has the type 0x04")]
    NotAWitness(u8),
}

/// A private key that makes cosignatures. Printing it shows no secret.
#[derive(Debug)]
pub struct CosigningKey {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
    encoded: Secret,
}

impl CosigningKey {
    /// Generates a key.
    ///
    /// # Errors
    /// Returns an error if a key cannot have this name, or if there are no random numbers.
    pub fn generate(name: &str) -> Result<Self, CosigningKeyError> {
        let seed = rand::generate(&SystemRandom::new()).map_err(|_| KeyError::NoRandomNumbers)?;
        let seed: [u8; 32] = seed.expose();
        Ok(Self::of_seed(name, &seed)?)
    }

    /// Reads a key in the text form of [`CosigningKey::encoded`].
    ///
    /// # Errors
    /// Returns an error if the text has another form, or if its key does not make cosignatures.
    pub fn from_encoded(text: &str) -> Result<Self, CosigningKeyError> {
        let parts = text.strip_prefix(PRIVATE).and_then(Parts::of).ok_or(KeyError::NotAPrivateKey)?;
        if parts.algorithm != Algorithm::CosignatureV1.byte() {
            return Err(CosigningKeyError::NotAWitness(parts.algorithm));
        }
        let seed: &[u8; 32] =
            parts.key.as_slice().try_into().map_err(|_| KeyError::Length(parts.key.len()))?;
        let key = Self::of_seed(parts.name, seed)?;
        key.verifier.check_id(parts.id)?;
        Ok(key)
    }

    fn of_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        // Only the length can be wrong.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Length(seed.len()))?;
        let verifier = VerifierKey::new(name, Algorithm::CosignatureV1, pair.public_key().as_ref())?;
        let key = encoding::encode(&[[Algorithm::CosignatureV1.byte()].as_slice(), seed].concat());
        let encoded = Secret::new(format!("{PRIVATE}{name}+{}+{key}", verifier.id()));
        Ok(Self { pair, verifier, encoded })
    }

    /// Returns the text form: `PRIVATE+KEY+NAME+ID+KEY`, with the type 0x04. It is secret.
    pub fn encoded(&self) -> &Secret {
        &self.encoded
    }

    /// Returns the public key.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs the text of a checkpoint, and that it was the newest one at this time, in seconds
    /// since 1970. Returns the signature line with its line end.
    pub(super) fn cosign(&self, text: &str, time: u64) -> String {
        let signature = self.pair.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes());
        let (name, id) = (self.verifier.name(), self.verifier.id());
        let bytes = [id.0.as_slice(), &time.to_be_bytes(), signature.as_ref()].concat();
        format!("— {name} {}\n", encoding::encode(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{SignedNote, SigningKey};

    /// The private key 32, 33, 34 … 63, and what other programs made with it, as in the tests of
    /// `proof`.
    const PRIVATE_KEY: &str =
        "PRIVATE+KEY+witness.example/w1+20324abe+BCAhIiMkJSYnKCkqKywtLi8wMTIzNDU2Nzg5Ojs8PT4/";
    const VERIFIER_KEY: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
    const TEXT: &str = "log.example/aethyr\n5\ntnSPbtepnefahP2X4aO6xvq4mZ9KQ2lcq5Uoot5DEUc=\n";
    const COSIGNATURE: &str = "— witness.example/w1 IDJKvgAAAABlU/EAsAmXTbQoCaQD3OF4IKXDq2T+6TbMa/6jQba0\
        jm+4wEMYrXwX85oSgMtXshl86NhYuKgmr/LaE5lohQbW0/kZBw==\n";

    #[test]
    fn a_cosignature_is_that_of_other_programs() {
        let key = CosigningKey::from_encoded(PRIVATE_KEY).unwrap();
        assert_eq!(key.verifier().to_string(), VERIFIER_KEY);
        assert_eq!(key.encoded().expose(), PRIVATE_KEY);
        assert_eq!(key.cosign(TEXT, 1_700_000_000), COSIGNATURE);
    }

    #[test]
    fn a_new_key_is_read_back_and_its_cosignature_verified() {
        let key = CosigningKey::generate("witness.example/w2").unwrap();
        let same = CosigningKey::from_encoded(key.encoded().expose()).unwrap();
        assert_eq!(same.verifier(), key.verifier());
        let note = SignedNote::parse(format!("{TEXT}\n{}", same.cosign(TEXT, 17)).as_bytes()).unwrap();
        assert_eq!(note.cosigned_at(key.verifier()), Ok(17));
        assert!(!format!("{key:?}").contains(key.encoded().expose()));
    }

    #[test]
    fn other_keys_are_rejected() {
        let log = SigningKey::generate("log.example/a").unwrap();
        let refused = CosigningKey::from_encoded(log.encoded().expose()).unwrap_err();
        assert_eq!(refused, CosigningKeyError::NotAWitness(0x01));
        for text in ["", VERIFIER_KEY, "PRIVATE+KEY+witness.example/w1+20324abe+"] {
            let refused = CosigningKey::from_encoded(text).unwrap_err();
            assert_eq!(refused, KeyError::NotAPrivateKey.into(), "{text}");
        }
        let other_name = PRIVATE_KEY.replace("/w1", "/w2");
        let refused = CosigningKey::from_encoded(&other_name).unwrap_err();
        assert!(matches!(refused, CosigningKeyError::Key(KeyError::Id { .. })), "{refused}");
        assert_eq!(CosigningKey::generate("two words").unwrap_err(), KeyError::Name.into());
    }
}
