//! Converts errors to gRPC statuses. This is the only place that does so.
//!
//! The message of a status is meant for people, its details for programs. Rejections caused by the
//! service are also recorded here. The text of those that depend on who calls is the same for
//! everybody, and tells nothing about what is stored.

use std::{collections::HashMap, time::Duration};

use tokio::task::JoinError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::violations::Violations;
use crate::{
    access::{Right, Scope},
    error::{Conflict, FailedPrecondition, Limit, NoProof, OverShare, StoreError, Unavailable},
    event::{AggregateId, EventId, Position},
    progress::{self, Work},
    refusals::{self, Severity},
    shared_limit::LimitReached,
    world::{
        error::{AggregateDamage, InvalidRawAppend, WorldError},
        rules::refusal::Refusal,
    },
};

mod reading;

pub(super) use reading::{cause, reason, refused_reason};

const DOMAIN: &str = "aethyr.eventstore";
const WORLD_DOMAIN: &str = "aethyr.world";
const ACCESS_DOMAIN: &str = "aethyr.access";
const NOT_ALLOWED: &str = "NOT_ALLOWED";

/// The retry delay sent to clients while the service, or a part of it, is unavailable.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);

pub(super) fn of_violations(violations: Violations) -> Status {
    let message: Vec<String> =
        violations.0.iter().map(|(field, problem)| format!("{field}: {problem}")).collect();
    let fields = violations.0.into_iter().map(|(field, problem)| FieldViolation::new(field, problem));
    let details = ErrorDetails::with_bad_request(fields.collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, message.join("; "), details)
}

/// Converts an error of the store. Every rejection by the store, and by a limit of the gate, passes
/// through here, so it is recorded here.
pub(super) fn of_error(error: StoreError) -> Status {
    let message = error.to_string();
    error.record(&message);
    match error {
        StoreError::Invalid { field, problem } => of_violations(Violations(vec![(field, problem)])),
        StoreError::Conflict(conflict) => of_conflict(conflict, message),
        StoreError::NoSnapshot(_) => with_reason(Code::NotFound, message, "NO_SNAPSHOT", []),
        StoreError::Precondition(precondition) => of_precondition(&precondition, message),
        StoreError::NoProof(why) => of_no_proof(&why, message),
        StoreError::Full { limit, max, retry_after, .. } => full(limit, max, retry_after, message),
        StoreError::Share(over) => share_used_up(over.limit.name(), over.max, over.retry_after),
        StoreError::Unavailable(why) => unavailable(why, message),
        StoreError::OutcomeUnknown => with_reason(Code::Unknown, message, "OUTCOME_UNKNOWN", []),
        StoreError::Damaged(_) => with_reason(Code::DataLoss, message, "DAMAGED", []),
        StoreError::Internal(_) => with_reason(Code::Internal, message, "INTERNAL", []),
    }
}

/// Returns the status of a call that ends because the service stops. It is not recorded as a
/// rejection.
pub(super) fn shutting_down() -> Status {
    unavailable(Unavailable::ShuttingDown, StoreError::Unavailable(Unavailable::ShuttingDown).to_string())
}

/// Returns the status of a health check for an unknown service.
pub(super) fn unknown_service(name: &str) -> Status {
    Status::not_found(format!("unknown health service {name:?}"))
}

/// Converts the error of a limit that all clients share. Every rejection by such a limit outside of
/// the store and the world passes through here.
pub(super) fn of_limit(reached: LimitReached) -> Status {
    of_error(limit_reached(reached))
}

/// Returns the error of a shared limit for code that rejects a call further inside.
pub(super) fn limit_reached(reached: LimitReached) -> StoreError {
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    reached.into_error(RETRY_AFTER)
}

pub(super) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded(
        "the deadline has expired; retry a write with the same ids to learn its outcome",
    )
}

pub(super) fn malformed_timeout() -> Status {
    of_violations(Violations(vec![(
        "grpc-timeout".to_owned(),
        "must be 1 to 8 digits followed by one of H, M, S, m, u, n".to_owned(),
    )]))
}

pub(super) fn metadata_too_large(max: usize) -> Status {
    let message = format!("the metadata of the call exceeds {max} bytes");
    with_reason(Code::ResourceExhausted, message, "METADATA_BYTES", [("max", max.to_string())])
}

/// Returns the status of a request whose messages are not protobuf.
pub(super) fn other_content() -> Status {
    Status::unimplemented(
        "unsupported message format: content-type must be application/grpc or application/grpc+proto",
    )
}

/// Returns the status of a call to a service that is disabled in the configuration.
pub(super) fn absent(why: &'static str) -> Status {
    Status::unimplemented(why)
}

/// Returns the status of a request with an unsupported compression.
pub(super) fn other_encoding(encoding: &str, accepted: &str) -> Status {
    Status::unimplemented(format!("grpc-encoding {encoding:?} is not supported; supported: {accepted}"))
}

/// Returns the status of a request that cannot be decompressed as its `grpc-encoding` says.
pub(super) fn not_unpackable() -> Status {
    Status::internal("cannot decompress a request message")
}

pub(super) fn request_too_slow() -> Status {
    Status::deadline_exceeded(
        "the request did not arrive completely within server.request_max; it had no \
     effect",
    )
}

/// A message that the command line cannot encode or decode.
pub(super) fn not_coded(what: &'static str) -> Status {
    Status::internal(what)
}

/// Returns the status of a call whose task did not end by itself.
pub(super) fn of_task(error: &JoinError, what: &'static str) -> Status {
    of_error(StoreError::of_task(error, what))
}

/// Returns the status of a call without credentials that needs some.
pub(super) fn no_credentials() -> Status {
    let message = "this call needs credentials: a token in the metadata `authorization: Bearer TOKEN`, or a \
                   client certificate";
    of_access(Code::Unauthenticated, message.to_owned(), "NO_CREDENTIALS", [])
}

/// Returns the status of a call whose credentials are not accepted, whatever the cause.
pub(super) fn bad_credentials() -> Status {
    let message = "the credentials are not accepted";
    of_access(Code::Unauthenticated, message.to_owned(), "BAD_CREDENTIALS", [])
}

/// Returns the status of a call whose caller does not have a right.
pub(super) fn not_allowed(right: Right) -> Status {
    let name = right.name();
    let message = format!("the caller does not have the right {name}");
    of_access(Code::PermissionDenied, message, NOT_ALLOWED, [("right", name.to_owned())])
}

/// Returns the status of a call that names an aggregate outside of the scope of its caller, or that
/// needs a filter within the scope. It is the same whether the aggregate exists or not.
pub(super) fn out_of_scope(right: Right, scope: &Scope) -> Status {
    let name = right.name();
    let message = format!("the right {name} of the caller is limited to some aggregates, not to these");
    let mut facts = vec![("right", name.to_owned())];
    facts.extend(scope.prefixes.as_ref().map(|prefixes| ("prefixes", listed(prefixes))));
    let types = scope.aggregate_types.as_ref().map(|types| ("aggregate_types", listed(types)));
    facts.extend(types);
    of_access(Code::PermissionDenied, message, NOT_ALLOWED, facts)
}

/// Returns the names as one text. Clients limit the size of the headers that have it.
fn listed<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    const BYTES_MAX: usize = 1024;
    let mut text = String::new();
    for name in names {
        let separator = if text.is_empty() { "" } else { "," };
        if text.len().saturating_add(name.len()) > BYTES_MAX {
            text.push_str(separator);
            text.push('…');
            break;
        }
        text.push_str(separator);
        text.push_str(name);
    }
    text
}

/// Returns the status of a call whose caller has the right, but may not use the value of a field.
pub(super) fn value_not_allowed(right: Right, field: String) -> Status {
    let name = right.name();
    let message = format!("the right {name} of the caller does not include the value of {field}");
    of_access(Code::PermissionDenied, message, NOT_ALLOWED, [("right", name.to_owned()), ("field", field)])
}

/// Returns the status of a call whose caller has used up its share of a limit. The error that it
/// is made from has been recorded.
pub(super) fn share_used_up(limit: &'static str, max: u64, retry_after: Duration) -> Status {
    let message = format!("{limit}: this identity has used up its share of {max}");
    let facts = [("limit", limit.to_owned()), ("max", max.to_string())];
    let facts: HashMap<String, String> =
        facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
    let mut details = ErrorDetails::with_error_info(OverShare::REASON, ACCESS_DOMAIN, facts);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Returns the status of a call without credentials, of which the address has its maximum in
/// progress.
pub(super) fn too_many_open_calls(max: usize) -> Status {
    const REASON: &str = "OPEN_CALLS_PER_ADDRESS";
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    let message = format!("limit of {max} Health/Watch calls of one address reached");
    refusals::refused(REASON, Severity::Limit, &message);
    let facts = HashMap::from([("max".to_owned(), max.to_string())]);
    let mut details = ErrorDetails::with_error_info(REASON, ACCESS_DOMAIN, facts);
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Returns a status with another message.
pub(super) fn reworded(status: &Status, message: String) -> Status {
    Status::with_details(status.code(), message, status.details().to_vec().into())
}

/// Returns a code as gRPC spells it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Records a refusal of a caller and returns its status. A message may have names of fields and
/// rights, but nothing that a client has chosen.
fn of_access(
    code: Code,
    message: String,
    reason: &'static str,
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    refusals::refused(reason, Severity::Limit, &message);
    in_domain(ACCESS_DOMAIN, code, message, reason, facts)
}

/// Returns the status, for the access log, of a call that ended without an answer.
pub(super) fn abandoned() -> Status {
    Status::cancelled("the call ended before it was answered")
}

pub(super) fn of_world_error(error: WorldError) -> Status {
    let message = error.to_string();
    let place = |command: usize| ("command", command.to_string());
    match error {
        WorldError::Store(error) => of_error(error),
        WorldError::Refused { command, refusal } => {
            let mut facts = vec![("id", refusal.id().to_string())];
            facts.extend(command.map(place));
            if let Refusal::NameTaken { name, .. } = &refusal {
                facts.push(("name", name.clone()));
            }
            of_world(refusal_code(&refusal), message, refusal.reason(), facts)
        }
        WorldError::WrongExpectedSequence { command, aggregate, expected, actual } => {
            let mut facts = vec![
                ("aggregate_id", aggregate.to_string()),
                ("expected", expected.to_string()),
                ("actual", actual.to_string()),
            ];
            facts.extend(command.map(place));
            of_world(Code::Aborted, message, "WRONG_EXPECTED_SEQUENCE", facts)
        }
        WorldError::InvalidRawAppend(append) => {
            let InvalidRawAppend { index, id, kind, problem } = *append;
            let facts = [
                ("index", index.to_string()),
                ("aggregate_id", id.to_string()),
                ("aggregate_type", kind.name().to_owned()),
                ("rule", problem.to_string()),
            ];
            of_world(Code::FailedPrecondition, message, "WORLD_RULE", facts)
        }
        WorldError::CommandIdReused { command, id } => {
            let facts = [place(command), ("command_id", id)];
            of_world(Code::AlreadyExists, message, "COMMAND_ID_REUSED", facts)
        }
        WorldError::Contention => of_world(Code::Aborted, message, "CONTENTION", []),
        WorldError::Damaged(AggregateDamage { id, sequence, .. }) => {
            let facts = [("id", id.to_string()), ("sequence_number", sequence.to_string())];
            of_world(Code::DataLoss, message, "OBJECT_DAMAGED", facts)
        }
        WorldError::TooMany { max, .. } => {
            of_world(Code::ResourceExhausted, message, "OBJECTS_CHANGED", [("max", max.to_string())])
        }
        WorldError::DifferencesFull { max } => {
            of_world(Code::ResourceExhausted, message, "DIFFERENCES_BYTES", [("max", max.to_string())])
        }
        WorldError::GivenUp => Status::cancelled(message),
        WorldError::RebuildRunning => of_world(Code::Aborted, message, "REBUILD_RUNNING", []),
        WorldError::ReadModels(_) => {
            let mut details = ErrorDetails::with_error_info("READ_MODELS", WORLD_DOMAIN, HashMap::new());
            details.set_retry_info(Some(UNAVAILABLE_RETRY));
            Status::with_error_details(Code::Unavailable, message, details)
        }
    }
}

fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NoSuchObject(_) | Refusal::NoSuchEvent { .. } | Refusal::Deleted(_) => Code::NotFound,
        Refusal::Exists(_) | Refusal::NameTaken { .. } => Code::AlreadyExists,
        Refusal::Full { .. } | Refusal::TooMuchInside { .. } => Code::ResourceExhausted,
        Refusal::Nameless(_) | Refusal::DescriptionNotText(_) => Code::InvalidArgument,
        Refusal::Foreign(_)
        | Refusal::NotAPlayer(_)
        | Refusal::NotARoom(_)
        | Refusal::ContainerCycle { .. }
        | Refusal::ContainersTooDeep { .. }
        | Refusal::NotEmpty { .. }
        | Refusal::Itself(_)
        | Refusal::NoSuchExit { .. }
        | Refusal::NotInInventory { .. }
        | Refusal::NotCarried { .. }
        | Refusal::NotInSlot { .. }
        | Refusal::AlreadyEquipped { .. }
        | Refusal::SlotTaken { .. }
        | Refusal::PositionTaken { .. } => Code::FailedPrecondition,
    }
}

fn of_conflict(conflict: Conflict, message: String) -> Status {
    match conflict {
        Conflict::WrongExpectedSequence { aggregate, expected, actual } => with_reason(
            Code::Aborted,
            message,
            "WRONG_EXPECTED_SEQUENCE",
            [
                ("aggregate_id", aggregate.to_string()),
                ("expected", expected.to_string()),
                ("actual", actual.to_string()),
            ],
        ),
        Conflict::EventIdReused(id) => {
            with_reason(Code::AlreadyExists, message, "EVENT_ID_REUSED", [("event_id", id.to_string())])
        }
    }
}

/// Returns the status of an append with an event id that is already stored, for a client that may
/// load the stored event.
pub(super) fn event_id_reused_at(id: EventId, aggregate: &AggregateId, position: Position) -> Status {
    let message = Conflict::EventIdReused(id).to_string();
    let facts = [
        ("event_id", id.to_string()),
        ("aggregate_id", aggregate.to_string()),
        ("position", position.0.to_string()),
    ];
    with_reason(Code::AlreadyExists, message, "EVENT_ID_REUSED", facts)
}

fn of_precondition(precondition: &FailedPrecondition, message: String) -> Status {
    let facts = match precondition {
        FailedPrecondition::SnapshotAhead { aggregate, snapshot, last } => vec![
            ("aggregate_id", aggregate.to_string()),
            ("sequence_number", snapshot.to_string()),
            ("last_sequence", last.to_string()),
        ],
        FailedPrecondition::EventSourcingDisabled { file } => {
            vec![("file", file.display().to_string()), ("key", "event_sourcing.enabled".to_owned())]
        }
        FailedPrecondition::Fenced
        | FailedPrecondition::LocalLogFailed
        | FailedPrecondition::HistoryChanged(_) => Vec::new(),
    };
    with_reason(Code::FailedPrecondition, message, precondition.reason(), facts)
}

fn of_no_proof(why: &NoProof, message: String) -> Status {
    let (code, facts): (Code, Vec<(&'static str, u64)>) = match why {
        NoProof::TreeBuilding { size, of } => (Code::Unavailable, vec![("done", *size), ("of", *of)]),
        NoProof::Failed { .. } => (Code::Unavailable, Vec::new()),
        NoProof::NoEvent => (Code::NotFound, Vec::new()),
        NoProof::TooFewEvents { size, events } => {
            (Code::NotFound, vec![("size", *size), ("events", *events)])
        }
        NoProof::NoCheckpoint { size } => (Code::NotFound, vec![("size", *size)]),
        NoProof::NoKey { .. } | NoProof::Disabled => (Code::FailedPrecondition, Vec::new()),
        NoProof::NotVerified { position, verified } => {
            (Code::FailedPrecondition, vec![("position", *position), ("verified_size", *verified)])
        }
    };
    let facts = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact.to_string()));
    let mut details = ErrorDetails::with_error_info(why.reason(), DOMAIN, facts.collect::<HashMap<_, _>>());
    if code == Code::Unavailable {
        details.set_retry_info(Some(UNAVAILABLE_RETRY));
    }
    Status::with_error_details(code, message, details)
}

fn full(limit: Limit, max: u64, retry_after: Duration, message: String) -> Status {
    let facts = HashMap::from([("limit".to_owned(), limit.to_string()), ("max".to_owned(), max.to_string())]);
    let mut details = ErrorDetails::with_error_info(limit.reason(), DOMAIN, facts);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn unavailable(why: Unavailable, message: String) -> Status {
    let (message, facts) = match (why, progress::current()) {
        (Unavailable::Starting, Some(work)) => starting(&work),
        _ => (message, HashMap::new()),
    };
    let mut details = ErrorDetails::with_error_info(why.reason(), DOMAIN, facts);
    details.set_retry_info(Some(UNAVAILABLE_RETRY));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// Returns the message and the facts about a start that takes long, including how far it is.
fn starting(work: &Work) -> (String, HashMap<String, String>) {
    let Work { what, unit, done, of } = work;
    let percent = work.percent();
    let message =
        format!("the service is starting: {what}, {percent}% ({done} of {of} {unit}); nothing was written");
    let facts = [("work", (*what).to_owned()), ("unit", (*unit).to_owned())];
    let numbers = [("percent", percent), ("done", *done), ("of", *of)];
    let numbers = numbers.map(|(name, number)| (name, number.to_string()));
    (message, facts.into_iter().chain(numbers).map(|(name, fact)| (name.to_owned(), fact)).collect())
}

fn with_reason(
    code: Code,
    message: String,
    reason: &str,
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    in_domain(DOMAIN, code, message, reason, facts)
}

fn of_world(
    code: Code,
    message: String,
    reason: &str,
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    in_domain(WORLD_DOMAIN, code, message, reason, facts)
}

fn in_domain(
    domain: &str,
    code: Code,
    message: String,
    reason: &str,
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    let facts: HashMap<String, String> =
        facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, domain, facts))
}

#[cfg(test)]
mod tests;
