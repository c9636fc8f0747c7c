//! Compares what calls showed with the global order by real time: a call that begins later never
//! shows less.
//!
//! All answers follow one published tip. So a call that shows an event proves that everything
//! before the event was published: every call that begins later has to show all of that, whichever
//! aggregate or total it reads.

use std::collections::HashMap;

use super::{Order, Problems};
use crate::history::{At, History, Look, Outcome, Seen};

/// The highest position that any client had seen, by the time at which it was seen.
struct Highest(Vec<(At, u64)>);

impl Highest {
    fn of(history: &History, order: &Order) -> Self {
        let mut seen: Vec<(At, u64)> = Vec::new();
        for append in &history.appends {
            let position = match (&append.outcome, append.events.last(), append.expected) {
                (Outcome::Stored(_), Some((id, _)), _) => order.places.get(id).map(|place| place.0),
                (Outcome::Conflict { actual }, _, Some((aggregate, _))) => {
                    order.position_of(aggregate, *actual)
                }
                _ => None,
            };
            seen.extend(position.map(|position| (append.ended, position)));
        }
        for load in &history.loads {
            let position = order.position_of(load.aggregate, load.ids.len() as u64);
            seen.extend(position.map(|position| (load.ended, position)));
        }
        seen.extend(history.looks.iter().map(|look| (look.ended, highest_in(&look.seen, order))));
        seen.extend(history.followed.iter().map(|(at, position, _)| (*at, *position)));
        seen.sort_unstable();
        let mut highest = 0;
        for (_, position) in &mut seen {
            highest = highest.max(*position);
            *position = highest;
        }
        Self(seen)
    }

    fn before(&self, at: At) -> u64 {
        let count = self.0.partition_point(|(seen, _)| *seen < at);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

fn highest_in(seen: &Seen, order: &Order) -> u64 {
    match seen {
        Seen::Stats { event_count, last_position } => *event_count.max(last_position),
        Seen::Order { last, .. } => *last,
        Seen::List(numbers) => {
            let positions =
                numbers.iter().filter_map(|(aggregate, number)| order.position_of(*aggregate, *number));
            positions.max().unwrap_or(0)
        }
    }
}

pub fn check(history: &History, order: &Order, problems: &mut Problems) {
    let highest = Highest::of(history, order);
    for load in &history.loads {
        let published = highest.before(load.began);
        let least = order.count_up_to(load.aggregate, published);
        if (load.ids.len() as u64) < least {
            problems.add("load shows less", || {
                format!(
                    "room-{}: {} events of {least}, {published} was shown",
                    load.aggregate,
                    load.ids.len()
                )
            });
        }
    }
    for look in &history.looks {
        check_look(look, highest.before(look.began), order, problems);
    }
    for append in &history.appends {
        let published = highest.before(append.began);
        match (&append.outcome, append.expected) {
            (Outcome::Stored(stored), _) if !stored.already && stored.first_position <= published => {
                problems.add("stored behind what was shown", || format!("{published}: {append:?}"));
            }
            (Outcome::Conflict { actual }, Some((aggregate, _)))
                if *actual < order.count_up_to(aggregate, published) =>
            {
                problems.add("conflict tells less", || format!("{published} was shown: {append:?}"));
            }
            _ => {}
        }
    }
}

fn check_look(look: &Look, published: u64, order: &Order, problems: &mut Problems) {
    let end = order.ids.len() as u64;
    match &look.seen {
        Seen::Stats { event_count, last_position } => {
            if (*event_count).min(*last_position) < published || (*event_count).max(*last_position) > end {
                problems.add("stats", || format!("{published} was shown, {end} is the end: {look:?}"));
            }
        }
        Seen::Order { from, last } => {
            if (*from <= published && *last < published) || *last > end.max(from.saturating_sub(1)) {
                problems
                    .add("order shows less", || format!("{published} was shown, {end} is the end: {look:?}"));
            }
        }
        Seen::List(numbers) => {
            let listed: HashMap<u16, u64> = numbers.iter().copied().collect();
            for (aggregate, positions) in &order.positions_of {
                let least = positions.partition_point(|position| *position <= published) as u64;
                let number = listed.get(aggregate).copied().unwrap_or(0);
                if number < least || number > positions.len() as u64 {
                    problems
                        .add("list", || format!("room-{aggregate}: {number}, and {least} were shown before"));
                }
            }
        }
    }
}
