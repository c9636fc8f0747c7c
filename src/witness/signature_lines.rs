//! Single signature lines of a note, as a witness returns and keeps them.

use crate::proof::{NoteError, SignatureError, SignedNote, VerifierKey};

/// Why signature lines are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinesError {
    /// A line is not a signature line, or the text is not that of a note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A line has the name and the id of the key, but its signature does not belong to the text.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Returns those lines, with their line ends, that are signatures of the text by the key, each also
/// as a note. Lines by other keys are ignored.
pub(super) fn lines_by<'l>(
    text: &str,
    lines: &'l str,
    key: &VerifierKey,
) -> Result<Vec<(&'l str, SignedNote)>, LinesError> {
    let mut found = Vec::new();
    for line in lines.split_inclusive('\n') {
        let note = SignedNote::parse(format!("{text}\n{line}").as_bytes())?;
        match note.verify(key).map(|_| ()) {
            Ok(()) => found.push((line, note)),
            Err(SignatureError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Splits a note into its text and its signature lines. Returns `None` if it is not a note.
pub(super) fn split(note: &str) -> Option<(&str, &str)> {
    let end = note.rfind("\n\n")?;
    let text = note.get(..=end)?;
    Some((text, note.strip_prefix(text)?.strip_prefix('\n')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::SigningKey;

    fn signed(text: &str, key: &SigningKey) -> String {
        String::from_utf8(SignedNote::sign(text.to_owned(), key).unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn a_note_is_split_before_its_signatures() {
        let key = SigningKey::generate("log.example/a").unwrap();
        for text in ["a\n", "a\n\nb\n", "\n\n\n"] {
            let note = signed(text, &key);
            let (found, lines) = split(&note).unwrap();
            assert_eq!((found, format!("{text}\n{lines}")), (text, note.clone()));
        }
        assert_eq!(split("a\n"), None);
    }

    #[test]
    fn lines_by_other_keys_are_ignored_and_wrong_ones_rejected() {
        let [key, other] = ["a", "b"].map(|name| SigningKey::generate(name).unwrap());
        let [one, two] = [&key, &other].map(|key| {
            let note = signed("text\n", key);
            split(&note).unwrap().1.to_owned()
        });
        let both = format!("{two}{one}");
        let found = lines_by("text\n", &both, key.verifier()).unwrap();
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [one.as_str()]);
        assert_eq!(lines_by("text\n", &two, key.verifier()), Ok(Vec::new()));
        assert_eq!(lines_by("text\n", "", key.verifier()), Ok(Vec::new()));
        let wrong = lines_by("another\n", &both, key.verifier());
        assert!(matches!(wrong, Err(LinesError::Signature(SignatureError::Invalid { .. }))), "{wrong:?}");
        for malformed in ["x\n", "\n", one.trim_end()] {
            let rejected = lines_by("text\n", malformed, key.verifier());
            assert!(matches!(rejected, Err(LinesError::Note(_))), "{malformed:?}: {rejected:?}");
        }
    }
}
