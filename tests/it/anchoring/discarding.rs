//! `repair --discard-after-damage` shortens the history, and a generation begins.

use std::{fs, os::unix::process::ExitStatusExt};

use aethyr_event_store::{
    crash_point::CrashPoint,
    grpc::wire::{NewEvent, new_event::Data},
};
use rustix::process::Signal;
use tempfile::tempdir;

use super::{Before, file_anchor, with_anchors};
use crate::{
    proving::with_checkpoints,
    support::{
        events::{append, event, whole_order},
        service::{Service, Setup},
    },
};

const EVENTS: u8 = 8;
/// The first event that is discarded.
const DAMAGED: usize = 5;

/// Flips a bit at the first occurrence of `text` in the log.
fn damage(service: &Service, text: &str) {
    for path in service.segments() {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            bytes[at] ^= 1;
            return fs::write(path, bytes).unwrap();
        }
    }
    panic!("{text} is not in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_end_begins_a_generation_and_keeps_what_was_proven() {
    discard(None).await;
}

/// Discards the end of the history. If there is a crash point, the first attempt ends there.
pub async fn discard(crash: Option<CrashPoint>) {
    let dir = tempdir().unwrap();
    let anchor = dir.path().join("anchor");
    let setup = Setup::local().set("event_sourcing", "segment_bytes_max: 1048576");
    let setup = with_anchors(with_checkpoints(setup), &[file_anchor(&anchor)]);
    let mut service = Service::start(setup.clone()).await;
    for number in 1..=EVENTS {
        let data = Some(Data::Binary(vec![number; 300_000].into()));
        let event_type = format!("Large{number}");
        append(&mut service.client(), vec![NewEvent { data, event_type, ..event("room-1") }]).await;
    }
    let before = Before::of(&service, &anchor, DAMAGED - 1).await;
    assert!(service.stop().success());
    damage(&service, &format!("Large{DAMAGED}"));
    if let Some(point) = crash {
        service.reconfigure(setup.clone().crash_at(point));
        let ended = service.command(&["repair", "--discard-after-damage"]).status().unwrap();
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{} was not reached", point.name());
        service.reconfigure(setup);
    }
    let (done, said) = service.run(&["repair", "--discard-after-damage"]);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, before.order[..DAMAGED - 1]);
    before.assert_next_generation(&mut service, &anchor).await;
}
