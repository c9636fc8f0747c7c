//! `init`: a configuration with every key and its default.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
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

/// Nothing that is there is overwritten.
fn write_new(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    // A password may come to stand in it.
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(SHIPPED.as_bytes())?;
    file.sync_all()
}
