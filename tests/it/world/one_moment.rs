//! The read models show the world at a single moment, and the position that they name is the
//! position of that moment.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Game, caught_up, read_models, room, thing};
use crate::support::service::{Service, Setup};

/// The number of objects that one call creates, and the length of their texts. Together they are
/// several times as large as a single read.
const OBJECTS: u64 = 5;
const TEXT_BYTES: usize = 500_000;

fn large_call(call: u64) -> Value {
    let create = |number| {
        let id = format!("o-{call}-{number}");
        let attributes = json!({"text": "x".repeat(TEXT_BYTES)});
        json!({"create_game_object": {"id": id, "type": "Thing", "attributes": attributes}})
    };
    (0..OBJECTS).map(create).collect()
}

/// Returns the number of objects and the position in the file, as another program sees them.
fn seen(tables: &Connection) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT (SELECT count(*) FROM game_objects), (SELECT max(position) FROM projections)";
    tables.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
}

/// Reads the file until `over` is set, and asserts that it never shows half of a call. Returns the
/// number of reads.
fn watch_for_halves(path: std::path::PathBuf, over: &AtomicBool) -> u64 {
    let mut looks = 0;
    while !over.load(Ordering::Relaxed) {
        // During a rebuild there is no file, or no table in it.
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(tables) = Connection::open_with_flags(&path, flags) else { continue };
        while let (false, Ok((objects, position))) = (over.load(Ordering::Relaxed), seen(&tables)) {
            assert_eq!(objects % OBJECTS, 0, "half of a call shows");
            assert_eq!(position % OBJECTS, 0, "the position is in the middle of a call");
            looks += 1;
            if !path.exists() {
                break;
            }
        }
    }
    looks
}

#[tokio::test(flavor = "multi_thread")]
async fn no_half_of_a_call_shows_neither_when_it_comes_nor_in_catching_up_nor_in_a_rebuild() {
    const CALLS: u64 = 8;
    let mut service = Service::start(Setup::local()).await;
    let file = service.storage().join("read_models.sqlite");
    let over = &AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let watching = scope.spawn({
            let file = file.clone();
            move || watch_for_halves(file, over)
        });
        // Sets the flag even if an assertion below fails.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let ends = Over(over);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let game = Game::of(&service).await;
                for call in 0..CALLS {
                    game.execute(large_call(call)).await;
                    caught_up(&service).await;
                }
                service.stop();
                std::fs::remove_file(&file).unwrap();
                service.restart().await;
                caught_up(&service).await;
                let tables = Connection::open(&file).unwrap();
                tables.execute("UPDATE game_objects SET generic = 'forged' WHERE id = 'o-0-0'", []).unwrap();
                drop(tables);
                let report = Game::of(&service).await.rebuild().await;
                assert_eq!(report["differences"]["game_objects"], 1, "{report}");
            });
        });
        drop(ends);
        watching.join().unwrap()
    });
    assert!(looks > CALLS, "it was looked at {looks} times only");
    assert_eq!(seen(&read_models(&service)).unwrap(), (CALLS * OBJECTS, CALLS * OBJECTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_names_exactly_the_moment_that_it_shows() {
    const CALLERS: usize = 4;
    const CALLS: usize = 240;
    // With this many lists, some are being read when the tables move on.
    const LISTERS: usize = 4;
    let service = Service::start(Setup::local()).await;
    let game = &Game::of(&service).await;
    let writing = AtomicBool::new(true);
    let write = async {
        // Each call is one event and one object.
        let callers = (0..CALLERS).map(async |caller| {
            for call in 0..CALLS {
                game.execute(json!([thing(&format!("t-{caller}-{call}"), "")])).await;
            }
        });
        join_all(callers).await;
        writing.store(false, Ordering::Relaxed);
    };
    let list = async |_| {
        while writing.load(Ordering::Relaxed) {
            let page = game.ask("ListGameObjects", json!({"page_size": 1000})).await;
            let shown = page["game_objects"].as_array().map_or(0, Vec::len);
            assert_eq!(page["read_model_position"].as_u64().unwrap_or(0), shown as u64);
        }
    };
    tokio::join!(write, join_all((0..LISTERS).map(list)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_of_a_list_goes_on_with_events_that_change_nothing_in_it() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r")])).await;
    // The tables have the room by now, and are not written again.
    caught_up(&service).await;
    let quest = json!({"events": [{"aggregate_id": "q", "aggregate_type": "Quest", "event_type": "QuestBegun", "json": "{}"}]});
    game.store("AppendEvents", quest).await;
    caught_up(&service).await;
    let page = game.ask("ListGameObjects", json!({})).await;
    assert_eq!(page["read_model_position"], 3);
}
