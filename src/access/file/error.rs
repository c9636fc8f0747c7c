//! The errors of `access.yml`.

use crate::access::roles::ready_made_names;

/// Why `access.yml` is not valid. No text shows a token, a hash or another value of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The file exceeds the limit on its size.
    #[error("file is larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// The file is not valid YAML, or has a key twice.
    #[error("{problem}")]
    NotYaml {
        /// What is wrong and where.
        problem: String,
    },
    /// There is no such key.
    #[error("{place}: unknown key; known keys: {}", known.join(", "))]
    UnknownKey {
        /// The path of the key. Stars replace what may be secret.
        place: String,
        /// The keys at this place.
        known: &'static [&'static str],
    },
    /// A key is missing.
    #[error("{place}: missing")]
    Missing {
        /// The path of the key.
        place: String,
    },
    /// A value has the wrong type or form.
    #[error("{place}: expected {expected}")]
    Invalid {
        /// The path of the value.
        place: String,
        /// The allowed values.
        expected: &'static str,
    },
    /// There is no such role.
    #[error(
        "{place}: no such role: {role}; define it under roles, or use a ready-made one: {}",
        ready_made_names()
    )]
    UnknownRole {
        /// The path of the value.
        place: String,
        /// The name of the role. Stars replace what may be secret.
        role: String,
    },
    /// The role has the name of a ready-made one.
    #[error("{place}: this role is ready-made and cannot be redefined; choose another name")]
    ReadyMade {
        /// The path of the role.
        place: String,
    },
    /// The identity has the name of callers without credentials.
    #[error("{place}: this name is reserved for callers without credentials (access.anonymous)")]
    Reserved {
        /// The path of the identity.
        place: String,
    },
    /// What must be unique occurs twice.
    #[error("{place}: has the same value as {first}")]
    Twice {
        /// The path of the second value.
        place: String,
        /// The path of the first value.
        first: String,
    },
    /// A token expires before it becomes valid.
    #[error("{place}: expires is not later than not_before")]
    NeverValid {
        /// The path of the token.
        place: String,
    },
}
