//! Tests where objects may be put, and what happens to the contents of a deleted object.
//!
//! Also tests containers that are already nested more deeply than the limit.

use super::*;
use crate::world::rules::moving::CONTAINERS_MAX;

/// Creates boxes, each inside the previous one.
fn boxes(known: &mut WorldView, name: &str, count: usize) {
    for number in 0..count {
        let container = number.checked_sub(1).map(|before| format!("{name}-{before}"));
        known.learn(id(&format!("{name}-{number}")), None);
        happens(known, &format!("{name}-{number}"), &object_in(container.as_deref()));
    }
}

fn too_deep(what: &str, container: &str) -> Result<Vec<(String, WorldEvent)>, Refusal> {
    let (id, container) = (id(what), id(container));
    Err(Refusal::ContainersTooDeep { id, container, max: CONTAINERS_MAX })
}

#[test]
fn things_move_into_what_exists() {
    let known =
        given(&[("a", object()), ("b", room()), ("c", room()), ("c", deletion()), ("a", to(Some("b")))]);
    assert_eq!(when(&known, "a", to(Some("b"))), then(&[]));
    assert_eq!(when(&known, "a", to(None)), then(&[("a", moved(None))]));
    assert_eq!(when(&known, "a", to(Some("c"))), Err(Refusal::Deleted(id("c"))));
    assert_eq!(when(&known, "a", to(Some("d"))), Err(Refusal::NoSuchObject(id("d"))));
    assert_eq!(when(&known, "e", object_in(Some("c"))), Err(Refusal::Deleted(id("c"))));
    assert_eq!(when(&known, "e", object_in(Some("d"))), Err(Refusal::NoSuchObject(id("d"))));
}

#[test]
fn nothing_lies_in_itself_over_however_many_steps() {
    let known = given(&[("a", object()), ("b", object_in(Some("a"))), ("c", object_in(Some("b")))]);
    assert_eq!(when(&known, "a", to(Some("a"))), Err(Refusal::Itself(id("a"))));
    for container in ["b", "c"] {
        let refused = Err(Refusal::ContainerCycle { id: id("a"), container: id(container) });
        assert_eq!(when(&known, "a", to(Some(container))), refused);
        assert_eq!(when(&known, container, add("a", None)), refused);
    }
    assert_eq!(when(&known, "d", object_in(Some("d"))), Err(Refusal::Itself(id("d"))));
    assert_eq!(when(&known, "a", add("a", None)), Err(Refusal::Itself(id("a"))));
}

#[test]
fn containers_are_bounded_in_depth() {
    let mut known = given(&[("a", object())]);
    let name = |depth: usize| if depth == 0 { "a".to_owned() } else { format!("box-{depth}") };
    for depth in 1..=CONTAINERS_MAX {
        known.learn(id(&name(depth)), None);
        happens(&mut known, &name(depth), &object_in(Some(&name(depth - 1))));
    }
    known.learn(id("last"), None);
    let container = id(&name(CONTAINERS_MAX));
    let refused = Refusal::ContainersTooDeep { id: id("last"), container, max: CONTAINERS_MAX };
    assert_eq!(when(&known, "last", object_in(Some(&name(CONTAINERS_MAX)))), Err(refused));
}

#[test]
fn the_depth_is_of_whatever_comes_along() {
    let mut known = given(&[("a", object()), ("b", room())]);
    boxes(&mut known, "x", 40);
    boxes(&mut known, "y", 26);
    // The innermost box would be in 65 containers.
    assert_eq!(when(&known, "y-0", to(Some("x-39"))), too_deep("y-0", "x-39"));
    assert_eq!(when(&known, "x-39", add("y-0", None)), too_deep("y-0", "x-39"));
    let events = when(&known, "y-0", to(Some("x-38"))).unwrap();
    assert_eq!(events, [("y-0".into(), moved(Some("x-38")))]);
    happens(&mut known, "y-0", &to(Some("x-38")));
    // `y-25` is already in 64 containers, so nothing may be put into it.
    assert_eq!(when(&known, "y-25", add("a", None)), too_deep("a", "y-25"));
    assert_eq!(when(&known, "y-24", add("a", None)).unwrap().len(), 2);
    // The boxes are nested less deeply once the innermost one is taken out.
    happens(&mut known, "y-25", &to(None));
    assert_eq!(when(&known, "x-0", to(Some("b"))).unwrap().len(), 1);
}

#[test]
fn what_lies_deeper_already_stays_usable() {
    let mut known = given(&[("a", object()), ("b", room()), ("c", object()), ("c", add("a", None))]);
    boxes(&mut known, "x", 60);
    boxes(&mut known, "y", 20);
    let deep = WorldEvent::GameObjectContainerUpdated { container_id: Some(id("x-59")) };
    known.apply(&id("y-0"), Kind::GameObject, &deep).unwrap();
    // Empty objects may be put there, and taken out again.
    assert_eq!(when(&known, "y-19", add("a", None)).unwrap().len(), 3);
    happens(&mut known, "y-19", &add("a", None));
    assert_eq!(when(&known, "a", to(Some("y-10"))).unwrap().len(), 2);
    // An object with contents may only be moved there from a place that is at least as deep.
    known.learn(id("d"), None);
    happens(&mut known, "d", &object());
    happens(&mut known, "c", &add("d", None));
    assert_eq!(when(&known, "c", to(Some("y-10"))), too_deep("c", "y-10"));
    assert_eq!(when(&known, "y-15", to(Some("y-13"))).unwrap().len(), 1);
    assert_eq!(when(&known, "y-15", to(Some("b"))).unwrap().len(), 1);
    // Moved sideways, no deeper than before.
    known.learn(id("z"), None);
    let beside = WorldEvent::GameObjectCreated {
        class: "Thing".into(),
        name: String::new(),
        generic: String::new(),
        container_id: Some(id("y-13")),
        attributes: Attributes::new(),
    };
    known.apply(&id("z"), Kind::GameObject, &beside).unwrap();
    assert_eq!(when(&known, "y-15", to(Some("z"))).unwrap().len(), 1);
    assert_eq!(when(&known, "y-14", to(Some("z"))), too_deep("y-14", "z"));
}

#[test]
fn what_is_not_empty_is_deleted_only_as_it_is_said() {
    let deleting = |contents| Operation::DeleteGameObject { contents };
    let gone = ("c", WorldEvent::GameObjectDeleted {});
    let known = given(&[
        ("a", room()),
        ("b", player()),
        ("c", object_in(Some("a"))),
        ("d", object_in(Some("c"))),
        ("e", object()),
        ("c", add("e", None)),
    ]);
    let refused = Refusal::NotEmpty { id: id("c"), item: id("d"), others: 1 };
    assert_eq!(when(&known, "c", deletion()), Err(refused.clone()));
    assert_eq!(
        refused.to_string(),
        "c: is not empty: it contains d and one other object; set `contents` or empty it first"
    );
    assert_eq!(when(&known, "c", deleting(ContentsPolicy::Leave)), then(std::slice::from_ref(&gone)));
    let moved_out = [("d", moved(Some("a"))), ("e", moved(Some("a"))), gone.clone()];
    assert_eq!(when(&known, "c", deleting(ContentsPolicy::MoveToContainer)), then(&moved_out));
    // The holder loses the object, and receives its contents.
    let mut carried = known.clone();
    happens(&mut carried, "b", &add("c", None));
    let moved_out = [("d", moved(Some("b"))), ("e", moved(Some("b"))), ("b", removed("c")), gone.clone()];
    assert_eq!(when(&carried, "c", deleting(ContentsPolicy::MoveToContainer)), then(&moved_out));
    // If the container was deleted, the contents end up without one.
    let mut nowhere = known.clone();
    happens(&mut nowhere, "a", &deleting(ContentsPolicy::Leave));
    let moved_out = [("d", moved(None)), ("e", moved(None)), gone];
    assert_eq!(when(&nowhere, "c", deleting(ContentsPolicy::MoveToContainer)), then(&moved_out));
    // A deleted object has no items, so taking one of them needs no event of the deleted object.
    let mut left = known;
    happens(&mut left, "c", &deleting(ContentsPolicy::Leave));
    assert!(left.find(&id("c")).unwrap().unwrap().object().inventory.is_empty());
    assert_eq!(when(&left, "b", add("e", None)).unwrap().len(), 2);
}

#[test]
fn more_than_can_be_moved_is_moved_out_by_hand() {
    let mut known = given(&[("a", object())]);
    let moving_out = || Operation::DeleteGameObject { contents: ContentsPolicy::MoveToContainer };
    for number in 0..ContentsPolicy::MOVED_MAX {
        known.learn(id(&format!("thing-{number}")), None);
        happens(&mut known, &format!("thing-{number}"), &object_in(Some("a")));
    }
    let decided = when(&known, "a", moving_out()).unwrap();
    assert_eq!(decided.len(), ContentsPolicy::MOVED_MAX + 1);
    assert!(decided.len() <= Command::EVENTS_MAX);
    happens(&mut known, "b", &object_in(Some("a")));
    let refused = Refusal::TooMuchInside { id: id("a"), max: ContentsPolicy::MOVED_MAX };
    assert_eq!(when(&known, "a", moving_out()), Err(refused));
}
