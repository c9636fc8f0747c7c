//! Classifies failures: who has to act, and whether a write may still take effect.
//!
//! ImmuDB answers most failures with the code UNKNOWN and a text, so the classification has to read
//! texts. It is one pure function of the server's answer. An unknown failure counts as temporary
//! and with an unknown outcome, because that never loses or duplicates a write.

use std::{error::Error as StdError, io, time::Duration};

use prost::Message;
use tonic::{Code, Status};

use super::{schema::ErrorInfo, tls};

/// Longer messages are truncated, because they end up in logs and in the statistics.
pub(super) const MESSAGE_CHARS_MAX: usize = 500;

/// ImmuDB's message and the name of the call. Never contains the value of a key or a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct Error {
    /// What the failure means to the caller.
    pub kind: ErrorKind,
    /// The name of the call in ImmuDB's API.
    pub operation: &'static str,
    /// ImmuDB's message, or a description of a local failure. Truncated if it is long.
    pub message: String,
}

/// The class of a failure. It determines who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The connection was refused: nothing listens there.
    Refused,
    /// A network failure, or no answer within the deadline. The session may be unusable.
    Unreachable,
    /// The server cannot serve the request at the moment: one of its limits, a full disk, or a
    /// failure that is not classified here.
    Busy,
    /// The server does not know the session, or no longer does: open another one.
    SessionExpired,
    /// The operator must act: a wrong password, a missing permission, a replica, or a database that
    /// cannot be created.
    Configuration,
    /// The request will never be accepted.
    Rejected,
    /// A message is larger than one of the sides, or a proxy between them, accepts, or has more
    /// entries than the database accepts at once: request less or send less.
    TooLarge,
    /// Alarm: the contents of ImmuDB, or its answer, are damaged.
    Corrupted,
}

/// Why a write did not return its transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// A precondition did not hold, so nothing was written. ImmuDB does not say which one.
    #[error("a precondition failed")]
    Conflict,
    /// Certainly not written, neither now nor later.
    #[error("not written: {0}")]
    NotWritten(Error),
    /// The write may have happened, may happen later, or may never happen.
    #[error("outcome unknown: {0}")]
    Unknown(Error),
}

/// A failed call, before it is known what it means to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailedCall {
    pub verdict: Verdict,
    operation: &'static str,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A missing key or transaction, which is often a normal answer.
    NotFound,
    Conflict,
    Failed(ErrorKind, WriteEffect),
}

/// Whether a write that failed this way may take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteEffect {
    /// The failure provably precedes the commit.
    Excluded,
    Possible,
}

use ErrorKind::{Busy, Configuration, Corrupted, Refused, Rejected, SessionExpired, TooLarge, Unreachable};
use Verdict::{Conflict, Failed, NotFound};
use WriteEffect::{Excluded, Possible};

/// Texts that identify ImmuDB's errors with the codes UNKNOWN and INTERNAL. The first text that
/// occurs decides. ImmuDB checks everything that is `Excluded` here before it writes.
const TEXTS: [(&str, Verdict); 31] = [
    ("corrupt", Failed(Corrupted, Possible)),
    ("possible tampering", Failed(Corrupted, Possible)),
    ("internal inconsistency", Failed(Corrupted, Possible)),
    ("precondition failed", Conflict),
    ("invalid user name or password", Failed(Configuration, Excluded)),
    ("key not found", NotFound),
    ("tx not found", NotFound),
    ("session not found", Failed(SessionExpired, Excluded)),
    ("no session found", Failed(SessionExpired, Excluded)),
    ("no sessionID provided", Failed(SessionExpired, Excluded)),
    ("not logged in", Failed(SessionExpired, Excluded)),
    ("invalid token", Failed(SessionExpired, Excluded)),
    ("token has expired", Failed(SessionExpired, Excluded)),
    ("please select a database first", Failed(SessionExpired, Excluded)),
    ("user is not active", Failed(Configuration, Excluded)),
    ("authentication disabled", Failed(Configuration, Excluded)),
    ("not have permission", Failed(Configuration, Excluded)),
    ("database does not exist", Failed(Configuration, Excluded)),
    ("because it's a replica", Failed(Configuration, Excluded)),
    ("maintenance mode", Failed(Configuration, Excluded)),
    ("database is reserved", Failed(Configuration, Excluded)),
    ("in database name", Failed(Configuration, Excluded)),
    ("database name length", Failed(Configuration, Excluded)),
    ("max key length exceeded", Failed(TooLarge, Excluded)),
    ("max value length exceeded", Failed(TooLarge, Excluded)),
    ("max number of entries per tx exceeded", Failed(TooLarge, Excluded)),
    ("no entries provided", Failed(Rejected, Excluded)),
    ("invalid precondition", Failed(Rejected, Excluded)),
    ("illegal arguments", Failed(Rejected, Possible)),
    ("result size limit exceeded", Failed(Rejected, Possible)),
    ("invalid key revision number", Failed(Rejected, Possible)),
];

/// Texts with which intermediaries report that a message is too large for them: gRPC
/// implementations in several languages, and HTTP. They do not say whether ImmuDB received the
/// message, or what it did with it.
const TOO_LARGE: [&str; 6] = [
    "larger than max",
    "exceeds maximum size",
    "exceeds the maximum configured message size",
    "too large",
    "Too Large",
    "HTTP status code 413",
];

/// Classifies the server's answer. `code` and `message` are those of the status; `info` comes from
/// its details.
pub(super) fn judge(code: Code, message: &str, info: &ErrorInfo) -> Verdict {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Failed(Unreachable, Possible),
        Code::FailedPrecondition if is_conflict(message, info) => Conflict,
        Code::PermissionDenied | Code::Unauthenticated => {
            by_text(message).unwrap_or(Failed(Configuration, Excluded))
        }
        Code::InvalidArgument if message.contains("illegal state") => Failed(Corrupted, Possible),
        Code::InvalidArgument => match by_text(message) {
            Some(Failed(kind, _)) => Failed(kind, Excluded),
            _ => Failed(Rejected, Excluded),
        },
        // ImmuDB's own wording, sent before it has read the request.
        Code::ResourceExhausted if message.contains("received message larger than max") => {
            Failed(TooLarge, Excluded)
        }
        Code::OutOfRange => Failed(TooLarge, Possible),
        Code::Unimplemented => Failed(Rejected, Excluded),
        Code::NotFound => Failed(Configuration, Excluded),
        Code::DataLoss => Failed(Corrupted, Possible),
        Code::Ok
        | Code::Unknown
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal => by_text_or_cause(message, info),
    }
}

fn is_conflict(message: &str, info: &ErrorInfo) -> bool {
    info.code == "23000" || message.starts_with("precondition failed")
}

fn by_text(message: &str) -> Option<Verdict> {
    let known = TEXTS.iter().find(|(text, _)| message.contains(text));
    known.map(|(_, verdict)| *verdict)
}

fn by_text_or_cause(message: &str, info: &ErrorInfo) -> Verdict {
    // ImmuDB gives the same answer when it cannot look up its users. Only the cause tells.
    let login_refused =
        info.cause.is_empty() || info.cause.contains("bcrypt") || info.cause.contains("key not found");
    if info.code == "08004" && !login_refused {
        return Failed(Busy, Excluded);
    }
    // On its own, this text is about the user. Within a longer text, the server cannot access one
    // of its files.
    if message == "permission denied" {
        return Failed(Configuration, Excluded);
    }
    // A value that ImmuDB's transaction log refers to has been cut off.
    if message == "EOF" {
        return Failed(Corrupted, Possible);
    }
    if message.contains("context deadline exceeded") || message.contains("context canceled") {
        return Failed(Unreachable, Possible);
    }
    // This text is about a file that must not grow, not about a message.
    let is_too_large =
        || !message.contains("file too large") && TOO_LARGE.iter().any(|text| message.contains(text));
    let unnamed = || if is_too_large() { Failed(TooLarge, Possible) } else { Failed(Busy, Possible) };
    by_text(message).unwrap_or_else(unnamed)
}

impl FailedCall {
    pub(super) fn from_status(operation: &'static str, status: &Status) -> FailedCall {
        // Only a local failure has a source. A status from the server has none.
        let (verdict, message) = match status.source() {
            Some(source) => judge_transport(source),
            None if status.message().starts_with("Unexpected EOF decoding stream") => {
                (Failed(Unreachable, Possible), status.message().to_owned())
            }
            None => {
                return FailedCall::from_answer(operation, status.code(), status.message(), status.details());
            }
        };
        FailedCall { verdict, operation, message: shortened(message) }
    }

    /// Classifies an answer from the server itself.
    pub(super) fn from_answer(
        operation: &'static str,
        code: Code,
        message: &str,
        details: &[u8],
    ) -> FailedCall {
        let verdict = judge(code, message, &error_info(details));
        FailedCall { verdict, operation, message: shortened(message.to_owned()) }
    }

    pub(super) fn from_transport(error: &tonic::transport::Error) -> FailedCall {
        let (verdict, message) = judge_transport(error);
        FailedCall { verdict, operation: "connect", message: shortened(message) }
    }

    pub(super) fn timed_out(operation: &'static str, after: Duration) -> FailedCall {
        FailedCall {
            verdict: Failed(Unreachable, Possible),
            operation,
            message: format!("no response within {after:?}"),
        }
    }

    /// A request that is rejected locally and never sent.
    pub(super) fn rejected(operation: &'static str, message: String) -> FailedCall {
        FailedCall { verdict: Failed(Rejected, Excluded), operation, message }
    }

    /// A request that is too large and never sent.
    pub(super) fn too_large(operation: &'static str, message: String) -> FailedCall {
        FailedCall { verdict: Failed(TooLarge, Excluded), operation, message }
    }
}

impl From<FailedCall> for Error {
    fn from(failure: FailedCall) -> Error {
        let kind = match failure.verdict {
            Failed(kind, _) => kind,
            NotFound | Conflict => Rejected,
        };
        Error { kind, operation: failure.operation, message: failure.message }
    }
}

impl From<FailedCall> for SetError {
    fn from(failure: FailedCall) -> SetError {
        match failure.verdict {
            Conflict => SetError::Conflict,
            Failed(_, Excluded) => SetError::NotWritten(failure.into()),
            Failed(_, Possible) | NotFound => SetError::Unknown(failure.into()),
        }
    }
}

impl Error {
    pub(super) fn corrupted(operation: &'static str, message: String) -> Error {
        Error { kind: Corrupted, operation, message }
    }

    /// A failure to connect or to log in that only the operator can end.
    pub(super) fn configuration(operation: &'static str, message: String) -> Error {
        Error { kind: Configuration, operation, message: shortened(message) }
    }
}

/// Only a refused connection proves that the request was never sent.
fn judge_transport(error: &(dyn StdError + 'static)) -> (Verdict, String) {
    if let Some(problem) = tls::problem(sources(error)) {
        return (Failed(problem.kind, Possible), problem.message);
    }
    let refused = sources(error)
        .filter_map(|source| source.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let message = chain(error);
    let verdict = if refused {
        Failed(Refused, Excluded)
    } else if message.contains(tls::ALERT) {
        // The server examines the certificate of the client after the handshake. Then only the text
        // of the error is left.
        Failed(Configuration, Possible)
    } else {
        Failed(Unreachable, Possible)
    };
    (verdict, message)
}

fn sources<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Returns the texts of an error and of its sources, without repetitions.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in sources(error).map(ToString::to_string) {
        if !texts.iter().any(|earlier| earlier.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

fn shortened(message: String) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

/// Returns ImmuDB's own code for the error and its cause. Both are empty if it sent none.
fn error_info(details: &[u8]) -> ErrorInfo {
    let details = tonic_types::pb::Status::decode(details).unwrap_or_default().details;
    details
        .into_iter()
        .find(|detail| detail.type_url.ends_with("/immudb.schema.ErrorInfo"))
        .and_then(|detail| ErrorInfo::decode(detail.value.as_slice()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
