//! Makes text from clients safe to print to a terminal or a log.
//!
//! Characters that would move the cursor, forge a line, change the direction of the text or pass
//! unseen as a byte order mark are shown as escapes.

use std::{borrow::Cow, fmt::Write};

/// Escapes such characters as JSON does (`\u001b`), so that JSON remains valid and unchanged in
/// meaning.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(acts_on_terminals) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if acts_on_terminals(character) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Returns whether a character is a control character (C0, DEL, C1), ends a line or a paragraph,
/// changes the direction of the text (Unicode Standard Annex 9, "Directional Formatting
/// Characters"), or is a byte order mark.
fn acts_on_terminals(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    character.is_control() || turns || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_escaped_and_what_is_read_stays() {
        let hostile = "a\x1b[2Jb\r\nc\u{9b}31md\u{202e}e\u{7f}\u{2028}\tf";
        let shown = escaped(hostile);
        assert_eq!(shown, "a\\u001b[2Jb\\u000d\\u000ac\\u009b31md\\u202ee\\u007f\\u2028\\u0009f");
        let again: String = serde_json::from_str(&format!("\"{shown}\"")).unwrap();
        assert_eq!(again, hostile);
        let others =
            ('\u{2066}'..='\u{2069}').chain(['\u{85}', '\u{2029}', '\u{feff}', '\u{61c}', '\u{200f}']);
        for other in others {
            assert_eq!(escaped(&format!("a{other}b")), format!("a\\u{:04x}b", u32::from(other)));
        }
        for read in ["", "Zoë Mæster 火 👩‍👩‍👧", "می‌خواهم"] {
            assert!(matches!(escaped(read), Cow::Borrowed(same) if same == read));
        }
    }
}
