//! What a call may look like on the wire: deadlines, metadata, compression and message formats.
//!
//! Everything else is rejected with a proper status, and stores nothing.

use std::io::Write;

use aethyr_event_store::grpc::wire::{
    NewEvent, event_store_service_client::EventStoreServiceClient, new_event::Data,
};
use prost::Message;
use tonic::{Code, Request, codec::CompressionEncoding};

use crate::support::{
    events::{append, event, reason, request, whole_order},
    h2::{Answer, call, framed},
    service::{Service, Setup},
};

const APPEND: &str = "/aethyr.eventstore.v1.EventStoreService/AppendEvents";

async fn append_with(service: &Service, headers: &[(&str, &str)]) -> Answer {
    let body = request(vec![event("room-1")]).encode_to_vec();
    call(service.port(), APPEND, headers, framed(0, &body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_deadline_is_over_is_not_stored() {
    let service = Service::start(Setup::local()).await;
    for timeout in ["0S", "0n", "00000000H", "1n"] {
        let answer = append_with(&service, &[("grpc-timeout", timeout)]).await;
        assert_eq!(answer.status, Some(Code::DeadlineExceeded), "{timeout}: {answer:?}");
    }
    // A stored append would have taken an earlier position.
    let stored = append(&mut service.client(), vec![event("room-1")]).await;
    assert_eq!((stored.first_position, whole_order(&mut service.client()).await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_deadline_is_a_bad_request() {
    let service = Service::start(Setup::local()).await;
    for timeout in ["+5S", "-1S", "5", "S", "5s", "123456789S", "1.5S"] {
        let answer = append_with(&service, &[("grpc-timeout", timeout)]).await;
        assert_eq!(answer.status, Some(Code::InvalidArgument), "{timeout}: {answer:?}");
    }
    assert_eq!(append_with(&service, &[("grpc-timeout", "60S")]).await.status, Some(Code::Ok));
    assert_eq!(service.stats().await.event_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_metadata_is_refused_by_name() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let with = |bytes: usize| {
        let mut request = Request::new(request(vec![event("room-1")]));
        request.metadata_mut().insert("x-filler", "f".repeat(bytes).parse().unwrap());
        request
    };
    client.append_events(with(15_000)).await.unwrap();
    for bytes in [16_384, 30_000, 60_000] {
        let status = client.append_events(with(bytes)).await.unwrap_err();
        let named = (status.code(), reason(&status));
        assert_eq!(named, (Code::ResourceExhausted, "METADATA_BYTES".to_owned()), "{bytes}: {status:?}");
    }
    assert_eq!(service.stats().await.event_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_taken() {
    let service = Service::start(Setup::local()).await;
    let large = Some(Data::Json(format!("\"{}\"", "x".repeat(900_000))));
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = EventStoreServiceClient::new(service.channel()).send_compressed(encoding);
        append(&mut client, vec![event("room-1")]).await;
        let events = (0..8).map(|_| NewEvent { data: large.clone(), ..event("room-1") }).collect();
        append(&mut client, events).await;
    }
    assert_eq!(service.stats().await.event_count, 18);
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_are_on_what_a_request_unpacks_to() {
    let service = Service::start(Setup::local()).await;
    let with = |data: usize| {
        let data = Some(Data::Binary(vec![0; data].into()));
        gzip(&request(vec![NewEvent { data, ..event("room-1") }]).encode_to_vec())
    };
    let send = async |encoding: &str, message: &[u8]| {
        call(service.port(), APPEND, &[("grpc-encoding", encoding)], framed(1, message)).await
    };
    // The first exceeds the limit for an event, the second the limit for a message.
    assert_eq!(send("gzip", &with(1_000_001)).await.status, Some(Code::InvalidArgument));
    let bomb = with(200_000_000);
    assert!(bomb.len() < 500_000);
    assert_eq!(send("gzip", &bomb).await.status, Some(Code::OutOfRange));
    assert_eq!(send("gzip", b"no archive").await.status, Some(Code::Internal));
    let other = send("rot13", &with(1)).await;
    assert_eq!(other.status, Some(Code::Unimplemented));
    assert_eq!(other.headers["grpc-accept-encoding"], "identity,gzip,zstd");
    assert_eq!(service.stats().await.event_count, 0);
    assert_eq!(send("gzip", &with(1)).await.status, Some(Code::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_format_are_refused() {
    let service = Service::start(Setup::local()).await;
    let answered = async |content: &str| {
        let answer = append_with(&service, &[("content-type", content)]).await;
        (answer.http, answer.status)
    };
    for content in ["application/grpc+json", "application/grpc+thrift"] {
        assert_eq!(answered(content).await, (200, Some(Code::Unimplemented)), "{content}");
    }
    for content in ["application/json", "application/grpc-web", "text/plain"] {
        assert_eq!(answered(content).await, (415, None), "{content}");
    }
    assert_eq!(service.stats().await.event_count, 0);
    for content in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        assert_eq!(answered(content).await, (200, Some(Code::Ok)), "{content}");
    }
}
