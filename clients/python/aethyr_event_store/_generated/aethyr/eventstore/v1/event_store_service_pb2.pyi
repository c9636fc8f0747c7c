from aethyr_event_store._generated.aethyr.eventstore.v1 import event_pb2 as _event_pb2
from aethyr_event_store._generated.aethyr.eventstore.v1 import stats_pb2 as _stats_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Aggregate(_message.Message):
    __slots__ = ["aggregate_id", "aggregate_type", "last_sequence", "snapshot_sequence"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    aggregate_type: str
    last_sequence: int
    snapshot_sequence: int
    def __init__(self, aggregate_id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., last_sequence: _Optional[int] = ..., snapshot_sequence: _Optional[int] = ...) -> None: ...

class AppendEventsRequest(_message.Message):
    __slots__ = ["events", "expected_sequences"]
    class ExpectedSequencesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.NewEvent]
    expected_sequences: _containers.ScalarMap[str, int]
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.NewEvent, _Mapping]]] = ..., expected_sequences: _Optional[_Mapping[str, int]] = ...) -> None: ...

class AppendEventsResponse(_message.Message):
    __slots__ = ["aggregates", "already_stored", "event_ids", "first_position", "immudb_tx", "last_position", "stored_in"]
    AGGREGATES_FIELD_NUMBER: _ClassVar[int]
    ALREADY_STORED_FIELD_NUMBER: _ClassVar[int]
    EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    IMMUDB_TX_FIELD_NUMBER: _ClassVar[int]
    LAST_POSITION_FIELD_NUMBER: _ClassVar[int]
    STORED_IN_FIELD_NUMBER: _ClassVar[int]
    aggregates: _containers.RepeatedCompositeFieldContainer[AppendedAggregate]
    already_stored: bool
    event_ids: _containers.RepeatedScalarFieldContainer[str]
    first_position: int
    immudb_tx: int
    last_position: int
    stored_in: _event_pb2.StoredIn
    def __init__(self, aggregates: _Optional[_Iterable[_Union[AppendedAggregate, _Mapping]]] = ..., event_ids: _Optional[_Iterable[str]] = ..., first_position: _Optional[int] = ..., last_position: _Optional[int] = ..., stored_in: _Optional[_Union[_event_pb2.StoredIn, str]] = ..., immudb_tx: _Optional[int] = ..., already_stored: bool = ...) -> None: ...

class AppendedAggregate(_message.Message):
    __slots__ = ["aggregate_id", "first_sequence", "last_sequence", "snapshot_due"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DUE_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    first_sequence: int
    last_sequence: int
    snapshot_due: bool
    def __init__(self, aggregate_id: _Optional[str] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., snapshot_due: bool = ...) -> None: ...

class CaughtUp(_message.Message):
    __slots__ = ["checkpoint"]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _event_pb2.Checkpoint
    def __init__(self, checkpoint: _Optional[_Union[_event_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class Contradiction(_message.Message):
    __slots__ = ["aggregate_id", "expected", "found", "place", "position", "sequence_number"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    expected: str
    found: str
    place: str
    position: int
    sequence_number: int
    def __init__(self, position: _Optional[int] = ..., aggregate_id: _Optional[str] = ..., sequence_number: _Optional[int] = ..., place: _Optional[str] = ..., expected: _Optional[str] = ..., found: _Optional[str] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ["events"]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.RecordedEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.RecordedEvent, _Mapping]]] = ...) -> None: ...

class GetCheckpointRequest(_message.Message):
    __slots__ = ["size"]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class GetCheckpointResponse(_message.Message):
    __slots__ = ["anchored", "checkpoint", "made_at", "size", "verifier_key"]
    ANCHORED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    MADE_AT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_KEY_FIELD_NUMBER: _ClassVar[int]
    anchored: bool
    checkpoint: str
    made_at: _timestamp_pb2.Timestamp
    size: int
    verifier_key: str
    def __init__(self, checkpoint: _Optional[str] = ..., size: _Optional[int] = ..., made_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., anchored: bool = ..., verifier_key: _Optional[str] = ...) -> None: ...

class GetConsistencyRequest(_message.Message):
    __slots__ = ["from_size", "to_size"]
    FROM_SIZE_FIELD_NUMBER: _ClassVar[int]
    TO_SIZE_FIELD_NUMBER: _ClassVar[int]
    from_size: int
    to_size: int
    def __init__(self, from_size: _Optional[int] = ..., to_size: _Optional[int] = ...) -> None: ...

class GetConsistencyResponse(_message.Message):
    __slots__ = ["from_root", "hashes", "to_root", "to_size"]
    FROM_ROOT_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    TO_ROOT_FIELD_NUMBER: _ClassVar[int]
    TO_SIZE_FIELD_NUMBER: _ClassVar[int]
    from_root: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    to_root: bytes
    to_size: int
    def __init__(self, hashes: _Optional[_Iterable[bytes]] = ..., from_root: _Optional[bytes] = ..., to_size: _Optional[int] = ..., to_root: _Optional[bytes] = ...) -> None: ...

class GetProofRequest(_message.Message):
    __slots__ = ["aggregate_id", "event_id", "sequence_number", "without_record"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_RECORD_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    event_id: str
    sequence_number: int
    without_record: bool
    def __init__(self, aggregate_id: _Optional[str] = ..., sequence_number: _Optional[int] = ..., event_id: _Optional[str] = ..., without_record: bool = ...) -> None: ...

class GetProofResponse(_message.Message):
    __slots__ = ["anchored", "checkpoint_size", "position", "redacted", "tlog_proof"]
    ANCHORED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SIZE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    TLOG_PROOF_FIELD_NUMBER: _ClassVar[int]
    anchored: bool
    checkpoint_size: int
    position: int
    redacted: bool
    tlog_proof: str
    def __init__(self, tlog_proof: _Optional[str] = ..., position: _Optional[int] = ..., checkpoint_size: _Optional[int] = ..., anchored: bool = ..., redacted: bool = ...) -> None: ...

class ListAggregatesRequest(_message.Message):
    __slots__ = ["aggregate_id_prefix", "aggregate_type", "page_size", "page_token", "snapshot_due"]
    AGGREGATE_ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DUE_FIELD_NUMBER: _ClassVar[int]
    aggregate_id_prefix: str
    aggregate_type: str
    page_size: int
    page_token: str
    snapshot_due: bool
    def __init__(self, aggregate_type: _Optional[str] = ..., aggregate_id_prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., snapshot_due: bool = ...) -> None: ...

class ListAggregatesResponse(_message.Message):
    __slots__ = ["aggregates", "next_page_token"]
    AGGREGATES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    aggregates: _containers.RepeatedCompositeFieldContainer[Aggregate]
    next_page_token: str
    def __init__(self, aggregates: _Optional[_Iterable[_Union[Aggregate, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class LoadEventsRequest(_message.Message):
    __slots__ = ["aggregate_id", "backwards", "from_sequence", "from_snapshot", "limit", "recorded_until", "snapshot_schema_version", "to_sequence", "verified"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    BACKWARDS_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FROM_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    backwards: bool
    from_sequence: int
    from_snapshot: bool
    limit: int
    recorded_until: _timestamp_pb2.Timestamp
    snapshot_schema_version: int
    to_sequence: int
    verified: bool
    def __init__(self, aggregate_id: _Optional[str] = ..., from_sequence: _Optional[int] = ..., to_sequence: _Optional[int] = ..., recorded_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., from_snapshot: bool = ..., snapshot_schema_version: _Optional[int] = ..., backwards: bool = ..., limit: _Optional[int] = ..., verified: bool = ...) -> None: ...

class LoadEventsResponse(_message.Message):
    __slots__ = ["aggregate_type", "events", "last_sequence", "snapshot"]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    aggregate_type: str
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.RecordedEvent]
    last_sequence: int
    snapshot: _event_pb2.Snapshot
    def __init__(self, snapshot: _Optional[_Union[_event_pb2.Snapshot, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_event_pb2.RecordedEvent, _Mapping]]] = ..., last_sequence: _Optional[int] = ..., aggregate_type: _Optional[str] = ...) -> None: ...

class LoadManyEventsRequest(_message.Message):
    __slots__ = ["aggregate_ids", "from_snapshot", "recorded_until", "snapshot_schema_version"]
    AGGREGATE_IDS_FIELD_NUMBER: _ClassVar[int]
    FROM_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    aggregate_ids: _containers.RepeatedScalarFieldContainer[str]
    from_snapshot: bool
    recorded_until: _timestamp_pb2.Timestamp
    snapshot_schema_version: int
    def __init__(self, aggregate_ids: _Optional[_Iterable[str]] = ..., recorded_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., from_snapshot: bool = ..., snapshot_schema_version: _Optional[int] = ...) -> None: ...

class LoadManyEventsResponse(_message.Message):
    __slots__ = ["aggregate_id", "aggregate_type", "events", "last", "last_sequence", "snapshot"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    aggregate_type: str
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.RecordedEvent]
    last: bool
    last_sequence: int
    snapshot: _event_pb2.Snapshot
    def __init__(self, aggregate_id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., snapshot: _Optional[_Union[_event_pb2.Snapshot, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_event_pb2.RecordedEvent, _Mapping]]] = ..., last_sequence: _Optional[int] = ..., last: bool = ...) -> None: ...

class LoadSnapshotRequest(_message.Message):
    __slots__ = ["aggregate_id"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    def __init__(self, aggregate_id: _Optional[str] = ...) -> None: ...

class LoadSnapshotResponse(_message.Message):
    __slots__ = ["aggregate_type", "snapshot"]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    aggregate_type: str
    snapshot: _event_pb2.Snapshot
    def __init__(self, snapshot: _Optional[_Union[_event_pb2.Snapshot, _Mapping]] = ..., aggregate_type: _Optional[str] = ...) -> None: ...

class ReadAllRequest(_message.Message):
    __slots__ = ["filter", "from_position", "limit"]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FROM_POSITION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    filter: _event_pb2.Filter
    from_position: int
    limit: int
    def __init__(self, from_position: _Optional[int] = ..., limit: _Optional[int] = ..., filter: _Optional[_Union[_event_pb2.Filter, _Mapping]] = ...) -> None: ...

class ReadAllResponse(_message.Message):
    __slots__ = ["events", "last_position"]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_POSITION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.RecordedEvent]
    last_position: int
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.RecordedEvent, _Mapping]]] = ..., last_position: _Optional[int] = ...) -> None: ...

class SaveSnapshotRequest(_message.Message):
    __slots__ = ["aggregate_id", "binary", "json", "metadata", "schema_version", "sequence_number"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    binary: bytes
    json: str
    metadata: _containers.ScalarMap[str, str]
    schema_version: int
    sequence_number: int
    def __init__(self, aggregate_id: _Optional[str] = ..., sequence_number: _Optional[int] = ..., json: _Optional[str] = ..., binary: _Optional[bytes] = ..., schema_version: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SaveSnapshotResponse(_message.Message):
    __slots__ = ["stored_in"]
    STORED_IN_FIELD_NUMBER: _ClassVar[int]
    stored_in: _event_pb2.StoredIn
    def __init__(self, stored_in: _Optional[_Union[_event_pb2.StoredIn, str]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ["after", "filter"]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    after: _event_pb2.Checkpoint
    filter: _event_pb2.Filter
    def __init__(self, after: _Optional[_Union[_event_pb2.Checkpoint, _Mapping]] = ..., filter: _Optional[_Union[_event_pb2.Filter, _Mapping]] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ["caught_up", "checkpoint", "events"]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    caught_up: CaughtUp
    checkpoint: _event_pb2.Checkpoint
    events: EventBatch
    def __init__(self, events: _Optional[_Union[EventBatch, _Mapping]] = ..., caught_up: _Optional[_Union[CaughtUp, _Mapping]] = ..., checkpoint: _Optional[_Union[_event_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class VerificationProgress(_message.Message):
    __slots__ = ["events", "total"]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    events: int
    total: int
    def __init__(self, events: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class VerificationResult(_message.Message):
    __slots__ = ["contradiction_count", "contradictions", "events", "immudb_events", "immudb_problem", "immudb_transaction", "last_sequence", "tree_root", "tree_size"]
    CONTRADICTIONS_FIELD_NUMBER: _ClassVar[int]
    CONTRADICTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    IMMUDB_EVENTS_FIELD_NUMBER: _ClassVar[int]
    IMMUDB_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    IMMUDB_TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TREE_ROOT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    contradiction_count: int
    contradictions: _containers.RepeatedCompositeFieldContainer[Contradiction]
    events: int
    immudb_events: int
    immudb_problem: str
    immudb_transaction: int
    last_sequence: int
    tree_root: bytes
    tree_size: int
    def __init__(self, events: _Optional[int] = ..., immudb_events: _Optional[int] = ..., last_sequence: _Optional[int] = ..., tree_size: _Optional[int] = ..., tree_root: _Optional[bytes] = ..., immudb_transaction: _Optional[int] = ..., contradictions: _Optional[_Iterable[_Union[Contradiction, _Mapping]]] = ..., contradiction_count: _Optional[int] = ..., immudb_problem: _Optional[str] = ...) -> None: ...

class VerifyAggregateRequest(_message.Message):
    __slots__ = ["aggregate_id"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    def __init__(self, aggregate_id: _Optional[str] = ...) -> None: ...

class VerifyAggregateResponse(_message.Message):
    __slots__ = ["progress", "result"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: VerificationProgress
    result: VerificationResult
    def __init__(self, progress: _Optional[_Union[VerificationProgress, _Mapping]] = ..., result: _Optional[_Union[VerificationResult, _Mapping]] = ...) -> None: ...

class VerifyAllRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class VerifyAllResponse(_message.Message):
    __slots__ = ["progress", "result"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: VerificationProgress
    result: VerificationResult
    def __init__(self, progress: _Optional[_Union[VerificationProgress, _Mapping]] = ..., result: _Optional[_Union[VerificationResult, _Mapping]] = ...) -> None: ...
