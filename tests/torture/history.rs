//! The history of a run: the calls, their times and their outcomes.
//!
//! The checker judges the history; nothing here does.

use std::time::Duration;

use uuid::Uuid;

/// The time since the start of the run.
pub type At = Duration;

/// One append, from its first attempt to the answer that settled it, or to an unknown outcome.
#[derive(Debug, Clone)]
pub struct Append {
    pub began: At,
    pub ended: At,
    /// Event id and aggregate, in order.
    pub events: Vec<(Uuid, u16)>,
    /// The aggregate and its expected sequence number.
    pub expected: Option<(u16, u64)>,
    #[expect(dead_code, reason = "for those who read the history")]
    pub attempts: u32,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Stored(Stored),
    /// The aggregate had another sequence number.
    Conflict {
        actual: u64,
    },
    /// Certainly refused: nothing may be stored.
    Refused,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub first_position: u64,
    /// Each aggregate, with its first and last sequence number in this append.
    pub aggregates: Vec<(u16, u64, u64)>,
    pub already: bool,
}

/// One load of an aggregate.
#[derive(Debug, Clone)]
pub struct Load {
    pub began: At,
    pub ended: At,
    pub aggregate: u16,
    pub ids: Vec<Uuid>,
    pub last_sequence: u64,
}

/// What another call showed of all events together.
#[derive(Debug, Clone)]
pub struct Look {
    pub began: At,
    pub ended: At,
    pub seen: Seen,
}

#[derive(Debug, Clone)]
pub enum Seen {
    Stats {
        event_count: u64,
        last_position: u64,
    },
    /// All events from a position to the last one.
    Order {
        from: u64,
        last: u64,
    },
    /// The last sequence number of each aggregate.
    List(Vec<(u16, u64)>),
}

/// The duration of one call, whatever the answer, and even without one.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    pub began: At,
    pub ended: At,
    pub caller: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// May wait for ImmuDB.
    Write,
    /// Never waits for ImmuDB, and takes longer the more it reads.
    Read,
    /// Never waits for ImmuDB, and costs next to nothing.
    Glance,
}

#[derive(Debug, Default)]
pub struct History {
    pub appends: Vec<Append>,
    pub loads: Vec<Load>,
    pub looks: Vec<Look>,
    pub took: Vec<Took>,
    /// What a subscription received: time, position and event id.
    pub followed: Vec<(At, u64, Uuid)>,
    /// Answers that must never be given.
    pub violations: Vec<(&'static str, String)>,
    pub calls: u64,
}

impl History {
    /// Returns one line for each append and load, to be searched by hand.
    pub fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for append in &self.appends {
            writeln!(text, "{append:?}").unwrap();
        }
        for load in &self.loads {
            writeln!(text, "{load:?}").unwrap();
        }
        for look in &self.looks {
            writeln!(text, "{look:?}").unwrap();
        }
        text
    }

    pub fn violation(&mut self, kind: &'static str, what: String) {
        self.violations.push((kind, what));
    }

    pub fn add(&mut self, other: Self) {
        self.appends.extend(other.appends);
        self.loads.extend(other.loads);
        self.looks.extend(other.looks);
        self.took.extend(other.took);
        self.violations.extend(other.violations);
        self.calls += other.calls;
        if !other.followed.is_empty() {
            self.followed = other.followed;
        }
    }
}

pub fn aggregate_id(aggregate: u16) -> String {
    format!("room-{aggregate}")
}

pub fn aggregate_of(id: &str) -> Option<u16> {
    id.strip_prefix("room-")?.parse().ok()
}

/// One of a few event types. There are a few aggregate types, too: the totals by type have to add
/// up.
pub fn event_type(number: usize) -> String {
    format!("RoomChanged{}", number % 7)
}

pub fn aggregate_type(aggregate: u16) -> String {
    format!("Room{}", aggregate % 3)
}
