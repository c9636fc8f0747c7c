//! Connections to the service: without TLS, with TLS, and over a unix socket.

use std::{error::Error as StdError, fmt, io, iter, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::ClientError;
use crate::{grpc::status::reworded, secret::Secret};

const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How to reach the service, and who calls.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Where the service is.
    pub endpoint: ServiceEndpoint,
    /// The token to send with each call.
    pub token: Option<Secret>,
}

/// Where the service is, and how to connect to it.
#[derive(Debug, Clone)]
pub enum ServiceEndpoint {
    /// Over TCP, without TLS.
    Cleartext {
        /// The host and the port.
        address: String,
    },
    /// Over TCP, with TLS.
    Tls {
        /// The host and the port.
        address: String,
        /// Which servers are trusted.
        trust: Trust,
        /// What the client proves itself with.
        certificate: Option<ClientCertificate>,
    },
    /// Over a unix socket.
    Unix {
        /// The socket.
        path: PathBuf,
    },
}

/// Which servers are trusted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those that one of the authorities in this PEM text vouches for, if they have the name of the
    /// address.
    Authorities(Vec<u8>),
    /// The one that has exactly this certificate, whatever its name is and however old it is.
    Exactly(CertificateDer<'static>),
}

/// The certificate and the key of a client, as PEM.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate, followed by its chain.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Secret,
}

/// A file is not PEM with at least one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the file contains no certificate, or a malformed one")]
pub struct NoCertificate;

impl Trust {
    /// Trusts the authorities whose certificates are in a PEM file.
    ///
    /// # Errors
    /// Returns an error if the file has no certificate, or a malformed one.
    pub fn authorities(pem: Vec<u8>) -> Result<Self, NoCertificate> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(Self::Authorities(pem)),
            Ok(_) | Err(_) => Err(NoCertificate),
        }
    }

    /// Trusts the server that has the first certificate of a PEM file.
    ///
    /// # Errors
    /// Returns an error if the file does not begin with a certificate.
    pub fn exactly(pem: &[u8]) -> Result<Self, NoCertificate> {
        CertificateDer::from_pem_slice(pem).map(Self::Exactly).map_err(|_| NoCertificate)
    }
}

impl fmt::Display for ServiceEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cleartext { address } | Self::Tls { address, .. } => f.write_str(address),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ServiceEndpoint {
    /// Connects.
    ///
    /// # Errors
    /// Returns an error if no service is listening there, or if it is not trusted.
    pub async fn connect(&self) -> Result<Channel, ClientError> {
        self.channel().await.map_err(|source| self.not_connected(source))
    }

    /// Says what may be wrong if the connection ended before the service answered, or if the caller
    /// is not known on a unix socket.
    pub fn explained(&self, status: Status) -> Status {
        let message = status.message();
        // A status that the service sent has no source.
        let has_ended = status.source().is_some();
        let message = match self {
            // A service that expects TLS ends a connection without it.
            Self::Cleartext { .. } if has_ended => format!(
                "the connection ended before the response ({message}); if the service expects TLS, set \
                 server.tls or --ca-file"
            ),
            Self::Tls { .. } if has_ended => format!(
                "the connection ended before the response ({message}); the service may require a certificate, \
                 or not accept the one of --certificate-file: its log has TLS_HANDSHAKE then"
            ),
            Self::Unix { .. } if status.code() == Code::Unauthenticated => {
                format!("{message}; without a token, the user of this process must be the uid of an identity")
            }
            Self::Cleartext { .. } | Self::Tls { .. } | Self::Unix { .. } => return status,
        };
        reworded(&status, message)
    }

    async fn channel(&self) -> Result<Channel, transport::Error> {
        match self {
            Self::Cleartext { address } => endpoint("http", address)?.connect().await,
            Self::Tls { address, trust, certificate } => {
                let endpoint = endpoint("https", address)?;
                tls(endpoint, trust, certificate.as_ref())?.connect().await
            }
            Self::Unix { path } => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_MAX);
                endpoint.connect_with_connector(connector).await
            }
        }
    }

    fn not_connected(&self, source: transport::Error) -> ClientError {
        let address = self.to_string();
        match tls_error(&source) {
            Some(tls) => ClientError::Tls { address, source: tls.clone() },
            None => ClientError::Unreachable { address, source },
        }
    }
}

fn endpoint(scheme: &str, address: &str) -> Result<Endpoint, transport::Error> {
    Ok(Endpoint::from_shared(format!("{scheme}://{address}"))?.connect_timeout(CONNECT_MAX))
}

fn tls(
    endpoint: Endpoint,
    trust: &Trust,
    certificate: Option<&ClientCertificate>,
) -> Result<Endpoint, transport::Error> {
    let mut config = ClientTlsConfig::new().timeout(CONNECT_MAX);
    if let Some(ClientCertificate { certificate, key }) = certificate {
        config = config.identity(Identity::from_pem(certificate, key.expose()));
    }
    match trust {
        Trust::Authorities(pem) => endpoint.tls_config(config.ca_certificate(Certificate::from_pem(pem))),
        Trust::Exactly(expected) => {
            endpoint.tls_config_with_verifier(config, Arc::new(ExactCertificate::new(expected.clone())))
        }
    }
}

/// Returns the error of TLS that an error was caused by.
fn tls_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    iter::successors(Some(error), |&error| error.source()).find_map(|error| {
        // An error of the operating system does not name the error inside it as its source.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let of_handshake = inside.and_then(|inside| inside.downcast_ref::<rustls::Error>());
        of_handshake.or_else(|| error.downcast_ref::<rustls::Error>())
    })
}

/// Says what failed. The library shows errors of other verifiers only in the form for debugging.
pub(super) fn described(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string(),
        error => error.to_string(),
    }
}

/// Accepts one certificate, and a handshake that is signed with its key.
#[derive(Debug)]
struct ExactCertificate {
    expected: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug, thiserror::Error)]
#[error("the certificate of the service is not the one in server.tls.certificate_file of the configuration")]
struct OtherCertificate;

impl ExactCertificate {
    fn new(expected: CertificateDer<'static>) -> Self {
        let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
        Self { expected, algorithms }
    }
}

impl ServerCertVerifier for ExactCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(OtherCertificate))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const OTHER: &[u8] = b"-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_file_needs_a_certificate() {
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for pem in [&b""[..], b"text", key, b"-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            assert_eq!(Trust::authorities(pem.to_vec()).unwrap_err(), NoCertificate);
            assert_eq!(Trust::exactly(pem).unwrap_err(), NoCertificate);
        }
        let two = [CERTIFICATE, OTHER].concat();
        assert!(Trust::authorities(two.clone()).is_ok());
        let Ok(Trust::Exactly(first)) = Trust::exactly(&two) else { panic!("no certificate") };
        assert_eq!(first, CertificateDer::from_pem_slice(CERTIFICATE).unwrap());
    }

    #[test]
    fn exactly_one_certificate_is_accepted_whatever_its_name_is() {
        let [expected, other] = [CERTIFICATE, OTHER].map(|pem| CertificateDer::from_pem_slice(pem).unwrap());
        let verifier = ExactCertificate::new(expected.clone());
        let name = ServerName::try_from("another.example").unwrap();
        let verify = |found: &CertificateDer<'_>| {
            verifier.verify_server_cert(found, &[], &name, &[], UnixTime::since_unix_epoch(Duration::ZERO))
        };
        assert!(verify(&expected).is_ok());
        let address = "127.0.0.1:1".to_owned();
        let error = ClientError::Tls { address, source: verify(&other).unwrap_err() }.to_string();
        assert!(error.contains("server.tls.certificate_file") && !error.contains("Other"), "{error}");
    }

    #[tokio::test]
    async fn where_nobody_listens_the_error_names_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sock");
        let unix = ServiceEndpoint::Unix { path: path.clone() };
        let error = unix.connect().await.unwrap_err();
        assert!(matches!(&error, ClientError::Unreachable { .. }));
        let said = error.to_string();
        assert!(said.contains(&format!("unix:{}", path.display())) && said.contains("is the event store"));
        // A free port.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let trust = Trust::Exactly(CertificateDer::from_pem_slice(CERTIFICATE).unwrap());
        let with_tls = ServiceEndpoint::Tls { address: address.clone(), trust, certificate: None };
        for endpoint in [ServiceEndpoint::Cleartext { address: address.clone() }, with_tls] {
            let error = endpoint.connect().await.unwrap_err();
            assert!(matches!(&error, ClientError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains(&address), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_without_tls_is_an_error_of_tls() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            connection
        });
        let trust = Trust::Exactly(CertificateDer::from_pem_slice(CERTIFICATE).unwrap());
        let endpoint = ServiceEndpoint::Tls { address: address.clone(), trust, certificate: None };
        let error = endpoint.connect().await.unwrap_err();
        assert!(matches!(&error, ClientError::Tls { .. }), "{error:?}");
        assert!(error.to_string().contains(&address), "{error}");
        drop(server.await.unwrap());
    }
}
