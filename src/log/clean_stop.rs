//! A note that a clean stop leaves in the directory of the log.
//!
//! It records the host, the files and the length of the log. At the next start, it shows whether
//! the log is the one that the last run left, or an older one that was put in its place.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::segment;

const FILE: &str = "clean-stop";

/// Why the log may differ from the one that the last run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unclean {
    /// There is no intact note, or no segment.
    #[error("no clean stop was recorded: the last run crashed, or the log has never been used")]
    NotNoted,
    /// The id of the host differs from the note.
    #[error("the last clean stop was on another host")]
    AnotherHost,
    /// The directory or its newest segment is another file, or was changed since the stop.
    #[error("the files differ from the last clean stop: they were copied, restored or modified")]
    OtherFiles,
    /// The number or the length of the newest segment differs from the note.
    #[error("the length of the log differs from the last clean stop")]
    OtherLength,
}

/// The lines of a note. Two notes are compared as text; their values are never parsed.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    /// The id of the system, if it has one. Containers often have none.
    host: String,
    /// The directory and its newest segment.
    files: String,
    length: String,
}

impl Note {
    /// Describes the current log. Returns `None` if there is no segment.
    fn of(folder: &Path) -> io::Result<Option<Self>> {
        let Some(number) = segment::numbers(folder)?.last().copied() else { return Ok(None) };
        let newest = fs::metadata(segment::path(folder, number))?;
        Ok(Some(Self {
            host: host(),
            files: format!("{} {} {}", file_id(&fs::metadata(folder)?), file_id(&newest), changed(&newest)),
            length: format!("{number} {}", newest.len()),
        }))
    }

    fn text(&self) -> String {
        let Self { host, files, length } = self;
        format!("host {host}\nfiles {files}\nlength {length}\n")
    }

    /// Checks that this note equals `noted`.
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

/// Identifies a file. A file system reuses inode numbers, so the creation time is included.
fn file_id(metadata: &fs::Metadata) -> String {
    let created = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{}:{}", metadata.ino(), created.map_or(0, |since| since.as_nanos()))
}

/// The time of the last change to a file or its metadata. No program that overwrites the file can
/// set it.
fn changed(metadata: &fs::Metadata) -> String {
    format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec())
}

fn host() -> String {
    fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Records that the log in `folder` is complete. It must not be written to any more.
///
/// # Errors
/// Returns an error if the note cannot be written. The next start then assumes a crash.
pub fn note(folder: &Path) -> io::Result<()> {
    let Some(note) = Note::of(folder)? else { return Ok(()) };
    let (path, temporary) = (path(folder), path(folder).with_extension("new"));
    fs::write(&temporary, note.text())?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

/// Checks that the last clean stop recorded the log as it is now. Must be called before anything in
/// the directory is written to.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub fn check(folder: &Path) -> io::Result<Result<(), Unclean>> {
    let noted = match fs::read_to_string(path(folder)) {
        Ok(noted) => noted,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok(Err(Unclean::NotNoted));
        }
        Err(error) => return Err(error),
    };
    Ok(Note::of(folder)?.map_or(Err(Unclean::NotNoted), |now| now.compare(&noted)))
}

/// Removes the note, durably. Must be called before the log is written to.
///
/// # Errors
/// Returns an error if the note may still exist.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(path(folder)) {
        Ok(()) => fs::File::open(folder)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::log::{Log, Tip, recover};

    fn append(folder: &Path) {
        let mut log = Log::new(recover(folder, None).unwrap(), Tip::START, 1 << 20);
        let mut group = log.begin().unwrap();
        group.append(&[bytes::Bytes::from_static(b"one")]).unwrap();
        log.write(group).unwrap();
    }

    #[test]
    fn a_clean_stop_counts_until_its_note_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("log");
        append(&folder);
        assert_eq!(check(&folder).unwrap(), Err(Unclean::NotNoted));
        note(&folder).unwrap();
        assert_eq!(check(&folder).unwrap(), Ok(()));
        remove(&folder).unwrap();
        assert_eq!(check(&folder).unwrap(), Err(Unclean::NotNoted));
        remove(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_was_put_back_or_written_to_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, backup) = (dir.path().join("log"), dir.path().join("backup"));
        let copy = |from: &Path, to: &Path| {
            let copied = Command::new("cp").args(["-aT"]).args([from, to]).status().unwrap();
            assert!(copied.success());
        };
        let put_back = |how: &str| {
            match how {
                "over the files" => {}
                "in the folder" => {
                    fs::read_dir(&folder)
                        .unwrap()
                        .for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
                }
                _ => fs::remove_dir_all(&folder).unwrap(),
            }
            copy(&backup, &folder);
        };
        append(&folder);
        note(&folder).unwrap();
        copy(&folder, &backup);
        for how in ["over the files", "in the folder", "as another folder"] {
            note(&folder).unwrap();
            assert_eq!(check(&folder).unwrap(), Ok(()));
            put_back(how);
            assert_eq!(check(&folder).unwrap(), Err(Unclean::OtherFiles), "{how}");
        }
        fs::write(folder.join(FILE), "rubbish \u{1}").unwrap();
        assert_eq!(check(&folder).unwrap(), Err(Unclean::NotNoted));
    }

    #[test]
    fn a_log_of_another_length_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path());
        let now = Note::of(dir.path()).unwrap().unwrap();
        let noted = now.text();
        let longer = Note { length: "1 5000".into(), ..Note::of(dir.path()).unwrap().unwrap() };
        assert_eq!(longer.compare(&noted), Err(Unclean::OtherLength));
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
