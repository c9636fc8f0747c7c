//! The service on the network: there from the first moment, when everything is still being opened, until the last
//! call is over.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::InterceptorLayer, transport::Server};
use tower::util::MapRequestLayer;
use tracing::{info, warn};

use super::{
    Parts, ServerError,
    connections::{self, Patience},
};
use crate::{
    config::Config,
    grpc::{
        Bodies, Bounds, ByteBudget, Closing, Gate, HealthReporter, Late, Service, Serving, WorldCalls,
        note_arrival,
        wire::{
            self,
            server::event_store_service_server::EventStoreServiceServer,
            world::{command_service_server::CommandServiceServer, world_service_server::WorldServiceServer},
        },
    },
    world::World,
};

/// A question of reflection is the name of something.
const REFLECTION_BYTES_MAX: usize = 16 * 1024;
/// Of one connection, at a time.
const STREAMS_PER_CONNECTION_MAX: u32 = 4096;
/// HTTP/2 itself refuses what is larger, without a word that gRPC has for it: the gate refuses much less.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
const NO_WORLD: &str = "this service has no world (world.enabled is false)";
/// A silent connection is asked for a sign of life, and has so long to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER_MAX: Duration = Duration::from_secs(20);

/// What callers reach. Health and reflection answer at once, the rest when it is there.
#[derive(Debug)]
pub struct Network {
    pub health: HealthReporter,
    budget: ByteBudget,
    events: Late<EventStoreServiceServer<Service>>,
    commands: Late<CommandServiceServer<WorldCalls>>,
    world: Late<WorldServiceServer<WorldCalls>>,
    /// Nothing new is taken, and what does not end by itself ends.
    closing: CancellationToken,
}

impl Network {
    pub fn new(config: &Config) -> Self {
        Self {
            health: HealthReporter::default(),
            budget: ByteBudget::new(config.limits.call_bytes_max),
            events: Late::default(),
            commands: Late::default(),
            world: Late::default(),
            closing: CancellationToken::default(),
        }
    }

    /// Serves until it is closed and the last call is over.
    ///
    /// # Errors
    /// The descriptors for reflection can't be read, or the transport fails.
    pub fn serve(
        &self,
        config: &Config,
        listener: TcpListener,
    ) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + use<>, ServerError> {
        let limits = &config.limits;
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        info!(address = ?listener.local_addr().ok(), "listening");
        let patience = Patience::new(&config.server);
        let connections_max = connections::make_room(limits.connections_max);
        let incoming = connections::incoming(
            listener,
            connections_max,
            patience,
            self.budget.clone(),
            self.closing.clone(),
        );
        let closing = self.closing.clone();
        Ok(Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_ANSWER_MAX))
            .layer(MapRequestLayer::new(note_arrival::<Body>))
            .layer(InterceptorLayer::new(Gate::new(limits.concurrent_calls_max, self.budget.clone())))
            .layer(Bodies::new(self.budget.clone(), config.server.request_max, limits.largest_request()))
            .layer(Closing::new(self.closing.clone()))
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

    /// From now on calls are answered.
    pub fn open(&self, config: &Config, parts: &Parts, world: Option<Arc<World>>) {
        let limits = &config.limits;
        let message_bytes_max = limits.largest_request();
        let immudb = config.immudb.as_ref();
        let named =
            immudb.map(|immudb| (format!("{}:{}", immudb.address, immudb.port), immudb.database.clone()));
        let bounds = Bounds::new(limits, self.budget.clone());
        let service = Service::new(
            parts.store.clone(),
            world.clone(),
            limits.clone(),
            named,
            parts.event_files.clone(),
            bounds.clone(),
            parts.closing.clone(),
        );
        let events = EventStoreServiceServer::new(service).max_decoding_message_size(message_bytes_max);
        match world {
            Some(world) => {
                let world = WorldCalls::new(world, limits.clone(), bounds, parts.closing.clone());
                let commands =
                    CommandServiceServer::new(world.clone()).max_decoding_message_size(message_bytes_max);
                self.world.arrive(WorldServiceServer::new(world));
                self.commands.arrive(commands);
            }
            None => {
                self.world.be_absent(NO_WORLD);
                self.commands.be_absent(NO_WORLD);
            }
        }
        self.events.arrive(events);
    }

    /// Calls hear that the service starts, until it is opened again.
    pub fn leave(&self) {
        self.health.report(Serving::default());
        self.events.leave();
        self.commands.leave();
        self.world.leave();
    }

    /// Health says so first; then nothing new is taken.
    pub fn close(&self) {
        self.health.close();
        self.closing.cancel();
    }

    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Lets what runs on the network end.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn end(
        served: impl Future<Output = Result<(), tonic::transport::Error>>,
        grace: Duration,
    ) -> Result<(), ServerError> {
        match tokio::time::timeout(grace, served).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                warn!("calls were still running when the time for them was over");
                Ok(())
            }
        }
    }
}
