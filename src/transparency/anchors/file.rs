//! A file on another disk, to which each checkpoint is appended.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{AnchorError, notes};
use crate::{crash_point::CrashPoint, proof::SignedNote};

/// How much of the file is read to find its last note.
const TAIL_BYTES: u64 = 64 << 10;

/// How long to wait for the disk. A network file system may not answer at all.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// A file. Nothing else writes to it.
#[derive(Debug)]
pub(super) struct FileAnchor {
    path: PathBuf,
    /// A write that has not ended yet. No other one is started: each of them takes a thread.
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl FileAnchor {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, writing: None }
    }

    /// Appends a checkpoint durably, unless the file ends with it. The directory has to exist: it
    /// may be that of a disk that is not mounted.
    pub(super) async fn publish(&mut self, note: &SignedNote) -> Result<(), AnchorError> {
        if self.writing.is_some() {
            // Of an earlier attempt, and perhaps of another checkpoint.
            _ = self.written().await?;
        }
        let (path, note) = (self.path.clone(), note.clone());
        self.writing = Some(spawn_blocking(move || append(&path, &note)));
        Ok(self.written().await??)
    }

    /// Waits for the write in progress, but not for long. Returns how it ended.
    async fn written(&mut self) -> Result<io::Result<()>, AnchorError> {
        let Some(writing) = &mut self.writing else { return Ok(Ok(())) };
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let written = timeout(WRITE_MAX, writing).await.map_err(late)?;
        self.writing = None;
        written.map_err(|_| AnchorError::Panicked)
    }
}

fn append(path: &Path, note: &SignedNote) -> io::Result<()> {
    let last = notes::read(path, TAIL_BYTES)?.pop();
    if last.is_some_and(|last| last.unverified_text() == note.unverified_text()) {
        return Ok(());
    }
    let is_new = !path.exists();
    let mut bytes = Vec::new();
    if !is_new && !ends_a_note(path)? {
        bytes.extend(b"\n\n");
    }
    bytes.extend(note.to_bytes());
    bytes.push(b'\n');
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    if is_new {
        fs::File::open(notes::folder(path))?.sync_all()?;
    }
    CrashPoint::AnchorWritten.reached();
    Ok(())
}

/// Returns whether the file is empty, or ends with a blank line as behind each note. A crash may
/// have cut off what was written last.
fn ends_a_note(path: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2)))?;
    let mut end = Vec::new();
    file.take(2).read_to_end(&mut end)?;
    Ok(length == 0 || end == b"\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transparency::kept::tests::kept;

    #[tokio::test]
    async fn each_checkpoint_is_appended_once_with_a_blank_line_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        let mut expected = Vec::new();
        for size in [5, 9] {
            for _ in 0..2 {
                // Another attempt, and after a restart.
                FileAnchor::new(path.clone()).publish(&kept(size, 1).note).await.unwrap();
            }
            expected.extend(kept(size, 1).note.to_bytes());
            expected.push(b'\n');
        }
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[tokio::test]
    async fn an_attempt_waits_for_the_write_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut anchor = FileAnchor::new(dir.path().join("checkpoints"));
        let (path, first) = (anchor.path.clone(), kept(5, 1).note);
        anchor.writing = Some(spawn_blocking(move || append(&path, &first)));
        anchor.publish(&kept(9, 1).note).await.unwrap();
        let found = notes::read(&anchor.path, TAIL_BYTES).unwrap();
        assert_eq!(found, [5, 9].map(|size| kept(size, 1).note));
        // How the earlier one ended does not matter.
        anchor.writing = Some(spawn_blocking(|| Err(io::Error::other("full"))));
        anchor.publish(&kept(9, 1).note).await.unwrap();
        assert!(anchor.writing.is_none());
    }

    #[test]
    fn what_a_crash_has_cut_off_costs_no_other_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        let whole = kept(5, 1).note.to_bytes();
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            append(&path, &kept(9, 1).note).unwrap();
            let found = notes::read(&path, TAIL_BYTES).unwrap();
            assert_eq!(found.last(), Some(&kept(9, 1).note), "{length} bytes");
        }
    }

    #[test]
    fn no_directory_is_created() {
        let dir = tempfile::tempdir().unwrap();
        assert!(append(&dir.path().join("missing/checkpoints"), &kept(5, 1).note).is_err());
        assert!(!dir.path().join("missing").exists());
    }
}
