//! Whole appends that continue a history without a gap.
//!
//! Positions, sequence numbers and chain hashes are checked here. Where the records come from is
//! left to the caller.

use std::collections::HashMap;

use bytes::Bytes;

use crate::event::{AggregateId, AppendBounds, ChainHash, Position, SequenceNumber, record};

/// The position, chain hash and sequence numbers at the end of a history.
#[derive(Debug, Clone)]
pub(super) struct HistoryEnd {
    position: Position,
    hash: ChainHash,
    last_of: HashMap<AggregateId, SequenceNumber>,
}

impl HistoryEnd {
    pub(super) fn new() -> Self {
        Self { position: Position(0), hash: ChainHash::START, last_of: HashMap::new() }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn hash(&self) -> ChainHash {
        self.hash
    }

    /// Advances by one whole append, or returns an error and stays unchanged. If `leads_to` is
    /// given, it must be the chain hash after the append.
    pub(super) fn append(
        &mut self,
        records: &[Bytes],
        leads_to: Option<ChainHash>,
    ) -> Result<(), &'static str> {
        let bounds = AppendBounds {
            first: self.position.next(),
            last: Position(self.position.0.saturating_add(records.len() as u64)),
        };
        let (mut position, mut hash) = (self.position, self.hash);
        let mut last_of: HashMap<AggregateId, SequenceNumber> = HashMap::new();
        for bytes in records {
            let event =
                record::decode(bytes.clone(), ChainHash::START).map_err(|_| "a record is not an event")?;
            let aggregate = event.event.aggregate_id;
            let known = last_of.get(&aggregate).or_else(|| self.last_of.get(&aggregate));
            let next = known.copied().unwrap_or(SequenceNumber(0)).next();
            if event.append != bounds || event.position != position.next() || event.sequence != next {
                return Err("its numbers do not continue the previous ones");
            }
            position = event.position;
            hash = hash.chain(bytes);
            last_of.insert(aggregate, next);
        }
        if leads_to.is_some_and(|wanted| wanted != hash) {
            return Err("its chain hash is not the expected one");
        }
        (self.position, self.hash) = (position, hash);
        self.last_of.extend(last_of);
        Ok(())
    }
}

/// Appends found for a gap, from its start on.
#[derive(Debug)]
pub(super) struct GapFill {
    pub numbers: HistoryEnd,
    pub appends: Vec<Vec<Bytes>>,
}

impl GapFill {
    pub(super) fn after(numbers: &HistoryEnd) -> Self {
        Self { numbers: numbers.clone(), appends: Vec::new() }
    }

    /// Adds the appends in `records` that continue the run, up to the first that does not. A record
    /// may come with the expected chain hash after it.
    pub(super) fn extend(&mut self, records: impl Iterator<Item = (Bytes, Option<ChainHash>)>) {
        let mut append = Vec::new();
        for (bytes, leads_to) in records {
            let Ok(event) = record::decode(bytes.clone(), ChainHash::START) else { return };
            append.push(bytes);
            if event.position != event.append.last {
                continue;
            }
            let whole = std::mem::take(&mut append);
            if self.numbers.append(&whole, leads_to).is_err() {
                return;
            }
            self.appends.push(whole);
        }
    }
}
