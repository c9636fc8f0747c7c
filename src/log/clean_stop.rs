//! A note that a clean stop leaves in the folder of the log: on which host, in which files, and how far. A start finds out
//! from it whether the log is what the last run left, or something older that was put in its place.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::segment;

const FILE: &str = "clean-stop";

/// Why the log may not be what the last run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unclean {
    #[error("no clean stop was noted: the last run crashed, or the log was never in use")]
    NotNoted,
    #[error("the last clean stop was on another host")]
    AnotherHost,
    #[error("the files are not those of the last clean stop: they were copied or put back")]
    OtherFiles,
    #[error("the log is not as long as the last clean stop left it")]
    OtherLength,
}

/// One line each. Two notes are compared, and none is read for what it says.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    /// Where the system has an id; containers often have none.
    host: String,
    /// The folder, and its newest segment.
    files: String,
    length: String,
}

impl Note {
    /// Of the log as it is; `None` where there is no segment.
    fn of(folder: &Path) -> io::Result<Option<Self>> {
        let Some(number) = segment::numbers(folder)?.last().copied() else { return Ok(None) };
        let newest = fs::metadata(segment::path(folder, number))?;
        Ok(Some(Self {
            host: host(),
            files: format!("{} {}", file_id(&fs::metadata(folder)?), file_id(&newest)),
            length: format!("{number} {}", newest.len()),
        }))
    }

    fn text(&self) -> String {
        let Self { host, files, length } = self;
        format!("host {host}\nfiles {files}\nlength {length}\n")
    }

    /// Whether this is what `noted` says.
    fn compare(&self, noted: &str) -> Result<(), Unclean> {
        let now = self.text();
        let mut differing = noted.lines().zip(now.lines()).filter(|(noted, now)| noted != now);
        match differing.next() {
            None if noted.len() == now.len() => Ok(()),
            Some((noted, _)) if noted.starts_with("host ") => Err(Unclean::AnotherHost),
            Some((noted, _)) if noted.starts_with("files ") => Err(Unclean::OtherFiles),
            Some((noted, _)) if noted.starts_with("length ") => Err(Unclean::OtherLength),
            None | Some(_) => Err(Unclean::NotNoted),
        }
    }
}

/// A file system gives an inode's number away again, so its birth counts, too.
fn file_id(metadata: &fs::Metadata) -> String {
    let created = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{}:{}", metadata.ino(), created.map_or(0, |since| since.as_nanos()))
}

fn host() -> String {
    fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Notes that the log in `folder` is complete. Nobody may write to it any more.
///
/// # Errors
/// The note can't be written; the next start takes the stop for a crash.
pub fn note(folder: &Path) -> io::Result<()> {
    let Some(note) = Note::of(folder)? else { return Ok(()) };
    let (path, temporary) = (path(folder), path(folder).with_extension("new"));
    fs::write(&temporary, note.text())?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

/// Takes the note away, durably, before the log is written to. Says whether it is of the log as it is.
///
/// # Errors
/// The note can't be taken away.
pub fn take(folder: &Path) -> io::Result<Result<(), Unclean>> {
    let noted = match fs::read_to_string(path(folder)) {
        Ok(noted) => noted,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            String::new()
        }
        Err(error) => return Err(error),
    };
    let compared = Note::of(folder)?.map_or(Err(Unclean::NotNoted), |now| now.compare(&noted));
    match fs::remove_file(path(folder)) {
        Ok(()) => fs::File::open(folder)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(compared)
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Log, Tip, recover};

    fn append(folder: &Path) {
        let mut log = Log::new(recover(folder, None).unwrap(), Tip::START, 1 << 20);
        let mut group = log.begin().unwrap();
        group.append(&[bytes::Bytes::from_static(b"one")]);
        log.write(group).unwrap();
    }

    #[test]
    fn a_clean_stop_counts_for_one_start_on_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("log");
        append(&folder);
        assert_eq!(take(&folder).unwrap(), Err(Unclean::NotNoted));
        note(&folder).unwrap();
        assert_eq!(take(&folder).unwrap(), Ok(()));
        // That start did not stop.
        assert_eq!(take(&folder).unwrap(), Err(Unclean::NotNoted));
    }

    #[test]
    fn a_folder_that_was_put_back_or_written_to_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, backup) = (dir.path().join("log"), dir.path().join("backup"));
        let copy = |from: &Path, to: &Path| {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        };
        append(&folder);
        note(&folder).unwrap();
        copy(&folder, &backup);
        // In the same folder.
        for name in ["0000000001.segment", FILE] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        copy(&backup, &folder);
        assert_eq!(take(&folder).unwrap(), Err(Unclean::OtherFiles));
        // In a folder of that name.
        note(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        copy(&backup, &folder);
        assert_eq!(take(&folder).unwrap(), Err(Unclean::OtherFiles));
        note(&folder).unwrap();
        let path = segment::path(&folder, 1);
        fs::write(&path, [fs::read(&path).unwrap(), b"more".to_vec()].concat()).unwrap();
        assert_eq!(take(&folder).unwrap(), Err(Unclean::OtherLength));
        fs::write(folder.join(FILE), "rubbish \u{1}").unwrap();
        assert_eq!(take(&folder).unwrap(), Err(Unclean::NotNoted));
    }

    #[test]
    fn another_host_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path());
        let now = Note::of(dir.path()).unwrap().unwrap();
        let noted = now.text();
        let elsewhere = Note { host: "another".into(), ..Note::of(dir.path()).unwrap().unwrap() };
        assert_eq!((now.compare(&noted), elsewhere.compare(&noted)), (Ok(()), Err(Unclean::AnotherHost)));
    }
}
