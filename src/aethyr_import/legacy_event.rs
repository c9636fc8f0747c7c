//! An event as Aethyr's own event store wrote it: a mapping with the fields of the event and those
//! of the store.

use std::rc::Rc;

use serde_json::{Map, Value as Json};

use super::{
    json::{self, JsonError},
    marshal::{self, MarshalError},
    value::Value,
};
use crate::event::{AggregateId, NameError, SequenceNumber, Timestamp, check_name, time};

/// The namespace of Aethyr's events, which their types here do not have.
const NAMESPACE: &str = "Aethyr::Core::EventSourcing::";

/// Why an event cannot be read or converted. Its data is never shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Marshal(#[from] MarshalError),
    #[error("is not a mapping")]
    NotMapping,
    #[error("has no valid {0}")]
    Field(&'static str),
    #[error("{field}: {source}")]
    Name { field: &'static str, source: NameError },
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("has {count} exits; at most {max} are supported")]
    Exits { count: usize, max: usize },
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LegacyEvent {
    pub aggregate_id: AggregateId,
    pub sequence: SequenceNumber,
    pub created_at: Timestamp,
    /// The class, without Aethyr's namespace.
    pub event_type: String,
    /// All other fields.
    pub fields: Map<String, Json>,
}

impl LegacyEvent {
    /// Reads an event from the bytes of a file or of a value in ImmuDB.
    ///
    /// # Errors
    /// Returns an error if the bytes are not an event, or exceed a bound.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let Value::Hash(pairs) = marshal::read(bytes)? else { return Err(ReadError::NotMapping) };
        let id = text(&pairs, "aggregate_id")?;
        let aggregate_id =
            AggregateId::new(&id).map_err(|source| ReadError::Name { field: "aggregate_id", source })?;
        let sequence = match field(&pairs, "sequence_number") {
            Some(Value::Integer(number)) => u64::try_from(*number).ok().filter(|number| *number > 0),
            _ => None,
        };
        let created_at = match field(&pairs, "created_at") {
            Some(Value::Time(at)) => Some(*at),
            Some(Value::Text(text)) => time::parse(text),
            _ => None,
        };
        let class = text(&pairs, "class")?;
        let event_type = class.strip_prefix(NAMESPACE).unwrap_or(&class).to_owned();
        check_name(&event_type).map_err(|source| ReadError::Name { field: "class", source })?;
        let mut fields = Map::new();
        for (key, value) in pairs.iter() {
            let name = name_of(key).ok_or(JsonError::Key)?;
            if matches!(name, "aggregate_id" | "sequence_number" | "created_at" | "class") {
                continue;
            }
            if fields.insert(name.to_owned(), json::json(value)?).is_some() {
                return Err(JsonError::SameKeys.into());
            }
        }
        Ok(Self {
            aggregate_id,
            sequence: SequenceNumber(sequence.ok_or(ReadError::Field("sequence_number"))?),
            created_at: created_at.ok_or(ReadError::Field("created_at"))?,
            event_type,
            fields,
        })
    }
}

/// The names of fields are strings, or symbols with the same meaning.
fn name_of(key: &Value) -> Option<&str> {
    match key {
        Value::Text(name) | Value::Symbol(name) => Some(name),
        _ => None,
    }
}

fn field<'p>(pairs: &'p [(Value, Value)], name: &str) -> Option<&'p Value> {
    pairs.iter().find(|(key, _)| name_of(key) == Some(name)).map(|(_, value)| value)
}

fn text(pairs: &[(Value, Value)], name: &'static str) -> Result<Rc<str>, ReadError> {
    match field(pairs, name) {
        Some(Value::Text(text)) => Ok(text.clone()),
        _ => Err(ReadError::Field(name)),
    }
}
