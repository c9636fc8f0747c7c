//! Each tree continues each smaller one, and checkpoints can be loaded again.

use aethyr_event_store::{
    grpc::wire::{GetCheckpointRequest, GetConsistencyRequest, GetConsistencyResponse},
    proof::{Hash, consistency, root},
};
use bytes::Bytes;
use tonic::Code;

use super::{checkpoint_of, leaves, signed_checkpoint, verifier_key, with_checkpoints};
use crate::support::{
    events::{append, event, reason, whole_order},
    service::{Client, Service, Setup},
};

/// Around the size of the subtrees whose nodes are kept in a file.
const SIZES: [u64; 10] = [1, 2, 7, 128, 255, 256, 257, 511, 512, 600];
const EVENTS: u64 = 600;

fn hash(bytes: &Bytes) -> Hash {
    Hash::try_from(&bytes[..]).unwrap()
}

async fn consistency_of(client: &mut Client, from_size: u64, to_size: u64) -> GetConsistencyResponse {
    client.get_consistency(GetConsistencyRequest { from_size, to_size }).await.unwrap().into_inner()
}

/// Asserts that the hashes prove the continuation, and that the roots are those of the events.
fn assert_continues(answer: &GetConsistencyResponse, from_size: u64, leaves: &[Hash]) {
    let (from_root, to_root) = (hash(&answer.from_root), hash(&answer.to_root));
    assert_eq!(from_root, root(&leaves[..from_size as usize]));
    assert_eq!(to_root, root(&leaves[..answer.to_size as usize]));
    let hashes: Vec<Hash> = answer.hashes.iter().map(hash).collect();
    let verified = consistency::verify(from_size, &from_root, answer.to_size, &to_root, &hashes);
    assert_eq!(verified, Ok(()), "{from_size} to {}", answer.to_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tree_continues_each_smaller_one() {
    let service = Service::start(with_checkpoints(Setup::local())).await;
    let mut client = service.client();
    for number in 0..EVENTS / 50 {
        append(&mut client, (0..50).map(|_| event(&format!("room-{number}"))).collect()).await;
    }
    let newest = checkpoint_of(&service, EVENTS).await;
    let leaves = leaves(&whole_order(&mut client).await);
    for (number, new) in (1..).zip(SIZES) {
        for old in &SIZES[..number] {
            let answer = consistency_of(&mut client, *old, new).await;
            assert_eq!(answer.to_size, new);
            assert_continues(&answer, *old, &leaves);
        }
    }
    // Without a size, that of the newest checkpoint.
    let answer = consistency_of(&mut client, SIZES[0], 0).await;
    assert_eq!(answer.to_size, newest.size);
    assert_continues(&answer, SIZES[0], &leaves);
    for (from_size, to_size) in [(7, 2), (7, EVENTS + 1), (EVENTS + 1, EVENTS + 2)] {
        let request = GetConsistencyRequest { from_size, to_size };
        assert!(client.get_consistency(request).await.is_err(), "{from_size} to {to_size}");
    }

    let checkpoint = signed_checkpoint(newest.checkpoint.as_bytes(), &verifier_key(&service));
    assert_eq!((checkpoint.size(), newest.size), (EVENTS, EVENTS));
    assert_eq!(*checkpoint.root(), root(&leaves));
    let load = async |size| service.client().get_checkpoint(GetCheckpointRequest { size }).await;
    assert_eq!(load(EVENTS).await.unwrap().into_inner().checkpoint, newest.checkpoint);
    let status = load(EVENTS + 1).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "NO_CHECKPOINT"));
}
