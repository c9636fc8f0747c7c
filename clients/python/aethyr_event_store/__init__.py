"""Client of the Aethyr Event Store, blocking and for asyncio."""

from ._core import AsyncSubscription
from .aio import AsyncClient, Filter, Folded, attributes, to_python
from .checkpoints import Checkpoint, CheckpointStore, FileCheckpoints, MemoryCheckpoints
from .client import Client, Subscription
from .errors import AethyrError, Damaged, DeadlineExceeded, EventIdReused, HistoryChanged, InvalidArgument
from .errors import NameTaken, NotAllowed, NotFound, OutcomeUnknown, ResourceExhausted, Unauthenticated
from .errors import Unavailable, Violation, WorldRule, WrongExpectedSequence
from .events import NO_DATA, Aggregate, Event, NewEvent, Snapshot
from .options import Options

__all__ = [
    "NO_DATA", "AethyrError", "Aggregate", "AsyncClient", "AsyncSubscription", "Checkpoint",
    "CheckpointStore", "Client", "Damaged", "DeadlineExceeded", "Event", "EventIdReused", "FileCheckpoints",
    "Filter", "Folded", "HistoryChanged", "InvalidArgument", "MemoryCheckpoints", "NameTaken", "NewEvent",
    "NotAllowed", "NotFound", "Options", "OutcomeUnknown", "ResourceExhausted", "Snapshot", "Subscription",
    "Unauthenticated", "Unavailable", "Violation", "WorldRule", "WrongExpectedSequence", "attributes",
    "to_python",
]
