//! Field-by-field differences between two states of an aggregate, or the changes made by one event.
//!
//! Works on states in memory only; replaying events is left to the caller. The values of password
//! hashes are masked.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    event::AggregateId,
    world::model::{aggregate::Aggregate, event::WorldEvent, room::LONG_DESC},
};

/// A field that differs. A value is `None` if the field has none on that side.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The path of the field, as in `attributes.name`.
    pub field: String,
    /// The value before the change.
    pub before: Option<Value>,
    /// The value after the change.
    pub after: Option<Value>,
}

/// The field of the password hash, whose values are masked.
const PASSWORD_HASH: &str = "password_hash";

/// Returns the changes in the order of the field names. `None` means that there is no such
/// aggregate.
pub fn between(before: Option<&Aggregate>, after: Option<&Aggregate>) -> Vec<Change> {
    different(fields(before), fields(after))
}

fn different(before: BTreeMap<String, Value>, mut after: BTreeMap<String, Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (field, before) in before {
        let after = after.remove(&field);
        if after.as_ref() != Some(&before) {
            changes.push(Change { field, before: Some(before), after });
        }
    }
    changes.extend(after.into_iter().map(|(field, after)| Change {
        field,
        before: None,
        after: Some(after),
    }));
    in_order(changes)
}

fn in_order(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_unstable_by(|one, other| one.field.cmp(&other.field));
    for change in changes.iter_mut().filter(|change| change.field == PASSWORD_HASH) {
        for value in [&mut change.before, &mut change.after].into_iter().flatten() {
            *value = "***".into();
        }
    }
    changes
}

/// The fields to compare before and after one event.
#[derive(Debug)]
pub enum ComparedFields<'e> {
    /// The fields that the event names, with their values before it. All others are ignored, so the
    /// cost does not depend on the size of the aggregate.
    Named(Vec<(Field<'e>, Option<Value>)>),
    /// All fields: for the first event and for the deletion.
    All(BTreeMap<String, Value>),
}

impl<'e> ComparedFields<'e> {
    /// Captures the values before an event. `aggregate` is `None` for the first event.
    pub fn before(aggregate: Option<&Aggregate>, event: &'e WorldEvent) -> Self {
        match (aggregate, event) {
            (None, _) | (_, WorldEvent::GameObjectDeleted {}) => Self::All(fields(aggregate)),
            (Some(aggregate), event) => {
                let fields = Field::named_by(event, aggregate).into_iter();
                Self::Named(fields.map(|field| (field, field.value(aggregate))).collect())
            }
        }
    }

    /// Returns the changes in the order of the field names.
    pub fn changes(self, after: &Aggregate) -> Vec<Change> {
        let watched = match self {
            Self::Named(watched) => watched,
            Self::All(before) => return different(before, fields(Some(after))),
        };
        let changed = watched.into_iter().filter_map(|(field, before)| {
            let after = field.value(after);
            (after != before).then(|| Change { field: field.path(), before, after })
        });
        in_order(changed.collect())
    }
}

/// A field of an aggregate.
#[derive(Debug, Clone, Copy)]
pub enum Field<'f> {
    /// `type`: the class of the object in the game.
    Class,
    /// `generic`: the name used by those who do not know the object's own name.
    Generic,
    /// `container_id`, which has no value if the object lies nowhere.
    Container,
    /// `deleted`, which has a value only if the object is deleted.
    Deleted,
    /// `attributes.KEY`.
    Attribute(&'f str),
    /// `inventory.ITEM`: the position of an item in the inventory.
    Carried(&'f AggregateId),
    /// `equipment.SLOT`: the item that is worn in a slot.
    Worn(&'f str),
    /// `description` of a room.
    Description,
    /// `exits.DIRECTION`: the room that an exit leads to.
    Exit(&'f str),
    /// `password_hash` of a player.
    PasswordHash,
    /// `admin`, which has a value only if the player is an administrator.
    Admin,
}

impl<'f> Field<'f> {
    /// Returns all fields in which an aggregate may have a value.
    fn of(aggregate: &'f Aggregate) -> Vec<Self> {
        let object = aggregate.object();
        let mut fields = vec![Self::Class, Self::Generic, Self::Container, Self::Deleted];
        fields.extend(object.attributes.keys().map(|key| Self::Attribute(key)));
        fields.extend(object.inventory.keys().map(Self::Carried));
        fields.extend(object.equipment.keys().map(|slot| Self::Worn(slot)));
        match aggregate {
            Aggregate::GameObject(_) => {}
            Aggregate::Player(_) => fields.extend([Self::PasswordHash, Self::Admin]),
            Aggregate::Room(room) => {
                fields.push(Self::Description);
                fields.extend(room.exits.keys().map(|way| Self::Exit(way)));
            }
        }
        fields
    }

    /// Returns the field of an attribute. That of the description of a room is the description.
    fn of_attribute(key: &'f str, aggregate: &Aggregate) -> Self {
        match aggregate {
            Aggregate::Room(_) if key == LONG_DESC => Self::Description,
            Aggregate::Room(_) | Aggregate::GameObject(_) | Aggregate::Player(_) => Self::Attribute(key),
        }
    }

    /// Returns all fields that an event may change in an existing aggregate.
    fn named_by(event: &'f WorldEvent, aggregate: &Aggregate) -> Vec<Self> {
        match event {
            // An existing object cannot be created again, and a deletion is compared as a whole.
            WorldEvent::GameObjectCreated { .. }
            | WorldEvent::GameObjectDeleted {}
            | WorldEvent::ObjectRepaired { .. } => Vec::new(),
            WorldEvent::GameObjectAttributeUpdated { key, .. }
            | WorldEvent::GameObjectAttributeRemoved { key } => vec![Self::of_attribute(key, aggregate)],
            WorldEvent::GameObjectAttributesUpdated { attributes } => {
                attributes.keys().map(|key| Self::of_attribute(key, aggregate)).collect()
            }
            WorldEvent::GameObjectContainerUpdated { .. } => vec![Self::Container],
            WorldEvent::PlayerCreated { .. } => vec![Self::PasswordHash, Self::Admin],
            WorldEvent::PlayerPasswordUpdated { .. } => vec![Self::PasswordHash],
            WorldEvent::PlayerAdminStatusUpdated { .. } => vec![Self::Admin],
            WorldEvent::RoomCreated { .. } | WorldEvent::RoomDescriptionUpdated { .. } => {
                vec![Self::Description]
            }
            WorldEvent::RoomExitAdded { direction, .. } | WorldEvent::RoomExitRemoved { direction } => {
                vec![Self::Exit(direction)]
            }
            WorldEvent::ItemAddedToInventory { item_id, .. }
            | WorldEvent::ItemRemovedFromInventory { item_id } => vec![Self::Carried(item_id)],
            WorldEvent::ItemEquipped { item_id, slot } | WorldEvent::ItemUnequipped { item_id, slot } => {
                vec![Self::Carried(item_id), Self::Worn(slot)]
            }
        }
    }

    fn path(self) -> String {
        match self {
            Self::Class => "type".to_owned(),
            Self::Generic => "generic".to_owned(),
            Self::Container => "container_id".to_owned(),
            Self::Deleted => "deleted".to_owned(),
            Self::Attribute(key) => format!("attributes.{key}"),
            Self::Carried(item) => format!("inventory.{item}"),
            Self::Worn(slot) => format!("equipment.{slot}"),
            Self::Description => "description".to_owned(),
            Self::Exit(way) => format!("exits.{way}"),
            Self::PasswordHash => PASSWORD_HASH.to_owned(),
            Self::Admin => "admin".to_owned(),
        }
    }

    /// Returns `None` for an empty text, for `false` and for no container, so that the changes of a
    /// creation list only the fields that the object then has.
    fn value(self, aggregate: &Aggregate) -> Option<Value> {
        let object = aggregate.object();
        let text = |text: &str| (!text.is_empty()).then(|| text.into());
        let yes = |holds: bool| holds.then(|| true.into());
        match (self, aggregate) {
            (Self::Class, _) => text(&object.class),
            (Self::Generic, _) => text(&object.generic),
            (Self::Container, _) => object.container_id.as_ref().and_then(|id| text(id.as_str())),
            (Self::Deleted, _) => yes(object.deleted),
            (Self::Attribute(key), _) => object.attributes.get(key).cloned(),
            (Self::Carried(item), _) => {
                object.inventory.get(item).map(|position| position.clone().unwrap_or_default())
            }
            (Self::Worn(slot), _) => object.equipment.get(slot).map(|item| item.as_str().into()),
            (Self::Description, Aggregate::Room(room)) => text(&room.description),
            (Self::Exit(way), Aggregate::Room(room)) => {
                room.exits.get(way).map(|target| target.as_str().into())
            }
            (Self::PasswordHash, Aggregate::Player(player)) => {
                player.password_hash.as_ref().and_then(|hash| text(hash.reveal()))
            }
            (Self::Admin, Aggregate::Player(player)) => yes(player.admin),
            (Self::Description | Self::Exit(_) | Self::PasswordHash | Self::Admin, _) => None,
        }
    }
}

fn fields(aggregate: Option<&Aggregate>) -> BTreeMap<String, Value> {
    let Some(aggregate) = aggregate else { return BTreeMap::new() };
    let fields = Field::of(aggregate).into_iter();
    fields.filter_map(|field| Some((field.path(), field.value(aggregate)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::model::game_object::GameObject;

    #[test]
    fn of_an_object_with_many_attributes_and_things_an_event_costs_what_it_names() {
        const MANY: usize = 1000;
        let id = |number: usize| AggregateId::new(&format!("thing-{number}")).unwrap();
        let mut object = GameObject {
            id: id(0),
            class: "Chest".into(),
            generic: String::new(),
            container_id: None,
            attributes: (0..MANY).map(|number| (format!("key-{number}"), Value::from(number))).collect(),
            inventory: (1..MANY).map(|number| (id(number), None)).collect(),
            equipment: BTreeMap::new(),
            deleted: false,
        };
        let before = Aggregate::GameObject(object.clone());
        let event =
            WorldEvent::GameObjectAttributeUpdated { key: "key-7".into(), value: Value::from("seven") };
        let watched = ComparedFields::before(Some(&before), &event);
        assert!(matches!(&watched, ComparedFields::Named(named) if named.len() == 1));
        object.attributes.insert("key-7".into(), Value::from("seven"));
        object.attributes.insert("key-8".into(), Value::from("of another event"));
        let changes = watched.changes(&Aggregate::GameObject(object));
        let change = Change {
            field: "attributes.key-7".into(),
            before: Some(Value::from(7)),
            after: Some(Value::from("seven")),
        };
        assert_eq!(changes, [change]);
    }
}
