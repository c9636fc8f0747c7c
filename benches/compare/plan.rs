//! The parts of a run with their workloads, and the length of each measurement.

use std::time::Duration;

use crate::{
    measure::outage::Lengths,
    work::{Spread, Work},
};

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Appends,
    Latency,
    Loads,
    Followers,
    Growth,
    Outage,
}

impl Part {
    pub const ALL: [Self; 6] =
        [Self::Appends, Self::Latency, Self::Loads, Self::Followers, Self::Growth, Self::Outage];

    pub fn key(self) -> &'static str {
        match self {
            Self::Appends => "appends",
            Self::Latency => "latency",
            Self::Loads => "loads",
            Self::Followers => "followers",
            Self::Growth => "growth",
            Self::Outage => "outage",
        }
    }
}

/// The parts to run, and their lengths.
#[derive(Clone, Debug)]
pub struct Plan {
    pub parts: Vec<Part>,
    pub works: Vec<Work>,
    pub warm_up: Duration,
    pub round: Duration,
    pub rounds: usize,
    /// The length of paced appends.
    pub paced: Duration,
    /// The number of events in a store for loads.
    pub loaded_events: usize,
    /// The number of events at each stage of growth.
    pub stages: Vec<u64>,
    pub outage: Lengths,
}

impl Plan {
    pub fn full() -> Self {
        let mut works = Vec::new();
        let conditional = [(1, &[1, 8, 64, 256][..]), (10, &[1, 64]), (100, &[1, 8, 64, 256])];
        for (events, callers) in conditional {
            works.extend(callers.iter().map(|callers| Work {
                spread: Spread::Conditional,
                callers: *callers,
                events,
            }));
        }
        for spread in [Spread::Unconditional, Spread::OneAggregate] {
            for (callers, events) in [(1, 1), (8, 1), (64, 1), (256, 1), (64, 100)] {
                works.push(Work { spread, callers, events });
            }
        }
        works.push(Work { spread: Spread::Json, callers: 64, events: 1 });
        works.push(Work { spread: Spread::Contended, callers: 8, events: 1 });
        let seconds = Duration::from_secs;
        Self {
            parts: Part::ALL.to_vec(),
            works,
            warm_up: seconds(1),
            round: seconds(2),
            rounds: 3,
            paced: seconds(5),
            loaded_events: 1_000_000,
            stages: vec![10_000, 1_000_000, 10_000_000],
            outage: Lengths { before: seconds(2), outage: seconds(8), paced: seconds(5) },
        }
    }

    pub fn quick() -> Self {
        let full = Self::full();
        let wanted = |work: &Work| match work.spread {
            Spread::Conditional => work.events == 1 || work.callers == 64,
            Spread::Unconditional => [1, 64].contains(&work.callers) && work.events == 1,
            Spread::OneAggregate => work.callers == 64 && work.events == 1,
            Spread::Json | Spread::Contended => true,
        };
        Self {
            works: full.works.iter().copied().filter(wanted).collect(),
            warm_up: Duration::from_millis(500),
            round: Duration::from_secs(1),
            rounds: 1,
            paced: Duration::from_secs(2),
            loaded_events: 300_000,
            stages: vec![10_000, 1_000_000],
            outage: Lengths { outage: Duration::from_secs(4), paced: Duration::from_secs(3), ..full.outage },
            ..full
        }
    }
}
