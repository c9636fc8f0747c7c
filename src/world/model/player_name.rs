//! Unique names of players: the aggregates that reserve them, and the events of those aggregates.
//!
//! Each name has an aggregate of its own. Its last event tells which player has the name, if any
//! does. Clients cannot write to these aggregates, because their ids begin with the prefix that the
//! service reserves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::event::EventError;
use crate::{
    event::{AggregateId, Content, EventId, NewEvent},
    world::settings::UniqueNames,
};

/// The aggregate type of reservations.
pub const AGGREGATE_TYPE: &str = "AethyrPlayerName";

/// What the ids of all reservations begin with.
const ID_PREFIX: &str = "aethyr:player-name:";

/// Returns what the ids of the reservations of a rule begin with, or `None` if names need not be
/// unique. Each rule has its own, so that one does not take over those of another.
pub fn id_prefix(unique: UniqueNames) -> Option<String> {
    let rule = match unique {
        UniqueNames::Off => return None,
        UniqueNames::Exact => "exact",
        UniqueNames::Folded => "folded",
    };
    Some(format!("{ID_PREFIX}{rule}:"))
}

/// Returns the aggregate that reserves a name, or `None` if names need not be unique, or if the
/// name is empty. Names that count as the same have the same one. The id has a digest, because the
/// name may be too long for an id.
pub fn reservation(unique: UniqueNames, name: &str) -> Option<AggregateId> {
    let prefix = id_prefix(unique).filter(|_| !name.is_empty())?;
    let digest = match unique {
        UniqueNames::Folded => Sha256::digest(folded(name)),
        UniqueNames::Exact | UniqueNames::Off => Sha256::digest(name),
    };
    AggregateId::new(&format!("{prefix}{}", hex::encode(digest))).ok()
}

/// Returns whether an aggregate reserves a name.
pub fn is_reservation(id: &AggregateId) -> bool {
    id.as_str().starts_with(ID_PREFIX)
}

/// The name in Unicode lowercase, character by character, so that it does not depend on where in
/// the name a character is. The lowercase sigma at the end of a word is another character, which
/// has no uppercase of its own. Names are not normalized (NFKC).
fn folded(name: &str) -> String {
    let lowercase = name.chars().flat_map(char::to_lowercase);
    lowercase.map(|character| if character == 'ς' { 'σ' } else { character }).collect()
}

/// An event of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameEvent {
    /// The player has the name from then on.
    PlayerNameReserved {
        /// The name as the player has it.
        name: String,
        /// The player.
        player_id: AggregateId,
    },
    /// The player no longer has the name.
    PlayerNameReleased {
        /// The name as the player had it.
        name: String,
        /// The player.
        player_id: AggregateId,
    },
}

impl NameEvent {
    const TYPES: [&str; 2] = ["PlayerNameReserved", "PlayerNameReleased"];

    /// Returns the event as it is to be stored, without the fields that tell its cause.
    ///
    /// # Errors
    /// Returns an error if JSON cannot represent the event.
    pub fn encode(&self, id: EventId, reservation: AggregateId) -> Result<NewEvent, EventError> {
        let Ok(serde_json::Value::Object(tagged)) = serde_json::to_value(self) else {
            return Err(EventError::Unwritable);
        };
        let (event_type, data) = tagged.into_iter().next().ok_or(EventError::Unwritable)?;
        Ok(NewEvent {
            id,
            aggregate_id: reservation,
            aggregate_type: AGGREGATE_TYPE.into(),
            event_type: event_type.into(),
            content: Content::Json(data.to_string()),
            correlation_id: String::new(),
            causation_id: String::new(),
            metadata: BTreeMap::new(),
            occurred_at: None,
        })
    }

    /// Decodes a stored event. Returns `None` if it is not one of a reservation.
    pub fn decode(event: &NewEvent) -> Option<Self> {
        let event_type = &*event.event_type;
        match &event.content {
            Content::Json(data) if Self::TYPES.contains(&event_type) => {
                serde_json::from_str(&format!("{{\"{event_type}\":{data}}}")).ok()
            }
            Content::Json(_) | Content::Absent | Content::Binary(_) => None,
        }
    }

    /// Returns the player that has the name after the event, and the name.
    pub fn into_holder(self) -> (Option<AggregateId>, String) {
        match self {
            Self::PlayerNameReserved { name, player_id } => (Some(player_id), name),
            Self::PlayerNameReleased { name, .. } => (None, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_count_as_the_same_have_one_reservation() {
        let same = |unique, one: &str, other: &str| reservation(unique, one) == reservation(unique, other);
        let folded =
            [("Alice", "ALICE"), ("Ärger", "äRGER"), ("ΟΔΟΣ", "οδοσ"), ("ΝΙΚΟΣ", "νικος"), ("Ǆ", "ǆ")];
        for (one, other) in folded {
            assert!(same(UniqueNames::Folded, one, other), "{one} {other}");
            assert!(!same(UniqueNames::Exact, one, other), "{one} {other}");
        }
        for (one, other) in [("Alice", "Alic"), ("Alice", "Alice "), ("a", "ä"), ("ﬁ", "fi")] {
            assert!(!same(UniqueNames::Folded, one, other), "{one} {other}");
        }
        assert_ne!(reservation(UniqueNames::Exact, "alice"), reservation(UniqueNames::Folded, "alice"));
        assert_eq!(reservation(UniqueNames::Off, "Alice"), None);
        assert_eq!(reservation(UniqueNames::Folded, ""), None);
    }

    #[test]
    fn a_reservation_of_any_name_has_an_id_that_clients_cannot_write() {
        for name in ["Alice", &"ß".repeat(127), "\u{10ffff}"] {
            for unique in [UniqueNames::Exact, UniqueNames::Folded] {
                let id = reservation(unique, name).unwrap();
                assert!(is_reservation(&id) && id.as_str().starts_with("aethyr:"), "{id}");
                assert!(id.as_str().starts_with(&id_prefix(unique).unwrap()), "{id}");
            }
        }
        assert!(!is_reservation(&AggregateId::new("player-name:x").unwrap()));
    }

    #[test]
    fn an_event_is_the_json_that_is_documented() {
        let player_id = AggregateId::new("p").unwrap();
        let reserved = NameEvent::PlayerNameReserved { name: "Alice".into(), player_id: player_id.clone() };
        let released = NameEvent::PlayerNameReleased { name: "Alice".into(), player_id: player_id.clone() };
        let id = reservation(UniqueNames::Exact, "Alice").unwrap();
        let data = Content::Json(r#"{"name":"Alice","player_id":"p"}"#.into());
        for (event, event_type, holder) in
            [(reserved, "PlayerNameReserved", Some(player_id)), (released, "PlayerNameReleased", None)]
        {
            let stored = event.encode(EventId::random(), id.clone()).unwrap();
            assert_eq!((&*stored.event_type, &stored.content), (event_type, &data));
            assert_eq!(NameEvent::decode(&stored), Some(event.clone()));
            assert_eq!(event.into_holder(), (holder, "Alice".to_owned()));
            let other = NewEvent { event_type: "Other".into(), ..stored };
            assert_eq!(NameEvent::decode(&other), None);
        }
    }
}
