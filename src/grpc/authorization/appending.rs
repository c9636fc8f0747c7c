//! What an append contains, held to the rights and the scope of its caller.
//!
//! The same checks apply to a retry: the first answer is for a caller that may append these events
//! now, whichever identity stored them.

use std::collections::BTreeSet;

use super::{AggregateTypes, Forbidden, Principal, RequestCheck, Right, check_actor, in_scope};
use crate::{
    event::{AggregateId, NewEvent},
    store::Append,
    world::{model::aggregate::Kind, rules::command::ACTOR},
};

/// Checks an append. Events of the world's aggregates need another right than those of others.
#[derive(Debug)]
pub(in crate::grpc) struct AppendCheck<'a> {
    pub principal: &'a Principal,
    pub append: &'a Append,
}

impl AppendCheck<'_> {
    /// The right that a refusal names if no particular one is missing.
    fn right(&self) -> Right {
        if self.principal.may(Right::Append) { Right::Append } else { Right::AppendWorld }
    }

    fn event(&self, index: usize, event: &NewEvent) -> Result<(), Forbidden> {
        let right = self.right();
        if !event.aggregate_type.is_empty() {
            self.aggregate(Some(&event.aggregate_type))?;
        }
        let identity = &self.principal.identity;
        if identity.event_types.as_ref().is_some_and(|types| !types.contains(&*event.event_type)) {
            return Err(Forbidden::Value { right, field: format!("events[{index}].event_type") });
        }
        let actor = event.metadata.get(ACTOR).map_or("", String::as_str);
        check_actor(self.principal, right, actor, format_args!("events[{index}].metadata.{ACTOR}"))
    }

    /// Checks the type of an aggregate that has events in the append. `None` if there is no such
    /// aggregate and the append does not tell the type, so that it cannot be stored in any case.
    fn aggregate(&self, aggregate_type: Option<&str>) -> Result<(), Forbidden> {
        self.type_in_scope(aggregate_type)?;
        let needed = match aggregate_type.map(Kind::of) {
            Some(Some(_)) => Right::AppendWorld,
            Some(None) => Right::Append,
            None if self.principal.may(Right::AppendWorld) => Right::Append,
            None => Right::AppendWorld,
        };
        if self.principal.may(needed) { Ok(()) } else { Err(Forbidden::Right(needed)) }
    }

    fn type_in_scope(&self, aggregate_type: Option<&str>) -> Result<(), Forbidden> {
        let scope = &self.principal.identity.scope;
        if scope.aggregate_types.is_none() || aggregate_type.is_some_and(|found| scope.has_type(found)) {
            return Ok(());
        }
        Err(Forbidden::Scope(self.right()))
    }

    /// Returns the aggregates whose types the append tells. If one of them has another type, the
    /// append is not stored, but its refusal would tell something of the aggregate.
    fn told(&self) -> BTreeSet<&AggregateId> {
        let typed = self.append.events.iter().filter(|(event, _)| !event.aggregate_type.is_empty());
        typed.map(|(event, _)| &event.aggregate_id).collect()
    }
}

impl RequestCheck for AppendCheck<'_> {
    fn by_request(&self) -> Result<BTreeSet<AggregateId>, Forbidden> {
        let (principal, append) = (self.principal, self.append);
        let with_events = || append.events.iter().map(|(event, _)| &event.aggregate_id);
        let expected = || append.expected.iter().map(|(id, _)| id);
        in_scope(principal, self.right(), with_events().chain(expected()))?;
        for (index, (event, _)) in append.events.iter().enumerate() {
            self.event(index, event)?;
        }
        let by_scope = principal.identity.scope.aggregate_types.is_some();
        let has_both = principal.may(Right::Append) && principal.may(Right::AppendWorld);
        if has_both && !by_scope {
            return Ok(BTreeSet::new());
        }
        let told = self.told();
        let named = with_events().chain(expected().filter(|_| by_scope));
        Ok(named.filter(|id| by_scope || !told.contains(id)).cloned().collect())
    }

    fn by_types(&self, types: &AggregateTypes) -> Result<(), Forbidden> {
        let told = self.told();
        for (event, _) in &self.append.events {
            let found = types.of(&event.aggregate_id);
            if found.is_some() || !told.contains(&event.aggregate_id) {
                self.aggregate(found)?;
            }
        }
        for (id, _) in &self.append.expected {
            let found = types.of(id);
            if found.is_some() || !told.contains(id) {
                self.type_in_scope(found)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        access::Scope,
        config::LimitsConfig,
        grpc::{
            authorization::tests::{caller, only, scope, with},
            event_store::decode::Decoder,
            wire,
        },
        server::settings,
    };

    const BOTH: [Right; 2] = [Right::Append, Right::AppendWorld];

    /// Returns an append of events with these ids and types of aggregates.
    fn append(events: &[(&str, &str)], expected: &[&str]) -> Append {
        let event = |(id, aggregate_type): &(&str, &str)| wire::NewEvent {
            aggregate_id: (*id).to_owned(),
            aggregate_type: (*aggregate_type).to_owned(),
            event_type: "Happened".to_owned(),
            metadata: BTreeMap::from([("actor".to_owned(), "wizard".to_owned())]),
            ..wire::NewEvent::default()
        };
        let request = wire::AppendEventsRequest {
            events: events.iter().map(event).collect(),
            expected_sequences: expected.iter().map(|id| ((*id).to_owned(), 0)).collect(),
        };
        Decoder { limits: settings::request_limits(&LimitsConfig::default()) }.append(request).unwrap()
    }

    /// Checks an append when these aggregates exist. Also returns how many were looked up.
    fn check(principal: &Principal, append: &Append, exist: &[(&str, &str)]) -> Result<usize, Forbidden> {
        let check = AppendCheck { principal, append };
        let missing = check.by_request()?;
        let types = exist.iter().copied().filter(|(id, _)| missing.iter().any(|found| found.as_str() == *id));
        if !missing.is_empty() {
            check.by_types(&types.collect())?;
        }
        Ok(missing.len())
    }

    #[test]
    fn an_event_of_the_world_needs_another_right_than_other_events() {
        for (aggregate_type, needed, other) in [
            ("Quest", Right::Append, Right::AppendWorld),
            ("GameObject", Right::AppendWorld, Right::Append),
            ("Player", Right::AppendWorld, Right::Append),
            ("Room", Right::AppendWorld, Right::Append),
        ] {
            let append = append(&[("a", aggregate_type)], &["b"]);
            assert_eq!(check(&caller(&[needed], Scope::default()), &append, &[]), Ok(0));
            let refused = check(&caller(&[other], Scope::default()), &append, &[]);
            assert_eq!(refused, Err(Forbidden::Right(needed)), "{aggregate_type}");
            assert_eq!(check(&caller(&BOTH, Scope::default()), &append, &[]), Ok(0));
        }
    }

    #[test]
    fn an_event_without_a_type_has_that_of_its_aggregate_and_a_missing_one_looks_like_a_forbidden_one() {
        let untold = append(&[("a", "")], &[]);
        let append_only = caller(&[Right::Append], Scope::default());
        assert_eq!(check(&append_only, &untold, &[("a", "Quest")]), Ok(1));
        let refused = Err(Forbidden::Right(Right::AppendWorld));
        assert_eq!(check(&append_only, &untold, &[("a", "Room")]), refused);
        assert_eq!(check(&append_only, &untold, &[]), refused);
        let world_only = caller(&[Right::AppendWorld], Scope::default());
        assert_eq!(check(&world_only, &untold, &[("a", "Room")]), Ok(1));
        let refused = Err(Forbidden::Right(Right::Append));
        assert_eq!(check(&world_only, &untold, &[("a", "Quest")]), refused);
        assert_eq!(check(&world_only, &untold, &[]), refused);
        // Another event of the append tells the type.
        assert_eq!(check(&append_only, &append(&[("a", "Quest"), ("a", "")], &[]), &[]), Ok(0));
        // Nobody else needs a lookup.
        assert_eq!(check(&caller(&BOTH, Scope::default()), &untold, &[]), Ok(0));
    }

    #[test]
    fn every_id_is_in_the_scope_also_those_that_are_only_expected() {
        let arena = caller(&BOTH, scope(&["arena-"], &[]));
        assert_eq!(check(&arena, &append(&[("arena-1", "Room")], &["arena-2"]), &[]), Ok(0));
        let out = Err(Forbidden::Scope(Right::Append));
        for (events, expected) in [
            (&[("room-1", "Room")][..], &[][..]),
            (&[("arena-1", "Room"), ("room-1", "Room")][..], &[][..]),
            (&[("arena-1", "Room")][..], &["room-1"][..]),
        ] {
            let append = append(events, expected);
            for exist in [&[("room-1", "Room")][..], &[]] {
                assert_eq!(check(&arena, &append, exist), out);
            }
        }
    }

    #[test]
    fn a_scope_of_types_knows_an_aggregate_by_its_type_or_by_its_event() {
        let quests = caller(&BOTH, scope(&[], &["Quest"]));
        let out = Err(Forbidden::Scope(Right::Append));
        assert_eq!(check(&quests, &append(&[("a", "Quest")], &["a"]), &[]), Ok(1));
        // The type that the append tells does not count for an aggregate that has another one.
        for expected in [&["a"][..], &[]] {
            assert_eq!(check(&quests, &append(&[("a", "Quest")], expected), &[("a", "Room")]), out);
        }
        assert_eq!(check(&quests, &append(&[("a", "Saga")], &[]), &[]), out);
        let expecting = append(&[("a", "Quest")], &["b"]);
        assert_eq!(check(&quests, &expecting, &[("b", "Quest")]), Ok(2));
        assert_eq!(check(&quests, &expecting, &[("b", "Saga")]), out);
        assert_eq!(check(&quests, &expecting, &[]), out);
        assert_eq!(check(&quests, &append(&[("a", "")], &[]), &[("a", "Quest")]), Ok(1));
        assert_eq!(check(&quests, &append(&[("a", "")], &[]), &[]), out);
    }

    #[test]
    fn only_the_actors_and_the_event_types_of_the_identity_may_be_used() {
        let one = append(&[("a", "Quest")], &[]);
        let field = |field: &str| Err(Forbidden::Value { right: Right::Append, field: field.to_owned() });
        let acting = |actors: &[&str]| with(&BOTH, |identity| identity.actors = only(actors));
        assert_eq!(check(&acting(&["wizard"]), &one, &[]), Ok(0));
        assert_eq!(check(&acting(&["god"]), &one, &[]), field("events[0].metadata.actor"));
        assert_eq!(check(&acting(&[]), &one, &[]), field("events[0].metadata.actor"));
        let mut silent = append(&[("a", "Quest")], &[]);
        silent.events[0].0.metadata.clear();
        assert_eq!(check(&acting(&[]), &silent, &[]), Ok(0));
        let typed = |types: &[&str]| with(&BOTH, |identity| identity.event_types = only(types));
        assert_eq!(check(&typed(&["Happened"]), &one, &[]), Ok(0));
        assert_eq!(check(&typed(&["Ended"]), &one, &[]), field("events[0].event_type"));
    }
}
