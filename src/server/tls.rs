//! The TLS settings of the service: its certificate, the private key, and the authorities of its
//! clients. All files are read and checked together.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{
        NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
};
use tokio::sync::watch;
use tracing::{error, warn};
use x509_cert::{Certificate, der::Decode};

use crate::event::{Timestamp, time};

/// A warning begins this long before the certificate ends.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The protocol that is negotiated within TLS: HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// The files with the TLS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities of the clients' certificates. `None`: clients are not asked for one.
    pub client_authorities: Option<PathBuf>,
    pub client_certificates: ClientCertificates,
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientCertificates {
    Optional,
    Required,
}

/// The TLS settings that were read from the files.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub config: Arc<ServerConfig>,
    /// When the certificate of the service begins to be valid.
    valid_from: Timestamp,
    /// When the certificate of the service ends.
    pub valid_until: Timestamp,
}

/// How close a certificate is to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validity {
    Long,
    EndsSoon,
    Ended,
}

/// Why the files cannot be used. No error shows the contents of a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file has nothing of what it should contain, or it is malformed.
    #[error("{path}: the file contains no {what} in PEM format, or a malformed one")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the file should contain.
        what: &'static str,
    },
    /// The certificate of the service cannot be decoded.
    #[error("{path}: invalid certificate: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: x509_cert::der::Error,
    },
    /// The certificate's validity begins or ends at a time that cannot be represented.
    #[error("{path}: invalid certificate: its validity is out of range")]
    NoTime {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key do not belong together, or cannot be used.
    #[error("{certificate}, {key}: {source}")]
    Pair {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the private key.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate cannot be that of an authority.
    #[error("{path}: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// Certificates of clients cannot be verified with the authorities.
    #[error("{path}: {source}")]
    Verifier {
        /// The file with the authorities.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
    /// A new certificate is not valid yet.
    #[error("{path}: the certificate is not valid before {}", time::format(*valid_from))]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it begins to be valid.
        valid_from: Timestamp,
    },
    /// A new certificate has already ended.
    #[error("{path}: the certificate has expired ({})", time::format(*valid_until))]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it ended.
        valid_until: Timestamp,
    },
}

impl Tls {
    /// Reads and checks all files. A certificate that has ended is accepted, so that it does not
    /// prevent a start.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, or if they cannot be used together.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let (valid_from, valid_until) = validity_of(&files.certificate, &chain)?;
        let key = private_key(&files.key)?;
        let provider = Arc::new(ring::default_provider());
        let of_pair = |source| {
            let (certificate, key) = (files.certificate.clone(), files.key.clone());
            TlsError::Pair { certificate, key, source }
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(of_pair)?;
        let builder = match client_verifier(files)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(of_pair)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Connections last for long, so little is saved by resuming a session. Without resumption,
        // the certificate of a client is verified for each connection.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), valid_from, valid_until })
    }

    /// Same as [`Tls::load`] while the service runs: a certificate that has ended, or is not valid
    /// yet, does not replace another one.
    ///
    /// # Errors
    /// Returns an error also if the certificate is not valid at the moment.
    pub(super) fn reload(files: &TlsFiles, now: Timestamp) -> Result<Self, TlsError> {
        let loaded = Self::load(files)?;
        if now.seconds() < loaded.valid_from.seconds() {
            let (path, valid_from) = (files.certificate.clone(), loaded.valid_from);
            return Err(TlsError::NotYetValid { path, valid_from });
        }
        match loaded.validity(now) {
            Validity::Long | Validity::EndsSoon => Ok(loaded),
            Validity::Ended => {
                let (path, valid_until) = (files.certificate.clone(), loaded.valid_until);
                Err(TlsError::Expired { path, valid_until })
            }
        }
    }

    pub(super) fn validity(&self, now: Timestamp) -> Validity {
        validity(self.valid_until, now)
    }

    /// Logs that the certificate has expired, or will soon.
    pub(super) fn report(&self, validity: Validity) {
        let valid_until = time::format(self.valid_until);
        match validity {
            Validity::Long => {}
            Validity::EndsSoon => {
                warn!(valid_until, "the certificate in server.tls.certificate_file expires soon");
            }
            Validity::Ended => {
                error!(
                    valid_until,
                    "the certificate in server.tls.certificate_file has expired: clients reject it"
                );
            }
        }
    }
}

fn validity(valid_until: Timestamp, now: Timestamp) -> Validity {
    let left = valid_until.seconds().saturating_sub(now.seconds());
    match u64::try_from(left) {
        Ok(left) if left > WARN_BEFORE.as_secs() => Validity::Long,
        // The last second of the certificate is still valid.
        Ok(_) => Validity::EndsSoon,
        Err(_) => Validity::Ended,
    }
}

/// When the present certificate ends. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct TlsWatch(watch::Receiver<Timestamp>);

impl TlsWatch {
    pub(super) fn channel(valid_until: Timestamp) -> (watch::Sender<Timestamp>, Self) {
        let (sender, receiver) = watch::channel(valid_until);
        (sender, Self(receiver))
    }

    pub(super) fn valid_until(&self) -> Option<Timestamp> {
        Some(*self.0.borrow())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let missing = || TlsError::Missing { path: path.to_owned(), what: "certificate" };
    found.ok().filter(|found| !found.is_empty()).ok_or_else(missing)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    // The error of the reader may contain a line of the file.
    let missing = |_| TlsError::Missing { path: path.to_owned(), what: "private key" };
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(missing)
}

/// Returns from when until when the first certificate is valid, which is that of the service.
fn validity_of(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(Timestamp, Timestamp), TlsError> {
    let first: &[u8] = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let certificate = Certificate::from_der(first)
        .map_err(|source| TlsError::Certificate { path: path.to_owned(), source })?;
    let validity = certificate.tbs_certificate.validity;
    let timestamp = |time: x509_cert::time::Time| {
        let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok();
        seconds.and_then(|seconds| Timestamp::new(seconds, 0))
    };
    let times = timestamp(validity.not_before).zip(timestamp(validity.not_after));
    times.ok_or_else(|| TlsError::NoTime { path: path.to_owned() })
}

fn client_verifier(files: &TlsFiles) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &files.client_authorities else { return Ok(None) };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = authorities.add(certificate);
        added.map_err(|source| TlsError::Authority { path: path.clone(), source })?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
    let builder = match files.client_certificates {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map(Some).map_err(|source| TlsError::Verifier { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use aethyr_test_support::tls::{Authority, Days, replace};

    use super::*;

    fn files(folder: &Path) -> TlsFiles {
        TlsFiles {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            client_authorities: None,
            client_certificates: ClientCertificates::Optional,
        }
    }

    #[test]
    fn the_files_are_accepted_only_together() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, files) = (Authority::new("test"), files(folder.path()));
        assert!(matches!(Tls::load(&files), Err(TlsError::Unreadable { .. })));
        authority.server().write(folder.path(), "server");
        let loaded = Tls::load(&files).unwrap();
        assert_eq!(loaded.config.alpn_protocols, [PROTOCOL]);
        assert!(!loaded.config.session_storage.can_cache());
        replace(&files.key, &authority.server().key);
        let pair = Tls::load(&files).unwrap_err();
        assert!(matches!(&pair, TlsError::Pair { .. }), "{pair}");
        let secret = authority.server().key.replace("END PRIVATE KEY", "END");
        replace(&files.key, &secret);
        let missing = Tls::load(&files).unwrap_err();
        assert!(matches!(&missing, TlsError::Missing { what: "private key", .. }), "{missing}");
        for line in secret.lines() {
            assert!(!format!("{missing} {missing:?}").contains(line), "{missing:?}");
        }
        replace(&files.certificate, "text");
        assert!(matches!(Tls::load(&files), Err(TlsError::Missing { what: "certificate", .. })));
    }

    #[test]
    fn authorities_of_clients_are_read_and_checked_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test");
        authority.server().write(folder.path(), "server");
        let path = folder.path().join("clients.pem");
        for client_certificates in [ClientCertificates::Optional, ClientCertificates::Required] {
            let client_authorities = Some(path.clone());
            let files = TlsFiles { client_authorities, client_certificates, ..files(folder.path()) };
            replace(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
            assert!(matches!(Tls::load(&files), Err(TlsError::Authority { .. })));
            replace(&path, authority.pem());
            Tls::load(&files).unwrap();
        }
    }

    #[test]
    fn an_expired_certificate_is_served_but_does_not_replace_another() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, files, now) = (Authority::new("test"), files(folder.path()), Timestamp::now());
        authority.issue(&["DNS:localhost"], Days(-9, -1)).write(folder.path(), "server");
        let expired = Tls::load(&files).unwrap();
        assert_eq!(expired.validity(now), Validity::Ended);
        assert!(matches!(Tls::reload(&files, now), Err(TlsError::Expired { .. })));
        authority.issue(&["DNS:localhost"], Days(1, 10)).write(folder.path(), "server");
        Tls::load(&files).unwrap();
        assert!(matches!(Tls::reload(&files, now), Err(TlsError::NotYetValid { .. })));
        authority.issue(&["DNS:localhost"], Days(-9, 10)).write(folder.path(), "server");
        assert_eq!(Tls::reload(&files, now).unwrap().validity(now), Validity::EndsSoon);
    }

    #[test]
    fn the_warning_begins_14_days_before_the_end() {
        const DAY: i64 = 24 * 60 * 60;
        let at = |seconds| Timestamp::new(seconds, 0).unwrap();
        let end = 2_000_000_000;
        for (now, expected) in [
            (end - 14 * DAY - 1, Validity::Long),
            (end - 14 * DAY, Validity::EndsSoon),
            (end, Validity::EndsSoon),
            (end + 1, Validity::Ended),
        ] {
            assert_eq!(validity(at(end), at(now)), expected, "{now}");
        }
    }
}
