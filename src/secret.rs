//! A text that must stay secret, such as a password.
//!
//! It is replaced by asterisks if it is printed or serialized by mistake.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, Serializer};

/// Larger files are taken for a mistake.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a file contains no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be read, or is not UTF-8.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system. Its kind is `InvalidData` if the file is not UTF-8.
        source: io::Error,
    },
    /// The file exceeds the limit on its size.
    #[error("{}: the file has more than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// The file contains nothing.
    #[error("{}: the file is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// A secret text, which prints and serializes as `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Reads the text of a file. Line ends after it are not part of it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if there is no text in it.
    pub fn read(path: &Path) -> Result<Secret, SecretFileError> {
        let io = |source| SecretFileError::Io { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(io)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(SecretFileError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
        }
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(SecretFileError::Empty { path: path.to_owned() });
        }
        Ok(Secret::new(text))
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

    #[test]
    fn a_secret_in_a_file_ends_before_its_last_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Secret::read(&path)
        };
        for text in ["xyzzy", "xyzzy\n", "xyzzy\r\n", "xyzzy\n\n"] {
            assert_eq!(read(text.as_bytes()).unwrap().expose(), "xyzzy", "{text:?}");
        }
        assert_eq!(read(b" a b \n").unwrap().expose(), " a b ");
        assert!(matches!(read(b""), Err(SecretFileError::Empty { .. })));
        assert!(matches!(read(b"\n"), Err(SecretFileError::Empty { .. })));
        assert!(matches!(read(&[b'a'; 4097]), Err(SecretFileError::TooLarge { .. })));
        let error = read(b"xyzzy \xff").unwrap_err();
        assert!(
            matches!(error, SecretFileError::Io { .. }) && !error.to_string().contains("xyzzy"),
            "{error}"
        );
        let missing = Secret::read(&dir.path().join("nothing")).unwrap_err();
        assert!(missing.to_string().contains("nothing: "), "{missing}");
    }
}
