from aethyr_event_store._generated.aethyr.world.v1 import objects_pb2 as _objects_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
REBUILD_STEP_COMPARING: RebuildStep
REBUILD_STEP_PROJECTING: RebuildStep
REBUILD_STEP_REPLAYING: RebuildStep
REBUILD_STEP_SWAPPING: RebuildStep
REBUILD_STEP_UNSPECIFIED: RebuildStep

class DiffWorldRequest(_message.Message):
    __slots__ = ["id_prefixes", "since", "until"]
    ID_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    id_prefixes: _containers.RepeatedScalarFieldContainer[str]
    since: _objects_pb2.Moment
    until: _objects_pb2.Moment
    def __init__(self, since: _Optional[_Union[_objects_pb2.Moment, _Mapping]] = ..., until: _Optional[_Union[_objects_pb2.Moment, _Mapping]] = ..., id_prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class DiffWorldResponse(_message.Message):
    __slots__ = ["objects"]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectDiff]
    def __init__(self, objects: _Optional[_Iterable[_Union[ObjectDiff, _Mapping]]] = ...) -> None: ...

class FindPlayerRequest(_message.Message):
    __slots__ = ["id_prefixes", "name"]
    ID_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id_prefixes: _containers.RepeatedScalarFieldContainer[str]
    name: str
    def __init__(self, name: _Optional[str] = ..., id_prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class FindPlayerResponse(_message.Message):
    __slots__ = ["players", "read_model_position"]
    PLAYERS_FIELD_NUMBER: _ClassVar[int]
    READ_MODEL_POSITION_FIELD_NUMBER: _ClassVar[int]
    players: _containers.RepeatedCompositeFieldContainer[FoundPlayer]
    read_model_position: int
    def __init__(self, players: _Optional[_Iterable[_Union[FoundPlayer, _Mapping]]] = ..., read_model_position: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ["aggregate_id", "problem", "sequence_number"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    problem: str
    sequence_number: int
    def __init__(self, aggregate_id: _Optional[str] = ..., sequence_number: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class FoundPlayer(_message.Message):
    __slots__ = ["admin", "container_id", "id", "name"]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    admin: bool
    container_id: str
    id: str
    name: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., admin: bool = ..., container_id: _Optional[str] = ...) -> None: ...

class GetGameObjectRequest(_message.Message):
    __slots__ = ["as_of", "id"]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    as_of: _objects_pb2.Moment
    id: str
    def __init__(self, id: _Optional[str] = ..., as_of: _Optional[_Union[_objects_pb2.Moment, _Mapping]] = ...) -> None: ...

class GetGameObjectResponse(_message.Message):
    __slots__ = ["game_object"]
    GAME_OBJECT_FIELD_NUMBER: _ClassVar[int]
    game_object: _objects_pb2.GameObject
    def __init__(self, game_object: _Optional[_Union[_objects_pb2.GameObject, _Mapping]] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ["from_sequence", "id", "to_sequence"]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    from_sequence: int
    id: str
    to_sequence: int
    def __init__(self, id: _Optional[str] = ..., from_sequence: _Optional[int] = ..., to_sequence: _Optional[int] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ["entries"]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ...) -> None: ...

class GetPlayerRequest(_message.Message):
    __slots__ = ["as_of", "id"]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    as_of: _objects_pb2.Moment
    id: str
    def __init__(self, id: _Optional[str] = ..., as_of: _Optional[_Union[_objects_pb2.Moment, _Mapping]] = ...) -> None: ...

class GetPlayerResponse(_message.Message):
    __slots__ = ["player"]
    PLAYER_FIELD_NUMBER: _ClassVar[int]
    player: _objects_pb2.Player
    def __init__(self, player: _Optional[_Union[_objects_pb2.Player, _Mapping]] = ...) -> None: ...

class GetRoomRequest(_message.Message):
    __slots__ = ["as_of", "id"]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    as_of: _objects_pb2.Moment
    id: str
    def __init__(self, id: _Optional[str] = ..., as_of: _Optional[_Union[_objects_pb2.Moment, _Mapping]] = ...) -> None: ...

class GetRoomResponse(_message.Message):
    __slots__ = ["room"]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    room: _objects_pb2.Room
    def __init__(self, room: _Optional[_Union[_objects_pb2.Room, _Mapping]] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ["actor", "causation_id", "changes", "correlation_id", "event_id", "event_type", "passed_over", "position", "recorded_at", "recorded_by", "sequence_number"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    PASSED_OVER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    RECORDED_BY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    actor: str
    causation_id: str
    changes: _containers.RepeatedCompositeFieldContainer[_objects_pb2.Change]
    correlation_id: str
    event_id: str
    event_type: str
    passed_over: bool
    position: int
    recorded_at: _timestamp_pb2.Timestamp
    recorded_by: str
    sequence_number: int
    def __init__(self, event_id: _Optional[str] = ..., event_type: _Optional[str] = ..., sequence_number: _Optional[int] = ..., position: _Optional[int] = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., causation_id: _Optional[str] = ..., correlation_id: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[_objects_pb2.Change, _Mapping]]] = ..., passed_over: bool = ..., recorded_by: _Optional[str] = ...) -> None: ...

class ListContentsRequest(_message.Message):
    __slots__ = ["container_id", "page_size", "page_token", "recursive"]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    page_size: int
    page_token: str
    recursive: bool
    def __init__(self, container_id: _Optional[str] = ..., recursive: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListContentsResponse(_message.Message):
    __slots__ = ["game_objects", "next_page_token", "read_model_position"]
    GAME_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    READ_MODEL_POSITION_FIELD_NUMBER: _ClassVar[int]
    game_objects: _containers.RepeatedCompositeFieldContainer[ListedObject]
    next_page_token: str
    read_model_position: int
    def __init__(self, game_objects: _Optional[_Iterable[_Union[ListedObject, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., read_model_position: _Optional[int] = ...) -> None: ...

class ListGameObjectsRequest(_message.Message):
    __slots__ = ["attribute_key", "attribute_value", "container_id", "generic", "id_prefixes", "name", "page_size", "page_token", "type"]
    ATTRIBUTE_KEY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    GENERIC_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    attribute_key: str
    attribute_value: _struct_pb2.Value
    container_id: str
    generic: str
    id_prefixes: _containers.RepeatedScalarFieldContainer[str]
    name: str
    page_size: int
    page_token: str
    type: str
    def __init__(self, type: _Optional[str] = ..., generic: _Optional[str] = ..., container_id: _Optional[str] = ..., name: _Optional[str] = ..., attribute_key: _Optional[str] = ..., attribute_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., id_prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class ListGameObjectsResponse(_message.Message):
    __slots__ = ["game_objects", "next_page_token", "read_model_position"]
    GAME_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    READ_MODEL_POSITION_FIELD_NUMBER: _ClassVar[int]
    game_objects: _containers.RepeatedCompositeFieldContainer[ListedObject]
    next_page_token: str
    read_model_position: int
    def __init__(self, game_objects: _Optional[_Iterable[_Union[ListedObject, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., read_model_position: _Optional[int] = ...) -> None: ...

class ListedObject(_message.Message):
    __slots__ = ["aggregate_type", "attributes", "container_id", "depth", "generic", "id", "name", "type"]
    class AttributesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    GENERIC_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    aggregate_type: str
    attributes: _containers.MessageMap[str, _struct_pb2.Value]
    container_id: str
    depth: int
    generic: str
    id: str
    name: str
    type: str
    def __init__(self, id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., type: _Optional[str] = ..., name: _Optional[str] = ..., generic: _Optional[str] = ..., container_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, _struct_pb2.Value]] = ..., depth: _Optional[int] = ...) -> None: ...

class ObjectDiff(_message.Message):
    __slots__ = ["aggregate_type", "changes", "created", "deleted", "id", "problem", "since_sequence", "until_sequence"]
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    SINCE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    aggregate_type: str
    changes: _containers.RepeatedCompositeFieldContainer[_objects_pb2.Change]
    created: bool
    deleted: bool
    id: str
    problem: str
    since_sequence: int
    until_sequence: int
    def __init__(self, id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., created: bool = ..., deleted: bool = ..., changes: _Optional[_Iterable[_Union[_objects_pb2.Change, _Mapping]]] = ..., since_sequence: _Optional[int] = ..., until_sequence: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class RebuildProgress(_message.Message):
    __slots__ = ["done", "step", "total"]
    DONE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    step: RebuildStep
    total: int
    def __init__(self, step: _Optional[_Union[RebuildStep, str]] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class RebuildReport(_message.Message):
    __slots__ = ["aggregates", "damaged", "damaged_total", "differences", "events", "read_model_position", "repaired", "repaired_total", "seconds", "warnings", "warnings_total"]
    class DifferencesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    AGGREGATES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    READ_MODEL_POSITION_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    aggregates: int
    damaged: _containers.RepeatedCompositeFieldContainer[Finding]
    damaged_total: int
    differences: _containers.ScalarMap[str, int]
    events: int
    read_model_position: int
    repaired: _containers.RepeatedCompositeFieldContainer[Finding]
    repaired_total: int
    seconds: float
    warnings: _containers.RepeatedCompositeFieldContainer[Finding]
    warnings_total: int
    def __init__(self, aggregates: _Optional[int] = ..., events: _Optional[int] = ..., damaged_total: _Optional[int] = ..., damaged: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., warnings_total: _Optional[int] = ..., warnings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., differences: _Optional[_Mapping[str, int]] = ..., read_model_position: _Optional[int] = ..., seconds: _Optional[float] = ..., repaired_total: _Optional[int] = ..., repaired: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class RebuildWorldStateRequest(_message.Message):
    __slots__ = ["actor", "repair"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    actor: str
    repair: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, repair: _Optional[_Iterable[str]] = ..., actor: _Optional[str] = ...) -> None: ...

class RebuildWorldStateResponse(_message.Message):
    __slots__ = ["progress", "report"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    progress: RebuildProgress
    report: RebuildReport
    def __init__(self, progress: _Optional[_Union[RebuildProgress, _Mapping]] = ..., report: _Optional[_Union[RebuildReport, _Mapping]] = ...) -> None: ...

class RebuildStep(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
