//! Reads what a status says of a refusal.

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

use super::ACCESS_DOMAIN;

/// Returns the reason of a refusal that depends on who calls, and the right that the caller lacks.
/// Returns `None` for all other statuses.
pub(in crate::grpc) fn refused_reason(status: &Status) -> Option<(String, Option<String>)> {
    let codes = [Code::Unauthenticated, Code::PermissionDenied, Code::ResourceExhausted];
    if !codes.contains(&status.code()) {
        return None;
    }
    let info = status.get_details_error_info().filter(|info| info.domain == ACCESS_DOMAIN)?;
    Some(reason_of(info))
}

/// Returns the reason of an error, and the right that the caller lacks, if the status has them.
pub(in crate::grpc) fn reason(status: &Status) -> Option<(String, Option<String>)> {
    status.get_details_error_info().map(reason_of)
}

fn reason_of(mut info: ErrorInfo) -> (String, Option<String>) {
    let right = info.metadata.remove("right").filter(|_| info.domain == ACCESS_DOMAIN);
    (info.reason, right)
}

/// Returns what the status says of the cause, beside reason and right: the limit, the field, or
/// that it was the scope.
pub(in crate::grpc) fn cause(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == ACCESS_DOMAIN)?;
    let is_scope = ["prefixes", "aggregate_types"].iter().any(|name| info.metadata.contains_key(*name));
    let field = info.metadata.remove("limit").or_else(|| info.metadata.remove("field"));
    field.or_else(|| is_scope.then(|| "scope".to_owned()))
}
