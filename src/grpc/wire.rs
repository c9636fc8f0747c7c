//! The generated types. Only `grpc` sees them.
#![allow(clippy::all, missing_docs, reason = "generated")]

tonic::include_proto!("aethyr.eventstore.v1");

/// What tonic calls.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/aethyr.eventstore.v1.rs"));
}

/// The game world's.
pub mod world {
    tonic::include_proto!("aethyr.world.v1");
}

/// The services' own descriptors, with comments, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.bin"));
