//! Reads the values of a YAML document one by one, and knows the place of each.
//!
//! The errors of the YAML library are not used, because they quote values.

use serde::de::IgnoredAny;
use serde_yaml::{Mapping, Value};

use super::PolicyError;
use crate::access::is_name;

/// A mapping with known keys.
#[derive(Debug)]
pub(super) struct Section {
    place: String,
    keys: Mapping,
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Field {
    place: String,
    value: Value,
}

impl Section {
    /// Reads a document that is a mapping.
    ///
    /// # Errors
    /// Returns an error if the text is not valid YAML, not a mapping, or has an unknown key.
    pub(super) fn of_text(yaml: &str, known: &'static [&'static str]) -> Result<Self, PolicyError> {
        let value = serde_yaml::from_str(yaml)
            .map_err(|error| PolicyError::NotYaml { problem: problem(yaml, &error) })?;
        Field { place: String::new(), value }.section(known)
    }

    /// Returns the value of a key, or `None` if the key is missing.
    pub(super) fn take(&mut self, key: &str) -> Option<Field> {
        let value = self.keys.remove(key)?;
        Some(Field { place: inside(&self.place, key), value })
    }

    /// Returns the value of a key.
    ///
    /// # Errors
    /// Returns an error if the key is missing.
    pub(super) fn require(&mut self, key: &str) -> Result<Field, PolicyError> {
        self.take(key).ok_or_else(|| PolicyError::Missing { place: inside(&self.place, key) })
    }
}

impl Field {
    /// Returns the path of the value.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Returns the value as a mapping with known keys.
    ///
    /// # Errors
    /// Returns an error if it is not a mapping, or has an unknown key.
    pub(super) fn section(self, known: &'static [&'static str]) -> Result<Section, PolicyError> {
        let (place, keys) = self.mapping()?;
        for key in keys.keys() {
            if !key.as_str().is_some_and(|key| known.contains(&key)) {
                let place = inside(&place, shown(key));
                return Err(PolicyError::UnknownKey { place, known });
            }
        }
        Ok(Section { place, keys })
    }

    /// Returns the value as a mapping from names to values.
    ///
    /// # Errors
    /// Returns an error if it is not a mapping, or has a key that is not a name.
    pub(super) fn entries(self) -> Result<Vec<(String, Field)>, PolicyError> {
        const A_NAME: &str = "a name of 1 to 40 letters, digits, and characters of -_.@/";
        let (place, keys) = self.mapping()?;
        let entries = (1_usize..).zip(keys).map(|(number, (key, value))| {
            match key.as_str().filter(|name| is_name(name)) {
                Some(name) => Ok((name.to_owned(), Field { place: inside(&place, name), value })),
                None => {
                    let place = format!("{place}, entry {number}");
                    Err(PolicyError::Invalid { place, expected: A_NAME })
                }
            }
        });
        entries.collect()
    }

    /// Returns the field, unless it has no value.
    ///
    /// # Errors
    /// Returns an error that says what is expected if it has none.
    pub(super) fn required(self, expected: &'static str) -> Result<Self, PolicyError> {
        match self.value {
            Value::Null => Err(PolicyError::Invalid { place: self.place, expected }),
            value => Ok(Self { value, ..self }),
        }
    }

    /// Returns the value as a list. No value is an empty list.
    ///
    /// # Errors
    /// Returns an error if it is not a list.
    pub(super) fn list(self) -> Result<Vec<Field>, PolicyError> {
        let place = self.place;
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Sequence(values) => {
                let values = values.into_iter().enumerate();
                Ok(values.map(|(at, value)| Field { place: format!("{place}[{at}]"), value }).collect())
            }
            _ => Err(PolicyError::Invalid { place, expected: "a list" }),
        }
    }

    /// Parses the value.
    ///
    /// # Errors
    /// Returns an error that says what is expected if `parse` returns `None`.
    pub(super) fn parse<T>(
        self,
        expected: &'static str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, PolicyError> {
        parse(&self.value).ok_or(PolicyError::Invalid { place: self.place, expected })
    }

    /// Returns the place and the mapping. No value is an empty mapping.
    fn mapping(self) -> Result<(String, Mapping), PolicyError> {
        let place = self.place;
        match self.value {
            Value::Null => Ok((place, Mapping::new())),
            Value::Mapping(keys) => Ok((place, keys)),
            _ if place.is_empty() => {
                Err(PolicyError::NotYaml { problem: "not a mapping with the key identities".to_owned() })
            }
            _ => Err(PolicyError::Invalid { place, expected: "a mapping" }),
        }
    }
}

/// Returns the path of a key.
fn inside(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

/// Returns a key if it cannot be a secret.
fn shown(key: &Value) -> &str {
    key.as_str().filter(|key| is_name(key)).unwrap_or("***")
}

/// Describes why the text is not valid YAML, without quoting it. Parsing it again with all values
/// ignored distinguishes syntax errors, whose messages are fixed, from errors that quote a value.
fn problem(yaml: &str, error: &serde_yaml::Error) -> String {
    if let Err(syntax) = serde_yaml::from_str::<IgnoredAny>(yaml) {
        return syntax.to_string();
    }
    let problem = if error.to_string().contains("duplicate entry") {
        "duplicate key"
    } else {
        "value does not match its tag"
    };
    match error.location() {
        Some(at) => format!("{problem} at line {}, column {}", at.line(), at.column()),
        None => problem.to_owned(),
    }
}
