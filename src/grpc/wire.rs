//! The generated types, and the descriptors of the services.
//!
//! Only `grpc` sees them.
#![allow(clippy::all, clippy::too_many_lines, missing_docs, unreachable_pub, reason = "generated")]

tonic::include_proto!("aethyr.eventstore.v1");

/// The server code that tonic calls.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/aethyr.eventstore.v1.rs"));
}

/// The types of the game world.
pub mod world {
    tonic::include_proto!("aethyr.world.v1");
}

/// The descriptors of the services, with their comments, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.bin"));

/// The descriptors of the event store without those of the game world.
pub const EVENT_STORE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/event_store.bin"));
