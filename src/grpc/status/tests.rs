//! Tests of the statuses that errors and refusals become.

use super::*;
use crate::{error::Unreadable, event::SequenceNumber};

#[test]
fn every_error_has_the_code_and_the_reason_of_the_contract() {
    let room = AggregateId::new("room-1").unwrap();
    let (one, two) = (SequenceNumber(1), SequenceNumber(2));
    let full = |limit| StoreError::Full { limit, max: 1, share: None, retry_after: Duration::from_secs(1) };
    let conflict = Conflict::WrongExpectedSequence { aggregate: room.clone(), expected: one, actual: two };
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
fn only_a_client_that_may_load_is_told_where_an_event_id_is_stored() {
    let (id, aggregate) = (EventId::random(), AggregateId::new("room-1").unwrap());
    let facts = |status: &Status| {
        let facts = status.get_error_details().error_info().unwrap().metadata.clone();
        facts.into_iter().collect::<std::collections::BTreeMap<_, _>>()
    };
    let (plain, place) =
        (of_error(Conflict::EventIdReused(id).into()), event_id_reused_at(id, &aggregate, Position(7)));
    assert_eq!((plain.code(), plain.message()), (place.code(), place.message()));
    let (plain, place) = (facts(&plain), facts(&place));
    assert_eq!(plain.keys().collect::<Vec<_>>(), ["event_id"]);
    assert_eq!((place["aggregate_id"].as_str(), place["position"].as_str()), ("room-1", "7"));
    assert_eq!(place["event_id"], plain["event_id"]);
}

#[test]
fn violations_name_field_and_problem() {
    let status = of_violations(Violations(vec![("events".into(), "must not be empty".into())]));
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "events: must not be empty"));
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "events");
}

#[test]
fn every_refusal_has_the_code_and_the_reason_of_the_contract() {
    let scope = Scope {
        prefixes: Some(vec!["arena-".to_owned(), "player-".to_owned()]),
        aggregate_types: Some(["Room".to_owned()].into()),
    };
    let table = [
        (no_credentials(), Code::Unauthenticated, "NO_CREDENTIALS", ""),
        (bad_credentials(), Code::Unauthenticated, "BAD_CREDENTIALS", ""),
        (not_allowed(Right::Load), Code::PermissionDenied, "NOT_ALLOWED", "right=load"),
        (
            out_of_scope(Right::Append, &scope),
            Code::PermissionDenied,
            "NOT_ALLOWED",
            "aggregate_types=Room prefixes=arena-,player- right=append",
        ),
        (
            out_of_scope(Right::Ask, &Scope { aggregate_types: None, ..scope.clone() }),
            Code::PermissionDenied,
            "NOT_ALLOWED",
            "prefixes=arena-,player- right=ask",
        ),
        (
            value_not_allowed(Right::Append, "events[0].actor".to_owned()),
            Code::PermissionDenied,
            "NOT_ALLOWED",
            "field=events[0].actor right=append",
        ),
        (
            share_used_up("limits.streams_open_max", 500, Duration::from_secs(3)),
            Code::ResourceExhausted,
            "SHARE",
            "limit=limits.streams_open_max max=500",
        ),
    ];
    for (status, code, reason, facts) in table {
        assert_eq!(status.code(), code, "{reason}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, ACCESS_DOMAIN));
        let mut found: Vec<String> =
            info.metadata.iter().map(|(name, fact)| format!("{name}={fact}")).collect();
        found.sort();
        assert_eq!(found.join(" "), facts);
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        assert_eq!(retry, (reason == "SHARE").then_some(Duration::from_secs(3)), "{reason}");
        let (found, right) = refused_reason(&status).unwrap();
        assert_eq!((found.as_str(), right.is_some()), (reason, facts.contains("right=")));
    }
}

#[test]
fn refusals_are_counted_with_the_others() {
    let calls = |reason| {
        let recorded = refusals::recorded();
        recorded.iter().find(|row| row.reason == reason).map_or(0, |row| row.calls)
    };
    let before = [calls("NO_CREDENTIALS"), calls("BAD_CREDENTIALS"), calls(NOT_ALLOWED)];
    drop((no_credentials(), bad_credentials(), not_allowed(Right::Stats)));
    let after = [calls("NO_CREDENTIALS"), calls("BAD_CREDENTIALS"), calls(NOT_ALLOWED)];
    assert!(before.iter().zip(after).all(|(before, after)| after > *before), "{before:?} {after:?}");
}

#[test]
fn other_statuses_are_no_refusals_of_this_kind() {
    for status in [shutting_down(), deadline_exceeded(), abandoned(), of_violations(Violations(Vec::new()))] {
        assert_eq!(refused_reason(&status), None);
        assert_eq!(cause(&status), None);
    }
}

#[test]
fn the_cause_of_a_refusal_is_the_scope_the_field_or_the_limit() {
    let scope = Scope { prefixes: Some(vec!["arena-".to_owned()]), aggregate_types: None };
    let field = "events[0].event_type".to_owned();
    for (status, expected) in [
        (not_allowed(Right::Append), None),
        (out_of_scope(Right::Append, &scope), Some("scope")),
        (value_not_allowed(Right::Append, field), Some("events[0].event_type")),
        (share_used_up("appends_per_second", 9, Duration::from_secs(1)), Some("appends_per_second")),
        (no_credentials(), None),
    ] {
        assert_eq!(cause(&status).as_deref(), expected, "{status:?}");
    }
}
