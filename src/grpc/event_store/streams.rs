//! Streams long responses in messages of a bounded size.
//!
//! A stream reads the next chunk only after the previous message has been taken, so a client that
//! does not read costs only a little memory. The limits on reads and bytes are left to `transport`.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    decode::hash_bytes,
    encode,
    messages::{self, SubscribeContent},
};
use crate::{
    error::StoreError,
    event::{ChainHash, Position},
    grpc::{
        status,
        transport::{
            authentication::CallPrincipal,
            concurrency::Admitted,
            reads::{Reads, previous_sent, size_answer},
        },
        wire,
    },
    replication::head::TreeHead,
    store::{AggregateReader, EventStore, LoadRequest, OrderChunk, OrderReader, Tip},
    tree::TreeView,
};

/// What a stream reads with, and the call that it belongs to.
#[derive(Clone)]
pub(crate) struct ReadContext {
    pub store: Arc<EventStore>,
    pub reads: Reads,
    pub call: Admitted,
}

pub(crate) type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The bytes of records in one message, unless a single event is larger. Each of many streams may
/// have one message decoded, one encoded and one waiting for its client, so messages of 1 MiB would
/// cost gigabytes in total.
const MESSAGE_BYTES: usize = 128 * 1024;

/// Streams the events of one aggregate. Unless there is a snapshot, the events of the first message
/// are read in one step with the index lookup, because most aggregates have no more. If `confirmed`
/// is given, each event is compared with that tree.
///
/// # Errors
/// Returns an error if the aggregate cannot be read.
pub(crate) async fn load(
    reading: ReadContext,
    request: LoadRequest,
    confirmed: Option<(TreeView, TreeHead)>,
) -> Result<impl Messages<messages::LoadEventsResponse>, Status> {
    let ReadContext { store, reads, call } = reading.clone();
    let open = move || {
        let mut reader = store.load(request)?;
        if let Some((view, head)) = confirmed {
            reader.compare_with(view, head)?;
        }
        let first = (!reader.has_snapshot()).then(|| read_events(&mut reader));
        Ok((reader, first))
    };
    let (reader, first) = call.in_time(reads.run(&call, open)).await?.map_err(status::of_error)?;
    let last_sequence = reader.last_sequence().0;
    let aggregate_type = reader.aggregate_type().unwrap_or_default().to_owned();
    let message = move |snapshot, events| messages::LoadEventsResponse {
        snapshot,
        events,
        last_sequence,
        aggregate_type: aggregate_type.clone(),
    };
    let store = reading.store.clone();
    let first = first.map(|read| counted(&store, read)).transpose()?.map(|events| message(None, events));
    // A snapshot that has been read may wait for its client for a long time.
    let kept = reading.reads.kept_bytes(&call);
    match &first {
        Some(message) => size_answer(&call, message)?,
        None => {
            call.answer.resize(0)?;
            kept.resize(reader.kept_bytes())?;
        }
    }
    Ok(stream::try_unfold((reader, first, Some(kept)), move |(mut reader, first, _kept)| {
        let ReadContext { store, reads, call } = reading.clone();
        let message = message.clone();
        async move {
            if let Some(message) = first {
                store.counters.events_loaded.add(message.events.len() as u64);
                return Ok(Some((message, (reader, None, None))));
            }
            // Sent in a message of its own: together with events, it could exceed the message size
            // that the client accepts.
            if let Some(snapshot) = reader.take_snapshot() {
                store.counters.snapshots_loaded.add(1);
                let snapshot = Some(encode::snapshot(snapshot));
                let message = message(snapshot, Vec::new());
                size_answer(&call, &message)?;
                return Ok(Some((message, (reader, None, None))));
            }
            if reader.is_at_end() {
                return Ok(None);
            }
            let (reader, read) = reads.next(&call, reader, read_events).await?;
            let message = message(None, counted(&store, read)?);
            store.counters.events_loaded.add(message.events.len() as u64);
            size_answer(&call, &message)?;
            Ok(Some((message, (reader, None, None))))
        }
    }))
}

/// Reads the next events. The records themselves are dropped here, because they may hold much more
/// memory than is sent.
pub(super) fn read_events(reader: &mut AggregateReader) -> Result<Vec<bytes::Bytes>, StoreError> {
    Ok(messages::events(&reader.next(MESSAGE_BYTES)?))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Yes,
    No,
}

/// A chunk of the global order, ready to be sent. The events are copies, because the records that
/// were read keep more memory alive than their own.
struct Read {
    events: Vec<bytes::Bytes>,
    reached: Position,
    hash: ChainHash,
    at_end: bool,
}

/// Reads the next chunk, with at most `left` events if there is a limit.
fn read_order(reader: &mut OrderReader, tip: Tip, left: Option<u64>) -> Result<Read, StoreError> {
    let OrderChunk { mut events, reached, hash, at_end } = reader.next(tip, MESSAGE_BYTES)?;
    if let Some(left) = left {
        events.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    }
    Ok(Read { events: messages::events(&events), reached, hash, at_end })
}

/// Streams the global order of events up to the tip at the time of the call, at most `limit`
/// events.
pub(crate) fn read_all(
    reading: ReadContext,
    reader: OrderReader,
    limit: Option<u64>,
) -> impl Messages<messages::ReadAllResponse> {
    let tip = reading.store.tip();
    stream::try_unfold(Some((reader, limit, First::Yes)), move |state| {
        let ReadContext { store, reads, call } = reading.clone();
        async move {
            let Some((reader, left, first)) = state else { return Ok(None) };
            let next = move |reader: &mut OrderReader| read_order(reader, tip, left);
            let (reader, read) = reads.next(&call, reader, next).await?;
            let Read { events, at_end, .. } = counted(&store, read)?;
            let left = left.map(|left| left.saturating_sub(events.len() as u64));
            store.counters.events_loaded.add(events.len() as u64);
            let ended = at_end || left == Some(0);
            if ended && events.is_empty() && first == First::No {
                return Ok(None);
            }
            let message = messages::ReadAllResponse { events, last_position: tip.position.0 };
            size_answer(&call, &message)?;
            Ok(Some((message, (!ended).then_some((reader, left, First::No)))))
        }
    })
}

/// The state of a subscription between two messages.
struct Subscription {
    reading: ReadContext,
    reader: OrderReader,
    tip: watch::Receiver<Tip>,
    /// Whether the client has been told that it has all events, and has not fallen far behind
    /// since.
    caught_up: bool,
    /// The last position sent to the client, and the time at which it was sent.
    told: Position,
    told_at: Instant,
}

/// Streams the global order of events, and then new events as they are appended.
pub(crate) fn subscribe(
    reading: ReadContext,
    reader: OrderReader,
) -> impl Messages<messages::SubscribeResponse> {
    let (tip, told) = (reading.store.watch_tip(), reader.reached());
    let start = Subscription { reading, reader, tip, caught_up: false, told, told_at: Instant::now() };
    stream::try_unfold(start, Subscription::next)
}

impl Subscription {
    async fn next(mut self) -> Result<Option<(messages::SubscribeResponse, Self)>, Status> {
        // Before bytes are acquired, because the previous message still uses the bytes of this
        // call.
        previous_sent().await;
        loop {
            let tip = *self.tip.borrow_and_update();
            let ReadContext { store, reads, call } = &self.reading;
            let next = move |reader: &mut OrderReader| read_order(reader, tip, None);
            let is_live = self.caught_up && self.reader.is_close_to(tip);
            let read = if is_live && call.answer.try_resize(LIVE_READ_BYTES).is_ok() {
                next(&mut self.reader)
            } else {
                let (reader, read) = reads.next(call, self.reader, next).await?;
                self.reader = reader;
                read
            };
            let read = counted(store, read)?;
            let (reached, hash, at_end) = (read.reached, read.hash, read.at_end);
            let content = match self.content(read) {
                Some(content) => content,
                None if !at_end => continue,
                None => match self.wait(reached).await? {
                    Woken::ByGrowth => continue,
                    Woken::ByTime => SubscribeContent::Checkpoint(checkpoint(reached, hash)),
                },
            };
            // If the client falls far behind again, it is notified again when it has caught up.
            self.caught_up &= at_end || tip.position.0.saturating_sub(reached.0) < FAR_BEHIND;
            self.told = reached;
            self.told_at = Instant::now();
            let message = messages::SubscribeResponse { content: Some(content) };
            size_answer(&self.reading.call, &message)?;
            return Ok(Some((message, self)));
        }
    }

    /// Returns the message after a read, or `None` if there is nothing to tell the client yet.
    fn content(&mut self, read: Read) -> Option<SubscribeContent> {
        let Read { events, reached, hash, at_end } = read;
        if !events.is_empty() {
            self.reading.store.counters.events_loaded.add(events.len() as u64);
            return Some(SubscribeContent::Events(messages::EventBatch { events }));
        }
        if at_end && !self.caught_up {
            self.caught_up = true;
            let checkpoint = Some(checkpoint(reached, hash));
            return Some(SubscribeContent::CaughtUp(wire::CaughtUp { checkpoint }));
        }
        let is_due = reached.0.saturating_sub(self.told.0) >= CHECKPOINT_EVERY;
        is_due.then(|| SubscribeContent::Checkpoint(checkpoint(reached, hash)))
    }

    /// Waits for the order to grow. If the position has not been sent to the client yet, the wait
    /// ends when a checkpoint is due.
    async fn wait(&mut self, reached: Position) -> Result<Woken, Status> {
        // Nothing is read while waiting.
        self.reading.call.answer.resize(0)?;
        let due = async {
            if reached == self.told {
                std::future::pending().await
            } else {
                tokio::time::sleep_until(self.told_at + CHECKPOINT_AFTER).await
            }
        };
        tokio::select! {
            biased;
            // First, so that the checkpoint is sent even if the order keeps growing.
            () = due => Ok(Woken::ByTime),
            changed = self.tip.changed() => match changed {
                Ok(()) => Ok(Woken::ByGrowth),
                Err(_) => Err(status::shutting_down()),
            },
        }
    }
}

/// Why a waiting subscription continues.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByGrowth,
    /// A checkpoint is due.
    ByTime,
}

/// A client whose filter matches nothing is sent a checkpoint after this many events, or after this
/// much time.
const CHECKPOINT_EVERY: u64 = 1000;
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// A subscription that is this many events behind does not count as live.
const FAR_BEHIND: u64 = 1000;

/// The bytes acquired for a read of events that have just been written: the events as read, and
/// their encoding in the response.
const LIVE_READ_BYTES: usize = 768 * 1024;

fn checkpoint(position: Position, hash: ChainHash) -> wire::Checkpoint {
    wire::Checkpoint { position: position.0, chain_hash: hash_bytes(hash) }
}

pub(super) fn counted<T>(store: &EventStore, read: Result<T, StoreError>) -> Result<T, Status> {
    read.map_err(|error| {
        if error.is_failure() {
            store.counters.load_failures.add(1);
        }
        status::of_error(error)
    })
}

/// The messages of a stream.
pub(crate) trait Messages<T>: Stream<Item = Result<T, Status>> + Send + 'static {}

impl<T, S: Stream<Item = Result<T, Status>> + Send + 'static> Messages<T> for S {}

/// Ends the stream at the client's deadline, when its caller loses its identity or a right, and
/// when the service stops. Everything that the stream holds is released with it.
pub(crate) fn bounded<T: Send + 'static>(
    messages: impl Messages<T>,
    call: Admitted,
    closing: CancellationToken,
) -> Boxed<T> {
    let end = Box::pin(end_reason(call.deadline, call.principal.clone(), closing));
    let start = (Box::pin(messages), end, call);
    Box::pin(stream::try_unfold(start, |(mut messages, mut end, call)| async move {
        let message = tokio::select! {
            biased;
            status = &mut end => return Err(status),
            message = messages.next() => message.transpose()?,
        };
        Ok(message.map(|message| (message, (messages, end, call))))
    }))
}

/// Waits until a stream has to end, and returns why.
async fn end_reason(deadline: Option<Instant>, caller: CallPrincipal, closing: CancellationToken) -> Status {
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = closing.cancelled() => status::shutting_down(),
        () = over => status::deadline_exceeded(),
        status = caller.revocation() => status,
    }
}

#[cfg(test)]
mod tests;
