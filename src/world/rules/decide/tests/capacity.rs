//! Tests how much an object may hold, and how large it may be.

use super::*;
use crate::world::rules::capacity::{ATTRIBUTES_MAX, EXITS_MAX, ITEMS_MAX, SIZE_MAX};

#[test]
fn an_object_holds_so_much_and_no_more() {
    let numbered = |from: usize, count: usize| {
        let names = (from..from + count).map(|number| (number.to_string(), Value::Null));
        Operation::UpdateGameObjectAttributes { attributes: names.collect() }
    };
    // The name is one of the attributes.
    let known = given(&[("a", object()), ("a", numbered(0, ATTRIBUTES_MAX - 1))]);
    let full = |what, max| Err(Refusal::Full { id: id("a"), what, max });
    assert_eq!(when(&known, "a", attribute("one more", Value::Null)), full("attributes", ATTRIBUTES_MAX));
    assert_eq!(when(&known, "a", numbered(5, ATTRIBUTES_MAX)), full("attributes", ATTRIBUTES_MAX));
    assert_eq!(when(&known, "a", attribute("5", 1.into())).unwrap().len(), 1);
    let exit =
        |number: usize| Operation::AddRoomExit { direction: number.to_string(), target_room_id: id("a") };
    let mut known = given(&[("a", room()), ("b", object())]);
    (0..EXITS_MAX).for_each(|number| happens(&mut known, "a", &exit(number)));
    assert_eq!(when(&known, "a", exit(EXITS_MAX)), full("exits", EXITS_MAX));
    let elsewhere = Operation::AddRoomExit { direction: "5".into(), target_room_id: id("b") };
    assert_eq!(when(&known, "a", elsewhere).unwrap().len(), 1);
    let carried = |number: usize| WorldEvent::ItemAddedToInventory {
        item_id: id(&format!("item-{number}")),
        position: None,
    };
    for number in 0..ITEMS_MAX {
        known.apply(&id("a"), Kind::Room, &carried(number)).unwrap();
    }
    assert_eq!(when(&known, "a", add("b", None)), full("items", ITEMS_MAX));
}

#[test]
fn an_object_weighs_so_much_and_no_more() {
    let text = |bytes: usize| Value::String("x".repeat(bytes));
    let full = Err(Refusal::Full { id: id("a"), what: "bytes", max: SIZE_MAX });
    let half = SIZE_MAX / 2 + 1;
    let known = given(&[("a", room()), ("a", attribute("one", text(half))), ("b", object())]);
    assert_eq!(when(&known, "a", attribute("other", text(half))), full);
    let attributes = |key: &str| Operation::UpdateGameObjectAttributes {
        attributes: Attributes::from([(key.to_owned(), text(half))]),
    };
    assert_eq!(when(&known, "a", attributes("other")), full);
    assert_eq!(when(&known, "a", Operation::UpdateRoomDescription { description: "x".repeat(half) }), full);
    assert_eq!(when(&known, "a", add("b", Some(text(half)))), full);
    // A value of about the same size as the one that it replaces fits. A change that makes the
    // object smaller always fits.
    assert_eq!(when(&known, "a", attribute("one", text(half + 1))).unwrap().len(), 1);
    assert_eq!(when(&known, "a", attribute("one", Value::Null)).unwrap().len(), 1);
    let known =
        given(&[("a", room()), ("a", Operation::UpdateRoomDescription { description: "x".repeat(half) })]);
    let again = Operation::UpdateRoomDescription { description: "y".repeat(half) };
    assert_eq!(when(&known, "a", again).unwrap().len(), 1);
}

#[test]
fn one_that_is_too_heavy_is_changed_and_made_lighter() {
    let mut known = given(&[("a", player()), ("b", object()), ("a", attribute("hp", 100.into()))]);
    let text = Value::String("x".repeat(SIZE_MAX));
    let happened = WorldEvent::GameObjectAttributeUpdated { key: "long".into(), value: text };
    known.apply(&id("a"), Kind::Player, &happened).unwrap();
    assert_eq!(when(&known, "a", attribute("hp", 99.into())).unwrap().len(), 1);
    assert_eq!(when(&known, "a", attribute("long", Value::Null)).unwrap().len(), 1);
    assert_eq!(when(&known, "a", deletion()).unwrap().len(), 1);
    let full = Err(Refusal::Full { id: id("a"), what: "bytes", max: SIZE_MAX });
    assert_eq!(when(&known, "a", attribute("mp", 1.into())), full);
    assert_eq!(when(&known, "a", add("b", None)), full);
}
