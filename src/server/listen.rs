//! The network side of the service. It listens from the start, while everything else is still being
//! opened, until the last call has ended.
//!
//! Health and reflection always answer. Until `open`, other calls are rejected with the error that
//! the service is starting. If the game world is disabled, its services are missing from health
//! checks and server reflection, and their calls are rejected. What a call does is left to `grpc`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{body::Body, transport::Server};
use tower::util::MapRequestLayer;
use tracing::{info, warn};

use super::{
    components::{Services, WorldServices},
    error::ServerError,
};
use crate::{
    access::AccessControl,
    access_log::AccessLog,
    grpc::{
        Bounds, EventStoreCalls, GameWorld, HealthReport, HealthReporter, TransportSettings, WorldCalls,
        transport::{
            accept::{Acceptor, ConnectionLimits, TlsSettings},
            body_limits::BodyLimits,
            byte_budget::ByteBudget,
            client::ClientRegistry,
            closing::ClosingLayer,
            concurrency::{Gate, note_arrival},
            connections::{self, ConnectionTimeouts},
            deferred_service::DeferredService,
            listeners::Listeners,
        },
        wire::{
            self,
            server::event_store_service_server::EventStoreServiceServer,
            world::{command_service_server::CommandServiceServer, world_service_server::WorldServiceServer},
        },
    },
};

/// The maximum size of a reflection request, which contains only a name.
const REFLECTION_BYTES_MAX: usize = 16 * 1024;
/// The maximum number of concurrent streams per connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 4096;
/// The maximum size of the headers of a call. HTTP/2 rejects larger ones without a gRPC status, so
/// the gate already rejects much smaller ones.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
const NO_WORLD: &str = "the game world is disabled (world.enabled is false)";
/// How long a connection may be silent before it is pinged, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER_MAX: Duration = Duration::from_secs(20);

/// The services that clients can reach. Health and reflection answer at once, the others when they
/// are available.
#[derive(Debug)]
pub(super) struct Network {
    pub health: HealthReporter,
    settings: TransportSettings,
    game_world: GameWorld,
    budget: ByteBudget,
    access: AccessControl,
    access_log: AccessLog,
    clients: ClientRegistry,
    events: DeferredService<EventStoreServiceServer<EventStoreCalls>>,
    commands: DeferredService<CommandServiceServer<WorldCalls>>,
    world: DeferredService<WorldServiceServer<WorldCalls>>,
    /// Cancelled to stop accepting work and to end the calls that do not end by themselves.
    closing: CancellationToken,
}

impl Network {
    pub(super) fn new(
        settings: TransportSettings,
        game_world: GameWorld,
        access: AccessControl,
        access_log: AccessLog,
    ) -> Self {
        Self {
            health: HealthReporter::new(game_world),
            budget: ByteBudget::new(settings.call_bytes_max),
            settings,
            game_world,
            access,
            access_log,
            clients: ClientRegistry::new(),
            events: DeferredService::default(),
            commands: DeferredService::default(),
            world: DeferredService::default(),
            closing: CancellationToken::default(),
        }
    }

    /// Serves until the network is closed and the last call has ended. Without `tls`, TCP
    /// connections are not encrypted.
    ///
    /// # Errors
    /// Returns an error if the descriptors for reflection cannot be read. The future returns an
    /// error if the transport fails.
    pub(super) fn serve(
        &self,
        listeners: Listeners,
        tls: Option<TlsSettings>,
    ) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + use<>, ServerError> {
        let settings = &self.settings;
        let api = match self.game_world {
            GameWorld::Enabled => wire::DESCRIPTORS,
            GameWorld::Disabled => wire::EVENT_STORE_DESCRIPTORS,
        };
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(api)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        for address in listeners.addresses() {
            info!(address = ?Some(address), "listening");
        }
        for path in listeners.paths() {
            info!(socket = %path.display(), "listening");
        }
        let patience = ConnectionTimeouts::new(settings);
        let connections_max = connections::raise_file_limit(settings.connections_max);
        let limits =
            ConnectionLimits { connections_max, per_address_max: settings.connections_per_address_max };
        let acceptor = Acceptor::new(limits, patience, self.budget.clone(), self.closing.clone(), tls);
        let incoming = acceptor.accept(listeners);
        let closing = self.closing.clone();
        Ok(Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_ANSWER_MAX))
            .layer(MapRequestLayer::new(note_arrival::<Body>))
            .layer(Gate::new(settings.concurrent_calls_max, self.budget.clone()).with_access(
                self.access.clone(),
                self.clients.clone(),
                self.access_log.clone(),
            ))
            .layer(BodyLimits::new(self.budget.clone(), settings.request_max, settings.request_bytes_max))
            .layer(ClosingLayer::new(self.closing.clone()))
            .add_service(self.health.server())
            .add_service(descriptors().build_v1()?.max_decoding_message_size(REFLECTION_BYTES_MAX))
            .add_service(descriptors().build_v1alpha()?.max_decoding_message_size(REFLECTION_BYTES_MAX))
            .add_service(self.events.clone())
            .add_service(self.commands.clone())
            .add_service(self.world.clone())
            .serve_with_incoming_shutdown(incoming, async move {
                closing.cancelled().await;
            }))
    }

    /// Returns new limits for services to share.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds::new(&self.settings, self.budget.clone())
    }

    /// Makes the services available, so that calls are answered from now on.
    pub(super) fn open(&self, services: Services) {
        let message_bytes_max = self.settings.request_bytes_max;
        let Services { events, world } = services;
        match world {
            Some(WorldServices { commands, queries }) => {
                self.world.set_ready(queries);
                self.commands.set_ready(commands.max_decoding_message_size(message_bytes_max));
            }
            None => {
                self.world.set_unavailable(NO_WORLD);
                self.commands.set_unavailable(NO_WORLD);
            }
        }
        self.events.set_ready(events.max_decoding_message_size(message_bytes_max));
    }

    /// Makes the services unavailable. Until the next `open`, calls are answered with the error
    /// that the service is starting.
    pub(super) fn leave(&self) {
        self.health.report(HealthReport::default());
        self.events.set_starting();
        self.commands.set_starting();
        self.world.set_starting();
    }

    /// Reports that nothing is served, and then stops accepting connections and calls.
    pub(super) fn close(&self) {
        self.health.close();
        self.closing.cancel();
    }

    pub(super) fn clients(&self) -> &ClientRegistry {
        &self.clients
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Waits up to `grace` for the calls in progress to end.
    ///
    /// # Errors
    /// Returns an error if the transport failed.
    pub(super) async fn end(
        served: impl Future<Output = Result<(), tonic::transport::Error>>,
        grace: Duration,
    ) -> Result<(), ServerError> {
        match tokio::time::timeout(grace, served).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                warn!("calls were still running at the end of server.shutdown_grace");
                Ok(())
            }
        }
    }
}
