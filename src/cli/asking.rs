//! What the commands that ask a running service share: where it is, and how times and values show.

use std::{
    io::{ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde_json::Value;

use crate::{config::Config, grpc::JsonClient};

/// Where the service is that is asked: named, or as configured.
pub fn address(config: &Config, named: Option<SocketAddr>) -> SocketAddr {
    named.unwrap_or_else(|| reachable(config.server.listen))
}

/// A service that listens on every address is asked on loopback.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// # Errors
/// Says that nobody listens there.
pub async fn connect(address: SocketAddr) -> Result<JsonClient, String> {
    JsonClient::connect(address).await.map_err(|error| error.to_string())
}

/// A line on standard output. Whoever reads it may be gone, as `head` is: that ends the command without a word.
///
/// # Errors
/// Standard output is closed.
pub fn print(line: &str) -> Result<(), String> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => String::new(),
        _ => error.to_string(),
    })
}

/// A member that is text; empty where it is missing.
pub fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// A member that is a whole number; 0 where it is missing.
pub fn number(value: &Value, member: &str) -> u64 {
    value.get(member).and_then(Value::as_u64).unwrap_or_default()
}

/// The members of a list; none where it is missing.
pub fn list<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    value.get(member).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
