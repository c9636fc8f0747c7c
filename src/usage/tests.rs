//! Tests of the limits on what is used up for good.

use super::*;
use crate::event::ChainHash;

const UNLIMITED: UseLimits = UseLimits { share: 1.0, stored_bytes_max: None, types_max: None };

/// The usage of a log, and its tip.
struct World {
    usage: Usage,
    tip: watch::Sender<Tip>,
}

impl World {
    /// Creates the usage of an empty log, of which this number of types is attributed.
    fn new(types_max: u64) -> Self {
        let world = Self { usage: Usage::default(), tip: watch::Sender::new(Tip::START) };
        world.usage.begin(Derived::default(), types_max);
        world.usage.follow(&world.tip.subscribe());
        world
    }

    fn reserve(&self, name: &str, limits: UseLimits, types: &[&str]) -> Result<Reserved, OverShare> {
        self.reserve_bytes(name, limits, 100, types)
    }

    fn reserve_bytes(
        &self,
        name: &str,
        limits: UseLimits,
        bytes: u64,
        types: &[&str],
    ) -> Result<Reserved, OverShare> {
        let write = WriteSize { events: types.len() as u64, bytes, event_types: types.to_vec() };
        self.usage.reserve(&name.into(), &limits, &write)
    }

    /// Moves the tip, as if events were stored.
    fn store(&self, position: u64) {
        self.tip.send_modify(|tip| tip.position = Position(position));
    }

    /// Derives events from the log up to this position.
    fn derive(&self, position: u64, events: &[(&str, &str)]) {
        let mut batch = Batch::default();
        events.iter().for_each(|(by, event_type)| batch.add(&record(by, event_type)));
        batch.reached = Some((Position(position), ChainHash::START));
        self.usage.add(&batch);
    }

    fn stored(&self, name: &str) -> StoredUse {
        self.usage.lock().derived.stored(name)
    }

    /// Returns whether nothing is reserved.
    fn is_released(&self) -> bool {
        let state = self.usage.lock();
        let is_nothing = |amounts: &ReservedAmounts| amounts.bytes == 0 && amounts.types == 0;
        state.reserved.values().all(is_nothing) && state.reserved_types.is_empty() && state.decided.is_empty()
    }
}

/// Returns the fields of a record that are derived: its type and its identity.
fn record(by: &str, event_type: &str) -> Vec<u8> {
    let field = |number: u8, text: &str| {
        let head = [(number << 3) | 2, text.len() as u8];
        [&head[..], text.as_bytes()].concat()
    };
    [field(4, event_type), if by.is_empty() { Vec::new() } else { field(15, by) }].concat()
}

fn types_max(max: u64) -> UseLimits {
    UseLimits { types_max: Some(max), ..UNLIMITED }
}

fn bytes_max(max: u64) -> UseLimits {
    UseLimits { stored_bytes_max: Some(max), ..UNLIMITED }
}

#[test]
fn writes_at_once_do_not_exceed_a_limit_on_types_together() {
    let world = World::new(100);
    let first = world.reserve("arena", types_max(3), &["A", "B"]).unwrap();
    let over = world.reserve("arena", types_max(3), &["C", "D"]).unwrap_err();
    assert_eq!((over.limit, over.max), (ShareLimit::Types, 3));
    let second = world.reserve("arena", types_max(3), &["C", "A", "C"]).unwrap();
    world.reserve("town", types_max(3), &["D", "E", "F"]).unwrap();
    // Neither was stored.
    drop((first, second));
    assert!(world.is_released());
    world.reserve("arena", types_max(3), &["C", "D"]).unwrap();
}

#[test]
fn a_stored_write_counts_until_it_is_derived_and_then_once() {
    let world = World::new(100);
    let limits = UseLimits { stored_bytes_max: Some(250), ..types_max(3) };
    let held = world.reserve("arena", limits, &["A", "B"]).unwrap();
    world.store(2);
    drop(held);
    world.reserve("arena", limits, &["C", "D"]).unwrap_err();
    world.reserve_bytes("arena", limits, 151, &["A"]).unwrap_err();
    world.derive(1, &[("arena", "A")]);
    world.reserve("arena", limits, &["C", "D"]).unwrap_err();
    assert_eq!(world.stored("arena").types, 1);
    world.derive(2, &[("arena", "B")]);
    assert_eq!(world.stored("arena").types, 2);
    assert!(world.is_released());
    world.reserve("arena", limits, &["C"]).unwrap();
    world.reserve("arena", limits, &["C", "D"]).unwrap_err();
}

#[test]
fn one_identity_leaves_another_some_of_the_types_that_are_counted() {
    let world = World::new(10);
    let half = UseLimits { share: 0.5, ..UNLIMITED };
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
    for (position, name) in (1..=8).zip(names) {
        let held = world.reserve("arena", half, &[name]).unwrap();
        world.store(position);
        drop(held);
        world.derive(position, &[("arena", name)]);
    }
    let over = world.reserve("arena", half, &[names[8]]).unwrap_err();
    assert_eq!((over.limit, over.max), (ShareLimit::CountedTypes, 5));
    world.reserve("arena", half, &[names[7]]).unwrap();
    world.reserve("town", half, &[names[8], names[9]]).unwrap();
    world.store(10);
    world.derive(10, &[("town", names[8]), ("town", names[9])]);
    assert_eq!(["arena", "town"].map(|name| world.stored(name).types), [8, 2]);
    // There is nothing left to share. Further types are of nobody.
    world.reserve("arena", half, &[names[10]]).unwrap();
    world.store(11);
    world.derive(11, &[("arena", names[10])]);
    assert_eq!(world.stored("arena").types, 8);
}

#[test]
fn a_type_that_is_stored_or_about_to_be_is_not_new() {
    let world = World::new(100);
    world.store(2);
    world.derive(2, &[("", "Old"), ("town", "T")]);
    let held = world.reserve("arena", types_max(1), &["A"]).unwrap();
    let theirs = world.reserve("town", types_max(2), &["N"]).unwrap();
    for known in ["Old", "T", "A", "N"] {
        world.reserve("arena", types_max(1), &[known]).unwrap();
    }
    world.reserve("arena", types_max(1), &["Old", "M"]).unwrap_err();
    drop((held, theirs));
    assert!(world.is_released());
}

#[test]
fn figures_that_are_behind_refuse_no_type_and_bytes_only_if_there_are_too_many_already() {
    let world = World::new(100);
    world.store(9);
    world.derive(3, &[("arena", "A"), ("arena", "B"), ("arena", "A")]);
    world.usage.fall_behind();
    world.reserve("arena", types_max(1), &["C"]).unwrap();
    let stored = world.stored("arena").bytes;
    world.reserve_bytes("arena", bytes_max(stored + 50), 50, &["A"]).unwrap();
    let over = world.reserve_bytes("arena", bytes_max(stored + 50), 51, &["A"]).unwrap_err();
    assert_eq!((over.limit, over.max), (ShareLimit::StoredBytes, stored + 50));
    assert!(world.is_released(), "nothing is reserved that nobody would release");
    assert!(Usage::default().reserve(&"arena".into(), &types_max(0), &write_of_one()).is_ok());
}

fn write_of_one() -> WriteSize<'static> {
    WriteSize { events: 1, bytes: 100, event_types: vec!["A"] }
}

#[test]
fn writes_at_once_do_not_exceed_a_limit_on_bytes_together() {
    let world = World::new(0);
    let held = world.reserve_bytes("arena", bytes_max(100), 60, &["A"]).unwrap();
    world.reserve_bytes("arena", bytes_max(100), 41, &["A"]).unwrap_err();
    world.reserve_bytes("town", bytes_max(100), 100, &["A"]).unwrap();
    let more = world.reserve_bytes("arena", bytes_max(100), 40, &["A"]).unwrap();
    drop(held);
    world.reserve_bytes("arena", bytes_max(100), 60, &["A"]).unwrap();
    drop(more);
    assert!(world.is_released());
}

#[test]
fn a_reservation_outlives_figures_that_fall_behind_and_start_again() {
    let world = World::new(100);
    let held = world.reserve("arena", bytes_max(100), &["A"]).unwrap();
    world.store(1);
    world.usage.fall_behind();
    world.usage.begin(Derived::default(), 100);
    world.reserve("arena", bytes_max(100), &["A"]).unwrap_err();
    drop(held);
    assert!(world.is_released());
    world.usage.follow(&world.tip.subscribe());
    world.reserve("arena", bytes_max(100), &["A"]).unwrap();
}
