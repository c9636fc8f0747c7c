//! Events that Aethyr's own event store has written, imported from its files and from its keys in
//! ImmuDB. The samples were written by Aethyr.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::{
    grpc::wire::{NewEvent, RecordedEvent, State, recorded_event::Data},
    immudb::{KeyValue, Session},
};
use serde_json::{Value, json};
use tempfile::tempdir;
use uuid::Uuid;

use crate::{
    copy::copy_folder,
    support::{
        events::{append, event, whole_order},
        immudb::ImmuDb,
        service::{Service, Setup},
    },
    world::Game,
};

const ROOM: &str = "476dfe3e-96bc-1952-fadd-26c22043a5a3";
const PLAYER: &str = "a51f6e9c-2b04-4c7d-9e31-0d5c8b7a6f12";
const SWORD: &str = "0c3d5e7f-1122-3344-5566-778899aabbcc";
/// When the first of the samples was created.
const CREATED_AT: (i64, i32) = (1_750_879_496, 123_456_789);

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/import_aethyr/samples")
}

/// A service that was never started, with the samples in the directory `aethyr`.
fn with_samples(setup: Setup) -> Service {
    // The samples are older than a clock may be that is not confirmed.
    let service = Service::new(setup.arguments(&["serve", "--accept-clock"]));
    copy_folder(&samples(), &service.dir().join("aethyr"));
    service
}

fn time(at: Option<&prost_types::Timestamp>) -> (i64, i32) {
    at.map(|at| (at.seconds, at.nanos)).unwrap()
}

fn data(event: &RecordedEvent) -> Value {
    let Some(Data::Json(text)) = &event.data else { panic!("{event:?}") };
    serde_json::from_str(text).unwrap()
}

/// Returns whether the command succeeded, and what it printed.
fn report(service: &Service, arguments: &[&str]) -> (bool, String) {
    let output = service.command(arguments).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn numbers(order: &[RecordedEvent], aggregate: &str) -> Vec<u64> {
    let of = order.iter().filter(|event| event.aggregate_id == aggregate);
    of.map(|event| event.sequence_number).collect()
}

async fn assert_world(service: &Service) {
    let game = Game::of(service).await;
    let room = game.room(ROOM).await;
    let object = &room["object"];
    assert_eq!((&object["name"], &object["type"]), (&json!("Forest Clearing"), &json!("Room")));
    assert_eq!(room["description"], "A sunlit clearing.");
    assert_eq!(room["exits"], json!({"north": "5a5a5a5a-0000-1111-2222-333344445555"}));
    assert_eq!(object.get("container_id"), None, "nil is no container");
    let player = game.ask("GetPlayer", json!({ "id": PLAYER })).await["player"].clone();
    assert_eq!((&player["object"]["name"], &player["admin"]), (&json!("Alice"), &json!(true)));
    let before = json!({ "id": SWORD, "as_of": { "sequence_number": 4 } });
    let sword = game.ask("GetGameObject", before).await["game_object"].clone();
    assert_eq!(sword["container_id"], PLAYER);
    let attributes = &sword["attributes"];
    assert_eq!(attributes["tags"], json!({"__set__": [{"__symbol__": "sharp"}, "old"]}));
    assert_eq!(attributes["owner"], json!({ "__gameobject__": PLAYER }));
    assert_eq!(attributes["on_use"], json!({"__proc__": "unpersistable"}));
    assert_eq!([&attributes["neg"], &attributes["damage"]].map(Value::as_f64), [Some(-300.0), Some(2.5)]);
    assert_eq!(game.rebuild().await.get("damaged_total"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_are_imported_with_their_times_and_a_second_run_stores_nothing() {
    let mut service = with_samples(Setup::local());
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(done, "{said}");
    for line in
        ["events imported: 12", "log already had: 0", "the original ones", "snapshots not imported: 1"]
    {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    service.restart().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!(order.len(), 12);
    assert_eq!(time(order[0].recorded_at.as_ref()), CREATED_AT);
    for event in &order {
        assert_eq!(event.recorded_at, event.occurred_at, "{event:?}");
        assert_eq!(event.metadata["imported_from"], "aethyr");
    }
    for (id, kind) in [(ROOM, "Room"), (PLAYER, "Player"), (SWORD, "GameObject")] {
        let of = order.iter().filter(|event| event.aggregate_id == id);
        assert!(of.clone().all(|event| event.aggregate_type == kind), "{id}");
        assert_eq!(of.count(), fs::read_dir(samples().join(id)).unwrap().count());
    }
    assert_world(&service).await;
    service.stop();
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(done && said.contains("events imported: 0") && said.contains("already had: 12"), "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_reports_the_same_and_begins_no_log() {
    let service = with_samples(Setup::local());
    let (done, said) = report(&service, &["import-aethyr", "aethyr", "--dry-run"]);
    assert!(done && said.contains("events to import: 12"), "{said}");
    assert!(!service.storage().join("log").exists());
    assert!(report(&service, &["import-aethyr", "aethyr"]).0);
    let (done, said) = report(&service, &["import-aethyr", "aethyr", "--dry-run"]);
    assert!(done && said.contains("events to import: 0") && said.contains("already had: 12"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_with_a_fault_are_named_and_left_out_until_they_are_whole() {
    let mut service = with_samples(Setup::local());
    let aethyr = service.dir().join("aethyr");
    fs::remove_file(aethyr.join(ROOM).join("2.event")).unwrap();
    let whole = fs::read(aethyr.join(SWORD).join("3.event")).unwrap();
    fs::write(aethyr.join(SWORD).join("3.event"), &whole[..whole.len() - 9]).unwrap();
    fs::write(aethyr.join(PLAYER).join("other.event"), "").unwrap();
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(!done && said.contains("events imported: 3") && said.contains("left out: 3"), "{said}");
    assert!(said.contains(&format!("{ROOM}: event 2 is missing")), "{said}");
    assert!(said.contains(&format!("{SWORD}: event 3: byte 522: ")), "{said}");
    assert!(said.contains("other.event: its name is not that of an event"), "{said}");

    fs::remove_file(aethyr.join(PLAYER).join("other.event")).unwrap();
    fs::remove_dir_all(&aethyr).unwrap();
    copy_folder(&samples(), &aethyr);
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(done && said.contains("events imported: 9") && said.contains("already had: 3"), "{said}");
    assert!(said.contains("the original ones"), "the log had nothing else: {said}");
    service.restart().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!([ROOM, PLAYER, SWORD].map(|id| numbers(&order, id).len()), [4, 3, 5]);
    assert!(order.iter().any(|event| time(event.occurred_at.as_ref()) == CREATED_AT));
    assert_world(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_id_is_stored_twice_and_no_reserved_aggregate_is_written() {
    let mut service = with_samples(Setup::local());
    service.restart().await;
    // As a program would that makes the ids in the same way.
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("aethyr:{ROOM}:3").as_bytes()).to_string();
    append(&mut service.client(), vec![NewEvent { event_id: id.clone(), ..event("door-1") }]).await;
    service.stop();
    let aethyr = service.dir().join("aethyr");
    let reserved = format!("aethyr:{}", &SWORD[..SWORD.len() - 7]);
    fs::rename(aethyr.join(SWORD), aethyr.join(&reserved)).unwrap();
    for file in fs::read_dir(aethyr.join(&reserved)).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(SWORD.len()).position(|part| part == SWORD.as_bytes()).unwrap();
        bytes[at..at + SWORD.len()].copy_from_slice(reserved.as_bytes());
        fs::write(path, bytes).unwrap();
    }
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(!done && said.contains("events imported: 3"), "{said}");
    assert!(said.contains(&format!("{ROOM}: event 3: its id is that of another event")), "{said}");
    assert!(said.contains(&format!("{reserved}: its id begins with aethyr:")), "{said}");
    service.restart().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!(order.iter().filter(|event| event.event_id == id).count(), 1);
    assert_eq!(order.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_other_events_the_time_is_that_of_the_import_and_the_original_one_is_kept_beside_it() {
    let mut service = with_samples(Setup::local());
    service.restart().await;
    append(&mut service.client(), vec![event("door-1")]).await;
    let before = whole_order(&mut service.client()).await;
    service.stop();
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(done && said.contains("events imported: 12") && said.contains("that of the import"), "{said}");
    service.restart().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!(order[0], before[0]);
    assert_eq!(time(order[1].occurred_at.as_ref()), CREATED_AT);
    for event in &order[1..] {
        assert!(time(event.recorded_at.as_ref()) >= time(before[0].recorded_at.as_ref()));
    }
    assert_world(&service).await;
    service.stop();
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(done && said.contains("events imported: 0") && said.contains("already had: 12"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_that_the_log_continues_differently_is_left_out() {
    let mut service = with_samples(Setup::local());
    service.restart().await;
    append(&mut service.client(), vec![event(SWORD)]).await;
    service.stop();
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(!done && said.contains("events imported: 7"), "{said}");
    let reason = format!("{SWORD}: the log has a different event with the sequence number 1");
    assert!(said.contains(&reason), "{said}");
    service.restart().await;
    assert_eq!(numbers(&whole_order(&mut service.client()).await, SWORD), [1]);
}

/// Returns a mapping of texts in Ruby's Marshal format, with the number of the event.
fn marshalled(number: u8, texts: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len() + 5).unwrap();
        [b"I\"", [length].as_slice(), text.as_bytes(), b"\x06:\x06ET"].concat()
    };
    let mut bytes = vec![4, 8, b'{', u8::try_from(texts.len() + 1 + 5).unwrap()];
    bytes.extend([text("sequence_number"), vec![b'i', number + 5]].concat());
    texts.iter().for_each(|(key, value)| bytes.extend([text(key), text(value)].concat()));
    bytes
}

/// An object that Aethyr made a room after the first import.
#[tokio::test(flavor = "multi_thread")]
async fn new_events_of_an_imported_aggregate_do_not_change_its_type() {
    let mut service = with_samples(Setup::local());
    assert!(report(&service, &["import-aethyr", "aethyr"]).0);
    let described = [
        ("aggregate_id", SWORD),
        ("created_at", "2025-12-01T12:00:00Z"),
        ("class", "Aethyr::Core::EventSourcing::RoomDescriptionUpdated"),
        ("description", "A sword with a room in it."),
    ];
    let path = service.dir().join("aethyr").join(SWORD).join("6.event");
    fs::write(path, marshalled(6, &described)).unwrap();
    // The world cannot read the event, which is reported, and all others are known.
    let (_, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(said.contains("events imported: 1") && said.contains("already had: 12"), "{said}");
    assert!(said.contains(&format!("{SWORD}: event 6: ")) && !said.contains("different event"), "{said}");
    service.restart().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!(numbers(&order, SWORD), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        (order[12].event_type.as_str(), order[12].aggregate_type.as_str()),
        ("RoomDescriptionUpdated", "GameObject")
    );
    service.stop();
    let (_, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(said.contains("events imported: 0") && said.contains("already had: 13"), "{said}");
}

/// The event files of the service and those of Aethyr have the same layout and the same default
/// directory.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_commands_name_this_one() {
    let service = with_samples(Setup::local());
    fs::create_dir_all(service.storage()).unwrap();
    copy_folder(&service.dir().join("aethyr"), &service.storage().join("events"));
    for command in [&["serve"][..], &["import", "storage/events"]] {
        let (done, said) = service.run(command);
        assert!(!done && said.contains("aethyr-event-store import-aethyr"), "{command:?}: {said}");
    }
    let (done, said) = report(&service, &["import-aethyr", "storage/events"]);
    assert!(done && said.contains("before the service starts: move the directory away"), "{said}");
}

#[test]
fn what_is_no_directory_with_events_is_an_error() {
    let service = Service::new(Setup::local());
    fs::create_dir_all(service.dir().join("empty")).unwrap();
    for (arguments, expected) in [
        (&["import-aethyr", "absent"][..], "absent: is not a directory"),
        (&["import-aethyr", "empty"], "empty: found no events"),
        (&["import-aethyr", "empty", "--database", "x"], "--database is only possible"),
        (&["import-aethyr", "immudb"], "has no section immudb"),
    ] {
        let (done, said) = service.run(arguments);
        assert!(!done && said.contains(expected), "{arguments:?}: {said}");
    }
}

/// Writes the samples into a database as Aethyr does.
async fn fill(immudb: &ImmuDb) {
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let set = async |key: String, value: Vec<u8>| {
        session.set(vec![KeyValue { key: key.into(), value: value.into() }], vec![]).await.unwrap();
    };
    for (id, count) in [(ROOM, 4), (PLAYER, 3), (SWORD, 5)] {
        for number in 1..=count {
            let bytes = fs::read(samples().join(id).join(format!("{number}.event"))).unwrap();
            set(format!("event:{id}:{number}"), bytes).await;
            set(format!("sequence:{id}"), number.to_string().into_bytes()).await;
        }
    }
    let snapshot = fs::read(samples().join(format!("snapshots/{ROOM}.snapshot"))).unwrap();
    set(format!("snapshot:{ROOM}"), snapshot).await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_in_immudb_are_found_named_and_imported() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    fill(&immudb).await;
    let start = ["serve", "--accept-clock"];
    let mut service = Service::launched(Setup::with_immudb(immudb.port()).arguments(&start));
    service.wait_for_state(State::Suspect).await;
    let error = service.stats().await.immudb.unwrap().last_error;
    assert!(error.contains("import-aethyr immudb"), "{error}");
    service.kill();

    let (done, said) = report(&service, &["import-aethyr", "immudb"]);
    assert!(done && said.contains("events imported: 12") && said.contains("the original ones"), "{said}");
    assert!(said.contains("snapshots not imported: 1") && said.contains("set immudb.database"), "{said}");
    let keys = immudb.reader(&["--database", "aethyr", "txscan"]).len();
    let another = Setup::with_immudb(immudb.port()).set("immudb", "database: another");
    service.reconfigure(another.arguments(&start));
    service.restart().await;
    service.wait_for_state(State::Connected).await;
    service.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut service.client()).await.len(), 12);
    assert_world(&service).await;
    service.stop();
    let again = ["import-aethyr", "immudb", "--database", "aethyr"];
    let (done, said) = report(&service, &again);
    assert!(done && said.contains("events imported: 0") && said.contains("already had: 12"), "{said}");
    assert_eq!(immudb.reader(&["--database", "aethyr", "txscan"]).len(), keys, "nothing was written there");

    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let value = b"\x04\x08i\x06".as_slice().into();
    session.set(vec![KeyValue { key: "event:x:1".into(), value }], vec![]).await.unwrap();
    session.close().await;
    let (done, said) = report(&service, &again);
    assert!(!done && said.contains("x: event 1: is not a mapping"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_destination_has_is_restored_first() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = with_samples(Setup::with_immudb(immudb.port()));
    service.restart().await;
    append(&mut service.client(), vec![event("door-1")]).await;
    service.wait_until_forwarded().await;
    assert!(service.stop().success());
    fs::remove_dir_all(service.storage()).unwrap();
    let (done, said) = report(&service, &["import-aethyr", "aethyr"]);
    assert!(done && said.contains("events imported: 12") && said.contains("that of the import"), "{said}");
    service.restart().await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!((order.len(), order[0].aggregate_id.as_str()), (13, "door-1"));
    assert_eq!(data(&order[1])["attributes"], json!({}));
}
