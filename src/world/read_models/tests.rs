//! Tests that each event is applied exactly once, whatever fails. The projection used here counts
//! the events in its rows.
//!
//! Also tests which files are opened, replaced, renamed or left alone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::{
    Checkpoint, Durability, Problems, ReadModelError, ReadModels, Tables, files,
    projections::{ProjectedEvent, Projection},
};
use crate::event::{
    AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent,
    SequenceNumber, Timestamp,
};

mod following;
mod foreign_keys;

/// Adds one for every event it sees. At some positions it fails after adding.
#[derive(Default)]
struct Counting {
    /// Fails as if the disk did.
    fails_at: AtomicU64,
    /// Fails as if the table rejected the event.
    cannot_take: AtomicU64,
    /// Panics, as the code of a game may.
    panics_at: AtomicU64,
    /// Executes `mistake`, a statement that the code of a game may contain.
    mistaken_at: AtomicU64,
    mistake: &'static str,
}

impl Counting {
    fn fail_at(&self, position: u64) {
        self.fails_at.store(position, Ordering::Relaxed);
    }
}

fn failure(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
}

impl Projection for Arc<Counting> {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn version(&self) -> u32 {
        1
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        &["Room"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["counted"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE counted (
             position INTEGER NOT NULL PRIMARY KEY,
             times INTEGER NOT NULL,
             other INTEGER REFERENCES counted DEFERRABLE INITIALLY DEFERRED
         )"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> rusqlite::Result<()> {
        let position = event.recorded.position.0;
        rows.execute(
            "INSERT INTO counted VALUES (?1, 1, NULL) ON CONFLICT (position) DO UPDATE SET times = times + 1",
            [position.cast_signed()],
        )?;
        assert_ne!(self.panics_at.load(Ordering::Relaxed), position, "no such quest");
        if self.mistaken_at.load(Ordering::Relaxed) == position {
            rows.execute_batch(self.mistake)?;
        }
        if self.fails_at.load(Ordering::Relaxed) == position {
            return Err(failure(rusqlite::ffi::SQLITE_IOERR));
        }
        if self.cannot_take.load(Ordering::Relaxed) == position {
            Err(failure(rusqlite::ffi::SQLITE_CONSTRAINT))
        } else {
            Ok(())
        }
    }
}

fn event(position: u64) -> RecordedEvent {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new("room").unwrap(),
        aggregate_type: "Room".into(),
        event_type: "Counted".into(),
        content: Content::Absent,
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: Default::default(),
        occurred_at: None,
    };
    RecordedEvent {
        digest: ContentDigest::of(&event),
        event,
        sequence: SequenceNumber(position),
        position: Position(position),
        recorded_at: Timestamp::default(),
        recorded_by: "".into(),
        append: AppendBounds { first: Position(position), last: Position(position) },
        hash: ChainHash([position as u8; 32]),
    }
}

fn reached(position: u64) -> Checkpoint {
    Checkpoint { position: Position(position), hash: ChainHash([position as u8; 32]) }
}

/// Returns how often each of the events up to `last` was applied.
fn times(tables: &Tables, last: u64) -> Vec<u64> {
    let times = |position: u64| {
        tables.rows().query_row("SELECT times FROM counted WHERE position = ?1", [position as i64], |row| {
            row.get::<_, i64>(0)
        })
    };
    (1..=last).map(|position| times(position).map_or(0, |times| times as u64)).collect()
}

#[test]
fn every_event_is_taken_in_once_whatever_fails_and_is_sent_again() {
    taken_in_once(Durability::Kept);
}

#[test]
fn so_it_is_in_tables_that_are_being_made() {
    taken_in_once(Durability::Given);
}

fn taken_in_once(durability: Durability) {
    const LAST: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let counting = Arc::new(Counting::default());
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(counting.clone())];
    let open = || Tables::open(&path, &projections, durability).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    let mut tables = open();
    let mut failures = 0;
    while tables.reached().position.0 < LAST {
        let before = tables.reached();
        // Start somewhere at or before the next event: a follower that reads the order again
        // delivers events that are already applied.
        let first = random.u64(1..=before.position.0 + 1);
        let last = random.u64(before.position.0 + 1..=(before.position.0 + 10).min(LAST));
        let events: Vec<_> = (first..=last).map(event).collect();
        counting.fail_at(if random.bool() { random.u64(before.position.0 + 1..=last) } else { 0 });
        match tables.take(&projections, &events, reached(last)) {
            Ok(()) => assert_eq!(tables.reached(), reached(last)),
            Err(_) => {
                failures += 1;
                assert_eq!(tables.reached(), before);
            }
        }
        let so_far = tables.reached();
        if random.bool() {
            drop(tables);
            tables = open();
        }
        assert_eq!(tables.reached(), so_far, "what is stored is what was reached");
        assert_eq!(times(&tables, LAST).iter().sum::<u64>(), so_far.position.0);
    }
    assert!(failures > 5, "{failures}");
    assert_eq!(times(&tables, LAST), vec![1; LAST as usize]);
}

#[test]
fn an_event_that_a_projection_cannot_take_is_passed_over_by_it_alone() {
    for durability in [Durability::Kept, Durability::Given] {
        passed_over(durability);
    }
}

fn passed_over(durability: Durability) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let counting = Arc::new(Counting::default());
    counting.cannot_take.store(5, Ordering::Relaxed);
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(counting.clone())];
    let mut tables = Tables::open(&path, &projections, durability).unwrap();
    let events: Vec<_> = (1..=8).map(event).collect();
    tables.take(&projections, &events, reached(8)).unwrap();
    assert_eq!(times(&tables, 8), [1, 1, 1, 1, 0, 1, 1, 1]);
    assert_eq!(tables.reached(), reached(8));
}

#[test]
fn a_projection_that_panics_skips_the_event_alone_and_this_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let (counting, problems) = (Arc::new(Counting::default()), Arc::new(Problems::default()));
    counting.panics_at.store(5, Ordering::Relaxed);
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(counting.clone())];
    let mut tables = Tables::open(&path, &projections, Durability::Kept).unwrap();
    tables.tell(problems.clone());
    let events: Vec<_> = (1..=8).map(event).collect();
    tables.take(&projections, &events, reached(8)).unwrap();
    assert_eq!(times(&tables, 8), [1, 1, 1, 1, 0, 1, 1, 1]);
    let told = problems.of("counting");
    assert!(told.starts_with("skipped 1 events, the last at position 5: panicked: "), "{told}");
    assert!(told.contains("no such quest"), "{told}");
    assert_eq!(problems.of("another"), "");
    assert_eq!(problems.stalled_reason(), None);
}

#[test]
fn a_mistake_in_the_sql_of_a_projection_passes_the_event_over_and_the_transaction_stays_sound() {
    for mistake in [
        "INSERT INTO no_such_table VALUES (1)",
        "SELEC nonsense",
        "SELECT no_such_column FROM counted",
        "COMMIT",
        "ROLLBACK",
        "RELEASE _event",
        // The conflict that it raises also rolls back the transaction.
        "INSERT OR ROLLBACK INTO counted VALUES (5, 1, NULL)",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("read_models.sqlite");
        let (counting, problems) =
            (Arc::new(Counting { mistake, ..Counting::default() }), Arc::new(Problems::default()));
        counting.mistaken_at.store(5, Ordering::Relaxed);
        let projections: Vec<Box<dyn Projection>> = vec![Box::new(counting)];
        let mut tables = Tables::open(&path, &projections, Durability::Kept).unwrap();
        tables.tell(problems.clone());
        tables.take(&projections, &[event(1), event(2)], reached(2)).unwrap();
        let events: Vec<_> = (3..=8).map(event).collect();
        tables.take(&projections, &events, reached(8)).unwrap();
        assert_eq!(times(&tables, 8), [1, 1, 1, 1, 0, 1, 1, 1], "{mistake}");
        assert_eq!(tables.reached(), reached(8));
        let told = problems.of("counting");
        assert!(told.starts_with("skipped 1 events, the last at position 5: "), "{mistake}: {told}");
    }
}

#[test]
fn what_is_wrong_only_at_the_end_of_a_transaction_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let mistake = "UPDATE counted SET other = 999 WHERE position = 5";
    let (counting, problems) =
        (Arc::new(Counting { mistake, ..Counting::default() }), Arc::new(Problems::default()));
    counting.mistaken_at.store(5, Ordering::Relaxed);
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(counting)];
    let mut tables = Tables::open(&path, &projections, Durability::Kept).unwrap();
    tables.tell(problems.clone());
    tables.take(&projections, &[event(4), event(5), event(6)], reached(6)).unwrap();
    tables.take(&projections, &[event(7)], reached(7)).unwrap();
    assert_eq!(times(&tables, 7), [0, 0, 0, 0, 0, 0, 1]);
    assert!(problems.of("counting").starts_with("skipped 3 events, the last at position 6: "));
}

#[test]
fn a_table_that_somebody_removed_is_no_mistake_of_the_projection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
    let mut tables = Tables::open(&path, &projections, Durability::Kept).unwrap();
    Connection::open(&path).unwrap().execute_batch("DROP TABLE counted").unwrap();
    let failed = tables.take(&projections, &[event(1)], reached(1)).unwrap_err();
    assert!(failed.is_of_the_rows(), "{failed}");
}

#[test]
fn they_are_rebuilt_once_until_they_get_past_the_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
    let read_models = ReadModels::new(path, u64::MAX, projections);
    read_models.ensure_exists().unwrap();
    let renewed = |until: u64| {
        let before = read_models.generation();
        read_models.renew(Position(until)).unwrap();
        read_models.generation() > before
    };
    assert!(renewed(7));
    assert!(!renewed(8));
    assert!(!read_models.follow_to(Position(6)));
    assert!(!renewed(7));
    assert!(read_models.follow_to(Position(7)));
    assert!(renewed(9));
}

#[test]
fn the_write_ahead_log_is_bounded_while_another_program_reads_and_truncated_afterwards() {
    const MAX: u64 = 256 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
    let read_models = ReadModels::new(path.clone(), MAX, projections);
    read_models.ensure_exists().unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT count(*) FROM counted;").unwrap();
    let count = || other.query_row("SELECT count(*) FROM counted", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 0);
    let mut writer = read_models.writer();
    let tables = writer.as_mut().unwrap();
    let mut take = |position: u64| {
        read_models.bound_wal(tables)?;
        tables.take(read_models.projections(), &[event(position)], reached(position))
    };
    let full = (1..10_000).find_map(|position| take(position).err());
    assert!(matches!(full, Some(ReadModelError::WalFull { max: MAX, .. })), "{full:?}");
    let bytes = files::wal_bytes(&path);
    assert!(bytes < 2 * MAX, "{bytes}");
    assert_eq!(count(), 0, "the other program still sees its snapshot");
    other.execute_batch("COMMIT").unwrap();
    take(20_000).unwrap();
    assert!(files::wal_bytes(&path) < MAX);
}

#[test]
fn a_file_that_may_belong_to_another_program_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
    let open = || Tables::open(&path, &projections, Durability::Kept);
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE bills (amount INTEGER); INSERT INTO bills VALUES (7)").unwrap();
    let assert_left_alone = || {
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(), Err(ReadModelError::Foreign { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    };
    assert_left_alone();
    // Another program may also have a table named `projections`.
    foreign
        .execute_batch("CREATE TABLE projections (id INTEGER PRIMARY KEY, name TEXT, position INTEGER)")
        .unwrap();
    assert_left_alone();
    drop(foreign);
    // A file that is not a database is renamed instead.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "the letters of a lifetime, which are no database").unwrap();
    assert_eq!(open().unwrap().reached(), Checkpoint::START);
    let aside = folder.path().join("read_models.sqlite.damaged");
    assert_eq!(std::fs::read(&aside).unwrap(), b"the letters of a lifetime, which are no database");
    std::fs::write(&path, "more letters, which are no database either, and no less dear").unwrap();
    open().unwrap();
    assert_eq!(std::fs::read(&aside).unwrap(), b"the letters of a lifetime, which are no database");
    assert!(folder.path().join("read_models.sqlite.damaged-2").exists());
}

#[test]
fn a_file_of_another_log_or_program_is_neither_used_nor_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let of = |log: &str| {
        let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
        ReadModels::new(path.clone(), u64::MAX, projections).of_log(Some(log.to_owned()))
    };
    let take = |read_models: &ReadModels| {
        read_models.ensure_exists().unwrap();
        let mut writer = read_models.writer();
        writer.as_mut().unwrap().take(read_models.projections(), &[event(1)], reached(1)).unwrap();
    };
    take(&of("one"));
    let another = of("another");
    assert!(matches!(another.ensure_exists(), Err(ReadModelError::OfAnotherLog { .. })));
    assert!(matches!(another.renew(Position(1)), Err(ReadModelError::OfAnotherLog { .. })));
    drop(another);
    let its_own = of("one");
    its_own.ensure_exists().unwrap();
    assert_eq!(its_own.position(), Position(1));
    // While the file is open, one of another program takes its place.
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE bills (amount INTEGER)").unwrap();
    assert!(matches!(its_own.renew(Position(1)), Err(ReadModelError::Foreign { .. })));
    assert!(matches!(its_own.ensure_exists(), Err(ReadModelError::Foreign { .. })));
    Connection::open(&path).unwrap().query_row("SELECT count(*) FROM bills", [], |_| Ok(())).unwrap();
}

#[test]
fn a_file_that_took_the_place_of_the_open_one_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let projections = || -> Vec<Box<dyn Projection>> { vec![Box::new(Arc::new(Counting::default()))] };
    let new = |path: &std::path::Path| ReadModels::new(path.to_owned(), u64::MAX, projections());
    let other = folder.path().join("other.sqlite");
    Tables::open(&other, &projections(), Durability::Given)
        .unwrap()
        .take(&projections(), &[event(1), event(2)], reached(2))
        .unwrap();
    let read_models = new(&path);
    read_models.ensure_exists().unwrap();
    let take = |last: u64| {
        let mut writer = read_models.writer();
        writer.as_mut().unwrap().take(read_models.projections(), &[event(last)], reached(last)).unwrap();
    };
    take(7);
    std::fs::rename(&other, &path).unwrap();
    read_models.ensure_exists().unwrap();
    assert_eq!(read_models.position(), Position(2));
    let count = |rows: &Connection| rows.query_row("SELECT count(*) FROM counted", [], |row| row.get(0));
    let given_up = tokio_util::sync::CancellationToken::new();
    assert_eq!(read_models.read(&given_up, count).unwrap(), (2, Position(2)));
    take(3);
    assert_eq!(read_models.read(&given_up, count).unwrap().0, 3);
}

/// The log was lost and restored from a copy: its id differs, but its history is the same.
#[test]
fn a_file_of_the_same_history_is_taken_over_and_one_of_another_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let of = |log: &str, fits: bool| {
        let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
        let read_models = ReadModels::new(path.clone(), u64::MAX, projections).of_log(Some(log.to_owned()));
        read_models.of_history(move |rows| rows.position == Position(1) && fits)
    };
    let first = of("one", true);
    first.ensure_exists().unwrap();
    first.writer().as_mut().unwrap().take(first.projections(), &[event(1)], reached(1)).unwrap();
    drop(first);
    assert!(matches!(of("another", false).ensure_exists(), Err(ReadModelError::OfAnotherLog { .. })));
    let copied = of("another", true);
    copied.ensure_exists().unwrap();
    assert_eq!(copied.position(), Position(1));
    drop(copied);
    // From now on the file belongs to that log.
    assert!(matches!(of("one", false).ensure_exists(), Err(ReadModelError::OfAnotherLog { .. })));
    of("another", false).ensure_exists().unwrap();
}

#[test]
fn a_write_lock_of_another_program_does_not_keep_the_file_from_being_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let of = |log: Option<&str>| {
        let projections: Vec<Box<dyn Projection>> = vec![Box::new(Arc::new(Counting::default()))];
        ReadModels::new(path.clone(), u64::MAX, projections).of_log(log.map(str::to_owned))
    };
    // First a file of an older version, which names no log, then one of this version.
    for before in [None, Some("one")] {
        of(before).ensure_exists().unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let read_models = of(Some("one"));
        read_models.ensure_exists().unwrap();
        let counted = read_models.read(&CancellationToken::new(), |rows| {
            rows.query_row("SELECT count(*) FROM counted", [], |row| row.get::<_, i64>(0))
        });
        assert_eq!(counted.unwrap().0, 0);
    }
}
