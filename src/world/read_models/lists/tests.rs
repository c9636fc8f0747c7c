//! Tests of the lists: order, paging while objects move, and the cost of a page.
//!
//! The tables are filled by hand, without any events.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use super::{ObjectFilter, Page, PlayerFilter, below, game_objects, players};
use crate::world::read_models::projections;

fn tables() -> Connection {
    let rows = Connection::open_in_memory().unwrap();
    let projection = projections::all().into_iter().find(|one| one.name() == "game_objects").unwrap();
    rows.execute_batch(projection.schema()).unwrap();
    rows
}

fn put(rows: &Connection, id: &str, container: Option<&str>) {
    rows.prepare_cached(
        "INSERT OR REPLACE INTO game_objects VALUES (?1, 'GameObject', 'Thing', '', '', ?2, '{}', 1, '', '')",
    )
    .unwrap()
    .execute(params![id, container])
    .unwrap();
}

/// Appends the expected recursive contents of a container: id and depth, in the order of the list.
fn expected(lies_in: &BTreeMap<String, String>, container: &str, depth: u32, into: &mut Vec<(String, u32)>) {
    for (id, _) in lies_in.iter().filter(|(_, its)| *its == container) {
        into.push((id.clone(), depth));
        expected(lies_in, id, depth + 1, into);
    }
}

/// Returns all pages, and calls `between` after each but the last.
fn pages(rows: &Connection, top: &str, count: usize, mut between: impl FnMut()) -> Vec<(String, u32)> {
    let (mut all, mut after) = (Vec::new(), Vec::new());
    loop {
        let Page { objects, next } = below(rows, top, &after, count).unwrap();
        assert!(objects.len() <= count);
        all.extend(objects.into_iter().map(|object| (object.id, object.depth)));
        let Some(next) = next else { return all };
        after = next;
        between();
    }
}

#[test]
fn a_recursive_list_has_each_thing_followed_by_what_lies_in_it_in_pages_of_any_size() {
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20 {
        let rows = tables();
        let mut lies_in = BTreeMap::new();
        for number in 0..60 {
            // Only in an earlier object, so there is no cycle. A few objects have no container.
            let container = random.usize(0..=number);
            let container = if container == 0 { "top".to_owned() } else { format!("o-{:02}", container - 1) };
            let id = format!("o-{number:02}");
            if random.u8(..10) == 0 {
                put(&rows, &id, None);
            } else {
                put(&rows, &id, Some(&container));
                lies_in.insert(id, container);
            }
        }
        let mut all = Vec::new();
        expected(&lies_in, "top", 1, &mut all);
        for count in [1, 2, 7, 1000] {
            assert_eq!(pages(&rows, "top", count, || {}), all, "round {round}, pages of {count}");
        }
    }
}

#[test]
fn what_stays_where_it_is_is_listed_once_whatever_moves_between_two_pages() {
    let mut random = fastrand::Rng::with_seed(4);
    let boxes: Vec<String> = (0..8).map(|number| format!("box-{number}")).collect();
    for _ in 0..30 {
        let rows = tables();
        let mut staying = BTreeSet::new();
        for id in &boxes {
            put(&rows, id, Some("top"));
            staying.insert(id.clone());
        }
        for number in 0..80 {
            let id = format!("coin-{number}");
            put(&rows, &id, Some(&boxes[number % boxes.len()]));
            if number % 2 == 0 {
                staying.insert(id);
            }
        }
        let move_some = || {
            for _ in 0..10 {
                let id = format!("coin-{}", random.usize(0..40) * 2 + 1);
                match random.usize(0..10) {
                    0 => _ = rows.execute("DELETE FROM game_objects WHERE id = ?1", [&id]).unwrap(),
                    1 => put(&rows, &id, None),
                    2 => put(&rows, &id, Some("coin-0")),
                    other => put(&rows, &id, Some(&boxes[other % boxes.len()])),
                }
            }
        };
        let listed = pages(&rows, "top", 5, move_some);
        let of_staying: Vec<_> = listed.iter().map(|(id, _)| id).filter(|id| staying.contains(*id)).collect();
        assert_eq!(of_staying.len(), staying.len());
        assert_eq!(of_staying.into_iter().collect::<BTreeSet<_>>().len(), staying.len());
    }
}

#[test]
fn nothing_of_what_lies_in_a_thing_that_has_left_is_listed_any_more() {
    let rows = tables();
    for (id, container) in [("box", "top"), ("coin-1", "box"), ("coin-2", "box"), ("door", "top")] {
        put(&rows, id, Some(container));
    }
    let listed = pages(&rows, "top", 2, || put(&rows, "box", Some("elsewhere")));
    assert_eq!(listed, [("box".to_owned(), 1), ("coin-1".to_owned(), 2), ("door".to_owned(), 1)]);
}

#[test]
fn a_circle_ends_where_it_began() {
    let rows = tables();
    put(&rows, "a", Some("b"));
    put(&rows, "b", Some("a"));
    let listed = pages(&rows, "a", 1, || {});
    assert_eq!(listed, [("b".to_owned(), 1), ("a".to_owned(), 2)]);
}

/// A page reads only what it returns, as the step count of SQLite shows.
#[test]
fn a_page_costs_the_same_however_much_lies_below() {
    let steps = |things: usize| {
        let mut rows = tables();
        for number in 0..things {
            put(&rows, &format!("t-{number:06}"), Some(if number % 2 == 0 { "top" } else { "t-000000" }));
        }
        let looked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counting = looked.clone();
        let count = move || {
            counting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            false
        };
        rows.progress_handler(100, Some(count)).unwrap();
        assert_eq!(below(&rows, "top", &[], 100).unwrap().objects.len(), 100);
        looked.load(std::sync::atomic::Ordering::Relaxed)
    };
    let (few, many) = (steps(1_000), steps(28_000));
    assert!(many <= few + few / 10 + 1, "{few} and {many} hundred steps");
}

#[test]
fn a_list_with_prefixes_has_the_objects_with_one_of_them_in_pages_of_any_size() {
    let rows = tables();
    for id in ["arena-1", "arena-2", "arenb", "aren", "player-1", "room-1", "room-2"] {
        put(&rows, id, Some("hall"));
    }
    let prefixes = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let list = |filter: &ObjectFilter, count: usize| {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let Page { objects, next } = game_objects(&rows, filter, &after, count).unwrap();
            assert!(objects.len() <= count);
            all.extend(objects.into_iter().map(|object| object.id));
            let Some(next) = next else { return all };
            after = next.last().unwrap().clone();
        }
    };
    for count in [1, 2, 100] {
        // The prefixes are neither in order nor free of overlaps.
        let id_prefixes = prefixes(&["room-", "arena-", "arena-1"]);
        let filter = ObjectFilter { id_prefixes, ..ObjectFilter::default() };
        assert_eq!(list(&filter, count), ["arena-1", "arena-2", "room-1", "room-2"]);
        let filter = ObjectFilter { container_id: "hall".to_owned(), ..filter };
        assert_eq!(list(&filter, count), ["arena-1", "arena-2", "room-1", "room-2"]);
        assert_eq!(list(&ObjectFilter::default(), count).len(), 7);
        let none = ObjectFilter { id_prefixes: prefixes(&["quest-"]), ..ObjectFilter::default() };
        assert_eq!(list(&none, count), Vec::<String>::new());
    }
}

#[test]
fn rooms_and_players_are_found_by_type_and_by_generic_name_also_those_of_older_services() {
    let rows = tables();
    for (id, kind, class, generic) in [
        ("a-new", "Room", "Room", "room"),
        ("b-old", "Room", "Room", ""),
        ("c-raw", "Room", "", "room"),
        ("d-class", "Room", "Aethyr::Core::Objects::Room", "cave"),
        ("e-new", "Player", "Player", "player"),
        ("f-old", "Player", "Player", ""),
        ("g-raw", "Player", "", "player"),
        // Before the class decided about the kind.
        ("h-object", "GameObject", "Room", ""),
        ("i-object", "GameObject", "Thing", "room"),
        ("j-object", "GameObject", "Thing", ""),
    ] {
        rows.execute(
            "INSERT INTO game_objects VALUES (?1, ?2, ?3, '', ?4, NULL, '{}', 1, '', '')",
            params![id, kind, class, generic],
        )
        .unwrap();
    }
    let list = |class: &str, generic: &str| -> String {
        let (class, generic) = (class.to_owned(), generic.to_owned());
        let filter = ObjectFilter { class, generic, ..ObjectFilter::default() };
        let found = game_objects(&rows, &filter, "", 100).unwrap().objects;
        found.into_iter().map(|object| object.id.chars().next().unwrap()).collect()
    };
    assert_eq!(list("Room", ""), "abcdh");
    assert_eq!(list("Player", ""), "efg");
    assert_eq!(list("", "room"), "abci");
    assert_eq!(list("", "player"), "efg");
    assert_eq!(list("Room", "room"), "abc");
    assert_eq!(list("Room", "player"), "");
    assert_eq!(list("Room", "cave"), "d");
    assert_eq!(list("Aethyr::Core::Objects::Room", ""), "d");
    assert_eq!(list("Thing", ""), "ij");
    assert_eq!(list("", "cave"), "d");
}

/// The index has exactly the expression of the query.
#[test]
fn a_list_of_a_kind_uses_an_index() {
    let rows = tables();
    let filter = ObjectFilter { class: "Room".to_owned(), ..ObjectFilter::default() };
    let range = &super::ranges(&[])[0];
    let (conditions, values) = super::conditions(&filter, range, "");
    let sql = format!(
        "EXPLAIN QUERY PLAN SELECT {} FROM game_objects WHERE {conditions} ORDER BY id",
        super::COLUMNS
    );
    let mut query = rows.prepare(&sql).unwrap();
    let steps = query.query_map(rusqlite::params_from_iter(values), |row| row.get(3)).unwrap();
    let plan: Vec<String> = steps.map(Result::unwrap).collect();
    assert!(plan.len() == 1 && plan[0].contains("game_objects_by_listed_type"), "{plan:?}");
}

#[test]
fn players_are_found_by_prefix_however_many_others_have_the_name() {
    let rows = Connection::open_in_memory().unwrap();
    rows.execute_batch("CREATE TABLE players (id TEXT, name TEXT, admin INTEGER, container_id TEXT)")
        .unwrap();
    for id in ["a-1", "a-2", "b-1", "b-2", "c-1"] {
        rows.execute("INSERT INTO players VALUES (?1, 'Ada', 0, NULL)", [id]).unwrap();
    }
    let find = |prefixes: &[&str], count: u32| -> Vec<String> {
        let id_prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let found = players(&rows, &PlayerFilter { name: "ada".to_owned(), id_prefixes }, count).unwrap();
        found.into_iter().map(|player| player.id).collect()
    };
    assert_eq!(find(&[], 2), ["a-1", "a-2"]);
    assert_eq!(find(&["b-"], 2), ["b-1", "b-2"]);
    assert_eq!(find(&["c-", "b-"], 2), ["b-1", "b-2"]);
    assert_eq!(find(&["d-"], 2), Vec::<String>::new());
}
