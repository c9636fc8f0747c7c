//! The options of the commands that connect to the service, and the connection that follows from
//! them and from the configuration.
//!
//! Without an address, the service of the configuration is meant: through its unix socket if there
//! is one, otherwise through its first address. If that has TLS, its certificate need not be
//! trusted by an authority, because it can be compared with the file.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use super::Error;
use crate::{
    access::{TokenError, token},
    config::Config,
    grpc::{ClientCertificate, ClientSettings, NoCertificate, ServiceEndpoint, Trust},
    secret::Secret,
};

/// The first line of a token file is not longer.
const LINE_BYTES_MAX: u64 = 4096;

/// The service to connect to, and how.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct ConnectionArgs {
    /// Address of the service [default: the unix socket in server.listen of the configuration,
    /// otherwise the first address there]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<Address>,
    /// Connect with TLS, and trust the authorities in this file (PEM) [default: $AETHYR_CA_FILE; on
    /// this machine the certificate in server.tls.certificate_file of the configuration]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Certificate of the client, followed by its chain (PEM) [default: $AETHYR_CERTIFICATE_FILE]
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// Private key of that certificate (PEM) [default: $AETHYR_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// The service to connect to, and who calls.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct ServiceArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// File whose first line is the token to send [default: $AETHYR_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Why there is no connection with these options. No text shows a token or a key.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ConnectionError {
    #[error("{path}: {source}")]
    Certificate { path: PathBuf, source: NoCertificate },
    #[error("{path}: {source}")]
    Token { path: PathBuf, source: TokenError },
    #[error("a client certificate needs both --certificate-file and --key-file")]
    Incomplete,
    #[error("a client certificate needs TLS; use --ca-file")]
    CertificateWithoutTls,
    #[error("a token is not sent to {address} without TLS; use --ca-file")]
    TokenInClear { address: String },
    #[error("server.listen has no address with a port; use --address, or leave out --ca-file")]
    NoAddress,
}

impl ServiceArgs {
    /// Returns how to reach the service, and the token to send.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used, or if the token would be sent without TLS to
    /// another machine.
    pub(in crate::cli) fn settings(self, config: &Config) -> Result<ClientSettings, Error> {
        let endpoint = self.connection.endpoint(config)?;
        let token_file = or_variable(self.token_file, "AETHYR_TOKEN_FILE");
        let token = token_file.map(|path| read_token(&path)).transpose()?;
        if let ServiceEndpoint::Cleartext { address } = &endpoint
            && token.is_some()
            && !is_loopback(address)
            && !config.access.allow_cleartext
        {
            return Err(ConnectionError::TokenInClear { address: address.clone() }.into());
        }
        Ok(ClientSettings { endpoint, token })
    }
}

impl ConnectionArgs {
    /// Returns how to reach the service.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used.
    pub(in crate::cli) fn endpoint(self, config: &Config) -> Result<ServiceEndpoint, Error> {
        let Self { address: named, ca_file, certificate_file, key_file } = self;
        let ca_file = or_variable(ca_file, "AETHYR_CA_FILE");
        let certificate_file = or_variable(certificate_file, "AETHYR_CERTIFICATE_FILE");
        let key_file = or_variable(key_file, "AETHYR_KEY_FILE");
        if named.is_none()
            && ca_file.is_none()
            && certificate_file.is_none()
            && let Some(path) = config.server.listen.unix()
        {
            return Ok(ServiceEndpoint::Unix { path: path.to_owned() });
        }
        let is_here = named.as_ref().is_none_or(|named| is_here(named, config));
        let configured = || config.server.listen.tcp().next().map(|listen| reachable(listen).to_string());
        let address = named.map(|named| named.0).or_else(configured).ok_or(ConnectionError::NoAddress)?;
        let trust = match (ca_file, &config.server.tls) {
            (Some(path), _) => Some(trust(&path, Trust::authorities)?),
            (None, Some(tls)) if is_here => Some(trust(&tls.certificate_file, |pem| Trust::exactly(&pem))?),
            (None, Some(_) | None) => None,
        };
        let certificate = client_certificate(certificate_file, key_file)?;
        match trust {
            Some(trust) => Ok(ServiceEndpoint::Tls { address, trust, certificate }),
            None if certificate.is_some() => Err(ConnectionError::CertificateWithoutTls.into()),
            None => Ok(ServiceEndpoint::Cleartext { address }),
        }
    }
}

/// Returns the option, or else the value of the variable. An empty variable is not set.
fn or_variable(option: Option<PathBuf>, variable: &str) -> Option<PathBuf> {
    option.or_else(|| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn trust(path: &Path, of: impl FnOnce(Vec<u8>) -> Result<Trust, NoCertificate>) -> Result<Trust, Error> {
    let pem = fs::read(path).map_err(|error| Error::of_file(path, error))?;
    Ok(of(pem).map_err(|source| ConnectionError::Certificate { path: path.to_owned(), source })?)
}

fn client_certificate(
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
) -> Result<Option<ClientCertificate>, Error> {
    match (certificate_file, key_file) {
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(ConnectionError::Incomplete.into()),
        (Some(certificate_file), Some(key_file)) => {
            let certificate =
                fs::read(&certificate_file).map_err(|error| Error::of_file(&certificate_file, error))?;
            let key = fs::read_to_string(&key_file).map_err(|error| Error::of_file(&key_file, error))?;
            Ok(Some(ClientCertificate { certificate, key: Secret::new(key) }))
        }
    }
}

/// Reads the first line of a file, which is a token. What follows may be what `token new` prints.
fn read_token(path: &Path) -> Result<Secret, Error> {
    let file = fs::File::open(path).map_err(|error| Error::of_file(path, error))?;
    let mut line = String::new();
    BufReader::new(file.take(LINE_BYTES_MAX))
        .read_line(&mut line)
        .map_err(|error| Error::of_file(path, error))?;
    let line = line.trim();
    token::parse(line).map_err(|source| ConnectionError::Token { path: path.to_owned(), source })?;
    Ok(Secret::new(line))
}

/// Returns whether an address is on this machine, or one that the configured service listens on.
fn is_here(named: &Address, config: &Config) -> bool {
    is_loopback(&named.0) || config.server.listen.tcp().any(|listen| listen.to_string() == named.0)
}

/// Returns whether a host with a port is on this machine.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Replaces the unspecified address, which a service may listen on, by the loopback address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A host name or an IP address, with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Address(String);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected HOST:PORT, for example 127.0.0.1:50051, [::1]:50051 or \
         event-store:50051";
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let fits = (1..=255).contains(&host.len()) && host.bytes().all(is_name);
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        if fits && port.is_some() { Ok(Self(text.to_owned())) } else { Err(FORM) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::Token,
        config::{ClientCertificates, ListenAddress, ListenAddresses, TlsConfig},
    };

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn config(listen: &[&str]) -> Config {
        let mut config = Config::default();
        let listen = listen.iter().map(|text| ListenAddress::parse(text).unwrap());
        config.server.listen = ListenAddresses(listen.collect());
        config
    }

    fn with_tls(mut config: Config, folder: &Path) -> Config {
        let certificate_file = folder.join("certificate.pem");
        fs::write(&certificate_file, CERTIFICATE).unwrap();
        config.server.tls = Some(TlsConfig {
            certificate_file,
            key_file: folder.join("key.pem"),
            client_ca_file: None,
            client_certificates: ClientCertificates::Optional,
        });
        config
    }

    fn at(address: &str) -> ConnectionArgs {
        ConnectionArgs { address: Some(address.parse().unwrap()), ..ConnectionArgs::default() }
    }

    /// Returns where the connection leads and how, in words.
    fn led(args: ConnectionArgs, config: &Config) -> String {
        match args.endpoint(config) {
            Ok(ServiceEndpoint::Cleartext { address }) => format!("clear {address}"),
            Ok(ServiceEndpoint::Tls { address, trust: Trust::Exactly(_), .. }) => format!("exact {address}"),
            Ok(ServiceEndpoint::Tls { address, .. }) => format!("authority {address}"),
            Ok(unix @ ServiceEndpoint::Unix { .. }) => unix.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn without_options_the_configured_service_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = config(&["0.0.0.0:50051", "127.0.0.1:7000"]);
        let both = config(&["[::]:50051", "unix:/run/aethyr/store.sock"]);
        let secured = with_tls(tcp.clone(), dir.path());
        let none = ConnectionArgs::default;
        assert_eq!(led(none(), &tcp), "clear 127.0.0.1:50051");
        assert_eq!(led(none(), &both), "unix:/run/aethyr/store.sock");
        assert_eq!(led(none(), &secured), "exact 127.0.0.1:50051");
        for (named, expected) in [
            ("localhost:50051", "exact localhost:50051"),
            ("[::1]:50051", "exact [::1]:50051"),
            ("0.0.0.0:50051", "exact 0.0.0.0:50051"),
            ("event-store:50051", "clear event-store:50051"),
        ] {
            assert_eq!(led(at(named), &secured), expected);
        }
        assert_eq!(led(at("127.0.0.1:7000"), &both), "clear 127.0.0.1:7000");
        fs::write(dir.path().join("certificate.pem"), "").unwrap();
        assert!(led(none(), &secured).contains("certificate.pem"), "{}", led(none(), &secured));
    }

    #[test]
    fn an_authority_and_a_client_certificate_mean_tls() {
        let dir = tempfile::tempdir().unwrap();
        let [ca, key] = ["ca.pem", "client.key"].map(|name| dir.path().join(name));
        fs::write(&ca, CERTIFICATE).unwrap();
        fs::write(&key, "a private key").unwrap();
        let both = config(&["127.0.0.1:50051", "unix:/run/aethyr/store.sock"]);
        let trusting = || ConnectionArgs { ca_file: Some(ca.clone()), ..at("event-store:50051") };
        assert_eq!(led(trusting(), &both), "authority event-store:50051");
        let unnamed = ConnectionArgs { address: None, ..trusting() };
        assert_eq!(led(unnamed, &both), "authority 127.0.0.1:50051");
        let unnamed = ConnectionArgs { address: None, ..trusting() };
        assert!(led(unnamed, &config(&["unix:/x"])).starts_with("error: server.listen has no address"));
        let (certificate_file, key_file) = (Some(ca.clone()), Some(key.clone()));
        let complete = ConnectionArgs { certificate_file, key_file, ..trusting() };
        let shown = format!("{:?}", complete.endpoint(&both).unwrap());
        assert!(shown.contains("certificate: Some") && !shown.contains("a private key"), "{shown}");
        let incomplete = ConnectionArgs { key_file: Some(key.clone()), ..trusting() };
        assert!(led(incomplete, &both).starts_with("error: a client certificate needs both"));
        let (certificate_file, key_file) = (Some(ca.clone()), Some(key));
        let clear = ConnectionArgs { certificate_file, key_file, ..at("event-store:50051") };
        assert!(led(clear, &both).starts_with("error: a client certificate needs TLS"));
    }

    #[test]
    fn a_token_is_the_first_line_of_its_file_and_is_not_sent_in_clear_to_other_machines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = Token::generate().unwrap();
        fs::write(&path, format!("{}\n  arena-1: {{ role: game }}\n", token.text())).unwrap();
        let mut config = config(&["127.0.0.1:50051"]);
        let settings = |address: &str, config: &Config| {
            ServiceArgs { connection: at(address), token_file: Some(path.clone()) }.settings(config)
        };
        for near in ["127.0.0.1:1", "127.7.7.7:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "LocalHost:1"] {
            let settings = settings(near, &config).unwrap();
            assert_eq!(settings.token.as_ref().unwrap().expose(), token.text());
            assert!(!format!("{settings:?}").contains(token.text()));
        }
        for far in ["192.0.2.1:1", "localhost.example:1", "event-store:1", "127.0.0.1.example:1"] {
            let error = settings(far, &config).unwrap_err().to_string();
            assert!(error.contains(far) && error.contains("--ca-file"), "{error}");
        }
        config.access.allow_cleartext = true;
        assert!(settings("event-store:1", &config).is_ok());
        let cut = &token.text()[..60];
        for wrong in ["", "\n", cut, &format!("\n{}", token.text()), &"x".repeat(100_000)] {
            fs::write(&path, wrong).unwrap();
            let error = settings("127.0.0.1:1", &config).unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()) && !error.contains(&cut[20..]), "{error}");
        }
    }
}
