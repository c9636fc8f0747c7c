//! What commands name, held to the rights and the scope of their caller.
//!
//! Some commands are only for players. All others need the right of players if the object that they
//! change is one.

use std::collections::{BTreeMap, BTreeSet};

use super::{AggregateTypes, Forbidden, Principal, RequestCheck, Right, check_actor, in_scope};
use crate::{
    event::AggregateId,
    world::{
        model::aggregate::Kind,
        rules::command::{Command, Commands, Operation},
    },
};

/// Checks the commands of a call.
#[derive(Debug)]
pub(in crate::grpc) struct CommandsCheck<'c> {
    pub principal: &'c Principal,
    pub commands: &'c Commands,
}

impl CommandsCheck<'_> {
    /// Returns whether a command is one of those that only players have.
    pub(in crate::grpc) fn has_commands_of_players(&self) -> bool {
        self.commands.commands.iter().any(|command| is_of_players(&command.operation))
    }

    /// The right that a refusal names if no particular one is missing.
    fn right(&self) -> Right {
        if self.principal.may(Right::Execute) { Right::Execute } else { Right::ExecutePlayers }
    }

    fn need(&self, right: Right) -> Result<(), Forbidden> {
        if self.principal.may(right) { Ok(()) } else { Err(Forbidden::Right(right)) }
    }

    fn has_both_rights(&self) -> bool {
        self.principal.may(Right::Execute) && self.principal.may(Right::ExecutePlayers)
    }

    /// Checks what an operation is, whatever object it changes.
    fn operation(&self, operation: &Operation) -> Result<(), Forbidden> {
        if let Some(kind) = operation.creates()
            && !self.principal.identity.scope.has_type(kind.name())
        {
            return Err(Forbidden::Scope(self.right()));
        }
        match (is_of_players(operation), operation.creates()) {
            (true, _) => self.need(Right::ExecutePlayers),
            (false, Some(_)) => self.need(Right::Execute),
            (false, None) => Ok(()),
        }
    }

    /// Checks the objects that an operation changes. `type_of` returns `None` for an object that
    /// does not exist: it is refused as if it had the type that the caller may not change.
    fn changed<'t>(
        &self,
        command: &Command,
        type_of: impl Fn(&AggregateId) -> Option<&'t str>,
    ) -> Result<(), Forbidden> {
        let player = Kind::Player.name();
        let needed = match type_of(&command.target) {
            Some(found) if found == player => Right::ExecutePlayers,
            Some(_) => Right::Execute,
            None if self.principal.may(Right::ExecutePlayers) => Right::Execute,
            None => Right::ExecutePlayers,
        };
        self.need(needed)?;
        match moved_item(&command.operation) {
            Some(item) if type_of(item).is_none_or(|found| found == player) => {
                self.need(Right::ExecutePlayers)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Returns all objects that the call names.
    fn named(&self) -> impl Iterator<Item = &AggregateId> {
        let Commands { commands, expected } = self.commands;
        let of_commands = commands.iter().flat_map(|command| {
            let own = std::iter::once(&command.target).chain(other(&command.operation));
            own.chain(command.expected.keys())
        });
        of_commands.chain(expected.keys())
    }
}

impl RequestCheck for CommandsCheck<'_> {
    fn by_request(&self) -> Result<BTreeSet<AggregateId>, Forbidden> {
        let (principal, right) = (self.principal, self.right());
        in_scope(principal, right, self.named())?;
        for (index, command) in self.commands.commands.iter().enumerate() {
            check_actor(principal, right, &command.actor, format_args!("commands[{index}].actor"))?;
            self.operation(&command.operation)?;
        }
        if principal.identity.scope.aggregate_types.is_some() {
            return Ok(self.named().cloned().collect());
        }
        if self.has_both_rights() {
            return Ok(BTreeSet::new());
        }
        let commands = self.commands.commands.iter().filter(|command| is_by_object(&command.operation));
        let changed = commands
            .flat_map(|command| std::iter::once(&command.target).chain(moved_item(&command.operation)));
        Ok(changed.cloned().collect())
    }

    fn by_types(&self, types: &AggregateTypes) -> Result<(), Forbidden> {
        let scope = &self.principal.identity.scope;
        let by_scope = scope.aggregate_types.is_some();
        let mut created: BTreeMap<&AggregateId, Kind> = BTreeMap::new();
        let out = || Forbidden::Scope(self.right());
        for command in &self.commands.commands {
            let creates = command.operation.creates();
            if let Some(kind) = creates {
                // If it exists already, the whole call fails.
                created.insert(&command.target, kind);
            }
            let type_of = |id: &AggregateId| type_in(types, &created, id);
            let has = |id: &AggregateId| type_of(id).is_some_and(|found| scope.has_type(found));
            if by_scope {
                // An object that is to be created may exist.
                let is_new = creates.is_some() && types.of(&command.target).is_none();
                let target = Some(&command.target).filter(|_| !is_new);
                let mut named =
                    target.into_iter().chain(other(&command.operation)).chain(command.expected.keys());
                if !named.all(has) {
                    return Err(out());
                }
            }
            if is_by_object(&command.operation) && !self.has_both_rights() {
                self.changed(command, type_of)?;
            }
        }
        let has = |id: &AggregateId| type_in(types, &created, id).is_some_and(|found| scope.has_type(found));
        if by_scope && !self.commands.expected.keys().all(has) { Err(out()) } else { Ok(()) }
    }
}

/// Returns the type of an object: that of the existing one, or that with which a command before
/// creates it.
fn type_in<'t>(
    types: &'t AggregateTypes,
    created: &BTreeMap<&AggregateId, Kind>,
    id: &AggregateId,
) -> Option<&'t str> {
    types.of(id).or_else(|| created.get(id).map(|kind| kind.name()))
}

/// Returns whether the operation is only for players.
fn is_of_players(operation: &Operation) -> bool {
    operation.creates() == Some(Kind::Player)
        || matches!(
            operation,
            Operation::UpdatePlayerPassword { .. } | Operation::UpdatePlayerAdminStatus { .. }
        )
}

/// Returns whether the right that the operation needs depends on the object that it changes.
fn is_by_object(operation: &Operation) -> bool {
    !is_of_players(operation) && operation.creates().is_none()
}

/// Returns the object that an operation names in addition to its target.
fn other(operation: &Operation) -> Option<&AggregateId> {
    match operation {
        Operation::CreateGameObject { container_id, .. }
        | Operation::UpdateGameObjectContainer { container_id } => container_id.as_ref(),
        Operation::AddRoomExit { target_room_id, .. } => Some(target_room_id),
        Operation::AddItemToInventory { item_id, .. }
        | Operation::RemoveItemFromInventory { item_id }
        | Operation::EquipItem { item_id, .. }
        | Operation::UnequipItem { item_id, .. } => Some(item_id),
        Operation::UpdateGameObjectAttribute { .. }
        | Operation::UpdateGameObjectAttributes { .. }
        | Operation::RemoveGameObjectAttribute { .. }
        | Operation::DeleteGameObject { .. }
        | Operation::CreatePlayer { .. }
        | Operation::UpdatePlayerPassword { .. }
        | Operation::UpdatePlayerAdminStatus { .. }
        | Operation::CreateRoom { .. }
        | Operation::UpdateRoomDescription { .. }
        | Operation::RemoveRoomExit { .. } => None,
    }
}

/// Returns the item that an operation moves. An item that is worn stays where it is.
fn moved_item(operation: &Operation) -> Option<&AggregateId> {
    match operation {
        Operation::AddItemToInventory { item_id, .. } | Operation::RemoveItemFromInventory { item_id } => {
            Some(item_id)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        access::Scope,
        config::LimitsConfig,
        event::SequenceNumber,
        grpc::authorization::tests::{caller, only, scope, with},
        server::settings,
        world::{model::password::PasswordHash, rules::command::ContentsPolicy},
    };

    const BOTH: [Right; 2] = [Right::Execute, Right::ExecutePlayers];

    fn id(text: &str) -> AggregateId {
        AggregateId::new(text).unwrap()
    }

    fn command(target: &str, operation: Operation) -> Command {
        Command {
            id: "c".to_owned(),
            actor: "wizard".to_owned(),
            correlation_id: String::new(),
            expected: BTreeMap::new(),
            target: id(target),
            operation,
        }
    }

    fn update(target: &str) -> Command {
        let (key, value) = ("weight".to_owned(), json!(1));
        command(target, Operation::UpdateGameObjectAttribute { key, value })
    }

    fn create(target: &str, container: Option<&str>) -> Command {
        command(
            target,
            Operation::CreateGameObject {
                class: "Thing".to_owned(),
                name: String::new(),
                generic: String::new(),
                container_id: container.map(id),
                attributes: BTreeMap::new(),
            },
        )
    }

    fn create_player(target: &str) -> Command {
        command(target, Operation::CreatePlayer { name: "Ada".to_owned(), password_hash: None })
    }

    fn create_of(target: &str, class: &str) -> Command {
        let mut command = create(target, None);
        if let Operation::CreateGameObject { class: its, .. } = &mut command.operation {
            class.clone_into(its);
        }
        command
    }

    fn add_item(target: &str, item: &str) -> Command {
        command(target, Operation::AddItemToInventory { item_id: id(item), position: None })
    }

    /// Checks commands when these objects exist. Also returns how many were looked up.
    fn check(
        principal: &Principal,
        commands: Vec<Command>,
        exist: &[(&str, &str)],
    ) -> Result<usize, Forbidden> {
        let commands = Commands { commands, expected: BTreeMap::new() };
        check_call(principal, &commands, exist)
    }

    fn check_call(
        principal: &Principal,
        commands: &Commands,
        exist: &[(&str, &str)],
    ) -> Result<usize, Forbidden> {
        let check = CommandsCheck { principal, commands };
        let missing = check.by_request()?;
        let types = exist.iter().copied().filter(|(id, _)| missing.iter().any(|found| found.as_str() == *id));
        if !missing.is_empty() {
            check.by_types(&types.collect())?;
        }
        Ok(missing.len())
    }

    #[test]
    fn commands_of_players_need_the_right_of_players_and_only_that() {
        let hash = || PasswordHash::new("5f4dcc3b5aa765d61d8327deb882cf99").unwrap();
        let (builder, keeper) =
            (caller(&[Right::Execute], Scope::default()), caller(&[Right::ExecutePlayers], Scope::default()));
        for one in [
            create_player("p"),
            create_of("p", "Player"),
            create_of("p", "Aethyr::Core::Objects::Player"),
            command("p", Operation::UpdatePlayerPassword { password_hash: hash() }),
            command("p", Operation::UpdatePlayerAdminStatus { admin: true }),
        ] {
            let refused = check(&builder, vec![one.clone()], &[]);
            assert_eq!(refused, Err(Forbidden::Right(Right::ExecutePlayers)));
            assert_eq!(check(&keeper, vec![one.clone()], &[]), Ok(0));
            let commands = Commands { commands: vec![update("a"), one], expected: BTreeMap::new() };
            assert!(CommandsCheck { principal: &keeper, commands: &commands }.has_commands_of_players());
        }
        assert_eq!(check(&builder, vec![create("a", None)], &[]), Ok(0));
        assert_eq!(check(&keeper, vec![create("a", None)], &[]), Err(Forbidden::Right(Right::Execute)));
    }

    #[test]
    fn an_object_that_does_not_exist_is_refused_like_a_player() {
        let builder = caller(&[Right::Execute], Scope::default());
        let refused = Err(Forbidden::Right(Right::ExecutePlayers));
        let delete = || command("a", Operation::DeleteGameObject { contents: ContentsPolicy::Leave });
        for one in [update("a"), delete()] {
            assert_eq!(check(&builder, vec![one.clone()], &[("a", "Room")]), Ok(1));
            assert_eq!(check(&builder, vec![one.clone()], &[("a", "Player")]), refused);
            assert_eq!(check(&builder, vec![one], &[]), refused);
        }
        let keeper = caller(&[Right::ExecutePlayers], Scope::default());
        assert_eq!(check(&keeper, vec![update("a")], &[("a", "Player")]), Ok(1));
        let refused = Err(Forbidden::Right(Right::Execute));
        assert_eq!(check(&keeper, vec![update("a")], &[("a", "Room")]), refused);
        assert_eq!(check(&keeper, vec![update("a")], &[]), refused);
        // Nobody else needs a lookup.
        assert_eq!(check(&caller(&BOTH, Scope::default()), vec![update("a")], &[]), Ok(0));
    }

    #[test]
    fn an_object_that_the_call_creates_is_known_after_its_creation() {
        let builder = caller(&[Right::Execute], Scope::default());
        let players = Err(Forbidden::Right(Right::ExecutePlayers));
        assert_eq!(check(&builder, vec![create("a", None), update("a")], &[]), Ok(1));
        assert_eq!(check(&builder, vec![update("a"), create("a", None)], &[]), players);
        // An existing player does not become an object because the call claims to create one.
        assert_eq!(check(&builder, vec![create("a", None), update("a")], &[("a", "Player")]), players);
        let keeper = caller(&[Right::ExecutePlayers], Scope::default());
        assert_eq!(check(&keeper, vec![create_player("p"), update("p")], &[]), Ok(1));
        let refused = check(&keeper, vec![create_player("p"), update("a")], &[]);
        assert_eq!(refused, Err(Forbidden::Right(Right::Execute)));
    }

    #[test]
    fn a_player_is_not_moved_as_an_item_without_the_right() {
        let builder = caller(&[Right::Execute], Scope::default());
        let bag = ("bag", "GameObject");
        let exist = [bag, ("p", "Player"), ("gem", "GameObject")];
        assert_eq!(check(&builder, vec![add_item("bag", "gem")], &exist), Ok(2));
        let refused = Err(Forbidden::Right(Right::ExecutePlayers));
        assert_eq!(check(&builder, vec![add_item("bag", "p")], &exist), refused);
        assert_eq!(check(&builder, vec![add_item("bag", "nothing")], &exist), refused);
        assert_eq!(check(&builder, vec![add_item("p", "gem")], &exist), refused);
        let keeper = caller(&[Right::ExecutePlayers], Scope::default());
        assert_eq!(check(&keeper, vec![add_item("p", "gem")], &exist), Ok(2));
    }

    #[test]
    fn every_id_of_every_command_is_in_the_scope() {
        let arena = caller(&BOTH, scope(&["a-"], &[]));
        let exit =
            |target: &str| Operation::AddRoomExit { direction: "n".into(), target_room_id: id(target) };
        let to = |container: &str| Operation::UpdateGameObjectContainer { container_id: Some(id(container)) };
        let remove = |item: &str| Operation::RemoveItemFromInventory { item_id: id(item) };
        let equip = |item: &str| Operation::EquipItem { item_id: id(item), slot: "s".into() };
        let unequip = |item: &str| Operation::UnequipItem { item_id: id(item), slot: None };
        let expecting = |other: &str| {
            let expected = BTreeMap::from([(id(other), SequenceNumber(0))]);
            Command { expected, ..update("a-1") }
        };
        let with_other = |other: &str| {
            vec![
                update(other),
                create_player(other),
                create("a-1", Some(other)),
                command("a-1", exit(other)),
                command("a-1", to(other)),
                add_item("a-1", other),
                command("a-1", remove(other)),
                command("a-1", equip(other)),
                command("a-1", unequip(other)),
                expecting(other),
            ]
        };
        for one in with_other("a-2") {
            assert_eq!(check(&arena, vec![one.clone()], &[]), Ok(0), "{one:?}");
        }
        for one in with_other("b-1") {
            for exist in [&[("b-1", "Room")][..], &[]] {
                let refused = check(&arena, vec![update("a-1"), one.clone()], exist);
                assert_eq!(refused, Err(Forbidden::Scope(Right::Execute)), "{one:?}");
            }
        }
        let expected = BTreeMap::from([(id("b-1"), SequenceNumber(0))]);
        let call = Commands { commands: vec![update("a-1")], expected };
        assert_eq!(check_call(&arena, &call, &[]), Err(Forbidden::Scope(Right::Execute)));
    }

    #[test]
    fn a_scope_of_types_holds_for_existing_and_for_created_objects() {
        let rooms = caller(&BOTH, scope(&[], &["Room"]));
        let out = Err(Forbidden::Scope(Right::Execute));
        let create_room = |target: &str| {
            command(target, Operation::CreateRoom { name: String::new(), description: String::new() })
        };
        assert_eq!(check(&rooms, vec![create_room("a"), update("a")], &[]), Ok(1));
        assert_eq!(check(&rooms, vec![create_of("a", "X::Room"), update("a")], &[]), Ok(1));
        assert_eq!(check(&rooms, vec![create("a", None)], &[]), out);
        assert_eq!(check(&rooms, vec![update("a")], &[("a", "Room")]), Ok(1));
        assert_eq!(check(&rooms, vec![update("a")], &[("a", "GameObject")]), out);
        assert_eq!(check(&rooms, vec![update("a")], &[]), out);
        assert_eq!(check(&rooms, vec![add_item("a", "b")], &[("a", "Room"), ("b", "GameObject")]), out);
        let expected = BTreeMap::from([(id("b"), SequenceNumber(0))]);
        let call = Commands { commands: vec![create_room("a")], expected };
        assert_eq!(check_call(&rooms, &call, &[]), out);
        assert_eq!(check_call(&rooms, &call, &[("b", "Room")]), Ok(2));
    }

    #[test]
    fn only_the_actors_of_the_identity_may_be_named() {
        let acting = |actors: &[&str]| with(&BOTH, |identity| identity.actors = only(actors));
        assert_eq!(check(&acting(&["wizard"]), vec![update("a")], &[]), Ok(0));
        let field = "commands[1].actor".to_owned();
        let refused = Err(Forbidden::Value { right: Right::Execute, field });
        let silent = Command { actor: String::new(), ..update("a") };
        assert_eq!(check(&acting(&[]), vec![silent.clone(), update("a")], &[]), refused);
        assert_eq!(check(&acting(&[]), vec![silent], &[]), Ok(0));
    }

    /// The decoder must not hide an id from these checks.
    #[test]
    fn all_ids_of_a_decoded_command_are_checked() {
        use crate::grpc::wire::world as wire;
        let create = wire::CreateGameObject {
            id: "a-1".to_owned(),
            r#type: "Thing".to_owned(),
            container_id: "a-2".to_owned(),
            ..wire::CreateGameObject::default()
        };
        let command = wire::Command {
            expected_sequences: BTreeMap::from([("a-3".to_owned(), 1)]),
            command: Some(wire::command::Command::CreateGameObject(create)),
            ..wire::Command::default()
        };
        let request = wire::ExecuteCommandsRequest {
            commands: vec![command],
            expected_sequences: BTreeMap::from([("a-4".to_owned(), 1)]),
        };
        let limits = settings::request_limits(&LimitsConfig::default());
        let commands = crate::grpc::world::commands::decode(request, &limits).unwrap();
        let principal = caller(&BOTH, Scope::default());
        let check = CommandsCheck { principal: &principal, commands: &commands };
        let named: Vec<&str> = check.named().map(AggregateId::as_str).collect();
        assert_eq!(named, ["a-1", "a-2", "a-3", "a-4"]);
    }
}
