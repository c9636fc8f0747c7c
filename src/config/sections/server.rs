//! The section `server`: the gRPC server, its certificate, and the mode of files.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{super::ConfigError, ListenAddresses};

/// The section `server`: the gRPC server, and the mode of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The addresses that the gRPC server listens on.
    pub listen: ListenAddresses,
    /// The certificate of the server. If `None`, connections are not encrypted.
    pub tls: Option<TlsConfig>,
    /// How long a stop waits for running calls, and then as long again for the forwarder.
    #[serde(with = "super::seconds")]
    pub shutdown_grace: Duration,
    /// How long a connection may exist before its first call. Then it is closed.
    #[serde(with = "super::seconds")]
    pub first_call_max: Duration,
    /// How long a request may take to arrive. Then it fails with DEADLINE_EXCEEDED.
    #[serde(with = "super::seconds")]
    pub request_max: Duration,
    /// How long a response message may remain unread. Then its connection is closed.
    #[serde(with = "super::seconds")]
    pub unread_max: Duration,
    /// Whether the group may read new files and directories: their modes are 0640 and 0750 then,
    /// and 0600 and 0700 otherwise.
    pub group_readable: bool,
    /// Whether a crash of the process may write a core file, which contains its memory.
    pub core_dumps: bool,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)).into(),
            tls: None,
            shutdown_grace: Duration::from_secs(10),
            first_call_max: Duration::from_secs(30),
            request_max: Duration::from_secs(60),
            unread_max: Duration::from_secs(300),
            group_readable: false,
            core_dumps: false,
        }
    }
}

/// The mapping `server.tls`: the certificate of the server, and those of clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The PEM file with the certificate of the server, and those of its authorities.
    pub certificate_file: PathBuf,
    /// The PEM file with the private key of that certificate.
    pub key_file: PathBuf,
    /// The PEM file with the certificates of the authorities that certificates of clients are
    /// verified with. If `None`, clients are not asked for a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client needs a certificate.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
}

/// Whether a client needs a certificate to connect over TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// It may have none.
    #[default]
    Optional,
    /// Without one, the connection is closed.
    Required,
}

impl ServerConfig {
    /// Without an authority, no certificate of a client can be verified.
    pub(in crate::config) fn check_tls(&self) -> Result<(), ConfigError> {
        match &self.tls {
            Some(TlsConfig {
                client_ca_file: None,
                client_certificates: ClientCertificates::Required,
                ..
            }) => Err(ConfigError::Invalid {
                key: "server.tls.client_ca_file".into(),
                variable: None,
                found: "nothing".into(),
                expected: "a file path, because server.tls.client_certificates is required".into(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}
