//! The streams of callers that may not see password hashes.
//!
//! The messages are those that other callers get, and the hashes in them are masked before they are
//! sent.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use tonic::Status;

use super::{
    messages::{
        LoadEventsResponse, LoadManyEventsResponse, ReadAllResponse, SubscribeContent, SubscribeResponse,
    },
    streams::Messages,
};
use crate::grpc::{redaction, status};

/// Masks the events of an aggregate of this type, and its snapshot.
pub(super) fn load(
    messages: impl Messages<LoadEventsResponse>,
    aggregate_type: Arc<str>,
) -> impl Messages<LoadEventsResponse> {
    messages.map(move |message| -> Result<_, Status> {
        let mut message = message?;
        message.events = masked(message.events)?;
        if let Some(snapshot) = &mut message.snapshot {
            redaction::snapshot(snapshot, &aggregate_type);
        }
        Ok(message)
    })
}

/// Masks the events of several aggregates, and their snapshots.
pub(super) fn load_many(
    messages: impl Messages<LoadManyEventsResponse>,
) -> impl Messages<LoadManyEventsResponse> {
    messages.map(|message| -> Result<_, Status> {
        let mut message = message?;
        message.events = masked(message.events)?;
        if let Some(snapshot) = &mut message.snapshot {
            redaction::snapshot(snapshot, &message.aggregate_type);
        }
        Ok(message)
    })
}

/// Masks the events of the order.
pub(super) fn read_all(messages: impl Messages<ReadAllResponse>) -> impl Messages<ReadAllResponse> {
    messages.map(|message| -> Result<_, Status> {
        let mut message = message?;
        message.events = masked(message.events)?;
        Ok(message)
    })
}

/// Masks the events of a subscription.
pub(super) fn subscribe(messages: impl Messages<SubscribeResponse>) -> impl Messages<SubscribeResponse> {
    messages.map(|message| -> Result<_, Status> {
        let mut message = message?;
        if let Some(SubscribeContent::Events(batch)) = &mut message.content {
            batch.events = masked(std::mem::take(&mut batch.events))?;
        }
        Ok(message)
    })
}

fn masked(events: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
    redaction::events(events).map_err(status::of_error)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use prost::Message;

    use super::*;
    use crate::grpc::{event_store::messages::EventBatch, wire};

    const HASH: &str = "5f4dcc3b5aa765d61d8327deb882cf99";

    fn event() -> Bytes {
        let json = format!(r#"{{"password_hash":"{HASH}"}}"#);
        let event = wire::RecordedEvent {
            aggregate_type: "Player".to_owned(),
            event_type: "PlayerPasswordUpdated".to_owned(),
            data: Some(wire::recorded_event::Data::Json(json)),
            ..wire::RecordedEvent::default()
        };
        event.encode_to_vec().into()
    }

    /// Returns how many messages a stream has, none of which may have the hash.
    async fn without_hash<T: Message>(messages: impl Messages<T>) -> usize {
        let sent: Vec<_> = messages.collect().await;
        for message in &sent {
            let bytes = message.as_ref().unwrap().encode_to_vec();
            assert!(bytes.windows(3).any(|bytes| bytes == b"***"));
            assert!(!bytes.windows(HASH.len()).any(|bytes| bytes == HASH.as_bytes()));
        }
        sent.len()
    }

    #[tokio::test]
    async fn no_stream_has_a_hash() {
        let json = wire::snapshot::Data::Json(format!(r#"{{"password_hash":"{HASH}"}}"#));
        let snapshot = wire::Snapshot { data: Some(json), ..wire::Snapshot::default() };
        let loaded = |snapshot, events| {
            Ok::<_, Status>(LoadEventsResponse { snapshot, events, ..LoadEventsResponse::default() })
        };
        let loaded = [loaded(Some(snapshot.clone()), Vec::new()), loaded(None, vec![event()])];
        assert_eq!(without_hash(load(stream::iter(loaded), "Player".into())).await, 2);
        let loaded = |snapshot, events| {
            let aggregate_type = "Player".to_owned();
            let other = LoadManyEventsResponse::default();
            Ok::<_, Status>(LoadManyEventsResponse { snapshot, events, aggregate_type, ..other })
        };
        let loaded = [loaded(Some(snapshot), Vec::new()), loaded(None, vec![event()])];
        assert_eq!(without_hash(load_many(stream::iter(loaded))).await, 2);
        let read = [Ok::<_, Status>(ReadAllResponse { events: vec![event(), event()], last_position: 2 })];
        assert_eq!(without_hash(read_all(stream::iter(read))).await, 1);
        let batch = SubscribeContent::Events(EventBatch { events: vec![event()] });
        let subscribed = [Ok::<_, Status>(SubscribeResponse { content: Some(batch) })];
        assert_eq!(without_hash(subscribe(stream::iter(subscribed))).await, 1);
    }
}
