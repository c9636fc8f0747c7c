"""The messages of the API, as generated from its protos."""

from ._generated.aethyr.eventstore.v1 import event_pb2 as events
from ._generated.aethyr.eventstore.v1 import event_store_service_pb2 as store
from ._generated.aethyr.eventstore.v1 import stats_pb2 as stats
from ._generated.aethyr.world.v1 import command_service_pb2 as execution
from ._generated.aethyr.world.v1 import commands_pb2 as commands
from ._generated.aethyr.world.v1 import objects_pb2 as objects
from ._generated.aethyr.world.v1 import world_service_pb2 as world

__all__ = ["commands", "events", "execution", "objects", "stats", "store", "world"]
