//! Every file of the local log and of the index is bit-flipped, cut, zeroed, extended and removed:
//! intact data is served, damage is named, and `repair` restores it. No panic, no hang, and no
//! wrong event.
//!
//! A run takes a sample of all cases. `DAMAGE_CASES=0` takes every one, and prints the figures that
//! `docs/reliability.md` shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex},
};

use aethyr_event_store::{
    grpc::wire::{
        NewEvent, ReadAllRequest, SaveSnapshotRequest, State, new_event::Data, save_snapshot_request,
    },
    index::{Index, IndexOptions, IndexScan, Upkeep, rebuild},
    log::{Cursor, LogOffset, recover},
};
use tempfile::tempdir;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{
    events::{append, event, load, whole_order},
    immudb::ImmuDb,
    service::{Service, Setup},
};

mod checks;
mod image;

use checks::{End, Hit, Outcome, World, judge, judge_without_index, mend};
use image::{Damage, File, Image};

/// A storage directory with everything in it that can be damaged, and the data that was stored.
struct Prepared {
    image: Image,
    world: Arc<World>,
    /// Holds the event files.
    service: Service,
}

fn with_files() -> Setup {
    Setup::local()
        .set("event_sourcing", "event_files: true")
        .set("event_sourcing", "segment_bytes_max: 1048576")
}

/// Appends three segments. Two of them are filled by one large event each; the rest are small
/// events of nine aggregates, appends to several of them, and snapshots.
async fn fill(service: &Service) {
    let mut client = service.client();
    for round in 0..12u8 {
        let of = |name: u8| {
            let data = Some(Data::Binary(vec![round; 2500].into()));
            let event_type = format!("Type{}", round % 5);
            NewEvent { data, event_type, ..event(&format!("room-{}", name % 9)) }
        };
        if round % 6 == 2 {
            append(
                &mut client,
                vec![NewEvent { data: Some(Data::Binary(vec![round; 990_000].into())), ..of(round) }],
            )
            .await;
        }
        append(&mut client, vec![of(round), of(round + 1), of(round), of(round + 5)]).await;
        append(&mut client, vec![of(round)]).await;
        append(&mut client, vec![of(round + 2)]).await;
        if round % 3 == 1 {
            let request = SaveSnapshotRequest {
                aggregate_id: format!("room-{}", round % 9),
                sequence_number: 1 + u64::from(round) / 3,
                data: Some(save_snapshot_request::Data::Json("{}".into())),
                ..Default::default()
            };
            client.save_snapshot(request).await.unwrap();
        }
    }
}

fn prepare() -> Prepared {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (service, order) = runtime.block_on(async {
        let mut service = Service::start(with_files()).await;
        fill(&service).await;
        let order = whole_order(&mut service.client()).await;
        service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
        service.stop();
        (service, order)
    });
    assert!(service.segments().len() >= 3);
    spread_index(&service.storage());
    let image = Image::take(&service.storage());
    let copy = image.copy(None, false);
    let world = World::read(copy.path());
    assert_eq!(world.order.len(), order.len());
    assert!(world.snapshots.len() >= 2);
    Prepared { image, world, service }
}

/// Rebuilds the index in three files, as a long life would leave it, and lets a start find the end
/// of the log.
fn spread_index(storage: &Path) {
    let (log, folder) = (storage.join("log"), storage.join("index"));
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let recovered = recover(&log, None).unwrap();
    let mut cursor = Cursor::new(recovered.segments().clone(), LogOffset::START);
    let mut ends = Vec::new();
    while let Some(read) = cursor.next(recovered.end).unwrap() {
        ends.push(read.end);
    }
    let options = IndexOptions {
        types_max: 1000,
        file_events: 1000,
        file_log_bytes: 1 << 30,
        bytes_at_once: IndexOptions::BYTES_AT_ONCE,
        disk_free_min: 0,
        writes: true,
    };
    for part in 1..=3 {
        let end = ends[ends.len() * part / 3 - 1];
        let found = IndexScan::read_folder(&folder).unwrap();
        let parts = (recovered.segments().clone(), recovered.end);
        let index = Arc::new(Index::open(&folder, found, parts, options, &CancellationToken::new()));
        rebuild::catch_up(&index, end, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(index.complete().tip.end, end);
        // Upkeep ends with everything in a file.
        drop(Upkeep::start(index).unwrap());
    }
}

/// Returns the maximum number of damages to the ends of files, and as many within them. Returns
/// `None` for all of them.
fn cases_max(default: usize) -> Option<usize> {
    match std::env::var("DAMAGE_CASES").ok().and_then(|number| number.parse().ok()) {
        Some(0) => None,
        Some(number) => Some(number),
        None => Some(default),
    }
}

fn cases<'a>(files: impl Iterator<Item = &'a File>, max: Option<usize>) -> Vec<(&'a File, Damage)> {
    let (mut ends, mut within) = (Vec::new(), Vec::new());
    for file in files {
        let (of_ends, others) = file.damages();
        ends.extend(of_ends.into_iter().map(|damage| (file, damage)));
        within.extend(others.into_iter().map(|damage| (file, damage)));
    }
    let some = |all: Vec<(&'a File, Damage)>| {
        let step = max.map_or(1, |max| all.len().div_ceil(max));
        // Data that repeats at even distances is not always hit at the same place.
        let chosen = all.chunks(step.max(1)).enumerate().map(|(number, few)| few[(number * 7) % few.len()]);
        chosen.collect::<Vec<_>>()
    };
    [some(ends), some(within)].concat()
}

/// The outcomes by kind of file and kind of damage.
#[derive(Default)]
struct Figures {
    counts: BTreeMap<(&'static str, &'static str, Outcome), usize>,
    files: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Figures {
    fn add(&mut self, file: &File, damage: Damage, outcome: Result<Outcome, String>) {
        self.files.insert(file.name());
        match outcome {
            Ok(outcome) => *self.counts.entry((file.kind(), damage.kind(), outcome)).or_default() += 1,
            Err(wrong) => {
                let wrong = format!("{} {damage:?}: {wrong}", file.name());
                self.wrong.push(wrong);
            }
        }
    }

    fn end(self, what: &str) {
        let total: usize = self.counts.values().sum();
        let mut said =
            format!("{what}: {} files, {total} damages, {} wrong\n", self.files.len(), self.wrong.len());
        for ((file, damage, outcome), count) in &self.counts {
            said.push_str(&format!("  {file}, {damage}: {count} {outcome:?}\n"));
        }
        let _ = std::io::stderr().write_all(said.as_bytes());
        assert!(
            self.wrong.is_empty(),
            "{} of {total}: {:#?}",
            self.wrong.len(),
            &self.wrong[..self.wrong.len().min(40)]
        );
    }
}

/// Runs the cases three at a time: most of a case is waiting for threads to end.
fn sweep(
    cases: &[(&File, Damage)],
    judged: impl Fn(&File, Damage) -> Result<Outcome, String> + Sync,
) -> Figures {
    let figures = Mutex::new(Figures::default());
    let waiting = Mutex::new(cases.iter());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some((file, damage)) = waiting.lock().unwrap().next().copied() else { break };
                    let outcome = judged(file, damage);
                    figures.lock().unwrap().add(file, damage, outcome);
                }
            });
        }
    });
    figures.into_inner().unwrap()
}

#[test]
fn a_damaged_index_changes_no_answer() {
    let Prepared { image, world, service } = prepare();
    let cases = cases(image.files.iter().filter(|file| !file.is_log()), cases_max(12));
    let figures = sweep(&cases, |file, damage| {
        let copy = image.copy(Some((file, damage)), false);
        judge(&world, copy.path(), Hit::Index)
    });
    figures.end("index");
    drop(service);
}

#[test]
fn a_damaged_log_is_refused_or_named_and_mended() {
    let Prepared { image, world, service } = prepare();
    let cases = cases(image.files.iter().filter(|file| file.is_log()), cases_max(4));
    let figures = sweep(&cases, |file, damage| {
        let copy = image.copy(Some((file, damage)), false);
        let outcome = judge(&world, copy.path(), Hit::Log)?;
        if outcome != Outcome::Whole {
            // Judging has appended events, so the repair runs on a new copy with the same damage.
            let copy = image.copy(Some((file, damage)), false);
            mend(copy.path())?;
            let mended = judge(&world, copy.path(), Hit::Log)?;
            if mended != Outcome::Whole {
                return Err(format!("after repair: {mended:?}"));
            }
        }
        Ok(outcome)
    });
    figures.end("log");
    drop(service);
}

#[test]
fn without_an_index_nothing_but_the_end_is_cut_off() {
    let Prepared { image, world, service } = prepare();
    let cases = cases(image.files.iter().filter(|file| file.is_log()), cases_max(12));
    let figures = sweep(&cases, |file, damage| {
        let copy = image.copy(Some((file, damage)), true);
        let end = if damage.takes_the_end(file) { End::Gone } else { End::There };
        judge_without_index(&world, copy.path(), end)
    });
    figures.end("log without index");
    drop(service);
}

/// Runs the program itself on one damage to each kind of index file, and after a kill.
#[test]
fn the_program_starts_over_a_damaged_index() {
    let Prepared { image, world, mut service } = prepare();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut kinds = BTreeSet::new();
    for file in image.files.iter().filter(|file| !file.is_log() && file.used.len() > 30) {
        if !kinds.insert(file.kind()) {
            continue;
        }
        for part in ["log", "index"] {
            fs::remove_dir_all(service.storage().join(part)).unwrap();
        }
        let damage = Damage::Flip { at: file.used.len() / 2, mask: 0x10 };
        image.place(&service.storage(), Some((file, damage)), false);
        runtime.block_on(async {
            service.restart().await;
            let order = whole_order(&mut service.client()).await;
            assert_eq!(order.len(), world.order.len(), "{}", file.name());
            for aggregate in 0..9 {
                let id = format!("room-{aggregate}");
                let wanted =
                    order.iter().filter(|event| event.aggregate_id == id).cloned().collect::<Vec<_>>();
                assert_eq!(load(&mut service.client(), &id).await, wanted, "{}", file.name());
            }
            assert_eq!(service.stats().await.event_count, order.len() as u64);
            if file.kind() == "files" {
                let texts =
                    ["an index file is unusable; it is rebuilt", "an index file is unusable; rebuilding it"];
                let told = async || texts.iter().any(|text| service.log().contains(text));
                service.wait_until(&file.name(), told).await;
            }
            append(&mut service.client(), vec![event("room-3")]).await;
            service.kill();
            service.restart().await;
            assert_eq!(whole_order(&mut service.client()).await.len(), order.len() + 1);
            service.stop();
        });
    }
    assert!(kinds.len() >= 2, "{kinds:?}");
}

/// A segment that was cut between two frames is the one damage that no checksum shows.
#[test]
fn the_program_names_a_segment_that_was_cut_between_two_frames() {
    let Prepared { image, world, mut service } = prepare();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let first = image.files.iter().find(|file| file.kind() == "segments").unwrap();
    for part in ["log", "index"] {
        fs::remove_dir_all(service.storage().join(part)).unwrap();
    }
    image.place(&service.storage(), Some((first, Damage::Cut(64))), false);
    runtime.block_on(async {
        service.restart().await;
        let mut stream = service.client().read_all(ReadAllRequest::default()).await.unwrap().into_inner();
        let status = stream.message().await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss);
        assert!(status.message().contains("0000000001.segment: damaged at byte 64"), "{}", status.message());
        assert!(status.message().contains("repair"), "{}", status.message());
        service.stop();
        assert!(service.run(&["repair"]).0);
        service.restart().await;
        assert_eq!(whole_order(&mut service.client()).await.len(), world.order.len());
        assert_eq!(service.stats().await.snapshot_count, world.snapshots.len() as u64);
        service.stop();
    });
}

/// Without its id, a service does not recognize its own database; the operator can confirm that it
/// is its own.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_writer_ids_cost_no_event() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    let path = service.storage().join("log/writers");
    for how in ["flipped", "cut", "rubbish", "removed"] {
        append(&mut service.client(), vec![event("room-1")]).await;
        service.wait_until_forwarded().await;
        let order = whole_order(&mut service.client()).await;
        service.kill();
        let mut ids = fs::read(&path).unwrap();
        let last = ids.len() - 10;
        match how {
            "flipped" => ids[last] = if ids[last] == b'0' { b'1' } else { b'0' },
            "cut" => ids.truncate(last),
            "rubbish" => ids.iter_mut().for_each(|byte| *byte |= 0x80),
            _ => ids.clear(),
        }
        match how {
            "removed" => fs::remove_file(&path).unwrap(),
            _ => fs::write(&path, &ids).unwrap(),
        }
        service.restart().await;
        service.wait_for_state(State::Fenced).await;
        assert_eq!(whole_order(&mut service.client()).await, order, "{how}");
        service.stop();
        service.reconfigure(setup.clone().arguments(&["serve", "--take-over"]));
        service.restart().await;
        service.wait_until_forwarded().await;
        assert_eq!(whole_order(&mut service.client()).await, order, "{how}");
        service.reconfigure(setup.clone());
    }
}
