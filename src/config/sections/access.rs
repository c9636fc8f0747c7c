//! The section `access`: who may call the service.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{super::ConfigError, ListenAddresses};

/// The section `access`: who may call the service, and what is logged of the calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// The file with roles and identities. If `None`, there are no identities.
    #[serde(with = "super::optional_path")]
    pub file: Option<PathBuf>,
    /// The role of callers that do not say who they are. If `None`, they are rejected, unless
    /// `file` is `None` too.
    #[serde(with = "super::optional_text")]
    pub anonymous: Option<String>,
    /// Whether tokens are accepted over connections without TLS.
    pub allow_cleartext: bool,
    /// Whether the access log has all writes.
    pub log_writes: bool,
    /// Whether the access log has all reads.
    pub log_reads: bool,
}

impl AccessConfig {
    /// Without a statement of who may call the service, only programs on this machine can.
    pub(in crate::config) fn check(&self, listen: &ListenAddresses) -> Result<(), ConfigError> {
        let is_stated = self.file.is_some() || self.anonymous.is_some();
        let reachable = listen.0.iter().find(|address| !address.is_local());
        let Some(address) = reachable.filter(|_| !is_stated) else { return Ok(()) };
        Err(ConfigError::Invalid {
            key: "server.listen".into(),
            variable: None,
            found: address.to_string(),
            expected: "loopback addresses and unix sockets only, because neither access.file nor \
                       access.anonymous is set. To admit only callers that a file names, add the line \
                       `access: { file: conf/access.yml }`, and to the file `identities:` with the lines \
                       that `aethyr-event-store token new NAME --role ROLE` prints. To let everyone who can connect do everything, \
                       add the line `access: { anonymous: admin }`, or set AETHYR_ACCESS__ANONYMOUS=admin"
                .into(),
        })
    }
}
