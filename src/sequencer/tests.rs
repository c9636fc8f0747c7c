//! The sequencer against a model of it that is too simple to be wrong.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::join_all;
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::{
    config::EventSourcingConfig,
    event::{Content, Position},
    index::Direction,
    storage::Storage,
    store::Conflict,
};

const AGGREGATES: u8 = 4;

/// One call. All calls of a batch are made at the same time.
#[derive(Debug, Clone)]
enum Step {
    Append { aggregates: Vec<u8>, expected: Vec<(u8, Guess)> },
    Resend { which: usize, how: Resend },
}

/// An expectation, as seen from the truth at the start of the batch.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Right,
    Beyond(u64),
    Zero,
}

#[derive(Debug, Clone, Copy)]
enum Resend {
    Whole,
    FirstOnly,
    Reversed,
    WithAnother,
    Changed,
}

/// How the process ends after a batch.
#[derive(Debug, Clone, Copy)]
enum End {
    No,
    Restart,
    WithoutIndex,
}

type Sent = Vec<NewEvent>;

/// What should be stored.
#[derive(Default)]
struct Model {
    order: Vec<NewEvent>,
    last_of: BTreeMap<String, u64>,
    /// Of each event id: the append that stored it.
    by_id: HashMap<EventId, usize>,
    appends: Vec<(Sent, Outcome)>,
}

/// Numbers of an append: first and last of each aggregate, and positions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    aggregates: Vec<(String, u64, u64)>,
    positions: (u64, u64),
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Stored(Outcome),
    Already(Outcome),
    Reused,
    Expected { aggregate: String, actual: u64 },
}

impl Model {
    fn append(&mut self, events: &Sent, expected: &[(AggregateId, SequenceNumber)]) -> Answer {
        if let Some(found) = events.iter().find_map(|event| self.by_id.get(&event.id)) {
            let (sent, outcome) = &self.appends[*found];
            return if sent == events { Answer::Already(outcome.clone()) } else { Answer::Reused };
        }
        for (id, wanted) in expected {
            let actual = self.last_of.get(id.as_str()).copied().unwrap_or(0);
            if actual != wanted.0 {
                return Answer::Expected { aggregate: id.to_string(), actual };
            }
        }
        let first = self.order.len() as u64 + 1;
        let mut aggregates: Vec<(String, u64, u64)> = Vec::new();
        for event in events {
            let id = event.aggregate_id.to_string();
            let last = self.last_of.entry(id.clone()).or_default();
            *last += 1;
            match aggregates.iter_mut().find(|(known, _, _)| *known == id) {
                Some((_, _, known_last)) => *known_last = *last,
                None => aggregates.push((id, *last, *last)),
            }
            self.by_id.insert(event.id, self.appends.len());
            self.order.push(event.clone());
        }
        let outcome = Outcome { aggregates, positions: (first, self.order.len() as u64) };
        self.appends.push((events.clone(), outcome.clone()));
        Answer::Stored(outcome)
    }
}

fn answer(result: Result<Stored, StoreError>) -> Answer {
    let outcome = |stored: &Stored| Outcome {
        aggregates: stored
            .aggregates
            .iter()
            .map(|one| (one.id.to_string(), one.first.0, one.last.0))
            .collect(),
        positions: (stored.bounds.first.0, stored.bounds.last.0),
    };
    match result {
        Ok(stored) if stored.already => Answer::Already(outcome(&stored)),
        Ok(stored) => Answer::Stored(outcome(&stored)),
        Err(StoreError::Conflict(Conflict::EventIdReused(_))) => Answer::Reused,
        Err(StoreError::Conflict(Conflict::WrongExpectedSequence { aggregate, actual, .. })) => {
            Answer::Expected { aggregate: aggregate.to_string(), actual: actual.0 }
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn event(aggregate: u8) -> NewEvent {
    NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new(&format!("a{aggregate}")).unwrap(),
        aggregate_type: "Room".into(),
        event_type: "Changed".into(),
        content: Content::Json("{}".into()),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    }
}

fn calls(batch: &[Step], model: &Model) -> Vec<(Sent, Vec<(AggregateId, SequenceNumber)>)> {
    let mut calls: Vec<(Sent, Vec<(AggregateId, SequenceNumber)>)> = Vec::new();
    for step in batch {
        let call = match step {
            Step::Append { aggregates, expected } => {
                let mut seen = Vec::new();
                let expected = expected.iter().filter(|(id, _)| {
                    let new = !seen.contains(id);
                    seen.push(*id);
                    new
                });
                let guess = |(aggregate, guess): &(u8, Guess)| {
                    let id = AggregateId::new(&format!("a{aggregate}")).unwrap();
                    let truth = model.last_of.get(id.as_str()).copied().unwrap_or(0);
                    let number = match guess {
                        Guess::Right => truth,
                        Guess::Beyond(more) => truth + more,
                        Guess::Zero => 0,
                    };
                    (id, SequenceNumber(number))
                };
                (aggregates.iter().copied().map(event).collect(), expected.map(guess).collect())
            }
            Step::Resend { which, how } => {
                // Also of what is on its way at the same moment.
                let known =
                    model.appends.iter().map(|(sent, _)| sent).chain(calls.iter().map(|(sent, _)| sent));
                let known: Vec<&Sent> = known.collect();
                let Some(sent) = known.get(which % known.len().max(1)) else { continue };
                let mut events = (*sent).clone();
                match how {
                    Resend::Whole => {}
                    Resend::FirstOnly => events.truncate(1),
                    Resend::Reversed => events.reverse(),
                    Resend::WithAnother => events.push(event(0)),
                    Resend::Changed => events[0].content = Content::Json("{\"changed\":true}".into()),
                }
                (events, vec![(AggregateId::new("a0").unwrap(), SequenceNumber(0))])
            }
        };
        calls.push(call);
    }
    calls
}

struct Running {
    sequencer: Sequencer,
    thread: super::Running,
    history: crate::history::History,
    _lock: crate::log::Lock,
}

fn start(config: &EventSourcingConfig) -> Running {
    let storage = Storage::open(config).unwrap();
    let history = storage.history();
    let settings = Settings {
        folders: [config.log_path.clone(), config.index_path.clone()],
        thresholds: SnapshotThresholds { default: 100, ..Default::default() },
        calls_waiting_max: 1000,
        calls_waiting_bytes_max: u64::MAX,
        disk_free_min: 0,
        types_max: 1000,
    };
    let Storage { lock, log, index, .. } = storage;
    let (sequencer, thread) =
        Sequencer::start(log, index, settings, Arc::new(|_| Ok(())), Arc::default()).unwrap();
    Running { sequencer, thread, history, _lock: lock }
}

/// All events, by position and by aggregate.
fn assert_stored(running: &Running, model: &Model) {
    let tip = running.sequencer.tip();
    assert_eq!(tip.position, Position(model.order.len() as u64));
    for (position, expected) in (1..).zip(&model.order) {
        let stored = running.history.event_at(Position(position), tip).unwrap();
        assert_eq!(stored.event, *expected);
    }
    for (id, last) in &model.last_of {
        let id = AggregateId::new(id).unwrap();
        let head = running.history.index.head(&id).unwrap().unwrap();
        assert_eq!(head.last.0, *last);
        let places = running.history.index.events(head.number, 1..=*last, Direction::Forwards, 1000).unwrap();
        let numbers: Vec<u64> =
            places.into_iter().map(|place| running.history.event(place).unwrap().sequence.0).collect();
        assert_eq!(numbers, (1..=*last).collect::<Vec<_>>());
    }
}

async fn play(batches: Vec<(Vec<Step>, End)>) {
    let folder = tempdir().unwrap();
    let config = EventSourcingConfig {
        log_path: folder.path().join("log"),
        index_path: folder.path().join("index"),
        segment_bytes_max: 2000,
        ..EventSourcingConfig::default()
    };
    let mut model = Model::default();
    let mut running = start(&config);
    for (batch, end) in batches {
        let calls = calls(&batch, &model);
        let appends = calls.iter().map(|(events, expected)| {
            let with_digest = |event: &NewEvent| (event.clone(), ContentDigest::of(event));
            let events = events.iter().map(with_digest).collect();
            running.sequencer.append(Append { events, expected: expected.clone() })
        });
        // Each is handed over when it is first polled: in this order.
        let answers: Vec<Answer> = join_all(appends).await.into_iter().map(answer).collect();
        let expected: Vec<Answer> =
            calls.iter().map(|(events, expected)| model.append(events, expected)).collect();
        assert_eq!(answers, expected);
        if !matches!(end, End::No) {
            running.sequencer.stop().await;
            let Running { sequencer, thread, history, _lock } = running;
            thread.join();
            drop((sequencer, history, _lock));
            if matches!(end, End::WithoutIndex) {
                std::fs::remove_dir_all(&config.index_path).unwrap();
            }
            running = start(&config);
        }
    }
    assert_stored(&running, &model);
}

fn batches() -> impl Strategy<Value = Vec<(Vec<Step>, End)>> {
    let guess =
        prop_oneof![3 => Just(Guess::Right), 1 => (1..3u64).prop_map(Guess::Beyond), 1 => Just(Guess::Zero)];
    let how = prop_oneof![
        3 => Just(Resend::Whole),
        1 => Just(Resend::FirstOnly),
        1 => Just(Resend::Reversed),
        1 => Just(Resend::WithAnother),
        1 => Just(Resend::Changed),
    ];
    let append =
        (prop::collection::vec(0..AGGREGATES, 1..5), prop::collection::vec((0..AGGREGATES, guess), 0..3))
            .prop_map(|(aggregates, expected)| Step::Append { aggregates, expected });
    let resend = (any::<usize>(), how).prop_map(|(which, how)| Step::Resend { which, how });
    let step = prop_oneof![3 => append, 1 => resend];
    let end = prop_oneof![6 => Just(End::No), 1 => Just(End::Restart), 1 => Just(End::WithoutIndex)];
    prop::collection::vec((prop::collection::vec(step, 1..12), end), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_answer_is_that_of_the_model(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(batches));
    }
}

#[tokio::test]
async fn notes_are_written_although_more_of_them_come_all_the_time() {
    const BETWEEN: Duration = Duration::from_millis(20);
    let folder = tempdir().unwrap();
    let config = EventSourcingConfig {
        log_path: folder.path().join("log"),
        index_path: folder.path().join("index"),
        ..EventSourcingConfig::default()
    };
    let running = start(&config);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while running.history.index.complete().forwarded.immudb_tx == 0 {
        assert!(std::time::Instant::now() < deadline, "no note was written");
        running.sequencer.mark(ForwardedMark { position: Position(0), snapshots: 0, immudb_tx: 7 });
        tokio::time::sleep(BETWEEN).await;
    }
    running.sequencer.stop().await;
}
