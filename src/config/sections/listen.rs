//! The addresses that the gRPC server listens on.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const UNIX: &str = "unix:";
/// The longest path of a unix socket on Linux, without the terminating NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The addresses that the gRPC server listens on. In YAML, one text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany", into = "OneOrMany")]
pub struct ListenAddresses(pub Vec<ListenAddress>);

/// An address that the gRPC server listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket, for programs on the same machine.
    Unix(PathBuf),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl ListenAddress {
    /// Parses `127.0.0.1:50051`, `[::1]:50051` or `unix:/run/aethyr/store.sock`. Returns `None` if
    /// it is none of them.
    pub fn parse(text: &str) -> Option<ListenAddress> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().ok().map(ListenAddress::Tcp);
        };
        let is_path = (1..=SOCKET_PATH_BYTES_MAX).contains(&path.len()) && !path.contains('\0');
        is_path.then(|| ListenAddress::Unix(path.into()))
    }

    /// Returns whether only programs on this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

impl ListenAddresses {
    /// Returns the addresses for TCP, in order.
    pub fn tcp(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        })
    }

    /// Returns the path of the unix socket, if there is one.
    pub fn unix(&self) -> Option<&Path> {
        self.0.iter().find_map(|address| match address {
            ListenAddress::Unix(path) => Some(path.as_path()),
            ListenAddress::Tcp(_) => None,
        })
    }

    /// Returns whether only programs on this machine can connect.
    pub fn are_local(&self) -> bool {
        self.0.iter().all(ListenAddress::is_local)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for ListenAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{address}")?;
        }
        Ok(())
    }
}

impl From<SocketAddr> for ListenAddresses {
    fn from(address: SocketAddr) -> ListenAddresses {
        ListenAddresses(vec![ListenAddress::Tcp(address)])
    }
}

impl TryFrom<OneOrMany> for ListenAddresses {
    type Error = &'static str;

    fn try_from(texts: OneOrMany) -> Result<ListenAddresses, &'static str> {
        let texts = match texts {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        };
        let addresses: Option<Vec<ListenAddress>> =
            texts.iter().map(|text| ListenAddress::parse(text)).collect();
        addresses.map(ListenAddresses).ok_or("not an address")
    }
}

impl From<ListenAddresses> for OneOrMany {
    fn from(addresses: ListenAddresses) -> OneOrMany {
        match addresses.0.as_slice() {
            [address] => OneOrMany::One(address.to_string()),
            addresses => OneOrMany::Many(addresses.iter().map(ToString::to_string).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_and_unix_sockets_are_local() {
        for (text, is_local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/run/a.sock", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
        ] {
            let address = ListenAddress::parse(text).unwrap();
            assert_eq!(address.is_local(), is_local, "{text}");
            assert_eq!(address.to_string(), text);
        }
        let too_long = format!("unix:/{}", "a".repeat(SOCKET_PATH_BYTES_MAX));
        for text in ["", "localhost:1", "127.0.0.1", "unix:", "unix:/a\0b", &too_long] {
            assert_eq!(ListenAddress::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_sorted_by_kind() {
        let texts = ["unix:/run/a.sock", "127.0.0.1:1", "[::1]:2"];
        let addresses = ListenAddresses(texts.map(|text| ListenAddress::parse(text).unwrap()).to_vec());
        assert_eq!(addresses.unix(), Some(Path::new("/run/a.sock")));
        let tcp: Vec<String> = addresses.tcp().map(|address| address.to_string()).collect();
        assert_eq!(tcp, ["127.0.0.1:1", "[::1]:2"]);
        assert!(addresses.are_local());
        assert_eq!(addresses.to_string(), texts.join(", "));
    }
}
