//! Every ImmuDB error that a client has to distinguish, in the wording of the server, with the
//! verdict that it must lead to.

use prost_types::Any;

use super::*;

struct Row {
    code: Code,
    message: &'static str,
    /// ImmuDB's own code and cause, if it sends them.
    info: (&'static str, &'static str),
    verdict: Verdict,
}

const fn row(code: Code, message: &'static str, verdict: Verdict) -> Row {
    Row { code, message, info: ("", ""), verdict }
}

const fn told(
    code: Code,
    message: &'static str,
    info: (&'static str, &'static str),
    verdict: Verdict,
) -> Row {
    Row { code, message, info, verdict }
}

const BCRYPT: &str = "crypto/bcrypt: hashedPassword is not the hash of the given password";

const TRANSIENT: [Row; 20] = [
    row(Code::Unavailable, "", Failed(Unreachable, Possible)),
    row(Code::DeadlineExceeded, "context deadline exceeded", Failed(Unreachable, Possible)),
    row(Code::Cancelled, "context canceled", Failed(Unreachable, Possible)),
    row(Code::Unknown, "context deadline exceeded", Failed(Unreachable, Possible)),
    row(Code::Unknown, "max concurrency limit exceeded", Failed(Busy, Possible)),
    row(Code::Unknown, "max active transactions limit exceeded", Failed(Busy, Possible)),
    row(Code::Unknown, "watchers: max waiting limit exceeded", Failed(Busy, Possible)),
    row(Code::Unknown, "read tx pool exhausted", Failed(Busy, Possible)),
    row(Code::Unknown, "tbtree: max active snapshots limit reached", Failed(Busy, Possible)),
    row(Code::Unknown, "write stalling", Failed(Busy, Possible)),
    row(Code::Unknown, "multiapp: already closed", Failed(Busy, Possible)),
    row(Code::Unknown, "already closed", Failed(Busy, Possible)),
    told(Code::Unknown, "tx read conflict", ("25P02", "tx read conflict"), Failed(Busy, Possible)),
    row(Code::ResourceExhausted, "too many requests", Failed(Busy, Possible)),
    told(
        Code::Internal,
        "can not create new session: max sessions number reached",
        ("XX000", ""),
        Failed(Busy, Possible),
    ),
    row(Code::Unknown, "no new transactions", Failed(Busy, Possible)),
    row(Code::Unknown, "write data/val_0: no space left on device", Failed(Busy, Possible)),
    row(Code::Unknown, "open data/tx/0000.tx: permission denied", Failed(Busy, Possible)),
    row(Code::Unknown, "something that nobody has heard of", Failed(Busy, Possible)),
    told(
        Code::Unknown,
        "invalid user name or password",
        ("08004", "multiapp: already closed"),
        Failed(Busy, Excluded),
    ),
];

const CONFLICT: [Row; 3] = [
    told(
        Code::FailedPrecondition,
        "precondition failed: KeyMustExist",
        ("23000", "precondition failed: KeyMustExist"),
        Conflict,
    ),
    row(Code::FailedPrecondition, "precondition failed: KeyNotModifiedAfterTxID", Conflict),
    row(Code::FailedPrecondition, "something else", Failed(Busy, Possible)),
];

const PERMANENT: [Row; 22] = [
    told(Code::InvalidArgument, "illegal arguments", ("22023", ""), Failed(Rejected, Excluded)),
    row(Code::InvalidArgument, "empty set", Failed(Rejected, Excluded)),
    row(
        Code::InvalidArgument,
        "duplicated keys are not supported in single batch transaction",
        Failed(Rejected, Excluded),
    ),
    row(Code::Unknown, "max key length exceeded", Failed(TooLarge, Excluded)),
    row(Code::Unknown, "max value length exceeded", Failed(TooLarge, Excluded)),
    row(Code::Unknown, "max number of entries per tx exceeded", Failed(TooLarge, Excluded)),
    row(Code::Unknown, "no entries provided", Failed(Rejected, Excluded)),
    row(Code::Unknown, "invalid precondition: invalid transaction ID", Failed(Rejected, Excluded)),
    row(
        Code::Unknown,
        "illegal arguments: SinceTx must not be greater than the current transaction ID",
        Failed(Rejected, Possible),
    ),
    row(
        Code::Unknown,
        "result size limit exceeded: the specified limit (9) is larger than the maximum",
        Failed(Rejected, Possible),
    ),
    row(Code::Unknown, "invalid key revision number", Failed(Rejected, Possible)),
    row(
        Code::ResourceExhausted,
        "grpc: received message larger than max (33554433 vs. 33554432)",
        Failed(TooLarge, Excluded),
    ),
    // Sent by proxies.
    row(Code::ResourceExhausted, "Received message larger than max (9 vs. 8)", Failed(TooLarge, Possible)),
    row(Code::ResourceExhausted, "gRPC message exceeds maximum size 8: 9", Failed(TooLarge, Possible)),
    row(
        Code::ResourceExhausted,
        "Received message exceeds the maximum configured message size.",
        Failed(TooLarge, Possible),
    ),
    row(
        Code::Unknown,
        "grpc-status header missing, mapped from HTTP status code 413",
        Failed(TooLarge, Possible),
    ),
    row(Code::Internal, "Payload Too Large", Failed(TooLarge, Possible)),
    row(Code::ResourceExhausted, "too many requests", Failed(Busy, Possible)),
    row(
        Code::OutOfRange,
        "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
        Failed(TooLarge, Possible),
    ),
    row(Code::Unimplemented, "unknown method Set", Failed(Rejected, Excluded)),
    row(Code::Unknown, "tbtree: key not found", NotFound),
    row(Code::Unknown, "tx not found", NotFound),
];

const SESSION: [Row; 8] = [
    told(
        Code::PermissionDenied,
        "session not found",
        ("08001", "session not found"),
        Failed(SessionExpired, Excluded),
    ),
    told(
        Code::InvalidArgument,
        "no session found",
        ("22023", "no session found"),
        Failed(SessionExpired, Excluded),
    ),
    told(Code::Unknown, "not logged in", ("28000", "not logged in"), Failed(SessionExpired, Excluded)),
    row(Code::Unknown, "no sessionID provided", Failed(SessionExpired, Excluded)),
    row(Code::Unknown, "invalid token", Failed(SessionExpired, Excluded)),
    row(Code::PermissionDenied, "token has expired", Failed(SessionExpired, Excluded)),
    row(Code::Unknown, "please select a database first", Failed(SessionExpired, Excluded)),
    row(Code::Unknown, "tbtree: key not found: expired entry", NotFound),
];

const CONFIGURATION: [Row; 17] = [
    told(Code::Unknown, "invalid user name or password", ("08004", BCRYPT), Failed(Configuration, Excluded)),
    told(
        Code::Unknown,
        "invalid user name or password",
        ("08004", "tbtree: key not found"),
        Failed(Configuration, Excluded),
    ),
    row(Code::Unknown, "invalid user name or password", Failed(Configuration, Excluded)),
    row(Code::Unknown, "user is not active", Failed(Configuration, Excluded)),
    told(
        Code::Internal,
        "permission denied",
        ("XX000", "permission denied"),
        Failed(Configuration, Excluded),
    ),
    row(
        Code::PermissionDenied,
        "Logged in user does not have permission on this database",
        Failed(Configuration, Excluded),
    ),
    row(
        Code::Unknown,
        "loggedin user does not have permissions for this operation",
        Failed(Configuration, Excluded),
    ),
    told(
        Code::Unknown,
        "server is running with authentication disabled, please enable authentication to login",
        ("08P01", ""),
        Failed(Configuration, Excluded),
    ),
    row(Code::Unauthenticated, "", Failed(Configuration, Excluded)),
    row(Code::Unknown, "database does not exist", Failed(Configuration, Excluded)),
    told(Code::NotFound, "'aethyr' does not exist", ("3F000", ""), Failed(Configuration, Excluded)),
    row(Code::Unknown, "database is read-only because it's a replica", Failed(Configuration, Excluded)),
    row(Code::InvalidArgument, "operation not allowed in maintenance mode", Failed(Configuration, Excluded)),
    row(Code::Unknown, "database is reserved", Failed(Configuration, Excluded)),
    row(
        Code::Unknown,
        "punctuation marks and symbols are not allowed in database name",
        Failed(Configuration, Excluded),
    ),
    row(Code::Unknown, "database name length outside of limits", Failed(Configuration, Excluded)),
    row(
        Code::PermissionDenied,
        "server has authentication disabled: only local connections are accepted",
        Failed(Configuration, Excluded),
    ),
];

const ALARM: [Row; 8] = [
    row(Code::DataLoss, "the data is corrupted: possible tampering", Failed(Corrupted, Possible)),
    row(Code::Unknown, "data is corrupted", Failed(Corrupted, Possible)),
    row(Code::Unknown, "tx data is corrupted: ALH mismatch at tx 7", Failed(Corrupted, Possible)),
    row(Code::Unknown, "corrupted index: index size is too large", Failed(Corrupted, Possible)),
    row(Code::Unknown, "EOF", Failed(Corrupted, Possible)),
    row(
        Code::Unknown,
        "internal inconsistency between linear and binary linking",
        Failed(Corrupted, Possible),
    ),
    told(Code::InvalidArgument, "illegal state", ("22023", "illegal state"), Failed(Corrupted, Possible)),
    row(Code::Internal, "possible tampering", Failed(Corrupted, Possible)),
];

fn status(row: &Row) -> Status {
    let (code, cause) = row.info;
    let info = ErrorInfo { code: code.into(), cause: cause.into() };
    let details = tonic_types::pb::Status {
        code: row.code.into(),
        message: row.message.into(),
        details: vec![
            Any { type_url: "type.googleapis.com/immudb.schema.RetryInfo".into(), value: vec![] },
            Any {
                type_url: "type.googleapis.com/immudb.schema.ErrorInfo".into(),
                value: info.encode_to_vec(),
            },
        ],
    };
    match row.info {
        ("", "") => Status::new(row.code, row.message),
        _ => Status::with_details(row.code, row.message, details.encode_to_vec().into()),
    }
}

#[test]
fn every_error_is_judged_by_its_code_its_text_and_its_details() {
    let tables: [&[Row]; 6] = [&TRANSIENT, &CONFLICT, &PERMANENT, &SESSION, &CONFIGURATION, &ALARM];
    for row in tables.into_iter().flatten() {
        let failure = FailedCall::from_status("Set", &status(row));
        assert_eq!(failure.verdict, row.verdict, "{} {:?}", row.code, row.message);
        assert_eq!(failure.message, row.message);
    }
}

#[test]
fn only_a_conflict_and_what_precedes_the_commit_is_certainly_not_written() {
    let failed =
        |code, message: &str| SetError::from(FailedCall::from_status("Set", &Status::new(code, message)));
    assert_eq!(failed(Code::FailedPrecondition, "precondition failed: X"), SetError::Conflict);
    let error = failed(Code::PermissionDenied, "session not found");
    assert!(matches!(error, SetError::NotWritten(_)), "{error}");
    for (code, message) in [
        (Code::Unknown, "max concurrency limit exceeded"),
        (Code::Unknown, "tx read conflict"),
        (Code::Unknown, "tbtree: key not found"),
        (Code::Unavailable, "connection reset"),
        (Code::Internal, ""),
    ] {
        let error = failed(code, message);
        assert!(matches!(error, SetError::Unknown(_)), "{error}");
    }
}

#[test]
fn a_refused_connection_is_told_from_a_broken_one() {
    let failure = |kind| {
        let status = Status::from_error(Box::new(io::Error::from(kind)));
        FailedCall::from_status("Set", &status).verdict
    };
    assert_eq!(failure(io::ErrorKind::ConnectionRefused), Failed(Refused, Excluded));
    assert_eq!(failure(io::ErrorKind::ConnectionReset), Failed(Unreachable, Possible));
}

#[test]
fn a_long_message_is_cut() {
    let status = Status::unknown("ü".repeat(10_000));
    let error = Error::from(FailedCall::from_status("Get", &status));
    assert_eq!(error.message.chars().count(), MESSAGE_CHARS_MAX + 1);
}

#[test]
fn a_failure_of_tls_is_named_and_says_nothing_of_a_write() {
    let of_tls = |error: rustls::Error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        FailedCall::from_status("Set", &Status::from_error(Box::new(error)))
    };
    let unknown = of_tls(rustls::CertificateError::UnknownIssuer.into());
    assert_eq!(
        (unknown.verdict, unknown.message.as_str()),
        (Failed(Configuration, Possible), "certificate: unknown issuer")
    );
    // Of an alert that arrives after the handshake, only the text is left.
    let text = rustls::Error::AlertReceived(rustls::AlertDescription::BadCertificate).to_string();
    let status = Status::from_error(Box::new(io::Error::other(text)));
    assert_eq!(FailedCall::from_status("Set", &status).verdict, Failed(Configuration, Possible));
}
