//! Callers for the tests of this module.

use std::{collections::BTreeSet, sync::Arc};

use super::AggregateTypes;
use crate::{
    access::{AccessControl, Credential, Identity, Policy, Principal, Right, Rights, Scope, Shares},
    event::AggregateId,
};

impl<'t> FromIterator<(&'t str, &'t str)> for AggregateTypes {
    fn from_iter<I: IntoIterator<Item = (&'t str, &'t str)>>(types: I) -> Self {
        let types = types.into_iter();
        Self(types.map(|(id, of)| (AggregateId::new(id).unwrap(), of.into())).collect())
    }
}

/// Returns a caller with these rights in this scope.
pub(in crate::grpc) fn caller(rights: &[Right], scope: Scope) -> Principal {
    with(rights, |identity| identity.scope = scope)
}

/// Returns a caller with these rights, and what else is set.
pub(in crate::grpc) fn with(rights: &[Right], set: impl FnOnce(&mut Identity)) -> Principal {
    let mut identity = Identity {
        name: "arena-1".into(),
        role: "arena-server".into(),
        rights: rights.iter().fold(Rights::NONE, |rights, right| rights.with(*right)),
        scope: Scope::default(),
        actors: None,
        event_types: None,
        shares: Shares {
            share: 0.5,
            appends_per_second: None,
            events_per_second: None,
            bytes_per_second: None,
            stored_bytes_max: None,
            types_max: None,
        },
    };
    set(&mut identity);
    Principal::new(Arc::new(identity), Credential::Anonymous, AccessControl::fixed(Policy::off()))
}

/// Returns a scope. An empty list restricts nothing.
pub(in crate::grpc) fn scope(prefixes: &[&str], types: &[&str]) -> Scope {
    let prefixes = (!prefixes.is_empty()).then(|| prefixes.iter().map(|one| (*one).to_owned()).collect());
    Scope { prefixes, aggregate_types: if types.is_empty() { None } else { only(types) } }
}

/// Returns a restriction to these values.
pub(in crate::grpc) fn only(values: &[&str]) -> Option<BTreeSet<String>> {
    Some(values.iter().map(|one| (*one).to_owned()).collect())
}
