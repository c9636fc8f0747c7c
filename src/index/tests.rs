use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tempfile::{TempDir, tempdir};

use super::{opening::FORMAT, *};
use crate::{
    event::{
        AppendBounds, Content, ContentDigest, NewEvent, Snapshot, Timestamp,
        record::{self, ForwardedMark, Numbers},
    },
    log::{Cursor, Log, Tip, recover},
};

/// A log of `appends` appends of three events over three of seven aggregates, with snapshots and marks.
struct Written {
    _folder: TempDir,
    path: PathBuf,
    log: Log,
    ids: Vec<EventId>,
    last_of: HashMap<AggregateId, u64>,
}

fn id(number: u64) -> AggregateId {
    AggregateId::new(&format!("room-{}", number % 7)).unwrap()
}

impl Written {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::new(recover(&path, None).unwrap(), Tip::START, 20_000);
        Self { _folder: folder, path, log, ids: Vec::new(), last_of: HashMap::new() }
    }

    fn append(&mut self, number: u64) {
        let first = self.log.tip().position.0 + 1;
        let append = AppendBounds { first: Position(first), last: Position(first + 2) };
        let records: Vec<Bytes> = (0..3)
            .map(|offset| {
                let event = NewEvent {
                    id: EventId::random(),
                    aggregate_id: id(number + offset),
                    aggregate_type: if number.is_multiple_of(2) { "Room".into() } else { "Player".into() },
                    event_type: format!("Type{}", number % 5).as_str().into(),
                    content: Content::Binary(vec![1; 50].into()),
                    correlation_id: String::new(),
                    causation_id: String::new(),
                    metadata: Default::default(),
                    occurred_at: None,
                };
                self.ids.push(event.id);
                let last = self.last_of.entry(event.aggregate_id.clone()).or_default();
                *last += 1;
                let numbers = Numbers {
                    sequence: SequenceNumber(*last),
                    position: Position(first + offset),
                    recorded_at: Timestamp::new(1_700_000_000 + first as i64, 0).unwrap(),
                    append,
                };
                let digest = ContentDigest::of(&event);
                record::encode(event, numbers, digest)
            })
            .collect();
        let mut group = self.log.begin().unwrap();
        group.append(&records);
        if number % 4 == 3 {
            let aggregate_id = id(number);
            let snapshot = Snapshot {
                sequence: SequenceNumber(self.last_of[&aggregate_id]),
                aggregate_id,
                content: Content::Absent,
                schema_version: 1,
                metadata: Default::default(),
                recorded_at: Timestamp::new(1_700_000_000, 0).unwrap(),
                event_hash: crate::event::Hash::START,
            };
            group.snapshot(&record::encode_snapshot(snapshot));
        }
        if number % 5 == 4 {
            let mark = ForwardedMark { position: append.last, snapshots: 0, immudb_tx: 100 + number };
            group.mark(&record::encode_mark(mark));
        }
        self.log.write(group).unwrap();
    }

    fn bring_up(&self, index: &Index) {
        rebuild::bring_up(index, self.log.segments(), self.log.tip().end, |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }

    /// Everything that can be asked.
    fn answers(&self, index: &Index) -> impl PartialEq + std::fmt::Debug + use<> {
        let complete = index.complete();
        let aggregates = index.aggregates("", None, 1000).unwrap();
        let events: Vec<_> = aggregates
            .iter()
            .map(|(_, head)| index.events(head.number, 0..=u64::MAX, Direction::Backwards, 1000).unwrap())
            .collect();
        let by_id: Vec<_> = self.ids.iter().map(|id| index.event(*id).unwrap().unwrap()).collect();
        let transactions: Vec<_> = (1..=complete.tip.position.0)
            .map(|position| index.transaction(Position(position)).unwrap())
            .collect();
        let totals = index.totals();
        let places: Vec<_> = (1..=complete.tip.position.0)
            .map(|position| index.frame_before(Position(position)).unwrap())
            .collect();
        // Of what the database has, and not of what is found.
        let complete = Complete { digest: Digest::default(), ..complete };
        (aggregates, events, by_id, transactions, totals, places, complete)
    }
}

#[test]
fn an_index_made_at_once_is_the_one_that_followed() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let mut following = Index::open(&folder.path().join("following")).unwrap();
    for number in 0..200 {
        written.append(number);
        if number % 3 == 0 {
            written.bring_up(&following);
        }
        if number % 50 == 49 {
            drop(following);
            following = Index::open(&folder.path().join("following")).unwrap();
        }
    }
    written.bring_up(&following);
    let at_once = Index::open(&folder.path().join("at-once")).unwrap();
    written.bring_up(&at_once);
    assert_eq!(written.answers(&following), written.answers(&at_once));
    assert_eq!(following.complete(), at_once.complete());
    let complete = at_once.complete();
    assert_eq!((complete.tip, complete.aggregates), (written.log.tip(), 7));
    let totals = at_once.totals();
    assert_eq!(totals.event_types.values().sum::<u64>(), 600);
    assert_eq!(totals.aggregate_types.values().sum::<u64>(), 7);
    for (id, last) in &written.last_of {
        assert_eq!(at_once.head(id).unwrap().unwrap().last.0, *last);
    }
    assert!(written.path.join("0000000002.segment").exists(), "one segment proves less");
}

#[test]
fn what_was_added_is_found_wherever_it_is_on_its_way_into_the_database() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let layered = Index::open(&folder.path().join("layered")).unwrap();
    let plain = Index::open(&folder.path().join("plain")).unwrap();
    let mut carried = None;
    let mut chance = fastrand::Rng::with_seed(7);
    for number in 0..300 {
        let tip = written.log.tip();
        written.append(number);
        let mut cursor = Cursor::after(written.log.segments().clone(), tip.end, tip.position, tip.hash);
        let mut entries = Entries::new(&layered);
        while let Some(read) = cursor.next(written.log.tip().end).unwrap() {
            rebuild::add_frame(&layered, &mut entries, read).unwrap();
        }
        entries.reach(written.log.tip());
        layered.add(entries, || ()).unwrap();
        match carried.take() {
            None if chance.u8(..3) == 0 => carried = layered.memory.take(),
            None => {}
            // Already in the database, and in memory still.
            Some(recent) if chance.bool() => {
                layered.store(&recent.entries).unwrap();
                if number % 10 == 0 {
                    written.bring_up(&plain);
                    assert_eq!(written.answers(&layered), written.answers(&plain), "stored at {number}");
                }
                layered.memory.done(Ok(()));
            }
            waiting => carried = waiting,
        }
        if number % 7 == 0 {
            written.bring_up(&plain);
            assert_eq!(written.answers(&layered), written.answers(&plain), "after {number}");
        }
        let page = |index: &Index| index.aggregates("room-", Some("room-2"), 2).unwrap();
        if number % 7 == 0 {
            assert_eq!(page(&layered), page(&plain));
        }
    }
}

#[test]
fn a_carrier_leaves_nothing_in_memory() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let index = Arc::new(Index::open(folder.path()).unwrap());
    let carrier = Carrier::start(index.clone()).unwrap();
    written.append(0);
    let mut cursor = Cursor::new(written.log.segments().clone(), Place::START);
    let mut entries = Entries::new(&index);
    rebuild::add_frame(&index, &mut entries, cursor.next(written.log.tip().end).unwrap().unwrap()).unwrap();
    index.add(entries, || ()).unwrap();
    let found = written.answers(&index);
    drop(carrier);
    drop(index);
    let index = Index::open(folder.path()).unwrap();
    assert_eq!(written.answers(&index), found);
    index.examination().run().unwrap();
}

#[test]
fn an_index_of_another_format_is_refused() {
    let folder = tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    index.meta.insert(FORMAT, b"0").unwrap();
    drop(index);
    assert!(Index::open(folder.path()).is_err());
}

#[test]
fn a_journal_with_anything_in_it_is_an_error_and_no_panic() {
    let mut written = Written::new();
    for number in 0..5 {
        written.append(number);
    }
    let folder = tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    written.bring_up(&index);
    drop(index);
    let journal = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        { entries }.find(|path| path.extension().is_some_and(|extension| extension == "jnl")).unwrap()
    };
    let bytes = std::fs::read(journal(folder.path())).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..used.min(300)).step_by(5) {
        let copy = tempdir().unwrap();
        let copied = std::process::Command::new("cp").arg("-r").arg(folder.path()).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let path = copy.path().join(folder.path().file_name().unwrap());
        let mut torn = bytes.clone();
        torn[at..at + 4].fill(0);
        std::fs::write(journal(&path), torn).unwrap();
        // Whatever it says, it comes back and says it.
        let _ = Index::open(&path);
    }
}

#[test]
fn an_index_that_lacks_an_entry_or_has_another_is_noticed() {
    let mut written = Written::new();
    for number in 0..20 {
        written.append(number);
    }
    let folder = tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    written.bring_up(&index);
    index.examination().run().unwrap();
    let keyspaces = [
        &index.aggregates,
        &index.events,
        &index.event_ids,
        &index.positions,
        &index.transactions,
        &index.totals_kept,
    ];
    for keyspace in keyspaces {
        let (key, value) = keyspace.iter().next().unwrap().into_inner().unwrap();
        keyspace.remove(&key[..]).unwrap();
        assert!(
            matches!(index.examination().run(), Err(IndexError::Lacking)),
            "without an entry of {}",
            keyspace.name()
        );
        let mut other = value.to_vec();
        *other.last_mut().unwrap() ^= 1;
        keyspace.insert(&key[..], other).unwrap();
        assert!(
            matches!(index.examination().run(), Err(IndexError::Lacking)),
            "another entry of {}",
            keyspace.name()
        );
        keyspace.insert(&key[..], &value[..]).unwrap();
        index.examination().run().unwrap();
    }
}

#[tokio::test]
async fn an_examination_that_is_not_waited_for_tells_later() {
    let mut written = Written::new();
    written.append(0);
    let folder = tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    written.bring_up(&index);
    // Without waiting; it may be that fast all the same.
    let examine = || {
        let examined = index.examination().run_within(Duration::ZERO);
        async {
            match examined {
                Examined::Later(result) => result.await.unwrap(),
                Examined::Done(result) => result,
            }
        }
    };
    let whole = examine();
    // What comes meanwhile does not matter.
    written.append(1);
    written.bring_up(&index);
    whole.await.unwrap();
    let (key, _) = index.events.iter().next().unwrap().into_inner().unwrap();
    index.events.remove(&key[..]).unwrap();
    assert!(matches!(examine().await, Err(IndexError::Lacking)));
}

#[test]
fn an_index_with_too_few_entries_is_known_without_reading_them() {
    let mut written = Written::new();
    for number in 0..20 {
        written.append(number);
    }
    let folder = tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    written.bring_up(&index);
    assert!(index.has_enough());
    let complete = index.complete();
    let with = |events: u64, aggregates: u64| {
        let tip = Tip { position: Position(complete.tip.position.0 + events), ..complete.tip };
        let aggregates = complete.aggregates + aggregates;
        index.visible.write().complete = Complete { tip, aggregates, ..complete };
        index.has_enough()
    };
    assert!(!with(1, 0) && !with(0, 1) && with(0, 0));
}

#[test]
fn what_the_machine_refuses_is_no_damage() {
    let io = |kind: io::ErrorKind| IndexError::Io { path: String::new(), source: kind.into() };
    assert!(io(io::ErrorKind::StorageFull).is_of_the_machine());
    assert!(IndexError::Database(fjall::Error::Io(Errno::MFILE.into())).is_of_the_machine());
    assert!(!io(io::ErrorKind::NotFound).is_of_the_machine());
    assert!(!IndexError::Lacking.is_of_the_machine());
}

#[test]
fn an_index_over_which_the_process_ended_is_not_opened_again() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("index");
    drop(Index::open(&path).unwrap());
    let note = folder.path().join("index.opening");
    // Once may have been a kill.
    std::fs::write(&note, ".").unwrap();
    drop(Index::open(&path).unwrap());
    assert!(!note.exists());
    Index::distrust(&path).unwrap();
    // Whoever only looks does not use the note up.
    for _ in 0..2 {
        assert!(matches!(Index::open(&path), Err(IndexError::NotOpened)));
    }
    std::fs::remove_dir_all(&path).unwrap();
    drop(Index::renew(&path).unwrap());
    assert!(!note.exists());
    Index::distrust(&folder.path().join("index.of-another")).unwrap();
    // Another's note is not ours.
    Index::open(&path).unwrap();
}

#[test]
fn what_brings_the_index_up_looks_around_after_so_many_bytes_too() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    (0..40).for_each(|number| written.append(number));
    let index = Index::open(&folder.path().join("index")).unwrap();
    let (mut before, mut most, mut looks) = (0, 0, 0);
    let segments = written.log.segments().clone();
    let looked = rebuild::bring_up_by(2000, &index, &segments, written.log.tip().end, |place| {
        let reached = segments.bytes_before(place).unwrap();
        most = most.max(reached - before);
        (before, looks) = (reached, looks + 1);
        std::ops::ControlFlow::Continue(())
    });
    looked.unwrap();
    assert!(looks > 3 && most < 6000, "{looks} looks, {most} bytes");
}

#[test]
fn what_is_published_moves_while_nobody_can_look() {
    let mut written = Written::new();
    let folder = tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    written.append(1);
    let mut entries = Entries::new(&index);
    entries.reach(written.log.tip());
    let mut published = false;
    index
        .add(entries, || {
            assert!(index.visible.is_locked(), "others could see the one without the other");
            published = true;
        })
        .unwrap();
    assert!(published && !index.visible.is_locked());
    assert_eq!(index.complete().tip.position, Position(3));
}
