//! Reads the notes in a file to which they are appended, each with a blank line behind it.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use crate::proof::{SignedNote, note_file};

/// Returns the complete notes in the last `bytes_max` bytes of a file, in their order. What a crash
/// has cut off is skipped. A file that does not exist in an existing directory has no notes.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<SignedNote>> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder(path).is_dir() => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let mut notes = parse(&bytes);
    if length > bytes_max && notes.len() > 1 {
        // Its text may have begun before the part that was read.
        notes.remove(0);
    }
    Ok(notes)
}

/// Returns the directory that has the file.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the notes in complete lines. A crash may have cut off what was written last.
fn parse(bytes: &[u8]) -> Vec<SignedNote> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last.saturating_add(1));
    let parts = note_file::split(bytes.get(..end).unwrap_or_default());
    parts.iter().filter_map(|part| SignedNote::parse(&part.bytes).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transparency::kept::tests::kept;

    #[test]
    fn complete_notes_are_found_whatever_was_cut_off() {
        let notes: Vec<SignedNote> = [5, 9, 20].map(|size| kept(size, 1).note).to_vec();
        let mut file = Vec::new();
        let mut ends = Vec::new();
        for note in &notes {
            file.extend(note.to_bytes());
            ends.push(file.len());
            file.push(b'\n');
        }
        for length in 0..=file.len() {
            let complete = ends.iter().filter(|end| **end <= length).count();
            assert_eq!(parse(&file[..length]), notes[..complete], "{length} bytes");
            // The next note follows what was cut off.
            let more = [&file[..length], b"\n\n", &kept(30, 1).note.to_bytes()].concat();
            assert_eq!(parse(&more).last(), Some(&kept(30, 1).note), "{length} bytes");
        }
        for start in 0..file.len() {
            let found = parse(&file[start..]);
            assert!(notes.ends_with(found.get(1..).unwrap_or_default()), "from byte {start}");
        }
        assert_eq!(parse(b"\n\n\nx\n\ny\n"), []);
    }

    #[test]
    fn only_the_end_of_a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        assert_eq!(read(&path, 1000).unwrap(), []);
        assert!(read(&dir.path().join("missing/checkpoints"), 1000).is_err());
        let note = |size| [kept(size, 1).note.to_bytes(), b"\n".to_vec()].concat();
        let notes: Vec<u8> = (1..=100).flat_map(note).collect();
        fs::write(&path, notes).unwrap();
        let last = read(&path, 1000).unwrap();
        assert!((1..10).contains(&last.len()), "{}", last.len());
        assert_eq!(last.last(), Some(&kept(100, 1).note));
        assert_eq!(read(&path, 1 << 20).unwrap().len(), 100);
    }
}
