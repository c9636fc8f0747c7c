//! The commands that ask a running service, and what they share: where it is, and how values show.

use std::{
    fmt,
    io::{ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use clap::Subcommand;
use serde_json::Value;

use super::run;
use crate::{config::Config, grpc::JsonClient, printable::escaped};

mod events;
mod execute;
mod object;
mod rebuild;
mod stats;

#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Prints the history of an aggregate: what happened, when, by whom, and what it changed.
    Events {
        /// The aggregate.
        id: String,
        /// The events as they are stored, as JSON, one a line.
        #[arg(long)]
        json: bool,
        /// Goes on with what comes.
        #[arg(long)]
        follow: bool,
        /// The first sequence number that is wanted.
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        from: u64,
        #[command(flatten)]
        service: Service,
    },
    /// Prints the figures of the service.
    Stats {
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: Service,
    },
    /// Prints a line of figures again and again.
    Watch {
        /// Seconds between two lines.
        #[arg(long, default_value_t = 1.0, value_parser = interval, value_name = "SECONDS")]
        interval: f64,
        /// Ends after so many lines.
        #[arg(long, value_name = "LINES")]
        count: Option<u64>,
        #[command(flatten)]
        service: Service,
    },
    /// Prints an object of the world as JSON, as it is or as it was.
    Object {
        /// The object.
        id: String,
        /// After the event with this number, or at this time, as in 2026-11-25T10:00:00Z.
        #[arg(long, value_name = "TIME|SEQUENCE")]
        at: Option<object::At>,
        #[command(flatten)]
        service: Service,
    },
    /// Executes commands out of a file: one a line, as JSON, as `ExecuteCommands` has them. A line with a list
    /// of commands is done as a whole or not at all.
    Execute {
        /// The file; - is standard input.
        file: PathBuf,
        /// Goes on behind a line that is refused.
        #[arg(long)]
        keep_going: bool,
        /// Does so many lines at the same time; their order is not kept then.
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        callers: usize,
        #[command(flatten)]
        service: Service,
    },
    /// Replays and checks all events, and makes the read models anew, while the service goes on.
    Rebuild {
        /// First has this damaged object repaired: what can't have happened to it is passed over from then on.
        #[arg(long, value_name = "ID")]
        repair: Vec<String>,
        /// Who wants that; it is kept in the event.
        #[arg(long, value_name = "NAME", requires = "repair")]
        actor: Option<String>,
        #[command(flatten)]
        service: Service,
    },
}

/// The service that is asked.
#[derive(Debug, clap::Args)]
pub struct Service {
    /// Where it listens, by name or IP address; without it, as configured.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<Address>,
}

/// A host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "is no host and port, as in 127.0.0.1:50051, [::1]:50051 or event-store:50051";
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

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number of seconds that a clock can wait for.
fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    match (0.01..=86_400.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("is not between 0.01 and 86400".to_owned()),
    }
}

/// Does what is asked for.
pub fn ask(config: &Config, ask: Ask) -> ExitCode {
    let at = |service: Service| address(config, service.address);
    match ask {
        Ask::Events { id, json, follow, from, service } => {
            let form = if json { events::Form::Json } else { events::Form::People };
            run(events::show(at(service), events::Wanted { id, from, form, follow }))
        }
        Ask::Stats { json, service } => run(stats::show(at(service), json)),
        Ask::Watch { interval, count, service } => {
            run(stats::watch(at(service), Duration::from_secs_f64(interval), count))
        }
        Ask::Object { id, at: moment, service } => run(object::show(at(service), id, moment)),
        Ask::Execute { file, keep_going, callers, service } => {
            let refused = if keep_going { execute::Refused::GoOn } else { execute::Refused::Stop };
            run(execute::run(at(service), execute::Wanted { file, refused, callers }))
        }
        Ask::Rebuild { repair, actor, service } => {
            run(rebuild::run(at(service), repair, actor.unwrap_or_default()))
        }
    }
}

/// Where the service is that is asked: named, or as configured.
pub fn address(config: &Config, named: Option<Address>) -> Address {
    named.unwrap_or_else(|| Address(reachable(config.server.listen).to_string()))
}

/// A service that listens on every address is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// # Errors
/// Says that nobody listens there.
pub async fn connect(address: Address) -> Result<JsonClient, String> {
    JsonClient::connect(&address.to_string()).await.map_err(|error| error.to_string())
}

/// JSON on standard output, indented.
///
/// # Errors
/// Standard output is closed.
pub fn print_indented(value: &Value) -> Result<(), String> {
    format!("{value:#}").lines().try_for_each(print)
}

/// A line on standard output. Whoever reads it may be gone, as `head` is: that ends the command without a word.
///
/// # Errors
/// Standard output is closed.
pub fn print(line: &str) -> Result<(), String> {
    writeln!(std::io::stdout().lock(), "{}", escaped(line)).map_err(|error| match error.kind() {
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
