//! The part of the statistics that concerns callers: TLS, and what each identity uses.

use std::{fmt, sync::Arc};

use super::encode::timestamp;
use crate::{
    access::{Credential, Principal, Right},
    event::Timestamp,
    grpc::{
        transport::client::{ClientRegistry, ClientUsage},
        wire,
    },
};

/// Returns the time at which the certificate of the service ends, as far as there is one.
#[derive(Clone)]
pub struct CertificateEnd(Arc<dyn Fn() -> Option<Timestamp> + Send + Sync>);

impl CertificateEnd {
    /// Creates the value from what knows the certificate.
    pub fn new(of: impl Fn() -> Option<Timestamp> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    pub(super) fn to_wire(&self) -> Option<prost_types::Timestamp> {
        (self.0)().map(timestamp)
    }
}

impl fmt::Debug for CertificateEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CertificateEnd").field(&(self.0)()).finish()
    }
}

/// Returns what each identity uses, if the caller may know it.
pub(super) fn identities(clients: &ClientRegistry, principal: &Principal) -> Vec<wire::IdentityUse> {
    if principal.credential == Credential::Off || !principal.may(Right::Operate) {
        return Vec::new();
    }
    let mut identities: Vec<_> = clients.usage().into_iter().map(identity).collect();
    identities.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    identities
}

fn identity(usage: ClientUsage) -> wire::IdentityUse {
    wire::IdentityUse {
        name: usage.name.to_string(),
        calls: usage.calls,
        streams: usage.streams,
        bytes: usage.bytes,
        waiting_writes: usage.waiting_writes,
        connections: usage.connections,
        stored_bytes: usage.stored_bytes,
        stored_types: usage.types,
    }
}
