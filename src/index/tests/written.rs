//! A log that tests of the index write, and the answers that an index of it must give.
//!
//! The answers are computed while the log is written, without any index.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::ControlFlow,
    path::PathBuf,
};

use bytes::Bytes;
use tempfile::{TempDir, tempdir};

use crate::{
    event::{
        AppendBounds, Content, ContentDigest, NewEvent, Snapshot,
        record::{self, EventNumbers},
    },
    index::*,
    log::{Cursor, Log, Tip, recover},
};

const OPTIONS: IndexOptions = IndexOptions {
    types_max: u64::MAX,
    file_events: 20,
    file_log_bytes: 100_000,
    bytes_at_once: 2000,
    disk_free_min: 0,
    writes: true,
};

/// A log of appends of three events each, over three of seven aggregates, with snapshots and marks,
/// and the expected answers of an index.
pub(crate) struct Written {
    _folder: TempDir,
    pub path: PathBuf,
    pub log: Log,
    segment_bytes: u64,
    pub number: u64,
    pub places: HashMap<EventId, RecordAddress>,
    aggregates: BTreeMap<AggregateId, Aggregate>,
    event_types: HashMap<Arc<str>, u64>,
    /// The offset of the frame of each append, by its first position.
    pub frames: BTreeMap<u64, LogOffset>,
    transactions: BTreeMap<u64, u64>,
    forwarded: ReplicationMark,
}

#[derive(Default)]
struct Aggregate {
    kind: String,
    places: Vec<RecordAddress>,
    snapshot: Option<SnapshotHead>,
}

pub(crate) fn id(number: u64) -> AggregateId {
    AggregateId::new(&format!("room-{}", number % 7)).unwrap()
}

impl Written {
    pub(crate) fn new() -> Self {
        Self::in_segments_of(20_000)
    }

    pub(crate) fn in_segments_of(segment_bytes: u64) -> Self {
        let folder = tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::new(recover(&path, None).unwrap(), Tip::START, segment_bytes);
        Self {
            _folder: folder,
            path,
            log,
            segment_bytes,
            number: 0,
            places: HashMap::new(),
            aggregates: BTreeMap::new(),
            event_types: HashMap::new(),
            frames: BTreeMap::new(),
            transactions: BTreeMap::new(),
            forwarded: ReplicationMark::default(),
        }
    }

    pub(crate) fn append(&mut self) {
        let number = self.number;
        self.number += 1;
        let first = self.log.tip().position.0 + 1;
        let append = AppendBounds { first: Position(first), last: Position(first + 2) };
        let mut group = self.log.begin().unwrap();
        let kind = if number.is_multiple_of(2) { "Room" } else { "Player" };
        let mut ids = Vec::new();
        let records: Vec<Bytes> = (0..3)
            .map(|offset| {
                let event_type = format!("Type{}", number % 5);
                let aggregate = self.aggregates.entry(id(number + offset)).or_default();
                if aggregate.kind.is_empty() {
                    aggregate.kind = kind.to_owned();
                }
                let event = NewEvent {
                    id: EventId::random(),
                    aggregate_id: id(number + offset),
                    aggregate_type: aggregate.kind.as_str().into(),
                    event_type: event_type.as_str().into(),
                    content: Content::Binary(vec![1; 50].into()),
                    correlation_id: String::new(),
                    causation_id: String::new(),
                    metadata: Default::default(),
                    occurred_at: None,
                };
                *self.event_types.entry(event_type.as_str().into()).or_default() += 1;
                ids.push((event.id, event.aggregate_id.clone()));
                let numbers = EventNumbers {
                    sequence: SequenceNumber(aggregate.places.len() as u64 + 1),
                    position: Position(first + offset),
                    recorded_at: Timestamp::new(1_700_000_000 + first as i64, 0).unwrap(),
                    append,
                };
                let digest = ContentDigest::of(&event);
                record::encode(&event, numbers, digest, "")
            })
            .collect();
        self.frames.insert(first, group.tip().end);
        for (stored, (id, aggregate)) in group.append(&records).unwrap().iter().zip(ids) {
            self.places.insert(id, stored.place);
            self.aggregates.get_mut(&aggregate).unwrap().places.push(stored.place);
        }
        if number % 4 == 3 {
            let aggregate = self.aggregates.get_mut(&id(number)).unwrap();
            let sequence = SequenceNumber(aggregate.places.len() as u64);
            let snapshot = Snapshot {
                sequence,
                aggregate_id: id(number),
                content: Content::Absent,
                schema_version: 1,
                metadata: Default::default(),
                recorded_at: Timestamp::new(1_700_000_000, 0).unwrap(),
                event_hash: crate::event::ChainHash::START,
            };
            let place = group.snapshot(&record::encode_snapshot(snapshot)).unwrap().place;
            aggregate.snapshot = Some(SnapshotHead { sequence, place });
        }
        if number % 5 == 4 {
            // Now and then, ImmuDB has lost transactions.
            let position = if number % 15 == 14 { Position(append.last.0 / 2) } else { append.last };
            let mark = ReplicationMark { position, immudb_tx: 100 + number, ..ReplicationMark::default() };
            group.mark(&record::encode_mark(mark));
            if position < self.forwarded.position {
                self.transactions.retain(|last, _| *last <= position.0)
            } else {
                _ = self.transactions.insert(position.0, mark.immudb_tx)
            }
            self.forwarded = mark;
        }
        self.log.write(group).unwrap();
    }

    pub(crate) fn opened(&self, folder: &Path) -> Index {
        self.opened_until(&CancellationToken::new(), folder)
    }

    pub(crate) fn opened_until(&self, stop: &CancellationToken, folder: &Path) -> Index {
        let found = IndexScan::read_folder(folder).unwrap();
        let parts = (self.log.segments().clone(), self.log.tip().end);
        fs::create_dir_all(folder).unwrap();
        Index::open(folder, found, parts, OPTIONS, stop)
    }

    pub(crate) fn brought_up(&self, folder: &Path) -> Index {
        let index = self.opened(folder);
        self.catch_up(&index);
        index
    }

    pub(crate) fn catch_up(&self, index: &Index) {
        rebuild::catch_up(index, self.log.tip().end, |_| ControlFlow::Continue(())).unwrap();
    }

    /// Replaces the log from the append with this first position on. The expected answers other
    /// than those about events are not updated.
    pub(crate) fn go_on_otherwise(&mut self, first: u64) {
        let from = self.frames[&first];
        let path = |segment| self.path.join(format!("{segment:010}.segment"));
        for later in from.segment + 1..=self.log.tip().end.segment {
            fs::remove_file(path(later)).unwrap();
        }
        fs::File::options().write(true).open(path(from.segment)).unwrap().set_len(from.offset).unwrap();
        let recovered = recover(&self.path, None).unwrap();
        let folder = tempdir().unwrap();
        let parts = (recovered.segments().clone(), recovered.end);
        let index =
            Index::open(folder.path(), IndexScan::default(), parts, OPTIONS, &CancellationToken::new());
        rebuild::catch_up(&index, recovered.end, |_| ControlFlow::Continue(())).unwrap();
        self.log = Log::new(recovered, index.complete().tip, self.segment_bytes);
        let stays = |place: &RecordAddress| (place.segment, place.offset) < (from.segment, from.offset);
        self.places.retain(|_, place| stays(place));
        self.aggregates.values_mut().for_each(|aggregate| aggregate.places.retain(stays));
        (0..60).for_each(|_| self.append());
    }

    /// Adds the missing entries to the index, as the sequencer does.
    pub(crate) fn add_to(&self, index: &Index) {
        let tip = index.complete().tip;
        let mut cursor = Cursor::after(self.log.segments().clone(), tip.end, tip.position, tip.hash);
        let mut entries = IndexBatch::new(index);
        while let Some(read) = cursor.next(self.log.tip().end).unwrap() {
            rebuild::add_frame(index, &mut entries, read).unwrap();
        }
        entries.reach(self.log.tip());
        index.add(entries, || ());
    }

    /// Checks the answers that are given without reading files. They may be incomplete, but never
    /// wrong.
    fn check_absence(&self, index: &Index, unknown: &[EventId]) {
        let tip = self.log.tip().position;
        match index.presence(unknown.iter().copied()) {
            Presence::Absent(AbsentUpTo(up_to)) => assert_eq!(up_to, tip),
            Presence::Suspected(suspects, AbsentUpTo(up_to)) => {
                assert_eq!(up_to, tip);
                assert!(suspects.iter().all(|id| unknown.contains(id)));
                assert!(index.layers().older.iter().any(|layer| layer.table().is_some()), "no filter errs");
            }
            Presence::Present => panic!("none of them is stored"),
        }
        // Nothing after the last file needs one to be read.
        let layers = index.layers().older.clone();
        let last_file = layers.iter().rev().find_map(Layer::table);
        let in_files = last_file.map_or(Position(0), |table| table.summary.complete.tip.position);
        for up_to in [tip, in_files] {
            assert!(index.is_still_absent(AbsentUpTo(up_to), unknown.iter().copied()), "{up_to:?}");
        }
        let frames: Vec<_> = self.frames.iter().map(|(first, place)| (*place, *first)).collect();
        for (id, place) in &self.places {
            let place = LogOffset { segment: place.segment, offset: place.offset };
            let behind = frames.partition_point(|(frame, _)| *frame <= place);
            let (_, first) = frames[behind - 1];
            match index.presence([*id].into_iter()) {
                Presence::Absent(_) => panic!("{id} is stored"),
                Presence::Suspected(suspects, _) => assert_eq!(suspects.first(), Some(id)),
                Presence::Present => {}
            }
            let before = AbsentUpTo(Position(first - 1));
            assert!(!index.is_still_absent(before, [*id].into_iter()), "{id} at {first} or later");
        }
    }

    /// Checks every kind of lookup.
    pub(crate) fn check(&self, index: &Index) {
        let complete = index.complete();
        assert_eq!(complete.tip, self.log.tip());
        assert_eq!(complete.aggregates, self.aggregates.len() as u64);
        assert_eq!(complete.forwarded, self.forwarded);
        let with_snapshot = self.aggregates.values().filter(|aggregate| aggregate.snapshot.is_some()).count();
        assert_eq!(complete.snapshots, with_snapshot as u64);
        for (id, place) in &self.places {
            assert_eq!(index.event(*id).unwrap(), Some(*place));
        }
        let unknown: Vec<_> = (0..20).map(|_| EventId::random()).collect();
        assert!(unknown.iter().all(|id| index.event(*id).unwrap().is_none()));
        self.check_absence(index, &unknown);
        let mut heads = Vec::new();
        for (id, aggregate) in &self.aggregates {
            let head = Head {
                last: SequenceNumber(aggregate.places.len() as u64),
                aggregate_type: aggregate.kind.as_str().into(),
                snapshot: aggregate.snapshot,
            };
            assert_eq!(index.head(id).unwrap().as_ref(), Some(&head), "{id}");
            heads.push((id.clone(), head));
            let places = &aggregate.places;
            for (first, last, count) in [(1, u64::MAX, 1000), (2, 9, 5), (4, 4, 1), (5, 40, 7)] {
                let last = last.min(places.len() as u64);
                if first > last {
                    continue;
                }
                let range = first..=last;
                let here = places.iter().copied().skip(first as usize - 1);
                let here: Vec<_> = here.take((last - first).saturating_add(1) as usize).collect();
                let forwards = index.events(id, range.clone(), Direction::Forwards, count).unwrap();
                assert_eq!(
                    forwards,
                    here.iter().copied().take(count).collect::<Vec<_>>(),
                    "{id} {first}..={last}"
                );
                let backwards = index.events(id, range, Direction::Backwards, count).unwrap();
                assert_eq!(backwards, here.iter().rev().copied().take(count).collect::<Vec<_>>(), "{id}");
            }
        }
        assert_eq!(index.head(&AggregateId::new("room-x").unwrap()).unwrap(), None);
        assert_eq!(index.aggregates("", None, 1000).unwrap(), heads);
        let behind: Vec<_> = heads.iter().filter(|(id, _)| id.as_str() > "room-2").take(2).cloned().collect();
        assert_eq!(index.aggregates("room-", Some("room-2"), 2).unwrap(), behind);
        for position in 1..=complete.tip.position.0 {
            let (first, place) = index.frame_before(Position(position), WaitMode::Waits).unwrap();
            assert!(first.0 <= position && self.frames[&first.0] == place, "{position}: {first:?} {place:?}");
            let transaction = self.transactions.range(position..).next().map(|(_, tx)| *tx);
            assert_eq!(
                index.transaction(Position(position), WaitMode::Waits).unwrap(),
                transaction,
                "at {position}"
            );
        }
        let totals = index.totals();
        assert_eq!(totals.event_types, self.event_types);
        assert_eq!(totals.aggregate_types.values().sum::<u64>(), self.aggregates.len() as u64);
    }
}
