//! `init`: a configuration with every key and its default.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use super::say;
use crate::config::SHIPPED;

/// Writes `conf/server.yml` in the folder, and says where.
pub fn write(folder: &Path) -> ExitCode {
    let path = folder.join("conf/server.yml");
    match write_new(&path) {
        Ok(()) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            say(&format!("wrote {}", path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("aethyr-event-store: {}: {error}", path.display()));
            ExitCode::FAILURE
        }
    }
}

/// Nothing that is there is overwritten, and it appears whole or not at all. A password may come to stand in it, so it is for
/// its user alone, as temporary files are.
fn write_new(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(SHIPPED.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}
