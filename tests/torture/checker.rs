//! Proves the promises from the history, and from the events that are stored at the end.
//!
//! Every stored append has its place in the global order, so linearizability needs no search: that
//! order has to agree with what clients saw, and with the times at which they saw it.

mod shown;
mod waits;

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use aethyr_event_store::grpc::wire::{ReadAllRequest, RecordedEvent};
use uuid::Uuid;
use waits::Waits;

use crate::{
    Totals,
    faults::Faults,
    history::{Append, At, History, Outcome, aggregate_of},
    support::{
        events::read_all,
        stored::{assert_in_immudb, assert_written_once},
    },
    world::World,
};

/// How many problems of one kind are shown.
const SHOWN_MAX: usize = 5;

#[derive(Default)]
struct Problems(Vec<String>, HashMap<&'static str, usize>);

impl Problems {
    fn add(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        let count = self.1.entry(kind).or_default();
        *count += 1;
        if *count <= SHOWN_MAX {
            self.0.push(format!("{kind}: {}", what()));
        }
    }
}

/// The global order as it was read at the end.
struct Order {
    ids: Vec<Uuid>,
    /// Position and sequence number of each event.
    places: HashMap<Uuid, (u64, u64)>,
    /// The ids of each aggregate's events, in order.
    of_aggregate: HashMap<u16, Vec<Uuid>>,
    /// The positions of each aggregate's events, in order.
    positions_of: HashMap<u16, Vec<u64>>,
}

impl Order {
    /// Returns the position of the aggregate's event with this sequence number.
    fn position_of(&self, aggregate: u16, number: u64) -> Option<u64> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.positions_of.get(&aggregate)?.get(index).copied()
    }

    /// Returns how many events the aggregate has up to a position.
    fn count_up_to(&self, aggregate: u16, position: u64) -> u64 {
        let positions = self.positions_of.get(&aggregate);
        positions.map_or(0, |positions| positions.partition_point(|one| *one <= position) as u64)
    }
}

/// Checks a whole run.
///
/// # Errors
/// Returns an error that lists everything that does not hold.
pub async fn check(world: &World, history: &History, faults: &Faults) -> Result<Totals, Vec<String>> {
    let mut problems = Problems::default();
    if let Err(problem) = world.settled().await {
        problems.add("migration", || problem);
    }
    for (kind, what) in &history.violations {
        problems.add(kind, || what.clone());
    }
    let events = read_all(&mut world.client(), ReadAllRequest::default()).await;
    let order = order(&events, &mut problems);
    for append in &history.appends {
        check_append(append, &order, &mut problems);
    }
    check_real_time(history, &order, &mut problems);
    check_loads(history, &order, &mut problems);
    check_followed(history, &order, &mut problems);
    shown::check(history, &order, &mut problems);
    let waits = waits::check(history, faults, &mut problems);
    let known: HashSet<Uuid> =
        history.appends.iter().flat_map(|append| append.events.iter().map(|(id, _)| *id)).collect();
    for id in order.ids.iter().filter(|id| !known.contains(id)) {
        problems.add("made up", || format!("{id} was never sent"));
    }
    let immudb = world.immudb.lock().await;
    let hold_it_against = || {
        assert_in_immudb(&immudb, &events);
        assert_written_once(&immudb, &events);
    };
    if catch_unwind(AssertUnwindSafe(hold_it_against)).is_err() {
        problems.add("ImmuDB", || "it holds something else (see above)".to_owned());
    }
    if problems.0.is_empty() { Ok(totals(history, faults, waits)) } else { Err(problems.0) }
}

/// Checks that positions, sequence numbers and ids have no gap and no repetition.
fn order(events: &[RecordedEvent], problems: &mut Problems) -> Order {
    let mut order = Order {
        ids: Vec::new(),
        places: HashMap::new(),
        of_aggregate: HashMap::new(),
        positions_of: HashMap::new(),
    };
    let mut before = None;
    for (position, event) in (1..).zip(events) {
        let id: Uuid = event.event_id.parse().unwrap();
        let aggregate = aggregate_of(&event.aggregate_id).unwrap();
        let of_aggregate = order.of_aggregate.entry(aggregate).or_default();
        of_aggregate.push(id);
        order.positions_of.entry(aggregate).or_default().push(position);
        if event.position != position || event.sequence_number != of_aggregate.len() as u64 {
            problems.add("numbers", || format!("{event:?} at {position}"));
        }
        if order.places.insert(id, (event.position, event.sequence_number)).is_some() {
            problems.add("doubled", || format!("{id} at {position}"));
        }
        let at = event.recorded_at.map(|at| (at.seconds, at.nanos));
        if at < before {
            problems.add("time runs backwards", || format!("at {position}"));
        }
        before = at;
        order.ids.push(id);
    }
    order
}

fn check_append(append: &Append, order: &Order, problems: &mut Problems) {
    let found: Vec<Option<(u64, u64)>> =
        append.events.iter().map(|(id, _)| order.places.get(id).copied()).collect();
    let there = found.iter().flatten().count();
    if there != 0 && there != found.len() {
        problems.add("torn", || format!("{there} of the events of {append:?}"));
    }
    let first = found.first().copied().flatten();
    if let Some((first, _)) = first {
        let in_a_row =
            (first..).zip(&found).all(|(at, found)| found.is_some_and(|(position, _)| position == at));
        if !in_a_row {
            problems.add("torn", || format!("not in a row: {append:?}"));
        }
    }
    match (&append.outcome, first) {
        (Outcome::Stored(_), None) => problems.add("lost", || format!("{append:?}")),
        (Outcome::Stored(stored), Some((position, _))) => {
            if stored.first_position != position {
                problems.add("moved", || format!("to {position}: {append:?}"));
            }
            for (aggregate, first, last) in &stored.aggregates {
                let ours = append.events.iter().zip(&found).filter(|((_, of), _)| of == aggregate);
                let numbers: Vec<u64> = ours.filter_map(|(_, found)| Some(found.as_ref()?.1)).collect();
                if numbers.first() != Some(first) || numbers.last() != Some(last) {
                    problems.add("moved", || format!("{aggregate} has {numbers:?}: {append:?}"));
                }
            }
            check_expectation(append, &found, problems);
        }
        (Outcome::Conflict { .. } | Outcome::Refused, Some(_)) => {
            problems.add("refused and stored", || format!("{append:?}"));
        }
        (Outcome::Conflict { .. } | Outcome::Refused | Outcome::Unknown, _) => {
            check_expectation(append, &found, problems);
        }
    }
}

/// An append with an expectation must directly follow the expected sequence number.
fn check_expectation(append: &Append, found: &[Option<(u64, u64)>], problems: &mut Problems) {
    let Some((aggregate, expected)) = append.expected else { return };
    let first = append.events.iter().zip(found).find(|((_, of), _)| *of == aggregate);
    if let Some((_, Some((_, sequence)))) = first
        && *sequence != expected + 1
    {
        problems.add("expectation", || format!("stored as {sequence}: {append:?}"));
    }
}

/// An append that was answered before another call began must precede it, and every later call must
/// show it.
fn check_real_time(history: &History, order: &Order, problems: &mut Problems) {
    let mut stored: Vec<(&Append, u64)> = Vec::new();
    for append in &history.appends {
        if let (Outcome::Stored(answer), Some((id, _))) = (&append.outcome, append.events.first())
            && let Some((position, _)) = order.places.get(id)
            && !answer.already
        {
            stored.push((append, *position));
        }
    }
    stored.sort_by_key(|(append, _)| append.ended);
    let ends: Vec<At> = stored.iter().map(|(append, _)| append.ended).collect();
    let highest: Vec<u64> = stored
        .iter()
        .scan(0, |highest, (_, position)| {
            *highest = (*highest).max(*position);
            Some(*highest)
        })
        .collect();
    for (append, position) in &stored {
        let before = ends.partition_point(|end| *end < append.began);
        if before > 0 && highest[before - 1] > *position {
            problems.add("order", || format!("at {position}, behind {}: {append:?}", highest[before - 1]));
        }
    }
    let acknowledged = Acknowledged::new(history);
    for append in &history.appends {
        if let (Outcome::Conflict { actual }, Some((aggregate, expected))) =
            (&append.outcome, append.expected)
        {
            let least = acknowledged.before(aggregate, append.began);
            let most = order.of_aggregate.get(&aggregate).map_or(0, |events| events.len() as u64);
            if *actual < least || *actual > most || *actual == expected {
                problems.add("conflict", || format!("between {least} and {most}: {append:?}"));
            }
        }
    }
}

/// The highest acknowledged sequence number of each aggregate, by the time of the answer.
struct Acknowledged(HashMap<u16, Vec<(At, u64)>>);

impl Acknowledged {
    fn new(history: &History) -> Self {
        let mut of: HashMap<u16, Vec<(At, u64)>> = HashMap::new();
        for append in &history.appends {
            if let Outcome::Stored(stored) = &append.outcome {
                for (aggregate, _, last) in &stored.aggregates {
                    of.entry(*aggregate).or_default().push((append.ended, *last));
                }
            }
        }
        for numbers in of.values_mut() {
            numbers.sort_unstable();
            let mut highest = 0;
            for (_, number) in numbers {
                highest = highest.max(*number);
                *number = highest;
            }
        }
        Self(of)
    }

    fn before(&self, aggregate: u16, at: At) -> u64 {
        let Some(numbers) = self.0.get(&aggregate) else { return 0 };
        let count = numbers.partition_point(|(ended, _)| *ended < at);
        count.checked_sub(1).map_or(0, |last| numbers[last].1)
    }
}

/// A load must return the beginning of the aggregate's history, with everything that was
/// acknowledged before the load.
fn check_loads(history: &History, order: &Order, problems: &mut Problems) {
    let acknowledged = Acknowledged::new(history);
    let nothing = Vec::new();
    for load in &history.loads {
        let events = order.of_aggregate.get(&load.aggregate).unwrap_or(&nothing);
        if !events.starts_with(&load.ids) || load.last_sequence != load.ids.len() as u64 {
            problems.add("load", || format!("room-{}: {} events", load.aggregate, load.ids.len()));
        }
        let least = acknowledged.before(load.aggregate, load.began);
        if (load.ids.len() as u64) < least {
            problems.add("stale", || format!("room-{}: {} of {least}", load.aggregate, load.ids.len()));
        }
    }
}

/// The subscription must have seen the same order, with each event once.
fn check_followed(history: &History, order: &Order, problems: &mut Problems) {
    for (expected, (_, position, id)) in (1..).zip(&history.followed) {
        if *position != expected || order.ids.get(expected as usize - 1) != Some(id) {
            problems.add("subscription", || format!("{position} {id} in the place of {expected}"));
        }
    }
}

fn totals(history: &History, faults: &Faults, waits: Waits) -> Totals {
    let count = |wanted: fn(&Outcome) -> bool| {
        history.appends.iter().filter(|append| wanted(&append.outcome)).count() as u64
    };
    let stored = history.appends.iter().filter(|append| matches!(append.outcome, Outcome::Stored(_)));
    Totals {
        faults: faults.counts.iter().map(|(fault, count)| (*fault, *count)).collect(),
        calls: history.calls,
        acknowledged: stored.map(|append| append.events.len() as u64).sum(),
        unknown: count(|outcome| matches!(outcome, Outcome::Unknown)),
        conflicts: count(|outcome| matches!(outcome, Outcome::Conflict { .. })),
        longest_wait: waits.longest,
        most_waits: waits.most_in_an_outage,
        long_waits: waits.long,
        excused_waits: waits.excused,
        excused_time: waits.excused_time,
        ..Totals::default()
    }
}
