//! The ranges of ids that begin with one of some prefixes.
//!
//! A range can be looked up in the order of the ids, so a list does not read what lies between the
//! prefixes.

/// A range of ids in bytewise order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdRange {
    /// The first id. `None` if all ids up to the end of the range belong to it.
    pub from: Option<String>,
    /// The ids of the range are less than this. `None` if it has no end.
    pub before: Option<String>,
}

/// Returns the ranges of the prefixes in order. They do not overlap. Without a prefix, there is one
/// range of all ids.
pub(super) fn ranges(prefixes: &[String]) -> Vec<IdRange> {
    if prefixes.is_empty() {
        return vec![IdRange { from: None, before: None }];
    }
    let mut sorted: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut kept: Vec<&str> = Vec::with_capacity(sorted.len());
    for prefix in sorted {
        // In this order, a prefix that another one begins with precedes it directly, or with others
        // in between that begin with it, too.
        if !kept.last().is_some_and(|last| prefix.starts_with(last)) {
            kept.push(prefix);
        }
    }
    let range = |prefix: &str| IdRange { from: Some(prefix.to_owned()), before: end_of(prefix) };
    kept.into_iter().map(range).collect()
}

/// Returns the least text that is greater than all texts with this prefix, or `None` if there is
/// none. UTF-8 has the order of the code points.
fn end_of(prefix: &str) -> Option<String> {
    let mut rest = prefix.chars();
    while let Some(last) = rest.next_back() {
        if let Some(next) = next_char(last) {
            let mut end = rest.as_str().to_owned();
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// Returns the next character, or `None` after the last one. Surrogates are not characters.
fn next_char(character: char) -> Option<char> {
    match character {
        '\u{d7ff}' => Some('\u{e000}'),
        character => char::from_u32(u32::from(character).saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(range: &IdRange, id: &str) -> bool {
        range.from.as_deref().is_none_or(|from| id >= from)
            && range.before.as_deref().is_none_or(|before| id < before)
    }

    #[test]
    fn the_ranges_have_exactly_the_ids_with_a_prefix_each_once_and_in_order() {
        const LETTERS: [char; 6] = ['-', 'a', 'b', '\u{d7ff}', '\u{e000}', char::MAX];
        let mut random = fastrand::Rng::with_seed(18);
        let text = |random: &mut fastrand::Rng, least: usize| -> String {
            let length = random.usize(least..4);
            (0..length).map(|_| LETTERS[random.usize(..LETTERS.len())]).collect()
        };
        for _ in 0..2_000 {
            let count = random.usize(0..5);
            let prefixes: Vec<String> = (0..count).map(|_| text(&mut random, 1)).collect();
            let ranges = ranges(&prefixes);
            for _ in 0..20 {
                let id = text(&mut random, 0);
                let wanted = prefixes.is_empty() || prefixes.iter().any(|prefix| id.starts_with(prefix));
                let found = ranges.iter().filter(|range| has(range, &id)).count();
                assert_eq!(found, usize::from(wanted), "{id:?} in {prefixes:?}");
            }
            assert!(ranges.is_sorted_by(|one, other| one.before <= other.from), "{ranges:?}");
        }
    }

    #[test]
    fn a_range_ends_before_the_next_text_of_the_same_length() {
        assert_eq!(end_of("arena-").as_deref(), Some("arena."));
        assert_eq!(end_of("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(end_of("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(end_of("\u{10ffff}"), None);
    }
}
