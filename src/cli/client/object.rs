//! `object`: prints an object of the world as JSON, in its current or a past state.
//!
//! The password hash of a player is never shown.

use std::str::FromStr;

use serde_json::{Value, json};

use super::{ClientSettings, Error, connect, print_indented, text};
use crate::event::{Timestamp, time};

/// A moment in the history of an object: after the event with this sequence number, or at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AsOf {
    Sequence(u64),
    /// In RFC 3339 format.
    Time(String),
}

/// Why a text is not such a moment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AsOfError {
    #[error("too large for a sequence number{}", hint(*unix_time))]
    TooLarge {
        /// The number as a Unix time.
        unix_time: Option<Timestamp>,
    },
    #[error(
        "neither a sequence number nor an RFC 3339 time with a zone, for example 2026-11-25T10:00:00Z or \
         2026-11-25T11:00:00+01:00"
    )]
    Neither,
}

fn hint(unix_time: Option<Timestamp>) -> String {
    unix_time.map(|at| format!("; if it is a Unix time, use {}", time::format(at))).unwrap_or_default()
}

impl FromStr for AsOf {
    type Err = AsOfError;

    fn from_str(text: &str) -> Result<Self, AsOfError> {
        /// No object has this many events, and every Unix time since 2001 is larger. So a larger
        /// number probably is a Unix time.
        const SEQUENCE_MAX: u64 = 999_999_999;
        match (text.parse(), time::parse(text)) {
            (Ok(sequence), _) if sequence <= SEQUENCE_MAX => Ok(Self::Sequence(sequence)),
            (Ok(seconds), _) => {
                let unix_time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::new(seconds, 0));
                Err(AsOfError::TooLarge { unix_time })
            }
            (Err(_), Some(at)) => Ok(Self::Time(time::format(at))),
            (Err(_), None) => Err(AsOfError::Neither),
        }
    }
}

/// Prints an object as JSON.
///
/// # Errors
/// Returns an error if the service cannot be reached or rejects a call.
pub(super) async fn show(service: ClientSettings, id: String, at: Option<AsOf>) -> Result<(), Error> {
    let client = connect(service).await?;
    let as_of = match at {
        None => json!({}),
        Some(AsOf::Sequence(sequence)) => json!({"sequence_number": sequence}),
        Some(AsOf::Time(time)) => json!({"time": time}),
    };
    let request = json!({"id": id, "as_of": as_of});
    let ask = async |call: &str| {
        let method = format!("aethyr.world.v1.WorldService/{call}");
        client.call(&method, &request).await
    };
    let answer = ask("GetGameObject").await?;
    let object = answer.get("game_object").cloned().unwrap_or_default();
    let mut shown = match text(&object, "aggregate_type") {
        "Room" => ask("GetRoom").await?.get("room").cloned().unwrap_or_default(),
        "Player" => ask("GetPlayer").await?.get("player").cloned().unwrap_or_default(),
        _ => json!({"object": object}),
    };
    if let Value::Object(members) = &mut shown {
        if let Some(hash) = members.get_mut("password_hash") {
            *hash = "***".into();
        }
        // Merge the members of the inner object, so that one flat object is shown.
        if let Some(Value::Object(object)) = members.remove("object") {
            members.extend(object);
        }
    }
    print_indented(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_sequence_number_and_a_time_has_a_zone() {
        let time = |text: &str| Some(AsOf::Time(text.to_owned()));
        for (text, at, says) in [
            ("17", Some(AsOf::Sequence(17)), ""),
            ("2026-11-25T11:00:00+01:00", time("2026-11-25T10:00:00Z"), ""),
            ("1795633178", None, "2026-11-25T18:59:38Z"),
            ("99999999999999999", None, "too large for a sequence number"),
            ("2026-11-25T10:00:00", None, "zone"),
            ("now", None, "zone"),
        ] {
            match (text.parse::<AsOf>(), at) {
                (Ok(found), Some(at)) => assert_eq!(found, at),
                (Err(said), None) => assert!(said.to_string().contains(says), "{text}: {said}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
