use bytes::Bytes;
use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};

use super::*;
use crate::immudb::TxId;

/// Written by OpenSSL, as are the signature and the other keys below.
const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEh2514YolIBAOqQCE5ZAB74gnC91+
JmBw2sskv8RMf3Q18HByuaeXUdQ3ObTcRYaISUQ2kbIa/8h5NZIWW10XeA==
-----END PUBLIC KEY-----
";
const COMPRESSED: &str = "\
-----BEGIN PUBLIC KEY-----
MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgACh2514YolIBAOqQCE5ZAB74gnC91+
JmBw2sskv8RMf3Q=
-----END PUBLIC KEY-----
";
const ON_ANOTHER_CURVE: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE2T9nUsjGt5QUYssVn3WYIEZMoFKT0yi/
a/srxW6DiKT4yJJPmnjSbnqEzivnwAvuPMHgg0T70ZNO+xsd9K3dxq7bHcLKA4wD
oSWEoN4nR7yzZSTw3sj8wKosceJ+MPuM
-----END PUBLIC KEY-----
";
const SIGNATURE: &str = "\
    30450221008f7b241b2d1935c84a89be41d009ec4fbb91e1a9798b652cc69bf5a89b665c57\
    02200354ad884f482adc02028f5a49073927c9a0f1fcc76098b6c23cb2fa64ea6e09";

fn signed() -> DatabaseState {
    DatabaseState {
        database: "aethyr".into(),
        state: TrustedState { tx: TxId(42), alh: [0x44; 32] },
        signature: Some(hex::decode(SIGNATURE).unwrap().into()),
    }
}

/// Returns the state with each byte changed of what is signed, and of the signature.
fn changed(state: &DatabaseState) -> Vec<DatabaseState> {
    let mut all = Vec::new();
    for byte in 0..32 {
        let mut changed = state.clone();
        changed.state.alh[byte] ^= 1;
        all.push(changed);
    }
    for bit in 0..64 {
        let mut changed = state.clone();
        changed.state.tx.0 ^= 1 << bit;
        all.push(changed);
    }
    for database in ["aethyr2", "aethy", "bethyr", "aethyR", "", "\0aethyr"] {
        all.push(DatabaseState { database: database.into(), ..state.clone() });
    }
    let signature = state.signature.clone().unwrap();
    for (byte, flip) in (0..signature.len()).flat_map(|byte| [0x01, 0x80, 0xff].map(|flip| (byte, flip))) {
        let mut changed = signature.to_vec();
        changed[byte] ^= flip;
        all.push(DatabaseState { signature: Some(changed.into()), ..state.clone() });
    }
    let longer = [&signature[..], b"\0"].concat();
    for other in [Bytes::new(), signature.slice(1..), signature.slice(..signature.len() - 1), longer.into()] {
        all.push(DatabaseState { signature: Some(other), ..state.clone() });
    }
    all
}

fn pem(point: &[u8]) -> String {
    let body = STANDARD.encode([&SPKI_PREFIX[..], point].concat());
    format!("{BEGIN}\n{body}\n{END}\n")
}

#[test]
fn a_state_signed_by_openssl_is_accepted() {
    let key = PublicKey::from_pem(KEY).unwrap();
    assert_eq!(verify_signature(&signed(), &key), Ok(()));
    for wrong in changed(&signed()) {
        assert_eq!(verify_signature(&wrong, &key), Err(SignatureError::Invalid), "{wrong:?}");
    }
    let unsigned = DatabaseState { signature: None, ..signed() };
    assert_eq!(verify_signature(&unsigned, &key), Err(SignatureError::Missing));
}

#[test]
fn every_other_key_is_refused() {
    let key = PublicKey::from_pem(KEY).unwrap();
    for byte in 1..POINT_BYTES {
        let mut other = key.clone();
        other.point[byte] ^= 1;
        // A point that is not on the curve verifies nothing.
        assert_eq!(PublicKey::from_pem(&pem(&other.point)), Ok(other.clone()));
        assert_eq!(verify_signature(&signed(), &other), Err(SignatureError::Invalid));
    }
}

#[test]
fn a_key_is_found_in_its_text() {
    let key = PublicKey::from_pem(KEY).unwrap();
    for text in [
        format!("Of the server in the cellar\n{KEY}and more"),
        KEY.replace('\n', "\r\n"),
        KEY.replace('\n', "\n "),
        pem(&key.point),
    ] {
        assert_eq!(PublicKey::from_pem(&text), Ok(key.clone()), "{text}");
    }
}

#[test]
fn another_kind_of_key_is_refused_by_name() {
    let private = KEY.replace("PUBLIC", "EC PRIVATE");
    let key = PublicKey::from_pem(KEY).unwrap();
    let with_first = |first: u8| {
        let mut point = key.point;
        point[0] = first;
        pem(&point)
    };
    for (text, error) in [
        (String::new(), PublicKeyError::Missing),
        (private, PublicKeyError::Missing),
        (KEY.replace("END", "AND"), PublicKeyError::Missing),
        (KEY.replace('=', "!"), PublicKeyError::Base64),
        (KEY.replace('=', ""), PublicKeyError::Base64),
        (COMPRESSED.into(), PublicKeyError::OtherKind),
        (ON_ANOTHER_CURVE.into(), PublicKeyError::OtherKind),
        (with_first(2), PublicKeyError::OtherKind),
        (with_first(0), PublicKeyError::OtherKind),
        (pem(&key.point[..64]), PublicKeyError::OtherKind),
        (pem(&[&key.point[..], &[0]].concat()), PublicKeyError::OtherKind),
        (pem(&[]), PublicKeyError::OtherKind),
    ] {
        assert_eq!(PublicKey::from_pem(&text), Err(error), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_signature_is_of_one_state_and_one_key(
        database in "[a-z0-9_]{1,20}",
        tx in 1..u64::MAX,
        alh in any::<[u8; 32]>(),
    ) {
        let random = SystemRandom::new();
        let [pair, other] = [(); 2].map(|()| {
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap()
        });
        let mut state =
            DatabaseState { database, state: TrustedState { tx: TxId(tx), alh }, signature: None };
        let signature = pair.sign(&random, &state.signed_bytes()).unwrap();
        state.signature = Some(Bytes::copy_from_slice(signature.as_ref()));
        let [key, other] = [pair, other].map(|pair| {
            PublicKey::from_pem(&pem(pair.public_key().as_ref())).unwrap()
        });
        prop_assert_eq!(verify_signature(&state, &key), Ok(()));
        prop_assert_eq!(verify_signature(&state, &other), Err(SignatureError::Invalid));
        for wrong in changed(&state) {
            prop_assert_eq!(verify_signature(&wrong, &key), Err(SignatureError::Invalid), "{:?}", wrong);
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in ".{0,200}", body in "[A-Za-z0-9+/=\\n]{0,200}") {
        let _ = PublicKey::from_pem(&text);
        let enclosed = format!("{BEGIN}{body}{END}");
        prop_assert!(PublicKey::from_pem(&enclosed).is_err());
    }
}
