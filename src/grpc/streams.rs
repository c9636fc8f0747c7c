//! Long answers in messages of a bounded size. A stream reads the next piece only when the one before was
//! taken, so a caller that does not read costs a little memory and no more.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::{
    answers,
    decode::hash_bytes,
    encode,
    gate::{Admitted, permit},
    status, wire,
};
use crate::{
    event::{Hash, Position},
    log::Tip,
    store::{AggregateReader, EventStore, Limit, OrderChunk, OrderReader, StoreError, Unavailable},
};

/// What an open stream holds until its end.
pub struct Open {
    pub admitted: Admitted,
    /// Its place among those that may be open.
    pub _place: OwnedSemaphorePermit,
}

impl Open {
    /// Takes one of `places`, of which there are so many.
    ///
    /// # Errors
    /// All are taken.
    pub fn new<T>(request: &Request<T>, places: &Arc<Semaphore>, max: usize) -> Result<Self, Status> {
        let place = permit(places, Limit::StreamsOpen, max)?;
        Ok(Self { admitted: Admitted::of(request), _place: place })
    }
}

pub type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Records in one message, unless a single event is larger. Each of many streams may have one decoded, one
/// encoded and one waiting for its reader, so a message of 1 MiB would cost all of them gigabytes.
const MESSAGE_BYTES: usize = 128 * 1024;

/// The events of one aggregate.
pub fn load(
    store: Arc<EventStore>,
    reader: AggregateReader,
    open: Open,
) -> Boxed<answers::LoadEventsResponse> {
    let last_sequence = reader.last_sequence().0;
    let start = (reader, First::Yes);
    let messages = stream::try_unfold(start, move |(mut reader, first)| {
        let store = store.clone();
        async move {
            // In a message of its own: together with events it could outgrow what a caller takes.
            if let Some(snapshot) = reader.take_snapshot() {
                store.counters.snapshots_loaded.add(1);
                let snapshot = Some(encode::snapshot(snapshot));
                let message = answers::LoadEventsResponse { snapshot, events: Vec::new(), last_sequence };
                return Ok(Some((message, (reader, First::No))));
            }
            // What was read is let go there: it may be much more than what is sent.
            let next = |reader: &mut AggregateReader| Ok(answers::events(&reader.next(MESSAGE_BYTES)?));
            let (back, read) = blocking(reader, next).await?;
            let events = counted(&store, read)?;
            if events.is_empty() && first == First::No {
                return Ok(None);
            }
            store.counters.events_loaded.add(events.len() as u64);
            let message = answers::LoadEventsResponse { snapshot: None, events, last_sequence };
            Ok(Some((message, (back, First::No))))
        }
    });
    bounded(messages, open)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Yes,
    No,
}

/// The whole order up to its end at the moment of the call.
pub fn read_all(
    store: Arc<EventStore>,
    reader: OrderReader,
    limit: u64,
    open: Open,
) -> Boxed<answers::ReadAllResponse> {
    let tip = store.sequencer().tip();
    let left = if limit == 0 { u64::MAX } else { limit };
    let messages = stream::try_unfold(Some((reader, left, First::Yes)), move |state| {
        let store = store.clone();
        async move {
            let Some((reader, left, first)) = state else { return Ok(None) };
            let (reader, read) = blocking(reader, move |reader| reader.next(tip, MESSAGE_BYTES)).await?;
            let OrderChunk { mut events, at_end, .. } = counted(&store, read)?;
            events.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left.saturating_sub(events.len() as u64);
            store.counters.events_loaded.add(events.len() as u64);
            let ended = at_end || left == 0;
            if ended && events.is_empty() && first == First::No {
                return Ok(None);
            }
            let events = answers::events(&events);
            let message = answers::ReadAllResponse { events, last_position: tip.position.0 };
            Ok(Some((message, (!ended).then_some((reader, left, First::No)))))
        }
    });
    bounded(messages, open)
}

/// What a subscription is at between two messages.
struct Subscription {
    store: Arc<EventStore>,
    reader: OrderReader,
    tip: watch::Receiver<Tip>,
    shutdown: CancellationToken,
    /// The reader has been told that it saw everything.
    caught_up: bool,
    /// The last position that the reader was told, and when.
    told: Position,
    told_at: Instant,
}

/// The whole order, and then what comes.
pub fn subscribe(
    store: Arc<EventStore>,
    reader: OrderReader,
    shutdown: CancellationToken,
    open: Open,
) -> Boxed<answers::SubscribeResponse> {
    let tip = store.sequencer().watch_tip();
    let told = reader.reached();
    let start =
        Subscription { store, reader, tip, shutdown, caught_up: false, told, told_at: Instant::now() };
    bounded(stream::try_unfold(start, Subscription::next), open)
}

impl Subscription {
    async fn next(mut self) -> Result<Option<(answers::SubscribeResponse, Self)>, Status> {
        use answers::Content;
        loop {
            if self.shutdown.is_cancelled() {
                return Err(status::of_error(StoreError::Unavailable(Unavailable::ShuttingDown)));
            }
            let tip = *self.tip.borrow_and_update();
            let read = match self.caught_up && self.reader.is_close_to(tip) {
                true => self.reader.next(tip, MESSAGE_BYTES),
                false => {
                    let next = move |reader: &mut OrderReader| reader.next(tip, MESSAGE_BYTES);
                    let (reader, read) = blocking(self.reader, next).await?;
                    self.reader = reader;
                    read
                }
            };
            let OrderChunk { events, reached, hash, at_end } = counted(&self.store, read)?;
            let content = if !events.is_empty() {
                self.store.counters.events_loaded.add(events.len() as u64);
                Content::Events(answers::EventBatch { events: answers::events(&events) })
            } else if at_end && !self.caught_up {
                self.caught_up = true;
                Content::CaughtUp(wire::CaughtUp { checkpoint: Some(checkpoint(reached, hash)) })
            } else if reached.0.saturating_sub(self.told.0) >= CHECKPOINT_EVERY
                || (at_end && self.wait(reached).await? == Woken::ByNothing)
            {
                Content::Checkpoint(checkpoint(reached, hash))
            } else {
                continue;
            };
            // Far behind again: the end is worth another word when it is reached.
            self.caught_up &= at_end || tip.position.0.saturating_sub(reached.0) < FAR_BEHIND;
            self.told = reached;
            self.told_at = Instant::now();
            let message = answers::SubscribeResponse { content: Some(content) };
            return Ok(Some((message, self)));
        }
    }

    /// Waits for the order to grow; where the reader was not told yet how far it is, only for so long.
    async fn wait(&mut self, reached: Position) -> Result<Woken, Status> {
        let patience = async {
            match reached == self.told {
                true => std::future::pending().await,
                false => tokio::time::sleep_until(self.told_at + CHECKPOINT_AFTER).await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Ok(Woken::ByGrowth),
            // First, so that it comes although the order grows without a pause.
            () = patience => Ok(Woken::ByNothing),
            changed = self.tip.changed() => match changed {
                Ok(()) => Ok(Woken::ByGrowth),
                Err(_) => Err(status::of_error(StoreError::Unavailable(Unavailable::ShuttingDown))),
            },
        }
    }
}

/// Why a subscription looks again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByGrowth,
    ByNothing,
}

/// A reader whose filter lets nothing through is told how far it is after so many events, or so long.
const CHECKPOINT_EVERY: u64 = 1000;
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// A subscriber that lacks so many events does not follow live.
const FAR_BEHIND: u64 = 1000;

fn checkpoint(position: Position, hash: Hash) -> wire::Checkpoint {
    wire::Checkpoint { position: position.0, hash: hash_bytes(hash) }
}

/// Reads where waiting for the disk holds nobody up.
pub async fn blocking<R: Send + 'static, T: Send + 'static>(
    mut reader: R,
    read: impl FnOnce(&mut R) -> T + Send + 'static,
) -> Result<(R, T), Status> {
    let work = move || {
        let read = read(&mut reader);
        (reader, read)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| status::internal("a read was aborted"))
}

fn counted<T>(store: &EventStore, read: Result<T, StoreError>) -> Result<T, Status> {
    read.map_err(|error| {
        store.counters.load_failures.add(1);
        status::of_error(error)
    })
}

/// Ends the stream at the caller's deadline; what it holds goes with it.
pub fn bounded<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    open: Open,
) -> Boxed<T> {
    let deadline = open.admitted.deadline;
    let messages = messages.inspect(move |_| _ = &open);
    let Some(until) = deadline else { return Box::pin(messages) };
    let over = stream::once(async move {
        tokio::time::sleep_until(until).await;
        Err(status::deadline_exceeded())
    });
    // Whatever comes first; an error ends the stream.
    let mut ended = false;
    let merged = stream::select(messages.map(Some).chain(stream::once(async { None })), over.map(Some));
    Box::pin(
        merged
            .take_while(move |item| {
                let go_on = !ended && item.is_some();
                ended |= matches!(item, None | Some(Err(_)));
                std::future::ready(go_on)
            })
            .filter_map(std::future::ready),
    )
}
