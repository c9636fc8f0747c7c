//! Certificates for one test: an authority, and what it issues.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use time::{Duration, OffsetDateTime};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its private key, both as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// The time from and until which a certificate is valid, in days from now.
#[derive(Debug, Clone, Copy)]
pub struct Days(pub i64, pub i64);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Returns the certificate of the authority, as PEM.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for a server on this machine.
    pub fn server(&self) -> Pair {
        self.issue(&["DNS:localhost", "IP:127.0.0.1"], Days(-1, 365))
    }

    /// Issues a certificate for names as OpenSSL writes them: `DNS:name`, `URI:uri`, `IP:address`.
    pub fn issue(&self, names: &[&str], Days(from, until): Days) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "not read");
        params.subject_alt_names = names.iter().map(|name| alternative_name(name)).collect();
        params.not_before = OffsetDateTime::now_utc() + Duration::days(from);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(until);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

fn alternative_name(name: &str) -> SanType {
    match name.split_once(':').unwrap() {
        ("DNS", name) => SanType::DnsName(name.try_into().unwrap()),
        ("URI", uri) => SanType::URI(uri.try_into().unwrap()),
        ("IP", address) => SanType::IpAddress(address.parse().unwrap()),
        _ => panic!("{name}"),
    }
}

impl Pair {
    /// Writes `NAME.pem` and `NAME.key` into a directory, and returns their paths. Each file is
    /// replaced as a whole.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        replace(&paths.0, &self.certificate);
        replace(&paths.1, &self.key);
        paths
    }
}

/// Replaces a file as a whole.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}
