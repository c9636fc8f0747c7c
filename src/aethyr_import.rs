//! Reads what Aethyr's own event store has written, and converts it into events of this service.
//!
//! Its files and its values in ImmuDB are in Ruby's Marshal format. [`marshal`] reads the few types
//! that can occur, with bounds on depth, numbers and sizes, and rejects everything else. Nothing
//! here reads a file or calls ImmuDB.

mod convert;
mod extent;
mod json;
mod legacy_event;
mod marshal;
mod ruby_time;
mod value;

pub(crate) use convert::{ConvertRules, LeftOutField, aggregate_type, convert};
pub(crate) use legacy_event::{LegacyEvent, ReadError};
pub(crate) use marshal::INPUT_BYTES_MAX;

#[cfg(test)]
mod tests;
