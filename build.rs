//! Generates code from the protobuf files.
//!
//! It uses `protox`, so `protoc` does not have to be installed.

use std::{env, fs, path::PathBuf};

use prost::Message;

const SERVICE: [&str; 1] = ["aethyr/eventstore/v1/event_store_service.proto"];
const STREAMED: [&str; 4] =
    ["LoadEventsResponse", "LoadManyEventsResponse", "ReadAllResponse", "SubscribeResponse"];
const WORLD: [&str; 2] = ["aethyr/world/v1/command_service.proto", "aethyr/world/v1/world_service.proto"];
const STORAGE: [&str; 1] = ["aethyr/storage/v1/record.proto"];
const PROOF: [&str; 1] = ["aethyr/storage/v1/proof.proto"];
const IMMUDB: [&str; 1] = ["immudb/schema.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // Server reflection returns the descriptors of the services with their comments.
    let described = |files: &[&str]| -> Result<_, protox::Error> {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(true).open_files(files)?;
        Ok(compiler.file_descriptor_set())
    };
    let all = described(&[&SERVICE[..], &WORLD].concat())?;
    fs::write(out.join("services.bin"), all.encode_to_vec())?;
    let service = described(&SERVICE)?;
    fs::write(out.join("event_store.bin"), service.encode_to_vec())?;
    let types = tonic_build::configure().build_server(false).btree_map(".").bytes(".");
    types.compile_fds(service.clone())?;

    // The server sends stored bytes unchanged, so its streams use hand-written message types.
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    STREAMED
        .iter()
        .fold(tonic_build::configure().build_client(false).out_dir(server), |server, name| {
            server.extern_path(
                format!(".aethyr.eventstore.v1.{name}"),
                format!("crate::grpc::event_store::messages::{name}"),
            )
        })
        .extern_path(".aethyr.eventstore.v1", "crate::grpc::wire")
        .compile_fds(service)?;

    tonic_build::configure()
        .btree_map(".")
        .extern_path(".aethyr.eventstore.v1", "crate::grpc::wire")
        .compile_fds(protox::compile(WORLD, ["proto"])?)?;

    tonic_build::configure()
        .build_server(false)
        .build_client(false)
        .btree_map(".")
        .bytes(".")
        .compile_fds(protox::compile(STORAGE, ["proto"])?)?;

    // A module of its own has these messages, though they are in the package of the records.
    let proof = out.join("proof");
    fs::create_dir_all(&proof)?;
    tonic_build::configure()
        .build_server(false)
        .build_client(false)
        .bytes(".")
        .out_dir(proof)
        .compile_fds(protox::compile(PROOF, ["proto"])?)?;

    tonic_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(protox::compile(IMMUDB, ["proto"])?)?;
    Ok(())
}
