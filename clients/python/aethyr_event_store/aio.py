"""The asyncio client. This file owns what each call does; `client.py` has the same calls, blocking."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import random
import uuid
from typing import Any, AsyncIterator, Callable, Dict, Iterable, List, Mapping, MutableMapping, NamedTuple
from typing import Optional, Type, TypeVar, Union

import grpc
from google.protobuf import json_format, struct_pb2

from ._core import AsyncSubscription, Attempts
from ._transport import Transport, result
from .checkpoints import CheckpointStore
from .errors import AethyrError, WrongExpectedSequence, invalid
from .events import Aggregate, Data, Event, NewEvent, Snapshot, Time, encode, expectations, timestamp
from .options import Options
from .protos import commands as command_messages
from .protos import events as messages
from .protos import execution, objects, stats, store, world

T = TypeVar("T")
Filter = messages.Filter
Expect = Union[str, int, Mapping[str, Union[str, int]]]
Command = Union[command_messages.Command, MutableMapping[str, Any]]

_STORE = "/aethyr.eventstore.v1.EventStoreService/"
_WORLD = "/aethyr.world.v1.WorldService/"
_CONFLICTS_MAX, _IDS_MAX = 10, 1000


#: The state of an aggregate after the event `sequence`.
Folded = NamedTuple("Folded", [("state", Any), ("sequence", int)])


class AsyncClient(contextlib.AbstractAsyncContextManager["AsyncClient"]):
    """A client for asyncio. Use it from one event loop."""

    _with_asyncio = True

    def __init__(self, address: Union[str, Options] = "aethyr://127.0.0.1", **options: Any) -> None:
        self.options = address if isinstance(address, Options) else Options.parse(address, **options)
        self._transport = Transport(self.options, self._with_asyncio)
        self._deadline = self.options.deadline
        self._shared: Optional[Attempts] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.options)!r})"

    def with_deadline(self, seconds: float) -> AsyncClient:
        """This client, on the same connection, with another deadline for its calls."""
        other = copy.copy(self)
        other._deadline = seconds
        return other

    async def close(self) -> None:
        await self._transport.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _within(self) -> AsyncClient:
        """This client, with one deadline for several calls."""
        other = copy.copy(self)
        other._shared = self._attempts()
        return other

    def _attempts(self) -> Attempts:
        attempts = self._shared or Attempts(self._transport, self._deadline)
        attempts.begin()
        return attempts

    async def _unary(self, path: str, request: Any, reply: Type[T], write: bool = False) -> T:
        return await self._attempts().unary(path, request, reply, write)

    async def _pages(self, path: str, request: Any, reply: Type[Any], items: str) -> AsyncIterator[Any]:
        while True:
            page = await self._unary(path, request, reply)
            for item in getattr(page, items):
                yield item
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    # Events.

    async def append(
        self, events: Union[NewEvent, Iterable[NewEvent]], expect: Expect = "any"
    ) -> store.AppendEventsResponse:
        """Appends events, all or nothing.

        `expect` is "new", "any" or the last sequence number that was seen; for several aggregates a map from
        ids to these. Each event without an `event_id` gets one, so the same objects can be appended again.
        """
        events = [events] if isinstance(events, NewEvent) else list(events)
        request = store.AppendEventsRequest(
            events=[event.to_message() for event in events], expected_sequences=expectations(events, expect))
        return await self._unary(_STORE + "AppendEvents", request, store.AppendEventsResponse, True)

    async def load(
        self, aggregate_id: str, *, from_sequence: int = 0, to_sequence: int = 0, limit: int = 0,
        backwards: bool = False, recorded_until: Time = None, schema_version: Optional[int] = None,
    ) -> Aggregate:
        """Loads an aggregate. With `schema_version`, from a snapshot of this version if there is one."""
        whole, within = Aggregate(aggregate_id), self._within()
        request = store.LoadEventsRequest(
            aggregate_id=aggregate_id, from_sequence=from_sequence, to_sequence=to_sequence, limit=limit,
            backwards=backwards, recorded_until=timestamp(recorded_until),
            from_snapshot=schema_version is not None, snapshot_schema_version=schema_version or 0)
        while True:
            try:
                async with within._stream("LoadEvents", request, store.LoadEventsResponse) as stream:
                    while (piece := await stream.next()) is not None:
                        whole.add(piece)
                return whole
            except _Broken:
                # Go on after the last event that arrived.
                if limit:
                    request.limit = limit - len(whole.events)
                if request.backwards and whole.events:
                    request.to_sequence = whole.events[-1].sequence_number - 1
                    done = request.to_sequence < max(request.from_sequence, 1)
                elif not request.backwards and whole.reached:
                    request.from_sequence, request.from_snapshot = whole.reached + 1, False
                    done = 0 < request.to_sequence < request.from_sequence
                else:
                    continue
                if done or (limit and not request.limit):
                    return whole

    @contextlib.asynccontextmanager
    async def _stream(self, call: str, request: Any, reply: Any) -> AsyncIterator[Any]:
        """One attempt of a stream. `_Broken` if another one may follow, after the wait for it."""
        attempts, host = self._shared or self._attempts(), self._transport.host
        path = call if call.startswith("/") else _STORE + call
        stream = self._transport.stream(path, request, reply, attempts.timeout())
        try:
            yield stream
        except grpc.RpcError as error:
            await attempts.failed(error, host)
            raise _Broken from None
        finally:
            stream.cancel()

    async def load_many(
        self, ids: Iterable[str], *, recorded_until: Time = None, schema_version: Optional[int] = None
    ) -> List[Aggregate]:
        """Loads several aggregates, in the order of the ids. One that does not exist has no events."""
        ids, within = list(ids), self._within()
        if len(set(ids)) < len(ids):
            raise invalid("ids", "an id occurs twice")
        done: Dict[str, Aggregate] = {}
        request = store.LoadManyEventsRequest(
            recorded_until=timestamp(recorded_until), from_snapshot=schema_version is not None,
            snapshot_schema_version=schema_version or 0)
        while len(done) < len(ids):
            request.aggregate_ids[:] = ids[len(done) : len(done) + _IDS_MAX]
            current, last = None, True  # type: Optional[Aggregate], bool
            try:
                async with within._stream("LoadManyEvents", request, store.LoadManyEventsResponse) as stream:
                    while (piece := await stream.next()) is not None:
                        current = done.setdefault(piece.aggregate_id, Aggregate(piece.aggregate_id))
                        current.add(piece)
                        last = piece.last
            except _Broken:
                if current and not last:
                    id, start = current.aggregate_id, current.reached + 1
                    rest = await within.load(id, from_sequence=start, recorded_until=recorded_until)
                    current.events += rest.events
                    current.last_sequence = rest.last_sequence
        return [done[each] for each in ids]

    async def fold(
        self, aggregate_id: str, initial: Any, apply: Optional[Callable[[Any, Event], Any]], *,
        schema_version: Optional[int] = None) -> Folded:
        """The state of an aggregate: `apply(state, event)` for each event, from `initial` or a snapshot on.

        With `apply` None, the state is the list of events.
        """
        whole = await self.load(aggregate_id, schema_version=schema_version if apply else None)
        if not apply:
            return Folded(whole.events, whole.reached)
        state = whole.snapshot.data if whole.snapshot else copy.deepcopy(initial)
        for event in whole.events:
            state = await result(apply(state, event))
        return Folded(state, whole.reached)

    async def update(
        self, aggregate_id: str, decide: Callable[[Any, int], Any], *, aggregate_type: str = "",
        initial: Any = None, apply: Optional[Callable[[Any, Event], Any]] = None,
        schema_version: Optional[int] = None, snapshot: Optional[Callable[[Any], Any]] = None,
    ) -> Optional[store.AppendEventsResponse]:
        """Loads, decides and appends; after a conflict again, at most 10 times.

        `decide(state, sequence)` returns new events, or none: then nothing is appended, and the result is
        None. The state is that of `fold`. If a snapshot is due, `snapshot(state)` makes one.
        """
        within = self._within()
        fold = functools.partial(within.fold, aggregate_id, initial, apply, schema_version=schema_version)
        for conflicts in range(1, _CONFLICTS_MAX + 1):
            state, sequence = await fold()
            events: List[NewEvent] = list(await result(decide(state, sequence)) or ())
            for event in events:
                event.aggregate_id = event.aggregate_id or aggregate_id
                if event.aggregate_id == aggregate_id:
                    event.aggregate_type = event.aggregate_type or aggregate_type
            if not events:
                return None
            try:
                answer = await within.append(events, {aggregate_id: sequence})
                break
            except WrongExpectedSequence as error:
                if error.aggregate_id != aggregate_id or conflicts == _CONFLICTS_MAX:
                    raise
                await self._transport.sleep(random.uniform(0, 0.005 * conflicts))
        due = (each.snapshot_due for each in answer.aggregates if each.aggregate_id == aggregate_id)
        if snapshot and any(due):
            try:
                state, sequence = await fold()
                data = await result(snapshot(state))
                await within.save_snapshot(aggregate_id, sequence, data, schema_version=schema_version or 0)
            except AethyrError as error:  # The events are stored, and a snapshot is no more than a help.
                logging.getLogger(__name__).warning("no snapshot of %s: %s", aggregate_id, error)
        return answer

    async def save_snapshot(
        self, aggregate_id: str, sequence: int, data: Data, *, schema_version: int = 0,
        metadata: Optional[Mapping[str, str]] = None) -> store.SaveSnapshotResponse:
        """Saves the state after the event `sequence`."""
        request = store.SaveSnapshotRequest(
            aggregate_id=aggregate_id, sequence_number=sequence, schema_version=schema_version,
            metadata=metadata or {}, **encode(data))
        return await self._unary(_STORE + "SaveSnapshot", request, store.SaveSnapshotResponse, True)

    async def load_snapshot(self, aggregate_id: str) -> Snapshot:
        """The newest snapshot. Raises `NotFound` if there is none."""
        request = store.LoadSnapshotRequest(aggregate_id=aggregate_id)
        answer = await self._unary(_STORE + "LoadSnapshot", request, store.LoadSnapshotResponse)
        return Snapshot.of(answer.snapshot, answer.aggregate_type)

    def list_aggregates(
        self, type: str = "", prefix: str = "", *, snapshot_due: bool = False, page_size: int = 0
    ) -> AsyncIterator[store.Aggregate]:
        """All aggregates of this type, with this prefix, in the order of their ids."""
        request = store.ListAggregatesRequest(
            aggregate_type=type, aggregate_id_prefix=prefix, snapshot_due=snapshot_due, page_size=page_size)
        return self._pages(_STORE + "ListAggregates", request, store.ListAggregatesResponse, "aggregates")

    def read_all(
        self, from_position: int = 0, *, limit: int = 0, filter: Optional[Filter] = None
    ) -> AsyncIterator[Event]:
        """All events in the total order, up to the newest of now. The deadline is that of each piece."""
        request = store.ReadAllRequest(from_position=from_position, limit=limit, filter=filter)
        return self._follow(request, store.ReadAllResponse, "from_position")

    async def _follow(self, request: Any, reply: Any, place: str) -> AsyncIterator[Any]:
        """Events or entries of a stream, which is continued at the field `place` after a break."""
        of_all = place == "from_position"
        call, items = ("ReadAll", "events") if of_all else (_WORLD + "GetHistory", "entries")
        number = "position" if of_all else "sequence_number"
        within = self._within()
        attempts = within._attempts()
        limit, count = getattr(request, "limit", 0), 0
        while True:
            try:
                async with within._stream(call, request, reply) as stream:
                    while (piece := await stream.next()) is not None:
                        for item in getattr(piece, items):
                            count += 1
                            setattr(request, place, getattr(item, number) + 1)
                            yield Event.of(item) if of_all else item
                            attempts.renew()  # The caller may have taken its time.
                        attempts.renew()
                return
            except _Broken:
                if limit:
                    request.limit = limit - count
                done = 0 < getattr(request, "to_sequence", 0) < getattr(request, place)
                if done or (limit and not request.limit):
                    return

    def subscribe(
        self, name: str, checkpoints: CheckpointStore, filter: Optional[Filter] = None) -> AsyncSubscription:
        """Events after the checkpoint `name`, then each new one, without end, on a connection of its own."""
        return AsyncSubscription(Transport(self.options, self._with_asyncio), name, checkpoints, filter)

    # The world.

    async def execute(
        self, commands: Union[Command, Iterable[Command]], *, actor: str = "",
        expected_sequences: Optional[Mapping[str, int]] = None) -> execution.ExecuteCommandsResponse:
        """Executes commands in order, all or nothing. A command is a message, or a dict in its JSON form.

        Each command without a `command_id` gets one, so the same objects can be executed again.
        """
        many: Any = [commands] if isinstance(commands, (command_messages.Command, Mapping)) else commands
        request = execution.ExecuteCommandsRequest(expected_sequences=expected_sequences or {})
        for command in many:
            if isinstance(command, command_messages.Command):
                command.command_id = command.command_id or str(uuid.uuid4())
                added = request.commands.add()
                added.CopyFrom(command)
            else:
                command["command_id"] = command.get("command_id") or str(uuid.uuid4())
                added = json_format.ParseDict(command, request.commands.add())
            added.actor = added.actor or actor
        path = "/aethyr.world.v1.CommandService/ExecuteCommands"
        return await self._unary(path, request, execution.ExecuteCommandsResponse, True)

    async def get_game_object(self, id: str, as_of: Optional[objects.Moment] = None) -> objects.GameObject:
        request = world.GetGameObjectRequest(id=id, as_of=as_of)
        return (await self._unary(_WORLD + "GetGameObject", request, world.GetGameObjectResponse)).game_object

    async def get_player(self, id: str, as_of: Optional[objects.Moment] = None) -> objects.Player:
        request = world.GetPlayerRequest(id=id, as_of=as_of)
        return (await self._unary(_WORLD + "GetPlayer", request, world.GetPlayerResponse)).player

    async def get_room(self, id: str, as_of: Optional[objects.Moment] = None) -> objects.Room:
        request = world.GetRoomRequest(id=id, as_of=as_of)
        return (await self._unary(_WORLD + "GetRoom", request, world.GetRoomResponse)).room

    async def find_player(self, name: str, id_prefixes: Iterable[str] = ()) -> List[world.FoundPlayer]:
        """Players with this name, whatever the case of its ASCII letters."""
        request = world.FindPlayerRequest(name=name, id_prefixes=id_prefixes)
        return list((await self._unary(_WORLD + "FindPlayer", request, world.FindPlayerResponse)).players)

    def list_game_objects(
        self, *, type: str = "", generic: str = "", container_id: str = "", name: str = "",
        attribute_key: str = "", attribute_value: Any = None, id_prefixes: Iterable[str] = (),
        page_size: int = 0,
    ) -> AsyncIterator[world.ListedObject]:
        """Objects that match all that is given. `attribute_value` is any JSON value but null."""
        request = world.ListGameObjectsRequest(
            type=type, generic=generic, container_id=container_id, name=name, attribute_key=attribute_key,
            id_prefixes=id_prefixes, page_size=page_size)
        if attribute_value is not None:
            json_format.ParseDict(attribute_value, request.attribute_value)
        return self._pages(_WORLD + "ListGameObjects", request, world.ListGameObjectsResponse, "game_objects")

    def list_contents(
        self, container_id: str, *, recursive: bool = False, page_size: int = 0
    ) -> AsyncIterator[world.ListedObject]:
        """What lies in an object."""
        request = world.ListContentsRequest(
            container_id=container_id, recursive=recursive, page_size=page_size)
        return self._pages(_WORLD + "ListContents", request, world.ListContentsResponse, "game_objects")

    def get_history(
        self, id: str, from_sequence: int = 0, to_sequence: int = 0
    ) -> AsyncIterator[world.HistoryEntry]:
        """The events of an object with the changes that each made."""
        request = world.GetHistoryRequest(id=id, from_sequence=from_sequence, to_sequence=to_sequence)
        return self._follow(request, world.GetHistoryResponse, "from_sequence")

    # The service.

    async def stats(self) -> stats.StatsResponse:
        return await self._unary(_STORE + "Stats", stats.StatsRequest(), stats.StatsResponse)

    async def get_proof(self, event_id: str, without_record: bool = False) -> store.GetProofResponse:
        """The proof of an event. `aethyr-event-store verify-proof` verifies its text."""
        request = store.GetProofRequest(event_id=event_id, without_record=without_record)
        return await self._unary(_STORE + "GetProof", request, store.GetProofResponse)


class _Broken(Exception):
    """A stream broke, and may be continued."""


def to_python(value: struct_pb2.Value) -> Any:
    """The JSON value of an attribute, an inventory position or a change."""
    return json_format.MessageToDict(value)


def attributes(thing: Any) -> Dict[str, Any]:
    """The attributes of an object as JSON values."""
    return {key: to_python(value) for key, value in thing.attributes.items()}
