//! The settings of the gRPC interface: plain values, which the server derives from the
//! configuration.

use std::time::Duration;

/// What a request may contain.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    pub append_events_max: usize,
    pub append_bytes_max: usize,
    pub event_bytes_max: usize,
    pub snapshot_bytes_max: usize,
    pub id_bytes_max: usize,
    pub type_bytes_max: usize,
    pub metadata_entries_max: usize,
    pub metadata_value_bytes_max: usize,
    pub expected_sequences_max: usize,
}

/// The settings of the event store service.
#[derive(Debug, Clone)]
pub struct EventStoreSettings {
    pub limits: RequestLimits,
    /// The address of ImmuDB, with the port, and its database. `None` if ImmuDB is not configured.
    pub immudb: Option<(String, String)>,
}

/// The limits on connections, calls and bytes, which all services share.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    pub connections_max: usize,
    pub concurrent_calls_max: usize,
    pub streams_open_max: usize,
    /// The memory that all calls may use.
    pub call_bytes_max: usize,
    /// The size of the largest request.
    pub request_bytes_max: usize,
    /// The size of the largest event or snapshot, with its ids, types and metadata.
    pub record_bytes_max: usize,
    /// How long a request may take to arrive.
    pub request_max: Duration,
    /// How long a connection may exist before its first call.
    pub first_call_max: Duration,
    /// How long a response may remain unread.
    pub unread_max: Duration,
    /// How long a stop waits for the calls in progress.
    pub shutdown_grace: Duration,
}
