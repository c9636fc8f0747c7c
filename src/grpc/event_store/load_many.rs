//! Streams the events of several aggregates, one aggregate after the other.
//!
//! Each message belongs to one read: the first of an aggregate opens it, so that at most one
//! aggregate is open at a time.

use futures_util::stream;
use tonic::Status;

use super::{
    encode,
    messages::LoadManyEventsResponse,
    streams::{Messages, ReadContext, counted, read_events},
};
use crate::{
    error::StoreError,
    event::{AggregateId, Snapshot},
    grpc::transport::reads::{previous_sent, size_answer},
    store::{AggregateReader, EventStore, LoadRequest},
};

/// An aggregate that is being read.
struct Loading {
    aggregate_id: AggregateId,
    reader: AggregateReader,
}

/// What one message has of an aggregate.
struct Part {
    snapshot: Option<Snapshot>,
    events: Vec<bytes::Bytes>,
}

impl Loading {
    fn open(store: &EventStore, request: LoadRequest) -> Result<Self, StoreError> {
        let aggregate_id = request.aggregate_id.clone();
        Ok(Self { aggregate_id, reader: store.load(request)? })
    }

    /// Reads what the next message has. A snapshot has a message of its own: together with events,
    /// it could exceed the message size that the client accepts.
    fn next(mut self) -> Result<(Self, Part), StoreError> {
        let snapshot = self.reader.take_snapshot();
        let events = if snapshot.is_some() { Vec::new() } else { read_events(&mut self.reader)? };
        Ok((self, Part { snapshot, events }))
    }

    fn message(&self, part: Part) -> LoadManyEventsResponse {
        LoadManyEventsResponse {
            aggregate_id: self.aggregate_id.as_str().to_owned(),
            aggregate_type: self.reader.aggregate_type().unwrap_or_default().to_owned(),
            snapshot: part.snapshot.map(encode::snapshot),
            events: part.events,
            last_sequence: self.reader.last_sequence().0,
            last: self.reader.is_at_end(),
        }
    }
}

/// The memory of a request that waits for its turn, apart from its id.
const REQUEST_BYTES: usize = 256;

/// What the next message is read from.
enum Turn {
    Open(LoadRequest),
    Continue(Box<Loading>),
}

impl Turn {
    fn read(self, store: &EventStore) -> Result<(Loading, Part), StoreError> {
        match self {
            Self::Open(request) => Loading::open(store, request)?.next(),
            Self::Continue(loading) => loading.next(),
        }
    }
}

/// Streams the events of aggregates in the order of the requests.
///
/// # Errors
/// Returns an error if there are no bytes for the requests, which may wait for their turn for a
/// long time.
pub(super) fn load_many(
    reading: ReadContext,
    requests: Vec<LoadRequest>,
) -> Result<impl Messages<LoadManyEventsResponse>, Status> {
    let bytes = |request: &LoadRequest| request.aggregate_id.as_str().len().saturating_add(REQUEST_BYTES);
    let kept = reading.reads.kept_bytes(&reading.call);
    kept.resize(requests.iter().map(bytes).sum())?;
    let start = (requests.into_iter(), None, kept);
    Ok(stream::try_unfold(start, move |(mut requests, loading, kept)| {
        let turn = loading
            .map(|loading| Turn::Continue(Box::new(loading)))
            .or_else(|| requests.next().map(Turn::Open));
        let ReadContext { store, reads, call } = reading.clone();
        async move {
            let Some(turn) = turn else { return Ok(None) };
            previous_sent().await;
            let from = store.clone();
            let read = reads.run(&call, move || turn.read(&from)).await?;
            let (loading, part) = counted(&store, read)?;
            store.counters.events_loaded.add(part.events.len() as u64);
            store.counters.snapshots_loaded.add(u64::from(part.snapshot.is_some()));
            let message = loading.message(part);
            size_answer(&call, &message)?;
            let loading = (!message.last).then_some(loading);
            Ok(Some((message, (requests, loading, kept))))
        }
    }))
}
