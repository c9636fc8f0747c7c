//! What the test programs and benchmarks share: the service and ImmuDB as real processes, a proxy
//! between them, load, and checks of the stored events.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(missing_docs, reason = "only the tests use it")]

pub mod access;
pub mod descriptors;
pub mod events;
pub mod go;
pub mod h2;
pub mod immudb;
pub mod load;
mod paths;
pub mod port;
mod preloaded;
pub mod proxy;
pub mod service;
pub mod stored;
pub mod tls;
