//! Retries with the same event ids, in every state of the service: they get the first answer again,
//! and nothing is stored.

use aethyr_event_store::grpc::wire::{AppendEventsRequest, AppendEventsResponse, NewEvent, State, StoredIn};
use tempfile::tempdir;
use tonic::Code;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, expecting, reason, request, whole_order},
        immudb::ImmuDb,
        proxy::{Mode, Proxy},
        service::{Service, Setup},
    },
};

/// An append and its first answer.
struct Sent {
    request: AppendEventsRequest,
    first: AppendEventsResponse,
}

impl Sent {
    async fn to(service: &Service, aggregate: &str) -> Self {
        let other = format!("{aggregate}-other");
        let events = vec![event(aggregate), event(&other), event(aggregate)];
        let request = expecting(events, &[(aggregate, 0), (&other, 0)]);
        let first = service.client().append_events(request.clone()).await.unwrap().into_inner();
        Self { request, first }
    }

    /// Asserts that a retry of the whole append gets the same answer, and that one in part, in
    /// another order, with more events or with changes is refused. Nothing is stored.
    async fn again(&self, service: &Service, stored_in: StoredIn) {
        let before = service.stats().await.event_count;
        let racers = (0..2).map(|_| {
            let (mut client, request) = (service.client(), self.request.clone());
            tokio::spawn(async move { client.append_events(request).await.unwrap().into_inner() })
        });
        for racer in racers.collect::<Vec<_>>() {
            let again = racer.await.unwrap();
            assert!(again.already_stored);
            assert_eq!(again.event_ids, self.first.event_ids);
            assert_eq!(again.aggregates, self.first.aggregates);
            let positions = |answer: &AppendEventsResponse| (answer.first_position, answer.last_position);
            assert_eq!(positions(&again), positions(&self.first));
            assert_eq!(again.stored_in(), stored_in);
            assert_eq!(again.immudb_tx > 0, stored_in == StoredIn::Immudb);
        }
        let events = &self.request.events;
        let mut reversed = events.clone();
        reversed.reverse();
        let mut joined = events.clone();
        joined.push(event("somebody-else"));
        let mut changed = events.clone();
        changed[1].event_type = "RoomDestroyed".into();
        for wrong in [events[..2].to_vec(), reversed, joined, changed] {
            assert_reused(service, wrong).await;
        }
        assert_eq!(service.stats().await.event_count, before);
    }
}

async fn assert_reused(service: &Service, events: Vec<NewEvent>) {
    let status = service.client().append_events(request(events)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "EVENT_ID_REUSED"));
}

/// The index entry of an id shows that the id was used for another event.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_another_event_is_refused_without_reading_what_is_stored() {
    let service = Service::start(Setup::local()).await;
    let sent = NewEvent { event_type: "LookedFor".to_owned(), ..event("room-1") };
    let sent = NewEvent { event_id: uuid::Uuid::new_v4().to_string(), ..sent };
    append(&mut service.client(), vec![sent.clone()]).await;
    let segment = service.segments().pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(9).position(|bytes| bytes == b"LookedFor").unwrap();
    bytes[at] ^= 1;
    // In place, because the service has the file open.
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&segment).unwrap(),
        &bytes[at..=at],
        at as u64,
    )
    .unwrap();
    let again = service.client().append_events(request(vec![sent.clone()])).await.unwrap_err();
    assert_eq!(again.code(), Code::DataLoss, "{again:?}");
    assert_reused(&service, vec![NewEvent { event_type: "Changed".to_owned(), ..sent }]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_every_state_and_after_restarts() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    // Small transactions, so that the migration can be observed while it runs.
    let setup = Setup::with_immudb(proxy.port())
        .set("immudb", "batch_keys_max: 3")
        .set("immudb", "retry_delay: 0.05")
        .set("immudb", "retry_delay_max: 0.5");
    let mut service = Service::start(setup).await;
    let connected = Sent::to(&service, "connected").await;
    connected.again(&service, StoredIn::Immudb).await;

    immudb.kill();
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Fallback).await;
    let fallback = Sent::to(&service, "fallback").await;
    fallback.again(&service, StoredIn::LocalLog).await;
    connected.again(&service, StoredIn::Immudb).await;
    service.kill();
    service.restart().await;
    fallback.again(&service, StoredIn::LocalLog).await;
    connected.again(&service, StoredIn::Immudb).await;

    // One append per transaction, each delayed by the proxy. Once the migration has begun, it is
    // held back.
    append_to(&mut service.client(), "room-2", 200).await;
    proxy.set(Mode::Slow);
    immudb.restart().await;
    service.wait_for_state(State::Migrating).await;
    proxy.set(Mode::KeepRequests);
    let migrating = Sent::to(&service, "migrating").await;
    migrating.again(&service, StoredIn::LocalLog).await;
    connected.again(&service, StoredIn::Immudb).await;
    assert_eq!(service.stats().await.state(), State::Migrating);
    proxy.set(Mode::Pass);
    service.wait_until_forwarded().await;
    for sent in [&connected, &fallback, &migrating] {
        sent.again(&service, StoredIn::Immudb).await;
    }
    service.kill();
    service.restart().await;
    service.wait_until_forwarded().await;
    for sent in [&connected, &fallback, &migrating] {
        sent.again(&service, StoredIn::Immudb).await;
    }
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);

    immudb.reader(&["--database", "aethyr", "delete", "log:head"]);
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Suspect).await;
    let suspect = Sent::to(&service, "suspect").await;
    suspect.again(&service, StoredIn::LocalLog).await;
    // The contents of ImmuDB are in doubt.
    connected.again(&service, StoredIn::LocalLog).await;
    whole_order(&mut service.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_only_and_then_with_immudb() {
    let mut service = Service::start(Setup::local()).await;
    let sent = Sent::to(&service, "room-1").await;
    sent.again(&service, StoredIn::LocalLog).await;
    assert!(service.stop().success());
    service.restart().await;
    sent.again(&service, StoredIn::LocalLog).await;
    service.stop();
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    service.reconfigure(Setup::with_immudb(immudb.port()));
    service.restart().await;
    service.wait_until_forwarded().await;
    sent.again(&service, StoredIn::Immudb).await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}
