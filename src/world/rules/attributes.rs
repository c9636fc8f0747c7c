//! Attributes of existing objects, and those with which an object is created.
//!
//! A player has a name. The attribute `long_desc` of a room is its description, so setting it leads
//! to the event of the description. All other requirements on values were checked before, for all
//! objects alike.

use serde_json::Value;

use super::{
    refusal::Refusal,
    world_view::{Decided, Undecided, WorldView},
};
use crate::{
    event::AggregateId,
    world::model::{
        aggregate::{Aggregate, Kind},
        event::{Attributes, WorldEvent},
        game_object::NAME,
        room::LONG_DESC,
    },
};

/// The events that create an object.
pub(super) struct Creation {
    /// The kind of the object.
    pub kind: Kind,
    /// The events in order.
    pub events: Vec<WorldEvent>,
}

/// Returns the events that create an object of any class. `created` is `GameObjectCreated` as it
/// was requested.
pub(super) fn creation(id: &AggregateId, created: WorldEvent) -> Result<Creation, Undecided> {
    let WorldEvent::GameObjectCreated { class, name, generic, container_id, mut attributes } = created else {
        return Ok(Creation { kind: Kind::GameObject, events: vec![created] });
    };
    let kind = Kind::of_class(&class);
    let generic = if generic.is_empty() { kind.generic().to_owned() } else { generic };
    let addition = match kind {
        Kind::GameObject => None,
        Kind::Player if name.is_empty() && !attributes.get(NAME).is_some_and(is_name) => {
            return Err(Refusal::Nameless(id.clone()).into());
        }
        Kind::Player => Some(WorldEvent::PlayerCreated { password_hash: None, admin: false }),
        Kind::Room => {
            let long_desc = attributes.remove(LONG_DESC);
            let description = long_desc.map(|value| description(id, &value)).transpose()?.unwrap_or_default();
            Some(WorldEvent::RoomCreated { description })
        }
    };
    let created = WorldEvent::GameObjectCreated { class, name, generic, container_id, attributes };
    Ok(Creation { kind, events: std::iter::once(created).chain(addition).collect() })
}

/// Returns the event that creates the game object of a player or a room.
pub(super) fn named(kind: Kind, name: &str) -> WorldEvent {
    WorldEvent::GameObjectCreated {
        // The class is the aggregate type.
        class: kind.name().to_owned(),
        name: name.to_owned(),
        generic: kind.generic().to_owned(),
        container_id: None,
        attributes: Attributes::new(),
    }
}

/// Returns the event that sets an attribute. Empty if it already has this value.
pub(super) fn update(
    known: &WorldView,
    id: &AggregateId,
    key: &str,
    value: &Value,
) -> Result<Vec<Decided>, Undecided> {
    if key == NAME {
        check_name(known, id, Some(value))?;
    }
    let aggregate = known.living(id)?;
    let event = match aggregate {
        Aggregate::Room(room) if key == LONG_DESC => room.update_description(&description(id, value)?),
        _ => aggregate.object().update_attribute(key, value),
    };
    Ok(decided(aggregate, id, event))
}

/// Returns the events that set several attributes. Empty if nothing changes.
pub(super) fn update_all(
    known: &WorldView,
    id: &AggregateId,
    attributes: &Attributes,
) -> Result<Vec<Decided>, Undecided> {
    if let Some(name) = attributes.get(NAME) {
        check_name(known, id, Some(name))?;
    }
    let aggregate = known.living(id)?;
    let (Aggregate::Room(room), Some(long_desc)) = (aggregate, attributes.get(LONG_DESC)) else {
        return Ok(decided(aggregate, id, aggregate.object().update_attributes(attributes)));
    };
    let mut others = attributes.clone();
    others.remove(LONG_DESC);
    let described = room.update_description(&description(id, long_desc)?);
    let updated = room.object.update_attributes(&others);
    Ok(decided(aggregate, id, updated.into_iter().chain(described)))
}

/// Returns the event that removes an attribute. Empty if the object does not have it.
pub(super) fn remove(known: &WorldView, id: &AggregateId, key: &str) -> Result<Vec<Decided>, Undecided> {
    if key == NAME {
        check_name(known, id, None)?;
    }
    let aggregate = known.living(id)?;
    let event = match aggregate {
        Aggregate::Room(room) if key == LONG_DESC => room.update_description(""),
        _ => aggregate.object().remove_attribute(key),
    };
    Ok(decided(aggregate, id, event))
}

/// Checks that a player has a name, because players are found by it.
fn check_name(known: &WorldView, id: &AggregateId, name: Option<&Value>) -> Result<(), Undecided> {
    match known.living(id)?.kind() {
        Kind::Player if !name.is_some_and(is_name) => Err(Refusal::Nameless(id.clone()).into()),
        Kind::Player | Kind::GameObject | Kind::Room => Ok(()),
    }
}

fn is_name(name: &Value) -> bool {
    name.as_str().is_some_and(|name| !name.is_empty())
}

/// Returns the description that a value of `long_desc` stands for. `null` is none.
fn description(id: &AggregateId, value: &Value) -> Result<String, Undecided> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(Refusal::DescriptionNotText(id.clone()).into())
        }
    }
}

fn decided(
    aggregate: &Aggregate,
    id: &AggregateId,
    events: impl IntoIterator<Item = WorldEvent>,
) -> Vec<Decided> {
    let kind = aggregate.kind();
    events.into_iter().map(|event| Decided { id: id.clone(), kind, event }).collect()
}
