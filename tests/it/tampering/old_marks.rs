//! Writes a log again as versions wrote it that kept no hash of ImmuDB in their marks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::log::{Cursor, Frame, Log, LogOffset, Tip, recover, recover_read_only};
use bytes::Bytes;
use prost::Message;
use tempfile::tempdir;

/// The mark of those versions.
#[derive(Clone, PartialEq, Message)]
struct OldMark {
    #[prost(uint64, tag = "1")]
    position: u64,
    #[prost(uint64, tag = "2")]
    snapshots: u64,
    #[prost(uint64, tag = "3")]
    immudb_tx: u64,
}

/// Replaces the segments of the log, which nobody else may use. Returns the number of marks.
pub fn rewrite(folder: &Path) -> usize {
    let aside = tempdir().unwrap();
    let mut marks = 0;
    let (old, _) = recover_read_only(folder).unwrap();
    let mut frames = Cursor::new(old.segments().clone(), LogOffset::START);
    let mut new = Log::new(recover(aside.path(), None).unwrap(), Tip::START, 1 << 30);
    while let Some(read) = frames.next(old.end).unwrap() {
        let mut group = new.begin().unwrap();
        match read.frame {
            Frame::Append { records, .. } => {
                let records: Vec<Bytes> = records.into_iter().map(|record| record.bytes).collect();
                group.append(&records).unwrap();
            }
            Frame::Snapshot { record, .. } => _ = group.snapshot(&record.bytes).unwrap(),
            Frame::Mark(mark) => {
                marks += 1;
                group.mark(&OldMark::decode(mark).unwrap().encode_to_vec());
            }
        }
        new.write(group).unwrap();
    }
    new.close().unwrap();
    for path in segments(folder) {
        fs::remove_file(path).unwrap();
    }
    for path in segments(aside.path()) {
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    marks
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect()
}
