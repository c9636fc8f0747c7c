//! Decodes commands.
//!
//! Every field is checked here, once, and all violations are reported together. Whether a command
//! is allowed is left to the rules of the world.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use prost_types::Value as WireValue;
use serde_json::Value;
use uuid::Uuid;

use super::json;
use crate::{
    event::{AggregateId, SequenceNumber},
    grpc::{
        event_store::decode::{aggregate_id, name, writable_id},
        settings::RequestLimits,
        violations::Violations,
        wire::world as wire,
    },
    world::{
        model::{
            event::Attributes,
            game_object::{GameObject, NAME},
            password::PasswordHash,
        },
        rules::command::{COMMANDS_MAX, Command, Commands, ContentsPolicy, ExpectedSequences, Operation},
    },
};

/// Decodes the commands of a call.
///
/// # Errors
/// Returns an error that names every invalid field.
pub(crate) fn decode(
    request: wire::ExecuteCommandsRequest,
    limits: &RequestLimits,
) -> Result<Commands, Violations> {
    let mut wrong = Violations::default();
    let count = request.commands.len();
    let of_commands = request.commands.iter().map(|command| command.expected_sequences.len());
    let expected_count = of_commands.sum::<usize>().saturating_add(request.expected_sequences.len());
    if count == 0 {
        wrong.add("commands", "must not be empty");
    }
    if count > COMMANDS_MAX {
        wrong.add("commands", format!("has {count} entries; at most {COMMANDS_MAX} are allowed"));
        return Err(wrong);
    }
    let expected_max = limits.expected_sequences_max;
    if expected_count > expected_max {
        wrong.add("expected_sequences", format!("has {expected_count} entries in the call and its commands; at most {expected_max} are allowed"));
        return Err(wrong);
    }
    let expected = expected_sequences("expected_sequences", request.expected_sequences, limits, &mut wrong);
    let mut ids = HashSet::with_capacity(count);
    let mut commands = Vec::with_capacity(count);
    for (index, command) in request.commands.into_iter().enumerate() {
        if !command.command_id.is_empty() && !ids.insert(command.command_id.clone()) {
            wrong.add(format_args!("commands[{index}].command_id"), "occurs more than once in this call");
        }
        let at = format_args!("commands[{index}]");
        commands.extend(Decoding { at, limits, wrong: &mut wrong }.command(command));
    }
    wrong.none_or(Some(Commands { commands, expected }))
}

fn expected_sequences(
    field: impl fmt::Display,
    expected: BTreeMap<String, u64>,
    limits: &RequestLimits,
    wrong: &mut Violations,
) -> ExpectedSequences {
    let mut checked = ExpectedSequences::new();
    for (index, (id, sequence)) in expected.into_iter().enumerate() {
        let id = aggregate_id(format_args!("{field}[{index}]"), &id, limits.id_bytes_max, wrong);
        checked.extend(id.map(|id| (id, SequenceNumber(sequence))));
    }
    checked
}

/// The object that an operation changes, and the operation.
type Targeted = (AggregateId, Operation);

/// The decoder of one command.
struct Decoding<'d> {
    at: fmt::Arguments<'d>,
    limits: &'d RequestLimits,
    wrong: &'d mut Violations,
}

impl Decoding<'_> {
    fn command(&mut self, command: wire::Command) -> Option<Command> {
        let id = match command.command_id.as_str() {
            "" => Uuid::new_v4().to_string(),
            text => {
                self.text("command_id", text);
                text.to_owned()
            }
        };
        for (field, text) in [("actor", &command.actor), ("correlation_id", &command.correlation_id)] {
            if !text.is_empty() {
                self.text(field, text);
            }
        }
        let correlation_id =
            if command.correlation_id.is_empty() { id.clone() } else { command.correlation_id };
        let Some(operation) = command.command else {
            self.wrong.add(self.at, "has no operation");
            return None;
        };
        let (target, operation) = self.operation(operation)?;
        let field = format_args!("{}.expected_sequences", self.at);
        let mut expected = expected_sequences(field, command.expected_sequences, self.limits, self.wrong);
        if let Some(sequence) = command.expected_sequence.map(SequenceNumber) {
            match expected.insert(target.clone(), sequence) {
                Some(other) if other != sequence => {
                    self.add(
                        "expected_sequence",
                        "contradicts the entry for the same object in expected_sequences",
                    );
                }
                Some(_) | None => {}
            }
        }
        Some(Command { id, actor: command.actor, correlation_id, expected, target, operation })
    }

    fn operation(&mut self, operation: wire::command::Command) -> Option<Targeted> {
        use wire::command::Command as Wire;
        match operation {
            Wire::CreateGameObject(command) => self.create_game_object(command),
            Wire::UpdateGameObjectAttribute(command) => self.update_attribute(command),
            Wire::UpdateGameObjectAttributes(command) => self.update_attributes(command),
            Wire::RemoveGameObjectAttribute(command) => self.remove_attribute(command),
            Wire::UpdateGameObjectContainer(command) => self.update_container(&command),
            Wire::DeleteGameObject(command) => self.delete_game_object(&command),
            Wire::CreatePlayer(command) => self.create_player(command),
            Wire::UpdatePlayerPassword(command) => self.update_password(&command),
            Wire::UpdatePlayerAdminStatus(command) => self.update_admin_status(&command),
            Wire::CreateRoom(command) => self.create_room(command),
            Wire::UpdateRoomDescription(command) => self.update_description(command),
            Wire::AddRoomExit(command) => self.add_exit(command),
            Wire::RemoveRoomExit(command) => self.remove_exit(command),
            Wire::AddItemToInventory(command) => self.add_item(command),
            Wire::RemoveItemFromInventory(command) => self.remove_item(&command),
            Wire::EquipItem(command) => self.equip_item(command),
            Wire::UnequipItem(command) => self.unequip_item(command),
        }
    }

    fn create_game_object(&mut self, command: wire::CreateGameObject) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        // Games whose objects have no class of their own send none.
        let class = if command.r#type.is_empty() { GameObject::CLASS.to_owned() } else { command.r#type };
        self.text("type", &class);
        self.name("name", &command.name);
        let container_id = self.optional_id("container_id", &command.container_id);
        let attributes = self.attributes(command.attributes);
        let other_name = attributes.get("name").is_some_and(|name| name.as_str() != Some(&command.name));
        if !command.name.is_empty() && other_name {
            self.add("attributes", "the attribute `name` differs from the field `name`");
        }
        let (name, generic) = (command.name, command.generic);
        Some((id?, Operation::CreateGameObject { class, name, generic, container_id, attributes }))
    }

    fn update_attribute(&mut self, command: wire::UpdateGameObjectAttribute) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        self.text("key", &command.key);
        let value = self.value("value", command.value.unwrap_or_default())?;
        if command.key == NAME {
            self.name_value("value", &value);
        }
        Some((id?, Operation::UpdateGameObjectAttribute { key: command.key, value }))
    }

    fn update_attributes(&mut self, command: wire::UpdateGameObjectAttributes) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        if command.attributes.is_empty() {
            self.add("attributes", "must not be empty");
        }
        let attributes = self.attributes(command.attributes);
        Some((id?, Operation::UpdateGameObjectAttributes { attributes }))
    }

    fn remove_attribute(&mut self, command: wire::RemoveGameObjectAttribute) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        self.text("key", &command.key);
        Some((id?, Operation::RemoveGameObjectAttribute { key: command.key }))
    }

    fn update_container(&mut self, command: &wire::UpdateGameObjectContainer) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        let container_id = self.optional_id("container_id", &command.container_id);
        Some((id?, Operation::UpdateGameObjectContainer { container_id }))
    }

    fn delete_game_object(&mut self, command: &wire::DeleteGameObject) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        let contents = self.contents(command.contents)?;
        Some((id?, Operation::DeleteGameObject { contents }))
    }

    fn contents(&mut self, contents: i32) -> Option<ContentsPolicy> {
        use wire::delete_game_object::Contents as Wire;
        match Wire::try_from(contents) {
            Ok(Wire::RefuseIfAny) => Some(ContentsPolicy::RefuseIfAny),
            Ok(Wire::MoveToContainer) => Some(ContentsPolicy::MoveToContainer),
            Ok(Wire::Leave) => Some(ContentsPolicy::Leave),
            Err(_) => {
                self.add("contents", "must be REFUSE_IF_ANY, MOVE_TO_CONTAINER or LEAVE");
                None
            }
        }
    }

    fn create_player(&mut self, command: wire::CreatePlayer) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        self.text("name", &command.name);
        let password_hash =
            if command.password_hash.is_empty() { None } else { self.password_hash(&command.password_hash) };
        Some((id?, Operation::CreatePlayer { name: command.name, password_hash }))
    }

    fn update_password(&mut self, command: &wire::UpdatePlayerPassword) -> Option<Targeted> {
        let (id, hash) = (self.id("id", &command.id), self.password_hash(&command.password_hash));
        Some((id?, Operation::UpdatePlayerPassword { password_hash: hash? }))
    }

    fn update_admin_status(&mut self, command: &wire::UpdatePlayerAdminStatus) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        Some((id?, Operation::UpdatePlayerAdminStatus { admin: command.admin }))
    }

    fn create_room(&mut self, command: wire::CreateRoom) -> Option<Targeted> {
        let wire::CreateRoom { id, name, description } = command;
        self.name("name", &name);
        Some((self.id("id", &id)?, Operation::CreateRoom { name, description }))
    }

    fn update_description(&mut self, command: wire::UpdateRoomDescription) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        Some((id?, Operation::UpdateRoomDescription { description: command.description }))
    }

    fn add_exit(&mut self, command: wire::AddRoomExit) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        self.text("direction", &command.direction);
        let target = self.id("target_room_id", &command.target_room_id);
        let direction = command.direction;
        Some((id?, Operation::AddRoomExit { direction, target_room_id: target? }))
    }

    fn remove_exit(&mut self, command: wire::RemoveRoomExit) -> Option<Targeted> {
        let id = self.id("id", &command.id);
        self.text("direction", &command.direction);
        Some((id?, Operation::RemoveRoomExit { direction: command.direction }))
    }

    fn add_item(&mut self, command: wire::AddItemToInventory) -> Option<Targeted> {
        let (id, item) = (self.id("id", &command.id), self.id("item_id", &command.item_id));
        let position = command.position.and_then(|position| self.value("position", position));
        let position = position.filter(|position| !position.is_null());
        Some((id?, Operation::AddItemToInventory { item_id: item?, position }))
    }

    fn remove_item(&mut self, command: &wire::RemoveItemFromInventory) -> Option<Targeted> {
        let (id, item) = (self.id("id", &command.id), self.id("item_id", &command.item_id));
        Some((id?, Operation::RemoveItemFromInventory { item_id: item? }))
    }

    fn equip_item(&mut self, command: wire::EquipItem) -> Option<Targeted> {
        let (id, item) = (self.id("id", &command.id), self.id("item_id", &command.item_id));
        self.text("slot", &command.slot);
        Some((id?, Operation::EquipItem { item_id: item?, slot: command.slot }))
    }

    fn unequip_item(&mut self, command: wire::UnequipItem) -> Option<Targeted> {
        let (id, item) = (self.id("id", &command.id), self.id("item_id", &command.item_id));
        let slot = Some(command.slot).filter(|slot| !slot.is_empty());
        Some((id?, Operation::UnequipItem { item_id: item?, slot }))
    }

    fn add(&mut self, field: &str, problem: &str) {
        self.wrong.add(format_args!("{}.{field}", self.at), problem);
    }

    fn id(&mut self, field: &str, text: &str) -> Option<AggregateId> {
        writable_id(format_args!("{}.{field}", self.at), text, self.limits.id_bytes_max, self.wrong)
    }

    fn optional_id(&mut self, field: &str, text: &str) -> Option<AggregateId> {
        if text.is_empty() { None } else { self.id(field, text) }
    }

    /// Checks a name, which must not be empty or exceed the limit.
    fn text(&mut self, field: &str, text: &str) {
        name(format_args!("{}.{field}", self.at), text, self.limits.id_bytes_max, self.wrong);
    }

    /// Checks the name of an object, which may be empty.
    fn name(&mut self, field: &str, name: &str) {
        if !name.is_empty() {
            self.text(field, name);
        }
    }

    /// Checks the name of an object, given as the value of the attribute `name`.
    fn name_value(&mut self, field: &str, name: &Value) {
        match name {
            Value::String(name) => self.name(field, name),
            Value::Null => {}
            _ => self.add(field, "the attribute `name` must be a string"),
        }
    }

    fn value(&mut self, field: &str, value: WireValue) -> Option<Value> {
        json::from_wire(value).map_err(|problem| self.add(field, problem)).ok()
    }

    fn attributes(&mut self, attributes: BTreeMap<String, WireValue>) -> Attributes {
        let mut checked = Attributes::new();
        for (key, value) in attributes {
            self.text("attributes", &key);
            if let Some(value) = self.value("attributes", value) {
                if key == NAME {
                    self.name_value("attributes", &value);
                }
                checked.insert(key, value);
            }
        }
        checked
    }

    fn password_hash(&mut self, text: &str) -> Option<PasswordHash> {
        let hash = PasswordHash::new(text);
        if hash.is_none() {
            // The value is not repeated in the message: it may be a password.
            self.add(
                "password_hash",
                "must be a password hash in one of the forms that the documentation of CreatePlayer lists; \
                 never send a password",
            );
        }
        hash
    }
}
