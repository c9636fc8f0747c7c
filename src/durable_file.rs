//! Small files, such as those next to the log, that are replaced as a whole. After a crash, such a
//! file has either its old or its new contents.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Returns the path of a file next to the log, such as `log.trusted` for the directory `log`. What
/// puts a log aside leaves it where it is.
pub(crate) fn beside_log(log: &Path, extension: &str) -> PathBuf {
    extended(log, extension)
}

/// Replaces the file durably.
///
/// # Errors
/// Returns an error if a file cannot be written. The file then has its old contents, or its new
/// ones, which a crash of the machine may undo.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = extended(path, "new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Returns the path with `.extension` after its whole name.
pub(crate) fn extended(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{extension}"));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = beside_log(&dir.path().join("log"), "trusted");
        assert_eq!(path, dir.path().join("log.trusted"));
        assert_eq!(
            beside_log(Path::new("storage/world.log/"), "trusted"),
            Path::new("storage/world.log.trusted")
        );
        for contents in ["a longer one", "short"] {
            replace(&path, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("missing/log.trusted"), b"").is_err());
    }
}
