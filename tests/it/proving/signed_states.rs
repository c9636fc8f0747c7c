//! A proof has ImmuDB's word for its checkpoint, too.

use std::time::Instant;

use aethyr_event_store::{
    grpc::wire::RecordedEvent,
    proof::{SignedNote, VerifierKey},
};
use tempfile::tempdir;

use super::{
    POLL,
    file::{Certificate, Proof},
    proof_of,
    verifier::Verifier,
    verifier_key, with_checkpoints,
};
use crate::support::{
    events::{append_to, whole_order},
    immudb::{
        ImmuDb,
        other_client::OtherClient,
        signing::{self, ANOTHER_PUBLIC_KEY, ITS_PUBLIC_KEY, SIGNING_KEY},
    },
    service::{PATIENCE, Service, Setup},
};

const DATABASE: &str = "aethyr";
const EVENTS: usize = 20;

/// Returns the proof of an event as soon as it has ImmuDB's part, which comes after the checkpoint.
pub async fn certified_proof_of(service: &Service, event: &RecordedEvent) -> (Proof, Certificate) {
    let mut client = service.client();
    let until = Instant::now() + PATIENCE;
    loop {
        let proof = proof_of(&mut client, event).await;
        if let Some(certificate) = proof.extra.immudb.clone() {
            return (proof, certificate);
        }
        assert!(Instant::now() < until, "no part of ImmuDB's:\n{}", service.log());
        tokio::time::sleep(POLL).await;
    }
}

/// Asserts that ImmuDB has the checkpoint of the proof, as the proof says.
pub async fn assert_in_immudb(immudb: &ImmuDb, key: &VerifierKey, proof: &Proof, found: &Certificate) {
    let name = format!("checkpoint:{:020}", proof.checkpoint_size());
    assert_eq!((&*found.database, str::from_utf8(&found.key)), (DATABASE, Ok(&*name)));
    let stored = SignedNote::parse(&found.value).unwrap();
    assert_eq!(stored.verify(key), proof.file.checkpoint.verify(key));
    assert!(stored.verify(key).is_ok());
    let other = OtherClient::log_in(immudb, DATABASE).await;
    assert_eq!(other.value(&name).await, found.value);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_immudb_is_accepted_with_its_key_alone() {
    let dir = tempdir().unwrap();
    let signing_key = signing::write(dir.path(), "signing.key", SIGNING_KEY);
    let right = signing::write(dir.path(), "right.pem", ITS_PUBLIC_KEY);
    let wrong = signing::write(dir.path(), "wrong.pem", ANOTHER_PUBLIC_KEY);
    let [right, wrong] = [&right, &wrong].map(|path| ["--immudb-key", path.to_str().unwrap()]);
    let flag = format!("--signingKey={}", signing_key.display());
    let mut immudb = ImmuDb::start_with(dir.path(), &[&flag]).await;
    let setup = with_checkpoints(Setup::with_immudb(immudb.port()))
        .set("immudb", "keep_alive: 90.0")
        .set("immudb", &format!("public_key_file: {}", right[1]));
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", EVENTS).await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    let key = verifier_key(&service);

    let mut proofs = Vec::new();
    for event in [&order[0], &order[EVENTS / 2], &order[EVENTS - 1]] {
        let (proof, certificate) = certified_proof_of(&service, event).await;
        proof.assert_proves(event, &key);
        assert_in_immudb(&immudb, &key, &proof, &certificate).await;
        proofs.push((proof, certificate));
    }
    assert!(service.stop().success());
    immudb.stop().await;

    let verifier = Verifier::of(&key);
    for (proof, certificate) in proofs {
        let text = proof.text.as_bytes();
        let printed = verifier.assert_accepts(text, &right);
        assert!(printed.contains("by the word of ImmuDB"), "{printed}");
        verifier.assert_accepts(text, &[]);
        verifier.assert_refuses(text, &wrong);
        for part in [&certificate.signature, &certificate.entries_hash, &certificate.value, &certificate.key]
        {
            verifier.assert_refuses(&proof.flipped(part), &right);
        }
    }
}
