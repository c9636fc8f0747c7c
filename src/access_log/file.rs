//! The file `access.log`, which is rotated when it is full.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};

use super::{AccessLogSettings, Batch, Lost};
use crate::event::Timestamp;

pub(super) const FILE_NAME: &str = "access.log";
/// Only its owner can read it, whatever the umask is.
const MODE: u32 = 0o600;

/// The open file. See the module.
pub(super) struct LogFile {
    settings: AccessLogSettings,
    /// `None` if it could not be opened.
    open: Option<OpenFile>,
    /// Whether a write failed, which may have left a part of a line.
    torn: bool,
}

struct OpenFile {
    path: PathBuf,
    file: FileRotate<AppendCount>,
}

impl LogFile {
    /// The file is opened, or created, with the first line.
    pub(super) fn new(settings: AccessLogSettings) -> Self {
        Self { settings, open: None, torn: false }
    }

    /// Writes a batch, and removes from it what has been written.
    ///
    /// # Errors
    /// Returns an error if something could not be written.
    pub(super) fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        if batch.reopen {
            self.open = None;
            batch.reopen = false;
        }
        if batch.lost != Lost::default() {
            self.write_line(&batch.lost.line(Timestamp::now())?)?;
            batch.lost = Lost::default();
        }
        while let Some((at, entry)) = batch.entries.front() {
            self.write_line(&entry.line(*at)?)?;
            batch.entries.pop_front();
        }
        Ok(())
    }

    /// Writes a line with one write.
    ///
    /// # Errors
    /// Returns an error if it could not be written as a whole.
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        const ATTEMPTS: u32 = 2;
        let text = if self.torn { format!("\n{line}") } else { line.to_owned() };
        if self.open.as_ref().is_some_and(|open| !open.path.is_file()) {
            self.open = None;
        }
        for _ in 0..ATTEMPTS {
            match self.file()?.write(&text) {
                Ok(true) => {
                    self.torn = false;
                    return Ok(());
                }
                Ok(false) => self.open = None,
                Err(error) => {
                    (self.open, self.torn) = (None, true);
                    return Err(error);
                }
            }
        }
        Err(io::Error::other("access.log is removed or renamed again and again"))
    }

    fn file(&mut self) -> io::Result<&mut OpenFile> {
        match &mut self.open {
            Some(open) => Ok(open),
            none => Ok(none.insert(open(&self.settings)?)),
        }
    }
}

impl OpenFile {
    /// Returns whether the text was written to a file that is still there. `FileRotate` panics if
    /// somebody else changes its files while it renames them, and drops lines silently if it could
    /// not open the next file.
    fn write(&mut self, text: &str) -> io::Result<bool> {
        let file = &mut self.file;
        match catch_unwind(AssertUnwindSafe(|| file.write_all(text.as_bytes()))) {
            Ok(written) => written.map(|()| self.path.is_file()),
            Err(_) => Ok(false),
        }
    }
}

/// Opens the file. Checks first that it can be written, because `FileRotate` panics or fails
/// silently if it cannot.
fn open(settings: &AccessLogSettings) -> io::Result<OpenFile> {
    let folder = std::path::absolute(&settings.folder)?;
    fs::create_dir_all(&folder)?;
    fs::read_dir(&folder)?;
    let path = folder.join(FILE_NAME);
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(MODE);
    // It may have been created with another mode.
    options.open(&path)?.set_permissions(Permissions::from_mode(MODE))?;
    let file = FileRotate::new(
        &path,
        AppendCount::new(settings.files_max.saturating_sub(1)),
        ContentLimit::BytesSurpassed(settings.file_bytes_max.max(1)),
        Compression::None,
        Some(options),
    );
    Ok(OpenFile { path, file })
}
