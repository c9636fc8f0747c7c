//! Tests of proof files: one that was made by another implementation, and that nothing in a file
//! can be changed unnoticed.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};

use super::*;
use crate::{
    event::{
        AggregateId, AppendBounds, Content, ContentDigest, EventId, NewEvent, SequenceNumber, Timestamp,
        record::EventNumbers,
    },
    immudb::{
        TxHeader, TxId, TxMetadata,
        verify::{EntryProof, SignatureError, TrustedState, entries_hash, entry_digest},
    },
    proof::{Hash, SignedNote, SigningKey, inclusion, root},
};

const ORIGIN: &str = "log.example/aethyr";
const DATABASE: &str = "aethyr";

/// Made by a program in Python, with the keys of the fuzz target.
const KNOWN: &[u8] = include_bytes!("../../fuzz/corpus/proof_files/complete");
const KNOWN_LOG: &str = "log.example/aethyr+887ecb9c+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
const KNOWN_WITNESS: &str = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
const KNOWN_IMMUDB: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEvpbP99Vzq4SLWJjrVWrkFdXUolCc
c/tdX2Wupu+kziYDQ3vt5wni5jDu+VBay0W55zSxThV0cymvUoIT/GLX4g==
-----END PUBLIC KEY-----";
const KNOWN_HASH: &str = "16dd498d50caa12c8b2467ab5fe323e8c4290d7cedefca491edbc17dddcc5b0b";
const KNOWN_STATE: &str = "197672fd1d8398cc640051d547220800993dd2b06f9a2ea6064e69fc578bc39b";

/// A log with its key, and an ImmuDB that has its checkpoint.
struct World {
    log: SigningKey,
    records: Vec<Bytes>,
    /// The chain hash before each record, and behind the last one.
    hashes: Vec<ChainHash>,
    immudb: PublicKey,
    certificate: ImmudbCertificate,
    note: SignedNote,
}

fn record(position: u64) -> Bytes {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new("room-1").unwrap(),
        aggregate_type: "Room".into(),
        event_type: "SwordFound".into(),
        content: Content::Json(format!("{{\"by\":\"player-{position}\"}}")),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: [("key".to_owned(), "value".to_owned())].into(),
        occurred_at: None,
    };
    let numbers = EventNumbers {
        sequence: SequenceNumber(position),
        position: Position(position),
        recorded_at: Timestamp::new(1_700_000_000, 5).unwrap(),
        append: AppendBounds { first: Position(position), last: Position(position) },
    };
    record::encode(&event, numbers, ContentDigest::of(&event), "arena-1")
}

impl World {
    fn new(size: u64) -> World {
        let log = SigningKey::generate(ORIGIN).unwrap();
        let records: Vec<Bytes> = (1..=size).map(record).collect();
        let mut hashes = vec![ChainHash::START];
        records.iter().for_each(|record| hashes.push(hashes[hashes.len() - 1].chain(record)));
        let tree = root(&leaves(&hashes));
        let text = Checkpoint::new(ORIGIN, size, tree, Vec::new()).unwrap().to_text();
        let note = SignedNote::sign(text, &log).unwrap();
        let (certificate, immudb) = certificate(&note);
        World { log, records, hashes, immudb, certificate, note }
    }

    fn keys(&self) -> VerificationKeys<'_> {
        VerificationKeys { log: self.log.verifier(), witnesses: &[], immudb: Some(&self.immudb) }
    }

    fn file(&self, position: u64) -> ProofFile {
        let index = position - 1;
        ProofFile {
            record: Some(self.records[index as usize].clone()),
            previous_hash: self.hashes[index as usize],
            immudb: Some(self.certificate.clone()),
            proof: TlogProof {
                extra: Vec::new(),
                index,
                inclusion: inclusion::prove(&leaves(&self.hashes), index).unwrap(),
                checkpoint: self.note.clone(),
            },
        }
    }
}

fn leaves(hashes: &[ChainHash]) -> Vec<Hash> {
    hashes[1..].iter().map(|hash| leaf_hash(&hash.0)).collect()
}

/// Returns the certificate of an ImmuDB with a key of its own, in a transaction of three entries.
fn certificate(note: &SignedNote) -> (ImmudbCertificate, PublicKey) {
    let (key, value) = (Bytes::from("checkpoint:00000000000000000007"), Bytes::from(note.to_bytes()));
    let digests = [entry_digest(b"other", b""), entry_digest(&key, &value), entry_digest(b"log:head", b"{}")];
    let leaves = digests.map(|digest| leaf_hash(&digest));
    let header = TxHeader {
        id: TxId(42),
        previous_hash: [1; 32],
        timestamp_seconds: 1_700_000_050,
        entry_count: 3,
        entries_hash: entries_hash(digests),
        tree_tx: TxId(41),
        tree_root: [2; 32],
        version: 1,
        metadata: None,
    };
    let proof = EntryProof { leaf: 1, width: 3, terms: inclusion::prove(&leaves, 1).unwrap() };
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
    let alh = header.accumulated_hash().unwrap();
    let signed =
        [&(DATABASE.len() as u32).to_be_bytes()[..], DATABASE.as_bytes(), &header.id.0.to_be_bytes(), &alh];
    let signature = pair.sign(&random, &signed.concat()).unwrap();
    let signature = Some(Bytes::copy_from_slice(signature.as_ref()));
    let certificate =
        ImmudbCertificate { database: DATABASE.to_owned(), key, value, header, proof, signature };
    (certificate, public_key(pair.public_key().as_ref()))
}

/// Returns the public key with this point.
fn public_key(point: &[u8]) -> PublicKey {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    let body = STANDARD.encode([prefix.as_slice(), point].concat());
    PublicKey::from_pem(&format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")).unwrap()
}

#[test]
fn a_file_of_another_implementation_is_accepted() {
    let [log, witness] = [KNOWN_LOG, KNOWN_WITNESS].map(|key| VerifierKey::parse(key).unwrap());
    let immudb = PublicKey::from_pem(KNOWN_IMMUDB).unwrap();
    let file = ProofFile::parse(KNOWN).unwrap();
    assert_eq!(file.to_bytes(), KNOWN);
    let keys = VerificationKeys { log: &log, witnesses: &[witness], immudb: Some(&immudb) };
    let verified = file.verify(&keys, None).unwrap();
    assert_eq!(verified.chain_hash.to_string(), KNOWN_HASH);
    assert_eq!((verified.position, verified.cosigned_at), (Position(4), vec![1_700_000_100]));
    let event = verified.event.unwrap();
    assert_eq!((event.event.aggregate_id.as_str(), event.sequence), ("room-1", SequenceNumber(4)));
    let state = verified.immudb.unwrap();
    assert_eq!((state.database.as_str(), state.state.tx, state.is_signed), ("aethyr", TxId(42), true));
    assert_eq!(hex::encode(state.state.alh), KNOWN_STATE);
}

#[test]
fn every_event_has_a_proof_that_survives_the_file() {
    let world = World::new(9);
    for position in 1..=9 {
        let file = world.file(position);
        let read = ProofFile::parse(&file.to_bytes()).unwrap();
        assert_eq!(read, file);
        let verified = read.verify(&world.keys(), None).unwrap();
        assert_eq!(verified.position, Position(position));
        assert_eq!(verified.chain_hash, world.hashes[position as usize]);
        assert_eq!(verified.event.map(|event| event.position), Some(Position(position)));
        assert_eq!(verified.immudb.unwrap().committed_at, 1_700_000_050);
        let known = read.verify(&world.keys(), Some(verified.chain_hash));
        assert!(known.is_ok(), "the same chain hash is given: {known:?}");
    }
}

#[test]
fn every_flipped_byte_is_refused_or_changes_nothing_that_is_said() {
    let world = World::new(7);
    let bytes = world.file(4).to_bytes();
    let expected = ProofFile::parse(&bytes).unwrap().verify(&world.keys(), None).unwrap();
    let without_key = VerificationKeys { immudb: None, ..world.keys() };
    let mut refused = 0;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x02, 0x20, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let Ok(file) = ProofFile::parse(&changed) else {
                refused += 1;
                continue;
            };
            match file.verify(&world.keys(), None) {
                Ok(verified) => assert_eq!(verified, expected, "byte {at}"),
                Err(_) => refused += 1,
            }
            // Without ImmuDB's key, nothing of ImmuDB's part is claimed.
            if let Ok(verified) = file.verify(&without_key, None) {
                assert!(verified.immudb.as_ref().is_none_or(|state| !state.is_signed));
                assert_eq!(Verified { immudb: expected.immudb.clone(), ..verified }, expected, "byte {at}");
            }
        }
    }
    assert!(refused > bytes.len() * 3, "{refused} of {} were refused", bytes.len() * 4);
}

#[test]
fn every_part_is_bound_to_the_others() {
    use ProofFileRejection as Refused;
    let world = World::new(7);
    let refusal = |change: &dyn Fn(&mut ProofFile)| {
        let mut file = world.file(4);
        change(&mut file);
        let read = ProofFile::parse(&file.to_bytes()).unwrap();
        read.verify(&world.keys(), None).unwrap_err()
    };
    let other = world.file(5);
    let record = refusal(&|file| file.record.clone_from(&other.record));
    assert!(matches!(record, Refused::Log(VerificationError::Inclusion(_))), "{record}");
    let previous = refusal(&|file| file.previous_hash.0[31] ^= 1);
    assert!(matches!(previous, Refused::Log(VerificationError::Inclusion(_))), "{previous}");
    let index = refusal(&|file| file.proof.index = 5);
    assert!(matches!(index, Refused::Log(VerificationError::Inclusion(_))), "{index}");
    let hashes = refusal(&|file| file.proof.inclusion[0][0] ^= 1);
    assert!(matches!(hashes, Refused::Log(VerificationError::Inclusion(_))), "{hashes}");
    let note = refusal(&|file| file.proof.checkpoint = World::new(7).note);
    assert!(matches!(note, Refused::Log(VerificationError::Signature(_))), "{note}");
    assert_eq!(refusal(&|file| file.immudb = None), Refused::NoCertificate);
    assert_eq!(refusal(&|file| file.record = None), Refused::NoEvent);
}

#[test]
fn a_record_has_the_position_of_its_leaf() {
    let mut world = World::new(3);
    world.records[1] = record(7);
    world.hashes[2] = world.hashes[1].chain(&world.records[1]);
    world.hashes[3] = world.hashes[2].chain(&world.records[2]);
    let tree = root(&leaves(&world.hashes));
    let text = Checkpoint::new(ORIGIN, 3, tree, Vec::new()).unwrap().to_text();
    world.note = SignedNote::sign(text, &world.log).unwrap();
    let refused = world.file(2).verify(&world.keys(), None).unwrap_err();
    let expected = ProofFileRejection::OtherPosition { expected: Position(2), found: Position(7) };
    assert_eq!(refused, expected);
}

#[test]
fn a_proof_without_its_record_is_about_the_given_hash() {
    let world = World::new(7);
    let file = ProofFile { record: None, previous_hash: ChainHash::START, ..world.file(4) };
    let read = ProofFile::parse(&file.to_bytes()).unwrap();
    assert_eq!(read, file);
    let verified = read.verify(&world.keys(), Some(world.hashes[4])).unwrap();
    assert_eq!((verified.event, verified.position), (None, Position(4)));
    for hash in [&world.hashes[..4], &world.hashes[5..]].concat() {
        assert!(read.verify(&world.keys(), Some(hash)).is_err(), "{hash}");
    }
    // A program that does not know this service makes such files.
    let plain = ProofFile { immudb: None, ..file };
    assert!(!String::from_utf8(plain.to_bytes()).unwrap().contains("extra "));
    let keys = VerificationKeys { immudb: None, ..world.keys() };
    assert!(ProofFile::parse(&plain.to_bytes()).unwrap().verify(&keys, Some(world.hashes[4])).is_ok());
    let with_record = world.file(4);
    let other = with_record.verify(&keys, Some(world.hashes[5])).unwrap_err();
    let expected = ProofFileRejection::OtherEvent { expected: world.hashes[5], found: world.hashes[4] };
    assert_eq!(other, expected);
}

#[test]
fn malformed_extra_data_is_refused() {
    let world = World::new(2);
    let with_extra = |extra: &[u8]| {
        let proof = TlogProof { extra: extra.to_vec(), ..world.file(1).proof };
        ProofFile::parse(&proof.to_bytes())
    };
    assert_eq!(with_extra(b"a record"), Err(ProofFileError::Extra));
    let cut = messages::ProofExtra { previous_hash: vec![0; 31].into(), ..Default::default() };
    let error = Err(ProofFileError::PreviousHash { bytes: 31 });
    assert_eq!(with_extra(&cut.encode_to_vec()), error);
    let missing = messages::ProofExtra { record: world.records[0].clone(), ..Default::default() };
    assert_eq!(with_extra(&missing.encode_to_vec()), Err(ProofFileError::PreviousHash { bytes: 0 }));
    // A field of a newer version.
    assert!(with_extra(&[0x7a, 1, 7]).is_ok());
}

#[test]
fn a_certificate_is_of_one_checkpoint_and_one_key() {
    let world = World::new(7);
    let certificate = &world.certificate;
    let text = world.note.verify(world.log.verifier()).unwrap();
    let header = &certificate.header;
    let state = TrustedState { tx: header.id, alh: header.accumulated_hash().unwrap() };
    let expected = CertifiedState {
        database: DATABASE.to_owned(),
        state,
        committed_at: header.timestamp_seconds,
        is_signed: true,
    };
    assert_eq!(certificate.verify(text, Some(&world.immudb)), Ok(expected.clone()));
    let unsigned = ImmudbCertificate { signature: None, ..certificate.clone() };
    assert_eq!(unsigned.verify(text, None), Ok(CertifiedState { is_signed: false, ..expected }));
    let missing = CertificateError::Signature(SignatureError::Missing);
    assert_eq!(unsigned.verify(text, Some(&world.immudb)), Err(missing));
    let other_key = World::new(1).immudb;
    let invalid = CertificateError::Signature(SignatureError::Invalid);
    assert_eq!(certificate.verify(text, Some(&other_key)), Err(invalid));
    for other in ["", "log.example/aethyr\n", &text[1..], &format!("{text}more\n")] {
        assert_eq!(certificate.verify(other, None), Err(CertificateError::OtherCheckpoint), "{other}");
    }
    let old = TxHeader { version: 0, ..header.clone() };
    let old = ImmudbCertificate { header: old, ..certificate.clone() };
    assert_eq!(old.verify(text, None), Err(CertificateError::Header { tx: TxId(42), version: 0 }));
    let moved = EntryProof { leaf: 0, ..certificate.proof.clone() };
    let moved = ImmudbCertificate { proof: moved, ..certificate.clone() };
    assert!(matches!(moved.verify(text, None), Err(CertificateError::Entry(_))));
}

#[test]
fn a_certificate_survives_its_encoding() {
    let certificate = World::new(1).certificate;
    assert_eq!(ImmudbCertificate::decode(&certificate.encode()), Ok(certificate.clone()));
    for (truncated_tx, extra) in
        [(Some(TxId(4)), &b""[..]), (None, &b"extra"[..]), (Some(TxId(4)), &b"extra"[..])]
    {
        let metadata = Some(TxMetadata { truncated_tx, extra: Bytes::copy_from_slice(extra) });
        let header = TxHeader { metadata, ..certificate.header.clone() };
        let with_metadata = ImmudbCertificate { header, signature: None, ..certificate.clone() };
        assert_eq!(ImmudbCertificate::decode(&with_metadata.encode()), Ok(with_metadata));
    }
    let message = |change: &dyn Fn(&mut messages::ImmudbCertificate)| {
        let mut message = messages::ImmudbCertificate::decode(certificate.encode()).unwrap();
        change(&mut message);
        ImmudbCertificate::decode(&message.encode_to_vec())
    };
    assert_eq!(message(&|_| {}), Ok(certificate.clone()));
    let invalid = |field| Err(CertificateError::Field { field });
    assert_eq!(message(&|message| message.version = 0x1_0001), invalid("version"));
    assert_eq!(message(&|message| message.previous_hash = Bytes::new()), invalid("previous_hash"));
    assert_eq!(message(&|message| message.tree_root = vec![0; 33].into()), invalid("tree_root"));
    assert_eq!(message(&|message| message.entries_hash = vec![0; 31].into()), invalid("entries_hash"));
    assert_eq!(message(&|message| message.entry_proof[0] = Bytes::new()), invalid("entry_proof"));
    let many = vec![Bytes::from(vec![0; 32]); 65];
    assert_eq!(message(&|message| message.entry_proof.clone_from(&many)), invalid("entry_proof"));
    for metadata in
        [&b"\0"[..], b"\x01\0\x05four", b"\x02", b"\x01\0\x01ab", b"\x01\0\x01a\0\0\0\0\0\0\0\0\x01"]
    {
        let metadata = Bytes::copy_from_slice(metadata);
        assert_eq!(message(&|message| message.metadata = metadata.clone()), invalid("metadata"));
    }
    assert_eq!(ImmudbCertificate::decode(&[0xff]), Err(CertificateError::NotACertificate));
}
