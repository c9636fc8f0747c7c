//! Tests of the follower: the figures are those of the log, whatever happens to the file.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{
    sequencer::{
        Append, Origin,
        tests::{Running, in_folder, one_event, start},
    },
    usage::StoredUse,
};

struct World {
    running: Running,
    usage: Usage,
    /// Removed after the sequencer has written its index.
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { running: start(&in_folder(&folder)), usage: Usage::default(), folder }
    }

    /// Stores one event of each type in one append.
    async fn append(&self, by: &str, types: &[&str]) {
        let events = types.iter().flat_map(|name| {
            let mut append = one_event("a");
            append.events[0].0.event_type = (*name).into();
            append.events
        });
        let append = Append { events: events.collect(), expected: Vec::new() };
        let origin = Origin { recorded_by: by.into(), ..Origin::default() };
        self.running.sequencer.append(append, origin).await.unwrap();
    }

    fn settings(&self, types_max: u64) -> UsageSettings {
        UsageSettings { path: self.folder.path().join("log.usage"), types_max }
    }

    fn follower(&self, types_max: u64) -> Follower {
        let Running { sequencer, history, .. } = &self.running;
        let (settings, tip) = (self.settings(types_max), sequencer.watch_tip());
        let (usage, stopping) = (self.usage.clone(), CancellationToken::new());
        let mut follower = Follower::new(settings, usage, history.clone(), tip, stopping);
        follower.intervals.write = Duration::ZERO;
        follower
    }

    fn stored(&self, name: &str) -> StoredUse {
        let stored = self.usage.stored();
        stored.into_iter().find(|(one, _)| **one == *name).map(|(_, stored)| stored).unwrap_or_default()
    }

    fn types(&self) -> [u64; 2] {
        ["arena", "town"].map(|name| self.stored(name).types)
    }

    /// Returns the bytes of all records of an identity, read one by one.
    fn bytes(&self, name: &str) -> u64 {
        let Running { sequencer, history, .. } = &self.running;
        let tip = sequencer.tip();
        let records = (1..=tip.position.0).map(|position| {
            let record = history.record_at(Position(position), tip).unwrap().bytes;
            let is_theirs = crate::event::record::recorded_by(&record) == name.as_bytes();
            if is_theirs { record.len() as u64 } else { 0 }
        });
        records.sum()
    }
}

#[tokio::test]
async fn bytes_and_types_go_to_the_identity_that_stored_them_first() {
    let world = World::new();
    world.append("", &["Old"]).await;
    world.append("arena", &["Old", "A", "B", "A"]).await;
    world.append("town", &["A", "C"]).await;
    let mut follower = world.follower(10);
    follower.round().unwrap();
    assert_eq!(world.types(), [2, 1]);
    world.append("town", &["A", "B", "D", "D"]).await;
    world.append("arena", &["D"]).await;
    follower.round().unwrap();
    assert_eq!(world.types(), [2, 2]);
    for name in ["arena", "town"] {
        assert!(world.bytes(name) > 100, "{name}");
        assert_eq!(world.stored(name).bytes, world.bytes(name), "{name}");
    }
    assert_eq!(world.usage.stored().len(), 2, "events of nobody are not counted");
}

#[tokio::test]
async fn small_batches_and_large_frames_count_each_record_once() {
    let world = World::new();
    for number in 0..30 {
        world.append(if number % 3 == 0 { "arena" } else { "town" }, &["A", "B"]).await;
    }
    let mut large = one_event("a");
    // A frame above 256 KiB is not checked at once.
    large.events[0].0.content = crate::event::Content::Json("j".repeat(400_000));
    large.events[0].1 = crate::event::ContentDigest::of(&large.events[0].0);
    let mut append = one_event("a");
    append.events.extend(large.events);
    append.events.extend(one_event("a").events);
    let origin = Origin { recorded_by: "arena".into(), ..Origin::default() };
    world.running.sequencer.append(append, origin).await.unwrap();
    let mut follower = world.follower(10);
    follower.intervals.batch = Duration::ZERO;
    follower.round().unwrap();
    for name in ["arena", "town"] {
        assert_eq!(world.stored(name).bytes, world.bytes(name), "{name}");
    }
    assert!(world.stored("arena").bytes > 400_000);
}

#[tokio::test]
async fn a_restart_continues_the_file_and_a_lost_one_is_derived_again() {
    let world = World::new();
    world.append("arena", &["A", "B"]).await;
    let mut follower = world.follower(10);
    follower.round().unwrap();
    assert_eq!(Kept::load(&world.settings(10).path).unwrap().unwrap().derived, follower.derived);
    world.append("arena", &["C"]).await;
    world.append("town", &["D"]).await;
    let (expected, path) = ([3, 1], world.settings(10).path);
    let whole = fs::read(&path).unwrap();
    for contents in [Some(&whole[..]), None, Some(&b""[..]), Some(&whole[..40])] {
        match contents {
            Some(contents) => fs::write(&path, contents).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let mut follower = world.follower(10);
        follower.round().unwrap();
        assert_eq!(world.types(), expected);
        assert_eq!(world.stored("arena").bytes, world.bytes("arena"));
    }
}

#[tokio::test]
async fn figures_of_another_history_or_limit_are_not_used() {
    let [old, new] = [World::new(), World::new()];
    for (world, by) in [(&old, "arena"), (&new, "town")] {
        world.append(by, &["A", "B", "C"]).await;
    }
    old.follower(10).round().unwrap();
    fs::copy(old.settings(10).path, new.settings(10).path).unwrap();
    new.follower(10).round().unwrap();
    assert_eq!(new.types(), [0, 3]);
    old.append("arena", &["D"]).await;
    old.follower(10).round().unwrap();
    // It is ahead of the log.
    fs::copy(old.settings(10).path, new.settings(10).path).unwrap();
    new.follower(10).round().unwrap();
    assert_eq!(new.types(), [0, 3]);
    new.follower(2).round().unwrap();
    assert_eq!(new.types(), [0, 2]);
    new.follower(10).round().unwrap();
    assert_eq!(new.types(), [0, 3]);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_stops_nothing() {
    let world = World::new();
    let path = world.settings(10).path;
    fs::create_dir(&path).unwrap();
    world.append("arena", &["A"]).await;
    let mut follower = world.follower(10);
    follower.round().unwrap();
    assert_eq!(world.types(), [1, 0]);
    fs::remove_dir(&path).unwrap();
    world.append("arena", &["B"]).await;
    follower.round().unwrap();
    assert_eq!(Kept::load(&path).unwrap().unwrap().derived.position, Position(2));
}

#[tokio::test]
async fn a_damaged_log_is_read_again_once_it_is_whole() {
    let world = World::new();
    world.append("arena", &["A"]).await;
    let mut follower = world.follower(10);
    follower.round().unwrap();
    world.append("arena", &["B"]).await;
    let segment = in_folder(&world.folder).log_path.join("0000000001.segment");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[usize::try_from(world.running.sequencer.tip().end.offset).unwrap() - 10] ^= 1;
    // In place, because the file is open.
    fs::write(&segment, &damaged).unwrap();
    let error = follower.round().unwrap_err();
    follower.fail(&error);
    assert_eq!(world.types(), [1, 0]);
    fs::write(&segment, &whole).unwrap();
    follower.round().unwrap();
    assert_eq!(world.types(), [2, 0]);
    assert_eq!(world.stored("arena").bytes, world.bytes("arena"));
}

#[tokio::test]
async fn the_thread_follows_the_log_and_writes_the_file_at_its_end() {
    let world = World::new();
    let Running { sequencer, history, .. } = &world.running;
    let (settings, stopping) = (world.settings(10), CancellationToken::new());
    let (tip, usage) = (sequencer.watch_tip(), world.usage.clone());
    let ended = follow(settings.clone(), usage, history.clone(), tip, stopping.clone()).unwrap();
    for round in 1..4u64 {
        world.append("arena", &[&*format!("Type{round}")]).await;
        while world.stored("arena").types < round {
            tokio::task::yield_now().await;
        }
    }
    stopping.cancel();
    ended.await;
    let kept = Kept::load(&settings.path).unwrap().unwrap();
    assert_eq!(kept.derived.position, Position(3));
}
