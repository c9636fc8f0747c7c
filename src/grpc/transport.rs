//! Limits connections, calls and bytes before a service sees them.
//!
//! All services on the port share these limits. Decoding requests and encoding responses are left
//! to the services.

use std::sync::Arc;

use crate::{
    error::Limit,
    grpc::settings::TransportSettings,
    shared_limit::{Resource, SharedLimit},
};

pub mod accept;
mod addresses;
pub mod authentication;
pub mod body_limits;
pub mod byte_budget;
pub mod client;
pub mod closing;
pub mod compression;
pub mod concurrency;
pub mod connection_facts;
pub mod connections;
pub mod content_type;
pub mod deferred_service;
mod failed_attempts;
pub mod listeners;
pub mod peer;
pub(crate) mod read_limits;
pub mod reads;
mod request_body;
mod response_body;
mod socket;
pub mod write_answer;

use byte_budget::ByteBudget;
use reads::Reads;

/// The limits that all services share.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The limit on open streams.
    pub streams: Arc<SharedLimit>,
    /// Runs reads within their own limits.
    pub reads: Reads,
}

impl Bounds {
    /// Creates the limits. `budget` determines how many reads may be in progress.
    pub fn new(settings: &TransportSettings, budget: ByteBudget) -> Self {
        let streams_max = settings.streams_open_max as u64;
        let streams = Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, streams_max));
        Self { streams, reads: Reads::new(settings.record_bytes_max, budget) }
    }
}
