//! Tests of the name that each event gets: that of the identity that stored it first.

use futures_util::future::join_all;
use tempfile::tempdir;

use super::{Running, in_folder, one_event, start};
use crate::{
    event::{ContentDigest, Position},
    sequencer::{Append, Origin, RestoredTransaction},
};

/// The identity that sends the same events again, or in the same group, gets the answer of the
/// first. A name in the metadata of an event is not the name of an identity.
#[tokio::test]
async fn an_event_has_the_name_of_the_identity_that_stored_it_first() {
    let folder = tempdir().unwrap();
    let by = |name: &str| Origin { recorded_by: name.into(), ..Origin::default() };
    let running = start(&in_folder(&folder));
    let mut one = one_event("a");
    one.events.extend(one_event("b").events);
    for (event, digest) in &mut one.events {
        event.metadata.insert("recorded_by".to_owned(), "forged".to_owned());
        *digest = ContentDigest::of(event);
    }
    let again = || Append { events: one.events.clone(), expected: Vec::new() };
    let in_one_group = [by("arena-1"), by("arena-2")].map(|by| running.sequencer.append(again(), by));
    let answers = join_all(in_one_group).await.into_iter().map(Result::unwrap);
    assert_eq!(answers.map(|stored| stored.already).collect::<Vec<_>>(), [false, true]);
    assert!(running.sequencer.append(again(), by("arena-2")).await.unwrap().already);
    assert!(running.sequencer.append(again(), Origin::default()).await.unwrap().already);
    running.sequencer.append(one_event("a"), by("arena-2")).await.unwrap();
    running.sequencer.append(one_event("a"), Origin::default()).await.unwrap();
    let names = |running: &Running| -> Vec<String> {
        let tip = running.sequencer.tip();
        let event = |position| running.history.event_at(Position(position), tip).unwrap();
        (1..=tip.position.0).map(|position| event(position).recorded_by.to_string()).collect()
    };
    let expected = ["arena-1", "arena-1", "arena-2", ""];
    assert_eq!(names(&running), expected);
    drop(running);
    assert_eq!(names(&start(&in_folder(&folder))), expected);
}

/// What was restored keeps the name that it has in its records.
#[tokio::test]
async fn restored_events_keep_the_name_of_their_identity() {
    let folders = [tempdir().unwrap(), tempdir().unwrap()];
    let [source, copy] = [&folders[0], &folders[1]].map(|folder| start(&in_folder(folder)));
    let origin = Origin { recorded_by: "arena-1".into(), ..Origin::default() };
    source.sequencer.append(one_event("a"), origin).await.unwrap();
    let tip = source.sequencer.tip();
    let stored = source.history.record_at(Position(1), tip).unwrap();
    let appends = vec![vec![stored.bytes]];
    let transaction = RestoredTransaction { appends, ..RestoredTransaction::default() };
    assert_eq!(copy.sequencer.restore(vec![transaction]).await.unwrap().hash, tip.hash);
    let restored = copy.history.event_at(Position(1), copy.sequencer.tip()).unwrap();
    assert_eq!((&*restored.recorded_by, restored.hash), ("arena-1", stored.hash));
}
