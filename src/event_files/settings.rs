//! The settings of the event files, fixed when their thread starts.

use std::path::PathBuf;

/// The settings of the event files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the files.
    pub folder: PathBuf,
    /// The maximum number of files at a time. Further pending events are only in the log.
    pub files_max: u64,
}
