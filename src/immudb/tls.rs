//! TLS with ImmuDB: the files of the client, and what is wrong with the other side.
//!
//! The files are read whenever a connection is made for a login, so they can be replaced at any
//! time.

use std::{
    error::Error as StdError,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{Error, ErrorKind};

/// How every error begins with which the other side ends a connection over TLS.
pub(super) const ALERT: &str = "received fatal alert: ";

const OPERATION: &str = "connect";

/// The files and the name for connections over TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// The PEM file with the certificates of the authorities that the server's certificate is
    /// verified with. If `None`, those of the well-known authorities are used.
    pub ca_file: Option<PathBuf>,
    /// The name that the server's certificate must be valid for. If `None`, it is the address.
    pub server_name: Option<String>,
    /// The PEM file with the certificate of the client.
    pub certificate_file: Option<PathBuf>,
    /// The PEM file with the private key of that certificate.
    pub key_file: Option<PathBuf>,
}

/// What is wrong with the other side of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TlsProblem {
    pub kind: ErrorKind,
    pub message: String,
}

/// Reads the files. `timeout` is the deadline of a handshake.
pub(super) fn client(settings: &TlsSettings, timeout: Duration) -> Result<ClientTlsConfig, Error> {
    let mut config = ClientTlsConfig::new().timeout(timeout);
    config = match &settings.ca_file {
        None => config.with_webpki_roots(),
        Some(path) => config.ca_certificate(Certificate::from_pem(authorities(path)?)),
    };
    if let Some(name) = &settings.server_name {
        config = config.domain_name(name);
    }
    if let (Some(certificate), Some(key)) = (&settings.certificate_file, &settings.key_file) {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(config)
}

/// Reads a PEM file of which every certificate can be that of an authority.
fn authorities(path: &Path) -> Result<Vec<u8>, Error> {
    let pem = read(path)?;
    let named = |problem: String| Error::configuration(OPERATION, format!("{}: {problem}", path.display()));
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| named("a certificate is malformed".to_owned()))?;
        authorities.add(certificate).map_err(|error| named(error.to_string()))?;
    }
    if authorities.is_empty() {
        return Err(named("the file contains no certificate".to_owned()));
    }
    Ok(pem)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::configuration(OPERATION, format!("{}: {error}", path.display())))
}

/// Returns what is wrong with the other side, if the failure comes from TLS.
pub(super) fn problem<'e>(
    mut sources: impl Iterator<Item = &'e (dyn StdError + 'static)>,
) -> Option<TlsProblem> {
    let error: &rustls::Error = sources.find_map(tls_error)?;
    let (kind, message) = match error {
        rustls::Error::InvalidCertificate(error) => (ErrorKind::Configuration, certificate(error)),
        rustls::Error::NoCertificatesPresented => {
            (ErrorKind::Configuration, "certificate: the server has none".to_owned())
        }
        rustls::Error::InvalidMessage(_) => {
            (ErrorKind::Configuration, format!("the server does not use TLS: {error}"))
        }
        rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
            (ErrorKind::Configuration, format!("TLS: {error}"))
        }
        _ => (ErrorKind::Unreachable, format!("TLS: {error}")),
    };
    Some(TlsProblem { kind, message })
}

/// An error of the system contains the error of TLS, but does not name it as its source.
fn tls_error<'e>(source: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let inner = || source.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>();
    source.downcast_ref::<rustls::Error>().or_else(inner)
}

fn certificate(error: &CertificateError) -> String {
    let problem = match error {
        CertificateError::UnknownIssuer => "unknown issuer".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not valid yet".to_owned()
        }
        CertificateError::Revoked => "revoked".to_owned(),
        CertificateError::NotValidForName => "is not valid for the name of the server".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            format!("is not valid for {}, only for {names}", expected.to_str())
        }
        other => other.to_string(),
    };
    format!("certificate: {problem}")
}

/// Returns the first message of a TLS connection, which a server without TLS does not understand.
pub(super) fn client_hello() -> Result<Vec<u8>, io::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("immudb").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello)?;
    }
    Ok(hello)
}

/// Returns whether an answer to [`client_hello`] begins as one over TLS does: with a handshake or
/// an alert.
pub(super) fn is_tls(first: u8) -> bool {
    matches!(first, 0x15 | 0x16)
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, InvalidMessage};

    use super::*;

    fn problem_of(error: rustls::Error) -> (ErrorKind, String) {
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, error);
        let found = problem(std::iter::once(&wrapped as &(dyn StdError + 'static))).unwrap();
        (found.kind, found.message)
    }

    #[test]
    fn each_way_in_which_tls_fails_is_told_from_the_others() {
        let other_name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("immudb.example").unwrap(),
            presented: vec!["DnsName(\"localhost\")".to_owned()],
        };
        for (error, kind, message) in [
            (CertificateError::UnknownIssuer.into(), ErrorKind::Configuration, "certificate: unknown issuer"),
            (CertificateError::Expired.into(), ErrorKind::Configuration, "certificate: expired"),
            (
                other_name.into(),
                ErrorKind::Configuration,
                "certificate: is not valid for immudb.example, only for DnsName(\"localhost\")",
            ),
            (
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
                ErrorKind::Configuration,
                "the server does not use TLS: received corrupt message of type InvalidContentType",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::BadCertificate),
                ErrorKind::Configuration,
                "TLS: received fatal alert: BadCertificate",
            ),
            (rustls::Error::DecryptError, ErrorKind::Unreachable, "TLS: cannot decrypt peer's message"),
        ] {
            assert_eq!(problem_of(error), (kind, message.to_owned()));
        }
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(problem(std::iter::once(&reset as &(dyn StdError + 'static))), None);
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA).to_string();
        assert!(alert.starts_with(ALERT), "{alert}");
    }

    #[test]
    fn a_file_that_is_missing_or_has_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let settings = TlsSettings { ca_file: Some(path.clone()), ..TlsSettings::default() };
        let error = || client(&settings, Duration::from_secs(1)).unwrap_err();
        let missing = error();
        assert_eq!((missing.kind, missing.operation), (ErrorKind::Configuration, "connect"));
        assert!(missing.message.starts_with(&path.display().to_string()), "{missing}");
        for (pem, problem) in [
            ("", "contains no certificate"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "contains no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "is malformed"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate"),
        ] {
            fs::write(&path, pem).unwrap();
            let error = error();
            assert!(error.message.contains(problem), "{pem}: {error}");
        }
        assert!(client(&TlsSettings::default(), Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn the_first_message_is_a_handshake() {
        let hello = client_hello().unwrap();
        assert_eq!(hello.get(..2), Some(&[0x16, 0x03][..]));
        assert!(is_tls(hello[0]) && !is_tls(0));
    }
}
