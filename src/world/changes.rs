//! What is different between two states of an aggregate, field by field.

use std::collections::BTreeMap;

use serde_json::Value;

use super::aggregate::Aggregate;

/// A field that differs. Absent: it has no value there.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its path, as in `attributes.name`.
    pub field: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The field of a password's hash, whose values show as stars.
const PASSWORD_HASH: &str = "password_hash";

/// In the order of the fields' names. `None`: there is no such aggregate.
pub fn between(before: Option<&Aggregate>, after: Option<&Aggregate>) -> Vec<Change> {
    let (before, mut after) = (fields(before), fields(after));
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
    changes.sort_unstable_by(|one, other| one.field.cmp(&other.field));
    for change in changes.iter_mut().filter(|change| change.field == PASSWORD_HASH) {
        for value in [&mut change.before, &mut change.after].into_iter().flatten() {
            *value = "***".into();
        }
    }
    changes
}

/// What is empty, false or nowhere is left out: creating an object changes what it then has.
fn fields(aggregate: Option<&Aggregate>) -> BTreeMap<String, Value> {
    let mut fields = BTreeMap::new();
    let Some(aggregate) = aggregate else { return fields };
    let mut text = |field: &str, value: &str| {
        if !value.is_empty() {
            fields.insert(field.to_owned(), value.into());
        }
    };
    let object = aggregate.object();
    text("type", &object.class);
    text("generic", &object.generic);
    text("container_id", object.container_id.as_ref().map_or("", |id| id.as_str()));
    match aggregate {
        Aggregate::GameObject(_) => {}
        Aggregate::Room(room) => text("description", &room.description),
        Aggregate::Player(player) => {
            text(PASSWORD_HASH, player.password_hash.as_ref().map_or("", |hash| hash.reveal()));
        }
    }
    let attributes = object.attributes.iter();
    fields.extend(attributes.map(|(key, value)| (format!("attributes.{key}"), value.clone())));
    let carried = object.inventory.iter();
    fields.extend(
        carried.map(|(item, position)| (format!("inventory.{item}"), position.clone().unwrap_or_default())),
    );
    let worn = object.equipment.iter();
    fields.extend(worn.map(|(slot, item)| (format!("equipment.{slot}"), item.as_str().into())));
    if object.deleted {
        fields.insert("deleted".to_owned(), true.into());
    }
    match aggregate {
        Aggregate::GameObject(_) => {}
        Aggregate::Player(player) if player.admin => _ = fields.insert("admin".to_owned(), true.into()),
        Aggregate::Player(_) => {}
        Aggregate::Room(room) => {
            let exits = room.exits.iter();
            fields.extend(exits.map(|(way, target)| (format!("exits.{way}"), target.as_str().into())));
        }
    }
    fields
}
