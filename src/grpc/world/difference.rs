//! Pieces of `DiffWorld`: which objects changed, and how.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

use super::{encode, piece};
use crate::{
    grpc::{
        gate::Admitted,
        reads::{DIFFERENCES_PER_CALLER_MAX, Reads},
        status,
        wire::world as wire,
    },
    world::{difference::DifferenceReader, error::WorldError, replay::Source},
};

/// Objects that are looked at for one message of a difference, and the bytes of those that differ, unless a single one
/// has more.
const LOOKED_AT_MAX: usize = 32;
const DIFF_BYTES: usize = 256 * 1024;

/// Differences that find out at once which objects changed: each holds a piece of the log meanwhile. None of them waits
/// for its caller.
pub const COLLECTING_MAX: usize = 2 * DIFFERENCES_PER_CALLER_MAX;

/// Finds out which objects changed.
///
/// # Errors
/// As [`DifferenceReader::collect`].
pub async fn collected(
    reads: Reads,
    call: Admitted,
    collecting: Arc<Semaphore>,
    mut reader: DifferenceReader,
) -> Result<DifferenceReader, Status> {
    let own = call.peer.differences().clone();
    let collect = async move {
        // Piece by piece, so that it ends soon when nobody waits for it.
        while !reader.is_ready() {
            (reader, ()) = piece(&reads, &call, reader, DifferenceReader::collect).await?;
        }
        Ok(reader)
    };
    in_its_place(own, collecting, collect).await
}

/// Waits for a place, and works, in a task of its own: a stream that nobody reads is not polled, and would keep the place.
/// First for one of the caller's own, so that no caller fills the queue of all.
async fn in_its_place<T: Send + 'static>(
    own: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let working = tokio::spawn(async move {
        // They are never closed.
        let _own = own.acquire_owned().await;
        let _place = of_all.acquire_owned().await;
        work.await
    });
    let working = AbortOnDropHandle::new(working);
    working.await.unwrap_or_else(|_| Err(status::internal("a difference was aborted")))
}

/// Those of the next objects that differ.
///
/// # Errors
/// As [`DifferenceReader::look`].
pub fn differing(
    reader: &mut DifferenceReader,
    source: &Source,
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
        // It is polled no more.
        until_free(&all).await;
        assert!(unread.await.unwrap());
    }

    /// However many two callers ask for, the third is served after those that were there before it.
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
        // The first of all gives its place up: the next that waits for it is the third.
        drop(works.swap_remove(0));
        third.await.unwrap();
        drop(works);
        until_free(&all).await;
    }
}
