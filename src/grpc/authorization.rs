//! Holds decoded requests to the rights and the scope of their callers.
//!
//! That a caller may make a call at all is decided by its headers, in `transport`. Here every id
//! that a request names is held to the scope, and every right that depends on what a request
//! contains is required. Ids are judged before anything is looked up. Where the type of an
//! aggregate matters, one that does not exist is refused like one of a type that the caller may not
//! name, so that a refusal does not tell which ids exist. The type of an aggregate never changes,
//! so what was looked up stays true.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tonic::Status;

use super::{
    status,
    transport::{concurrency::Admitted, reads::Reads},
};
use crate::{
    access::{Principal, Right},
    error::StoreError,
    event::AggregateId,
    store::EventStore,
};

mod appending;
mod commanding;
mod selection;

pub(super) use appending::AppendCheck;
pub(super) use commanding::CommandsCheck;
pub(super) use selection::Selection;

/// Why a caller may not do what its request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// The caller lacks a right.
    Right(Right),
    /// An id or a filter is not in the scope of the caller, who uses this right.
    Scope(Right),
    /// The caller may not use the value of a field.
    Value { right: Right, field: String },
}

impl Forbidden {
    /// Returns the status of the call, which is refused. Every refusal of a decoded request passes
    /// through here.
    pub(super) fn refuse(self, call: &Admitted) -> Status {
        let status = match self {
            Self::Right(right) => status::not_allowed(right),
            Self::Scope(right) => status::out_of_scope(right, &call.principal.identity.scope),
            Self::Value { right, field } => status::value_not_allowed(right, field),
        };
        call.note_refusal(&status);
        status
    }
}

/// The types of aggregates that were looked up. An aggregate that does not exist has none.
#[derive(Debug, Default)]
pub(super) struct AggregateTypes(BTreeMap<AggregateId, Arc<str>>);

impl AggregateTypes {
    pub(super) fn of(&self, id: &AggregateId) -> Option<&str> {
        self.0.get(id).map(|aggregate_type| &**aggregate_type)
    }
}

/// Looks up the types of aggregates for a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct TypeLookup<'l> {
    pub store: &'l Arc<EventStore>,
    pub reads: &'l Reads,
    pub call: &'l Admitted,
}

impl TypeLookup<'_> {
    /// Checks an aggregate that a request names.
    ///
    /// # Errors
    /// Returns an error if it is not in the scope, or if its type cannot be looked up.
    pub(super) async fn check(self, right: Right, id: &AggregateId) -> Result<(), Status> {
        self.check_all(right, std::slice::from_ref(id)).await
    }

    /// Checks all aggregates that a request names.
    ///
    /// # Errors
    /// See [`TypeLookup::check`].
    pub(super) async fn check_all(self, right: Right, ids: &[AggregateId]) -> Result<(), Status> {
        let principal = &self.call.principal;
        let scope = &principal.identity.scope;
        if scope.is_unrestricted() {
            return Ok(());
        }
        in_scope(principal, right, ids).map_err(|forbidden| forbidden.refuse(self.call))?;
        if scope.aggregate_types.is_some() {
            let types = self.types(ids.iter().cloned().collect()).await?;
            if !ids.iter().all(|id| types.of(id).is_some_and(|found| scope.has_type(found))) {
                return Err(Forbidden::Scope(right).refuse(self.call));
            }
        }
        Ok(())
    }

    /// Checks what an append or commands name: first what the request itself tells, then, if that
    /// is not enough, with the types of the aggregates that it does not tell.
    ///
    /// # Errors
    /// Returns an error if something is not allowed, or if a type cannot be looked up.
    pub(super) async fn check_request(self, check: &impl RequestCheck) -> Result<(), Status> {
        let missing = check.by_request().map_err(|forbidden| forbidden.refuse(self.call))?;
        if missing.is_empty() {
            return Ok(());
        }
        let types = self.types(missing).await?;
        check.by_types(&types).map_err(|forbidden| forbidden.refuse(self.call))
    }

    /// Returns the types of aggregates.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub(super) async fn types(self, ids: BTreeSet<AggregateId>) -> Result<AggregateTypes, Status> {
        /// A lookup reads blocks of the index, and keeps an id and a type for each aggregate.
        const OWN_BYTES: usize = 64 * 1024;
        const EACH_BYTES: usize = 1024;
        let bytes = ids.len().saturating_mul(EACH_BYTES).saturating_add(OWN_BYTES);
        let store = self.store.clone();
        let look_up = move || -> Result<AggregateTypes, StoreError> {
            let mut types = BTreeMap::new();
            for id in ids {
                if let Some(head) = store.head(&id)? {
                    types.insert(id, head.aggregate_type);
                }
            }
            Ok(AggregateTypes(types))
        };
        let found = self.call.in_time(self.reads.run_with(bytes, self.call, look_up)).await;
        // The bytes of the answer are acquired by the call itself.
        self.call.answer.resize(0)?;
        found?.map_err(status::of_error)
    }
}

/// A request whose aggregates are held to the rights and the scope of its caller.
pub(super) trait RequestCheck {
    /// Checks what the request itself tells. Returns the aggregates whose types decide the rest.
    ///
    /// # Errors
    /// Returns an error if something is not allowed, whatever the types are.
    fn by_request(&self) -> Result<BTreeSet<AggregateId>, Forbidden>;

    /// Checks the rest.
    ///
    /// # Errors
    /// Returns an error if something is not allowed.
    fn by_types(&self, types: &AggregateTypes) -> Result<(), Forbidden>;
}

/// Checks that the scope has each of the ids.
///
/// # Errors
/// Returns an error if it does not.
fn in_scope<'i>(
    principal: &Principal,
    right: Right,
    ids: impl IntoIterator<Item = &'i AggregateId>,
) -> Result<(), Forbidden> {
    let scope = &principal.identity.scope;
    if scope.prefixes.is_none() || ids.into_iter().all(|id| scope.has_id(id.as_str())) {
        return Ok(());
    }
    Err(Forbidden::Scope(right))
}

/// Checks whom the game says a caller acts for. An empty actor is none.
///
/// # Errors
/// Returns an error that names the field if the caller may not name this actor.
pub(super) fn check_actor(
    principal: &Principal,
    right: Right,
    actor: &str,
    field: impl std::fmt::Display,
) -> Result<(), Forbidden> {
    match &principal.identity.actors {
        Some(actors) if !actor.is_empty() && !actors.contains(actor) => {
            Err(Forbidden::Value { right, field: field.to_string() })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
pub(in crate::grpc) mod tests;
