//! Converts errors to gRPC statuses. This is the only place that does so.
//!
//! The message of a status is meant for people, its details for programs. Rejections caused by the
//! service are also recorded here.

use std::{collections::HashMap, time::Duration};

use tokio::task::JoinError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::violations::Violations;
use crate::{
    error::{Conflict, FailedPrecondition, Limit, NoProof, StoreError, Unavailable},
    progress::{self, Work},
    shared_limit::LimitReached,
    world::{
        error::{AggregateDamage, InvalidRawAppend, WorldError},
        rules::refusal::Refusal,
    },
};

const DOMAIN: &str = "aethyr.eventstore";
const WORLD_DOMAIN: &str = "aethyr.world";

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
pub(super) fn limit_reached(LimitReached { limit, max, share }: LimitReached) -> StoreError {
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    StoreError::Full { limit, max, share, retry_after: RETRY_AFTER }
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

pub(super) fn of_world_error(error: WorldError) -> Status {
    let message = error.to_string();
    let place = |command: usize| ("command", command.to_string());
    match error {
        WorldError::Store(error) => of_error(error),
        WorldError::Refused { command, refusal } => {
            let mut facts = vec![("id", refusal.id().to_string())];
            facts.extend(command.map(place));
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
        Refusal::Exists(_) => Code::AlreadyExists,
        Refusal::Full { .. } | Refusal::TooMuchInside { .. } => Code::ResourceExhausted,
        Refusal::Nameless(_) => Code::InvalidArgument,
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
mod tests {
    use super::*;
    use crate::{
        error::Unreadable,
        event::{AggregateId, EventId, SequenceNumber},
    };

    #[test]
    fn every_error_has_the_code_and_the_reason_of_the_contract() {
        let room = AggregateId::new("room-1").unwrap();
        let (one, two) = (SequenceNumber(1), SequenceNumber(2));
        let full =
            |limit| StoreError::Full { limit, max: 1, share: None, retry_after: Duration::from_secs(1) };
        let conflict =
            Conflict::WrongExpectedSequence { aggregate: room.clone(), expected: one, actual: two };
        let ahead = FailedPrecondition::SnapshotAhead { aggregate: room.clone(), snapshot: two, last: one };
        let disabled = FailedPrecondition::EventSourcingDisabled { file: "conf/server.yml".into() };
        let unverified = NoProof::NotVerified { position: 2, verified: 1 };
        let table: Vec<(StoreError, Code, &str)> = vec![
            (conflict.into(), Code::Aborted, "WRONG_EXPECTED_SEQUENCE"),
            (Conflict::EventIdReused(EventId::random()).into(), Code::AlreadyExists, "EVENT_ID_REUSED"),
            (StoreError::NoSnapshot(room), Code::NotFound, "NO_SNAPSHOT"),
            (ahead.into(), Code::FailedPrecondition, "SNAPSHOT_AHEAD"),
            (disabled.into(), Code::FailedPrecondition, "EVENT_SOURCING_DISABLED"),
            (FailedPrecondition::Fenced.into(), Code::FailedPrecondition, "FENCED"),
            (FailedPrecondition::LocalLogFailed.into(), Code::FailedPrecondition, "LOCAL_LOG_FAILED"),
            (FailedPrecondition::HistoryChanged("x").into(), Code::FailedPrecondition, "HISTORY_CHANGED"),
            (full(Limit::CallsWaiting), Code::ResourceExhausted, "CALLS_WAITING"),
            (full(Limit::CallsWaitingBytes), Code::ResourceExhausted, "CALLS_WAITING_BYTES"),
            (full(Limit::PendingEvents), Code::ResourceExhausted, "PENDING_EVENTS"),
            (full(Limit::PendingBytes), Code::ResourceExhausted, "PENDING_BYTES"),
            (full(Limit::DiskFull), Code::ResourceExhausted, "DISK_FULL"),
            (full(Limit::StreamsOpen), Code::ResourceExhausted, "STREAMS_OPEN"),
            (full(Limit::ConcurrentCalls), Code::ResourceExhausted, "CONCURRENT_CALLS"),
            (full(Limit::CallBytes), Code::ResourceExhausted, "CALL_BYTES"),
            (full(Limit::Verifications), Code::ResourceExhausted, "VERIFYING"),
            (NoProof::TreeBuilding { size: 1, of: 2 }.into(), Code::Unavailable, "TREE"),
            (NoProof::Failed { reason: "x".into() }.into(), Code::Unavailable, "TREE"),
            (NoProof::NoEvent.into(), Code::NotFound, "NO_EVENT"),
            (NoProof::TooFewEvents { size: 2, events: 1 }.into(), Code::NotFound, "NO_EVENT"),
            (NoProof::NoCheckpoint { size: 0 }.into(), Code::NotFound, "NO_CHECKPOINT"),
            (NoProof::NoKey { reason: "x".into() }.into(), Code::FailedPrecondition, "NO_KEY"),
            (NoProof::Disabled.into(), Code::FailedPrecondition, "PROOFS_DISABLED"),
            (unverified.into(), Code::FailedPrecondition, "NOT_VERIFIED"),
            (StoreError::Unavailable(Unavailable::Starting), Code::Unavailable, "STARTING"),
            (StoreError::Unavailable(Unavailable::ShuttingDown), Code::Unavailable, "SHUTTING_DOWN"),
            (StoreError::Unavailable(Unavailable::FirstContact), Code::Unavailable, "FIRST_CONTACT"),
            (StoreError::Unavailable(Unavailable::EmptyLog), Code::Unavailable, "EMPTY_LOG"),
            (StoreError::Unavailable(Unavailable::Clock), Code::Unavailable, "CLOCK"),
            (StoreError::Unavailable(Unavailable::NotWritten), Code::Unavailable, "NOT_WRITTEN"),
            (StoreError::OutcomeUnknown, Code::Unknown, "OUTCOME_UNKNOWN"),
            (Unreadable::EventMissing.into(), Code::DataLoss, "DAMAGED"),
            (StoreError::Internal("a read"), Code::Internal, "INTERNAL"),
        ];
        for (error, code, reason) in table {
            let status = of_error(error);
            assert_eq!(status.code(), code, "{reason}");
            let details = status.get_error_details();
            let info = details.error_info().unwrap_or_else(|| panic!("{reason}: no ErrorInfo"));
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, DOMAIN));
            let waits = matches!(code, Code::ResourceExhausted | Code::Unavailable);
            assert_eq!(details.retry_info().is_some(), waits, "{reason}");
        }
    }

    #[test]
    fn a_start_says_how_far_it_is() {
        let work = Work { what: "updating the index", unit: "bytes", done: 512, of: 2048 };
        let (message, facts) = starting(&work);
        assert!(message.contains("updating the index, 25% (512 of 2048 bytes)"), "{message}");
        assert_eq!((facts["percent"].as_str(), facts["done"].as_str()), ("25", "512"));
    }

    #[test]
    fn a_conflict_says_what_it_missed() {
        let aggregate = AggregateId::new("room-1").unwrap();
        let (expected, actual) = (SequenceNumber(0), SequenceNumber(1));
        let status = of_error(Conflict::WrongExpectedSequence { aggregate, expected, actual }.into());
        assert_eq!(status.message(), "room-1: expected sequence number 0, actual 1");
    }

    #[test]
    fn violations_name_field_and_problem() {
        let status = of_violations(Violations(vec![("events".into(), "must not be empty".into())]));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "events: must not be empty"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "events");
    }
}
