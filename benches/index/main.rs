//! Measures the log and its index without the network, with many millions of events.
//!
//!     cargo bench --bench index -- [--events N] [--aggregates N] [--folder DIR]
//!
//! The default is one million events of 64 bytes over 10 000 aggregates. Three processes run one
//! after the other. The first one appends events, syncs from time to time, and is killed. The
//! second one opens the store after this crash, and the third one opens it after the clean stop of
//! the second one. The last two measure the lookups that an append of one event needs.
//!
//! With `--folder`, the store is kept. Without it, a temporary directory is used. A hundred million
//! events take about 30 GB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark panics on errors and prints its progress"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use aethyr_event_store::{
    config::{EventSourcingConfig, LimitsConfig},
    event::{
        AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position,
        RecordedEvent, SequenceNumber, Timestamp, record,
    },
    index::{IndexBatch, IndexedEvent, Upkeep, WaitMode},
    server::settings,
    storage::Storage,
};
use bytes::Bytes;
use hdrhistogram::Histogram;

const EVENT_BYTES: usize = 64;
const EVENTS_IN_APPEND: u64 = 100;
const APPENDS_IN_SYNC: u64 = 100;
/// The number of lookups of each kind.
const LOOK_UPS: u64 = 200_000;
const PAGES: u64 = 200;
const PAGE: usize = 1000;

#[derive(Debug, Clone)]
struct Options {
    events: u64,
    aggregates: u64,
    folder: PathBuf,
    step: Option<String>,
}

impl Options {
    fn read(temporary: &Path) -> Self {
        let words: Vec<String> = std::env::args().collect();
        let value = |key: &str| words.iter().position(|word| word == key).map(|at| words[at + 1].clone());
        let number = |key, default| value(key).map_or(default, |value| value.parse().expect("a number"));
        Self {
            events: number("--events", 1_000_000),
            aggregates: number("--aggregates", 10_000),
            folder: value("--folder").map_or(temporary.to_owned(), PathBuf::from),
            step: value("--step"),
        }
    }

    fn open(&self) -> Storage {
        let config = EventSourcingConfig {
            log_path: self.folder.join("log"),
            index_path: self.folder.join("index"),
            ..EventSourcingConfig::default()
        };
        Storage::open(&settings::storage(&config, &LimitsConfig::default())).expect("a store")
    }

    /// Runs one step in a new process of this program.
    fn run(&self, step: &str) {
        let mut program = Command::new(std::env::current_exe().unwrap());
        let folder = self.folder.to_str().unwrap();
        program.args(["--step", step, "--folder", folder]);
        program.args(["--events", &self.events.to_string(), "--aggregates", &self.aggregates.to_string()]);
        let status = program.stdin(Stdio::null()).status().unwrap();
        assert!(status.success() || step == "append", "{step}: {status}");
    }
}

fn main() {
    let temporary = tempfile::tempdir().unwrap();
    let options = Options::read(temporary.path());
    match options.step.as_deref() {
        None => {
            println!("{} events of {EVENT_BYTES} bytes, {} aggregates", options.events, options.aggregates);
            options.run("append");
            for (step, title) in [("look", "after a crash"), ("look", "after a clean stop")] {
                println!("{title}:");
                options.run(step);
            }
        }
        Some("append") => append(&options),
        Some(_) => look(&options),
    }
}

fn aggregate(number: u64) -> AggregateId {
    AggregateId::new(&format!("object-{number}")).unwrap()
}

/// Appends all events and aborts.
fn append(options: &Options) {
    let mut storage = options.open();
    assert_eq!(storage.log.tip().position, Position(0), "{} is not empty", options.folder.display());
    let _upkeep = Upkeep::start(storage.index.clone()).unwrap();
    let mut numbers = vec![0u32; usize::try_from(options.aggregates).unwrap()];
    let (type_of_aggregate, type_of_event): (Arc<str>, Arc<str>) = ("GameObject".into(), "Changed".into());
    let nobody: Arc<str> = "".into();
    let began = Instant::now();
    for (round, first) in (1..=options.events).step_by(EVENTS_IN_APPEND as usize).enumerate() {
        let last = (first + EVENTS_IN_APPEND - 1).min(options.events);
        let bounds = AppendBounds { first: Position(first), last: Position(last) };
        let events: Vec<_> = (first..=last)
            .map(|position| {
                let number = position % options.aggregates;
                let sequence = &mut numbers[number as usize];
                *sequence += 1;
                let event = NewEvent {
                    id: EventId::random(),
                    aggregate_id: aggregate(number),
                    aggregate_type: type_of_aggregate.clone(),
                    event_type: type_of_event.clone(),
                    content: Content::Binary(Bytes::from(vec![position as u8; EVENT_BYTES])),
                    correlation_id: String::new(),
                    causation_id: String::new(),
                    metadata: BTreeMap::new(),
                    occurred_at: None,
                };
                RecordedEvent {
                    digest: ContentDigest::of(&event),
                    event,
                    sequence: SequenceNumber((*sequence).into()),
                    position: Position(position),
                    recorded_at: Timestamp::new(1_700_000_000, 0).unwrap(),
                    recorded_by: nobody.clone(),
                    append: bounds,
                    hash: ChainHash::START,
                }
            })
            .collect();
        let records: Vec<_> = events.iter().map(record::encode_recorded).collect();
        let frame = storage.log.tip().end;
        let mut group = storage.log.begin().unwrap();
        let frame = if group.tip().end == frame { frame } else { group.tip().end };
        let stored = group.append(&records).unwrap();
        let tip = group.tip();
        storage.log.write_unsynced(group).unwrap();
        if (round as u64).is_multiple_of(APPENDS_IN_SYNC) || last == options.events {
            storage.log.sync().unwrap();
        }
        let mut entries = IndexBatch::new(&storage.index);
        let indexed = events.iter().zip(stored).map(|(event, stored)| IndexedEvent::new(event, stored.place));
        entries.add_append(&storage.index, frame, indexed.collect()).unwrap();
        entries.reach(tip);
        storage.index.add(entries, || ());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("appended: {:.0} events/s, {} MB resident", options.events as f64 / seconds, resident_mb());
    std::process::abort();
}

fn look(options: &Options) {
    let began = Instant::now();
    let storage = options.open();
    let opened = began.elapsed().as_secs_f64();
    assert_eq!(storage.index.complete().tip.position, Position(options.events));
    let files = || fs::read_dir(options.folder.join("index")).unwrap().map(|entry| entry.unwrap());
    let bytes: u64 = files().map(|file| file.metadata().unwrap().len()).sum();
    let per_event = bytes as f64 / options.events as f64;
    println!("  opened in {opened:.3} s, {} MB resident", resident_mb());
    println!(
        "  index: {} files, {:.0} MB, {per_event:.1} bytes per event",
        files().count(),
        bytes as f64 / 1e6
    );
    let upkeep = Upkeep::start(storage.index.clone()).unwrap();
    let index = &storage.index;
    told("an unknown id", LOOK_UPS, |_| {
        let found = index.event_with(EventId::random(), WaitMode::AtOnce).unwrap();
        assert!(found.is_none());
    });
    // Looks up each aggregate only once, because it stays in memory afterwards.
    let step = (options.aggregates / LOOK_UPS).max(1);
    told("a cold aggregate", options.aggregates.min(LOOK_UPS), |number| {
        let head = index.head_with(&aggregate(number * step), WaitMode::AtOnce).unwrap();
        black_box(head.expect("it exists"));
    });
    told("an unknown aggregate", LOOK_UPS, |number| {
        let id = AggregateId::new(&format!("nobody-{number}")).unwrap();
        assert!(index.head_with(&id, WaitMode::AtOnce).unwrap().is_none());
    });
    told("a page of 1000 aggregates", PAGES, |number| {
        let after = aggregate(number * options.aggregates / PAGES);
        black_box(index.aggregates("object-", Some(after.as_str()), PAGE).unwrap());
    });
    drop(upkeep);
    println!("  {} MB resident at the end", resident_mb());
}

/// Measures `count` lookups, and prints their latencies.
fn told(what: &str, count: u64, mut look_up: impl FnMut(u64)) {
    let mut times = Histogram::<u64>::new(3).unwrap();
    for number in 0..count {
        let began = Instant::now();
        look_up(number);
        times.record(began.elapsed().as_nanos() as u64).unwrap();
    }
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "  {what}: p50 {:.1} µs, p99 {:.1} µs, max {:.0} µs",
        at(0.5),
        at(0.99),
        times.max() as f64 / 1000.0
    );
}

fn resident_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
