//! The calls of the event store service.
//!
//! Checks every field of a request, encodes the results of the store as messages, and turns its
//! errors into statuses. The limits on calls, bytes and reads are left to `transport`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    authorization::{Selection, TypeLookup},
    redaction::{self, Secrets},
    settings::EventStoreSettings,
    status,
    transport::{
        Bounds,
        client::ClientRegistry,
        concurrency::Admitted,
        reads::{Reads, size_answer},
        write_answer::reserve_answer,
    },
    wire::{self, server::event_store_service_server::EventStoreService},
};
use crate::{
    access::Right,
    error::{NoProof, StoreError},
    event::AggregateId,
    event_files::EventFiles,
    refusals,
    replication::{audit::AuditWatch, head::TreeHead},
    shared_limit::SharedLimit,
    store::EventStore,
    transparency::{Transparency, proofs::tree_of, verification::Verifier},
    tree::TreeView,
    world::{World, model::aggregate::Kind},
};

mod appending;
pub(super) mod decode;
pub(super) mod encode;
mod figures;
mod load_many;
pub(super) mod messages;
mod proofs;
mod redacted;
pub(super) mod streams;
mod verifying;

use decode::{Decoder, unless_zero};
pub use figures::CertificateEnd;
use streams::{Boxed, ReadContext, bounded};

/// The parts of the program that the calls use.
#[derive(Debug)]
pub struct EventStoreParts {
    /// Stores and reads the events.
    pub store: Arc<EventStore>,
    /// `None` if no event files are written.
    pub event_files: Option<Arc<EventFiles>>,
    /// `None` if the game world is disabled.
    pub world: Option<Arc<World>>,
    /// `None` if no proofs are made.
    pub(crate) transparency: Option<Transparency>,
    /// `None` if no proofs are made.
    pub(crate) verifier: Option<Verifier>,
    /// `None` if no auditor runs.
    pub(crate) audit: Option<AuditWatch>,
    /// What each identity uses.
    pub(crate) clients: ClientRegistry,
    /// `None` without TLS.
    pub certificate_end: Option<CertificateEnd>,
}

/// The service as called by tonic.
#[derive(Debug)]
pub struct EventStoreCalls {
    store: Arc<EventStore>,
    decoder: Decoder,
    streams: Arc<SharedLimit>,
    reads: Reads,
    /// The address of ImmuDB, with the port, and its database.
    immudb: Option<(String, String)>,
    event_files: Option<Arc<EventFiles>>,
    /// `None` if the game world is disabled.
    world: Option<Arc<World>>,
    transparency: Option<Transparency>,
    verifier: Option<Verifier>,
    audit: Option<AuditWatch>,
    clients: ClientRegistry,
    certificate_end: Option<CertificateEnd>,
    shutdown: CancellationToken,
}

impl EventStoreCalls {
    /// Creates the service. `shutdown` ends its streams.
    pub fn new(
        parts: EventStoreParts,
        settings: EventStoreSettings,
        Bounds { streams, reads }: Bounds,
        shutdown: CancellationToken,
    ) -> Self {
        let EventStoreParts {
            store,
            event_files,
            world,
            transparency,
            verifier,
            audit,
            clients,
            certificate_end,
        } = parts;
        let EventStoreSettings { limits, immudb } = settings;
        let decoder = Decoder { limits };
        Self {
            store,
            decoder,
            streams,
            reads,
            immudb,
            event_files,
            world,
            transparency,
            verifier,
            audit,
            clients,
            certificate_end,
            shutdown,
        }
    }

    /// Returns what looks up the types of the aggregates that a request names.
    fn lookup<'l>(&'l self, call: &'l Admitted) -> TypeLookup<'l> {
        TypeLookup { store: &self.store, reads: &self.reads, call }
    }

    /// Returns the type of an aggregate whose snapshot is masked. One that does not exist may be a
    /// player as soon as it is read.
    async fn masked_type(&self, call: &Admitted, id: &AggregateId) -> Result<Arc<str>, Status> {
        let types = self.lookup(call).types([id.clone()].into()).await?;
        Ok(types.of(id).unwrap_or(Kind::Player.name()).into())
    }

    /// Returns what makes the proofs.
    fn transparency(&self) -> Result<&Transparency, Status> {
        self.transparency.as_ref().ok_or_else(|| status::of_error(NoProof::Disabled.into()))
    }

    /// Returns the tree that ImmuDB has confirmed, with the present one, which continues it.
    async fn confirmed_tree(&self) -> Result<(TreeView, TreeHead), Status> {
        let tree = self.transparency()?.tree();
        let Some(confirmed) = self.store.replication().verified_tree() else {
            return Err(status::of_error(NoProof::NotVerified { position: 0, verified: 0 }.into()));
        };
        let view = tree_of(tree, confirmed.head.size).await;
        Ok((view.map_err(|error| status::of_error(error.into()))?, confirmed.head))
    }

    /// Counts the call against the limit on open streams, and returns what its stream reads with.
    fn open<T>(&self, request: &Request<T>) -> Result<ReadContext, Status> {
        let call = Admitted::of(request).streaming(&self.streams)?;
        Ok(ReadContext { store: self.store.clone(), reads: self.reads.clone(), call })
    }

    /// Runs work that may block on the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        call: &Admitted,
        work: impl FnOnce(&EventStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.clone();
        self.reads.run(call, move || work(&store)).await?.map_err(status::of_error)
    }

    /// Opens the reader of a stream within the client's deadline.
    async fn reader<T: Send + 'static>(
        &self,
        call: &Admitted,
        open: impl FnOnce(&EventStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.clone();
        self.reads.open(call, move || open(&store)).await?.map_err(status::of_error)
    }
}

/// The memory that the statistics need, apart from the names of types, which are counted once the
/// response exists.
const STATS_BYTES: usize = 64 * 1024;

/// Returns what a filter selects.
fn selection(filter: Option<&wire::Filter>) -> Selection<'_> {
    let selection = filter.map(|filter| Selection {
        prefix: &filter.aggregate_id_prefix,
        prefixes: &filter.aggregate_id_prefixes,
        types: filter.aggregate_types.iter().map(String::as_str).collect(),
    });
    selection.unwrap_or_default()
}

/// Returns the reason of a rejection, or `None` if calls are accepted.
fn reason(admitted: Result<(), StoreError>) -> Option<&'static str> {
    admitted.err().and_then(|error| error.refusal()).map(|(reason, _)| reason)
}

#[tonic::async_trait]
impl EventStoreService for EventStoreCalls {
    async fn append_events(
        &self,
        request: Request<wire::AppendEventsRequest>,
    ) -> Result<Response<wire::AppendEventsResponse>, Status> {
        let call = Admitted::of(&request);
        let origin = call.origin();
        let answering = call.clone();
        call.within(self.append(&answering, request.into_inner(), origin)).await
    }

    type LoadEventsStream = Boxed<messages::LoadEventsResponse>;

    async fn load_events(
        &self,
        request: Request<wire::LoadEventsRequest>,
    ) -> Result<Response<Self::LoadEventsStream>, Status> {
        let reading = self.open(&request)?;
        let load = self.decoder.load(request.get_ref()).map_err(status::of_violations)?;
        let (call, id) = (reading.call.clone(), load.aggregate_id.clone());
        self.lookup(&call).check(Right::Load, &id).await?;
        // Before the first events are read, because their bytes are acquired for the answer.
        let masked = match (Secrets::for_caller(&call.principal), request.get_ref().from_snapshot) {
            (Secrets::Visible, _) => None,
            (Secrets::Masked, true) => Some(self.masked_type(&call, &id).await?),
            (Secrets::Masked, false) => Some(Arc::default()),
        };
        let confirmed =
            if request.get_ref().verified { Some(call.in_time(self.confirmed_tree()).await?) } else { None };
        let messages = streams::load(reading, load, confirmed).await?;
        let shutdown = self.shutdown.clone();
        Ok(Response::new(match masked {
            None => bounded(messages, call, shutdown),
            Some(aggregate_type) => bounded(redacted::load(messages, aggregate_type), call, shutdown),
        }))
    }

    type LoadManyEventsStream = Boxed<messages::LoadManyEventsResponse>;

    async fn load_many_events(
        &self,
        request: Request<wire::LoadManyEventsRequest>,
    ) -> Result<Response<Self::LoadManyEventsStream>, Status> {
        let reading = self.open(&request)?;
        let loads = self.decoder.load_many(request.into_inner()).map_err(status::of_violations)?;
        let call = reading.call.clone();
        let ids: Vec<_> = loads.iter().map(|load| load.aggregate_id.clone()).collect();
        call.in_time(self.lookup(&call).check_all(Right::Load, &ids)).await?;
        let messages = load_many::load_many(reading, loads)?;
        Ok(Response::new(match Secrets::for_caller(&call.principal) {
            Secrets::Visible => bounded(messages, call, self.shutdown.clone()),
            Secrets::Masked => bounded(redacted::load_many(messages), call, self.shutdown.clone()),
        }))
    }

    async fn save_snapshot(
        &self,
        request: Request<wire::SaveSnapshotRequest>,
    ) -> Result<Response<wire::SaveSnapshotResponse>, Status> {
        let call = Admitted::of(&request);
        let origin = call.origin();
        let answering = call.clone();
        call.within(async {
            let snapshot = self.decoder.snapshot(request.into_inner()).map_err(status::of_violations)?;
            self.lookup(&answering).check(Right::Snapshot, &snapshot.aggregate_id).await?;
            reserve_answer(&answering, 0).await.map_err(status::of_limit)?;
            let stored_in = self.store.save_snapshot(snapshot, origin).await.map_err(status::of_error)?;
            Ok(wire::SaveSnapshotResponse { stored_in: encode::stored_in(stored_in).into() })
        })
        .await
    }

    async fn load_snapshot(
        &self,
        request: Request<wire::LoadSnapshotRequest>,
    ) -> Result<Response<wire::LoadSnapshotResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let id = self.decoder.id(&request.get_ref().aggregate_id).map_err(status::of_violations)?;
                self.lookup(&call).check(Right::Load, &id).await?;
                let load = move |store: &EventStore| {
                    let snapshot = store.load_snapshot(&id)?;
                    // Events before the snapshot gave the aggregate its type, which never changes.
                    let aggregate_type = store.head(&id)?.map(|head| head.aggregate_type);
                    Ok((snapshot, aggregate_type.unwrap_or_default()))
                };
                let (snapshot, aggregate_type) = self.blocking(&call, load).await?;
                let mut snapshot = encode::snapshot(snapshot);
                if Secrets::for_caller(&call.principal) == Secrets::Masked {
                    redaction::snapshot(&mut snapshot, &aggregate_type);
                }
                let aggregate_type = aggregate_type.as_ref().to_owned();
                Ok(wire::LoadSnapshotResponse { snapshot: Some(snapshot), aggregate_type })
            })
            .await
    }

    async fn list_aggregates(
        &self,
        request: Request<wire::ListAggregatesRequest>,
    ) -> Result<Response<wire::ListAggregatesResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let request = self.decoder.list(request.into_inner()).map_err(status::of_violations)?;
                let decode::ListRequest { filter, after, count } = request;
                let types = Some(filter.aggregate_type.as_str()).filter(|one| !one.is_empty());
                let (prefix, types) = (filter.prefix.as_str(), types.into_iter().collect());
                Selection { prefix, prefixes: &[], types }.require(&call, Right::Load)?;
                let list = move |store: &EventStore| store.aggregates(&filter, after.as_ref(), count);
                let page = self.blocking(&call, list).await?;
                Ok(wire::ListAggregatesResponse {
                    next_page_token: page.next.as_ref().map(decode::page_token).unwrap_or_default(),
                    aggregates: page.aggregates.into_iter().map(encode::aggregate).collect(),
                })
            })
            .await
    }

    type ReadAllStream = Boxed<messages::ReadAllResponse>;

    async fn read_all(
        &self,
        request: Request<wire::ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        let reading = self.open(&request)?;
        let request = request.into_inner();
        selection(request.filter.as_ref()).require(&reading.call, Right::Subscribe)?;
        let filter = self.decoder.filter(request.filter).map_err(status::of_violations)?;
        let start = crate::store::OrderStart::At(crate::event::Position(request.from_position));
        let reader = self.reader(&reading.call, move |store| store.read(start, filter)).await?;
        let call = reading.call.clone();
        let messages = streams::read_all(reading, reader, unless_zero(request.limit));
        Ok(Response::new(match Secrets::for_caller(&call.principal) {
            Secrets::Visible => bounded(messages, call, self.shutdown.clone()),
            Secrets::Masked => bounded(redacted::read_all(messages), call, self.shutdown.clone()),
        }))
    }

    type SubscribeStream = Boxed<messages::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let reading = self.open(&request)?;
        let request = request.into_inner();
        selection(request.filter.as_ref()).require(&reading.call, Right::Subscribe)?;
        let filter = self.decoder.filter(request.filter).map_err(status::of_violations)?;
        let start = self.decoder.checkpoint(request.after).map_err(status::of_violations)?;
        let reader = self.reader(&reading.call, move |store| store.read(start, filter)).await?;
        let call = reading.call.clone();
        let messages = streams::subscribe(reading, reader);
        Ok(Response::new(match Secrets::for_caller(&call.principal) {
            Secrets::Visible => bounded(messages, call, self.shutdown.clone()),
            Secrets::Masked => bounded(redacted::subscribe(messages), call, self.shutdown.clone()),
        }))
    }

    async fn stats(
        &self,
        request: Request<wire::StatsRequest>,
    ) -> Result<Response<wire::StatsResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let context = encode::StatsContext {
                    immudb: self.immudb.clone(),
                    event_files_pending: self.event_files.as_ref().map_or(0, |files| files.pending()),
                    projections: self.world.as_ref().map(|world| world.projections()).unwrap_or_default(),
                    refusals: refusals::recorded(),
                    writes_refused: None,
                    reads_refused: reason(self.store.admit_read()),
                    proofs: proofs::figures(self.transparency.as_ref(), self.audit.as_ref()),
                    tls_valid_until: self.certificate_end.as_ref().and_then(CertificateEnd::to_wire),
                    identities: figures::identities(&self.clients, &call.principal),
                };
                // This queries the free disk space, which may block, and copies the totals of all
                // types.
                let store = self.store.clone();
                let stats = move || {
                    let writes_refused = reason(store.writes_taken());
                    let context = encode::StatsContext { writes_refused, ..context };
                    encode::stats(store.figures(), &store.counters, store.started_at, context)
                };
                let figures = self.reads.run_with(STATS_BYTES, &call, stats).await?;
                size_answer(&call, &figures)?;
                Ok(figures)
            })
            .await
    }

    async fn get_proof(
        &self,
        request: Request<wire::GetProofRequest>,
    ) -> Result<Response<wire::GetProofResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone().within(self.proof(&call, request.into_inner())).await
    }

    async fn get_checkpoint(
        &self,
        request: Request<wire::GetCheckpointRequest>,
    ) -> Result<Response<wire::GetCheckpointResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone().within(self.checkpoint(&call, request.into_inner())).await
    }

    async fn get_consistency(
        &self,
        request: Request<wire::GetConsistencyRequest>,
    ) -> Result<Response<wire::GetConsistencyResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone().within(self.consistency(&call, request.into_inner())).await
    }

    type VerifyAggregateStream = Boxed<wire::VerifyAggregateResponse>;

    async fn verify_aggregate(
        &self,
        request: Request<wire::VerifyAggregateRequest>,
    ) -> Result<Response<Self::VerifyAggregateStream>, Status> {
        let reading = self.open(&request)?;
        let id = self.decoder.id(&request.get_ref().aggregate_id).map_err(status::of_violations)?;
        let call = reading.call.clone();
        self.lookup(&call).check(Right::Prove, &id).await?;
        let verification = call.in_time(self.verification(Some(id))).await?;
        let messages = verifying::aggregate(reading, verification);
        Ok(Response::new(bounded(messages, call, self.shutdown.clone())))
    }

    type VerifyAllStream = Boxed<wire::VerifyAllResponse>;

    async fn verify_all(
        &self,
        request: Request<wire::VerifyAllRequest>,
    ) -> Result<Response<Self::VerifyAllStream>, Status> {
        let reading = self.open(&request)?;
        let call = reading.call.clone();
        let verification = call.in_time(self.verification(None)).await?;
        let messages = verifying::whole(reading, verification);
        Ok(Response::new(bounded(messages, call, self.shutdown.clone())))
    }
}
