//! The storage and ImmuDB are put back to the same older moment. They fit to each other, and only
//! an anchor shows it.

use std::{fs, path::PathBuf};

use aethyr_event_store::grpc::wire::{State, StatsResponse, StoredIn};
use tempfile::{TempDir, tempdir};

use super::{
    ANCHOR_DIFFERS, against, against_storage, assert_continues_anchor, file_anchor, findings, sizes,
    wait_for_size, with_anchors,
};
use crate::{
    copy::copy_folder,
    proving::{checkpoint_of, with_checkpoints},
    support::{
        events::{append_to, whole_order},
        immudb::ImmuDb,
        service::{Service, Setup},
    },
};

const EVENTS: u64 = 5;

struct Story {
    immudb: ImmuDb,
    service: Service,
    anchor: PathBuf,
    dir: TempDir,
}

impl Story {
    /// Starts with some events in ImmuDB, and with a checkpoint over them in the anchor.
    async fn begin() -> Self {
        let dir = tempdir().unwrap();
        let immudb = ImmuDb::start(&dir.path().join("immudb")).await;
        let anchor = dir.path().join("anchor");
        let setup = with_checkpoints(Setup::with_immudb(immudb.port())).set("immudb", "keep_alive: 90.0");
        let service = Service::start(with_anchors(setup, &[file_anchor(&anchor)])).await;
        let story = Self { immudb, service, anchor, dir };
        story.append_and_anchor(EVENTS).await;
        story
    }

    /// Appends, and waits for the checkpoint over everything.
    async fn append_and_anchor(&self, count: u64) {
        append_to(&mut self.service.client(), "room-1", count as usize).await;
        let last = self.service.wait_until_forwarded().await.last_position;
        wait_for_size(&self.service, &self.anchor, last).await;
    }

    /// The storage and ImmuDB's data, with the places of their copies.
    fn folders(&self) -> [(PathBuf, PathBuf); 2] {
        let kept = |name: &str| self.dir.path().join(name);
        [(self.service.storage(), kept("kept-storage")), (self.immudb.data(), kept("kept-data"))]
    }

    async fn stop(&mut self) {
        assert!(self.service.stop().success());
        self.immudb.stop().await;
    }

    async fn restart(&mut self) {
        self.immudb.restart().await;
        self.service.restart().await;
    }

    async fn keep_both(&mut self) {
        self.stop().await;
        for (folder, kept) in self.folders() {
            copy_folder(&folder, &kept);
        }
        self.restart().await;
    }

    /// Puts both back, and leaves them stopped.
    async fn put_both_back(&mut self) {
        self.stop().await;
        for (folder, kept) in self.folders() {
            fs::remove_dir_all(&folder).unwrap();
            fs::rename(kept, folder).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_immudb_the_finding_of_an_anchor_is_accepted_as_well() {
    let dir = tempdir().unwrap();
    let (anchor, kept) = (dir.path().join("anchor"), dir.path().join("kept"));
    let setup = with_anchors(with_checkpoints(Setup::local()), &[file_anchor(&anchor)]);
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", EVENTS as usize).await;
    wait_for_size(&service, &anchor, EVENTS).await;
    assert!(service.stop().success());
    copy_folder(&service.storage(), &kept);
    service.restart().await;
    append_to(&mut service.client(), "room-1", EVENTS as usize).await;
    wait_for_size(&service, &anchor, 2 * EVENTS).await;
    assert!(service.stop().success());
    fs::remove_dir_all(service.storage()).unwrap();
    fs::rename(&kept, service.storage()).unwrap();
    service.restart().await;
    service.wait_for("the finding is recorded", |stats| stats.open_findings > 0).await;
    assert!(findings(&service).iter().any(|kind| kind == ANCHOR_DIFFERS));
    assert!(service.stop().success());
    let command = ["resolve", "--because", "the disk was restored", "--accept-findings", "1"];
    let (done, said) = service.run(&command);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(service.stats().await.open_findings, 0);
    // The event that says so is behind what was put back, and the checkpoints have another origin.
    let last = service.stats().await.last_position;
    assert_eq!(last, EVENTS + 1);
    let newest = checkpoint_of(&service, last).await;
    assert!(newest.checkpoint.contains(&format!("/2\n{last}\n")), "{}", newest.checkpoint);
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_and_immudb_put_back_together_are_tampering_because_of_the_anchor() {
    let mut story = Story::begin().await;
    story.keep_both().await;
    story.append_and_anchor(EVENTS).await;
    let order = whole_order(&mut story.service.client()).await;
    assert_continues_anchor(&story.service, &story.anchor, &order).await;
    let anchored = sizes(&story.anchor);
    let first_lost = anchored.iter().copied().find(|size| *size > EVENTS).unwrap();
    let assert_names_first = |(code, said): (Option<i32>, String)| {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&first_lost.to_string()), "{said} does not name {first_lost}");
    };

    story.put_both_back().await;
    assert_names_first(against_storage(&story.service, &story.anchor));
    story.immudb.restart().await;
    story.service.restart().await;
    story.service.wait_for_state(State::Tampered).await;
    let is_recorded = |stats: &StatsResponse| stats.open_findings > 0;
    story.service.wait_for("the finding is recorded", is_recorded).await;
    assert!(findings(&story.service).iter().any(|kind| kind == ANCHOR_DIFFERS));
    story.service.wait_for_health("immudb", false).await;
    assert_names_first(against(&story.service, &story.anchor));

    // The game goes on, with another history behind the moment.
    let answers = append_to(&mut story.service.client(), "room-1", 2 * EVENTS as usize).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::LocalLog));
    let later = whole_order(&mut story.service.client()).await;
    assert_eq!(later.len() as u64, 3 * EVENTS);
    assert_eq!(later[..EVENTS as usize], order[..EVENTS as usize]);
    assert_names_first(against(&story.service, &story.anchor));
    assert!(story.service.stop().success());
    assert_names_first(against_storage(&story.service, &story.anchor));
    story.service.restart().await;
    story.service.wait_for_state(State::Tampered).await;

    // An operator accepts it: the next checkpoints have another origin, and the former ones hold up
    // to where both histories agree.
    let numbers: Vec<String> =
        (1..=findings(&story.service).len()).map(|number| number.to_string()).collect();
    assert!(story.service.stop().success());
    let mut command = vec!["resolve", "--because", "both disks were restored", "--accept-findings"];
    command.extend(numbers.iter().map(String::as_str));
    let (done, said) = story.service.run(&command);
    assert!(done, "{said}");
    story.service.restart().await;
    let last = story.service.wait_until_forwarded().await.last_position;
    let newest = checkpoint_of(&story.service, last).await;
    assert!(newest.checkpoint.contains(&format!("/2\n{last}\n")), "{}", newest.checkpoint);
    assert!(newest.checkpoint.contains(&format!("\nagreed {EVENTS}\n")), "{}", newest.checkpoint);
    let (code, said) = against(&story.service, &story.anchor);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(story.service.stats().await.open_findings, 0);
}
