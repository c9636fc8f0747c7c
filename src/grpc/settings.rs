//! The settings of the gRPC interface: plain values, which the server derives from the
//! configuration.

use std::time::Duration;

/// What a request may contain.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// The maximum number of events in one append.
    pub append_events_max: usize,
    /// The maximum encoded size of all events of one append, in bytes.
    pub append_bytes_max: usize,
    /// The maximum size of the data of one event, in bytes.
    pub event_bytes_max: usize,
    /// The maximum size of the data of one snapshot, in bytes.
    pub snapshot_bytes_max: usize,
    /// The maximum size of an aggregate id, correlation id or causation id, in bytes.
    pub id_bytes_max: usize,
    /// The maximum size of an aggregate type or event type, in bytes.
    pub type_bytes_max: usize,
    /// The maximum number of metadata entries of one event or snapshot.
    pub metadata_entries_max: usize,
    /// The maximum size of one metadata value, in bytes.
    pub metadata_value_bytes_max: usize,
    /// The maximum number of expected sequence numbers in one append.
    pub expected_sequences_max: usize,
}

/// Whether the services of the game world are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GameWorld {
    /// They are served.
    Enabled,
    /// The configuration disables them. They are missing from health checks and server reflection.
    Disabled,
}

/// The settings of the event store service.
#[derive(Debug, Clone)]
pub struct EventStoreSettings {
    /// The limits on the contents of a request.
    pub limits: RequestLimits,
    /// The address of ImmuDB, with the port, and its database. `None` if ImmuDB is not configured.
    pub immudb: Option<(String, String)>,
}

/// The limits on connections, calls and bytes, which all services share.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// The maximum number of open connections.
    pub connections_max: usize,
    /// The maximum number of open connections of one address, except loopback addresses.
    pub connections_per_address_max: usize,
    /// The maximum number of calls in progress, including streams but not health checks.
    pub concurrent_calls_max: usize,
    /// The maximum number of open streams.
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
