//! Files with notes one after the other, and a blank line in between: as anchors have them.

use super::note::SIGNATURE_PREFIX;

/// A part of a file that may be a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotePart {
    /// Its first line in the file, from 1 on.
    pub line: usize,
    pub bytes: Vec<u8>,
}

/// Splits the contents of a file: a note is a paragraph of text, and one of signature lines. Text
/// without signatures, as a crash may leave it, is a part of its own.
pub(crate) fn split(contents: &[u8]) -> Vec<NotePart> {
    let mut parts = Vec::new();
    let mut unsigned: Option<NotePart> = None;
    for paragraph in paragraphs(contents) {
        if paragraph.bytes.starts_with(SIGNATURE_PREFIX.as_bytes()) {
            let text = unsigned.take();
            let line = text.as_ref().map_or(paragraph.line, |text| text.line);
            let text = text.map(|text| text.bytes).unwrap_or_default();
            parts.push(NotePart { line, bytes: [text, b"\n".to_vec(), paragraph.bytes].concat() });
        } else {
            parts.extend(unsigned.replace(paragraph));
        }
    }
    parts.extend(unsigned);
    parts
}

/// Splits lines where one is blank.
fn paragraphs(contents: &[u8]) -> Vec<NotePart> {
    let mut paragraphs: Vec<NotePart> = Vec::new();
    let mut is_open = false;
    for (number, line) in (1..).zip(contents.split_inclusive(|byte| *byte == b'\n')) {
        let is_blank = line == b"\n";
        match paragraphs.last_mut() {
            Some(paragraph) if is_open && !is_blank => paragraph.bytes.extend(line),
            _ if !is_blank => paragraphs.push(NotePart { line: number, bytes: line.to_vec() }),
            _ => {}
        }
        is_open = !is_blank;
    }
    paragraphs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_a_text_with_its_signatures_and_the_rest_is_named_by_its_line() {
        let contents = "a\n1\n\n— a x\n— b y\n\n\n\ncut\n\nb\n2\n\n— a z\n\nend";
        let parts: Vec<(usize, String)> = split(contents.as_bytes())
            .into_iter()
            .map(|part| (part.line, String::from_utf8(part.bytes).unwrap()))
            .collect();
        let expected = [(1, "a\n1\n\n— a x\n— b y\n"), (9, "cut\n"), (11, "b\n2\n\n— a z\n"), (16, "end")];
        assert_eq!(parts, expected.map(|(line, text)| (line, text.to_owned())));
        // Signatures without a text.
        assert_eq!(split("— a x\n".as_bytes()), [NotePart { line: 1, bytes: "\n— a x\n".into() }]);
        assert_eq!(split(b"\n\n\n"), []);
    }
}
