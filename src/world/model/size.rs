//! The size of objects.
//!
//! A short JSON text may be large in memory and on the wire: a digit in a list takes two bytes in
//! JSON, about twelve on the wire, and 32 in memory.

use serde::Serialize;
use serde_json::Value;

use super::{
    aggregate::Aggregate,
    event::{Attributes, WorldEvent},
};

/// The overhead of a value beyond its text, in memory and on the wire.
pub const VALUE_BYTES: usize = 16;

/// Returns the size of an object: its length as JSON, plus 16 bytes for each value in it.
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

/// Returns the size of attributes alone. `json_bytes` is their length as JSON.
pub fn of_attributes(attributes: &Attributes, json_bytes: usize) -> usize {
    let values: usize = attributes.values().map(values).sum();
    json_bytes.saturating_add(values.saturating_mul(VALUE_BYTES))
}

/// Returns the maximum that an event adds to the size of its object.
pub fn growth(event: &WorldEvent) -> usize {
    let values = match event {
        WorldEvent::GameObjectCreated { attributes, .. }
        | WorldEvent::GameObjectAttributesUpdated { attributes } => attributes.values().map(values).sum(),
        WorldEvent::GameObjectAttributeUpdated { value, .. } => values(value),
        WorldEvent::ItemAddedToInventory { position, .. } => position.as_ref().map_or(1, values),
        WorldEvent::GameObjectAttributeRemoved { .. }
        | WorldEvent::GameObjectContainerUpdated { .. }
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
    // The field names of the event are longer than those of the state, so its length is an upper
    // bound.
    FIELDS_BYTES.saturating_add(bytes(event)).saturating_add(values.saturating_mul(VALUE_BYTES))
}

/// The size of a new object beyond the contents of its event.
const FIELDS_BYTES: usize = 512;

/// Returns the number of values in a value, including itself. The recursion is bounded, because the
/// JSON parser limits the nesting.
pub fn values(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(values).fold(1, usize::saturating_add),
        Value::Object(fields) => fields.values().map(values).fold(1, usize::saturating_add),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// Returns the length of a value as JSON.
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
    // A value that is not valid JSON is rejected elsewhere.
    _ = serde_json::to_writer(&mut counted, value);
    counted.0
}
