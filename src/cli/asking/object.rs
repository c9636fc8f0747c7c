//! `object`: an object of the world, as it is or as it was.

use std::str::FromStr;

use serde_json::{Value, json};

use super::{Address, connect, print_indented, text};

/// When: after an event with this number, or at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Sequence(u64),
    /// As RFC 3339 has it.
    Time(String),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::Sequence(sequence));
        }
        match prost_types::Timestamp::from_str(text) {
            Ok(time) => Ok(Self::Time(time.to_string())),
            Err(_) => Err("is neither a sequence number nor a time as in 2026-11-25T10:00:00Z".to_owned()),
        }
    }
}

/// # Errors
/// Says what the service answered, or that it did not.
pub async fn show(address: Address, id: String, at: Option<At>) -> Result<(), String> {
    let client = connect(address).await?;
    let as_of = match at {
        None => json!({}),
        Some(At::Sequence(sequence)) => json!({"sequence_number": sequence}),
        Some(At::Time(time)) => json!({"time": time}),
    };
    let request = json!({"id": id, "as_of": as_of});
    let ask = async |call: &str| {
        let method = format!("aethyr.world.v1.WorldService/{call}");
        client.call(&method, &request).await.map_err(|error| error.to_string())
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
        // One object, and not one in the other.
        if let Some(Value::Object(object)) = members.remove("object") {
            members.extend(object);
        }
    }
    print_indented(&shown)
}
