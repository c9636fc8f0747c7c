//! The load generator: the events, the callers with their aggregates, and the pacing of calls.
//!
//! All systems get the same load, from one thread. The CPU time of the load generator is reported
//! separately.

pub mod closed;
pub mod fill;
pub mod grpc;
pub mod paced;
mod socket;
pub mod wire;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use hdrhistogram::Histogram;

use crate::rows::Client;

/// A result whose error is a message. Every error ends the run.
pub type Outcome<T> = Result<T, String>;

pub const PAYLOAD_BYTES: usize = 256;
pub const AGGREGATES: usize = 10_000;
const SEED: u64 = 1;

/// Words for generated descriptions.
const WORDS: &[&str] = &[
    "a",
    "and",
    "the",
    "of",
    "into",
    "stone",
    "narrow",
    "corridor",
    "leads",
    "north",
    "south",
    "where",
    "torches",
    "flicker",
    "on",
    "damp",
    "walls",
    "an",
    "old",
    "merchant",
    "sells",
    "rusty",
    "swords",
    "beside",
    "fountain",
    "whose",
    "water",
    "has",
    "long",
    "since",
    "turned",
    "green",
    "you",
    "hear",
    "distant",
    "thunder",
    "over",
    "mountains",
    "while",
    "market",
    "slowly",
    "fills",
    "with",
    "travellers",
    "from",
    "every",
    "province",
];

/// Latencies in nanoseconds.
pub type Latencies = Histogram<u64>;

pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("valid bounds")
}

/// Random bytes and ids from a fixed seed.
pub struct Supply {
    random: fastrand::Rng,
    bytes: Rc<[u8]>,
    words: Rc<[u8]>,
}

impl Supply {
    /// Creates one for each of `count` callers. They share the random bytes and words.
    pub fn many(seed: u64, count: usize) -> Vec<Self> {
        const SHARED_BYTES: usize = 1 << 20;
        let mut random = fastrand::Rng::with_seed(SEED);
        let bytes: Rc<[u8]> = (0..SHARED_BYTES).map(|_| random.u8(..)).collect();
        let mut words = Vec::with_capacity(SHARED_BYTES + 32);
        while words.len() < SHARED_BYTES {
            words.extend_from_slice(random.choice(WORDS).expect("not empty").as_bytes());
            words.push(b' ');
        }
        let words = Rc::from(words);
        let own = |caller| fastrand::Rng::with_seed(SEED ^ seed.rotate_left(32) ^ (caller as u64 + 1));
        let supply = |caller| Self { random: own(caller), bytes: bytes.clone(), words: Rc::clone(&words) };
        (0..count).map(supply).collect()
    }

    pub fn payload(&mut self) -> [u8; PAYLOAD_BYTES] {
        let start = self.random.usize(..self.bytes.len() - PAYLOAD_BYTES);
        let mut payload = [0; PAYLOAD_BYTES];
        payload.copy_from_slice(&self.bytes[start..start + PAYLOAD_BYTES]);
        payload
    }

    /// Returns an attribute change as the events of a game world contain it: JSON with the length
    /// of a payload.
    pub fn json(&mut self) -> [u8; PAYLOAD_BYTES] {
        const BEFORE: &[u8] = br#"{"key":"description","value":""#;
        const BEHIND: &[u8] = br#""}"#;
        let length = PAYLOAD_BYTES - BEFORE.len() - BEHIND.len();
        let start = self.random.usize(..self.words.len() - length);
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..BEFORE.len()].copy_from_slice(BEFORE);
        payload[BEFORE.len()..][..length].copy_from_slice(&self.words[start..start + length]);
        payload[BEFORE.len() + length..].copy_from_slice(BEHIND);
        payload
    }

    /// Returns a version 4 UUID as text.
    pub fn id(&mut self) -> [u8; 36] {
        let id = uuid::Builder::from_random_bytes(self.random.u128(..).to_le_bytes()).into_uuid();
        let mut text = [0; 36];
        id.hyphenated().encode_lower(&mut text);
        text
    }
}

/// The version of the aggregate that an append expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    None,
    /// The version that the last append returned, as the system counts versions. 0 means that the
    /// aggregate does not exist.
    Version(u64),
}

/// An append to be sent.
pub struct Draft<'a> {
    pub aggregate: &'a str,
    pub expectation: Expectation,
    pub events: usize,
    /// Stored in the first bytes of the first payload, so that followers can identify the event.
    pub stamp: Option<u64>,
    /// Whether the payload is JSON text.
    pub json: bool,
    pub supply: &'a mut Supply,
}

impl Draft<'_> {
    pub fn payload(&mut self) -> [u8; PAYLOAD_BYTES] {
        if self.json {
            return self.supply.json();
        }
        let mut payload = self.supply.payload();
        if let Some(stamp) = self.stamp.take() {
            payload[..8].copy_from_slice(&stamp.to_be_bytes());
        }
        payload
    }
}

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
        let expectation = match self.expecting {
            true => Expectation::Version(self.share.versions[at]),
            false => Expectation::None,
        };
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
