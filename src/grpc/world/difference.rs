//! Runs `DiffWorld` piece by piece: finds the objects that changed, and then how they changed.
//!
//! No client can occupy all permits, and a client that does not read holds none. Comparing an
//! object is left to [`DifferenceReader`].

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

use super::{encode, piece};
use crate::{
    grpc::{
        status,
        transport::{concurrency::Admitted, read_limits::DIFFERENCES_PER_CALLER_MAX, reads::Reads},
        wire::world as wire,
    },
    world::{
        error::WorldError,
        history::{difference::DifferenceReader, replay::AggregateSource},
    },
};

/// The maximum number of objects compared for one message, and the bytes of those that differ,
/// unless a single one is larger.
const LOOKED_AT_MAX: usize = 32;
const DIFF_BYTES: usize = 256 * 1024;

/// The maximum number of differences that find the changed objects at the same time. Each holds a
/// piece of the log meanwhile. None of them waits for its client.
pub(super) const COLLECTING_MAX: usize = 2 * DIFFERENCES_PER_CALLER_MAX;

/// Finds the objects that changed.
///
/// # Errors
/// See [`DifferenceReader::collect`].
pub(super) async fn collected(
    reads: Reads,
    call: Admitted,
    collecting: Arc<Semaphore>,
    mut reader: DifferenceReader,
) -> Result<DifferenceReader, Status> {
    let own = call.client.differences().clone();
    let collect = async move {
        // Piece by piece, so that it ends soon after the client is gone.
        while !reader.is_ready() {
            (reader, ()) = piece(&reads, &call, reader, DifferenceReader::collect).await?;
        }
        Ok(reader)
    };
    in_its_place(own, collecting, collect).await
}

/// Waits for a permit and does the work, both in a task of its own: a stream that is not read is
/// not polled, and would keep the permit. The client's own permit comes first, so that no client
/// fills the shared queue.
async fn in_its_place<T: Send + 'static>(
    own: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let working = tokio::spawn(async move {
        // The semaphores are never closed.
        let _own = own.acquire_owned().await;
        let _place = of_all.acquire_owned().await;
        work.await
    });
    let working = AbortOnDropHandle::new(working);
    working.await.unwrap_or_else(|error| Err(status::of_task(&error, "a difference")))
}

/// Returns those of the next objects that differ.
///
/// # Errors
/// See [`DifferenceReader::look`].
pub(super) fn differing(
    reader: &mut DifferenceReader,
    source: &AggregateSource,
    given_up: &CancellationToken,
) -> Result<Vec<wire::ObjectDiff>, WorldError> {
    let (mut objects, mut bytes) = (Vec::new(), 0usize);
    for _ in 0..LOOKED_AT_MAX {
        if given_up.is_cancelled() {
            return Err(WorldError::GivenUp);
        }
        if let Some(object) = reader.look(source, given_up)? {
            let object = encode::object_diff(object);
            bytes = bytes.saturating_add(prost::Message::encoded_len(&object));
            objects.push(object);
        }
        if bytes >= DIFF_BYTES || reader.is_at_end() {
            break;
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use futures_util::{future::pending, poll};

    use super::*;

    fn places(count: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(count))
    }

    async fn until_free(places: &Semaphore) {
        while places.available_permits() < COLLECTING_MAX {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_difference_that_nobody_polls_gives_its_place_back() {
        let (own, all) = (places(DIFFERENCES_PER_CALLER_MAX), places(COLLECTING_MAX));
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let work = async move { Ok(wait.await.is_ok()) };
        let mut unread = std::pin::pin!(in_its_place(own, all.clone(), work));
        assert!(poll!(&mut unread).is_pending());
        while all.available_permits() == COLLECTING_MAX {
            tokio::task::yield_now().await;
        }
        go_on.send(()).unwrap();
        // The future is not polled any more.
        until_free(&all).await;
        assert!(unread.await.unwrap());
    }

    /// However many differences two clients request, a third is served after those that were
    /// already waiting for a shared permit.
    #[tokio::test]
    async fn two_callers_do_not_keep_a_third_from_its_turn() {
        let all = places(COLLECTING_MAX);
        let (first, second) = (places(DIFFERENCES_PER_CALLER_MAX), places(DIFFERENCES_PER_CALLER_MAX));
        let mut works = Vec::new();
        for own in [&first, &second] {
            works.extend(
                (0..100).map(|_| {
                    Box::pin(in_its_place(own.clone(), all.clone(), pending::<Result<(), Status>>()))
                }),
            );
        }
        for work in &mut works {
            assert!(poll!(work).is_pending());
        }
        while all.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut third = std::pin::pin!(in_its_place(places(2), all.clone(), async { Ok(()) }));
        assert!(poll!(&mut third).is_pending());
        tokio::task::yield_now().await;
        // The first one releases its permit, and the third client is the next in the queue.
        drop(works.swap_remove(0));
        third.await.unwrap();
        drop(works);
        until_free(&all).await;
    }
}
