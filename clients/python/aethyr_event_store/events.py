"""Events, snapshots and what a load returns. This file owns the conversion from and to messages."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

from google.protobuf.timestamp_pb2 import Timestamp

from ._generated.aethyr.eventstore.v1 import event_pb2
from .errors import invalid

#: Any JSON value, or bytes.
Data = Any
Time = Union[datetime.datetime, Timestamp, None]


class NO_DATA:
    """The data of a new event that has none. None is the JSON value null."""


@dataclasses.dataclass
class NewEvent:
    """An event to append. `event_id` is set at the first append if it is empty."""

    event_type: str
    data: Data = NO_DATA
    aggregate_id: str = ""
    aggregate_type: str = ""
    event_id: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    occurred_at: Time = None

    def to_message(self, field: str = "data") -> event_pb2.NewEvent:
        self.event_id = self.event_id or str(uuid.uuid4())
        plain = {name: value for name, value in vars(self).items() if name not in ("data", "occurred_at")}
        return event_pb2.NewEvent(
            **plain, **encode(self.data, field), occurred_at=timestamp(self.occurred_at))


@dataclasses.dataclass(frozen=True)
class Event:
    """A stored event. `message` is the message of the API, with times in nanoseconds."""

    message: event_pb2.RecordedEvent = dataclasses.field(repr=False, compare=False)
    data: Data
    metadata: Dict[str, str]
    recorded_at: Optional[datetime.datetime]
    occurred_at: Optional[datetime.datetime]
    event_id: str
    aggregate_id: str
    aggregate_type: str
    event_type: str
    sequence_number: int
    position: int
    correlation_id: str
    causation_id: str
    chain_hash: bytes
    recorded_by: str
    redacted: bool

    @classmethod
    def of(cls, message: event_pb2.RecordedEvent) -> Event:
        plain = [getattr(message, field.name) for field in dataclasses.fields(cls)[5:]]
        times = moment(message, "recorded_at"), moment(message, "occurred_at")
        return cls(message, decode(message), dict(message.metadata), *times, *plain)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The state of an aggregate after the event `sequence_number`."""

    message: event_pb2.Snapshot = dataclasses.field(repr=False, compare=False)
    aggregate_type: str
    data: Data
    metadata: Dict[str, str]
    recorded_at: Optional[datetime.datetime]
    aggregate_id: str
    sequence_number: int
    schema_version: int
    redacted: bool

    @classmethod
    def of(cls, message: event_pb2.Snapshot, aggregate_type: str) -> Snapshot:
        plain = [getattr(message, field.name) for field in dataclasses.fields(cls)[5:]]
        recorded = moment(message, "recorded_at")
        return cls(message, aggregate_type, decode(message), dict(message.metadata), recorded, *plain)


@dataclasses.dataclass
class Aggregate:
    """What a load returned: all of its pieces."""

    aggregate_id: str
    aggregate_type: str = ""
    #: Sequence number of the last event that is stored; 0 if the aggregate does not exist.
    last_sequence: int = 0
    snapshot: Optional[Snapshot] = None
    events: List[Event] = dataclasses.field(default_factory=list)

    def add(self, piece: Any) -> None:
        """Adds one message of a stream."""
        self.aggregate_type = piece.aggregate_type or self.aggregate_type
        self.last_sequence = piece.last_sequence
        if piece.HasField("snapshot"):
            self.snapshot = Snapshot.of(piece.snapshot, self.aggregate_type)
        self.events.extend(map(Event.of, piece.events))

    @property
    def reached(self) -> int:
        """Sequence number of the last event or snapshot that arrived."""
        newest = self.events[-1] if self.events else self.snapshot
        return newest.sequence_number if newest else 0


def encode(data: Data, field: str = "data") -> Dict[str, Any]:
    """The field of a message for this data. `field` is named in the error if it is no JSON value."""
    if data is NO_DATA:
        return {}
    if isinstance(data, (bytes, bytearray, memoryview)):
        return {"binary": bytes(data)}
    try:
        return {"json": json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(field, str(error)) from error


def decode(message: Union[event_pb2.RecordedEvent, event_pb2.Snapshot]) -> Data:
    """The data of a message. None if it has none."""
    kind = message.WhichOneof("data")
    return json.loads(message.json) if kind == "json" else message.binary if kind == "binary" else None


def timestamp(time: Time) -> Optional[Timestamp]:
    """A time of a message. One without a zone is local time."""
    if not isinstance(time, datetime.datetime):
        return time
    stamp = Timestamp()
    stamp.FromDatetime(time if time.tzinfo else time.astimezone())
    return stamp


def moment(message: Any, field: str) -> Optional[datetime.datetime]:
    """A time of a message, without the part below a microsecond."""
    return getattr(message, field).ToDatetime(datetime.timezone.utc) if message.HasField(field) else None


def expectations(events: Iterable[NewEvent], expect: Any) -> Dict[str, int]:
    """`expected_sequences` for `new`, `any`, a number, or a map from ids to these."""
    if not isinstance(expect, Mapping):
        ids = {event.aggregate_id for event in events}
        if len(ids) > 1 and expect != "any":
            raise invalid("expect", "has to be a map, because the events belong to several aggregates")
        expect = dict.fromkeys(ids, expect)
    for value in expect.values():
        if value not in ("new", "any") and (not isinstance(value, int) or not 0 <= value < 1 << 64):
            raise invalid("expect", f"has to be 'new', 'any' or a number from 0, not {value!r}")
    return {key: 0 if value == "new" else value for key, value in expect.items() if value != "any"}
