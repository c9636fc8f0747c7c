from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AddItemToInventory(_message.Message):
    __slots__ = ["id", "item_id", "position"]
    ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    id: str
    item_id: str
    position: _struct_pb2.Value
    def __init__(self, id: _Optional[str] = ..., item_id: _Optional[str] = ..., position: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class AddRoomExit(_message.Message):
    __slots__ = ["direction", "id", "target_room_id"]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    direction: str
    id: str
    target_room_id: str
    def __init__(self, id: _Optional[str] = ..., direction: _Optional[str] = ..., target_room_id: _Optional[str] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ["actor", "add_item_to_inventory", "add_room_exit", "command_id", "correlation_id", "create_game_object", "create_player", "create_room", "delete_game_object", "equip_item", "expected_sequence", "expected_sequences", "remove_game_object_attribute", "remove_item_from_inventory", "remove_room_exit", "unequip_item", "update_game_object_attribute", "update_game_object_attributes", "update_game_object_container", "update_player_admin_status", "update_player_password", "update_room_description"]
    class ExpectedSequencesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ADD_ITEM_TO_INVENTORY_FIELD_NUMBER: _ClassVar[int]
    ADD_ROOM_EXIT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_GAME_OBJECT_FIELD_NUMBER: _ClassVar[int]
    CREATE_PLAYER_FIELD_NUMBER: _ClassVar[int]
    CREATE_ROOM_FIELD_NUMBER: _ClassVar[int]
    DELETE_GAME_OBJECT_FIELD_NUMBER: _ClassVar[int]
    EQUIP_ITEM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_GAME_OBJECT_ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ITEM_FROM_INVENTORY_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ROOM_EXIT_FIELD_NUMBER: _ClassVar[int]
    UNEQUIP_ITEM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_GAME_OBJECT_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_GAME_OBJECT_ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_GAME_OBJECT_CONTAINER_FIELD_NUMBER: _ClassVar[int]
    UPDATE_PLAYER_ADMIN_STATUS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_PLAYER_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ROOM_DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    actor: str
    add_item_to_inventory: AddItemToInventory
    add_room_exit: AddRoomExit
    command_id: str
    correlation_id: str
    create_game_object: CreateGameObject
    create_player: CreatePlayer
    create_room: CreateRoom
    delete_game_object: DeleteGameObject
    equip_item: EquipItem
    expected_sequence: int
    expected_sequences: _containers.ScalarMap[str, int]
    remove_game_object_attribute: RemoveGameObjectAttribute
    remove_item_from_inventory: RemoveItemFromInventory
    remove_room_exit: RemoveRoomExit
    unequip_item: UnequipItem
    update_game_object_attribute: UpdateGameObjectAttribute
    update_game_object_attributes: UpdateGameObjectAttributes
    update_game_object_container: UpdateGameObjectContainer
    update_player_admin_status: UpdatePlayerAdminStatus
    update_player_password: UpdatePlayerPassword
    update_room_description: UpdateRoomDescription
    def __init__(self, command_id: _Optional[str] = ..., actor: _Optional[str] = ..., correlation_id: _Optional[str] = ..., expected_sequence: _Optional[int] = ..., expected_sequences: _Optional[_Mapping[str, int]] = ..., create_game_object: _Optional[_Union[CreateGameObject, _Mapping]] = ..., update_game_object_attribute: _Optional[_Union[UpdateGameObjectAttribute, _Mapping]] = ..., update_game_object_attributes: _Optional[_Union[UpdateGameObjectAttributes, _Mapping]] = ..., update_game_object_container: _Optional[_Union[UpdateGameObjectContainer, _Mapping]] = ..., delete_game_object: _Optional[_Union[DeleteGameObject, _Mapping]] = ..., create_player: _Optional[_Union[CreatePlayer, _Mapping]] = ..., update_player_password: _Optional[_Union[UpdatePlayerPassword, _Mapping]] = ..., update_player_admin_status: _Optional[_Union[UpdatePlayerAdminStatus, _Mapping]] = ..., create_room: _Optional[_Union[CreateRoom, _Mapping]] = ..., update_room_description: _Optional[_Union[UpdateRoomDescription, _Mapping]] = ..., add_room_exit: _Optional[_Union[AddRoomExit, _Mapping]] = ..., remove_room_exit: _Optional[_Union[RemoveRoomExit, _Mapping]] = ..., add_item_to_inventory: _Optional[_Union[AddItemToInventory, _Mapping]] = ..., remove_item_from_inventory: _Optional[_Union[RemoveItemFromInventory, _Mapping]] = ..., equip_item: _Optional[_Union[EquipItem, _Mapping]] = ..., unequip_item: _Optional[_Union[UnequipItem, _Mapping]] = ..., remove_game_object_attribute: _Optional[_Union[RemoveGameObjectAttribute, _Mapping]] = ...) -> None: ...

class CreateGameObject(_message.Message):
    __slots__ = ["attributes", "container_id", "generic", "id", "name", "type"]
    class AttributesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    GENERIC_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    attributes: _containers.MessageMap[str, _struct_pb2.Value]
    container_id: str
    generic: str
    id: str
    name: str
    type: str
    def __init__(self, id: _Optional[str] = ..., type: _Optional[str] = ..., name: _Optional[str] = ..., generic: _Optional[str] = ..., container_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, _struct_pb2.Value]] = ...) -> None: ...

class CreatePlayer(_message.Message):
    __slots__ = ["id", "name", "password_hash"]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_HASH_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    password_hash: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., password_hash: _Optional[str] = ...) -> None: ...

class CreateRoom(_message.Message):
    __slots__ = ["description", "id", "name"]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    description: str
    id: str
    name: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class DeleteGameObject(_message.Message):
    __slots__ = ["contents", "id"]
    class Contents(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = []
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LEAVE: DeleteGameObject.Contents
    MOVE_TO_CONTAINER: DeleteGameObject.Contents
    REFUSE_IF_ANY: DeleteGameObject.Contents
    contents: DeleteGameObject.Contents
    id: str
    def __init__(self, id: _Optional[str] = ..., contents: _Optional[_Union[DeleteGameObject.Contents, str]] = ...) -> None: ...

class EquipItem(_message.Message):
    __slots__ = ["id", "item_id", "slot"]
    ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    id: str
    item_id: str
    slot: str
    def __init__(self, id: _Optional[str] = ..., item_id: _Optional[str] = ..., slot: _Optional[str] = ...) -> None: ...

class RemoveGameObjectAttribute(_message.Message):
    __slots__ = ["id", "key"]
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    key: str
    def __init__(self, id: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class RemoveItemFromInventory(_message.Message):
    __slots__ = ["id", "item_id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    item_id: str
    def __init__(self, id: _Optional[str] = ..., item_id: _Optional[str] = ...) -> None: ...

class RemoveRoomExit(_message.Message):
    __slots__ = ["direction", "id"]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    direction: str
    id: str
    def __init__(self, id: _Optional[str] = ..., direction: _Optional[str] = ...) -> None: ...

class UnequipItem(_message.Message):
    __slots__ = ["id", "item_id", "slot"]
    ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    id: str
    item_id: str
    slot: str
    def __init__(self, id: _Optional[str] = ..., item_id: _Optional[str] = ..., slot: _Optional[str] = ...) -> None: ...

class UpdateGameObjectAttribute(_message.Message):
    __slots__ = ["id", "key", "value"]
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    id: str
    key: str
    value: _struct_pb2.Value
    def __init__(self, id: _Optional[str] = ..., key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class UpdateGameObjectAttributes(_message.Message):
    __slots__ = ["attributes", "id"]
    class AttributesEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    attributes: _containers.MessageMap[str, _struct_pb2.Value]
    id: str
    def __init__(self, id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, _struct_pb2.Value]] = ...) -> None: ...

class UpdateGameObjectContainer(_message.Message):
    __slots__ = ["container_id", "id"]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    id: str
    def __init__(self, id: _Optional[str] = ..., container_id: _Optional[str] = ...) -> None: ...

class UpdatePlayerAdminStatus(_message.Message):
    __slots__ = ["admin", "id"]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    admin: bool
    id: str
    def __init__(self, id: _Optional[str] = ..., admin: bool = ...) -> None: ...

class UpdatePlayerPassword(_message.Message):
    __slots__ = ["id", "password_hash"]
    ID_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_HASH_FIELD_NUMBER: _ClassVar[int]
    id: str
    password_hash: str
    def __init__(self, id: _Optional[str] = ..., password_hash: _Optional[str] = ...) -> None: ...

class UpdateRoomDescription(_message.Message):
    __slots__ = ["description", "id"]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    description: str
    id: str
    def __init__(self, id: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...
