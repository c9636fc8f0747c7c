//! Opens a damaged storage directory the way `serve` does, makes every kind of query, and reports
//! the outcome.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use aethyr_event_store::{
    config::Config,
    error::{Conflict, StoreError},
    event::{
        AggregateId, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent, SequenceNumber,
        Snapshot, record::StoredEvent,
    },
    index::Direction,
    log::OpenError,
    sequencer::Append,
    server::{self, Components, ServerOptions, settings},
    storage::{Storage, StorageError},
    store::{AggregateFilter, EventStore, Filter, LoadRequest, OrderStart},
};
use tokio::runtime::Runtime;

use crate::support::service::PATIENCE;

const POLL: Duration = Duration::from_millis(5);

/// The outcome for a damaged directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything was served as it was written.
    Whole,
    /// The reads that met the damage reported it, and only those.
    Named,
    /// Nothing was served; the file, the offset and the command were named.
    Refused,
}

/// The data stored before the damage.
#[derive(Debug, Default)]
pub struct World {
    pub order: Vec<RecordedEvent>,
    pub snapshots: BTreeMap<AggregateId, Snapshot>,
}

impl World {
    /// Reads a directory that is not damaged.
    pub fn read(folder: &Path) -> Arc<Self> {
        let mut world = Self::default();
        served(folder, |store, _| {
            let mut reader = store.read(OrderStart::At(Position(1)), Filter::default()).unwrap();
            let tip = store.sequencer().tip();
            world.order = decoded(reader.next(tip, usize::MAX).unwrap().events);
            for aggregate in world.last_of().into_keys() {
                if let Ok(snapshot) = store.load_snapshot(&aggregate) {
                    world.snapshots.insert(aggregate, snapshot);
                }
            }
            Ok(())
        })
        .unwrap()
        .unwrap();
        Arc::new(world)
    }

    fn last_of(&self) -> BTreeMap<AggregateId, SequenceNumber> {
        self.order.iter().map(|event| (event.event.aggregate_id.clone(), event.sequence)).collect()
    }

    fn of(&self, aggregate: &AggregateId) -> Vec<RecordedEvent> {
        let is_its = |event: &&RecordedEvent| event.event.aggregate_id == *aggregate;
        self.order.iter().filter(is_its).cloned().collect()
    }

    fn appends(&self) -> impl Iterator<Item = &[RecordedEvent]> {
        self.order.chunk_by(|one, other| one.append == other.append)
    }
}

fn decoded(events: Vec<StoredEvent>) -> Vec<RecordedEvent> {
    events.iter().map(|event| event.decode().expect("an event")).collect()
}

pub fn config(storage: &Path) -> Config {
    let mut config = Config::default();
    let events = &mut config.event_sourcing;
    events.enabled = true;
    events.event_files = false;
    events.storage_path = storage.join("events");
    events.log_path = storage.join("log");
    events.index_path = storage.join("index");
    events.segment_bytes_max = 1 << 20;
    config.limits.disk_free_min = 1 << 20;
    config.proof.key_file = storage.join("keys/checkpoint.key");
    config
}

/// Serves a directory without the network while `asked` runs. The outer error is a refusal to
/// start.
fn served<T>(
    storage: &Path,
    asked: impl FnOnce(&EventStore, &Runtime) -> Result<T, String>,
) -> Result<Result<T, String>, String> {
    let config = config(storage);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = open(&config)?;
    let parts = {
        let _entered = runtime.enter();
        Components::start(&config, &ServerOptions::default(), opened).map_err(|error| error.to_string())?
    };
    let store = parts.store.clone();
    let asked = asked(&store, &runtime);
    drop(store);
    runtime.block_on(server::stop(parts, PATIENCE));
    Ok(asked)
}

/// Opens the storage, with retries: a child process that another test has just forked holds our
/// lock, too, until it executes another program.
fn open(config: &Config) -> Result<Storage, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Storage::open(&settings::storage(&config.event_sourcing, &config.limits)) {
            Err(StorageError::Log(OpenError::Locked(_))) if Instant::now() < end => std::thread::sleep(POLL),
            opened => return opened.map_err(|error| error.to_string()),
        }
    }
}

/// Runs `work`, which must neither panic nor hang, and returns an error if it does.
fn held<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        let _ = done.send(result.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            format!("a panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
        }));
    });
    match waiting.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(_) => Err("it hangs".to_owned()),
    }
}

/// The damaged part. Only if it is the log may the answer be that data is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    Log,
    Index,
}

/// Whether anything is left of the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    There,
    Gone,
}

/// Opens a directory and compares everything that it returns with the world.
///
/// # Errors
/// Returns an error that describes what the store did and must never do.
pub fn judge(world: &Arc<World>, storage: &Path, hit: Hit) -> Result<Outcome, String> {
    let (world, storage) = (world.clone(), storage.to_owned());
    held(move || {
        let asked = served(&storage, |store, runtime| {
            let mut asked = Asked { world: &world, store, runtime, hit, named: false };
            asked.everything()?;
            Ok(asked.named)
        });
        match asked {
            Err(refusal) if hit == Hit::Log && (names_damage(&refusal) || is_an_older_log(&refusal)) => {
                Ok(Outcome::Refused)
            }
            Err(refusal) => Err(format!("refused to start: {refusal}")),
            Ok(Err(wrong)) => Err(wrong),
            Ok(Ok(named)) => {
                // Repaired data, and data appended since, must be present at the next start, too.
                let again = open(&config(&storage))?;
                let last = (world.order.len() + world.last_of().len()) as u64;
                same("events after a restart", &again.log.tip().position.0, &last)?;
                Ok(if named { Outcome::Named } else { Outcome::Whole })
            }
        }
    })?
}

/// Checks what a start serves from the log alone. Events may be missing at the end, where the
/// damage looks like a torn tail.
pub fn judge_without_index(world: &Arc<World>, storage: &Path, end: End) -> Result<Outcome, String> {
    let (world, storage) = (world.clone(), storage.to_owned());
    held(move || {
        let read = served(&storage, |store, _| {
            let mut reader = store.read(OrderStart::At(Position(1)), Filter::default()).map_err(text)?;
            reader.next(store.sequencer().tip(), usize::MAX).map_err(text)
        });
        match read {
            Err(refusal) if names_damage(&refusal) => Ok(Outcome::Refused),
            Err(refusal) => Err(format!("refused to start: {refusal}")),
            Ok(Err(error)) => Err(format!("started, and then: {error}")),
            Ok(Ok(chunk)) => {
                let events = decoded(chunk.events);
                let read = events.len();
                let wanted = world.order.get(..read).unwrap_or_default();
                let ends_whole = wanted.last().is_none_or(|last| last.append.last == last.position);
                let last_append = world.order.last().unwrap().append;
                // Without a witness, a log whose end is gone is just a shorter one.
                let lost = match end {
                    End::Gone => u64::MAX,
                    End::There => last_append.event_count(),
                };
                let missing = (world.order.len() - wanted.len()) as u64;
                match wanted == events && ends_whole && missing <= lost {
                    true => Ok(Outcome::Whole),
                    false => Err(format!("{read} events, or others")),
                }
            }
        }
    })?
}

/// Runs `repair` with the event files available.
pub fn mend(storage: &Path) -> Result<(), String> {
    // A child process may still hold the lock, as above.
    let end = Instant::now() + PATIENCE;
    loop {
        match repair(storage) {
            Err(said) if said.contains("in use") && Instant::now() < end => std::thread::sleep(POLL),
            done => return done,
        }
    }
}

fn repair(storage: &Path) -> Result<(), String> {
    let said = storage.join("repair.log");
    let configuration = storage.join("server.yml");
    fs::write(&configuration, "").unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_aethyr-event-store"))
        .args(["repair", "--config"])
        .arg(configuration)
        .current_dir(storage)
        .env("AETHYR_EVENT_SOURCING__STORAGE_PATH", storage.join("events"))
        .env("AETHYR_EVENT_SOURCING__LOG_PATH", storage.join("log"))
        .env("AETHYR_EVENT_SOURCING__INDEX_PATH", storage.join("index"))
        .stdin(Stdio::null())
        .stderr(File::create(&said).unwrap())
        .status()
        .unwrap();
    match ended.success() {
        true => Ok(()),
        false => Err(format!("repair: {}", fs::read_to_string(said).unwrap())),
    }
}

fn text(error: StoreError) -> String {
    error.to_string()
}

fn names_damage(text: &str) -> bool {
    text.contains(".segment")
        && text.contains("damaged at byte")
        && text.contains("aethyr-event-store repair")
}

/// Returns whether the text reports an older log: the last segment is gone or cut.
fn is_an_older_log(text: &str) -> bool {
    text.contains("is older than the index") && text.contains("aethyr-event-store repair")
}

struct Asked<'a> {
    world: &'a World,
    store: &'a EventStore,
    runtime: &'a Runtime,
    hit: Hit,
    named: bool,
}

impl Asked<'_> {
    fn everything(&mut self) -> Result<(), String> {
        self.heads()?;
        self.order()?;
        self.loads()?;
        self.snapshots()?;
        self.resends()?;
        self.appends()
    }

    /// Returns `None` if the answer is an error that names the damage.
    fn answer<T>(&mut self, what: &str, answer: Result<T, StoreError>) -> Result<Option<T>, String> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(StoreError::Damaged(why)) if self.hit == Hit::Log && names_damage(&why.to_string()) => {
                self.named = true;
                Ok(None)
            }
            Err(error) => Err(format!("{what}: {error:?}")),
        }
    }

    fn heads(&self) -> Result<(), String> {
        let page = self.store.aggregates(&AggregateFilter::default(), None, 1000).map_err(text)?;
        let heads: BTreeMap<_, _> =
            page.aggregates.iter().map(|(id, head)| (id.clone(), head.last)).collect();
        same("the last numbers", &heads, &self.world.last_of())?;
        let figures = self.store.figures();
        same("events", &figures.complete.tip.position.0, &(self.world.order.len() as u64))?;
        same("aggregates", &figures.complete.aggregates, &(heads.len() as u64))?;
        same("snapshots", &figures.complete.snapshots, &(self.world.snapshots.len() as u64))?;
        let mut types = BTreeMap::new();
        for event in &self.world.order {
            *types.entry(event.event.event_type.clone()).or_insert(0u64) += 1;
        }
        same("totals by type", &figures.totals.event_types.into_iter().collect(), &types)
    }

    /// Reads from many positions: the result must be the next event, or an error that names the
    /// damage.
    fn order(&mut self) -> Result<(), String> {
        let tip = self.store.sequencer().tip();
        let starts = (1..=self.world.order.len()).step_by(if self.hit == Hit::Log { 2 } else { 9 });
        for start in starts {
            let place = OrderStart::At(Position(start as u64));
            let chunk = self.store.read(place, Filter::default()).and_then(|mut reader| reader.next(tip, 1));
            let Some(chunk) = self.answer("the order", chunk)? else { continue };
            let events = decoded(chunk.events);
            let first = events.first();
            if first != self.world.order.get(start - 1) {
                let got = first.map(|event| event.position);
                return Err(format!("asked for position {start}, and got {got:?}"));
            }
        }
        let reader = self.store.read(OrderStart::At(Position(1)), Filter::default());
        let Some(mut reader) = self.answer("the order", reader)? else { return Ok(()) };
        let mut read = Vec::new();
        loop {
            let Some(chunk) = self.answer("the order", reader.next(tip, 1 << 20))? else { break };
            read.extend(decoded(chunk.events));
            if chunk.at_end {
                same("events in the order", &read.len(), &self.world.order.len())?;
                break;
            }
        }
        match self.world.order.starts_with(&read) {
            true => Ok(()),
            false => Err("the order has other events".to_owned()),
        }
    }

    fn loads(&mut self) -> Result<(), String> {
        for (aggregate, last) in self.world.last_of() {
            let wanted = self.world.of(&aggregate);
            for direction in [Direction::Forwards, Direction::Backwards] {
                let request = LoadRequest { direction, ..LoadRequest::all_of(aggregate.clone()) };
                let Some(mut reader) = self.answer("a load", self.store.load(request))? else { continue };
                same("the last number", &reader.last_sequence(), &last)?;
                let Some(events) = self.answer("a load", reader.next(usize::MAX))? else { continue };
                let mut events = decoded(events);
                if direction == Direction::Backwards {
                    events.reverse();
                }
                if events != wanted {
                    return Err(format!("{aggregate}: {} events, or others", events.len()));
                }
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<(), String> {
        for aggregate in self.world.last_of().into_keys() {
            let wanted = self.world.snapshots.get(&aggregate);
            match self.store.load_snapshot(&aggregate) {
                Err(StoreError::NoSnapshot(_)) if wanted.is_none() => {}
                other => {
                    let Some(found) = self.answer("a snapshot", other)? else { continue };
                    if Some(&found) != wanted {
                        return Err(format!("{aggregate}: another snapshot"));
                    }
                }
            }
        }
        Ok(())
    }

    fn append(&self, append: Append) -> Result<aethyr_event_store::store::Appended, StoreError> {
        self.runtime.block_on(self.store.append(append))
    }

    fn resends(&mut self) -> Result<(), String> {
        for events in self.world.appends() {
            let sent = events.iter().map(|event| (event.event.clone(), event.digest)).collect();
            let again = self.append(Append { events: sent, expected: Vec::new() });
            let Some(again) = self.answer("a resend", again)? else { continue };
            same("stored already", &again.stored.already, &true)?;
            same("the first answer's positions", &again.stored.bounds, &events[0].append)?;
        }
        Ok(())
    }

    fn appends(&mut self) -> Result<(), String> {
        let mut position = self.world.order.len() as u64;
        for (aggregate, last) in self.world.last_of() {
            for wrong in [SequenceNumber(last.0 - 1), last.next()] {
                let append = Append {
                    events: vec![new_event(&aggregate)],
                    expected: vec![(aggregate.clone(), wrong)],
                };
                match self.append(append) {
                    Err(StoreError::Conflict(Conflict::WrongExpectedSequence { actual, .. })) => {
                        same("the number that was missed", &actual, &last)?;
                    }
                    other => return Err(format!("a wrong expectation: {other:?}")),
                }
            }
            let append =
                Append { events: vec![new_event(&aggregate)], expected: vec![(aggregate.clone(), last)] };
            let stored = self.append(append).map_err(text)?.stored;
            position += 1;
            same("a new event's number", &stored.aggregates[0].last, &last.next())?;
            same("a new event's position", &stored.bounds.first, &Position(position))?;
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} instead of {wanted:?}")),
    }
}

fn new_event(aggregate: &AggregateId) -> (NewEvent, ContentDigest) {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: aggregate.clone(),
        aggregate_type: "Place".into(),
        event_type: "Later".into(),
        content: Content::Absent,
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    };
    let digest = ContentDigest::of(&event);
    (event, digest)
}
