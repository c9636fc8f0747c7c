//! The names of the services, which of their calls write, and the rights that each call needs.
//!
//! The response to a write is not withheld once the write has begun (see
//! `transport::write_answer`), and a call without a right would be open to nobody or to everybody,
//! so every call has to be in one of the lists. A test compares them with the descriptors.

use tonic_reflection::pb::{
    v1::server_reflection_server::SERVICE_NAME as REFLECTION,
    v1alpha::server_reflection_server::SERVICE_NAME as REFLECTION_ALPHA,
};

use super::{
    settings::GameWorld,
    wire::{
        server::event_store_service_server::SERVICE_NAME as EVENT_STORE,
        world::{
            command_service_server::SERVICE_NAME as COMMANDS, world_service_server::SERVICE_NAME as WORLD,
        },
    },
};
use crate::access::Right;

pub(super) const HEALTH: &str = tonic_health::pb::health_server::SERVICE_NAME;

/// What the caller of a call needs to be admitted. What the request contains may need more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NeededRights {
    /// Nothing: nobody is asked who it is.
    None,
    /// An identity, whatever its rights are.
    Identity,
    /// Any of these rights.
    Any(&'static [Right]),
}

/// A call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The full name of its service.
    pub service: &'static str,
    pub name: &'static str,
    pub needs: NeededRights,
}

const fn needing(service: &'static str, name: &'static str, rights: &'static [Right]) -> Method {
    Method { service, name, needs: NeededRights::Any(rights) }
}

const fn open(service: &'static str, name: &'static str) -> Method {
    Method { service, name, needs: NeededRights::None }
}

/// Calls that have stored something when their response is sent.
static WRITES: [Method; 3] = [
    needing(EVENT_STORE, "AppendEvents", &[Right::Append, Right::AppendWorld]),
    needing(EVENT_STORE, "SaveSnapshot", &[Right::Snapshot]),
    needing(COMMANDS, "ExecuteCommands", &[Right::Execute, Right::ExecutePlayers]),
];

/// All other calls. `RebuildWorldState` may repair objects, but the response only reports its
/// progress: a client that loses it can ask again.
static READS: [Method; 21] = [
    needing(EVENT_STORE, "LoadEvents", &[Right::Load]),
    needing(EVENT_STORE, "LoadManyEvents", &[Right::Load]),
    needing(EVENT_STORE, "LoadSnapshot", &[Right::Load]),
    needing(EVENT_STORE, "ListAggregates", &[Right::Load]),
    needing(EVENT_STORE, "ReadAll", &[Right::Subscribe]),
    needing(EVENT_STORE, "Subscribe", &[Right::Subscribe]),
    needing(EVENT_STORE, "Stats", &[Right::Stats]),
    needing(EVENT_STORE, "GetProof", &[Right::Prove]),
    needing(EVENT_STORE, "GetCheckpoint", &[Right::Prove]),
    needing(EVENT_STORE, "GetConsistency", &[Right::Prove]),
    needing(EVENT_STORE, "VerifyAggregate", &[Right::Prove]),
    needing(EVENT_STORE, "VerifyAll", &[Right::Prove]),
    needing(WORLD, "GetGameObject", &[Right::Ask]),
    needing(WORLD, "GetPlayer", &[Right::Ask]),
    needing(WORLD, "GetRoom", &[Right::Ask]),
    needing(WORLD, "ListGameObjects", &[Right::Ask]),
    needing(WORLD, "ListContents", &[Right::Ask]),
    needing(WORLD, "FindPlayer", &[Right::Ask]),
    needing(WORLD, "GetHistory", &[Right::Ask]),
    needing(WORLD, "DiffWorld", &[Right::Ask]),
    needing(WORLD, "RebuildWorldState", &[Right::Operate]),
];

/// The calls of services that are not the project's own.
static OTHERS: [Method; 4] = [
    open(HEALTH, "Check"),
    open(HEALTH, "Watch"),
    needing(REFLECTION, "ServerReflectionInfo", &[Right::Reflect]),
    needing(REFLECTION_ALPHA, "ServerReflectionInfo", &[Right::Reflect]),
];

impl Method {
    fn is(&self, (service, name): (&str, &str)) -> bool {
        self.service == service && self.name == name
    }

    /// Returns whether the call has stored something when its response is sent.
    pub(super) fn is_write(&'static self) -> bool {
        WRITES.iter().any(|write| std::ptr::eq(write, self))
    }
}

/// Returns the call of an HTTP path, if the service has it.
pub(super) fn find(path: &str) -> Option<&'static Method> {
    let method = method(path)?;
    WRITES.iter().chain(&READS).chain(&OTHERS).find(|known| known.is(method))
}

/// Returns what the caller needs who makes the call of an HTTP path. Who asks for a call that does
/// not exist needs an identity to be told so.
pub(super) fn needed_rights(method: Option<&Method>) -> NeededRights {
    method.map_or(NeededRights::Identity, |method| method.needs)
}

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
    method(path).is_some_and(|method| WRITES.iter().any(|write| write.is(method)))
}

pub(super) fn is_health(path: &str) -> bool {
    method(path).is_some_and(|(service, _)| service == HEALTH)
}

/// Returns whether the path belongs to server reflection, whose streams last as long as their
/// clients like.
pub(super) fn is_reflection(path: &str) -> bool {
    method(path).is_some_and(|(service, _)| [REFLECTION, REFLECTION_ALPHA].contains(&service))
}

pub(super) fn is_health_check(path: &str) -> bool {
    method(path) == Some((HEALTH, "Check"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::grpc::wire;

    /// Every call of these descriptors: its service, its name and its path.
    fn described(descriptors: &[u8]) -> Vec<(String, String, String)> {
        let mut calls = Vec::new();
        for file in FileDescriptorSet::decode(descriptors).unwrap().file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                let call = |method: &prost_types::MethodDescriptorProto| {
                    (name.clone(), method.name().to_owned(), format!("/{name}/{}", method.name()))
                };
                calls.extend(service.method.iter().map(call));
            }
        }
        calls
    }

    /// All calls that can be reached on the port.
    fn reachable() -> Vec<(String, String, String)> {
        let sets = [
            wire::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        sets.into_iter().flat_map(described).collect()
    }

    #[test]
    fn every_call_is_known_to_write_or_not() {
        let calls = described(wire::DESCRIPTORS);
        let described: BTreeSet<_> = calls.into_iter().map(|(service, name, _)| (service, name)).collect();
        let known = WRITES.iter().chain(&READS);
        let known: BTreeSet<_> =
            known.map(|method| (method.service.to_owned(), method.name.to_owned())).collect();
        assert_eq!(known.len(), WRITES.len() + READS.len());
        assert_eq!(described, known);
        for method in &READS {
            assert!(!method.is_write(), "{}", method.name);
        }
        assert!(WRITES.iter().all(Method::is_write));
    }

    #[test]
    fn every_call_on_the_port_has_an_entry_and_every_entry_a_call() {
        let calls = reachable();
        for (service, name, path) in &calls {
            let method = find(path).unwrap_or_else(|| panic!("{path} has no entry"));
            assert_eq!((method.service, method.name), (service.as_str(), name.as_str()));
            let open = service == HEALTH;
            assert_eq!(method.needs == NeededRights::None, open, "{path}");
            let NeededRights::Any(rights) = method.needs else { continue };
            assert!(!rights.is_empty(), "{path} is open to nobody");
        }
        assert_eq!(calls.len(), WRITES.len() + READS.len() + OTHERS.len());
    }

    #[test]
    fn each_right_opens_the_calls_of_the_contract() {
        let mut opened: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (_, name, path) in reachable() {
            if let NeededRights::Any(rights) = needed_rights(find(&path)) {
                for right in rights {
                    opened.entry(right.name()).or_default().insert(name.clone());
                }
            }
        }
        let expected = [
            ("append", "AppendEvents"),
            ("append_world", "AppendEvents"),
            ("snapshot", "SaveSnapshot"),
            ("load", "ListAggregates LoadEvents LoadManyEvents LoadSnapshot"),
            ("subscribe", "ReadAll Subscribe"),
            ("execute", "ExecuteCommands"),
            ("execute_players", "ExecuteCommands"),
            (
                "ask",
                "DiffWorld FindPlayer GetGameObject GetHistory GetPlayer GetRoom ListContents \
                 ListGameObjects",
            ),
            ("prove", "GetCheckpoint GetConsistency GetProof VerifyAggregate VerifyAll"),
            ("stats", "Stats"),
            ("operate", "RebuildWorldState"),
            ("reflect", "ServerReflectionInfo"),
        ];
        let expected = expected
            .into_iter()
            .map(|(right, names)| (right, names.split(' ').map(str::to_owned).collect::<BTreeSet<String>>()));
        assert_eq!(opened, expected.collect());
    }

    #[test]
    fn an_unknown_path_needs_an_identity() {
        for path in [
            "",
            "/",
            "/AppendEvents",
            "//grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/List",
            "/grpc.health.v1.Health/Check/",
            "/grpc.health.v1.Health/check",
            "/grpc.reflection.v1.ServerReflection/Other",
            "/aethyr.eventstore.v1.EventStoreService/appendEvents",
            "/aethyr.eventstore.v1.EventStoreService/Stats/",
        ] {
            assert_eq!(needed_rights(find(path)), NeededRights::Identity, "{path}");
        }
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
        assert!(is_reflection("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"));
        assert!(is_reflection("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"));
        assert!(!is_reflection("/grpc.health.v1.Health/Watch"));
    }
}
