//! The names of the services, and which of their calls write.
//!
//! The response to a write is not withheld once the write has begun (see
//! `transport::write_answer`), so every call has to be in one of the two lists. A test compares
//! them with the descriptors.

use super::{
    settings::GameWorld,
    wire::{
        server::event_store_service_server::SERVICE_NAME as EVENT_STORE,
        world::{
            command_service_server::SERVICE_NAME as COMMANDS, world_service_server::SERVICE_NAME as WORLD,
        },
    },
};

pub(super) const HEALTH: &str = tonic_health::pb::health_server::SERVICE_NAME;

/// Calls that have stored something when their response is sent.
const WRITES: [(&str, &str); 3] =
    [(EVENT_STORE, "AppendEvents"), (EVENT_STORE, "SaveSnapshot"), (COMMANDS, "ExecuteCommands")];

/// All other calls. `RebuildWorldState` may repair objects, but the response only reports its
/// progress: a client that loses it can ask again.
#[cfg(test)]
const READS: [(&str, &str); 20] = [
    (EVENT_STORE, "LoadEvents"),
    (EVENT_STORE, "LoadSnapshot"),
    (EVENT_STORE, "ListAggregates"),
    (EVENT_STORE, "ReadAll"),
    (EVENT_STORE, "Subscribe"),
    (EVENT_STORE, "Stats"),
    (EVENT_STORE, "GetProof"),
    (EVENT_STORE, "GetCheckpoint"),
    (EVENT_STORE, "GetConsistency"),
    (EVENT_STORE, "VerifyAggregate"),
    (EVENT_STORE, "VerifyAll"),
    (WORLD, "GetGameObject"),
    (WORLD, "GetPlayer"),
    (WORLD, "GetRoom"),
    (WORLD, "ListGameObjects"),
    (WORLD, "ListContents"),
    (WORLD, "FindPlayer"),
    (WORLD, "GetHistory"),
    (WORLD, "DiffWorld"),
    (WORLD, "RebuildWorldState"),
];

/// Returns the full names of the services that are served.
pub(super) fn services(world: GameWorld) -> &'static [&'static str] {
    match world {
        GameWorld::Enabled => &[EVENT_STORE, COMMANDS, WORLD],
        GameWorld::Disabled => &[EVENT_STORE],
    }
}

/// Returns service and call of an HTTP path, which is `/SERVICE/CALL`.
fn method(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

pub(super) fn is_write(path: &str) -> bool {
    method(path).is_some_and(|method| WRITES.contains(&method))
}

pub(super) fn is_health(path: &str) -> bool {
    method(path).is_some_and(|(service, _)| service == HEALTH)
}

pub(super) fn is_health_check(path: &str) -> bool {
    method(path) == Some((HEALTH, "Check"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::grpc::wire;

    #[test]
    fn every_call_is_known_to_write_or_not() {
        let files = FileDescriptorSet::decode(wire::DESCRIPTORS).unwrap().file;
        let mut described = BTreeSet::new();
        for file in files {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                described
                    .extend(service.method.iter().map(|method| (name.clone(), method.name().to_owned())));
            }
        }
        let known = WRITES.iter().chain(&READS);
        let known: BTreeSet<_> =
            known.map(|(service, call)| ((*service).to_owned(), (*call).to_owned())).collect();
        assert_eq!(known.len(), WRITES.len() + READS.len());
        assert_eq!(described, known);
    }

    #[test]
    fn paths_are_taken_apart() {
        assert!(is_write("/aethyr.eventstore.v1.EventStoreService/AppendEvents"));
        assert!(!is_write("/aethyr.eventstore.v1.EventStoreService/LoadEvents"));
        assert!(!is_write("AppendEvents") && !is_write("/AppendEvents") && !is_write(""));
        assert!(
            is_health("/grpc.health.v1.Health/Watch") && !is_health_check("/grpc.health.v1.Health/Watch")
        );
        assert!(is_health_check("/grpc.health.v1.Health/Check"));
    }
}
