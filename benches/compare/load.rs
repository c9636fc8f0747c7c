//! The load generator: the callers with their aggregates, and the pacing of calls.
//!
//! All systems get the same load, from one thread. The CPU time of the load generator is reported
//! separately.

pub mod closed;
pub mod fill;
pub mod paced;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::{
    draft::{Draft, Expectation},
    outcome::Outcome,
    statistics::{Latencies, latencies},
    supply::Supply,
    systems::Client,
};

pub const AGGREGATES: usize = 10_000;

/// The aggregates that one caller appends to, and their versions.
#[derive(Debug)]
pub struct Share {
    names: Vec<String>,
    versions: Vec<u64>,
    next: usize,
}

impl Share {
    /// Divides `aggregates` aggregates among `callers` callers. Their names start with `prefix`. If
    /// there are fewer aggregates than callers, callers share them.
    pub fn many(prefix: &str, aggregates: usize, callers: usize) -> Vec<Self> {
        let own = |caller: usize| {
            let step = callers.min(aggregates);
            let names: Vec<_> =
                (caller % aggregates..aggregates).step_by(step).map(|n| name(prefix, n)).collect();
            Self { versions: vec![0; names.len()], names, next: 0 }
        };
        (0..callers).map(own).collect()
    }
}

/// Returns the name of an aggregate.
pub fn name(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:06}")
}

/// One of the concurrent callers.
pub struct Caller {
    pub client: Client,
    share: Share,
    supply: Supply,
    expecting: bool,
    events: usize,
    json: bool,
    contention: Option<Contention>,
}

/// The state shared by callers that append to the same aggregate.
#[derive(Clone, Debug, Default)]
pub struct Contention {
    version: Rc<Cell<u64>>,
    conflicts: Rc<Cell<u64>>,
}

impl Contention {
    /// Returns the number of conflicts since the last call of this function.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.take()
    }
}

impl Caller {
    pub fn many(
        clients: Vec<Client>,
        shares: Vec<Share>,
        seed: u64,
        expecting: bool,
        events: usize,
    ) -> Vec<Self> {
        let supplies = Supply::many(seed, clients.len());
        let all = clients.into_iter().zip(shares).zip(supplies);
        all.map(|((client, share), supply)| Self {
            client,
            share,
            supply,
            expecting,
            events,
            json: false,
            contention: None,
        })
        .collect()
    }

    #[must_use]
    pub fn with_json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    #[must_use]
    pub fn contending(self, contention: Option<Contention>) -> Self {
        Self { contention, ..self }
    }

    pub fn into_share(self) -> Share {
        self.share
    }

    /// Appends to the next one of its aggregates.
    pub async fn append(&mut self, stamp: Option<u64>) -> Outcome<()> {
        let at = self.share.next;
        self.share.next = (at + 1) % self.share.names.len();
        let expectation =
            if self.expecting { Expectation::Version(self.share.versions[at]) } else { Expectation::None };
        let (events, json) = (self.events, self.json);
        let aggregate = &self.share.names[at];
        let Some(contention) = &self.contention else {
            let draft = Draft { aggregate, expectation, events, stamp, json, supply: &mut self.supply };
            self.share.versions[at] = self.client.append(draft).await?;
            return Ok(());
        };
        loop {
            let expectation = Expectation::Version(contention.version.get());
            let draft = Draft { aggregate, expectation, events, stamp, json, supply: &mut self.supply };
            match self.client.append(draft).await {
                Ok(version) => {
                    contention.version.set(version.max(contention.version.get()));
                    return Ok(());
                }
                Err(problem) if self.client.is_conflict(&problem) => {
                    contention.conflicts.set(contention.conflicts.get() + 1);
                    let version = self.client.version_in(&problem).unwrap_or_default();
                    contention.version.set(version.max(contention.version.get()));
                }
                Err(problem) => return Err(problem),
            }
        }
    }
}

/// The combined results of all callers.
#[derive(Clone, Debug)]
pub struct Tally {
    inner: Rc<RefCell<(u64, Latencies)>>,
}

impl Tally {
    fn new() -> Self {
        Self { inner: Rc::new(RefCell::new((0, latencies()))) }
    }

    fn add(&self, events: usize, took: std::time::Duration) {
        let (count, latencies) = &mut *self.inner.borrow_mut();
        *count += events as u64;
        latencies.saturating_record(took.as_nanos() as u64);
    }

    pub fn events(&self) -> u64 {
        self.inner.borrow().0
    }

    pub fn latencies(&self) -> Latencies {
        self.inner.borrow().1.clone()
    }
}
