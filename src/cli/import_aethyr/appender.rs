//! The second pass: appends the events in the order of the plan, and several appends with one sync.

use bytes::Bytes;

use super::{
    Error, ImportAethyrError,
    examiner::{Plan, PlannedUnit, rules, unit_digest},
    failed,
    source::Source,
};
use crate::{
    aethyr_import::{LegacyEvent, convert},
    event::{
        AppendBounds, ContentDigest, NewEvent, Position, SequenceNumber, Timestamp,
        record::{self, EventNumbers},
    },
    progress::Progress,
    sequencer::{RestoredTransaction, Sequencer},
    server::Components,
};

/// How many bytes of records are stored with one sync.
const AT_ONCE_BYTES: usize = 8 * 1024 * 1024;

/// The times at which the events are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordedTimes {
    /// When Aethyr created them.
    Original,
    /// The time of the import, because the log has other events already.
    OfImport,
}

/// Appends events to the end of the log.
pub(super) struct Appender<'a> {
    sequencer: &'a Sequencer,
    times: RecordedTimes,
    now: Timestamp,
    position: Position,
    /// Recorded times never decrease.
    newest: Timestamp,
    ready: Vec<Vec<Bytes>>,
    ready_bytes: usize,
}

impl<'a> Appender<'a> {
    /// Begins at the end of the log.
    ///
    /// # Errors
    /// Returns an error if the time of the import is needed and not known.
    pub(super) fn new(parts: &'a Components, times: RecordedTimes) -> Result<Self, Error> {
        let sequencer = parts.store.sequencer();
        let now = match times {
            RecordedTimes::Original => Timestamp::now(),
            RecordedTimes::OfImport => sequencer.clock().time().map_err(|_| ImportAethyrError::Clock)?,
        };
        let position = parts.store.tip().position;
        let newest = match position {
            Position(0) => Timestamp::default(),
            _ => parts.store.history().index.complete().recorded_at,
        };
        Ok(Self { sequencer, times, now, position, newest, ready: Vec::new(), ready_bytes: 0 })
    }

    /// Appends everything in the plan. Returns the number of events.
    ///
    /// # Errors
    /// Returns an error if the source has changed or fails, or if the log cannot be written. What
    /// was appended before stays, and the next run continues after it.
    pub(super) async fn append_all(mut self, source: &Source, plan: &Plan) -> Result<u64, Error> {
        let begin = self.position;
        let count = plan.units.len() as u64;
        let mut progress = Progress::new("importing Aethyr's events", "events", 0, count);
        for (done, unit) in (1..).zip(&plan.units) {
            self.add(source, plan, unit).await?;
            if self.ready_bytes >= AT_ONCE_BYTES {
                self.flush().await?;
            }
            progress.reached(done);
        }
        self.flush().await?;
        Ok(self.position.0.saturating_sub(begin.0))
    }

    async fn add(&mut self, source: &Source, plan: &Plan, unit: &PlannedUnit) -> Result<(), Error> {
        let Some(aggregate) = plan.aggregates.get(unit.aggregate) else { return Ok(()) };
        let bytes = source.read(&aggregate.name, unit.number).await.map_err(failed)?;
        let changed = || {
            let (aggregate, number) = (aggregate.name.clone(), unit.number);
            ImportAethyrError::Changed { aggregate, number }
        };
        let event = LegacyEvent::read(&bytes).map_err(|_| changed())?;
        let converted = convert(event, &rules(aggregate.kind)).map_err(|_| changed())?;
        // This covers the aggregate and the size, which were checked when it was examined.
        if unit_digest(&converted.events) != unit.digest {
            return Err(changed().into());
        }
        self.encode(&converted.events, unit);
        Ok(())
    }

    fn encode(&mut self, events: &[NewEvent], unit: &PlannedUnit) {
        let recorded_at = match self.times {
            // A time in the future would make the clock implausible.
            RecordedTimes::Original => unit.at.min(self.now).max(self.newest),
            RecordedTimes::OfImport => self.now.max(self.newest),
        };
        let append = AppendBounds {
            first: self.position.next(),
            last: Position(self.position.0.saturating_add(unit.count)),
        };
        let mut records = Vec::with_capacity(events.len());
        for (step, event) in (0..).zip(events) {
            let position = self.position.next();
            let sequence = SequenceNumber(unit.first.0.saturating_add(step));
            let numbers = EventNumbers { sequence, position, recorded_at, append };
            let record = record::encode(event, numbers, ContentDigest::of(event), "");
            self.ready_bytes = self.ready_bytes.saturating_add(record.len());
            records.push(record);
            self.position = position;
        }
        self.newest = recorded_at;
        self.ready.push(records);
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let appends = std::mem::take(&mut self.ready);
        self.ready_bytes = 0;
        if !appends.is_empty() {
            let transaction = RestoredTransaction { appends, ..RestoredTransaction::default() };
            self.sequencer.restore(vec![transaction]).await?;
        }
        Ok(())
    }
}
