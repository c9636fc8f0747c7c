//! Tests of notes, keys, checkpoints and proof files: known ones of other programs, and that each
//! has one encoding and no other content.
//!
//! `tests/it/notes.rs` plays the same with Go's packages.

use proptest::prelude::*;
use ring::signature::Ed25519KeyPair;

use super::{encoding::encode, *};

/// The private key 0, 1, 2 … 31, and what Go's `sumdb/note` made with it.
const PRIVATE_KEY: &str =
    "PRIVATE+KEY+log.example/aethyr+887ecb9c+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
const VERIFIER_KEY: &str = "log.example/aethyr+887ecb9c+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
const TEXT: &str = "log.example/aethyr\n5\ntnSPbtepnefahP2X4aO6xvq4mZ9KQ2lcq5Uoot5DEUc=\n";
const SIGNATURE: &str = "— log.example/aethyr iH7LnEKNVcGnImxFQOs6q8485lSixcY8mAJY4vG9SVDTlDuiXPE7\
    hr4ICM/8KLYeCVJ4f7hc/DOBVvekf8AGampIFQE=\n";

/// The key of a witness, from the private key 32, 33, 34 … 63, and its cosignature.
const WITNESS_KEY: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
const COSIGNATURE: &str = "— witness.example/w1 IDJKvgAAAABlU/EAsAmXTbQoCaQD3OF4IKXDq2T+6TbMa/6jQba0\
    jm+4wEMYrXwX85oSgMtXshl86NhYuKgmr/LaE5lohQbW0/kZBw==\n";
const COSIGNED_AT: u64 = 1_700_000_000;

/// A proof of leaf 3 of the tree in the checkpoint. The leaves are the numbers from 0 to 4.
const PROOF: &str = "c2sp.org/tlog-proof@v1\nextra YSByZWNvcmQ=\nindex 3\n\
    +mHj3sNDlYn0eEyJO/Mh0AhPBMVyx68raOPzNgo1tIY=\n\
    ywCYnZSlacCmeK4EK2Pc1GJduWRAUX83put5duok7Us=\n\
    EeH1WCI/THG2vhzs/R8N6HFG0llId8J7KexRn5BAITw=\n\n";

fn key() -> SigningKey {
    SigningKey::from_encoded(PRIVATE_KEY).unwrap()
}

fn verifier(text: &str) -> VerifierKey {
    VerifierKey::parse(text).unwrap()
}

fn note_of(text: &str, signatures: &str) -> Result<SignedNote, NoteError> {
    SignedNote::parse(format!("{text}\n{signatures}").as_bytes())
}

fn known_note() -> SignedNote {
    note_of(TEXT, &format!("{SIGNATURE}{COSIGNATURE}")).unwrap()
}

fn known_proof() -> Vec<u8> {
    format!("{PROOF}{TEXT}\n{SIGNATURE}{COSIGNATURE}").into_bytes()
}

fn known_leaf() -> Hash {
    leaf_hash(b"3")
}

/// Returns a signature line, with the id of the key.
fn line(key: &VerifierKey, signature: &[u8]) -> String {
    format!("— {} {}\n", key.name(), encode(&[key.id().0.as_slice(), signature].concat()))
}

/// Returns the signature line of a cosignature by the witness, made without the code under test.
fn cosignature(message_time: &str, time: u64) -> String {
    let seed: Vec<u8> = (32..64).collect();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let signature = pair.sign(format!("cosignature/v1\ntime {message_time}\n{TEXT}").as_bytes());
    line(&verifier(WITNESS_KEY), &[time.to_be_bytes().as_slice(), signature.as_ref()].concat())
}

#[test]
fn keys_and_signatures_are_those_of_other_programs() {
    let key = key();
    assert_eq!(key.verifier().to_string(), VERIFIER_KEY);
    assert_eq!(key.encoded().expose(), PRIVATE_KEY);
    assert_eq!(verifier(VERIFIER_KEY), *key.verifier());
    assert_eq!(
        (key.verifier().name(), key.verifier().id().to_string()),
        ("log.example/aethyr", "887ecb9c".into())
    );
    let note = SignedNote::sign(TEXT.to_owned(), &key).unwrap();
    assert_eq!(note.to_bytes(), format!("{TEXT}\n{SIGNATURE}").into_bytes());
    // The example in c2sp.org/signed-note.
    let example = verifier("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k");
    let text = "This is an example message.\n";
    let signature = "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYj\
        OBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    assert_eq!(note_of(text, signature).unwrap().verify(&example), Ok(text));
}

#[test]
fn a_note_is_verified_by_each_of_its_keys_and_by_no_other() {
    let note = known_note();
    let [log, witness] = [VERIFIER_KEY, WITNESS_KEY].map(verifier);
    assert_eq!(note.verify(&log), Ok(TEXT));
    assert_eq!(note.verify(&witness), Ok(TEXT));
    assert_eq!(note.cosigned_at(&witness), Ok(COSIGNED_AT));
    let not_a_witness = SignatureError::NotAWitness { name: log.name().to_owned(), id: log.id() };
    assert_eq!(note.cosigned_at(&log), Err(not_a_witness));
    // Another key with the same name.
    let other = SigningKey::generate(log.name()).unwrap();
    let missing = SignatureError::Missing { name: log.name().to_owned(), id: other.verifier().id() };
    assert_eq!(note.verify(other.verifier()), Err(missing));
    // The same key with another name.
    let wrong_id = VerifierKey::parse(&VERIFIER_KEY.replace("aethyr", "other")).unwrap_err();
    let KeyError::Id { expected, .. } = wrong_id else { panic!("{wrong_id}") };
    let renamed = VERIFIER_KEY.replace("aethyr", "other").replace("887ecb9c", &expected.to_string());
    let renamed = verifier(&renamed);
    assert!(matches!(note.verify(&renamed), Err(SignatureError::Missing { .. })));
}

#[test]
fn all_signatures_by_a_key_have_to_be_right() {
    let log = verifier(VERIFIER_KEY);
    let wrong = line(&log, &[7; 64]);
    let invalid = SignatureError::Invalid { name: log.name().to_owned(), id: log.id() };
    for signatures in [format!("{SIGNATURE}{wrong}"), format!("{wrong}{SIGNATURE}"), line(&log, &[7; 63])] {
        assert_eq!(note_of(TEXT, &signatures).unwrap().verify(&log), Err(invalid.clone()));
    }
    let twice = note_of(TEXT, &format!("{SIGNATURE}{SIGNATURE}")).unwrap();
    assert_eq!(twice.verify(&log), Ok(TEXT));
    let another_text = note_of(&format!("{TEXT}more\n"), SIGNATURE).unwrap();
    assert_eq!(another_text.verify(&log), Err(invalid));
}

#[test]
fn a_cosignature_covers_its_time() {
    let witness = verifier(WITNESS_KEY);
    assert_eq!(cosignature("1700000000", COSIGNED_AT), COSIGNATURE);
    let at = |signatures: &str| note_of(TEXT, signatures).unwrap().cosigned_at(&witness);
    assert_eq!(at(&cosignature("0", 0)), Ok(0));
    assert_eq!(at(&cosignature("9223372036854775807", i64::MAX as u64)), Ok(i64::MAX as u64));
    let invalid = SignatureError::Invalid { name: witness.name().to_owned(), id: witness.id() };
    for (message, time) in [("1700000001", COSIGNED_AT), ("01", 1), ("9223372036854775808", 1 << 63)] {
        assert_eq!(at(&cosignature(message, time)), Err(invalid.clone()), "{message}");
    }
    let earlier = cosignature("5", 5);
    assert_eq!(at(&format!("{COSIGNATURE}{earlier}{COSIGNATURE}")), Ok(5), "the earliest counts");
}

#[test]
fn a_key_has_another_id_with_another_name_and_is_the_same_key() {
    let key = key();
    let renamed = key.renamed("log.example/aethyr/2").unwrap();
    let of = |key: &SigningKey| (key.verifier().name().to_owned(), key.verifier().id());
    assert_eq!(renamed.verifier().name(), "log.example/aethyr/2");
    assert_ne!(of(&renamed).1, of(&key).1);
    assert_eq!(of(&renamed.renamed(key.verifier().name()).unwrap()), of(&key));
    assert_eq!(key.renamed("a b").map(|_| ()), Err(KeyError::Name));
}

#[test]
fn signatures_are_added_once_and_only_if_they_are_right() {
    let [log, witness] = [VERIFIER_KEY, WITNESS_KEY].map(verifier);
    let mut note = note_of(TEXT, SIGNATURE).unwrap();
    let wrong = cosignature("5", 6);
    for (lines, expected) in [
        ("", CosignatureError::Note(NoteError::NotSigned)),
        (COSIGNATURE.trim_end(), CosignatureError::Note(NoteError::NotSigned)),
        ("a\n", CosignatureError::Note(NoteError::Signature { number: 1 })),
        (SIGNATURE, SignatureError::Missing { name: witness.name().to_owned(), id: witness.id() }.into()),
        (
            wrong.as_str(),
            SignatureError::Invalid { name: witness.name().to_owned(), id: witness.id() }.into(),
        ),
    ] {
        assert_eq!(note.add_cosignature(lines.as_bytes(), &witness), Err(expected), "{lines}");
    }
    assert_eq!(note, note_of(TEXT, SIGNATURE).unwrap());
    let lines = format!("{SIGNATURE}{COSIGNATURE}");
    for _ in 0..2 {
        assert_eq!(note.add_cosignature(lines.as_bytes(), &witness), Ok(COSIGNED_AT));
        assert_eq!(note, known_note());
    }

    let other = SigningKey::generate(log.name()).unwrap();
    note.sign_also(&other).unwrap();
    assert_eq!((note.verify(&log), note.verify(other.verifier())), (Ok(TEXT), Ok(TEXT)));
    let mut merged = note_of(TEXT, SIGNATURE).unwrap();
    merged.merge(&note).unwrap();
    assert_eq!(merged, note);
    merged.merge(&note_of("a\n", COSIGNATURE).unwrap()).unwrap();
    assert_eq!(merged, note, "another text");
    let signers: Vec<_> = note.unverified_signers().map(|(name, id)| (name.to_owned(), id)).collect();
    let expected = [&log, &witness, other.verifier()].map(|key| (key.name().to_owned(), key.id()));
    assert_eq!(signers, expected);
    assert_eq!(known_note().only_by(log.name()), note_of(TEXT, SIGNATURE).unwrap());
    let many = note_of(TEXT, &"— a YWJjZGU=\n".repeat(SIGNATURES_MAX)).unwrap();
    assert_eq!(note_of(TEXT, SIGNATURE).unwrap().merge(&many), Ok(()), "they are one signature");
    let lines: Vec<String> = (0..SIGNATURES_MAX).map(|number| format!("— a{number} YWJjZGU=\n")).collect();
    let many = note_of(TEXT, &lines.concat()).unwrap();
    assert_eq!(note_of(TEXT, SIGNATURE).unwrap().merge(&many), Err(NoteError::TooManySignatures));
}

#[test]
fn a_witness_has_one_cosignature_and_leaves_room_for_others() {
    let witness = verifier(WITNESS_KEY);
    let mut note = note_of(TEXT, SIGNATURE).unwrap();
    let signers = |note: &SignedNote| note.unverified_signers().count();
    let (early, late) = (cosignature("5", 5), cosignature("7", 7));
    let many: String = (7..90).map(|time| cosignature(&time.to_string(), time)).collect();
    assert_eq!((note.add_cosignature(many.as_bytes(), &witness), signers(&note)), (Ok(7), 2));
    assert_eq!(note, note_of(TEXT, &format!("{SIGNATURE}{late}")).unwrap());
    // Again, and later than before.
    assert_eq!(note.add_cosignature(COSIGNATURE.as_bytes(), &witness), Ok(7));
    assert_eq!((note.cosigned_at(&witness), signers(&note)), (Ok(7), 2));
    assert_eq!(note.add_cosignature(early.as_bytes(), &witness), Ok(5));
    assert_eq!((note.cosigned_at(&witness), signers(&note)), (Ok(5), 3));
}

#[test]
fn a_malformed_note_is_rejected() {
    let cases: [(&[u8], NoteError); 18] = [
        (b"", NoteError::NotSigned),
        (b"\n\n", NoteError::NotSigned),
        (b"a\n\n", NoteError::NotSigned),
        (b"a\n", NoteError::NotSigned),
        ("a\n— a YWJjZGU=\n".as_bytes(), NoteError::NotSigned),
        ("a\n\n— a YWJjZGU=".as_bytes(), NoteError::NotSigned),
        (b"a\xff\n\n", NoteError::NotUtf8),
        ("a\t\n\n— a YWJjZGU=\n".as_bytes(), NoteError::ControlCharacter),
        ("a\r\n\r\n— a YWJjZGU=\r\n".as_bytes(), NoteError::ControlCharacter),
        ("a\n\n- a YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n—  YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— a b YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— a+b YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— a\u{a0}b YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— a\u{7f}b YWJjZGU=\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— a YWJjZA==\n".as_bytes(), NoteError::Signature { number: 1 }),
        ("a\n\n— a YWJjZGU=\n— a YWJjZGV=\n".as_bytes(), NoteError::Signature { number: 2 }),
    ];
    for (bytes, expected) in cases {
        assert_eq!(SignedNote::parse(bytes), Err(expected), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert!(
        SignedNote::parse("a\n\n— a YWJjZGU=\n".as_bytes()).is_ok(),
        "the cases differ from this by one thing"
    );
}

#[test]
fn a_note_has_limits() {
    let line = "— a YWJjZGU=\n";
    assert!(note_of("a\n", &line.repeat(SIGNATURES_MAX)).is_ok());
    assert_eq!(note_of("a\n", &line.repeat(SIGNATURES_MAX + 1)), Err(NoteError::TooManySignatures));
    let largest = format!("{}\n", "a".repeat(NOTE_BYTES_MAX - line.len() - 2));
    assert!(note_of(&largest, line).is_ok());
    let too_long = NoteError::TooLong { bytes: NOTE_BYTES_MAX + 1 };
    assert_eq!(note_of(&format!("a{largest}"), line), Err(too_long));
    assert!(matches!(SignedNote::sign(largest, &key()), Err(NoteError::TooLong { .. })));
}

#[test]
fn only_a_text_that_can_be_read_back_is_signed() {
    let key = key();
    for text in ["\n", "a\n", "a\n\nb\n", "\n\n\n", "a\n\n— a YWJjZGU=\n", "ü\u{a0}+\u{7f}\n"] {
        let note = SignedNote::sign(text.to_owned(), &key).unwrap();
        assert_eq!(SignedNote::parse(&note.to_bytes()), Ok(note.clone()), "{text:?}");
        assert_eq!(note.verify(key.verifier()), Ok(text));
    }
    for (text, expected) in [
        ("", NoteError::UnfinishedLine),
        ("a", NoteError::UnfinishedLine),
        ("a\r\n", NoteError::ControlCharacter),
        ("a\0\n", NoteError::ControlCharacter),
    ] {
        assert_eq!(SignedNote::sign(text.to_owned(), &key), Err(expected), "{text:?}");
    }
}

#[test]
fn a_malformed_key_is_rejected() {
    let with = |id: &str, key: &[u8]| format!("a+{id}+{}", encode(key));
    for (text, expected) in [
        (String::new(), KeyError::NotAVerifierKey),
        (format!("{VERIFIER_KEY}\n"), KeyError::NotAVerifierKey),
        (VERIFIER_KEY.replace("887ecb9c", "887ECB9C"), KeyError::NotAVerifierKey),
        (VERIFIER_KEY.replace("887ecb9c", "87ecb9c"), KeyError::NotAVerifierKey),
        (VERIFIER_KEY.trim_end_matches('4').to_owned(), KeyError::NotAVerifierKey),
        (with("00000000", b""), KeyError::NotAVerifierKey),
        (with("00000000", &[6; 1313]), KeyError::Algorithm(6)),
        (with("00000000", &[1; 32]), KeyError::Length(31)),
        (with("00000000", &[4; 34]), KeyError::Length(33)),
        (with("00000000", &[1; 33]).replacen('a', "a b", 1), KeyError::Name),
        (with("00000000", &[1; 33]).replacen('a', "", 1), KeyError::Name),
        (with("00000000", &[1; 33]).replacen('a', &"a".repeat(256), 1), KeyError::Name),
    ] {
        assert_eq!(VerifierKey::parse(&text), Err(expected), "{text}");
    }
    let private = |text: String| SigningKey::from_encoded(&text).map(|key| key.verifier().clone());
    assert_eq!(private(VERIFIER_KEY.to_owned()), Err(KeyError::NotAPrivateKey));
    assert_eq!(private(PRIVATE_KEY.replace("KEY+log", "KEY log")), Err(KeyError::NotAPrivateKey));
    let key = encode(&[&[4][..], &[7; 32]].concat());
    assert_eq!(private(format!("PRIVATE+KEY+a+00000000+{key}")), Err(KeyError::Algorithm(4)));
    let key = encode(&[1; 32]);
    assert_eq!(private(format!("PRIVATE+KEY+a+00000000+{key}")), Err(KeyError::Length(31)));
    assert!(matches!(private(PRIVATE_KEY.replace("aethyr", "other")), Err(KeyError::Id { .. })));
    assert_eq!(SigningKey::generate("a+b").map(|_| ()), Err(KeyError::Name));
}

#[test]
fn a_private_key_is_not_shown() {
    let key = SigningKey::generate("log.example/aethyr").unwrap();
    let secret = key.encoded().expose().splitn(5, '+').last().unwrap();
    assert_eq!(secret.len(), 44);
    assert!(!format!("{key:?}").contains(secret));
    let again = SigningKey::from_encoded(key.encoded().expose()).unwrap();
    assert_eq!(again.verifier(), key.verifier());
    let other = SigningKey::generate("log.example/aethyr").unwrap();
    assert_ne!(other.verifier(), key.verifier());
}

#[test]
fn a_checkpoint_has_three_lines_or_more() {
    let checkpoint = Checkpoint::parse(TEXT).unwrap();
    assert_eq!((checkpoint.origin(), checkpoint.size()), ("log.example/aethyr", 5));
    let leaves: Vec<Hash> = ["0", "1", "2", "3", "4"].map(|data| leaf_hash(data.as_bytes())).to_vec();
    assert_eq!(*checkpoint.root(), root(&leaves));
    assert_eq!(checkpoint.to_text(), TEXT);
    let extended = format!("{TEXT}one\n2 3\n");
    let checkpoint = Checkpoint::parse(&extended).unwrap();
    assert_eq!(checkpoint.extensions(), ["one", "2 3"]);
    assert_eq!(checkpoint.to_text(), extended);

    for (text, expected) in [
        ("".to_owned(), CheckpointError::Incomplete),
        ("log\n5\n".to_owned(), CheckpointError::Incomplete),
        (TEXT.trim_end().to_owned(), CheckpointError::Incomplete),
        (TEXT.replace("log.example/aethyr", ""), CheckpointError::Origin),
        (TEXT.replace("log", "\r"), CheckpointError::Origin),
        (TEXT.replace("\n5\n", "\n05\n"), CheckpointError::Size),
        (TEXT.replace("\n5\n", "\n+5\n"), CheckpointError::Size),
        (TEXT.replace("\n5\n", "\n\n"), CheckpointError::Size),
        (TEXT.replace("\n5\n", "\n18446744073709551616\n"), CheckpointError::Size),
        (TEXT.replace("tnSP", ""), CheckpointError::Root),
        (TEXT.replace("Uc=", "Ud="), CheckpointError::Root),
        (format!("{TEXT}\n"), CheckpointError::Extension { line: 4 }),
        (format!("{TEXT}one\n\n2\n"), CheckpointError::Extension { line: 5 }),
    ] {
        assert_eq!(Checkpoint::parse(&text), Err(expected), "{text:?}");
    }
    assert_eq!(Checkpoint::new("a\nb", 0, EMPTY_ROOT, vec![]), Err(CheckpointError::Origin));
}

#[test]
fn a_proof_file_is_verified_without_anything_else() {
    let proof = TlogProof::parse(&known_proof()).unwrap();
    assert_eq!(proof.to_bytes(), known_proof());
    assert_eq!((proof.extra.as_slice(), proof.index, proof.inclusion.len()), (b"a record".as_slice(), 3, 3));
    let [log, witness] = [VERIFIER_KEY, WITNESS_KEY].map(verifier);
    let verified = proof.verify(&known_leaf(), &log, &[]).unwrap();
    assert_eq!((verified.checkpoint.to_text().as_str(), verified.cosigned_at), (TEXT, vec![]));
    let verified = proof.verify(&known_leaf(), &log, std::slice::from_ref(&witness)).unwrap();
    assert_eq!(verified.cosigned_at, [COSIGNED_AT]);

    // A witness has seen the checkpoint, and has not made it.
    let refused = proof.verify(&known_leaf(), &witness, &[]).unwrap_err();
    let expected = SignatureError::NotALog { name: witness.name().to_owned(), id: witness.id() };
    assert_eq!(refused, VerificationError::Signature(expected));

    let other = SigningKey::generate("witness.example/w2").unwrap();
    let both = [witness.clone(), other.verifier().clone()];
    let refused = proof.verify(&known_leaf(), &log, &both).unwrap_err();
    assert!(
        refused.to_string().starts_with("the note is not signed by witness.example/w2 (key "),
        "{refused}"
    );
    let refused = proof.verify(&leaf_hash(b"4"), &log, &[]).unwrap_err();
    assert!(matches!(refused, VerificationError::Inclusion(ProofError::OtherRoot { .. })), "{refused}");
    // Another log has signed the checkpoint of this one.
    let another = SigningKey::generate("log.example/other").unwrap();
    let checkpoint = SignedNote::sign(TEXT.to_owned(), &another).unwrap();
    let refused = TlogProof { checkpoint, ..proof.clone() }.verify(&known_leaf(), another.verifier(), &[]);
    let expected = "the checkpoint is of the log \"log.example/aethyr\", not of \"log.example/other\"";
    assert_eq!(refused.unwrap_err().to_string(), expected);

    let checkpoint = SignedNote::sign("a\n".to_owned(), &key()).unwrap();
    let refused = TlogProof { checkpoint, ..proof }.verify(&known_leaf(), &log, &[]);
    assert_eq!(refused, Err(VerificationError::Checkpoint(CheckpointError::Incomplete)));
}

#[test]
fn a_malformed_proof_file_is_rejected() {
    let known = String::from_utf8(known_proof()).unwrap();
    let hash = "+mHj3sNDlYn0eEyJO/Mh0AhPBMVyx68raOPzNgo1tIY=\n";
    for (text, expected) in [
        (String::new(), TlogProofError::NoCheckpoint),
        (PROOF.trim_end().to_owned(), TlogProofError::NoCheckpoint),
        (known.replace("@v1", "@v2"), TlogProofError::Format),
        (format!("\n{known}"), TlogProofError::Format),
        (known.replace("YSByZWNvcmQ=", ""), TlogProofError::Extra),
        (known.replace("YSByZWNvcmQ=", "YSByZWNvcmR="), TlogProofError::Extra),
        (known.replace("extra YSByZWNvcmQ=", "extra"), TlogProofError::Index),
        (known.replace("index 3\n", ""), TlogProofError::Index),
        (known.replace("index 3", "index 03"), TlogProofError::Index),
        (known.replace("index 3", "index  3"), TlogProofError::Index),
        (known.replace("ywCY", ""), TlogProofError::Hash { number: 2 }),
        (known.replace(hash, &hash.repeat(63)), TlogProofError::TooManyHashes),
        (format!("{PROOF}{TEXT}"), TlogProofError::Note(NoteError::NotSigned)),
    ] {
        assert_eq!(TlogProof::parse(text.as_bytes()), Err(expected), "{text}");
    }
    let longest = known.replace(hash, &hash.repeat(62));
    assert_eq!(TlogProof::parse(longest.as_bytes()).unwrap().inclusion.len(), HASHES_MAX);
    assert_eq!(TlogProof::parse(b"\xff\n\n"), Err(TlogProofError::NotUtf8));
    let too_long = vec![b'a'; PROOF_BYTES_MAX + 1];
    let expected = TlogProofError::TooLong { bytes: too_long.len() };
    assert_eq!(TlogProof::parse(&too_long), Err(expected));
}

/// Flips each bit of the file in turn. What lies outside of the extra data is covered by the
/// signatures and the root.
#[test]
fn no_flipped_bit_of_a_proof_file_is_accepted() {
    let known = known_proof();
    let [log, witness] = [VERIFIER_KEY, WITNESS_KEY].map(verifier);
    let extra = 29..41;
    assert_eq!(&known[extra.clone()], b"YSByZWNvcmQ=");
    for at in (0..known.len()).filter(|at| !extra.contains(at)) {
        for bit in 0..8 {
            let mut flipped = known.clone();
            flipped[at] ^= 1 << bit;
            let Ok(proof) = TlogProof::parse(&flipped) else { continue };
            let verified = proof.verify(&known_leaf(), &log, std::slice::from_ref(&witness));
            assert!(verified.is_err(), "bit {bit} of byte {at}: {verified:?}");
        }
    }
}

/// Returns texts that a note can have, and some that it cannot.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof!["[a-z—+ ]{0,6}", Just("\n".to_owned()), Just("\n\n".to_owned()), ".{0,3}"];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat() + "\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_signed_text_is_read_back_and_no_changed_one(
        text in texts(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let key = key();
        let note = SignedNote::sign(text.clone(), &key);
        let is_text = text.chars().all(|character| character >= ' ' || character == '\n');
        prop_assert_eq!(note.is_ok(), is_text);
        if let Ok(note) = note {
            let mut bytes = note.to_bytes();
            prop_assert_eq!(SignedNote::parse(&bytes), Ok(note.clone()));
            prop_assert_eq!(note.verify(key.verifier()), Ok(text.as_str()));
            let at = at.index(bytes.len());
            if bytes[at] != byte {
                bytes[at] = byte;
                let verified = SignedNote::parse(&bytes).map(|note| note.verify(key.verifier()).is_ok());
                prop_assert_ne!(verified, Ok(true));
            }
        }
    }

    #[test]
    fn a_checkpoint_is_read_back(
        origin in ".{0,9}",
        size in any::<u64>(),
        root in any::<Hash>(),
        extensions in prop::collection::vec(".{0,5}", 0..3),
    ) {
        if let Ok(checkpoint) = Checkpoint::new(origin.clone(), size, root, extensions.clone()) {
            prop_assert_eq!(Checkpoint::parse(&checkpoint.to_text()), Ok(checkpoint));
        } else {
            let is_line = |line: &String| !line.is_empty() && line.chars().all(|character| character >= ' ');
            prop_assert!(!is_line(&origin) || !extensions.iter().all(is_line));
        }
    }

    #[test]
    fn a_proof_file_is_read_back(
        extra in prop::collection::vec(any::<u8>(), 0..200),
        index in any::<u64>(),
        inclusion in prop::collection::vec(any::<Hash>(), 0..=HASHES_MAX),
    ) {
        let proof = TlogProof { extra, index, inclusion, checkpoint: known_note() };
        prop_assert_eq!(TlogProof::parse(&proof.to_bytes()), Ok(proof));
    }
}
