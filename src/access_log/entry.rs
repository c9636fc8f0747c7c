//! An entry of the access log, and its line.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use serde::Serialize;

use super::Lost;
use crate::{
    event::{Timestamp, time},
    printable::escaped,
};

/// Why an entry is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A call was refused because of who made it.
    Refusal,
    /// Few may do this: it is logged whatever the configuration says.
    Always,
    /// A write that was answered.
    Write,
    /// A read that was answered.
    Read,
}

impl EntryKind {
    /// Returns whether the configuration decides about such entries.
    pub(super) fn is_optional(self) -> bool {
        matches!(self, Self::Write | Self::Read)
    }
}

/// The call of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallName {
    /// A call of the API: its service and its name.
    Known(&'static str, &'static str),
    /// A path that the service does not have, from the client.
    Unknown(Box<str>),
}

impl CallName {
    /// Returns the name of a path from a client, which may be cut off.
    pub(crate) fn of_path(path: &str) -> Self {
        const CHARACTERS_MAX: usize = 200;
        let name = path.strip_prefix('/').unwrap_or(path);
        Self::Unknown(name.chars().take(CHARACTERS_MAX).collect::<String>().into())
    }
}

impl fmt::Display for CallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(service, name) => write!(f, "{service}/{name}"),
            Self::Unknown(path) => f.write_str(path),
        }
    }
}

/// Who made a call, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LoggedCaller {
    /// The name of the identity.
    pub identity: Option<Arc<str>>,
    /// The id of the token, which is no secret.
    pub token: Option<Arc<str>>,
    /// The address of the other end of the connection.
    pub address: Option<SocketAddr>,
    /// The user at the other end of a unix socket.
    pub uid: Option<u32>,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub kind: EntryKind,
    pub caller: LoggedCaller,
    pub call: CallName,
    /// The status code, as gRPC spells it.
    pub code: &'static str,
    /// The reason of an error, as in its `ErrorInfo`.
    pub reason: Option<Box<str>>,
    /// Why credentials were not accepted, which the client is not told; the field, the limit, or
    /// the scope that led to the refusal.
    pub cause: Option<Box<str>>,
    /// The right that the caller does not have.
    pub right: Option<Box<str>>,
    /// The number of events that the call has stored.
    pub events: Option<u64>,
    /// The position of the first of them.
    pub first_position: Option<u64>,
}

impl Entry {
    /// Returns an entry about a call, to which facts may be added.
    pub(crate) fn new(kind: EntryKind, caller: LoggedCaller, call: CallName, code: &'static str) -> Self {
        let (reason, cause, right) = (None, None, None);
        Self { kind, caller, call, code, reason, cause, right, events: None, first_position: None }
    }

    /// Returns the entry of a reload of the identities or of the certificates. The service's own
    /// log says why one was not accepted.
    pub(crate) fn reload(what: &'static str, accepted: bool) -> Self {
        let code = if accepted { "OK" } else { "FAILED_PRECONDITION" };
        let call = CallName::Known("reload", what);
        Self::new(EntryKind::Always, LoggedCaller::default(), call, code)
    }

    /// Returns the line, with its end.
    pub(super) fn line(&self, at: Timestamp) -> io::Result<String> {
        let Self { caller, .. } = self;
        json(&Line {
            time: time::format(at),
            identity: caller.identity.as_deref(),
            token: caller.token.as_deref(),
            peer: caller.address.map(|address| address.to_string()),
            uid: caller.uid,
            call: &self.call.to_string(),
            code: self.code,
            reason: self.reason.as_deref(),
            cause: self.cause.as_deref(),
            right: self.right.as_deref(),
            events: self.events,
            first_position: self.first_position,
        })
    }
}

impl Lost {
    /// Returns the line that says how many entries are missing, with its end.
    pub(super) fn line(self, at: Timestamp) -> io::Result<String> {
        let Self { refusals, others } = self;
        json(&LostLine { time: time::format(at), refusals_not_logged: refusals, others_not_logged: others })
    }
}

/// Text from clients is shown without acting on a terminal, and remains the same JSON.
fn json(line: &impl Serialize) -> io::Result<String> {
    let mut text = escaped(&serde_json::to_string(line)?).into_owned();
    text.push('\n');
    Ok(text)
}

#[derive(Serialize)]
struct Line<'e> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    call: &'e str,
    code: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_position: Option<u64>,
}

#[derive(Serialize)]
struct LostLine {
    time: String,
    refusals_not_logged: u64,
    others_not_logged: u64,
}
