//! The workloads of appends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How appends are distributed over aggregates, and whether they expect a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Spread {
    /// Many aggregates, with an expected version.
    Conditional,
    /// Many aggregates, without an expected version.
    Unconditional,
    /// One aggregate, without an expected version.
    OneAggregate,
    /// Many aggregates, with an expected version, and with JSON instead of random bytes.
    Json,
    /// One aggregate, with an expected version, and with retries after conflicts.
    Contended,
}

impl Spread {
    const ALL: [Self; 5] =
        [Self::Conditional, Self::Unconditional, Self::OneAggregate, Self::Json, Self::Contended];

    /// Returns whether appends expect a version.
    pub fn expects(self) -> bool {
        matches!(self, Self::Conditional | Self::Json | Self::Contended)
    }

    /// Returns whether all appends are to the same aggregate.
    pub fn is_one_aggregate(self) -> bool {
        matches!(self, Self::OneAggregate | Self::Contended)
    }

    fn key(self) -> &'static str {
        match self {
            Self::Conditional => "conditional",
            Self::Unconditional => "unconditional",
            Self::OneAggregate => "one-aggregate",
            Self::Json => "json",
            Self::Contended => "contended",
        }
    }
}

/// A workload of appends: the number of concurrent callers, and of events per append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Work {
    pub spread: Spread,
    pub callers: usize,
    pub events: usize,
}

impl Work {
    /// Parses the printed form: `conditional-64`, or `conditional-64x100` with 100 events per call.
    pub fn parse(key: &str) -> Option<Self> {
        let (spread, rest) = key.rsplit_once('-')?;
        let (callers, events) = rest.split_once('x').unwrap_or((rest, "1"));
        let spread = Spread::ALL.into_iter().find(|known| known.key() == spread)?;
        let bounded = |word: &str| word.parse().ok().filter(|number| (1..=1000).contains(number));
        Some(Self { spread, callers: bounded(callers)?, events: bounded(events)? })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.spread.key(), self.callers)?;
        if self.events != 1 {
            write!(f, "x{}", self.events)?;
        }
        Ok(())
    }
}
