from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
STORED_IN_IMMUDB: StoredIn
STORED_IN_LOCAL_LOG: StoredIn
STORED_IN_UNSPECIFIED: StoredIn

class Checkpoint(_message.Message):
    __slots__ = ["chain_hash", "position"]
    CHAIN_HASH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    chain_hash: bytes
    position: int
    def __init__(self, position: _Optional[int] = ..., chain_hash: _Optional[bytes] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ["aggregate_id_prefix", "aggregate_id_prefixes", "aggregate_types", "correlation_id", "event_types", "recorded_from", "recorded_until"]
    AGGREGATE_ID_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPES_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPES_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FROM_FIELD_NUMBER: _ClassVar[int]
    RECORDED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    aggregate_id_prefix: str
    aggregate_id_prefixes: _containers.RepeatedScalarFieldContainer[str]
    aggregate_types: _containers.RepeatedScalarFieldContainer[str]
    correlation_id: str
    event_types: _containers.RepeatedScalarFieldContainer[str]
    recorded_from: _timestamp_pb2.Timestamp
    recorded_until: _timestamp_pb2.Timestamp
    def __init__(self, aggregate_types: _Optional[_Iterable[str]] = ..., event_types: _Optional[_Iterable[str]] = ..., aggregate_id_prefix: _Optional[str] = ..., correlation_id: _Optional[str] = ..., recorded_from: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., recorded_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., aggregate_id_prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class NewEvent(_message.Message):
    __slots__ = ["aggregate_id", "aggregate_type", "binary", "causation_id", "correlation_id", "event_id", "event_type", "json", "metadata", "occurred_at"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    aggregate_type: str
    binary: bytes
    causation_id: str
    correlation_id: str
    event_id: str
    event_type: str
    json: str
    metadata: _containers.ScalarMap[str, str]
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, event_id: _Optional[str] = ..., aggregate_id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., event_type: _Optional[str] = ..., json: _Optional[str] = ..., binary: _Optional[bytes] = ..., correlation_id: _Optional[str] = ..., causation_id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RecordedEvent(_message.Message):
    __slots__ = ["aggregate_id", "aggregate_type", "binary", "causation_id", "chain_hash", "correlation_id", "event_id", "event_type", "json", "metadata", "occurred_at", "position", "recorded_at", "recorded_by", "redacted", "sequence_number"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HASH_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_BY_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    aggregate_type: str
    binary: bytes
    causation_id: str
    chain_hash: bytes
    correlation_id: str
    event_id: str
    event_type: str
    json: str
    metadata: _containers.ScalarMap[str, str]
    occurred_at: _timestamp_pb2.Timestamp
    position: int
    recorded_at: _timestamp_pb2.Timestamp
    recorded_by: str
    redacted: bool
    sequence_number: int
    def __init__(self, event_id: _Optional[str] = ..., aggregate_id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., event_type: _Optional[str] = ..., json: _Optional[str] = ..., binary: _Optional[bytes] = ..., correlation_id: _Optional[str] = ..., causation_id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sequence_number: _Optional[int] = ..., position: _Optional[int] = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., chain_hash: _Optional[bytes] = ..., recorded_by: _Optional[str] = ..., redacted: bool = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ["aggregate_id", "binary", "json", "metadata", "recorded_at", "redacted", "schema_version", "sequence_number"]
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
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    binary: bytes
    json: str
    metadata: _containers.ScalarMap[str, str]
    recorded_at: _timestamp_pb2.Timestamp
    redacted: bool
    schema_version: int
    sequence_number: int
    def __init__(self, aggregate_id: _Optional[str] = ..., sequence_number: _Optional[int] = ..., json: _Optional[str] = ..., binary: _Optional[bytes] = ..., schema_version: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., redacted: bool = ...) -> None: ...

class StoredIn(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
