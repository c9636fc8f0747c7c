//! Connections to witnesses, with and without TLS.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Why the certificates of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The file is not PEM with at least one certificate.
    #[error("{path}: the file contains no certificate, or a malformed one")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be that of an authority, or TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Returns what connects to `http` and `https` URLs. Servers are trusted that the authorities in
/// the file vouch for, or else those that browsers trust.
pub(super) fn connector(ca_file: Option<&Path>) -> Result<HttpsConnector<HttpConnector>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match ca_file {
        None => config.with_webpki_roots(),
        Some(path) => config.with_root_certificates(authorities(path)?),
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth());
    Ok(connector.https_or_http().enable_http1().build())
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let pem = fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })?;
    let no_certificate = || TlsError::NoCertificate { path: path.to_owned() };
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        authorities.add(certificate.map_err(|_| no_certificate())?)?;
    }
    if authorities.is_empty() { Err(no_certificate()) } else { Ok(authorities) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_needs_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(connector(Some(&path)), Err(TlsError::Io { .. })));
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for pem in ["", "text\n", key, "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            fs::write(&path, pem).unwrap();
            assert!(matches!(connector(Some(&path)), Err(TlsError::NoCertificate { .. })), "{pem}");
        }
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(connector(Some(&path)), Err(TlsError::Tls(_))));
        assert!(connector(None).is_ok());
    }
}
