from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
STATE_CONNECTED: State
STATE_COPYING: State
STATE_FALLBACK: State
STATE_FENCED: State
STATE_LOCAL_ONLY: State
STATE_MIGRATING: State
STATE_SUSPECT: State
STATE_TAMPERED: State
STATE_UNSPECIFIED: State

class AnchorStats(_message.Message):
    __slots__ = ["failures", "kind", "last_error", "reached_at", "size", "target"]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    REACHED_AT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    failures: int
    kind: str
    last_error: str
    reached_at: _timestamp_pb2.Timestamp
    size: int
    target: str
    def __init__(self, kind: _Optional[str] = ..., target: _Optional[str] = ..., size: _Optional[int] = ..., reached_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., failures: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class AuditStats(_message.Message):
    __slots__ = ["events_checked", "finished_at", "last_error", "last_transaction", "round", "started_at", "transaction"]
    EVENTS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    events_checked: int
    finished_at: _timestamp_pb2.Timestamp
    last_error: str
    last_transaction: int
    round: int
    started_at: _timestamp_pb2.Timestamp
    transaction: int
    def __init__(self, round: _Optional[int] = ..., transaction: _Optional[int] = ..., last_transaction: _Optional[int] = ..., events_checked: _Optional[int] = ..., started_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., finished_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_error: _Optional[str] = ...) -> None: ...

class IdentityUse(_message.Message):
    __slots__ = ["bytes", "calls", "connections", "name", "stored_bytes", "stored_types", "streams", "waiting_writes"]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_TYPES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    WAITING_WRITES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    calls: int
    connections: int
    name: str
    stored_bytes: int
    stored_types: int
    streams: int
    waiting_writes: int
    def __init__(self, name: _Optional[str] = ..., calls: _Optional[int] = ..., streams: _Optional[int] = ..., bytes: _Optional[int] = ..., waiting_writes: _Optional[int] = ..., connections: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., stored_types: _Optional[int] = ...) -> None: ...

class ImmudbStats(_message.Message):
    __slots__ = ["address", "configured", "database", "last_error", "last_tx", "reachable"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    DATABASE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_TX_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    address: str
    configured: bool
    database: str
    last_error: str
    last_tx: int
    reachable: bool
    def __init__(self, configured: bool = ..., reachable: bool = ..., address: _Optional[str] = ..., database: _Optional[str] = ..., last_tx: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class ProjectionStats(_message.Message):
    __slots__ = ["lag", "name", "position", "problem"]
    LAG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    lag: int
    name: str
    position: int
    problem: str
    def __init__(self, name: _Optional[str] = ..., position: _Optional[int] = ..., lag: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class RefusalStats(_message.Message):
    __slots__ = ["calls", "last", "message", "reason", "since"]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    calls: int
    last: _timestamp_pb2.Timestamp
    message: str
    reason: str
    since: _timestamp_pb2.Timestamp
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., calls: _Optional[int] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ["aggregate_count", "aggregate_types", "anchors", "audit", "checkpoint_at", "checkpoint_problem", "checkpoint_size", "clock_difference_seconds", "event_count", "event_files_pending", "event_types", "events_loaded", "events_stored", "fallbacks", "forwarded_position", "identities", "immudb", "last_position", "load_failures", "migrated_events", "open_findings", "pending_events", "pending_snapshots", "projections", "reads_refused", "recorded_ahead_seconds", "refusals", "retries", "snapshot_count", "snapshots_loaded", "snapshots_stored", "started_at", "state", "store_failures", "tls_valid_until", "tree_size", "trusted_hash", "trusted_transaction", "version", "writes_refused"]
    class AggregateTypesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class EventTypesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    AGGREGATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPES_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_AT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SIZE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_DIFFERENCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LOADED_FIELD_NUMBER: _ClassVar[int]
    EVENTS_STORED_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FILES_PENDING_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPES_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_POSITION_FIELD_NUMBER: _ClassVar[int]
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    IMMUDB_FIELD_NUMBER: _ClassVar[int]
    LAST_POSITION_FIELD_NUMBER: _ClassVar[int]
    LOAD_FAILURES_FIELD_NUMBER: _ClassVar[int]
    MIGRATED_EVENTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FINDINGS_FIELD_NUMBER: _ClassVar[int]
    PENDING_EVENTS_FIELD_NUMBER: _ClassVar[int]
    PENDING_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    PROJECTIONS_FIELD_NUMBER: _ClassVar[int]
    READS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AHEAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_LOADED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_STORED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COUNT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STORE_FAILURES_FIELD_NUMBER: _ClassVar[int]
    TLS_VALID_UNTIL_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_HASH_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WRITES_REFUSED_FIELD_NUMBER: _ClassVar[int]
    aggregate_count: int
    aggregate_types: _containers.ScalarMap[str, int]
    anchors: _containers.RepeatedCompositeFieldContainer[AnchorStats]
    audit: AuditStats
    checkpoint_at: _timestamp_pb2.Timestamp
    checkpoint_problem: str
    checkpoint_size: int
    clock_difference_seconds: float
    event_count: int
    event_files_pending: int
    event_types: _containers.ScalarMap[str, int]
    events_loaded: int
    events_stored: int
    fallbacks: int
    forwarded_position: int
    identities: _containers.RepeatedCompositeFieldContainer[IdentityUse]
    immudb: ImmudbStats
    last_position: int
    load_failures: int
    migrated_events: int
    open_findings: int
    pending_events: int
    pending_snapshots: int
    projections: _containers.RepeatedCompositeFieldContainer[ProjectionStats]
    reads_refused: str
    recorded_ahead_seconds: float
    refusals: _containers.RepeatedCompositeFieldContainer[RefusalStats]
    retries: int
    snapshot_count: int
    snapshots_loaded: int
    snapshots_stored: int
    started_at: _timestamp_pb2.Timestamp
    state: State
    store_failures: int
    tls_valid_until: _timestamp_pb2.Timestamp
    tree_size: int
    trusted_hash: bytes
    trusted_transaction: int
    version: str
    writes_refused: str
    def __init__(self, state: _Optional[_Union[State, str]] = ..., event_count: _Optional[int] = ..., aggregate_count: _Optional[int] = ..., snapshot_count: _Optional[int] = ..., event_types: _Optional[_Mapping[str, int]] = ..., aggregate_types: _Optional[_Mapping[str, int]] = ..., last_position: _Optional[int] = ..., forwarded_position: _Optional[int] = ..., pending_events: _Optional[int] = ..., pending_snapshots: _Optional[int] = ..., event_files_pending: _Optional[int] = ..., events_stored: _Optional[int] = ..., events_loaded: _Optional[int] = ..., snapshots_stored: _Optional[int] = ..., snapshots_loaded: _Optional[int] = ..., store_failures: _Optional[int] = ..., load_failures: _Optional[int] = ..., retries: _Optional[int] = ..., fallbacks: _Optional[int] = ..., migrated_events: _Optional[int] = ..., immudb: _Optional[_Union[ImmudbStats, _Mapping]] = ..., started_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., projections: _Optional[_Iterable[_Union[ProjectionStats, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[RefusalStats, _Mapping]]] = ..., writes_refused: _Optional[str] = ..., reads_refused: _Optional[str] = ..., clock_difference_seconds: _Optional[float] = ..., recorded_ahead_seconds: _Optional[float] = ..., trusted_transaction: _Optional[int] = ..., trusted_hash: _Optional[bytes] = ..., open_findings: _Optional[int] = ..., tree_size: _Optional[int] = ..., checkpoint_size: _Optional[int] = ..., checkpoint_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., anchors: _Optional[_Iterable[_Union[AnchorStats, _Mapping]]] = ..., audit: _Optional[_Union[AuditStats, _Mapping]] = ..., checkpoint_problem: _Optional[str] = ..., tls_valid_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., identities: _Optional[_Iterable[_Union[IdentityUse, _Mapping]]] = ...) -> None: ...

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
