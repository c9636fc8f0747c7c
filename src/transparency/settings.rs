//! The settings of checkpoints and anchors.

use std::{path::PathBuf, time::Duration};

use crate::immudb::SessionSettings;

/// How checkpoints are made and published.
#[derive(Debug, Clone)]
pub(crate) struct TransparencySettings {
    /// The directory of the log. The checkpoints are kept next to it.
    pub log_path: PathBuf,
    pub key: KeySettings,
    /// The interval of checkpoints. If zero, there are none.
    pub checkpoint_every: Duration,
    pub anchors: Vec<AnchorSettings>,
    /// `None` if no ImmuDB is configured.
    pub immudb: Option<SessionSettings>,
}

/// The key that signs checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct KeySettings {
    pub path: PathBuf,
    /// The configured name of the history.
    pub origin: Option<String>,
    /// Its name if none is configured.
    pub default_origin: String,
    /// A key that did not sign the earlier checkpoints may be used.
    pub new_key: bool,
}

/// Where checkpoints are published.
#[derive(Debug, Clone)]
pub(crate) enum AnchorSettings {
    File(PathBuf),
    /// A program and its arguments.
    Command(Vec<String>),
    Witness {
        url: String,
        /// The verifier key.
        key: String,
        ca_file: Option<PathBuf>,
    },
}
