//! An append to be sent to any of the systems.

use crate::supply::{PAYLOAD_BYTES, Supply};

/// The version of the aggregate that an append expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    None,
    /// The version that the last append returned, as the system counts versions. 0 means that the
    /// aggregate does not exist.
    Version(u64),
}

/// An append to be sent.
pub struct Draft<'a> {
    pub aggregate: &'a str,
    pub expectation: Expectation,
    pub events: usize,
    /// Stored in the first bytes of the first payload, so that followers can identify the event.
    pub stamp: Option<u64>,
    /// Whether the payload is JSON text.
    pub json: bool,
    pub supply: &'a mut Supply,
}

impl Draft<'_> {
    pub fn payload(&mut self) -> [u8; PAYLOAD_BYTES] {
        if self.json {
            return self.supply.json();
        }
        let mut payload = self.supply.payload();
        if let Some(stamp) = self.stamp.take() {
            payload[..8].copy_from_slice(&stamp.to_be_bytes());
        }
        payload
    }
}
