//! The gRPC interface: translates between the wire and the store. No other code sees generated
//! types.
//!
//! [`transport`] limits connections, calls and bytes. `event_store` and `world` decode requests
//! and encode responses. `status` turns errors into statuses.

mod authorization;
mod event_store;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod health;
mod json_client;
mod methods;
mod redaction;
mod settings;
mod status;
pub mod transport;
mod violations;
pub mod wire;
mod world;

pub use event_store::{CertificateEnd, EventStoreCalls, EventStoreParts};
pub use health::{HealthReport, HealthReporter};
pub use json_client::{
    Answers, ClientCertificate, ClientError, ClientSettings, JsonClient, NoCertificate, ServiceEndpoint,
    Trust,
};
pub use settings::{EventStoreSettings, GameWorld, RequestLimits, TransportSettings};
pub use transport::Bounds;
pub use world::WorldCalls;
