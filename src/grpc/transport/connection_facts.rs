//! What is known of a connection before its first call.

use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// What is known of a connection before its first call.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFacts {
    /// The address of the peer. `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// Whether nobody else can read the connection: TLS, a unix socket, or loopback to loopback.
    pub is_protected: bool,
    /// Whether the connection is encrypted by TLS.
    pub is_tls: bool,
    /// The name in the verified certificate of the client: its first URI, else its first DNS name.
    pub certificate: Option<Arc<str>>,
    /// Whether the client has a verified certificate, with or without a name.
    pub has_certificate: bool,
    /// The user id of the peer of a unix socket.
    pub uid: Option<u32>,
}

impl ConnectionFacts {
    /// Returns the facts of a connection without TLS between these addresses.
    pub fn of_cleartext(peer: SocketAddr, local: Option<SocketAddr>) -> Self {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let is_protected = is_loopback(peer) && local.is_some_and(is_loopback);
        Self { address: Some(peer), is_protected, ..Self::default() }
    }

    /// Returns the facts of a connection over a unix socket.
    pub fn of_unix_socket(uid: Option<u32>) -> Self {
        Self { is_protected: true, uid, ..Self::default() }
    }

    /// Adds TLS, with the verified certificates of the client, if it has any.
    #[must_use]
    pub fn with_tls(self, certificates: Option<&[CertificateDer<'_>]>) -> Self {
        let certificate = certificates.and_then(<[_]>::first);
        Self {
            is_protected: true,
            is_tls: true,
            has_certificate: certificate.is_some(),
            certificate: certificate.and_then(|certificate| name_of(certificate)),
            ..self
        }
    }
}

/// Returns the name in a certificate: its first URI, else its first DNS name. The common name is
/// not read.
fn name_of(certificate: &[u8]) -> Option<Arc<str>> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let (_, SubjectAltName(names)) = certificate.tbs_certificate.get().ok()??;
    let uri = names.iter().find_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    let dns = || {
        names.iter().find_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str()),
            _ => None,
        })
    };
    uri.or_else(dns).map(Arc::from)
}

#[cfg(test)]
mod tests {
    use aethyr_test_support::tls::{Authority, Days};
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_certificate_names_its_first_uri_or_else_its_first_dns_name() {
        const URI: &str = "spiffe://game.example/arena-1";
        let authority = Authority::new("test");
        let uri = format!("URI:{URI}");
        for (names, expected) in [
            (vec!["DNS:one.example", &uri, "URI:spiffe://other"], Some(URI)),
            (vec!["IP:192.0.2.1", "DNS:one.example", "DNS:two.example"], Some("one.example")),
            (vec!["IP:192.0.2.1"], None),
            (vec![], None),
        ] {
            let pem = authority.issue(&names, Days(-1, 1)).certificate;
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let facts = ConnectionFacts::default().with_tls(Some(&[certificate]));
            assert!(facts.is_tls && facts.is_protected && facts.has_certificate);
            assert_eq!(facts.certificate.as_deref(), expected);
        }
        let without = ConnectionFacts::default().with_tls(None);
        assert!(without.is_protected && !without.has_certificate && without.certificate.is_none());
        let malformed = ConnectionFacts::default().with_tls(Some(&[CertificateDer::from(&b"text"[..])]));
        assert!(malformed.has_certificate && malformed.certificate.is_none());
    }

    #[test]
    fn clear_text_is_protected_only_between_addresses_of_the_loopback() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let is_protected = |peer, local: Option<&str>| {
            ConnectionFacts::of_cleartext(address(peer), local.map(address)).is_protected
        };
        assert!(is_protected("127.0.0.1:9", Some("127.0.0.1:50051")));
        assert!(is_protected("[::ffff:127.0.0.1]:9", Some("[::1]:50051")));
        assert!(!is_protected("192.0.2.7:9", Some("192.0.2.1:50051")));
        assert!(!is_protected("127.0.0.1:9", None));
    }
}
