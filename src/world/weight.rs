//! How much objects weigh. What is short as JSON may be long in memory and on the wire: a digit in a list has two bytes
//! in JSON, about twelve on the wire, and 32 in memory.

use serde::Serialize;
use serde_json::Value;

use super::{
    aggregate::Aggregate,
    event::{Attributes, WorldEvent},
};

/// What a value costs beside its text, in memory and on the wire.
pub const VALUE_BYTES: usize = 16;

/// How much an object weighs: its length as JSON, and 16 bytes for each value in it.
pub fn of(aggregate: &Aggregate) -> usize {
    let object = aggregate.object();
    let attributes: usize = object.attributes.values().map(values).sum();
    let carried: usize = object.inventory.values().map(|position| position.as_ref().map_or(1, values)).sum();
    let exits = match aggregate {
        Aggregate::Room(room) => room.exits.len(),
        Aggregate::GameObject(_) | Aggregate::Player(_) => 0,
    };
    let values =
        attributes.saturating_add(carried).saturating_add(object.equipment.len()).saturating_add(exits);
    bytes(aggregate).saturating_add(values.saturating_mul(VALUE_BYTES))
}

/// The same for attributes alone, of which the JSON has so many bytes.
pub fn of_attributes(attributes: &Attributes, json_bytes: usize) -> usize {
    let values: usize = attributes.values().map(values).sum();
    json_bytes.saturating_add(values.saturating_mul(VALUE_BYTES))
}

/// What an event adds to the weight of its object at most.
pub fn growth(event: &WorldEvent) -> usize {
    let values = match event {
        WorldEvent::GameObjectCreated { attributes, .. }
        | WorldEvent::GameObjectAttributesUpdated { attributes } => attributes.values().map(values).sum(),
        WorldEvent::GameObjectAttributeUpdated { value, .. } => values(value),
        WorldEvent::ItemAddedToInventory { position, .. } => position.as_ref().map_or(1, values),
        WorldEvent::GameObjectContainerUpdated { .. }
        | WorldEvent::GameObjectDeleted {}
        | WorldEvent::PlayerCreated { .. }
        | WorldEvent::PlayerPasswordUpdated { .. }
        | WorldEvent::PlayerAdminStatusUpdated { .. }
        | WorldEvent::RoomCreated { .. }
        | WorldEvent::RoomDescriptionUpdated { .. }
        | WorldEvent::RoomExitAdded { .. }
        | WorldEvent::RoomExitRemoved { .. }
        | WorldEvent::ItemRemovedFromInventory { .. }
        | WorldEvent::ItemEquipped { .. }
        | WorldEvent::ItemUnequipped { .. }
        | WorldEvent::ObjectRepaired { .. } => 1,
    };
    // The names of its own fields are longer than those of the state.
    FIELDS_BYTES.saturating_add(bytes(event)).saturating_add(values.saturating_mul(VALUE_BYTES))
}

/// What a new object has besides what is in its event.
const FIELDS_BYTES: usize = 512;

/// The values in a value, and itself. None is nested deeper than what reads JSON allows.
pub fn values(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(values).fold(1, usize::saturating_add),
        Value::Object(fields) => fields.values().map(values).fold(1, usize::saturating_add),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// How long it is as JSON.
pub fn bytes(value: &impl Serialize) -> usize {
    struct Counted(usize);

    impl std::io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut counted = Counted(0);
    // What is no JSON is refused elsewhere.
    _ = serde_json::to_writer(&mut counted, value);
    counted.0
}
