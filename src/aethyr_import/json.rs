//! Values of Ruby as JSON. What JSON lacks is an object with one key, a marker, as in Aethyr's own
//! markers `__set__`, `__symbol__`, `__gameobject__` and `__proc__`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value as Json, json};

use super::value::Value;
use crate::event::time;

/// Why a value has no form in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("a key is a string of bytes, a list, a mapping or a time")]
    Key,
    #[error("two keys are the same in JSON")]
    SameKeys,
}

/// Returns a value as JSON. Its depth and its size were bounded when it was read.
pub(super) fn json(value: &Value) -> Result<Json, JsonError> {
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Integer(number) => (*number).into(),
        Value::Large(digits) => json!({ "__integer__": &**digits }),
        Value::Float(number) => match Number::from_f64(*number) {
            Some(number) => Json::Number(number),
            None => json!({ "__float__": number.to_string() }),
        },
        Value::Text(text) => Json::String((**text).to_owned()),
        Value::Bytes(bytes) => json!({ "__binary__": STANDARD.encode(bytes) }),
        Value::Symbol(name) => json!({ "__symbol__": &**name }),
        Value::Array(items) => Json::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        Value::Hash(pairs) => {
            let mut object = Map::new();
            for (name, value) in pairs.iter() {
                if object.insert(key(name)?, json(value)?).is_some() {
                    return Err(JsonError::SameKeys);
                }
            }
            Json::Object(object)
        }
        Value::Time(at) => json!({ "__time__": time::format(*at) }),
    })
}

/// Returns the key of an object. A symbol begins with a colon, as in Ruby.
fn key(value: &Value) -> Result<String, JsonError> {
    match value {
        Value::Text(text) | Value::Large(text) => Ok((**text).to_owned()),
        Value::Symbol(name) => Ok(format!(":{name}")),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Nil => Ok("null".to_owned()),
        Value::Bytes(_) | Value::Array(_) | Value::Hash(_) | Value::Time(_) => Err(JsonError::Key),
    }
}
