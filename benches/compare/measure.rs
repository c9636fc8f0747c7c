//! The measurements, one module each.

pub mod appends;
pub mod floor;
pub mod followers;
pub mod growth;
pub mod latency;
pub mod loads;
pub mod mixed;
pub mod outage;
