//! Converts events of Aethyr's own event store into events of this service, with data as the game
//! world reads it.
//!
//! Aethyr writes `nil` and symbols where the world has text, and stores the exits of a new room
//! within its first event. Everything else is kept as it is.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::legacy_event::{LegacyEvent, ReadError};
use crate::event::{APPEND_EVENTS_MAX, AggregateId, Content, EventId, NewEvent};

/// The metadata of imported events: where they are from, and their number there.
const IMPORTED_FROM: (&str, &str) = ("imported_from", "aethyr");
const AETHYR_SEQUENCE: &str = "aethyr_sequence";

/// What the conversion has to know in addition to the event.
pub(crate) struct ConvertRules {
    /// The type of the aggregate. See [`aggregate_type`].
    pub aggregate_type: Arc<str>,
    /// Returns whether a text is a password hash that the game world accepts.
    pub is_password_hash: fn(&str) -> bool,
}

/// The events that one event has become: itself, and those that it implies.
#[derive(Debug)]
pub(crate) struct Converted {
    pub events: Vec<NewEvent>,
    /// What could not be converted.
    pub left_out: Vec<LeftOutField>,
}

/// A part of an event that the world cannot read, and that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeftOutField {
    #[error("password_hash is not a password hash; the player has no password")]
    PasswordHash,
    #[error("an exit has no valid direction or target")]
    Exit,
    #[error("exits is not a mapping")]
    Exits,
}

/// Returns the type of an aggregate that has events of these types.
pub(crate) fn aggregate_type<'t>(event_types: impl IntoIterator<Item = &'t str>) -> &'static str {
    let mut found = "GameObject";
    for event_type in event_types {
        match event_type {
            "PlayerCreated" | "PlayerPasswordUpdated" | "PlayerAdminStatusUpdated" => return "Player",
            "RoomCreated" | "RoomDescriptionUpdated" | "RoomExitAdded" | "RoomExitRemoved" => found = "Room",
            _ => {}
        }
    }
    found
}

/// Converts an event.
///
/// # Errors
/// Returns an error if it implies too many events for one append.
pub(crate) fn convert(event: LegacyEvent, rules: &ConvertRules) -> Result<Converted, ReadError> {
    let mut fields = Fields { map: event.fields, left_out: Vec::new() };
    let mut exits = Vec::new();
    match event.event_type.as_str() {
        "GameObjectCreated" => {
            ["name", "generic"].into_iter().for_each(|name| fields.text(name));
            fields.reference("container_id");
            fields.object("attributes");
            fields.default("type", || Json::String(rules.aggregate_type.to_string()));
        }
        "GameObjectAttributeUpdated" => {
            fields.text("key");
            fields.default("value", || Json::Null);
        }
        "GameObjectAttributesUpdated" => fields.object("attributes"),
        "GameObjectContainerUpdated" => fields.reference("container_id"),
        "PlayerCreated" => {
            fields.password_hash(rules.is_password_hash, &Json::Null);
            fields.flag("admin");
        }
        "PlayerPasswordUpdated" => fields.password_hash(rules.is_password_hash, &json!("")),
        "PlayerAdminStatusUpdated" => fields.flag("admin"),
        "RoomCreated" => {
            fields.text("description");
            exits = fields.exits();
        }
        "RoomDescriptionUpdated" => fields.text("description"),
        "RoomExitAdded" => ["direction", "target_room_id"].into_iter().for_each(|name| fields.text(name)),
        "RoomExitRemoved" => fields.text("direction"),
        "ItemAddedToInventory" | "ItemRemovedFromInventory" => fields.text("item_id"),
        "ItemEquipped" | "ItemUnequipped" => {
            ["item_id", "slot"].into_iter().for_each(|name| fields.text(name));
        }
        _ => {}
    }
    if exits.len() >= APPEND_EVENTS_MAX {
        let max = APPEND_EVENTS_MAX.saturating_sub(1);
        return Err(ReadError::Exits { count: exits.len(), max });
    }
    let Fields { map, left_out } = fields;
    let id = format!("aethyr:{}:{}", event.aggregate_id, event.sequence);
    let metadata = [IMPORTED_FROM, (AETHYR_SEQUENCE, &event.sequence.to_string())]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let first = NewEvent {
        id: event_id(&id),
        aggregate_id: event.aggregate_id,
        aggregate_type: rules.aggregate_type.clone(),
        event_type: event.event_type.into(),
        content: Content::Json(Json::Object(map).to_string()),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::from(metadata),
        occurred_at: Some(event.created_at),
    };
    let added = exits.into_iter().map(|(direction, target)| NewEvent {
        id: event_id(&format!("{id}:exit:{direction}")),
        event_type: "RoomExitAdded".into(),
        content: Content::Json(json!({ "direction": direction, "target_room_id": target }).to_string()),
        causation_id: first.id.to_string(),
        ..first.clone()
    });
    let mut events: Vec<NewEvent> = added.collect();
    events.insert(0, first);
    Ok(Converted { events, left_out })
}

/// The id depends on the event's origin only, so that a repeated import finds it.
fn event_id(origin: &str) -> EventId {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, origin.as_bytes()).into()
}

struct Fields {
    map: Map<String, Json>,
    left_out: Vec<LeftOutField>,
}

impl Fields {
    fn default(&mut self, name: &str, value: impl FnOnce() -> Json) {
        if self.map.get(name).is_none_or(Json::is_null) {
            self.map.insert(name.to_owned(), value());
        }
    }

    /// Makes a field text. A symbol and an object are their name and their id.
    fn text(&mut self, name: &str) {
        self.default(name, || json!(""));
        if let Some(value) = self.map.get_mut(name)
            && let Some(text) = plain_text(value)
        {
            *value = Json::String(text);
        }
    }

    /// Makes a field an id, or `null` if there is none.
    fn reference(&mut self, name: &str) {
        self.text(name);
        if let Some(value) = self.map.get_mut(name)
            && value.as_str() == Some("")
        {
            *value = Json::Null;
        }
    }

    fn flag(&mut self, name: &str) {
        self.default(name, || Json::Bool(false));
    }

    fn object(&mut self, name: &str) {
        self.default(name, || Json::Object(Map::new()));
    }

    /// Replaces what is not a password hash, so that no password is stored.
    fn password_hash(&mut self, is_hash: fn(&str) -> bool, otherwise: &Json) {
        const NAME: &str = "password_hash";
        self.text(NAME);
        let text = self.map.get(NAME).and_then(Json::as_str);
        if text.is_some_and(is_hash) {
            return;
        }
        if text != Some("") {
            self.left_out.push(LeftOutField::PasswordHash);
        }
        self.map.insert(NAME.to_owned(), otherwise.clone());
    }

    /// Returns the exits of a new room: the directions with their targets.
    fn exits(&mut self) -> Vec<(String, String)> {
        let exits = match self.map.get("exits") {
            None | Some(Json::Null) => return Vec::new(),
            Some(Json::Array(exits)) if exits.is_empty() => return Vec::new(),
            Some(Json::Object(exits)) => exits,
            Some(_) => {
                self.left_out.push(LeftOutField::Exits);
                return Vec::new();
            }
        };
        let mut found = BTreeMap::new();
        for (direction, target) in exits {
            let direction = direction.strip_prefix(':').unwrap_or(direction);
            let target = plain_text(target).filter(|target| AggregateId::new(target).is_ok());
            match target {
                Some(target) if !direction.is_empty() && !found.contains_key(direction) => {
                    found.insert(direction.to_owned(), target);
                }
                _ => self.left_out.push(LeftOutField::Exit),
            }
        }
        found.into_iter().collect()
    }
}

/// Returns a string, the name of a symbol, or the id of an object.
fn plain_text(value: &Json) -> Option<String> {
    let marked = |marker| value.as_object().filter(|object| object.len() == 1)?.get(marker);
    let text = value.as_str().or_else(|| marked("__symbol__")?.as_str());
    text.or_else(|| marked("__gameobject__")?.as_str()).map(str::to_owned)
}
