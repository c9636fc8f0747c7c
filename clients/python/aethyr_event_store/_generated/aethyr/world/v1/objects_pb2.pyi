from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Change(_message.Message):
    __slots__ = ["after", "before", "field"]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    after: _struct_pb2.Value
    before: _struct_pb2.Value
    field: str
    def __init__(self, field: _Optional[str] = ..., before: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., after: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class GameObject(_message.Message):
    __slots__ = ["aggregate_type", "attributes", "container_id", "created_at", "deleted", "equipment", "generic", "id", "inventory", "name", "sequence_number", "type", "updated_at"]
    class AttributesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    class EquipmentEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGGREGATE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    EQUIPMENT_FIELD_NUMBER: _ClassVar[int]
    GENERIC_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    aggregate_type: str
    attributes: _containers.MessageMap[str, _struct_pb2.Value]
    container_id: str
    created_at: _timestamp_pb2.Timestamp
    deleted: bool
    equipment: _containers.ScalarMap[str, str]
    generic: str
    id: str
    inventory: _containers.RepeatedCompositeFieldContainer[InventoryItem]
    name: str
    sequence_number: int
    type: str
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., aggregate_type: _Optional[str] = ..., type: _Optional[str] = ..., name: _Optional[str] = ..., generic: _Optional[str] = ..., container_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, _struct_pb2.Value]] = ..., inventory: _Optional[_Iterable[_Union[InventoryItem, _Mapping]]] = ..., equipment: _Optional[_Mapping[str, str]] = ..., deleted: bool = ..., sequence_number: _Optional[int] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class InventoryItem(_message.Message):
    __slots__ = ["item_id", "position"]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    position: _struct_pb2.Value
    def __init__(self, item_id: _Optional[str] = ..., position: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class Moment(_message.Message):
    __slots__ = ["position", "sequence_number", "time"]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    position: int
    sequence_number: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, sequence_number: _Optional[int] = ..., position: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Player(_message.Message):
    __slots__ = ["admin", "object", "password_hash", "redacted"]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_HASH_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    admin: bool
    object: GameObject
    password_hash: str
    redacted: bool
    def __init__(self, object: _Optional[_Union[GameObject, _Mapping]] = ..., password_hash: _Optional[str] = ..., admin: bool = ..., redacted: bool = ...) -> None: ...

class Room(_message.Message):
    __slots__ = ["description", "exits", "object"]
    class ExitsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    description: str
    exits: _containers.ScalarMap[str, str]
    object: GameObject
    def __init__(self, object: _Optional[_Union[GameObject, _Mapping]] = ..., description: _Optional[str] = ..., exits: _Optional[_Mapping[str, str]] = ...) -> None: ...
