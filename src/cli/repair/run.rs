//! Appends that continue a history: whole, and numbered without a gap.

use std::collections::HashMap;

use bytes::Bytes;

use crate::event::{AggregateId, AppendBounds, Hash, Position, SequenceNumber, record};

/// The numbers that a history ends with.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    position: Position,
    hash: Hash,
    last_of: HashMap<AggregateId, SequenceNumber>,
}

impl Numbers {
    pub fn new() -> Self {
        Self { position: Position(0), hash: Hash::START, last_of: HashMap::new() }
    }

    pub fn position(&self) -> Position {
        self.position
    }

    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Goes on by one whole append, or stays as it is. It may be known which hash it leads to.
    pub fn go_on(&mut self, records: &[Bytes], leads_to: Option<Hash>) -> Result<(), &'static str> {
        let bounds = AppendBounds {
            first: self.position.next(),
            last: Position(self.position.0.saturating_add(records.len() as u64)),
        };
        let (mut position, mut hash) = (self.position, self.hash);
        let mut last_of: HashMap<AggregateId, SequenceNumber> = HashMap::new();
        for bytes in records {
            let event = record::decode(bytes.clone(), Hash::START).map_err(|_| "a record is no event")?;
            let aggregate = event.event.aggregate_id;
            let known = last_of.get(&aggregate).or_else(|| self.last_of.get(&aggregate));
            let next = known.copied().unwrap_or(SequenceNumber(0)).next();
            if event.append != bounds || event.position != position.next() || event.sequence != next {
                return Err("its numbers do not go on from those before");
            }
            position = event.position;
            hash = hash.chain(bytes);
            last_of.insert(aggregate, next);
        }
        if leads_to.is_some_and(|wanted| wanted != hash) {
            return Err("it leads to another hash than it should");
        }
        (self.position, self.hash) = (position, hash);
        self.last_of.extend(last_of);
        Ok(())
    }
}

/// What was found of a gap, from its beginning on.
#[derive(Debug)]
pub(super) struct Run {
    pub numbers: Numbers,
    pub appends: Vec<Vec<Bytes>>,
}

impl Run {
    pub fn behind(numbers: &Numbers) -> Self {
        Self { numbers: numbers.clone(), appends: Vec::new() }
    }

    /// Takes on the appends among `records` that go on from what is there, up to the first that does not.
    /// A record may come with the hash that it should lead to.
    pub fn extend(&mut self, records: impl Iterator<Item = (Bytes, Option<Hash>)>) {
        let mut append = Vec::new();
        for (bytes, leads_to) in records {
            let Ok(event) = record::decode(bytes.clone(), Hash::START) else { return };
            append.push(bytes);
            if event.position != event.append.last {
                continue;
            }
            let whole = std::mem::take(&mut append);
            if self.numbers.go_on(&whole, leads_to).is_err() {
                return;
            }
            self.appends.push(whole);
        }
    }
}
