//! What the queries of many objects select, and whether their callers may.

use tonic::Status;

use super::{WorldCalls, json, moments::world_moment, pages::PageRequest};
use crate::{
    access::Right,
    event::{AggregateId, NAME_BYTES_MAX, Position},
    grpc::{
        authorization::{Forbidden, Selection},
        event_store::decode::{filter_values, name},
        status,
        transport::concurrency::Admitted,
        violations::Violations,
        wire::world as wire,
    },
    world::{
        history::difference::{Comparison, WorldMoment},
        model::aggregate::Kind,
        read_models::lists::{ObjectFilter, PlayerFilter},
    },
};

impl WorldCalls {
    /// Decodes a request for a list of objects.
    pub(super) async fn objects_wanted(
        &self,
        call: &Admitted,
        request: wire::ListGameObjectsRequest,
    ) -> Result<(ObjectFilter, PageRequest), Status> {
        let mut wrong = Violations::default();
        let page = PageRequest::new(request.page_size, &request.page_token, 1, &mut wrong);
        let value = request.attribute_value.map(json::from_wire).transpose();
        let value = value.map_err(|problem| wrong.add("attribute_value", problem)).ok().flatten();
        if request.attribute_key.is_empty() && value.is_some() {
            wrong.add("attribute_value", "requires attribute_key");
        }
        filter_values("id_prefixes", &request.id_prefixes, &mut wrong);
        let page = wrong.none_or(page).map_err(status::of_violations)?;
        of_kinds(&request.id_prefixes, &Kind::ALL).require(call, Right::Ask)?;
        self.may_name_container(call, &request.container_id).await?;
        let key = Some(request.attribute_key).filter(|key| !key.is_empty());
        let filter = ObjectFilter {
            class: request.r#type,
            generic: request.generic,
            container_id: request.container_id,
            name: request.name,
            attribute: key.map(|key| (key, value)),
            id_prefixes: request.id_prefixes,
        };
        Ok((filter, page))
    }

    /// Checks the container of a list. Any text is accepted there; only an id can be in a scope.
    async fn may_name_container(&self, call: &Admitted, container: &str) -> Result<(), Status> {
        if container.is_empty() || call.principal.identity.scope.is_unrestricted() {
            return Ok(());
        }
        match AggregateId::new(container) {
            Ok(id) => self.lookup(call).check(Right::Ask, &id).await,
            Err(_) => Err(Forbidden::Scope(Right::Ask).refuse(call)),
        }
    }
}

/// Decodes a request for players.
pub(super) fn players_wanted(
    call: &Admitted,
    request: wire::FindPlayerRequest,
) -> Result<PlayerFilter, Status> {
    let wire::FindPlayerRequest { name: wanted, id_prefixes } = request;
    let mut wrong = Violations::default();
    name("name", &wanted, NAME_BYTES_MAX, &mut wrong);
    filter_values("id_prefixes", &id_prefixes, &mut wrong);
    wrong.none_or(Some(())).map_err(status::of_violations)?;
    of_kinds(&id_prefixes, &[Kind::Player]).require(call, Right::Ask)?;
    Ok(PlayerFilter { name: wanted, id_prefixes })
}

/// Decodes a request for the differences between two moments.
pub(super) fn comparison_wanted(
    call: &Admitted,
    request: wire::DiffWorldRequest,
) -> Result<Comparison, Status> {
    let wire::DiffWorldRequest { since, until, id_prefixes } = request;
    let mut wrong = Violations::default();
    let since = world_moment("since", since, WorldMoment::Position(Position(0)), &mut wrong);
    let until = world_moment("until", until, WorldMoment::Now, &mut wrong);
    filter_values("id_prefixes", &id_prefixes, &mut wrong);
    let (from, to) = wrong.none_or(since.zip(until)).map_err(status::of_violations)?;
    of_kinds(&id_prefixes, &Kind::ALL).require(call, Right::Ask)?;
    Ok(Comparison { from, to, id_prefixes })
}

/// Returns what prefixes select of the objects of these kinds.
fn of_kinds<'s>(prefixes: &'s [String], kinds: &[Kind]) -> Selection<'s> {
    Selection { prefix: "", prefixes, types: kinds.iter().map(|kind| kind.name()).collect() }
}
