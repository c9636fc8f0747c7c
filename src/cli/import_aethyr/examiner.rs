//! The first pass: which aggregates can be imported, what the log already has of them, and in which
//! order the rest is appended.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Error,
    appender::RecordedTimes,
    failed,
    report::{Problem, Reason, Report},
    source::{Contents, Source},
};
use crate::{
    aethyr_import::{ConvertRules, LegacyEvent, aggregate_type, convert},
    event::{AggregateId, ContentDigest, EventId, NewEvent, Position, SequenceNumber, Timestamp},
    history::{History, HistoryError},
    index::{Direction, Head},
    progress::Progress,
    storage::Storage,
    world::model::{
        aggregate::{Aggregate, Kind},
        event::WorldEvent,
        password::PasswordHash,
    },
};

/// The log before the import.
pub(super) struct LogView {
    /// `None` if there is no log yet.
    history: Option<History>,
    last: Position,
    /// Keeps other processes out while the log is read.
    _storage: Option<Storage>,
}

impl LogView {
    pub(super) fn new(history: History, last: Position) -> Self {
        Self { history: Some(history), last, _storage: None }
    }

    pub(super) fn empty() -> Self {
        Self { history: None, last: Position(0), _storage: None }
    }

    pub(super) fn of_storage(history: History, storage: Storage) -> Self {
        Self { history: Some(history), last: storage.log.tip().position, _storage: Some(storage) }
    }

    fn head(&self, id: &AggregateId) -> Result<Option<Head>, HistoryError> {
        let Some(history) = &self.history else { return Ok(None) };
        Ok(history.index.head(id)?)
    }

    fn has(&self, event: &NewEvent, sequence: SequenceNumber) -> Result<bool, HistoryError> {
        let Some(history) = &self.history else { return Ok(false) };
        let range = sequence.0..=sequence.0;
        let places = history.index.events(&event.aggregate_id, range, Direction::Forwards, 1)?;
        let Some(place) = places.first() else { return Ok(false) };
        let stored = history.event(*place)?;
        Ok(stored.event.id == event.id && stored.digest == ContentDigest::of(event))
    }

    fn has_id(&self, id: EventId) -> Result<bool, HistoryError> {
        let Some(history) = &self.history else { return Ok(false) };
        Ok(history.index.event(id)?.is_some())
    }
}

/// The size of the inputs of one aggregate that are kept from its first examination to the second.
/// The events themselves may need far more memory than their inputs.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What is to be appended.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub aggregates: Vec<PlannedAggregate>,
    /// In the order of the appends.
    pub units: Vec<PlannedUnit>,
    /// The number of events that the log already has.
    pub already: u64,
    log_last: Position,
}

#[derive(Debug)]
pub(super) struct PlannedAggregate {
    pub name: String,
    pub kind: &'static str,
}

/// The events of one append: those that one event of Aethyr has become.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedUnit {
    /// The greatest time of the aggregate's events up to this one, so that the order by time is
    /// also that of the numbers.
    pub at: Timestamp,
    /// The index of the aggregate in the plan.
    pub aggregate: usize,
    /// The number in Aethyr.
    pub number: u64,
    /// The sequence number of the first event.
    pub first: SequenceNumber,
    pub count: u64,
    /// That of the events as they were examined. See [`unit_digest`].
    pub digest: UnitDigest,
}

pub(super) type UnitDigest = [u8; 32];

/// Returns a digest that covers all events of a unit, with their ids.
pub(super) fn unit_digest(events: &[NewEvent]) -> UnitDigest {
    let mut digest = Sha256::new();
    for event in events {
        digest.update(event.id.as_bytes());
        digest.update(ContentDigest::of(event).0);
    }
    digest.finalize().into()
}

impl Plan {
    pub(super) fn event_count(&self) -> u64 {
        self.units.iter().map(|unit| unit.count).sum()
    }

    /// Original times are kept if the log has nothing but earlier parts of the same import.
    pub(super) fn times(&self) -> RecordedTimes {
        if self.log_last.0 == self.already { RecordedTimes::Original } else { RecordedTimes::OfImport }
    }
}

/// Why an aggregate is not in the plan.
enum Fault {
    /// It is left out.
    Reason(Reason),
    /// The whole import fails.
    Fatal(Error),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<HistoryError> for Fault {
    fn from(error: HistoryError) -> Self {
        Self::Fatal(error.into())
    }
}

pub(super) struct Examiner<'a> {
    source: &'a Source,
    log: &'a LogView,
    event_bytes_max: usize,
    plan: Plan,
    report: Report,
    /// The ids of the events in the plan.
    ids: HashSet<EventId>,
}

/// What one aggregate adds to the plan and to the report.
struct Examined {
    kind: &'static str,
    /// The ids of the events that the log does not have, with the numbers in Aethyr. Those of one
    /// aggregate all differ, because the number is part of them.
    ids: Vec<(u64, EventId)>,
    units: Vec<PlannedUnit>,
    already: u64,
    problems: Vec<Problem>,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(source: &'a Source, log: &'a LogView, event_bytes_max: usize) -> Self {
        let plan = Plan { log_last: log.last, ..Plan::default() };
        Self { source, log, event_bytes_max, plan, report: Report::default(), ids: HashSet::new() }
    }

    /// Examines all aggregates.
    ///
    /// # Errors
    /// Returns an error if the log or ImmuDB cannot be read.
    pub(super) async fn examine_all(&mut self, contents: &Contents) -> Result<(), Error> {
        self.report.snapshots = contents.snapshots;
        for name in &contents.unreadable {
            self.report.leave_out(name, Reason::Name);
        }
        let count = contents.aggregates.len() as u64;
        let mut progress = Progress::new("reading Aethyr's events", "aggregates", 0, count);
        for (done, (name, numbers)) in (1..).zip(&contents.aggregates) {
            match self.aggregate(name, numbers).await {
                Ok(examined) => match examined.ids.iter().find(|(_, id)| self.ids.contains(id)) {
                    Some((number, _)) => self.report.leave_out(name, Reason::IdUsed(*number)),
                    None => self.add(name, examined),
                },
                Err(Fault::Reason(reason)) => self.report.leave_out(name, reason),
                Err(Fault::Fatal(error)) => return Err(error),
            }
            progress.reached(done);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> (Plan, Report) {
        self.plan.units.sort_by_key(|unit| (unit.at, unit.aggregate, unit.number));
        (self.plan, self.report)
    }

    fn add(&mut self, name: &str, examined: Examined) {
        for problem in examined.problems {
            self.report.note(name, problem);
        }
        self.plan.already = self.plan.already.saturating_add(examined.already);
        self.ids.extend(examined.ids.iter().map(|(_, id)| *id));
        if examined.units.is_empty() {
            return;
        }
        let aggregate = self.plan.aggregates.len();
        self.plan.aggregates.push(PlannedAggregate { name: name.to_owned(), kind: examined.kind });
        self.plan.units.extend(examined.units.into_iter().map(|unit| PlannedUnit { aggregate, ..unit }));
    }

    async fn aggregate(&self, name: &str, numbers: &BTreeSet<u64>) -> Result<Examined, Fault> {
        let noted = self.source.last_number(name).await.map_err(|error| Fault::Fatal(failed(error)))?;
        if let Some(missing) = first_gap(numbers, noted) {
            return Err(Reason::Gap(missing).into());
        }
        let Ok(id) = AggregateId::new(name) else { return Err(Reason::Name.into()) };
        let (event_types, mut kept) = self.event_types(name, numbers).await?;
        if id.as_str().starts_with(AggregateId::RESERVED_PREFIX) {
            return Err(Reason::Reserved.into());
        }
        let head = self.log.head(&id)?;
        // Later events may tell more than those of an earlier import, but the type never changes.
        let stored_kind = head.as_ref().and_then(|head| Kind::of(&head.aggregate_type)).map(Kind::name);
        let kind = stored_kind.unwrap_or_else(|| aggregate_type(event_types.iter().map(String::as_str)));
        let mut examined =
            Examined { kind, ids: Vec::new(), units: Vec::new(), already: 0, problems: Vec::new() };
        let mut replay = Replay { kind, state: None, has_problem: false };
        let rules = rules(kind);
        let stored = head.map_or(SequenceNumber(0), |head| head.last);
        let (mut last, mut at) = (SequenceNumber(0), None);
        for number in numbers.iter().copied() {
            let event = match kept.next() {
                Some(bytes) => event_in(&bytes, name, number)?,
                None => event_in(&self.read(name, number).await?, name, number)?,
            };
            let time = at.map_or(event.created_at, |at| event.created_at.max(at));
            at = Some(time);
            let converted = convert(event, &rules).map_err(|source| Reason::Event { number, source })?;
            let left_out = converted.left_out.into_iter();
            examined.problems.extend(left_out.map(|source| Problem::LeftOut { number, source }));
            let first = last.next();
            for event in &converted.events {
                last = last.next();
                self.check_size(number, event)?;
                examined.problems.extend(replay.apply(number, event));
                if last <= stored {
                    if !self.log.has(event, last)? {
                        return Err(Reason::Differs(last).into());
                    }
                    examined.already = examined.already.saturating_add(1);
                } else if self.log.has_id(event.id)? {
                    return Err(Reason::IdUsed(number).into());
                } else {
                    examined.ids.push((number, event.id));
                }
            }
            if first > stored {
                let (count, digest) = (converted.events.len() as u64, unit_digest(&converted.events));
                examined.units.push(PlannedUnit { at: time, aggregate: 0, number, first, count, digest });
            } else if last > stored {
                // Units are appended as a whole, so the log has another event there.
                return Err(Reason::Differs(stored).into());
            }
        }
        Ok(examined)
    }

    /// Returns the types of events that tell the type of the aggregate, and the inputs of the first
    /// events.
    async fn event_types(
        &self,
        name: &str,
        numbers: &BTreeSet<u64>,
    ) -> Result<(BTreeSet<String>, std::vec::IntoIter<Bytes>), Fault> {
        let (mut event_types, mut kept, mut kept_bytes) = (BTreeSet::new(), Vec::new(), 0usize);
        for number in numbers {
            let bytes = self.read(name, *number).await?;
            let event_type = event_in(&bytes, name, *number)?.event_type;
            if aggregate_type([event_type.as_str()]) != Kind::GameObject.name() {
                event_types.insert(event_type);
            }
            kept_bytes = kept_bytes.saturating_add(bytes.len());
            if kept_bytes <= KEPT_BYTES_MAX {
                kept.push(bytes);
            }
        }
        Ok((event_types, kept.into_iter()))
    }

    async fn read(&self, name: &str, number: u64) -> Result<Bytes, Fault> {
        match self.source.read(name, number).await {
            Ok(bytes) => Ok(bytes),
            Err(source) if source.is_of_one_event() => Err(Reason::Source { number, source }.into()),
            Err(error) => Err(Fault::Fatal(failed(error))),
        }
    }

    fn check_size(&self, number: u64, event: &NewEvent) -> Result<(), Reason> {
        let (bytes, max) = (event.content.byte_count(), self.event_bytes_max);
        if bytes > max { Err(Reason::TooLarge { number, bytes, max }) } else { Ok(()) }
    }
}

/// Reads the event with this number.
fn event_in(bytes: &[u8], name: &str, number: u64) -> Result<LegacyEvent, Reason> {
    let event = LegacyEvent::read(bytes).map_err(|source| Reason::Event { number, source })?;
    let is_it = event.aggregate_id.as_str() == name && event.sequence.0 == number;
    if is_it { Ok(event) } else { Err(Reason::Misplaced(number)) }
}

/// Returns the first number that is missing. `noted` is the last number as the event store noted
/// it.
fn first_gap(numbers: &BTreeSet<u64>, noted: Option<u64>) -> Option<u64> {
    let gap = (1..).zip(numbers).find(|(expected, found)| expected != *found).map(|(expected, _)| expected);
    let next = (numbers.len() as u64).saturating_add(1);
    gap.or_else(|| noted.filter(|noted| *noted >= next).map(|_| next))
}

pub(super) fn rules(kind: &str) -> ConvertRules {
    ConvertRules {
        aggregate_type: Arc::from(kind),
        is_password_hash: |text| PasswordHash::new(text).is_some(),
    }
}

/// Replays the events as the game world will, to find out whether it can read them.
struct Replay {
    kind: &'static str,
    state: Option<Aggregate>,
    has_problem: bool,
}

impl Replay {
    /// Returns the first problem. What follows it is not examined.
    fn apply(&mut self, number: u64, event: &NewEvent) -> Option<Problem> {
        if self.has_problem {
            return None;
        }
        let problem = self.try_apply(number, event).err();
        self.has_problem = problem.is_some();
        problem
    }

    fn try_apply(&mut self, number: u64, event: &NewEvent) -> Result<(), Problem> {
        let kind = Kind::of(self.kind).unwrap_or(Kind::GameObject);
        let read = WorldEvent::of_new(event).map_err(|source| Problem::Event { number, source })?;
        let state = Aggregate::apply(self.state.take(), kind, &event.aggregate_id, &read);
        self.state = Some(state.map_err(|source| Problem::Rule { number, source })?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::Content;

    #[test]
    fn the_digest_of_a_unit_tells_when_any_of_its_events_has_changed() {
        let event = |number: u128, data: &str| NewEvent {
            id: EventId::from(uuid::Uuid::from_u128(number)),
            aggregate_id: AggregateId::new("room-1").unwrap(),
            aggregate_type: "Room".into(),
            event_type: "RoomCreated".into(),
            content: Content::Json(data.to_owned()),
            correlation_id: String::new(),
            causation_id: String::new(),
            metadata: BTreeMap::new(),
            occurred_at: None,
        };
        let digest = unit_digest(&[event(1, "{}"), event(2, "{}")]);
        assert_eq!(unit_digest(&[event(1, "{}"), event(2, "{}")]), digest);
        for other in [
            vec![event(1, "{}")],
            vec![event(2, "{}"), event(1, "{}")],
            vec![event(1, "{}"), event(2, "[]")],
            vec![event(1, "{}"), event(3, "{}")],
        ] {
            assert_ne!(unit_digest(&other), digest, "{other:?}");
        }
    }
}
