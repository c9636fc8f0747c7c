//! Tests attributes: how they are removed, and which of them make a player or a room.

use super::*;
use crate::world::model::room::LONG_DESC;

fn remove_attribute(key: &str) -> Operation {
    Operation::RemoveGameObjectAttribute { key: key.into() }
}

fn create(class: &str, name: &str, attributes: &[(&str, Value)]) -> Operation {
    Operation::CreateGameObject {
        class: class.into(),
        name: name.into(),
        generic: String::new(),
        container_id: None,
        attributes: pairs(attributes),
    }
}

fn created(class: &str, name: &str, generic: &str, attributes: &[(&str, Value)]) -> WorldEvent {
    WorldEvent::GameObjectCreated {
        class: class.into(),
        name: name.into(),
        generic: generic.into(),
        container_id: None,
        attributes: pairs(attributes),
    }
}

fn pairs(attributes: &[(&str, Value)]) -> Attributes {
    attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn described(description: &str) -> WorldEvent {
    WorldEvent::RoomDescriptionUpdated { description: description.into() }
}

#[test]
fn an_attribute_is_removed_once() {
    let mut known = given(&[("a", object()), ("a", attribute("weight", Value::Null))]);
    let removed = WorldEvent::GameObjectAttributeRemoved { key: "weight".into() };
    assert_eq!(when(&known, "a", remove_attribute("weight")), then(&[("a", removed)]));
    happens(&mut known, "a", &remove_attribute("weight"));
    assert!(!known.find(&id("a")).unwrap().unwrap().object().attributes.contains_key("weight"));
    assert_eq!(when(&known, "a", remove_attribute("weight")), then(&[]));
    // Another object may lose its name, and be given one again.
    happens(&mut known, "a", &remove_attribute("name"));
    assert_eq!(known.find(&id("a")).unwrap().unwrap().object().name(), "");
    assert_eq!(when(&known, "a", attribute("name", "x".into())).unwrap().len(), 1);
}

#[test]
fn a_player_keeps_a_name() {
    let known = given(&[("a", player())]);
    assert_eq!(when(&known, "a", remove_attribute("name")), Err(Refusal::Nameless(id("a"))));
    assert_eq!(when(&known, "a", remove_attribute("title")), then(&[]));
}

#[test]
fn the_class_makes_a_player_or_a_room_with_all_their_rules() {
    let known = given(&[("b", room())]);
    let is_player = WorldEvent::PlayerCreated { password_hash: None, admin: false };
    for class in ["Player", "Aethyr::Core::Objects::Player"] {
        let named = [("a", created(class, "Alice", "player", &[])), ("a", is_player.clone())];
        assert_eq!(when(&known, "a", create(class, "Alice", &[])), then(&named));
        // The name may come as an attribute.
        let attributes = [("name", json!("Alice"))];
        let named = [("a", created(class, "", "player", &attributes)), ("a", is_player.clone())];
        assert_eq!(when(&known, "a", create(class, "", &attributes)), then(&named));
        for attributes in [vec![], vec![("name", json!(""))], vec![("name", Value::Null)]] {
            let refused = when(&known, "a", create(class, "", &attributes));
            assert_eq!(refused, Err(Refusal::Nameless(id("a"))), "{class} {attributes:?}");
        }
    }
    let is_room = WorldEvent::RoomCreated { description: String::new() };
    for class in ["Room", "::Room", "Aethyr::Core::Objects::Room"] {
        let events = [("a", created(class, "", "room", &[])), ("a", is_room.clone())];
        assert_eq!(when(&known, "a", create(class, "", &[])), then(&events));
    }
    for class in ["GameObject", "BathRoom", "Aethyr::Room::Door"] {
        let events = [("a", created(class, "", "", &[]))];
        assert_eq!(when(&known, "a", create(class, "", &[])), then(&events));
    }
    let generic = Operation::CreateGameObject {
        class: "Room".into(),
        name: "Cave".into(),
        generic: "cave".into(),
        container_id: Some(id("b")),
        attributes: Attributes::new(),
    };
    let mut known = known;
    happens(&mut known, "a", &generic);
    let cave = known.room(&id("a")).unwrap();
    assert_eq!((cave.object.generic.as_str(), &cave.object.container_id), ("cave", &Some(id("b"))));
    let exit = Operation::AddRoomExit { direction: "up".into(), target_room_id: id("b") };
    assert_eq!(when(&known, "a", exit).unwrap().len(), 1);
}

#[test]
fn the_long_desc_of_a_room_is_its_description() {
    let trees = [(LONG_DESC, json!("Trees.")), ("light", json!(3))];
    let mut known = given(&[]);
    let events = [
        ("a", created("Room", "", "room", &[("light", json!(3))])),
        ("a", WorldEvent::RoomCreated { description: "Trees.".into() }),
    ];
    assert_eq!(when(&known, "a", create("Room", "", &trees)), then(&events));
    happens(&mut known, "a", &create("Room", "", &trees));
    let long_desc = |value: Value| attribute(LONG_DESC, value);
    assert_eq!(when(&known, "a", long_desc("Trees.".into())), then(&[]));
    assert_eq!(when(&known, "a", long_desc("Moss.".into())), then(&[("a", described("Moss."))]));
    assert_eq!(when(&known, "a", long_desc(Value::Null)), then(&[("a", described(""))]));
    assert_eq!(when(&known, "a", remove_attribute(LONG_DESC)), then(&[("a", described(""))]));
    let both = |light: i64, text: &str| Operation::UpdateGameObjectAttributes {
        attributes: pairs(&[(LONG_DESC, json!(text)), ("light", json!(light))]),
    };
    let light = WorldEvent::GameObjectAttributesUpdated { attributes: pairs(&[("light", json!(4))]) };
    assert_eq!(when(&known, "a", both(3, "Trees.")), then(&[]));
    assert_eq!(when(&known, "a", both(4, "Trees.")), then(&[("a", light.clone())]));
    assert_eq!(when(&known, "a", both(3, "Moss.")), then(&[("a", described("Moss."))]));
    assert_eq!(when(&known, "a", both(4, "Moss.")), then(&[("a", light), ("a", described("Moss."))]));
    for value in [json!(7), json!(["x"]), json!(true), json!({"en": "x"})] {
        let refused = Err(Refusal::DescriptionNotText(id("a")));
        assert_eq!(when(&known, "a", long_desc(value.clone())), refused);
        let attributes = pairs(&[(LONG_DESC, value.clone())]);
        assert_eq!(when(&known, "a", Operation::UpdateGameObjectAttributes { attributes }), refused);
        let refused = Err(Refusal::DescriptionNotText(id("b")));
        assert_eq!(when(&known, "b", create("Room", "", &[(LONG_DESC, value)])), refused);
    }
    happens(&mut known, "a", &remove_attribute(LONG_DESC));
    assert_eq!(known.room(&id("a")).unwrap().description, "");
    assert_eq!(when(&known, "a", remove_attribute(LONG_DESC)), then(&[]));
}

#[test]
fn the_long_desc_of_another_object_is_an_attribute_of_any_value() {
    let known = given(&[("a", object()), ("b", player())]);
    for target in ["a", "b"] {
        let updated = WorldEvent::GameObjectAttributeUpdated { key: LONG_DESC.into(), value: json!([7]) };
        assert_eq!(when(&known, target, attribute(LONG_DESC, json!([7]))), then(&[(target, updated)]));
    }
}
