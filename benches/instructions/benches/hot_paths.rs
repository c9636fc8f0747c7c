//! Counts the instructions of the hot paths with Valgrind. The counts are the same in every run, so
//! they show a regression without noise.
//!
//! Run it with `cargo bench --manifest-path benches/instructions/Cargo.toml`. It requires
//! `valgrind`, and `gungraun-runner` in the version of `gungraun` (`cargo install gungraun-runner
//! --version 0.20.0`). Each benchmark processes 100 events of 256 bytes, and compares the count
//! with that of the previous run.

use std::hint::black_box;

use aethyr_event_store::{
    event::{
        AggregateId, ChainHash, Position, RecordedEvent,
        record::{self, StoredEvent},
    },
    index::{Direction, IndexBatch},
    log::{Cursor, Group, LogOffset},
};
use aethyr_event_store_instructions::{Store, append, encoded, numbers};
use gungraun::prelude::*;

fn group() -> (Store, Group, Vec<RecordedEvent>) {
    let mut store = Store::with(0);
    let group = store.storage.log.begin().expect("a group");
    (store, group, append(1))
}

#[library_benchmark]
#[bench::hundred(group())]
fn lay_out_append((store, mut group, events): (Store, Group, Vec<RecordedEvent>)) -> (Store, Group) {
    let put = |recorded: &RecordedEvent, out: &mut Vec<u8>| {
        record::put(&recorded.event, numbers(recorded), recorded.digest, &recorded.recorded_by, out);
    };
    let records = events.iter().map(|recorded| move |out: &mut Vec<u8>| put(recorded, out));
    _ = black_box(group.append_with(records));
    (store, group)
}

fn indexed() -> (Store, IndexBatch) {
    let store = Store::with(20);
    let events = append(2001);
    let mut group = Store::with(0).storage.log.begin().expect("a group");
    let places = group.append(&encoded(&events)).unwrap().iter().map(|at| at.place).collect();
    let entries = store.entries(LogOffset::START, &events, places);
    (store, entries)
}

#[library_benchmark]
#[bench::hundred(indexed())]
fn make_findable((store, entries): (Store, IndexBatch)) -> Store {
    store.storage.index.add(entries, || ());
    store
}

#[library_benchmark]
#[bench::hundred(Store::with(10))]
fn load_aggregate(store: Store) -> (Store, Vec<StoredEvent>) {
    let aggregate = AggregateId::new("room-1").expect("an id");
    let history = store.history();
    let events = history.events(&aggregate, 1..=100, Direction::Forwards, usize::MAX).expect("read");
    assert_eq!(events.len(), 100);
    (store, black_box(events))
}

#[library_benchmark]
#[bench::hundred(Store::with(1))]
fn read_order(store: Store) -> (Store, Cursor) {
    let log = &store.storage.log;
    let mut cursor = Cursor::after(log.segments().clone(), LogOffset::START, Position(0), ChainHash::START);
    let frame = cursor.next(log.tip().end).expect("read").expect("there");
    assert_eq!(frame.last_position(), Some(Position(100)));
    (store, cursor)
}

fn stored() -> Vec<StoredEvent> {
    let stored = |record| StoredEvent::new(record, ChainHash::START).expect("a record");
    encoded(&append(1)).into_iter().map(stored).collect()
}

#[library_benchmark]
#[bench::hundred(stored())]
fn answer_with_stored_events(events: Vec<StoredEvent>) -> Vec<u8> {
    let mut out = Vec::with_capacity(100_000);
    events.iter().for_each(|event| event.put_recorded(&mut out));
    black_box(out)
}

library_benchmark_group!(name = append_path, benchmarks = [lay_out_append, make_findable]);
library_benchmark_group!(
    name = read_path,
    benchmarks = [load_aggregate, read_order, answer_with_stored_events]
);
main!(library_benchmark_groups = append_path, read_path);
