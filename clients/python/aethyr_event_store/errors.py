"""Typed errors. This file owns what an error of the service looks like, and what may be retried."""

from __future__ import annotations

import re
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import grpc
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

Code = grpc.StatusCode


#: What is wrong with one field.
Violation = NamedTuple("Violation", [("field", str), ("description", str)])


class AethyrError(Exception):
    """An error of the service or of the client. The base of all others."""

    #: Seconds that the service asks to wait, if it does.
    retry_after: Optional[float] = None
    _sent = True  # False if there was no connection to send the request on.

    def __init__(self, message: str, code: Any = Code.UNKNOWN, reason: str = "", domain: str = "",
                 metadata: Optional[Mapping[str, str]] = None) -> None:
        super().__init__(message)
        self.message, self.code, self.reason, self.domain = message, code, reason, domain
        self.metadata = dict(metadata or {})
        for name, default in vars(type(self)).items():  # What a subclass declares comes from the metadata.
            if name in self.metadata:
                setattr(self, name, type(default)(self.metadata[name]))

    def __str__(self) -> str:
        return f"{self.code.name}{' ' + self.reason if self.reason else ''}: {self.message}"


class WrongExpectedSequence(AethyrError):
    """Another append came first: load the aggregate and decide again."""

    aggregate_id = ""
    expected = 0
    actual = 0


class EventIdReused(AethyrError):
    """An event id is stored with other content, or as part of another append."""

    event_id = ""


class NameTaken(AethyrError):
    """Another player has the name (`world.player_names`)."""

    id = ""
    name = ""


class NotFound(AethyrError):
    """What was asked for does not exist."""


class InvalidArgument(AethyrError):
    """The request, or an option of the client, is not valid."""

    violations: Sequence[Violation] = ()


class Unauthenticated(AethyrError):
    """The service does not know the caller."""


class NotAllowed(AethyrError):
    """The caller may not do this."""

    right = ""


class HistoryChanged(AethyrError):
    """The checkpoint belongs to another history: discard what was derived from it, and begin again."""


class WorldRule(AethyrError):
    """A command or an event breaks a rule of the world."""

    rule = ""


class Damaged(AethyrError):
    """Stored data is damaged."""


class ResourceExhausted(AethyrError):
    """A limit is reached."""

    limit = ""
    max = 0


class Unavailable(AethyrError):
    """The service cannot be reached, or cannot answer now."""


class OutcomeUnknown(AethyrError):
    """The write may have been stored. The same ids tell."""


class DeadlineExceeded(AethyrError):
    """The deadline of a call with all its attempts is over. `__cause__` is the last error."""

    #: True for a write that may have been stored.
    outcome_unknown = False


def invalid(field: str, problem: str) -> InvalidArgument:
    """The error for an argument that the client refuses."""
    error = InvalidArgument(f"{field}: {problem}", Code.INVALID_ARGUMENT)
    error.violations = [Violation(field, problem)]
    return error


_BY_REASON = {
    "WRONG_EXPECTED_SEQUENCE": WrongExpectedSequence, "EVENT_ID_REUSED": EventIdReused,
    "NAME_TAKEN": NameTaken, "HISTORY_CHANGED": HistoryChanged, "OUTCOME_UNKNOWN": OutcomeUnknown}
_BY_CODE = {
    Code.NOT_FOUND: NotFound, Code.INVALID_ARGUMENT: InvalidArgument, Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: NotAllowed, Code.DATA_LOSS: Damaged, Code.UNAVAILABLE: Unavailable,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted, Code.DEADLINE_EXCEEDED: DeadlineExceeded}


# What gRPC says if it has no connection to send a request on, and not for the reason of time.
_NO_CONNECTION = re.compile(r"\A(?!.*[Tt]ime).*(to all addresses|resolution|lookup|Domain name)", re.DOTALL)


def late() -> DeadlineExceeded:
    """The error of an attempt that the client has ended."""
    return DeadlineExceeded("no answer came in time", Code.DEADLINE_EXCEEDED)


def closed() -> AethyrError:
    return AethyrError("the client is closed", Code.CANCELLED, "CLOSED")


def from_rpc(error: Any) -> AethyrError:
    """The typed error for an error of gRPC."""
    found = {kind: kind() for kind in (details.ErrorInfo, details.BadRequest, details.RetryInfo)}
    sent: Any = dict(tuple(error.trailing_metadata() or ())).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(sent).details:
        for message in found.values():
            detail.Unpack(message)
    code, info = error.code(), found[details.ErrorInfo]
    kind, metadata = _BY_REASON.get(info.reason) or _BY_CODE.get(code, AethyrError), dict(info.metadata)
    if code is Code.FAILED_PRECONDITION and info.domain == "aethyr.world":
        kind = WorldRule
        metadata.setdefault("rule", info.reason)
    typed = kind(error.details() or code.name, code, info.reason, info.domain, metadata)
    if found[details.RetryInfo].HasField("retry_delay"):
        typed.retry_after = max(0.0, found[details.RetryInfo].retry_delay.ToMicroseconds() / 1e6)
    typed._sent = not (code is Code.UNAVAILABLE and _NO_CONNECTION.search(typed.message))
    if isinstance(typed, InvalidArgument):
        violations = found[details.BadRequest].field_violations
        typed.violations = [Violation(each.field, each.description) for each in violations]
    return typed


def retryable(error: AethyrError) -> bool:
    """Whether the same request may be sent again. Its ids make that safe."""
    if error.code is Code.RESOURCE_EXHAUSTED:
        return error.retry_after is not None
    temporary = Code.UNAVAILABLE, Code.UNKNOWN, Code.CANCELLED, Code.DEADLINE_EXCEEDED
    return error.code in temporary or (error.code is Code.ABORTED and error.reason == "CONTENTION")
