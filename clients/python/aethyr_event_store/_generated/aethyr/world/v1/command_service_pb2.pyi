from aethyr_event_store._generated.aethyr.eventstore.v1 import event_pb2 as _event_pb2
from aethyr_event_store._generated.aethyr.world.v1 import commands_pb2 as _commands_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommandEvent(_message.Message):
    __slots__ = ["aggregate_id", "event_id", "event_type", "position", "sequence_number"]
    AGGREGATE_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    aggregate_id: str
    event_id: str
    event_type: str
    position: int
    sequence_number: int
    def __init__(self, event_id: _Optional[str] = ..., aggregate_id: _Optional[str] = ..., event_type: _Optional[str] = ..., sequence_number: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class CommandResult(_message.Message):
    __slots__ = ["already_executed", "command_id", "events", "exits_to_room", "players_in_room"]
    ALREADY_EXECUTED_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EXITS_TO_ROOM_FIELD_NUMBER: _ClassVar[int]
    PLAYERS_IN_ROOM_FIELD_NUMBER: _ClassVar[int]
    already_executed: bool
    command_id: str
    events: _containers.RepeatedCompositeFieldContainer[CommandEvent]
    exits_to_room: _containers.RepeatedCompositeFieldContainer[ExitToDeletedRoom]
    players_in_room: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, command_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[CommandEvent, _Mapping]]] = ..., already_executed: bool = ..., exits_to_room: _Optional[_Iterable[_Union[ExitToDeletedRoom, _Mapping]]] = ..., players_in_room: _Optional[_Iterable[str]] = ...) -> None: ...

class ExecuteCommandsRequest(_message.Message):
    __slots__ = ["commands", "expected_sequences"]
    class ExpectedSequencesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[_commands_pb2.Command]
    expected_sequences: _containers.ScalarMap[str, int]
    def __init__(self, commands: _Optional[_Iterable[_Union[_commands_pb2.Command, _Mapping]]] = ..., expected_sequences: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ExecuteCommandsResponse(_message.Message):
    __slots__ = ["immudb_tx", "results", "stored_in"]
    IMMUDB_TX_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    STORED_IN_FIELD_NUMBER: _ClassVar[int]
    immudb_tx: int
    results: _containers.RepeatedCompositeFieldContainer[CommandResult]
    stored_in: _event_pb2.StoredIn
    def __init__(self, results: _Optional[_Iterable[_Union[CommandResult, _Mapping]]] = ..., stored_in: _Optional[_Union[_event_pb2.StoredIn, str]] = ..., immudb_tx: _Optional[int] = ...) -> None: ...

class ExitToDeletedRoom(_message.Message):
    __slots__ = ["direction", "room_id"]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    direction: str
    room_id: str
    def __init__(self, room_id: _Optional[str] = ..., direction: _Optional[str] = ...) -> None: ...
