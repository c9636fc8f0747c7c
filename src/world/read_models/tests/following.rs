//! Tests of following a log: which events are applied, how the position advances over the others,
//! and what happens at a damaged event.

use std::sync::Arc;

use tempfile::{TempDir, tempdir};

use super::{Counting, times};
use crate::{
    error::StoreError,
    event::Position,
    sequencer::tests::{in_folder, start},
    store::tests::{damage_log, local_store, of_types},
    world::read_models::{
        Checkpoint, ReadModels,
        projections::Projection,
        projector::{ProjectorError, follow},
    },
};

/// Returns read models with a projection of the aggregate type `Room`.
fn of_rooms(folder: &TempDir) -> ReadModels {
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
    ReadModels::new(folder.path().join("read_models.sqlite"), u64::MAX, projections)
}

/// Returns where the tables are, and how often each of the events up to `last` was applied.
fn applied(read_models: &ReadModels, last: u64) -> (Checkpoint, Vec<u64>) {
    let writer = read_models.writer();
    let tables = writer.as_ref().unwrap();
    (tables.reached(), times(tables, last))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_other_aggregates_are_skipped_and_the_position_advances() {
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let (store, read_models) = (local_store(&running), of_rooms(&folder));
    store.append(of_types(&["Quest", "Room", "Quest"])).await.unwrap();
    let (kept, at_end) = follow(&store, &read_models, None, store.tip()).unwrap();
    assert_eq!((at_end, read_models.position()), (true, Position(3)));
    let first = Checkpoint { position: Position(3), hash: store.tip().hash };
    assert_eq!(applied(&read_models, 3), (first, vec![0, 1, 0]));
    for _ in 0..3 {
        store.append(of_types(&["Quest", "Quest"])).await.unwrap();
    }
    let (kept, at_end) = follow(&store, &read_models, Some(kept), store.tip()).unwrap();
    assert_eq!((at_end, read_models.position()), (true, Position(9)));
    assert_eq!(applied(&read_models, 0).0, first, "the file was written for nothing");
    store.append(of_types(&["Quest", "Room"])).await.unwrap();
    let (_, at_end) = follow(&store, &read_models, Some(kept), store.tip()).unwrap();
    assert_eq!((at_end, read_models.position()), (true, Position(11)));
    let last = Checkpoint { position: Position(11), hash: store.tip().hash };
    assert_eq!(applied(&read_models, 11), (last, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    // From the start, the result is the same.
    read_models.renew(Position(11)).unwrap();
    follow(&store, &read_models, None, store.tip()).unwrap();
    assert_eq!(applied(&read_models, 11), (last, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_append_with_a_damaged_event_is_applied() {
    for damaged in ["of Room", "of Quest"] {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let (store, read_models) = (local_store(&running), of_rooms(&folder));
        store.append(of_types(&["Room"])).await.unwrap();
        let (kept, _) = follow(&store, &read_models, None, store.tip()).unwrap();
        let before = applied(&read_models, 3);
        assert_eq!(before.1, [1, 0, 0]);
        store.append(of_types(&["Quest", "Room"])).await.unwrap();
        damage_log(&folder, damaged);
        for kept in [Some(kept), None] {
            let failed = follow(&store, &read_models, kept, store.tip()).unwrap_err();
            assert!(matches!(failed, ProjectorError::Store(StoreError::Damaged(_))), "{damaged}: {failed}");
            assert_eq!((applied(&read_models, 3), read_models.position()), (before.clone(), Position(1)));
        }
    }
}
