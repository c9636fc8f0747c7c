//! Proof files and certificates of ImmuDB for the fuzz targets. See [`crate::fuzzing`].
//!
//! Panics if something that is accepted does not survive a second encoding, or if a verified proof
//! says anything else than the file.
#![expect(clippy::expect_used, reason = "a broken promise has to end the run")]

use super::{ImmudbCertificate, ProofFile, VerificationKeys};
use crate::{event::ChainHash, immudb::verify::PublicKey, proof::VerifierKey};

/// The public key of the private key 0, 1, 2 … 31.
const LOG: &str = "log.example/aethyr+887ecb9c+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";

/// The public key of the private key 32, 33, 34 … 63.
const WITNESS: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";

/// The key of ImmuDB's signature in the corpus.
const IMMUDB: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEvpbP99Vzq4SLWJjrVWrkFdXUolCc
c/tdX2Wupu+kziYDQ3vt5wni5jDu+VBay0W55zSxThV0cymvUoIT/GLX4g==
-----END PUBLIC KEY-----";

/// Reads the bytes as a proof file and as a certificate, and verifies what can be read.
pub fn proof_files(bytes: &[u8]) {
    if let Ok(certificate) = ImmudbCertificate::decode(bytes) {
        assert_eq!(ImmudbCertificate::decode(&certificate.encode()), Ok(certificate), "a certificate");
    }
    let Ok(file) = ProofFile::parse(bytes) else { return };
    assert_eq!(ProofFile::parse(&file.to_bytes()).as_ref(), Ok(&file), "a proof file");
    let [log, witness] = [LOG, WITNESS].map(|key| VerifierKey::parse(key).expect("a key"));
    let immudb = PublicKey::from_pem(IMMUDB).expect("a key");
    let (witnesses, immudb) = ([witness], [None, Some(&immudb)]);
    for witnesses in [&[][..], &witnesses] {
        for immudb in immudb {
            let keys = VerificationKeys { log: &log, witnesses, immudb };
            for hash in [None, Some(ChainHash([7; 32]))] {
                verified(&file, &keys, hash);
            }
        }
    }
}

fn verified(file: &ProofFile, keys: &VerificationKeys<'_>, hash: Option<ChainHash>) {
    let Ok(verified) = file.verify(keys, hash) else { return };
    assert_eq!(verified.checkpoint.origin(), keys.log.name());
    assert!((1..=verified.checkpoint.size()).contains(&verified.position.0));
    assert_eq!(verified.position.0, file.proof.index + 1);
    assert_eq!(verified.cosigned_at.len(), keys.witnesses.len());
    assert_eq!(verified.event.is_some(), file.record.is_some());
    assert!(hash.is_none_or(|hash| hash == verified.chain_hash));
    if let Some(event) = verified.event {
        assert_eq!((event.position, event.hash), (verified.position, verified.chain_hash));
    }
    let is_signed = verified.immudb.as_ref().is_some_and(|state| state.is_signed);
    assert_eq!(is_signed, keys.immudb.is_some());
    assert_eq!(verified.immudb.is_some(), file.immudb.is_some());
}
