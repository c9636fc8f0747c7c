//! The file in which the figures are kept: a value in the format of `postcard`, and its CRC-32C as
//! four bytes, little-endian.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::derived::Derived;
use crate::durable_file;

const VERSION: u32 = 1;

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    /// The maximum number of types that are attributed.
    pub types_max: u64,
    pub derived: Derived,
}

impl Kept {
    pub(super) fn new(derived: Derived, types_max: u64) -> Self {
        Self { version: VERSION, types_max, derived }
    }

    /// Reads the file. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is damaged, or has another version.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let (contents, checksum) = bytes.split_last_chunk::<4>().ok_or(invalid("the file is too short"))?;
        if crc32c::crc32c(contents) != u32::from_le_bytes(*checksum) {
            return Err(invalid("the checksum of the file is wrong"));
        }
        // The version comes first, so that it can be read whatever follows.
        match postcard::take_from_bytes::<u32>(contents) {
            Ok((VERSION, _)) => {}
            Ok(_) | Err(_) => return Err(invalid("the version of the file is unknown")),
        }
        postcard::from_bytes(contents).map(Some).map_err(|_| invalid("the contents of the file are invalid"))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let mut bytes = postcard::to_stdvec(self).map_err(io::Error::other)?;
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        durable_file::replace(path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{ChainHash, Position},
        usage::StoredUse,
    };

    fn example() -> Kept {
        let derived = Derived {
            position: Position(7),
            hash: ChainHash([3; 32]),
            types: [1, 5, u64::MAX].into(),
            identities: [("arena".into(), StoredUse { bytes: 900, types: 2 })].into(),
        };
        Kept::new(derived, 10)
    }

    #[test]
    fn figures_come_back_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.usage");
        assert_eq!(Kept::load(&path).unwrap(), None);
        example().save(&path).unwrap();
        assert_eq!(Kept::load(&path).unwrap(), Some(example()));
        let other = Kept::new(Derived::default(), 3);
        other.save(&path).unwrap();
        assert_eq!(Kept::load(&path).unwrap(), Some(other));
    }

    #[test]
    fn a_file_with_a_changed_byte_or_of_another_version_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.usage");
        example().save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            Kept::load(&path).unwrap_err();
            fs::write(&path, &whole[..at]).unwrap();
            Kept::load(&path).unwrap_err();
        }
        Kept { version: VERSION + 1, ..example() }.save(&path).unwrap();
        assert!(Kept::load(&path).unwrap_err().to_string().contains("version"));
    }
}
