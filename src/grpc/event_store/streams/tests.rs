//! Tests of the bytes that a live subscription acquires.

use tempfile::tempdir;

use super::*;
use crate::{
    config::LimitsConfig,
    grpc::transport::byte_budget::{ByteBudget, Purpose},
    replication::state::State,
    sequencer::tests::{in_folder, one_event, start},
    shared_limit::Caller,
    store::{Filter, OrderStart, tests::store_over},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_live_read_acquires_its_bytes_once_the_message_before_has_gone_out() {
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let store = Arc::new(store_over(&running, State::LocalOnly, u64::MAX));
    let budget = ByteBudget::new(64 << 20);
    let mut call = Admitted::of(&tonic::Request::new(()));
    call.answer = budget.of_call(&Caller::default(), Purpose::Answer);
    let reads = Reads::new(LimitsConfig::default().largest_record(), budget.clone());
    let reading = ReadContext { store: store.clone(), reads, call: call.clone() };
    let reader = store.read(OrderStart::After(Position(0), None), Filter::default()).unwrap();
    let mut messages = Box::pin(subscribe(reading, reader));
    let caught_up = messages.next().await.unwrap().unwrap();
    assert!(matches!(caught_up.content, Some(messages::SubscribeContent::CaughtUp(_))));
    call.answer.resize(0).unwrap();
    store.append(one_event("room-1")).await.unwrap();
    let first = messages.next().await.unwrap().unwrap();
    assert!(matches!(first.content, Some(messages::SubscribeContent::Events(_))));
    let unsent = budget.used();
    assert!((1..LIVE_READ_BYTES as u64).contains(&unsent), "{unsent}");
    store.append(one_event("room-1")).await.unwrap();
    let mut second = messages.next();
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(budget.used(), unsent, "while the first message is still to be sent");
    call.answer.resize(0).unwrap();
    let second = second.await.unwrap().unwrap();
    assert!(matches!(second.content, Some(messages::SubscribeContent::Events(_))));
}
