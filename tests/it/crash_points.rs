//! The process dies at each named crash point.
//!
//! After its restart, everything that was promised holds.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::{Duration, Instant},
};

use aethyr_event_store::{
    crash_point::CrashPoint,
    grpc::wire::{AppendEventsRequest, NewEvent, RecordedEvent, SaveSnapshotRequest, State, new_event::Data},
};
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

use crate::{
    anchoring::{assert_continues_anchor, discarding, file_anchor, with_anchors},
    outage::assert_in_immudb,
    proving::{proof_of, verifier_key, with_checkpoints},
    support::{
        events::{append, event, request, whole_order},
        immudb::ImmuDb,
        load::{Call, Load, assert_all_there},
        service::{PATIENCE, Service, Setup},
    },
};

/// The file of an anchor.
const ANCHOR: &str = "anchor";

/// How the service reaches a crash point.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By appends and snapshots, with ImmuDB available.
    Load,
    /// By a start on prepared data.
    Start(Prepared),
    /// By a shutdown.
    Stop,
    /// By appends while ImmuDB is away.
    Outage,
    /// By the end of an outage.
    OutageEnds,
    /// By appends after another client has written this key.
    Foreign(&'static str),
    /// By a checkpoint under load.
    Checkpoint,
}

#[derive(Debug, Clone, Copy)]
enum Prepared {
    Nothing,
    TornTail,
    NoIndex,
    NoDisk,
}

fn way_to(point: CrashPoint) -> Way {
    match point {
        CrashPoint::SegmentCreated
        | CrashPoint::SegmentDurable
        | CrashPoint::SpaceAllocated
        | CrashPoint::BeforeLocalSync
        | CrashPoint::AfterLocalSync
        | CrashPoint::BeforeAnswer
        | CrashPoint::SnapshotLaidOut
        | CrashPoint::IndexFileWritten
        | CrashPoint::IndexFileNamed
        | CrashPoint::IndexFilesMerged
        | CrashPoint::SecondSent => Way::Load,
        // At startup, only the head is written.
        CrashPoint::BeforeSet
        | CrashPoint::AfterSet
        | CrashPoint::WriterKept
        | CrashPoint::HeadClaimed
        // The auditor begins with the start, and saves where it is after some seconds.
        | CrashPoint::AuditSaved => Way::Start(Prepared::Nothing),
        CrashPoint::TornTailSaved | CrashPoint::TornTailTruncated => Way::Start(Prepared::TornTail),
        CrashPoint::IndexMidway => Way::Start(Prepared::NoIndex),
        CrashPoint::PageCopied | CrashPoint::CopyEnding => Way::Start(Prepared::NoDisk),
        CrashPoint::BeforeRelease
        | CrashPoint::AfterRelease
        | CrashPoint::TrustedStateSaved
        | CrashPoint::SpaceGivenBack => Way::Stop,
        CrashPoint::FindingsSaved => Way::Foreign("anything"),
        CrashPoint::TamperedMarked => Way::Foreign("log:forged"),
        CrashPoint::EventFileWritten => Way::Outage,
        CrashPoint::EventFileCleared => Way::OutageEnds,
        CrashPoint::TreeWritten
        | CrashPoint::CheckpointKept
        | CrashPoint::AnchorWritten
        | CrashPoint::CheckpointStored => Way::Checkpoint,
        CrashPoint::GenerationBegun => unreachable!("a command reaches it"),
    }
}

struct Story {
    point: CrashPoint,
    immudb: ImmuDb,
    service: Service,
    setup: Setup,
    /// The calls before the crash, with their outcomes.
    calls: Vec<Call>,
    /// Removed after ImmuDB has ended, which writes to it.
    dir: TempDir,
}

impl Story {
    /// Starts with a history of every kind, so long that the index is brought up to date in several
    /// steps.
    async fn begin(point: CrashPoint) -> Self {
        let dir = tempdir().unwrap();
        let immudb = ImmuDb::start(dir.path()).await;
        let setup = Setup::with_immudb(immudb.port())
            .set("event_sourcing", "segment_bytes_max: 1048576")
            .set("event_sourcing", "event_files: true");
        let setup = match point {
            // More is to be pending than one transaction holds.
            CrashPoint::SecondSent => setup.set("immudb", "batch_bytes_max: 1000"),
            CrashPoint::AuditSaved => setup.set("audit", "events_per_second: 100000"),
            _ => setup,
        };
        let setup = match way_to(point) {
            Way::Checkpoint => {
                with_anchors(with_checkpoints(setup), &[file_anchor(&dir.path().join(ANCHOR))])
            }
            _ => setup,
        };
        let service = Service::start(setup.clone()).await;
        let mut client = service.client();
        for number in 0..24 {
            append(&mut client, (0..500).map(|_| event(&format!("room-{number}"))).collect()).await;
        }
        client.save_snapshot(snapshot("room-1", 100)).await.unwrap();
        service.wait_until_forwarded().await;
        Self { point, dir, immudb, service, setup, calls: Vec::new() }
    }

    /// Makes the process die at the crash point.
    async fn crash(&mut self) -> ExitStatus {
        let armed = self.setup.clone().crash_at(self.point);
        match way_to(self.point) {
            Way::Load | Way::Checkpoint => {
                assert!(self.service.stop().success());
                self.service.reconfigure(armed);
                self.service.restart().await;
                self.load_until_the_end().await
            }
            Way::Start(prepared) => {
                assert!(self.service.stop().success());
                self.prepare(prepared);
                self.service.reconfigure(armed);
                self.service.launch_and_crash()
            }
            Way::Stop => {
                assert!(self.service.stop().success());
                self.service.reconfigure(armed);
                self.service.restart().await;
                self.service.wait_for_state(State::Connected).await;
                append(&mut self.service.client(), vec![event("room-1")]).await;
                self.service.stop()
            }
            Way::Outage => {
                assert!(self.service.stop().success());
                self.immudb.kill();
                self.service.reconfigure(armed);
                self.service.launch();
                self.load_until_the_end().await
            }
            Way::Foreign(key) => {
                assert!(self.service.stop().success());
                self.service.reconfigure(armed);
                self.service.restart().await;
                self.service.wait_for_state(State::Connected).await;
                self.immudb.reader(&["--database", "aethyr", "set", key, "by somebody else"]);
                self.load_until_the_end().await
            }
            Way::OutageEnds => {
                assert!(self.service.stop().success());
                self.immudb.kill();
                self.service.reconfigure(armed);
                self.service.restart().await;
                append(&mut self.service.client(), vec![event("room-1"), event("room-x")]).await;
                self.service.wait_for("event files", |stats| stats.event_files_pending == 0).await;
                self.immudb.restart().await;
                self.service.wait()
            }
        }
    }

    async fn load_until_the_end(&mut self) -> ExitStatus {
        let load = Load::start(&self.service.client(), 8, 2);
        let mut client = self.service.client();
        // Large events, so that segments fill up; and snapshots.
        let extras = tokio::spawn(async move {
            for sequence in 1.. {
                let data = Some(Data::Binary(vec![7; 200_000].into()));
                let large = NewEvent { data, ..event("large") };
                if client.append_events(request(vec![large])).await.is_err()
                    || client.save_snapshot(snapshot("large", sequence)).await.is_err()
                {
                    break;
                }
            }
        });
        let ended = self.service.wait();
        extras.await.unwrap();
        self.calls = load.end().await;
        ended
    }

    fn prepare(&self, prepared: Prepared) {
        let storage = self.service.storage();
        match prepared {
            Prepared::Nothing => {}
            Prepared::TornTail => {
                let path = self.service.segments().pop().unwrap();
                let mut bytes = fs::read(&path).unwrap();
                bytes.extend_from_slice(b"AELF, and no more");
                fs::write(path, bytes).unwrap();
            }
            Prepared::NoIndex => fs::remove_dir_all(storage.join("index")).unwrap(),
            Prepared::NoDisk => fs::remove_dir_all(storage).unwrap(),
        }
    }

    /// The mark is durable, and so are the findings that came before it.
    async fn assert_tampered_and_accept(&mut self) {
        self.service.restart().await;
        self.service.wait_for_state(State::Tampered).await;
        assert_eq!(self.service.stats().await.open_findings, 1);
        assert!(self.service.stop().success());
        let (done, said) = self.service.run(&["resolve", "--accept-findings", "1", "--because", "a test"]);
        assert!(done, "{said}");
    }

    /// The tree, the checkpoints and the anchor agree.
    async fn check_proofs(&self, order: &[RecordedEvent]) {
        if !matches!(way_to(self.point), Way::Checkpoint) {
            return;
        }
        assert_continues_anchor(&self.service, &self.dir.path().join(ANCHOR), order).await;
        let key = verifier_key(&self.service);
        for event in [&order[0], order.last().unwrap()] {
            proof_of(&mut self.service.client(), event).await.assert_proves(event, &key);
        }
    }

    /// Starts again without a crash point, and checks everything.
    async fn check(mut self) {
        let lost_disk = matches!(way_to(self.point), Way::Start(Prepared::NoDisk));
        // The writer that claimed the database with the lost disk was another one.
        let arguments: &[&str] = if lost_disk { &["serve", "--take-over"] } else { &["serve"] };
        self.service.reconfigure(self.setup.clone().arguments(arguments));
        if matches!(way_to(self.point), Way::Outage) {
            self.immudb.restart().await;
        }
        if self.point == CrashPoint::TamperedMarked {
            self.assert_tampered_and_accept().await;
        }
        self.service.restart().await;
        let mut client = self.service.client();
        let before = whole_order(&mut client).await;
        assert_all_there(&self.calls, &before);
        // A retry settles calls without an answer; what was stored is stored once.
        for call in &self.calls {
            let sent = AppendEventsRequest { events: call.events.clone(), ..Default::default() };
            let again = client.append_events(sent).await.unwrap().into_inner();
            if let Ok(first) = &call.answer {
                assert!(again.already_stored);
                assert_eq!(again.first_position, first.first_position);
            }
        }
        append(&mut client, vec![event("room-1"), event("room-2")]).await;
        self.service.wait_until_forwarded().await;
        self.service.wait_for("no event files", |stats| stats.event_files_pending == 0).await;
        let order = whole_order(&mut client).await;
        assert_eq!(order[..before.len()], before);
        assert_in_immudb(&self.immudb, &order);
        self.check_proofs(&order).await;
        let stats = self.service.stats().await;
        assert_eq!(stats.event_count, order.len() as u64);
        assert!(stats.snapshot_count >= 1);
        let files = self.service.storage().join("events");
        let left = || {
            let found = std::process::Command::new("find").arg(&files).args(["-type", "f"]).output().unwrap();
            String::from_utf8(found.stdout).unwrap()
        };
        // A thread of low priority removes them.
        let until = Instant::now() + PATIENCE;
        while !left().is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(left(), "", "{} left files", self.point.name());
        assert!(self.service.stop().success());
        let (whole, said) = self.service.run(&["repair"]);
        assert!(whole && said.contains("nothing was changed"), "{said}");
        drop(self.dir);
    }
}

fn snapshot(aggregate: &str, sequence_number: u64) -> SaveSnapshotRequest {
    SaveSnapshotRequest { aggregate_id: aggregate.to_owned(), sequence_number, ..Default::default() }
}

async fn crash_and_check(points: &[CrashPoint]) {
    for point in points {
        if *point == CrashPoint::GenerationBegun {
            discarding::discard(Some(*point)).await;
            continue;
        }
        let mut story = Story::begin(*point).await;
        let ended = story.crash().await;
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{} was not reached", point.name());
        story.check().await;
    }
}

// Several tests, so that both cores are busy.
#[tokio::test(flavor = "multi_thread")]
async fn each_point_up_to_the_transaction_is_reached_and_loses_nothing() {
    crash_and_check(&CrashPoint::ALL[..12]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_point_from_the_transaction_on_is_reached_and_loses_nothing() {
    crash_and_check(&CrashPoint::ALL[12..28]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_point_of_a_checkpoint_is_reached_and_proofs_are_right() {
    crash_and_check(&CrashPoint::ALL[28..]).await;
}
