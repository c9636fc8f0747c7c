//! A disk that fails: acknowledged events stay, an unknown outcome is reported as such, reads
//! continue, and the process ends so that a supervisor can restart it.

use std::path::PathBuf;

use aethyr_event_store::grpc::wire::{NewEvent, SaveSnapshotRequest, State, new_event::Data};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tonic::Code;

use crate::support::{
    descriptors,
    events::{append, event, load, reason, request},
    immudb::ImmuDb,
    service::{Service, Setup},
};

mod faulty_disk;

use faulty_disk::{Fault, FaultyDisk};

/// Starts a service whose disk fails below a directory of its storage, which may be all of it.
async fn start(setup: Setup, folder: &str) -> (Service, FaultyDisk) {
    let mut service = Service::new(setup.clone());
    let below: PathBuf = service.dir().canonicalize().unwrap().join("storage").join(folder);
    let (disk, setup) = FaultyDisk::below(setup, &below);
    service.reconfigure(setup);
    service.restart().await;
    (service, disk)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_the_outcome_is_not_known_until_a_restart_tells() {
    let setup = Setup::local().set("event_sourcing", "log_failure_grace: 3600");
    let (mut service, disk) = start(setup.clone(), "log").await;
    let mut client = service.client();
    let before = request(vec![event("room-1")]);
    let first = client.append_events(before.clone()).await.unwrap().into_inner();

    disk.set(Fault::SyncFails);
    let doubtful = request(vec![event("room-1"), event("room-2")]);
    let status = client.append_events(doubtful.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
    disk.set(Fault::Nothing);

    // Retries with the same ids always get this answer: nothing else is known about them.
    for _ in 0..3 {
        let status = client.append_events(doubtful.clone()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    }
    let one_of_them = request(vec![doubtful.events[1].clone()]);
    assert_eq!(reason(&client.append_events(one_of_them).await.unwrap_err()), "OUTCOME_UNKNOWN");
    // Other events are certainly not written.
    let status = client.append_events(request(vec![event("room-3")])).await.unwrap_err();
    assert_eq!(reason(&status), "LOCAL_LOG_FAILED", "{status:?}");
    let snapshot = SaveSnapshotRequest::default();
    assert!(client.save_snapshot(snapshot).await.is_err());
    // Acknowledged events are answered as before, and can be read.
    let again = client.append_events(before).await.unwrap().into_inner();
    assert!(again.already_stored);
    assert_eq!(again.aggregates, first.aggregates);
    assert_eq!(load(&mut client, "room-1").await.len(), 1);

    service.kill();
    service.restart().await;
    let mut client = service.client();
    let stored = load(&mut client, "room-1").await.len();
    let answer = client.append_events(doubtful).await.unwrap().into_inner();
    assert_eq!(answer.already_stored, stored == 2, "the restart found {stored} events");
    assert_eq!(load(&mut client, "room-1").await.len(), 2);
    assert_eq!(load(&mut client, "room-3").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_the_process_ends_with_1_once_the_grace_is_over() {
    let setup = Setup::local().set("event_sourcing", "log_failure_grace: 0.5");
    let (mut service, disk) = start(setup, "log").await;
    disk.set(Fault::SyncFails);
    let status = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
    assert_eq!(service.wait().code(), Some(1), "{}", service.log());
    assert!(service.log().contains("cannot write the local log"), "{}", service.log());
}

/// The last group may be in the log, and only this service can settle what is in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_no_other_service_gets_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "log_failure_grace: 0.5");
    let (mut service, disk) = start(setup, "log").await;
    append(&mut service.client(), vec![event("room-1")]).await;
    service.wait_until_forwarded().await;
    disk.set(Fault::SyncFails);
    let status = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
    assert_eq!(service.wait().code(), Some(1), "{}", service.log());
    disk.set(Fault::Nothing);

    let other = Service::launched(Setup::with_immudb(immudb.port()));
    let answers = |state| !matches!(state, State::Unspecified | State::Fallback | State::Copying);
    let stats = other.wait_for("an answer of ImmuDB", |stats| answers(stats.state())).await;
    assert_eq!(stats.state(), State::Fenced, "{}", other.log());

    service.restart().await;
    service.wait_until_forwarded().await;
}

/// An index file that cannot be read is rebuilt in memory, and is written once that is possible.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_can_not_be_written_stops_nothing() {
    for fault in [Fault::Full, Fault::OutOfFiles, Fault::ReadOnly] {
        let setup = Setup::local().set("event_sourcing", "segment_bytes_max: 1048576");
        let (mut service, disk) = start(setup, "index").await;
        let mut client = service.client();
        let first = request(vec![event("room-1")]);
        client.append_events(first.clone()).await.unwrap();
        disk.set(fault);
        // More than the index keeps in memory.
        let data = Some(Data::Binary(vec![7; 900_000].into()));
        let mut stored = 1;
        while stored < 20 {
            append(&mut client, vec![NewEvent { data: data.clone(), ..event("room-1") }]).await;
            stored += 1;
        }
        service.wait_for_log("cannot write index files").await;
        let said = service.log().matches("cannot write index files").count();
        assert_eq!(said, 1, "one line a minute:\n{}", service.log());
        assert_eq!(load(&mut client, "room-1").await.len(), stored, "{fault:?}");
        assert!(client.append_events(first).await.unwrap().into_inner().already_stored, "{fault:?}");
        service.kill();
        service.restart().await;
        let mut client = service.client();
        assert_eq!(load(&mut client, "room-1").await.len(), stored, "{fault:?}, after a restart");
        append(&mut client, vec![event("room-1")]).await;
        disk.set(Fault::Nothing);
        service.stop();
        service.restart().await;
        let index = service.storage().join("index");
        let files = || {
            let mut entries = std::fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path());
            entries.any(|path| path.extension().is_some_and(|end| end == "index"))
        };
        service.stop();
        assert!(files(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_appends_only_as_long_as_it_is_full() {
    let (service, disk) = start(Setup::local(), "log").await;
    let mut client = service.client();
    let before = request(vec![event("room-1")]);
    client.append_events(before.clone()).await.unwrap();
    disk.set(Fault::Full);
    for _ in 0..20 {
        let status = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
        assert_eq!(reason(&status), "DISK_FULL", "{status:?}");
    }
    assert!(client.append_events(before).await.unwrap().into_inner().already_stored);
    disk.set(Fault::Nothing);
    append(&mut client, vec![event("room-1")]).await;
    assert_eq!(load(&mut client, "room-1").await.len(), 2);
    service.wait_for_log("writes to the local log fail").await;
    let said = service.log().matches("writes to the local log fail").count();
    assert_eq!(said, 1, "one line a minute:\n{}", service.log());
}

/// Some file systems cannot allocate ahead, and a disk may be too full for it: then appends are
/// just slower.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_space_can_not_be_allocated_takes_appends_all_the_same() {
    for fault in [Fault::Nothing, Fault::CannotAllocate] {
        let (mut service, disk) = start(Setup::local(), "log").await;
        disk.set(fault);
        let mut client = service.client();
        append(&mut client, vec![event("room-1")]).await;
        append(&mut client, vec![event("room-1")]).await;
        let segment = service.storage().join("log/0000000001.segment");
        let length = || std::fs::metadata(&segment).unwrap().len();
        let allocated = length();
        assert_eq!(allocated > 10_000, fault == Fault::Nothing, "{fault:?}: {allocated} bytes");
        service.kill();
        service.restart().await;
        assert!(!service.log().contains("removed the torn tail"), "{fault:?}:\n{}", service.log());
        assert_eq!(load(&mut service.client(), "room-1").await.len(), 2, "{fault:?}");
        append(&mut service.client(), vec![event("room-1")]).await;
        assert!(service.stop().success());
        // A closed segment has nothing but frames.
        assert!(length() < 10_000, "{fault:?}: {} bytes", length());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_can_only_read_serves_reads_and_takes_writes_once_it_can() {
    let setup = Setup::local().set("event_sourcing", "log_failure_grace: 0");
    let (mut service, disk) = start(setup, "").await;
    let stored = request(vec![event("room-1"), event("room-2")]);
    service.client().append_events(stored.clone()).await.unwrap();
    let last = request(vec![event("room-3")]);
    service.client().append_events(last.clone()).await.unwrap();
    disk.set(Fault::ReadOnly);
    let status = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
    assert_eq!(service.wait().code(), Some(1), "{}", service.log());

    service.launch();
    service.wait_for_health("reads", true).await;
    let mut client = service.client();
    assert_eq!(load(&mut client, "room-1").await.len(), 1);
    assert!(client.append_events(stored).await.unwrap().into_inner().already_stored);
    // It is unknown whether the last group is on disk, or only in memory since a sync that failed.
    let status = client.append_events(last).await.unwrap_err();
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
    let status = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "LOCAL_LOG_FAILED"));
    assert!(service.log().contains("storage is not writable"), "{}", service.log());
    service.wait_for_health("", false).await;

    disk.set(Fault::Nothing);
    service.wait_for_health("", true).await;
    append(&mut service.client(), vec![event("room-1")]).await;
    assert_eq!(load(&mut service.client(), "room-1").await.len(), 2);
    assert!(service.stop().success());
}

/// Each round hits another of the files that are opened when the log continues with a new segment.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_used_up_refuse_appends_until_some_are_free_again() {
    let setup = Setup::local().set("event_sourcing", "segment_bytes_max: 1048576");
    let mut service = Service::start(setup).await;
    let mut client = service.client();
    let process = service.process_id();
    let large =
        || request(vec![NewEvent { data: Some(Data::Binary(vec![7; 300_000].into())), ..event("room-1") }]);
    let mut stored = 0;
    for spare in 0..4 {
        client.append_events(large()).await.unwrap();
        let free = descriptors::lowest_free(process).unwrap();
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = |limit| prlimit(Pid::from_raw(process as i32), Resource::Nofile, limit).unwrap();
        let before = limit(Rlimit { current: Some(free + spare), maximum });
        let mut taken = 1;
        let status = loop {
            match client.append_events(large()).await {
                Ok(_) => taken += 1,
                Err(status) => break status,
            }
            assert!(taken < 100, "with {spare} files that may be opened, all appends are taken");
        };
        assert_eq!(reason(&status), "NOT_WRITTEN", "{spare}: {status:?}");
        limit(before);
        stored += taken;
        client.append_events(large()).await.unwrap();
        stored += 1;
    }
    assert_eq!(load(&mut client, "room-1").await.len(), stored);
    assert!(service.is_running());
}
