//! The file with the private key of a witness.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    cosigning_key::{CosigningKey, CosigningKeyError},
    state::folder_of,
};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or created.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The file contains no key of a witness, or no key can be generated.
    #[error("{path}: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why it is not accepted.
        source: CosigningKeyError,
    },
    /// The key has another name. A new name needs a new key.
    #[error("{path}: the name of the key is {found:?}, not {expected:?}; each name has its own key file")]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name that was requested.
        expected: String,
        /// The name of the key.
        found: String,
    },
}

/// Returns the key in the file. If there is no file, generates a key first, whose name is unique
/// unless one is given. Nobody but the owner of the file can read it.
///
/// # Errors
/// Returns an error if the file cannot be read or created, contains no key of a witness, or
/// contains a key with another name.
pub fn load_or_create_key(path: &Path, name: Option<&str>) -> Result<CosigningKey, KeyFileError> {
    let io_error = |source| KeyFileError::Io { path: path.to_owned(), source };
    let key_error = |source| KeyFileError::Key { path: path.to_owned(), source };
    if !path.try_exists().map_err(io_error)? {
        let unique = || format!("aethyr-event-store-witness/{}", Uuid::new_v4());
        let key = CosigningKey::generate(&name.map_or_else(unique, str::to_owned)).map_err(key_error)?;
        create(path, &key).map_err(io_error)?;
    }
    // Read in any case: another process may have created the file at the same time.
    let text = fs::read_to_string(path).map_err(io_error)?;
    let key = CosigningKey::from_encoded(text.strip_suffix('\n').unwrap_or(&text)).map_err(key_error)?;
    let found = key.verifier().name();
    match name.filter(|name| *name != found) {
        None => Ok(key),
        Some(expected) => Err(KeyFileError::OtherName {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }),
    }
}

/// Creates the file durably, as a whole. Does nothing if it exists.
fn create(path: &Path, key: &CosigningKey) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    // Only its owner can access a temporary file.
    let mut file = tempfile::Builder::new().prefix(".witness-key-").tempfile_in(folder)?;
    file.write_all(format!("{}\n", key.encoded().expose()).as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(folder)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_created_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/witness.key");
        let created = load_or_create_key(&path, Some("witness.example/w1")).unwrap();
        assert_eq!(created.verifier().name(), "witness.example/w1");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for name in [None, Some("witness.example/w1")] {
            let loaded = load_or_create_key(&path, name).unwrap();
            assert_eq!(loaded.verifier(), created.verifier());
        }
        // An existing file is never replaced.
        let other = CosigningKey::generate("witness.example/w2").unwrap();
        create(&path, &other).unwrap();
        assert_eq!(load_or_create_key(&path, None).unwrap().verifier(), created.verifier());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn names_are_unique_unless_given_and_belong_to_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| load_or_create_key(&dir.path().join(name), None).unwrap());
        assert!(one.verifier().name().starts_with("aethyr-event-store-witness/"));
        assert_ne!(one.verifier().name(), two.verifier().name());
        let refused = load_or_create_key(&dir.path().join("one"), Some("witness.example/w1")).unwrap_err();
        assert!(matches!(refused, KeyFileError::OtherName { .. }), "{refused}");
    }

    #[test]
    fn a_file_without_a_key_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "something else\n").unwrap();
        let refused = load_or_create_key(&path, None).unwrap_err();
        assert!(matches!(refused, KeyFileError::Key { .. }), "{refused}");
        assert!(!refused.to_string().contains("something else"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else\n");
    }
}
