//! `init`: writes a configuration file with every key, most with their default value.
//!
//! An existing file is never overwritten.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use super::{Error, report, say};
use crate::config::SHIPPED;

/// Writes `conf/server.yml` in `folder` and prints its path.
pub(super) fn write(folder: &Path) -> ExitCode {
    let path = folder.join("conf/server.yml");
    match write_new(&path) {
        Ok(()) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            say(&format!("wrote {}", path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => report(&Error::of_file(&path, error)),
    }
}

/// Writes the file atomically and never overwrites an existing one. Only its owner can read it,
/// like any temporary file, because it may later contain a password.
fn write_new(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(SHIPPED.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}
