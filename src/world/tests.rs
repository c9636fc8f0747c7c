//! Tests properties of every history that commands can produce.
//!
//! Random commands are executed on few objects, and their events are replayed and compared.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    error::WorldError,
    history::{
        changes,
        rehydration::Rehydration,
        replay::AggregateState,
        states::{self, StoredState},
    },
    model::{
        aggregate::{Aggregate, Kind},
        event::{Attributes, WorldEvent},
        room::LONG_DESC,
    },
    rules::{
        command::{Command, ContentsPolicy, Operation},
        decide::decide,
        world_view::{Decided, Undecided, WorldView},
    },
};
use crate::event::{
    AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent,
    SequenceNumber, Timestamp,
};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn id(number: usize) -> AggregateId {
    AggregateId::new(NAMES[number % NAMES.len()]).unwrap()
}

/// Generates commands on few objects, so that many of them are valid.
fn operations() -> impl Strategy<Value = (usize, Operation)> {
    let any_id = || (0..NAMES.len()).prop_map(id);
    let slot = || prop_oneof![Just("hand".to_owned()), Just("head".to_owned())];
    let position = prop::option::of((0..3i64).prop_map(serde_json::Value::from));
    let attributes = |value: i64| Attributes::from([("weight".to_owned(), value.into())]);
    let operation = prop_oneof![
        4 => prop::option::of(any_id()).prop_map(move |container_id| Operation::CreateGameObject {
            class: "Thing".into(),
            name: "thing".into(),
            generic: String::new(),
            container_id,
            attributes: attributes(1),
        }),
        2 => Just(Operation::CreatePlayer { name: "p".into(), password_hash: None }),
        2 => Just(Operation::CreateRoom { name: "r".into(), description: "d".into() }),
        1 => (0..3i64).prop_map(|value| Operation::UpdateGameObjectAttribute {
            key: "weight".into(),
            value: value.into()
        }),
        1 => (0..3i64).prop_map(move |value| Operation::UpdateGameObjectAttributes {
            attributes: attributes(value)
        }),
        1 => Just(Operation::RemoveGameObjectAttribute { key: "weight".into() }),
        // The description of a room, and an attribute of other objects.
        2 => (0..3u8).prop_map(|text| Operation::UpdateGameObjectAttribute {
            key: LONG_DESC.into(),
            value: text.to_string().into()
        }),
        1 => Just(Operation::RemoveGameObjectAttribute { key: LONG_DESC.into() }),
        6 => prop::option::of(any_id())
            .prop_map(|container_id| Operation::UpdateGameObjectContainer { container_id }),
        2 => prop_oneof![
            Just(ContentsPolicy::RefuseIfAny),
            Just(ContentsPolicy::MoveToContainer),
            Just(ContentsPolicy::Leave),
        ]
            .prop_map(|contents| Operation::DeleteGameObject { contents }),
        1 => any::<bool>().prop_map(|admin| Operation::UpdatePlayerAdminStatus { admin }),
        1 => (0..3u8).prop_map(|text| Operation::UpdateRoomDescription { description: text.to_string() }),
        2 => (slot(), any_id())
            .prop_map(|(direction, target_room_id)| Operation::AddRoomExit { direction, target_room_id }),
        1 => slot().prop_map(|direction| Operation::RemoveRoomExit { direction }),
        6 => (any_id(), position)
            .prop_map(|(item_id, position)| Operation::AddItemToInventory { item_id, position }),
        2 => any_id().prop_map(|item_id| Operation::RemoveItemFromInventory { item_id }),
        6 => (any_id(), slot()).prop_map(|(item_id, slot)| Operation::EquipItem { item_id, slot }),
        2 => (any_id(), prop::option::of(slot()))
            .prop_map(|(item_id, slot)| Operation::UnequipItem { item_id, slot }),
    ];
    (0..NAMES.len(), operation)
}

/// The world after the executed commands, and all events as they would be stored.
#[derive(Default)]
struct Lived {
    known: WorldView,
    stored: BTreeMap<AggregateId, Vec<RecordedEvent>>,
    position: u64,
}

impl Lived {
    fn new() -> Self {
        let mut lived = Self::default();
        NAMES.iter().for_each(|name| lived.known.learn(AggregateId::new(name).unwrap(), None));
        lived
    }

    /// Executes a command. A rejected command has no effect.
    fn execute(&mut self, number: usize, operation: Operation) {
        let command = Command {
            id: "c".into(),
            actor: String::new(),
            correlation_id: String::new(),
            expected: Default::default(),
            target: id(number),
            operation,
        };
        let decided = loop {
            match decide(&self.known, &command) {
                Ok(decided) => break decided,
                Err(Undecided::Refused(_)) => return,
                Err(Undecided::Unanswered(question)) => self.known.answer_alone(question),
                Err(Undecided::Unknown(id)) => panic!("{id} is known"),
            }
        };
        assert!(decided.len() <= Command::EVENTS_MAX);
        for Decided { id, kind, event } in decided {
            self.known.apply(&id, kind, &event).expect("what is decided can happen");
            self.store(id, kind, &event);
        }
    }

    fn store(&mut self, id: AggregateId, kind: Kind, event: &WorldEvent) {
        let (event_type, data) = event.encode().unwrap();
        self.position += 1;
        let stored = self.stored.entry(id.clone()).or_default();
        let event = NewEvent {
            id: EventId::random(),
            aggregate_id: id,
            aggregate_type: kind.name().into(),
            event_type: event_type.into(),
            content: Content::Json(data),
            correlation_id: String::new(),
            causation_id: String::new(),
            metadata: BTreeMap::new(),
            occurred_at: None,
        };
        stored.push(RecordedEvent {
            digest: ContentDigest::of(&event),
            event,
            sequence: SequenceNumber(stored.len() as u64 + 1),
            position: Position(self.position),
            recorded_at: Timestamp::new(self.position as i64, 0).unwrap(),
            recorded_by: "".into(),
            append: AppendBounds { first: Position(self.position), last: Position(self.position) },
            hash: ChainHash::START,
        });
    }
}

/// Returns the state after one more event.
fn after(
    before: Option<AggregateState>,
    kind: Kind,
    event: &RecordedEvent,
) -> Result<Option<AggregateState>, WorldError> {
    let last = SequenceNumber(before.as_ref().map_or(0, |before| before.sequence));
    let mut rehydration = Rehydration::after(kind, before, last);
    rehydration.apply_decoded(event, &WorldEvent::read(event), |_| Ok(BTreeSet::new()))?;
    Ok(rehydration.into_state())
}

/// Returns the state before the first event, which is `None`, and the state after each event.
fn replay(events: &[RecordedEvent]) -> Vec<Option<AggregateState>> {
    let mut states = vec![None];
    for event in events {
        let kind = Kind::of(&event.event.aggregate_type).unwrap();
        let before = states.last().unwrap().clone();
        states.push(after(before, kind, event).unwrap());
    }
    states
}

/// Asserts the invariants that hold in every world after every command.
fn assert_sound(known: &WorldView) {
    let mut held = BTreeSet::new();
    let alive = || {
        let all = known.ids().filter_map(|id| known.find(id).unwrap());
        all.map(Aggregate::object).filter(|object| !object.deleted)
    };
    for holder in alive() {
        for item in holder.inventory.keys().chain(holder.equipment.values()) {
            assert!(held.insert(item.clone()), "{item} is in two places");
            let item = known.find(item).unwrap().expect("an item exists").object();
            assert!(!item.deleted, "{} was deleted, and is still carried", item.id);
            assert_eq!(item.container_id.as_ref(), Some(&holder.id), "{} lies elsewhere", item.id);
        }
        let positions: Vec<_> = holder.inventory.values().flatten().collect();
        let distinct: BTreeSet<_> = positions.iter().map(ToString::to_string).collect();
        assert_eq!(positions.len(), distinct.len(), "two items are at one position");
        let mut above = holder.container_id.clone();
        for _ in 0..=NAMES.len() {
            let Some(next) = above else { break };
            assert_ne!(next, holder.id, "{} lies in itself", holder.id);
            let next = known.find(&next).unwrap().map(Aggregate::object);
            // A deleted object has no container.
            above = next.filter(|next| !next.deleted).and_then(|next| next.container_id.clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replay_leads_to_the_live_state_from_every_kept_one(steps in prop::collection::vec(operations(), 1..60)) {
        let mut lived = Lived::new();
        for (number, operation) in steps {
            lived.execute(number, operation);
            assert_sound(&lived.known);
        }
        for (id, events) in &lived.stored {
            let states = replay(events);
            let last = states.last().unwrap().as_ref().unwrap();
            prop_assert_eq!(Some(&last.aggregate), lived.known.find(id).unwrap());
            for (at, state) in states.iter().enumerate().skip(1) {
                let state = state.clone().unwrap();
                let kept = StoredState { state, position: Position(7), hash: ChainHash::START };
                let read = states::decode(&states::encode(kept.clone()).unwrap());
                prop_assert_eq!(read.as_ref(), Some(&kept));
                let mut state = read.map(|kept| kept.state);
                prop_assert_eq!(&state, &states[at]);
                for event in &events[at..] {
                    let kind = Kind::of(&event.event.aggregate_type).unwrap();
                    state = after(state, kind, event).unwrap();
                }
                prop_assert_eq!(state.as_ref(), Some(last));
            }
        }
    }

    #[test]
    fn changes_say_all_that_is_different_and_nothing_else(steps in prop::collection::vec(operations(), 1..40)) {
        let mut lived = Lived::new();
        steps.into_iter().for_each(|(number, operation)| lived.execute(number, operation));
        for events in lived.stored.values() {
            let states = replay(events);
            for (event, pair) in events.iter().zip(states.windows(2)) {
                let [before, after] = pair else { continue };
                let aggregate =
                    |state: &Option<AggregateState>| state.as_ref().map(|state| state.aggregate.clone());
                let (before, after) = (aggregate(before), aggregate(after));
                let told = changes::between(before.as_ref(), after.as_ref());
                // The changes of one event are found without comparing the rest of the state.
                let happened = WorldEvent::read(event).unwrap();
                let watched = changes::ComparedFields::before(before.as_ref(), &happened);
                prop_assert_eq!(&watched.changes(after.as_ref().unwrap()), &told);
                // These events complete a creation, and may change nothing.
                let may_be_nothing = ["PlayerCreated", "RoomCreated"].contains(&&*event.event.event_type);
                prop_assert!(may_be_nothing || !told.is_empty(), "{event:?} changes nothing");
                prop_assert!(told.iter().all(|change| change.before != change.after));
                prop_assert!(changes::between(after.as_ref(), after.as_ref()).is_empty());
                let back = changes::between(after.as_ref(), before.as_ref());
                prop_assert_eq!(told.len(), back.len());
            }
        }
    }
}

/// An object left in a deleted container may contain that container's former container.
#[test]
fn what_was_deleted_lies_nowhere() {
    let mut lived = Lived::new();
    let create = |container_id| Operation::CreateGameObject {
        class: "Thing".into(),
        name: "thing".into(),
        generic: String::new(),
        container_id,
        attributes: Attributes::new(),
    };
    let [outer, middle, inner] = [0, 1, 2];
    lived.execute(outer, create(None));
    lived.execute(middle, create(Some(id(outer))));
    lived.execute(inner, create(Some(id(middle))));
    let put = || Operation::AddItemToInventory { item_id: id(outer), position: None };
    lived.execute(inner, put());
    assert_eq!(lived.known.find(&id(outer)).unwrap().unwrap().object().container_id, None, "in itself");
    lived.execute(middle, Operation::DeleteGameObject { contents: ContentsPolicy::Leave });
    lived.execute(inner, put());
    assert_eq!(lived.known.find(&id(outer)).unwrap().unwrap().object().container_id, Some(id(inner)));
    assert_sound(&lived.known);
}

#[test]
fn an_event_out_of_turn_or_that_cannot_happen_is_damage() {
    let mut lived = Lived::new();
    lived.execute(0, Operation::CreateRoom { name: "r".into(), description: String::new() });
    let events = lived.stored.remove(&id(0)).unwrap();
    let state = replay(&events).pop().unwrap();
    let problem = |event: &RecordedEvent| after(state.clone(), Kind::Room, event).unwrap_err().to_string();
    assert_eq!(problem(&events[1]), "a: event 2: its sequence number does not follow the previous event");
    let next = |event: WorldEvent| {
        let (event_type, data) = event.encode().unwrap();
        let mut next = events[1].clone();
        next.sequence = SequenceNumber(3);
        (next.event.event_type, next.event.content) = (event_type.into(), Content::Json(data));
        next
    };
    let twice = next(WorldEvent::RoomCreated { description: String::new() });
    assert_eq!(problem(&twice), "a: event 3: it is created twice");
    let missing = next(WorldEvent::RoomExitRemoved { direction: "up".into() });
    assert_eq!(problem(&missing), "a: event 3: the exit to be removed does not exist");
    let strange = next(WorldEvent::PlayerAdminStatusUpdated { admin: true });
    assert_eq!(problem(&strange), "a: event 3: the event belongs to another kind of aggregate");
    let mut unknown = twice;
    unknown.event.event_type = "QuestBegun".into();
    assert_eq!(problem(&unknown), "a: event 3: unknown event type \"QuestBegun\"");
}
