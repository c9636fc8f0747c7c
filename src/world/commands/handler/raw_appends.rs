//! Raw appends: clients decide for themselves what happens to objects of the world.
//!
//! Each event must be valid for its object, because an invalid one would damage the object for
//! good. Passing this check grants no rights. Containers and holders are not checked.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::warn;

use super::{
    ATTEMPTS_MAX, Handler, pause,
    raw_names::{self, SentEvent},
};
use crate::{
    error::{Conflict, StoreError},
    event::{AggregateId, NAME_BYTES_MAX, NewEvent, SequenceNumber},
    refusals::{self, Severity},
    store::{Append, Origin, StoredAppend},
    world::{
        commands::{
            aggregate_locks::LockRequest,
            names::{NameChange, PlayerNames, name_of},
        },
        error::{AggregateDamage, InvalidRawAppend, Problem, RawAppendProblem, WorldError},
        history::replay::{self, AggregateSource},
        model::{
            aggregate::{Aggregate, Kind},
            event::WorldEvent,
        },
        rules::refusal::Refusal,
        settings::{EventLimits, RawAppendPolicy, UniqueNames},
    },
};

/// The objects of an append, each with the kind that the append names or, if it names none, the
/// kind of the existing aggregate. `None` if neither is known.
type Objects = BTreeMap<AggregateId, Option<Kind>>;

/// The last sequence number of each object at the moment when its events were found to fit.
pub(super) type LastSequences = BTreeMap<AggregateId, SequenceNumber>;

/// What was found out about an append that fits.
struct CheckedAppend {
    heads: LastSequences,
    /// The events by which names of players are reserved and released.
    names: Vec<SentEvent>,
}

/// The objects that were found damaged. Each is reported only once, and only a limited number is
/// recorded.
#[derive(Debug, Default)]
pub(super) struct ReportedDamage(Mutex<HashSet<AggregateId>>);

impl ReportedDamage {
    const MAX: usize = 1000;

    fn has(&self, id: &AggregateId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Removes an object that was repaired.
    pub(super) fn forget(&self, id: &AggregateId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn once(&self, damage: &AggregateDamage) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < Self::MAX && told.insert(damage.id.clone()) {
            warn!(%damage, "appends to a damaged object are not checked");
        }
    }
}

impl Handler {
    /// Appends the events, all or none, if they fit the objects of the world that they belong to.
    /// Event ids are checked first, then the sequence numbers that the client expects, then the
    /// rules.
    ///
    /// # Errors
    /// Returns an error if an event does not fit. See also [`StoreError`].
    pub async fn append_raw(&self, append: Append, origin: Origin) -> Result<StoredAppend, WorldError> {
        if self.raw_appends == RawAppendPolicy::Unchecked {
            // Names are not reserved now, but they may have been when the events were stored.
            let store = &self.source.store;
            let may_have_reserved = raw_names::may_have_reserved(store, &append);
            let before = if may_have_reserved { self.as_stored_before(&append).await? } else { None };
            return Ok(store.append_here(before.unwrap_or(append), origin).await?);
        }
        let objects = match self.objects(&append).await {
            Ok(objects) => objects,
            Err(error) => return self.unless_stored(&append, error).await,
        };
        if objects.is_empty() {
            return Ok(self.source.store.append_here(append, origin).await?);
        }
        let turn = Arc::new(self.turns.take(&LockRequest::alone(objects.keys())).await);
        // An earlier attempt is over now, so what it stored can be found.
        let has_player = objects.values().any(|kind| kind.is_none_or(|kind| kind == Kind::Player));
        if has_player && let Some(stored) = self.as_stored_before(&append).await? {
            return Ok(self.source.store.append_here(stored, origin).await?);
        }
        let append = Arc::new(append);
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 1 {
                tokio::time::sleep(pause(attempt)).await;
            }
            let CheckedAppend { heads, names } = match self.check(append.clone(), objects.clone()).await {
                Ok(checked) => checked,
                Err(error) => return self.unless_stored(&append, error).await,
            };
            let expected_by_caller: BTreeSet<&AggregateId> =
                append.expected.iter().map(|(id, _)| id).collect();
            let others = heads.into_iter().filter(|(id, _)| !expected_by_caller.contains(id));
            let expected = append.expected.iter().cloned().chain(others).collect();
            // The memory of the call counts elsewhere: the original events stay in memory next to
            // these until this call ends.
            let origin = origin.of_attempt(Some(turn.clone()));
            let changes_names = !names.is_empty();
            match self.source.store.append_here(raw_names::with(&append, names, expected), origin).await {
                // An earlier attempt may have changed no name, and needed no reservation.
                Err(reused @ StoreError::Conflict(Conflict::EventIdReused(_))) if changes_names => {
                    return Ok(self.source.store.first_answer(&append).await?.ok_or(reused)?);
                }
                Err(StoreError::Conflict(Conflict::WrongExpectedSequence { aggregate, .. }))
                    if !expected_by_caller.contains(&aggregate) => {}
                result => return Ok(result?),
            }
        }
        Err(WorldError::Contention)
    }

    /// Returns the aggregates that are part of the world, or may be once the append is stored. The
    /// type of an existing aggregate never changes.
    async fn objects(&self, append: &Append) -> Result<Objects, WorldError> {
        let (mut objects, mut unnamed) = (Objects::new(), BTreeSet::new());
        for (event, _) in &append.events {
            match Kind::of(&event.aggregate_type) {
                Some(kind) => _ = objects.insert(event.aggregate_id.clone(), Some(kind)),
                None if event.aggregate_type.is_empty() => _ = unnamed.insert(event.aggregate_id.clone()),
                None => {}
            }
        }
        unnamed.retain(|id| !objects.contains_key(id));
        if unnamed.is_empty() {
            return Ok(objects);
        }
        let source = self.source.clone();
        let look_up = move || {
            for id in unnamed {
                match replay::kind(&source.store, &id)? {
                    Some(None) => {}
                    Some(kind) => _ = objects.insert(id, kind),
                    None => _ = objects.insert(id, None),
                }
            }
            Ok(objects)
        };
        self.in_a_place(look_up).await
    }

    /// Returns the first answer if the append was stored before, whatever prevents it now.
    /// Otherwise returns the error.
    async fn unless_stored(&self, append: &Append, error: WorldError) -> Result<StoredAppend, WorldError> {
        let before = self.as_stored_before(append).await?;
        if let Some(stored) = self.source.store.first_answer(before.as_ref().unwrap_or(append)).await? {
            return Ok(stored);
        }
        // If no writes are accepted at all, the client has to know that first.
        self.source.store.admit_write()?;
        if let WorldError::InvalidRawAppend(append) = &error {
            refusals::refused("WORLD_RULE", Severity::Limit, &append.to_string());
        }
        Err(error)
    }

    /// Loads the objects and checks the events. May block on disk I/O.
    async fn check(&self, append: Arc<Append>, objects: Objects) -> Result<CheckedAppend, WorldError> {
        let (source, raw_appends, told) = (self.source.clone(), self.raw_appends, self.told.clone());
        let (names, limits) = (self.names.clone(), self.limits);
        let check = move || {
            let unique = names.unique;
            let checking = Checking { source: &source, append: &append, raw_appends, told: &told, unique };
            let (mut heads, mut renamed) = (LastSequences::new(), Vec::new());
            for (id, kind) in objects {
                if let Some((head, renaming)) = checking.object(&id, kind)? {
                    heads.insert(id, head);
                    renamed.extend(renaming);
                }
            }
            let names = checking.names(&names, &renamed, &mut heads, limits)?;
            Ok(CheckedAppend { heads, names })
        };
        self.in_a_place(check).await
    }
}

/// The sequence number that the events of an object follow, and how they change the name of a
/// player.
type CheckedObject = (SequenceNumber, Option<NameChange>);

struct Checking<'c> {
    source: &'c AggregateSource,
    append: &'c Append,
    raw_appends: RawAppendPolicy,
    told: &'c ReportedDamage,
    unique: UniqueNames,
}

impl Checking<'_> {
    /// Checks the events of one object. Returns the sequence number that they follow, and how they
    /// change its name if it is a player. Returns `None` if the object is damaged or not part of
    /// the world.
    fn object(&self, id: &AggregateId, kind: Option<Kind>) -> Result<Option<CheckedObject>, WorldError> {
        // The store rejects the event unless the aggregate is created meanwhile.
        let Some(kind) = kind else { return Ok(Some((SequenceNumber(0), None))) };
        let invalid =
            |index, problem| self.invalid(InvalidRawAppend { index, id: id.clone(), kind, problem });
        let events = self.append.events.iter().enumerate().map(|(index, (event, _))| (index, event));
        let mut events = events.filter(|(_, event)| event.aggregate_id == *id);
        if self.raw_appends == RawAppendPolicy::Refused {
            return events
                .next()
                .map_or(Ok(None), |(index, _)| Err(invalid(index, RawAppendProblem::Refused)));
        }
        if self.told.has(id) {
            return Ok(None);
        }
        let loaded = match replay::load_now(self.source, id) {
            Ok(loaded) => loaded,
            Err(WorldError::Damaged(damage)) => {
                self.told.once(&damage);
                return Ok(None);
            }
            Err(WorldError::Refused { refusal: Refusal::Foreign(_), .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (head, kind) = (loaded.last, loaded.kind.unwrap_or(kind));
        let mut aggregate = loaded.state.map(|state| state.aggregate);
        let name = |aggregate: &Option<Aggregate>| aggregate.as_ref().and_then(name_of).map(str::to_owned);
        let before = name(&aggregate);
        for (index, event) in events {
            let after = after(aggregate.take(), kind, event);
            let after = after.map_err(|problem| invalid(index, RawAppendProblem::Event(problem)))?;
            if let Some(bytes) = self.too_long(before.as_deref(), &after) {
                return Err(invalid(index, RawAppendProblem::NameTooLong { bytes }));
            }
            aggregate = Some(after);
        }
        self.expected(id, head)?;
        let renaming = NameChange { player: id.clone(), before, after: name(&aggregate) };
        Ok(Some((head, Some(renaming))))
    }

    /// Returns the length of the name that a player got if it is too long to be reserved. `before`
    /// is the former name.
    fn too_long(&self, before: Option<&str>, player: &Aggregate) -> Option<usize> {
        let name = name_of(player).filter(|_| self.unique != UniqueNames::Off)?;
        (name.len() > NAME_BYTES_MAX && before != Some(name)).then_some(name.len())
    }

    /// Returns the events that reserve and release the names of players.
    fn names(
        &self,
        names: &PlayerNames,
        changes: &[NameChange],
        heads: &mut LastSequences,
        limits: EventLimits,
    ) -> Result<Vec<SentEvent>, WorldError> {
        let reserved = raw_names::reserve((&self.source.store, names), self.append, changes, heads, limits);
        let reserved = reserved.map_err(|error| self.unless_conflict(error))?;
        heads.iter().try_for_each(|(id, head)| self.expected(id, *head))?;
        Ok(reserved)
    }

    /// Checks that the client does not expect another sequence number of an aggregate than the one
    /// with which the events were checked.
    fn expected(&self, id: &AggregateId, head: SequenceNumber) -> Result<(), WorldError> {
        match self.append.expected.iter().find(|(expecting, _)| expecting == id) {
            Some((_, expected)) if *expected != head => Err(self.conflict(id, *expected, head)),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the error for an event that does not fit.
    fn invalid(&self, append: InvalidRawAppend) -> WorldError {
        self.unless_conflict(WorldError::InvalidRawAppend(Box::new(append)))
    }

    /// Returns the error, or the conflict with a sequence number that the client expects, which
    /// takes precedence.
    fn unless_conflict(&self, refused: WorldError) -> WorldError {
        for (id, expected) in &self.append.expected {
            match replay::last_sequence(&self.source.store, id) {
                Ok(actual) if actual != *expected => return self.conflict(id, *expected, actual),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        refused
    }

    fn conflict(&self, id: &AggregateId, expected: SequenceNumber, actual: SequenceNumber) -> WorldError {
        let aggregate = id.clone();
        StoreError::from(Conflict::WrongExpectedSequence { aggregate, expected, actual }).into()
    }
}

fn after(before: Option<Aggregate>, kind: Kind, event: &NewEvent) -> Result<Aggregate, Problem> {
    let happened = WorldEvent::of_new(event)?;
    Ok(Aggregate::apply(before, kind, &event.aggregate_id, &happened)?)
}
