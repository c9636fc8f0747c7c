//! Reads files with signed checkpoints, as the anchor `file` writes them, and as `GetCheckpoint`
//! returns them: one note after the other, with a blank line in between.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::super::{proof::KnownKey, say};
use crate::proof::{
    Checkpoint, CheckpointError, NoteError, SignatureError, SignedNote,
    note_file::{self, NotePart},
};

/// A checkpoint that a key of the log has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownCheckpoint {
    pub path: PathBuf,
    /// The line in the file.
    pub line: usize,
    pub checkpoint: Checkpoint,
}

impl KnownCheckpoint {
    pub(super) fn size(&self) -> u64 {
        self.checkpoint.size()
    }
}

/// What was read from one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadFile {
    pub known: Vec<KnownCheckpoint>,
    /// The number of notes that are not accepted.
    pub failed: usize,
}

/// Why a note is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NoteRejection {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the checkpoint is of the log {found:?}, not of {expected:?}")]
    OtherOrigin { expected: String, found: String },
    #[error("it is signed by none of the keys; name further ones with --key")]
    OtherKeys,
    #[error("no key to verify it with")]
    NoKey,
}

/// Reads a file. Says which notes are not accepted, and which belong to a part of an earlier
/// generation that is not in the present history.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn read(path: &Path, keys: &[KnownKey]) -> io::Result<ReadFile> {
    let contents = fs::read(path)?;
    let is_cut = !contents.ends_with(b"\n");
    let mut read = ReadFile::default();
    // Those that are incomplete, if another one follows.
    let mut torn = Vec::new();
    let mut notes = note_file::split(&contents).into_iter().peekable();
    while let Some(NotePart { line, bytes: note }) = notes.next() {
        let place = || format!("{}:{line}", path.display());
        let accepted = accept(&note, keys);
        if accepted.is_ok() {
            // The service writes the newest checkpoint again after a crash.
            for (place, why) in torn.drain(..) {
                say(&format!("{place}: ignored, because it is incomplete: {why}"));
            }
        }
        match accepted {
            Ok((checkpoint, agreed)) if checkpoint.size() > agreed => say(&format!(
                "{}: not compared: the checkpoint of {} events belongs to a generation that agrees with \
                 the present one up to {agreed} events",
                place(),
                checkpoint.size(),
            )),
            Ok((checkpoint, _)) => {
                read.known.push(KnownCheckpoint { path: path.to_owned(), line, checkpoint });
            }
            // A note that is just being written, or that a crash has cut off.
            Err(why) if is_cut && notes.peek().is_none() => {
                say(&format!("{}: ignored, because it is incomplete: {why}", place()));
            }
            Err(why) if is_torn(&note, &why, keys) => torn.push((place(), why)),
            Err(why) => {
                say(&format!("{}: not compared: {why}", place()));
                read.failed = read.failed.saturating_add(1);
            }
        }
    }
    for (place, why) in torn {
        say(&format!("{place}: not compared: {why}"));
        read.failed = read.failed.saturating_add(1);
    }
    Ok(read)
}

/// Returns whether the note looks like a checkpoint of one of the keys that a crash has cut off.
fn is_torn(note: &[u8], why: &NoteRejection, keys: &[KnownKey]) -> bool {
    /// The number of characters of a whole signature: an id and 64 bytes, in base64.
    const SIGNATURE_CHARACTERS: usize = 92;
    let note = String::from_utf8_lossy(note);
    let is_short = match why {
        NoteRejection::Note(_) => true,
        // What is left of it may be a signature all the same.
        NoteRejection::Signature(SignatureError::Invalid { .. }) => {
            note.trim_end().rsplit(' ').next().is_some_and(|left| left.len() < SIGNATURE_CHARACTERS)
        }
        NoteRejection::Signature(_)
        | NoteRejection::Checkpoint(_)
        | NoteRejection::OtherOrigin { .. }
        | NoteRejection::OtherKeys
        | NoteRejection::NoKey => false,
    };
    let first = note.lines().next().unwrap_or_default();
    // The rest may be within the first character of a signature line.
    let is_dash = ["—", "\u{fffd}"].contains(&note.trim());
    let begins = |known: &KnownKey| !first.is_empty() && known.key.name().starts_with(first);
    is_short && keys.iter().any(|known| is_dash || begins(known))
}

/// Returns the checkpoint if one of the keys has signed it, and the size up to which that key
/// counts.
fn accept(note: &[u8], keys: &[KnownKey]) -> Result<(Checkpoint, u64), NoteRejection> {
    let note = SignedNote::parse(note)?;
    let mut rejection = NoteRejection::NoKey;
    for known in keys {
        match note.verify(&known.key) {
            Ok(text) => {
                let checkpoint = Checkpoint::parse(text)?;
                let (expected, found) = (known.key.name(), checkpoint.origin());
                if expected != found {
                    let (expected, found) = (expected.to_owned(), found.to_owned());
                    return Err(NoteRejection::OtherOrigin { expected, found });
                }
                return Ok((checkpoint, known.agreed));
            }
            // A wrong signature says more than a missing one.
            Err(wrong @ SignatureError::Invalid { .. }) => return Err(wrong.into()),
            Err(missing) if keys.len() == 1 => rejection = missing.into(),
            Err(_) => rejection = NoteRejection::OtherKeys,
        }
    }
    Err(rejection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::SigningKey;

    const ORIGIN: &str = "log.example/aethyr";

    fn signed(size: u64, key: &SigningKey) -> String {
        let checkpoint = Checkpoint::new(ORIGIN, size, [7; 32], Vec::new()).unwrap();
        let note = SignedNote::sign(checkpoint.to_text(), key).unwrap();
        String::from_utf8(note.to_bytes()).unwrap()
    }

    fn read_all(contents: &str, keys: &[(&SigningKey, u64)]) -> (Vec<(usize, u64)>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        fs::write(&path, contents).unwrap();
        let known =
            |(key, agreed): &(&SigningKey, u64)| KnownKey { key: key.verifier().clone(), agreed: *agreed };
        let keys: Vec<KnownKey> = keys.iter().map(known).collect();
        let read = read(&path, &keys).unwrap();
        (read.known.iter().map(|known| (known.line, known.size())).collect(), read.failed)
    }

    #[test]
    fn a_file_has_one_note_or_many() {
        let key = SigningKey::generate(ORIGIN).unwrap();
        let keys = [(&key, u64::MAX)];
        let [one, two, three] = [1, 2, 3].map(|size| signed(size, &key));
        assert_eq!(read_all(&one, &keys), (vec![(1, 1)], 0));
        assert_eq!(read_all("", &keys), (vec![], 0));
        let as_written = format!("{one}\n{two}\n{three}\n");
        let expected = (vec![(1, 1), (7, 2), (13, 3)], 0);
        assert_eq!(read_all(&as_written, &keys), expected);
        let by_hand = format!("\n\n{one}\n\n{two}");
        assert_eq!(read_all(&by_hand, &keys), (vec![(3, 1), (10, 2)], 0));
    }

    #[test]
    fn what_no_key_has_signed_is_counted_and_a_cut_end_is_not() {
        let [key, other] = [ORIGIN; 2].map(|name| SigningKey::generate(name).unwrap());
        let keys = [(&key, u64::MAX)];
        let [one, two] = [1, 2].map(|size| signed(size, &key));
        let foreign = signed(3, &other);
        let forged = signed(4, &key).replacen("\n4\n", "\n5\n", 1);
        let contents = format!("{one}\n{foreign}\n{forged}\nnonsense\n\n{two}\n");
        assert_eq!(read_all(&contents, &keys), (vec![(1, 1), (21, 2)], 3));
        let cut = format!("{one}\n{}", &two[..two.len() - 5]);
        assert_eq!(read_all(&cut, &keys), (vec![(1, 1)], 0));
        let cut_within = format!("{one}\n{}\n", &two[..two.len() - 5]);
        assert_eq!(read_all(&cut_within, &keys), (vec![(1, 1)], 1));
        assert_eq!(read_all(&one, &[]), (vec![], 1));
        assert_eq!(read_all(&foreign, &[(&key, 9), (&other, 9)]), (vec![(1, 3)], 0));
    }

    #[test]
    fn what_a_crash_has_cut_off_costs_no_other_note() {
        let key = SigningKey::generate(ORIGIN).unwrap();
        let [one, two] = [1, 2].map(|size| signed(size, &key));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        let keys = [KnownKey { key: key.verifier().clone(), agreed: 9 }];
        // Also within a character.
        for length in 0..one.len() {
            fs::write(&path, [&one.as_bytes()[..length], b"\n\n", two.as_bytes()].concat()).unwrap();
            let read = read(&path, &keys).unwrap();
            assert_eq!(read.known.last().map(KnownCheckpoint::size), Some(2), "{length} bytes");
            assert_eq!(read.failed, 0, "{length} bytes");
        }
        // A whole one with a wrong signature is not cut off, and neither is another text.
        let forged = signed(4, &key).replacen("\n4\n", "\n5\n", 1);
        for wrong in [&*forged, "nonsense"] {
            fs::write(&path, format!("{wrong}\n\n{two}")).unwrap();
            assert_eq!(read(&path, &keys).unwrap().failed, 1, "{wrong}");
        }
    }

    #[test]
    fn the_end_of_a_generation_is_not_compared() {
        let key = SigningKey::generate(ORIGIN).unwrap();
        let contents = [1, 2, 3].map(|size| signed(size, &key)).join("\n");
        assert_eq!(read_all(&contents, &[(&key, 2)]), (vec![(1, 1), (7, 2)], 0));
    }

    #[test]
    fn the_origin_is_the_name_of_the_key() {
        let key = SigningKey::generate("another.example").unwrap();
        let note = signed(1, &key);
        let known = KnownKey { key: key.verifier().clone(), agreed: 9 };
        let expected =
            NoteRejection::OtherOrigin { expected: "another.example".to_owned(), found: ORIGIN.to_owned() };
        assert_eq!(accept(note.as_bytes(), &[known]), Err(expected));
    }
}
