//! Times as text, in the format of RFC 3339.
//!
//! A time without a zone is not accepted.

use super::Timestamp;

/// Parses a time in RFC 3339 format. A time without a zone could be in any of 27 hours, so it is
/// rejected.
pub fn parse(text: &str) -> Option<Timestamp> {
    let at: prost_types::Timestamp = text.parse().ok()?;
    has_zone(text).then(|| Timestamp::new(at.seconds, at.nanos)).flatten()
}

/// Formats a time as RFC 3339, in UTC.
pub fn format(at: Timestamp) -> String {
    prost_types::Timestamp { seconds: at.seconds(), nanos: at.nanos() }.to_string()
}

/// Returns whether the text ends with `Z` or an offset such as `+02:00`.
fn has_zone(text: &str) -> bool {
    let is_offset = |offset: &str| match offset.as_bytes() {
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].into_iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let offset = text.len().checked_sub("+02:00".len()).and_then(|at| text.get(at..));
    text.ends_with(['Z', 'z']) || (text.contains(['T', 't', ' ']) && offset.is_some_and(is_offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_zone() {
        for (text, seconds) in [
            ("2026-11-25T10:00:00Z", Some(1_795_600_800)),
            ("2026-11-25T10:00:00.5z", Some(1_795_600_800)),
            ("2026-11-25T10:00:00+02:00", Some(1_795_593_600)),
            ("2026-11-25T10:00:00-00:30", Some(1_795_602_600)),
            ("2026-11-25T10:00:00", None),
            ("2026-11-25", None),
            ("2026-11-25T10:00", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(Timestamp::seconds), seconds, "{text}");
        }
    }
}
