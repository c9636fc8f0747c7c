//! Pieces of `DiffWorld`: which objects changed, and how.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

use super::{encode, piece};
use crate::{
    grpc::{gate::Admitted, reads::Reads, status, wire::world as wire},
    shared_limit::{Caller, Resource, SharedLimit},
    store::{EventStore, Limit},
    world::{difference::DifferenceReader, error::WorldError},
};

/// Objects that are looked at for one message of a difference, and the bytes of those that differ, unless a single one
/// has more.
const LOOKED_AT_MAX: usize = 32;
const DIFF_BYTES: usize = 256 * 1024;

/// Differences that find out at once which objects changed: each holds a piece of the log meanwhile. None of them waits
/// for its caller, and no caller has all of them.
const COLLECTING_MAX: u64 = 4;

/// Between two looks at whether there is room for one more.
const COLLECTING_PAUSE: Duration = Duration::from_millis(20);

/// The places of those that find out which objects changed.
pub fn collecting() -> Arc<SharedLimit> {
    SharedLimit::new(Limit::StreamsOpen, Resource::Collecting, COLLECTING_MAX)
}

/// Finds out which objects changed.
///
/// # Errors
/// As [`DifferenceReader::collect`].
pub async fn collected(
    reads: Reads,
    call: Admitted,
    collecting: Arc<SharedLimit>,
    mut reader: DifferenceReader,
) -> Result<DifferenceReader, Status> {
    let caller = call.caller.clone();
    let collect = async move {
        // Piece by piece, so that it ends soon when nobody waits for it.
        while !reader.is_ready() {
            (reader, ()) = piece(&reads, &call, reader, DifferenceReader::collect).await?;
        }
        Ok(reader)
    };
    in_its_place(collecting, caller, collect).await
}

/// Waits for a place and works, in a task of its own: a stream that nobody reads is not polled, and would keep the place.
async fn in_its_place<T: Send + 'static>(
    places: Arc<SharedLimit>,
    caller: Caller,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let working = tokio::spawn(async move {
        let _place = loop {
            match places.acquire(&caller, 1) {
                Ok(place) => break place,
                Err(_) => tokio::time::sleep(COLLECTING_PAUSE).await,
            }
        };
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
    store: &EventStore,
    given_up: &CancellationToken,
) -> Result<Vec<wire::ObjectDiff>, WorldError> {
    let (mut objects, mut bytes) = (Vec::new(), 0usize);
    for _ in 0..LOOKED_AT_MAX {
        if given_up.is_cancelled() {
            return Err(WorldError::GivenUp);
        }
        if let Some(object) = reader.look(store, given_up)? {
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

    #[tokio::test]
    async fn a_difference_that_nobody_polls_gives_its_place_back() {
        let (places, caller) = (collecting(), Caller::default());
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let work = async move { Ok(wait.await.is_ok()) };
        let mut unread = std::pin::pin!(in_its_place(places.clone(), caller, work));
        assert!(poll!(&mut unread).is_pending());
        while places.used() == 0 {
            tokio::task::yield_now().await;
        }
        go_on.send(()).unwrap();
        // It is polled no more.
        while places.used() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(unread.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_has_not_all_places_and_gives_them_back_when_it_goes() {
        let (places, greedy) = (collecting(), Caller::default());
        let mut works: Vec<_> = (0..2 * COLLECTING_MAX)
            .map(|_| Box::pin(in_its_place(places.clone(), greedy.clone(), pending::<Result<(), Status>>())))
            .collect();
        for work in &mut works {
            assert!(poll!(work).is_pending());
        }
        in_its_place(places.clone(), Caller::default(), async { Ok(()) }).await.unwrap();
        assert!(places.used() > 0);
        drop(works);
        while places.used() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
