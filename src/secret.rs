//! A text that must stay secret, such as a password.
//!
//! It is replaced by asterisks if it is printed or serialized by mistake.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A secret text, which prints and serializes as `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Returns the text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_stars() {
        let secret = Secret::new("xyzzy");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "xyzzy");
    }

    #[test]
    fn a_secret_is_read_as_it_is_and_written_as_stars() {
        let secret: Secret = serde_json::from_str("\"xyzzy\"").unwrap();
        assert_eq!(secret.expose(), "xyzzy");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
    }
}
