//! Masks the password hashes of players for callers that may not see them, and leaves out digests
//! that depend on them.
//!
//! The events of other aggregates, and other events of players, are not searched. Callers that may
//! see the hashes get the stored bytes, which do not pass through here.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::wire;
use crate::{
    access::{Principal, Right},
    error::{StoreError, Unreadable},
    event::{
        ChainHash, Content, RecordedEvent,
        record::{self, RecordHead, StoredEvent},
    },
    world::{
        model::aggregate::Kind,
        rules::command::{CALL_DIGEST, COMMAND_DIGEST},
    },
};

/// What stands in place of a hash.
const MASK: &str = "***";
const MASK_JSON: &str = "\"***\"";

/// The member of the data that has the hash.
const PASSWORD_HASH: &str = "password_hash";

/// The types of the events of a player whose data have a hash.
const WITH_HASH: [&[u8]; 2] = [b"PlayerCreated", b"PlayerPasswordUpdated"];

/// Whether a caller may see password hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Visible,
    Masked,
}

impl Secrets {
    pub(super) fn for_caller(principal: &Principal) -> Self {
        if principal.may(Right::SeeSecrets) { Self::Visible } else { Self::Masked }
    }
}

/// Masks the hashes in encoded `RecordedEvent`s. All other events keep their bytes.
///
/// # Errors
/// Returns an error if an event that may have a hash cannot be decoded.
pub(super) fn events(events: Vec<Bytes>) -> Result<Vec<Bytes>, StoreError> {
    events.into_iter().map(event).collect()
}

fn event(bytes: Bytes) -> Result<Bytes, StoreError> {
    use wire::recorded_event::Data;
    // The first fields of a record and of a `RecordedEvent` are the same.
    if RecordHead::of(&bytes).is_some_and(|head| !may_have_hash(head)) {
        return Ok(bytes);
    }
    let Ok(mut event) = wire::RecordedEvent::decode(bytes.clone()) else { return Err(undecodable(bytes)) };
    event.data = match event.data {
        Some(Data::Json(json)) => match masked(&json) {
            None => return Ok(bytes),
            Some(masked) => Some(Data::Json(masked)),
        },
        Some(Data::Binary(_)) => Some(Data::Json(MASK_JSON.to_owned())),
        None => return Ok(bytes),
    };
    // They depend on the hash alone, so they would tell whether a guess is right.
    for digest in [COMMAND_DIGEST, CALL_DIGEST] {
        event.metadata.remove(digest);
    }
    event.redacted = true;
    Ok(event.encode_to_vec().into())
}

/// Returns the error of an event that cannot be decoded.
fn undecodable(bytes: Bytes) -> StoreError {
    match record::decode(bytes, ChainHash::START) {
        Err(error) => StoreError::Damaged(error.into()),
        Ok(_) => Unreadable::EventMissing.into(),
    }
}

fn may_have_hash(head: RecordHead<'_>) -> bool {
    head.aggregate_type == Kind::Player.name().as_bytes() && WITH_HASH.contains(&head.event_type)
}

/// Returns whether the record of an event has a hash.
///
/// # Errors
/// Returns an error if the record may have one and cannot be decoded.
pub(super) fn has_hash(event: &StoredEvent) -> Result<bool, StoreError> {
    if !may_have_hash(event.head()) {
        return Ok(false);
    }
    let decoded = event.decode().map_err(|error| StoreError::Damaged(error.into()))?;
    let RecordedEvent { event, .. } = decoded;
    Ok(match &event.content {
        Content::Json(json) => masked(json).is_some(),
        Content::Binary(_) => true,
        Content::Absent => false,
    })
}

/// Masks the hash in the snapshot of an aggregate of this type.
pub(super) fn snapshot(snapshot: &mut wire::Snapshot, aggregate_type: &str) {
    use wire::snapshot::Data;
    if Kind::of(aggregate_type) != Some(Kind::Player) {
        return;
    }
    let data = match snapshot.data.take() {
        Some(Data::Json(json)) => match masked(&json) {
            None => Some(Data::Json(json)),
            Some(masked) => {
                snapshot.redacted = true;
                Some(Data::Json(masked))
            }
        },
        Some(Data::Binary(_)) => {
            snapshot.redacted = true;
            None
        }
        None => None,
    };
    snapshot.data = data;
}

/// Masks the hash of a player.
pub(super) fn player(player: &mut wire::world::Player) {
    if !player.password_hash.is_empty() {
        MASK.clone_into(&mut player.password_hash);
        player.redacted = true;
    }
}

/// Returns the JSON with its top-level hash masked, or `None` if it has none. Anything but an
/// object is masked as a whole: where a hash would be in it is not known.
fn masked(json: &str) -> Option<String> {
    let Ok(Members(members)) = serde_json::from_str(json) else { return Some(MASK_JSON.to_owned()) };
    let is_hash = |(key, value): &(String, &RawValue)| key == PASSWORD_HASH && value.get() != "null";
    if !members.iter().any(is_hash) {
        return None;
    }
    let mut out = String::with_capacity(json.len().saturating_add(MASK_JSON.len()));
    let mut separator = '{';
    for member in &members {
        let (key, value) = member;
        out.push(separator);
        out.push_str(&serde_json::Value::from(key.as_str()).to_string());
        out.push(':');
        out.push_str(if is_hash(member) { MASK_JSON } else { value.get() });
        separator = ',';
    }
    out.push('}');
    Some(out)
}

/// The members of a JSON object in their order, with the text of each value as it is. A key may
/// occur more than once.
struct Members<'j>(Vec<(String, &'j RawValue)>);

impl<'j> Deserialize<'j> for Members<'j> {
    fn deserialize<D: Deserializer<'j>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'j> Visitor<'j> for MembersVisitor {
    type Value = Members<'j>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "5f4dcc3b5aa765d61d8327deb882cf99";

    fn recorded(aggregate_type: &str, event_type: &str, json: &str) -> wire::RecordedEvent {
        wire::RecordedEvent {
            event_id: "7a1a9f0e-6c7c-4e0f-9a53-0f3f1f5f3a6d".to_owned(),
            aggregate_id: "player-1".to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            event_type: event_type.to_owned(),
            data: Some(wire::recorded_event::Data::Json(json.to_owned())),
            sequence_number: 2,
            position: 9,
            chain_hash: Bytes::from_static(&[7; 32]),
            recorded_by: "arena-1".to_owned(),
            ..wire::RecordedEvent::default()
        }
    }

    fn sent(event: &wire::RecordedEvent) -> wire::RecordedEvent {
        let sent = events(vec![event.encode_to_vec().into()]).unwrap();
        assert_eq!(sent.len(), 1);
        wire::RecordedEvent::decode(sent[0].clone()).unwrap()
    }

    fn has_hash_inside(message: &impl Message) -> bool {
        message.encode_to_vec().windows(HASH.len()).any(|bytes| bytes == HASH.as_bytes())
    }

    #[test]
    fn the_hash_of_a_player_is_masked_and_all_else_is_as_it_was_stored() {
        let json = format!(r#"{{"admin":false, "x": 1.10e2 ,"password_hash": "{HASH}","y":[ 1 ]}}"#);
        for event_type in ["PlayerCreated", "PlayerPasswordUpdated"] {
            let event = recorded("Player", event_type, &json);
            let found = sent(&event);
            assert!(!has_hash_inside(&found));
            let masked = r#"{"admin":false,"x":1.10e2,"password_hash":"***","y":[ 1 ]}"#;
            let data = Some(wire::recorded_event::Data::Json(masked.to_owned()));
            assert_eq!(found, wire::RecordedEvent { data, redacted: true, ..event });
        }
    }

    #[test]
    fn other_events_keep_their_bytes() {
        let json = format!(r#"{{"password_hash":"{HASH}"}}"#);
        for event in [
            recorded("Account", "PlayerCreated", &json),
            recorded("Player", "PlayerAdminStatusUpdated", &json),
            recorded("Player", "PlayerCreated", r#"{"admin":false,"password_hash":null}"#),
            recorded("Player", "PlayerCreated", r#"{"nested":{"password_hash":"x"}}"#),
            wire::RecordedEvent { data: None, ..recorded("Player", "PlayerCreated", "") },
        ] {
            let bytes: Bytes = event.encode_to_vec().into();
            assert_eq!(events(vec![bytes.clone()]).unwrap(), [bytes]);
        }
    }

    #[test]
    fn no_way_of_writing_the_data_shows_the_hash() {
        for json in [
            format!(r#"{{"password_hash":"{HASH}","password_hash":"{HASH}"}}"#),
            format!(r#"{{"password_hash":null,"password_hash":"{HASH}"}}"#),
            format!(r#"{{"password\u005fhash":"{HASH}"}}"#),
            format!(r#"{{"password_hash":["{HASH}"]}}"#),
            // The world reads the fields of an event from a list, too.
            format!(r#"["{HASH}"]"#),
            format!(r#""{HASH}""#),
        ] {
            let event = recorded("Player", "PlayerPasswordUpdated", &json);
            assert!(has_hash_inside(&event));
            let found = sent(&event);
            assert!(!has_hash_inside(&found) && found.redacted, "{json}");
        }
        let binary = Some(wire::recorded_event::Data::Binary(HASH.into()));
        let event = wire::RecordedEvent { data: binary, ..recorded("Player", "PlayerCreated", "") };
        assert!(!has_hash_inside(&sent(&event)));
    }

    #[test]
    fn the_snapshot_of_a_player_shows_no_hash_and_that_of_another_aggregate_is_not_searched() {
        let with = |data| wire::Snapshot { data: Some(data), ..wire::Snapshot::default() };
        let json = wire::snapshot::Data::Json(format!(r#"{{"name":"Ada","password_hash":"{HASH}"}}"#));
        let binary = wire::snapshot::Data::Binary(HASH.into());
        for data in [json, binary] {
            let mut masked = with(data.clone());
            snapshot(&mut masked, "Player");
            assert!(!has_hash_inside(&masked) && masked.redacted);
            let mut other = with(data.clone());
            snapshot(&mut other, "Account");
            assert_eq!(other, with(data));
        }
        let plain = with(wire::snapshot::Data::Json(r#"{ "name": "Ada" }"#.to_owned()));
        let mut same = plain.clone();
        snapshot(&mut same, "Player");
        assert_eq!(same, plain);
    }

    #[test]
    fn a_player_without_a_hash_is_not_redacted() {
        let mut with = wire::world::Player { password_hash: HASH.to_owned(), ..Default::default() };
        let mut without = wire::world::Player::default();
        player(&mut with);
        player(&mut without);
        assert_eq!((with.password_hash.as_str(), with.redacted), ("***", true));
        assert_eq!(without, wire::world::Player::default());
    }
}
