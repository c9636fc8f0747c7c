//! The limits of one identity.

/// The limits of one identity. `None` is unlimited.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// The part of each shared limit that the identity may use while others want the rest. More
    /// than 0, at most 1.
    pub share: f64,
    /// Appends a second.
    pub appends_per_second: Option<f64>,
    /// Appended events a second.
    pub events_per_second: Option<f64>,
    /// Appended bytes a second.
    pub bytes_per_second: Option<f64>,
    /// Bytes that the identity may store in total.
    pub stored_bytes_max: Option<u64>,
    /// New event types that the identity may introduce in total.
    pub types_max: Option<u64>,
}

impl Shares {
    /// The default of `share`.
    pub const SHARE_DEFAULT: f64 = 0.5;
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            share: Self::SHARE_DEFAULT,
            appends_per_second: None,
            events_per_second: None,
            bytes_per_second: None,
            stored_bytes_max: None,
            types_max: None,
        }
    }
}
