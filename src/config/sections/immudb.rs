//! The section `immudb`: the connection to ImmuDB, and the replication over it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::ConfigError;
use crate::secret::Secret;

/// The user of a new ImmuDB, who may do everything, and its password.
const ADMINISTRATOR: &str = "immudb";
const DEFAULT_PASSWORD: &str = "immudb";

/// The section `immudb`: the connection to ImmuDB, and when and how events are replicated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImmudbConfig {
    /// The host name or IP address, without a port.
    pub address: String,
    /// The gRPC port.
    pub port: u16,
    /// How the connection is encrypted. If `None`, it is not.
    pub tls: Option<ImmudbTlsConfig>,
    /// The user, with write permission on the database. Only administrators can create it.
    pub username: String,
    /// The password of the user.
    pub password: Secret,
    /// A file with the password, which is used instead of `password`. It is read again at each
    /// login.
    #[serde(with = "super::optional_path")]
    pub password_file: Option<PathBuf>,
    /// The database of this service. It is created if it does not exist.
    pub database: String,
    /// The PEM file with the public key that ImmuDB signs its states with. If `None`, signatures
    /// are not verified.
    #[serde(with = "super::optional_path")]
    pub public_key_file: Option<PathBuf>,
    /// The starts after which all calls are rejected until ImmuDB has been reached.
    pub require_contact: RequireContact,
    /// `true` means [`RequireContact::Empty`], under its former name.
    pub require_first_contact: bool,
    /// The number of consecutive failures at which the fallback starts.
    pub retry_count: u32,
    /// The delay before the first retry. It doubles with each further one, with 20% jitter.
    #[serde(with = "super::seconds")]
    pub retry_delay: Duration,
    /// The maximum delay, including the jitter.
    #[serde(with = "super::seconds")]
    pub retry_delay_max: Duration,
    /// How long an append waits for ImmuDB before the fallback starts.
    #[serde(with = "super::seconds")]
    pub fallback_after: Duration,
    /// The time limit for connecting, including the name lookup.
    #[serde(with = "super::seconds")]
    pub connect_timeout: Duration,
    /// The time limit for one request.
    #[serde(with = "super::seconds")]
    pub request_timeout: Duration,
    /// The interval of keep-alive requests while nothing is replicated.
    #[serde(with = "super::seconds")]
    pub keep_alive: Duration,
    /// The maximum number of keys in a transaction of several appends. An event takes two.
    pub batch_keys_max: usize,
    /// The maximum size of the records in a transaction of several appends, in bytes.
    pub batch_bytes_max: usize,
    /// The maximum size of a response in bytes.
    pub response_bytes_max: usize,
}

impl Default for ImmudbConfig {
    fn default() -> ImmudbConfig {
        ImmudbConfig {
            address: "127.0.0.1".into(),
            port: 3322,
            tls: None,
            username: ADMINISTRATOR.into(),
            password: Secret::new(DEFAULT_PASSWORD),
            password_file: None,
            database: "aethyr".into(),
            public_key_file: None,
            require_contact: RequireContact::Never,
            require_first_contact: false,
            retry_count: 5,
            retry_delay: Duration::from_millis(500),
            retry_delay_max: Duration::from_secs(2),
            fallback_after: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            batch_keys_max: 512,
            batch_bytes_max: 4 << 20,
            response_bytes_max: 64 << 20,
        }
    }
}

/// The kind of start after which the service accepts and serves nothing until it has contacted
/// ImmuDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequireContact {
    /// None: calls are served before ImmuDB has been reached.
    Never,
    /// With an empty log.
    Empty,
    /// With an empty log, or with one that is not as a clean stop left it.
    Unclean,
}

impl ImmudbConfig {
    /// Returns the effective `require_contact`, which may come from the deprecated key.
    pub fn contact_required(&self) -> RequireContact {
        match self.require_contact {
            RequireContact::Never if self.require_first_contact => RequireContact::Empty,
            required => required,
        }
    }

    pub(in crate::config) fn check_retry_delays(&self) -> Result<(), ConfigError> {
        if self.retry_delay <= self.retry_delay_max {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            key: "immudb.retry_delay".into(),
            variable: None,
            found: self.retry_delay.as_secs_f64().to_string(),
            expected: format!("at most immudb.retry_delay_max ({})", self.retry_delay_max.as_secs_f64()),
        })
    }

    /// A certificate is of no use without its key.
    pub(in crate::config) fn check_tls(&self) -> Result<(), ConfigError> {
        let missing = |name: &str, other: &str| {
            Err(ConfigError::Invalid {
                key: format!("immudb.tls.{name}"),
                variable: None,
                found: "nothing".into(),
                expected: format!("a file path, because immudb.tls.{other} is set"),
            })
        };
        match &self.tls {
            Some(ImmudbTlsConfig { certificate_file: Some(_), key_file: None, .. }) => {
                missing("key_file", "certificate_file")
            }
            Some(ImmudbTlsConfig { certificate_file: None, key_file: Some(_), .. }) => {
                missing("certificate_file", "key_file")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Returns whether the password is the one of a new ImmuDB.
    pub(in crate::config) fn has_default_password(&self) -> bool {
        self.password_file.is_none() && self.password.expose() == DEFAULT_PASSWORD
    }

    /// Returns whether the user is the administrator of ImmuDB.
    pub(in crate::config) fn is_administrator(&self) -> bool {
        self.username == ADMINISTRATOR
    }

    /// Returns whether the connection leaves this machine without encryption.
    pub(in crate::config) fn is_exposed(&self) -> bool {
        let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
        let is_here = self.address.eq_ignore_ascii_case("localhost")
            || self.address.parse::<IpAddr>().is_ok_and(is_loopback);
        self.tls.is_none() && !is_here
    }
}

/// The mapping `immudb.tls`: how the connection to ImmuDB is encrypted. The files are read again at
/// each login.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImmudbTlsConfig {
    /// The PEM file with the certificates of the authorities that ImmuDB's certificate is verified
    /// with. If `None`, those of the well-known authorities are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The name that ImmuDB's certificate must be valid for. If `None`, it is the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The PEM file with the certificate that this service shows, and those of its authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// The PEM file with the private key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}
