//! Tests each command and each rule in the form given, when, then.
//!
//! Given the commands executed so far, a command leads to these events or to this refusal.

use serde_json::{Value, json};

use super::*;
use crate::world::{
    model::{event::Attributes, password::PasswordHash},
    rules::command::ContentsPolicy,
};

mod attributes;
mod capacity;
mod places;

fn id(text: &str) -> AggregateId {
    AggregateId::new(text).unwrap()
}

fn command(target: &str, operation: Operation) -> Command {
    Command {
        id: "command".into(),
        actor: String::new(),
        correlation_id: String::new(),
        expected: Default::default(),
        target: id(target),
        operation,
    }
}

fn hash(digit: char) -> PasswordHash {
    PasswordHash::new(&digit.to_string().repeat(32)).unwrap()
}

/// Returns the world after these commands. All objects are known; `a` to `e` do not exist unless a
/// command created them.
fn given(commands: &[(&str, Operation)]) -> WorldView {
    let mut known = WorldView::default();
    for name in ["a", "b", "c", "d", "e"] {
        known.learn(id(name), None);
    }
    for (target, operation) in commands {
        happens(&mut known, target, operation);
    }
    known
}

fn happens(known: &mut WorldView, target: &str, operation: &Operation) {
    let decided = decide_alone(known, &command(target, operation.clone())).unwrap();
    for Decided { id, kind, event } in decided {
        known.apply(&id, kind, &event).unwrap();
    }
}

/// Decides a command as if only the known objects existed.
fn decide_alone(known: &mut WorldView, command: &Command) -> Result<Vec<Decided>, Undecided> {
    loop {
        match decide(known, command) {
            Err(Undecided::Unanswered(question)) => known.answer_alone(question),
            decided => return decided,
        }
    }
}

fn when(known: &WorldView, target: &str, operation: Operation) -> Result<Vec<(String, WorldEvent)>, Refusal> {
    match decide_alone(&mut known.clone(), &command(target, operation)) {
        Ok(decided) => Ok(decided.into_iter().map(|one| (one.id.to_string(), one.event)).collect()),
        Err(Undecided::Refused(refusal)) => Err(refusal),
        Err(undecided) => panic!("{undecided:?}"),
    }
}

fn then(events: &[(&str, WorldEvent)]) -> Result<Vec<(String, WorldEvent)>, Refusal> {
    Ok(events.iter().map(|(id, event)| ((*id).to_owned(), event.clone())).collect())
}

fn deletion() -> Operation {
    Operation::DeleteGameObject { contents: ContentsPolicy::RefuseIfAny }
}

fn object() -> Operation {
    object_in(None)
}

fn object_in(container: Option<&str>) -> Operation {
    Operation::CreateGameObject {
        class: "Thing".into(),
        name: "thing".into(),
        generic: "thing".into(),
        container_id: container.map(id),
        attributes: Attributes::new(),
    }
}

fn room() -> Operation {
    Operation::CreateRoom { name: "Clearing".into(), description: "Trees.".into() }
}

fn player() -> Operation {
    Operation::CreatePlayer { name: "Alice".into(), password_hash: Some(hash('a')) }
}

fn to(container: Option<&str>) -> Operation {
    Operation::UpdateGameObjectContainer { container_id: container.map(id) }
}

fn moved(container: Option<&str>) -> WorldEvent {
    WorldEvent::GameObjectContainerUpdated { container_id: container.map(id) }
}

fn attribute(key: &str, value: Value) -> Operation {
    Operation::UpdateGameObjectAttribute { key: key.into(), value }
}

fn add(item: &str, position: Option<Value>) -> Operation {
    Operation::AddItemToInventory { item_id: id(item), position }
}

fn added(item: &str, position: Option<Value>) -> WorldEvent {
    WorldEvent::ItemAddedToInventory { item_id: id(item), position }
}

fn remove(item: &str) -> Operation {
    Operation::RemoveItemFromInventory { item_id: id(item) }
}

fn removed(item: &str) -> WorldEvent {
    WorldEvent::ItemRemovedFromInventory { item_id: id(item) }
}

fn equip(item: &str, slot: &str) -> Operation {
    Operation::EquipItem { item_id: id(item), slot: slot.into() }
}

fn equipped(item: &str, slot: &str) -> WorldEvent {
    WorldEvent::ItemEquipped { item_id: id(item), slot: slot.into() }
}

fn unequip(item: &str, slot: Option<&str>) -> Operation {
    Operation::UnequipItem { item_id: id(item), slot: slot.map(Into::into) }
}

fn unequipped(item: &str, slot: &str) -> WorldEvent {
    WorldEvent::ItemUnequipped { item_id: id(item), slot: slot.into() }
}

#[test]
fn creating_gives_a_game_object_and_what_it_is_besides() {
    let created = |class: &str, name: &str| WorldEvent::GameObjectCreated {
        class: class.into(),
        name: name.into(),
        generic: class.to_lowercase(),
        container_id: None,
        attributes: Attributes::new(),
    };
    let known = given(&[]);
    let is_room = WorldEvent::RoomCreated { description: "Trees.".into() };
    assert_eq!(when(&known, "a", room()), then(&[("a", created("Room", "Clearing")), ("a", is_room)]));
    let is_player = WorldEvent::PlayerCreated { password_hash: Some(hash('a')), admin: false };
    assert_eq!(when(&known, "a", player()), then(&[("a", created("Player", "Alice")), ("a", is_player)]));
    let thing = WorldEvent::GameObjectCreated {
        class: "Thing".into(),
        name: "thing".into(),
        generic: "thing".into(),
        container_id: Some(id("b")),
        attributes: Attributes::new(),
    };
    let known = given(&[("b", room())]);
    assert_eq!(when(&known, "a", object_in(Some("b"))), then(&[("a", thing)]));
}

#[test]
fn nothing_is_created_twice_not_even_after_it_was_deleted() {
    let known = given(&[("a", room()), ("b", object()), ("b", deletion())]);
    for target in ["a", "b"] {
        for operation in [room(), player(), object()] {
            assert_eq!(when(&known, target, operation), Err(Refusal::Exists(id(target))));
        }
    }
}

/// Returns every command except those that create an object.
fn changes() -> Vec<Operation> {
    vec![
        attribute("name", "x".into()),
        Operation::UpdateGameObjectAttributes { attributes: Attributes::from([("k".into(), 1.into())]) },
        Operation::RemoveGameObjectAttribute { key: "name".into() },
        to(None),
        deletion(),
        Operation::UpdatePlayerPassword { password_hash: hash('b') },
        Operation::UpdatePlayerAdminStatus { admin: true },
        Operation::UpdateRoomDescription { description: "x".into() },
        Operation::AddRoomExit { direction: "north".into(), target_room_id: id("b") },
        Operation::RemoveRoomExit { direction: "north".into() },
        add("e", None),
        remove("e"),
        equip("e", "hand"),
        unequip("e", None),
    ]
}

#[test]
fn what_does_not_exist_or_was_deleted_is_not_changed() {
    let known = given(&[("b", player()), ("b", deletion()), ("e", object())]);
    for operation in changes() {
        assert_eq!(
            when(&known, "a", operation.clone()),
            Err(Refusal::NoSuchObject(id("a"))),
            "{operation:?}"
        );
        assert_eq!(when(&known, "b", operation.clone()), Err(Refusal::Deleted(id("b"))), "{operation:?}");
    }
}

#[test]
fn each_kind_has_its_own_commands() {
    let known = given(&[("a", object()), ("b", room()), ("c", player())]);
    for target in ["a", "b"] {
        let refused = Err(Refusal::NotAPlayer(id(target)));
        assert_eq!(when(&known, target, Operation::UpdatePlayerAdminStatus { admin: true }), refused);
        let password = Operation::UpdatePlayerPassword { password_hash: hash('b') };
        assert_eq!(when(&known, target, password), refused);
    }
    for target in ["a", "c"] {
        let refused = Err(Refusal::NotARoom(id(target)));
        let describe = Operation::UpdateRoomDescription { description: "x".into() };
        assert_eq!(when(&known, target, describe), refused);
        let exit = Operation::AddRoomExit { direction: "up".into(), target_room_id: id("b") };
        assert_eq!(when(&known, target, exit), refused);
        assert_eq!(when(&known, target, Operation::RemoveRoomExit { direction: "up".into() }), refused);
    }
}

#[test]
fn attributes_change_and_only_those_that_do() {
    let known = given(&[("a", object()), ("a", attribute("weight", 4.into()))]);
    let updated = WorldEvent::GameObjectAttributeUpdated { key: "weight".into(), value: json!([5]) };
    assert_eq!(when(&known, "a", attribute("weight", json!([5]))), then(&[("a", updated)]));
    assert_eq!(when(&known, "a", attribute("weight", 4.into())), then(&[]));
    let null = WorldEvent::GameObjectAttributeUpdated { key: "owner".into(), value: Value::Null };
    assert_eq!(when(&known, "a", attribute("owner", Value::Null)), then(&[("a", null)]));
    let both = Attributes::from([("weight".into(), 4.into()), ("name".into(), "blade".into())]);
    let one = Attributes::from([("name".into(), "blade".into())]);
    let updated = WorldEvent::GameObjectAttributesUpdated { attributes: one };
    let update = Operation::UpdateGameObjectAttributes { attributes: both };
    assert_eq!(when(&known, "a", update), then(&[("a", updated)]));
    let none = Attributes::from([("weight".into(), 4.into()), ("name".into(), "thing".into())]);
    assert_eq!(when(&known, "a", Operation::UpdateGameObjectAttributes { attributes: none }), then(&[]));
}

#[test]
fn players_and_rooms_change_and_what_changes_nothing_is_no_event() {
    let known = given(&[("a", player()), ("b", room())]);
    let password = |hash: PasswordHash| Operation::UpdatePlayerPassword { password_hash: hash };
    let updated = WorldEvent::PlayerPasswordUpdated { password_hash: hash('b') };
    assert_eq!(when(&known, "a", password(hash('b'))), then(&[("a", updated)]));
    assert_eq!(when(&known, "a", password(hash('a'))), then(&[]));
    let admin = |admin| Operation::UpdatePlayerAdminStatus { admin };
    let updated = WorldEvent::PlayerAdminStatusUpdated { admin: true };
    assert_eq!(when(&known, "a", admin(true)), then(&[("a", updated)]));
    assert_eq!(when(&known, "a", admin(false)), then(&[]));
    let describe = |text: &str| Operation::UpdateRoomDescription { description: text.into() };
    let updated = WorldEvent::RoomDescriptionUpdated { description: "Stumps.".into() };
    assert_eq!(when(&known, "b", describe("Stumps.")), then(&[("b", updated)]));
    assert_eq!(when(&known, "b", describe("Trees.")), then(&[]));
}

#[test]
fn exits_are_added_led_elsewhere_and_removed_if_they_are_there() {
    let exit =
        |target: &str| Operation::AddRoomExit { direction: "north".into(), target_room_id: id(target) };
    let exit_added =
        |target: &str| WorldEvent::RoomExitAdded { direction: "north".into(), target_room_id: id(target) };
    let close = || Operation::RemoveRoomExit { direction: "north".into() };
    let known = given(&[("a", room())]);
    // The other room may be created later.
    assert_eq!(when(&known, "a", exit("b")), then(&[("a", exit_added("b"))]));
    let refused = Refusal::NoSuchExit { room: id("a"), direction: "north".into() };
    assert_eq!(when(&known, "a", close()), Err(refused));
    let known = given(&[("a", room()), ("a", exit("b"))]);
    assert_eq!(when(&known, "a", exit("b")), then(&[]));
    assert_eq!(when(&known, "a", exit("c")), then(&[("a", exit_added("c"))]));
    let exit_removed = WorldEvent::RoomExitRemoved { direction: "north".into() };
    assert_eq!(when(&known, "a", close()), then(&[("a", exit_removed)]));
}

#[test]
fn an_item_that_is_picked_up_lies_in_its_holder() {
    let known = given(&[("a", player()), ("b", room()), ("c", object_in(Some("b")))]);
    assert_eq!(when(&known, "a", add("c", None)), then(&[("a", added("c", None)), ("c", moved(Some("a")))]));
    let known = given(&[("a", player()), ("c", object()), ("c", to(Some("a")))]);
    let at = Some(json!([1, 2]));
    assert_eq!(when(&known, "a", add("c", at.clone())), then(&[("a", added("c", at))]));
    assert_eq!(when(&known, "a", add("d", None)), Err(Refusal::NoSuchObject(id("d"))));
}

#[test]
fn a_position_in_an_inventory_has_one_item() {
    let at = |x: i64| Some(json!({ "x": x }));
    let known = given(&[
        ("a", player()),
        ("b", object()),
        ("c", object()),
        ("a", add("b", at(1))),
        ("a", add("c", None)),
    ]);
    assert_eq!(when(&known, "a", add("b", at(1))), then(&[]));
    assert_eq!(when(&known, "a", add("b", None)), then(&[]));
    assert_eq!(when(&known, "a", add("b", at(2))), then(&[("a", added("b", at(2)))]));
    let refused = Refusal::PositionTaken { holder: id("a"), item: id("b") };
    assert_eq!(when(&known, "a", add("c", at(1))), Err(refused));
}

#[test]
fn an_item_is_in_one_inventory_only() {
    let carried = given(&[("a", player()), ("b", player()), ("c", object()), ("a", add("c", None))]);
    let taken = [("a", removed("c")), ("b", added("c", None)), ("c", moved(Some("b")))];
    assert_eq!(when(&carried, "b", add("c", None)), then(&taken));
    let thrown = [("a", removed("c")), ("c", moved(None))];
    assert_eq!(when(&carried, "c", to(None)), then(&thrown));
    assert_eq!(when(&carried, "a", remove("c")), then(&thrown));
    let gone = [("a", removed("c")), ("c", WorldEvent::GameObjectDeleted {})];
    assert_eq!(when(&carried, "c", deletion()), then(&gone));
    let refused = Refusal::NotInInventory { holder: id("b"), item: id("c") };
    assert_eq!(when(&carried, "b", remove("c")), Err(refused));
}

#[test]
fn an_item_is_worn_in_one_slot_by_its_holder() {
    let known =
        given(&[("a", player()), ("b", object()), ("c", object()), ("d", object()), ("a", add("b", None))]);
    assert_eq!(when(&known, "a", equip("b", "hand")), then(&[("a", equipped("b", "hand"))]));
    let refused = Refusal::NotCarried { holder: id("a"), item: id("c") };
    assert_eq!(when(&known, "a", equip("c", "hand")), Err(refused));
    let mut known = known;
    happens(&mut known, "a", &equip("b", "hand"));
    happens(&mut known, "c", &to(Some("a")));
    assert_eq!(when(&known, "a", equip("b", "hand")), then(&[]));
    let refused = Refusal::AlreadyEquipped { holder: id("a"), item: id("b") };
    assert_eq!(when(&known, "a", equip("b", "head")), Err(refused));
    let refused = Refusal::SlotTaken { holder: id("a"), item: id("b"), slot: "hand".into() };
    assert_eq!(when(&known, "a", equip("c", "hand")), Err(refused));
    // An item that is in the player but not in the inventory can be equipped too.
    assert_eq!(when(&known, "a", equip("c", "head")), then(&[("a", equipped("c", "head"))]));
}

#[test]
fn what_is_taken_off_is_in_the_inventory_again() {
    let known = given(&[("a", player()), ("b", object()), ("a", add("b", None)), ("a", equip("b", "hand"))]);
    for slot in [None, Some("hand")] {
        assert_eq!(when(&known, "a", unequip("b", slot)), then(&[("a", unequipped("b", "hand"))]));
    }
    let refused = || Err(Refusal::NotInSlot { holder: id("a"), item: id("b") });
    assert_eq!(when(&known, "a", unequip("b", Some("head"))), refused());
    assert_eq!(
        when(&known, "a", remove("b")),
        Err(Refusal::NotInInventory { holder: id("a"), item: id("b") })
    );
    assert_eq!(when(&known, "a", add("b", None)), then(&[("a", unequipped("b", "hand"))]));
    let at = Some(json!(7));
    let put = [("a", unequipped("b", "hand")), ("a", added("b", at.clone()))];
    assert_eq!(when(&known, "a", add("b", at)), then(&put));
    let mut known = known;
    happens(&mut known, "a", &unequip("b", None));
    assert_eq!(when(&known, "a", unequip("b", None)), refused());
    assert_eq!(when(&known, "a", remove("b")), then(&[("a", removed("b")), ("b", moved(None))]));
}

#[test]
fn what_was_worn_is_taken_off_when_it_goes() {
    let known = given(&[
        ("a", player()),
        ("b", player()),
        ("c", object()),
        ("a", add("c", None)),
        ("a", equip("c", "hand")),
    ]);
    let loses = [("a", unequipped("c", "hand")), ("a", removed("c"))];
    let events = |more: &[(&'static str, WorldEvent)]| then(&[&loses[..], more].concat());
    assert_eq!(
        when(&known, "b", add("c", None)),
        events(&[("b", added("c", None)), ("c", moved(Some("b")))])
    );
    assert_eq!(when(&known, "c", to(None)), events(&[("c", moved(None))]));
    let deleted = WorldEvent::GameObjectDeleted {};
    assert_eq!(when(&known, "c", deletion()), events(&[("c", deleted)]));
    assert!(when(&known, "b", add("c", None)).unwrap().len() <= Command::EVENTS_MAX);
}

#[test]
fn what_is_not_known_is_requested_before_anything_is_decided() {
    let mut known = WorldView::default();
    let mut asked = Vec::new();
    let moving = command("b", to(Some("c")));
    let decided = loop {
        match decide(&known, &moving) {
            Err(Undecided::Unknown(missing)) => {
                let aggregate = given(&[("a", room()), ("c", object_in(Some("a"))), ("b", object())]);
                known.learn(missing.clone(), aggregate.find(&missing).unwrap().cloned());
                asked.push(missing.to_string());
            }
            Err(Undecided::Unanswered(question)) => {
                known.answer_alone(question.clone());
                asked.push(format!("{question:?}"));
            }
            other => break other.unwrap(),
        }
    };
    // The container's own container is needed too: only then is it known that the container is not
    // inside the object.
    assert_eq!(asked, ["b", "c", "a", "Height(\"b\")"]);
    assert_eq!(decided.len(), 1);
}
