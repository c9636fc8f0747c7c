//! Decodes the fields that several requests have: ids, names, times, and contents.
//!
//! A violation is recorded together with the name of the field.

use std::fmt;

use crate::{
    event::{AggregateId, Content, NameError, Timestamp, check_name},
    grpc::violations::Violations,
};

/// Checks the id of an aggregate that a client writes to: at most `max` bytes, and not reserved.
pub(crate) fn writable_id(
    field: impl fmt::Display,
    text: &str,
    max: usize,
    wrong: &mut Violations,
) -> Option<AggregateId> {
    let reserved = AggregateId::RESERVED_PREFIX;
    if text.starts_with(reserved) {
        wrong.add(field, format!("must not begin with {reserved}, which the service reserves"));
        return None;
    }
    aggregate_id(field, text, max, wrong)
}

/// Checks an aggregate id of at most `max` bytes.
pub(crate) fn aggregate_id(
    field: impl fmt::Display,
    text: &str,
    max: usize,
    wrong: &mut Violations,
) -> Option<AggregateId> {
    if text.len() > max {
        wrong.add(field, NameError::TooLong { bytes: text.len(), max }.to_string());
        return None;
    }
    stored_id(field, text, wrong)
}

/// Checks a name of at most `bytes_max` bytes.
pub(crate) fn name(field: impl fmt::Display, text: &str, bytes_max: usize, wrong: &mut Violations) {
    let checked = if text.len() > bytes_max {
        Err(NameError::TooLong { bytes: text.len(), max: bytes_max })
    } else {
        check_name(text)
    };
    if let Err(error) = checked {
        wrong.add(field, error.to_string());
    }
}

/// Checks an id that is only looked up. No configured limit applies to it, because it may have been
/// stored before the limit was lowered.
pub(super) fn stored_id(field: impl fmt::Display, text: &str, wrong: &mut Violations) -> Option<AggregateId> {
    AggregateId::new(text).map_err(|error| wrong.add(field, error.to_string())).ok()
}

fn stored_name(field: impl fmt::Display, text: &str, wrong: &mut Violations) {
    if let Err(error) = check_name(text) {
        wrong.add(field, error.to_string());
    }
}

pub(super) fn optional_name(field: impl fmt::Display, text: &str, wrong: &mut Violations) {
    if !text.is_empty() {
        stored_name(field, text, wrong);
    }
}

/// Checks the values of a filter of which any one may match.
pub(crate) fn filter_values(field: impl fmt::Display, values: &[String], wrong: &mut Violations) {
    const VALUES_MAX: usize = 100;
    if values.len() > VALUES_MAX {
        wrong.add(&field, format!("has {} entries; at most {VALUES_MAX} are allowed", values.len()));
    }
    for one in values {
        stored_name(&field, one, wrong);
    }
}

pub(crate) fn timestamp(
    field: impl fmt::Display,
    at: Option<prost_types::Timestamp>,
    wrong: &mut Violations,
) -> Option<Timestamp> {
    let at = at?;
    let checked = Timestamp::new(at.seconds, at.nanos);
    if checked.is_none() {
        wrong.add(field, "must be a valid time between the years 1 and 9999");
    }
    checked
}

/// Checks the size of the content, and whether JSON is valid. `prefix` precedes the name of the
/// field in violations.
pub(super) fn content_ok(
    prefix: fmt::Arguments<'_>,
    content: &Content,
    bytes_max: usize,
    wrong: &mut Violations,
) {
    let bytes = content.byte_count();
    match content {
        Content::Absent => {}
        Content::Json(_) if bytes > bytes_max => {
            wrong.add(
                format_args!("{prefix}json"),
                format!("has {bytes} bytes; at most {bytes_max} are allowed"),
            );
        }
        Content::Binary(_) if bytes > bytes_max => {
            wrong.add(
                format_args!("{prefix}binary"),
                format!("has {bytes} bytes; at most {bytes_max} are allowed"),
            );
        }
        Content::Binary(_) => {}
        // The parser's message may quote the text. Line and column are enough.
        Content::Json(text) => {
            if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
                let place = format!("is not valid JSON (line {}, column {})", error.line(), error.column());
                wrong.add(format_args!("{prefix}json"), place);
            }
        }
    }
}

/// Returns the value of a field in which 0 means that there is none.
pub(crate) fn unless_zero(value: u64) -> Option<u64> {
    (value > 0).then_some(value)
}
