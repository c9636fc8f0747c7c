//! Tests of the index as a whole: whatever happens to its files, it answers as the log says.
//!
//! The files are removed, damaged, made unwritable, or replaced by those of another history.

use std::{
    fs,
    ops::ControlFlow,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::log::Tip;

mod written;

use written::{Written, id};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "index")).collect();
    files.sort();
    files
}

/// Something that may happen to an index.
#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Freeze,
    Write,
    Merge,
    /// The process ends, cleanly or not.
    Restart {
        orderly: bool,
    },
    /// The directory becomes unwritable, or writable again.
    Refuse,
    /// A file is removed while the process is stopped.
    Remove(prop::sample::Index),
    /// A byte of a file is changed, while the process is running or stopped.
    Flip {
        file: prop::sample::Index,
        byte: prop::sample::Index,
        running: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (1..12u8).prop_map(Step::Append),
        2 => Just(Step::Freeze),
        3 => Just(Step::Write),
        3 => Just(Step::Merge),
        2 => any::<bool>().prop_map(|orderly| Step::Restart { orderly }),
        1 => Just(Step::Refuse),
        1 => index().prop_map(Step::Remove),
        1 => (index(), index(), any::<bool>()).prop_map(|(file, byte, running)| Step::Flip { file, byte, running }),
    ];
    prop::collection::vec(step, 1..40)
}

fn flip(path: &Path, byte: prop::sample::Index) {
    let mut bytes = fs::read(path).unwrap();
    let at = byte.index(bytes.len());
    bytes[at] ^= 0x10;
    // Written in place, so that open handles see the change.
    let file = fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_happens_to_it_an_index_answers_as_a_fold_over_the_log(steps in steps()) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("index");
        let mut written = Written::new();
        let mut index = written.brought_up(&path);
        let mut refused = false;
        for step in steps {
            match step {
                Step::Append(count) => {
                    (0..count).for_each(|_| written.append());
                    written.add_to(&index);
                }
                Step::Freeze => index.layers_mut().freeze(),
                Step::Write => index.write_frozen(),
                Step::Merge => index.keep_up(),
                Step::Restart { orderly } => {
                    if refused {
                        fs::remove_file(&path).unwrap();
                        fs::rename(path.with_extension("aside"), &path).unwrap();
                        refused = false;
                    }
                    if orderly {
                        drop(Upkeep::start(Arc::new(index)).unwrap());
                    } else {
                        drop(index);
                    }
                    index = written.brought_up(&path);
                }
                Step::Refuse if !refused => {
                    fs::rename(&path, path.with_extension("aside")).unwrap();
                    fs::write(&path, "").unwrap();
                    refused = true;
                }
                Step::Refuse => {
                    fs::remove_file(&path).unwrap();
                    fs::rename(path.with_extension("aside"), &path).unwrap();
                    refused = false;
                    index.write_frozen();
                    prop_assert!(index.layers().older.iter().all(|layer| layer.table().is_some()));
                }
                Step::Remove(_) | Step::Flip { .. } if refused || files(&path).is_empty() => {}
                Step::Remove(file) => {
                    drop(index);
                    fs::remove_file(file.get(&files(&path)).as_path()).unwrap();
                    index = written.brought_up(&path);
                }
                Step::Flip { file, byte, running: true } => flip(file.get(&files(&path)).as_path(), byte),
                Step::Flip { file, byte, running: false } => {
                    drop(index);
                    flip(file.get(&files(&path)).as_path(), byte);
                    index = written.brought_up(&path);
                }
            }
            written.check(&index);
        }
    }
}

#[test]
fn an_index_made_at_once_is_the_one_that_followed() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let mut following = written.brought_up(&folder.path().join("following"));
    for number in 0..200 {
        written.append();
        if number % 3 == 0 {
            written.catch_up(&following);
        }
        if number % 50 == 49 {
            drop(following);
            following = written.brought_up(&folder.path().join("following"));
        }
    }
    written.catch_up(&following);
    written.check(&following);
    written.check(&written.brought_up(&folder.path().join("at-once")));
    assert!(written.path.join("0000000002.segment").exists(), "one segment proves less");
}

/// Looks up events in another thread while memory becomes files and files are merged.
#[test]
fn nothing_is_missing_while_it_moves() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let index = Arc::new(written.brought_up(folder.path()));
    let upkeep = Upkeep::start(index.clone()).unwrap();
    let (known, ended) = (Mutex::new(Vec::<(EventId, RecordAddress)>::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut chance = fastrand::Rng::with_seed(7);
            while !ended.load(Ordering::Acquire) {
                let some = known.lock().unwrap().get(chance.usize(..1000)).copied();
                if let Some((id, place)) = some {
                    assert_eq!(index.event(id).unwrap(), Some(place));
                }
                let head = index.head(&id_of(3)).unwrap().map_or(0, |head| head.last.0);
                let places = index.events(&id_of(3), 1..=head, Direction::Forwards, usize::MAX).unwrap();
                assert_eq!(places.len() as u64, head);
            }
        });
        for _ in 0..400 {
            written.append();
            written.add_to(&index);
            *known.lock().unwrap() = written.places.iter().map(|(id, place)| (*id, *place)).collect();
        }
        ended.store(true, Ordering::Release);
        reading.join().unwrap();
    });
    drop(upkeep);
    written.check(&index);
    // It stopped cleanly, so nothing has to be read again.
    drop(index);
    let index = written.opened(folder.path());
    assert_eq!(index.complete().tip, written.log.tip());
    // It is unknown how far the threads got with merging.
    index.keep_up();
    assert!(files(folder.path()).len() <= 28);
}

fn id_of(number: u64) -> AggregateId {
    id(number)
}

#[test]
fn files_of_another_log_or_another_history_are_not_believed() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    (0..30).for_each(|_| written.append());
    drop(Upkeep::start(Arc::new(written.brought_up(folder.path()))).unwrap());
    let mut other = Written::new();
    (0..30).for_each(|_| other.append());
    assert_eq!(other.opened(folder.path()).complete().tip, Tip::START);
    other.check(&other.brought_up(folder.path()));
}

#[test]
fn files_of_another_history_of_the_same_log_are_not_believed() {
    for back in 1..8 {
        let folder = tempdir().unwrap();
        let mut written = Written::new();
        (0..60).for_each(|_| written.append());
        drop(Upkeep::start(Arc::new(written.brought_up(folder.path()))).unwrap());
        let was = written.log.tip();
        let (first, cut) = written.frames.iter().rev().nth(back).map(|(first, cut)| (*first, *cut)).unwrap();
        if cut.segment < was.end.segment {
            assert!(back > 1, "its last segment goes on otherwise");
            return;
        }
        let is_lost = |place: &RecordAddress| (place.segment, place.offset) >= (cut.segment, cut.offset);
        let lost: Vec<_> =
            written.places.iter().filter(|(_, place)| is_lost(place)).map(|(id, _)| *id).collect();
        assert_eq!(written.opened(folder.path()).complete().tip, was);
        // Makes frames end at other offsets than before.
        written.number += 1;
        written.go_on_otherwise(first);
        assert!(written.log.tip().end > was.end);
        let index = written.brought_up(folder.path());
        assert_eq!(index.complete().tip, written.log.tip(), "from {first} on");
        assert!(lost.iter().all(|id| index.event(*id).unwrap().is_none()), "from {first} on");
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// The log and the index were restored to an earlier state and continued. Then a file from before
/// the restore reappears.
#[test]
fn a_file_of_another_history_is_not_believed_beside_those_of_this_one() {
    let unmerged = CancellationToken::new();
    unmerged.cancel();
    for (at_once, frames_fit) in [(true, false), (false, true), (false, false)] {
        let [base, before, now] = std::array::from_fn(|_| tempdir().unwrap());
        // Large segments, because the salts of several segments would also distinguish the
        // histories.
        let mut written = Written::in_segments_of(1_000_000);
        (0..20).for_each(|_| written.append());
        written.brought_up(base.path()).write_all();
        let (first, common) = (written.log.tip().position.0 + 1, written.places.clone());
        copy_files(base.path(), before.path());
        copy_files(base.path(), now.path());
        (0..40).for_each(|_| written.append());
        let index = written.opened_until(&unmerged, before.path());
        if at_once {
            written.add_to(&index)
        } else {
            written.catch_up(&index)
        }
        index.write_all();
        let lost: Vec<_> = written.places.keys().filter(|id| !common.contains_key(id)).copied().collect();
        written.number = if frames_fit { 20 } else { 21 };
        written.go_on_otherwise(first);
        let index = written.opened_until(&unmerged, now.path());
        written.catch_up(&index);
        index.write_all();
        let old = files(before.path()).split_off(files(base.path()).len());
        assert_eq!(old.len() == 1, at_once);
        for (old, alone) in old.iter().flat_map(|old| [(old, false), (old, true)]) {
            let folder = tempdir().unwrap();
            copy_files(now.path(), folder.path());
            let copied = folder.path().join(old.file_name().unwrap());
            fs::copy(old, &copied).unwrap();
            let here = files(folder.path());
            let place = here.iter().position(|file| *file == copied).unwrap();
            for beside in [place - 1, place + 1].into_iter().filter(|_| alone) {
                fs::remove_file(&here[beside]).unwrap();
            }
            let index = written.brought_up(folder.path());
            assert_eq!(index.complete().tip, written.log.tip(), "{}", old.display());
            assert!(lost.iter().all(|id| index.event(*id).unwrap().is_none()), "{}", old.display());
            for (id, place) in &written.places {
                assert_eq!(index.event(*id).unwrap(), Some(*place), "{}", old.display());
            }
        }
    }
}

#[test]
fn a_removed_directory_is_created_again() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let index = written.brought_up(folder.path());
    (0..30).for_each(|_| written.append());
    fs::remove_dir_all(folder.path()).unwrap();
    written.add_to(&index);
    index.write_all();
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(written.opened(folder.path()).complete().tip, written.log.tip());
}

/// Returns an index whose first file has many events and is damaged where its aggregates are.
fn with_a_damaged_file(written: &mut Written, folder: &Path, stop: &CancellationToken) -> Index {
    (0..100).for_each(|_| written.append());
    let index = written.brought_up(folder);
    index.keep_up();
    drop(Upkeep::start(Arc::new(index)).unwrap());
    let index = written.opened_until(stop, folder);
    assert!(index.layers().older.first().unwrap().table().unwrap().summary.events > 100);
    let file = fs::File::options().write(true).open(&files(folder)[0]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 0).unwrap();
    index
}

fn is_not_made(index: &Index) -> bool {
    let first = index.event_numbered(&id_of(0), SequenceNumber(1), WaitMode::Waits);
    matches!(first, Err(IndexError::NotMadeYet { .. }))
}

#[test]
fn a_stop_ends_the_making_of_a_file_again() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let stop = CancellationToken::new();
    let index = with_a_damaged_file(&mut written, folder.path(), &stop);
    let before = files(folder.path());
    stop.cancel();
    assert!(is_not_made(&index));
    assert_eq!(files(folder.path()), before);
    drop(index);
    written.check(&written.brought_up(folder.path()));
}

#[test]
fn a_stop_ends_a_merge() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    let stop = CancellationToken::new();
    stop.cancel();
    let index = written.opened_until(&stop, folder.path());
    (0..100).for_each(|_| written.append());
    written.catch_up(&index);
    let unmerged = files(folder.path()).len();
    drop(index);
    let index = written.brought_up(folder.path());
    index.keep_up();
    let merged = files(folder.path()).len();
    assert!(merged + 7 <= unmerged, "{unmerged}, then {merged}");
    written.check(&index);
}

#[test]
fn a_rebuilt_file_that_cannot_be_written_fills_no_memory() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("index");
    let mut written = Written::new();
    let index = Arc::new(with_a_damaged_file(&mut written, &path, &CancellationToken::new()));
    // Startup has no alternative to the rebuild, so the limits apply only while the threads run.
    let _upkeep = Upkeep::start(index.clone()).unwrap();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    fs::write(&path, "").unwrap();
    let layers = index.layers().older.len();
    assert!(is_not_made(&index));
    assert_eq!(index.layers().older.len(), layers);
    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert!(is_not_made(&index), "it is tried again after a while only");
    index.not_made.lock().unwrap().clear();
    written.check(&index);
}

#[test]
fn a_folder_says_how_far_the_log_went() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    (0..30).for_each(|_| written.append());
    let index = Arc::new(written.brought_up(folder.path()));
    let upkeep = Upkeep::start(index.clone()).unwrap();
    written.append();
    written.add_to(&index);
    drop(upkeep);
    let seen =
        |folder: &Path| IndexScan::read_folder(folder).unwrap().seen(&written.path).map(|seen| seen.end);
    assert_eq!(seen(folder.path()), Some(written.log.tip().end));
    for file in files(folder.path()) {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(seen(folder.path()), Some(written.log.tip().end), "by the note alone");
    let note = folder.path().join("tip");
    let text = fs::read_to_string(&note).unwrap();
    for cut in [0, 5, text.len() - 2] {
        fs::write(&note, &text[..cut]).unwrap();
        assert_eq!(seen(folder.path()), None, "cut at {cut}");
    }
}

#[test]
fn what_is_left_of_earlier_versions_and_crashes_is_removed_and_nothing_else() {
    let folder = tempdir().unwrap();
    let written = Written::new();
    let all = ["keyspaces", "0.jnl", "lock", "version", "x.unfinished", "x.index", "notes.txt", ".owner"];
    for name in all {
        match name {
            "keyspaces" => fs::create_dir_all(folder.path().join(name).join("1")).unwrap(),
            _ => fs::write(folder.path().join(name), "x").unwrap(),
        }
    }
    written.brought_up(folder.path());
    let left: Vec<_> = all.into_iter().filter(|name| folder.path().join(name).exists()).collect();
    assert_eq!(left, ["notes.txt", ".owner"]);
}

#[test]
fn what_brings_the_index_up_looks_around_after_so_many_bytes_too() {
    let folder = tempdir().unwrap();
    let mut written = Written::new();
    (0..40).for_each(|_| written.append());
    let index = written.opened(folder.path());
    let (mut before, mut most, mut looks) = (0, 0, 0);
    let segments = written.log.segments().clone();
    let looked = rebuild::catch_up(&index, written.log.tip().end, |place| {
        let reached = segments.bytes_before(place).unwrap();
        most = most.max(reached - before);
        (before, looks) = (reached, looks + 1);
        ControlFlow::Continue(())
    });
    looked.unwrap();
    assert!(looks > 3 && most < 6000, "{looks} looks, {most} bytes");
}

#[test]
fn what_is_published_moves_while_nobody_can_look() {
    let mut written = Written::new();
    let folder = tempdir().unwrap();
    let index = written.brought_up(folder.path());
    written.append();
    let mut entries = IndexBatch::new(&index);
    entries.reach(written.log.tip());
    let mut published = false;
    let is_locked = || matches!(index.layers.try_read(), Err(std::sync::TryLockError::WouldBlock));
    index.add(entries, || {
        assert!(is_locked(), "others could see the one without the other");
        published = true;
    });
    assert!(published && !is_locked());
    assert_eq!(index.complete().tip.position, Position(3));
}
