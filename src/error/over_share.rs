//! Why a write or a call of one identity is refused although others are served.

use std::{fmt, time::Duration};

use super::Limit;

/// A limit of one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareLimit {
    /// Its share of a limit that all clients share.
    Of(Limit),
    /// Its share of the event types that are counted by name.
    CountedTypes,
    /// Its number of appends and snapshots per second.
    AppendsPerSecond,
    /// Its number of events per second.
    EventsPerSecond,
    /// The bytes that it writes per second.
    BytesPerSecond,
    /// The bytes of the events that it has stored, ever.
    StoredBytes,
    /// The number of event types that it has introduced, ever.
    Types,
}

impl ShareLimit {
    /// Returns the key of the limit: in the configuration, or in the file of the identities.
    pub fn name(self) -> &'static str {
        match self {
            Self::Of(limit) => limit.name(),
            Self::CountedTypes => "limits.types_max",
            Self::AppendsPerSecond => "appends_per_second",
            Self::EventsPerSecond => "events_per_second",
            Self::BytesPerSecond => "bytes_per_second",
            Self::StoredBytes => "stored_bytes_max",
            Self::Types => "types_max",
        }
    }
}

impl fmt::Display for ShareLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An identity has used up its share of a limit, or a limit of its own. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit}: this identity has used up its share of {max}")]
pub struct OverShare {
    /// The limit.
    pub limit: ShareLimit,
    /// How much the identity may have.
    pub max: u64,
    /// How long the client should wait before a retry.
    pub retry_after: Duration,
}

impl OverShare {
    /// The reason for `ErrorInfo`.
    pub const REASON: &str = "SHARE";

    /// The retry delay sent to a client that has used up what no passing of time gives back. Only
    /// an operator can grant more.
    pub(crate) const RETRY_USED_UP: Duration = Duration::from_secs(60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_limit_and_what_the_identity_may_have() {
        let message = |limit| OverShare { limit, max: 500, retry_after: Duration::ZERO }.to_string();
        assert_eq!(
            message(ShareLimit::Of(Limit::StreamsOpen)),
            "limits.streams_open_max: this identity has used up its share of 500"
        );
        assert_eq!(
            message(ShareLimit::StoredBytes),
            "stored_bytes_max: this identity has used up its share of 500"
        );
    }
}
