//! Compares the sequencer with a model of it that is simple enough to be obviously correct.
//!
//! The scenarios include retries, wrong expectations, restarts and a lost index.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
    thread,
};

use futures_util::future::join_all;
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::{
    config::{EventSourcingConfig, LimitsConfig},
    error::Conflict,
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent, Position, SequenceNumber},
    index::Direction,
    storage::Storage,
};

mod recorded_by;
mod visibility;

const AGGREGATES: u8 = 4;

/// One call. All calls of a batch are made concurrently.
#[derive(Debug, Clone)]
enum Step {
    Append { aggregates: Vec<u8>, expected: Vec<(u8, Guess)> },
    Resend { which: usize, how: Resend },
}

/// An expectation, relative to the actual number at the start of the batch.
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

/// The expected contents of the store.
#[derive(Default)]
struct Model {
    order: Vec<NewEvent>,
    last_of: BTreeMap<String, u64>,
    /// For each event id, the append that stored it.
    by_id: HashMap<EventId, usize>,
    appends: Vec<(Sent, Outcome)>,
}

/// The numbers of an append: first and last sequence number of each aggregate, and positions.
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

impl Model {
    /// Returns the answer that a retry gets without being processed. `None` if none of its ids is
    /// stored.
    fn stored_before(&self, events: &Sent) -> Option<Answer> {
        let found = events.iter().find_map(|event| self.by_id.get(&event.id))?;
        let (sent, outcome) = self.appends.get(*found)?;
        Some(if sent == events { Answer::Already(outcome.clone()) } else { Answer::Reused })
    }
}

fn answer(result: Result<StoredAppend, StoreError>) -> Answer {
    let outcome = |stored: &StoredAppend| Outcome {
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
                // Also retries appends of the same batch, which are still under way.
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

/// A running sequencer. Dropping this stops it and waits until it has written its index, which
/// would create the directory again after the test has removed it.
pub(crate) struct Running {
    pub sequencer: Sequencer,
    pub history: crate::history::History,
    thread: Option<SequencerThread>,
    _lock: crate::log::Lock,
}

impl Running {
    /// Waits for the thread, which has ended or will. Returns false if it failed.
    pub(crate) fn join_thread(&mut self) -> bool {
        self.thread.take().unwrap().join()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that has failed may be holding up the thread.
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            while let Err(TrySendError::Full(_)) = self.sequencer.try_send(SequencerCall::Stop) {
                thread::yield_now();
            }
            assert!(thread.join());
        }
    }
}

pub(crate) fn start(config: &EventSourcingConfig) -> Running {
    start_admitting(config, Arc::new(|_| Ok(())))
}

pub(crate) fn start_admitting(config: &EventSourcingConfig, admission: Arc<AdmissionCheck>) -> Running {
    let (storage, settings) = open(config);
    let history = storage.history();
    let Storage { lock, log, index, .. } = storage;
    let (sequencer, thread) = Sequencer::start(log, index, settings, admission, Arc::default()).unwrap();
    Running { sequencer, history, thread: Some(thread), _lock: lock }
}

pub(crate) fn open(config: &EventSourcingConfig) -> (Storage, Settings) {
    let storage = Storage::open(&crate::server::settings::storage(config, &LimitsConfig::default())).unwrap();
    let settings = Settings {
        folder: config.log_path.clone(),
        thresholds: SnapshotThresholds { default: 100, ..Default::default() },
        calls_waiting_max: 10_000,
        calls_waiting_bytes_max: u64::MAX,
        disk_free_min: 0,
        clock: Arc::new(crate::clock::EventClock::start(std::time::Duration::MAX, None, true)),
        in_doubt: HashSet::new(),
    };
    (storage, settings)
}

/// Checks all events, by position and by aggregate.
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
        let places = running.history.index.events(&id, 1..=*last, Direction::Forwards, 1000).unwrap();
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
            running.sequencer.append(Append { events, expected: expected.clone() }, Origin::default())
        });
        // Each call is sent when it is first polled, so they are sent in this order.
        let answers: Vec<Answer> = join_all(appends).await.into_iter().map(answer).collect();
        let expected: Vec<Answer> =
            calls.iter().map(|(events, expected)| model.append(events, expected)).collect();
        assert_eq!(answers, expected);
        for (events, _) in &calls {
            let with_digest = |event: &NewEvent| (event.clone(), ContentDigest::of(event));
            let append = Append { events: events.iter().map(with_digest).collect(), expected: Vec::new() };
            let found = running.sequencer.stored_before(&append).await;
            let found = found.map(EarlierAttempt::stored).transpose().map(answer);
            assert_eq!(found, model.stored_before(events));
        }
        if !matches!(end, End::No) {
            drop(running);
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
        // With several workers, calls are handled on this thread.
        let mut several = tokio::runtime::Builder::new_multi_thread();
        for builder in [&mut tokio::runtime::Builder::new_current_thread(), several.worker_threads(2)] {
            builder.enable_all().build().unwrap().block_on(play(batches.clone()));
        }
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
    let deadline = std::time::Instant::now() + Duration::from_secs(300);
    while running.history.index.complete().forwarded.immudb_tx == 0 {
        assert!(std::time::Instant::now() < deadline, "no note was written");
        running.sequencer.mark(ReplicationMark { immudb_tx: 7, ..ReplicationMark::default() });
        tokio::time::sleep(BETWEEN).await;
    }
}

pub(crate) fn in_folder(folder: &tempfile::TempDir) -> EventSourcingConfig {
    EventSourcingConfig {
        log_path: folder.path().join("log"),
        index_path: folder.path().join("index"),
        ..EventSourcingConfig::default()
    }
}

pub(crate) fn one_event(aggregate: &str) -> Append {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new(aggregate).unwrap(),
        aggregate_type: "A".into(),
        event_type: "happened".into(),
        content: Content::Absent,
        correlation_id: "".into(),
        causation_id: "".into(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    };
    let digest = ContentDigest::of(&event);
    Append { events: vec![(event, digest)], expected: Vec::new() }
}

/// Blocks the sequencer thread in the admission of the first `count` calls, each until it is
/// released.
fn held_at_first(
    count: usize,
) -> (Arc<AdmissionCheck>, std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (held, is_held) = std::sync::mpsc::channel();
    let (let_go, go) = std::sync::mpsc::channel();
    let state = Mutex::new((0usize, held, go));
    let admission = move |_: Tip| {
        let mut state = state.lock().unwrap();
        state.0 += 1;
        if state.0 <= count {
            state.1.send(()).unwrap();
            // If the sender is gone, the test has ended.
            let _ = state.2.recv();
        }
        Ok(())
    };
    (Arc::new(admission), is_held, let_go)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_call_is_not_stored() {
    let folder = tempdir().unwrap();
    let (admission, is_held, let_go) = held_at_first(1);
    let running = start_admitting(&in_folder(&folder), admission);
    let sequencer = running.sequencer.clone();
    let first = tokio::spawn(async move { sequencer.append(one_event("a"), Origin::default()).await });
    tokio::task::spawn_blocking(move || is_held.recv().unwrap()).await.unwrap();
    let mut abandoned = Box::pin(running.sequencer.append(one_event("b"), Origin::default()));
    assert!(futures_util::poll!(&mut abandoned).is_pending());
    drop(abandoned);
    let mut awaited = Box::pin(running.sequencer.append(one_event("c"), Origin::default()));
    assert!(futures_util::poll!(&mut awaited).is_pending());
    let_go.send(()).unwrap();
    assert_eq!(first.await.unwrap().unwrap().bounds.last, Position(1));
    assert_eq!(awaited.await.unwrap().bounds.last, Position(2));
    assert_eq!(running.history.index.head(&AggregateId::new("b").unwrap()).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_group_do_not_wait_for_refusals_that_come_after_them() {
    const REFUSALS: usize = 100;
    let folder = tempdir().unwrap();
    let (admission, is_held, let_go) = held_at_first(2);
    let running = start_admitting(&in_folder(&folder), admission);
    let until_held = |is_held: std::sync::mpsc::Receiver<()>| {
        tokio::task::spawn_blocking(move || is_held.recv().map(|()| is_held).unwrap())
    };
    let mut first = Box::pin(running.sequencer.append(one_event("a"), Origin::default()));
    assert!(futures_util::poll!(&mut first).is_pending());
    let is_held = until_held(is_held).await.unwrap();
    let held = std::time::Instant::now();
    let refused = |_| {
        let expected = vec![(AggregateId::new("a").unwrap(), SequenceNumber(77))];
        let refusal = running.sequencer.append(Append { expected, ..one_event("b") }, Origin::default());
        Box::pin(futures_util::future::maybe_done(refusal))
    };
    let mut refusals: Vec<_> = (0..REFUSALS).map(refused).collect();
    for refusal in &mut refusals {
        let _ = futures_util::poll!(refusal);
    }
    // All calls are queued, and the group has been open for longer than allowed.
    while held.elapsed() < std::time::Duration::from_millis(20) {
        tokio::task::yield_now().await;
    }
    let_go.send(()).unwrap();
    until_held(is_held).await.unwrap();
    // The thread is blocked in the admission of the next call, and the answer has been sent.
    assert!(futures_util::poll!(&mut first).is_ready(), "the first caller waits for refusals");
    let_go.send(()).unwrap();
    for mut refusal in refusals {
        refusal.as_mut().await;
        assert!(matches!(refusal.as_mut().take_output(), Some(Err(StoreError::Conflict(_)))));
    }
}
