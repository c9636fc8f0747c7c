//! From the wire to the store and back: the only code that sees generated types.
//!
//! Every call passes the same gate: a bound on concurrent calls, the caller's deadline, then a check of
//! every field. What the store answers is turned into messages, what it refuses into statuses.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    config::LimitsConfig,
    event_files::EventFiles,
    store::{EventStore, Limit, StoreError},
};

mod decode;
mod encode;
mod status;
mod streams;
pub mod wire;

use decode::Decoder;
use streams::{Boxed, Permit};
use wire::event_store_service_server::EventStoreService;

/// The service as tonic calls it.
#[derive(Debug)]
pub struct Service {
    store: Arc<EventStore>,
    decoder: Decoder,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Host and port, and database of ImmuDB.
    immudb: Option<(String, String)>,
    event_files: Option<Arc<EventFiles>>,
    shutdown: CancellationToken,
}

impl Service {
    pub fn new(
        store: Arc<EventStore>,
        limits: LimitsConfig,
        immudb: Option<(String, String)>,
        event_files: Option<Arc<EventFiles>>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            store,
            calls: Arc::new(Semaphore::new(limits.concurrent_calls_max)),
            streams: Arc::new(Semaphore::new(limits.streams_open_max)),
            decoder: Decoder { limits },
            immudb,
            event_files,
            shutdown,
        }
    }

    /// Does a single call within the caller's deadline and the bound on concurrent calls.
    async fn call<T>(
        &self,
        deadline: Option<Duration>,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let _permit =
            self.permit(&self.calls, Limit::ConcurrentCalls, self.decoder.limits.concurrent_calls_max)?;
        let done = match deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout(deadline, work).await {
                Ok(done) => done,
                Err(_) => Err(status::deadline_exceeded()),
            },
        };
        done.map(Response::new)
    }

    fn stream_permit(&self) -> Result<Permit, Status> {
        self.permit(&self.streams, Limit::StreamsOpen, self.decoder.limits.streams_open_max)
    }

    fn permit(&self, semaphore: &Arc<Semaphore>, limit: Limit, max: usize) -> Result<Permit, Status> {
        semaphore.clone().try_acquire_owned().map_err(|_| {
            status::of_error(StoreError::Full { limit, max: max as u64, retry_after: Duration::from_secs(1) })
        })
    }

    /// Work that may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&EventStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done.map_err(status::of_error),
            Err(_) => Err(status::internal("a read was aborted")),
        }
    }
}

/// What is left of the caller's time. tonic enforces the same deadline, but answers CANCELLED: ours has to
/// come first.
fn deadline<T>(request: &Request<T>) -> Option<Duration> {
    const AHEAD: Duration = Duration::from_millis(5);
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows eight digits; more would not fit into the clock.
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.saturating_sub(AHEAD))
}

#[tonic::async_trait]
impl EventStoreService for Service {
    async fn append_events(
        &self,
        request: Request<wire::AppendEventsRequest>,
    ) -> Result<Response<wire::AppendEventsResponse>, Status> {
        self.call(deadline(&request), async {
            let append = self.decoder.append(request.into_inner()).map_err(status::of_violations)?;
            self.store.append(append).await.map(encode::appended).map_err(status::of_error)
        })
        .await
    }

    type LoadEventsStream = Boxed<wire::LoadEventsResponse>;

    async fn load_events(
        &self,
        request: Request<wire::LoadEventsRequest>,
    ) -> Result<Response<Self::LoadEventsStream>, Status> {
        let permit = self.stream_permit()?;
        let load = self.decoder.load(request.get_ref()).map_err(status::of_violations)?;
        let reader = self.blocking(move |store| store.load(load)).await?;
        Ok(Response::new(streams::load(self.store.clone(), reader, deadline(&request), permit)))
    }

    async fn save_snapshot(
        &self,
        request: Request<wire::SaveSnapshotRequest>,
    ) -> Result<Response<wire::SaveSnapshotResponse>, Status> {
        self.call(deadline(&request), async {
            let snapshot = self.decoder.snapshot(request.into_inner()).map_err(status::of_violations)?;
            let stored_in = self.store.save_snapshot(snapshot).await.map_err(status::of_error)?;
            Ok(wire::SaveSnapshotResponse { stored_in: encode::stored_in(stored_in).into() })
        })
        .await
    }

    async fn load_snapshot(
        &self,
        request: Request<wire::LoadSnapshotRequest>,
    ) -> Result<Response<wire::LoadSnapshotResponse>, Status> {
        self.call(deadline(&request), async {
            let id = self.decoder.id(&request.get_ref().aggregate_id).map_err(status::of_violations)?;
            let snapshot = self.blocking(move |store| store.load_snapshot(&id)).await?;
            Ok(wire::LoadSnapshotResponse { snapshot: Some(encode::snapshot(snapshot)) })
        })
        .await
    }

    async fn list_aggregates(
        &self,
        request: Request<wire::ListAggregatesRequest>,
    ) -> Result<Response<wire::ListAggregatesResponse>, Status> {
        self.call(deadline(&request), async {
            let request = request.into_inner();
            let decode::ListRequest { after, count } =
                self.decoder.list(&request).map_err(status::of_violations)?;
            let list = move |store: &EventStore| {
                store.aggregates(&request.aggregate_type, &request.aggregate_id_prefix, after.as_ref(), count)
            };
            let page = self.blocking(list).await?;
            Ok(wire::ListAggregatesResponse {
                next_page_token: page.next.as_ref().map(decode::page_token).unwrap_or_default(),
                aggregates: page.aggregates.into_iter().map(encode::aggregate).collect(),
            })
        })
        .await
    }

    type ReadAllStream = Boxed<wire::ReadAllResponse>;

    async fn read_all(
        &self,
        request: Request<wire::ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        let permit = self.stream_permit()?;
        let deadline = deadline(&request);
        let request = request.into_inner();
        let filter = self.decoder.filter(request.filter).map_err(status::of_violations)?;
        let start = crate::store::OrderStart::At(crate::event::Position(request.from_position));
        let reader = self.blocking(move |store| store.read(start, filter)).await?;
        Ok(Response::new(streams::read_all(self.store.clone(), reader, request.limit, deadline, permit)))
    }

    type SubscribeStream = Boxed<wire::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let permit = self.stream_permit()?;
        let deadline = deadline(&request);
        let request = request.into_inner();
        let filter = self.decoder.filter(request.filter).map_err(status::of_violations)?;
        let start = self.decoder.checkpoint(request.after).map_err(status::of_violations)?;
        let reader = self.blocking(move |store| store.read(start, filter)).await?;
        let shutdown = self.shutdown.clone();
        Ok(Response::new(streams::subscribe(self.store.clone(), reader, shutdown, deadline, permit)))
    }

    async fn stats(
        &self,
        request: Request<wire::StatsRequest>,
    ) -> Result<Response<wire::StatsResponse>, Status> {
        self.call(deadline(&request), async {
            let surroundings = encode::Surroundings {
                immudb: self.immudb.clone(),
                event_files_pending: self.event_files.as_ref().map_or(0, |files| files.pending()),
            };
            let store = &self.store;
            Ok(encode::stats(store.figures(), &store.counters, store.started_at, surroundings))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
