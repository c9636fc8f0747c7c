"""The asyncio client. This file owns what each call does; `client.py` has the same calls, blocking."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import random
import uuid
import weakref
from typing import Any, AsyncIterator, Callable, Dict, Iterable, List, Mapping, MutableMapping
from typing import NamedTuple, Optional, Type, TypeVar, Union, cast

from google.protobuf import json_format, struct_pb2

from ._core import AsyncSubscription, Attempts
from ._transport import Failed, Transport, result
from .checkpoints import CheckpointStore
from .errors import WrongExpectedSequence, invalid
from .events import Aggregate, Data, Event, NewEvent, Snapshot, Time, encode, expectations, timestamp
from .options import Options
from .protos import commands as command_messages
from .protos import events as messages
from .protos import execution, objects, stats, store, world

T = TypeVar("T")
Appended = store.AppendEventsResponse
Executed = execution.ExecuteCommandsResponse
Listed = world.ListedObject
Version = Optional[int]
Filter = messages.Filter
Apply = Optional[Callable[[Any, Event], Any]]
Expect = Union[str, int, Mapping[str, Union[str, int]]]
_Command = command_messages.Command
Command = Union[_Command, MutableMapping[str, Any]]

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
        self._subscriptions: weakref.WeakSet[AsyncSubscription] = weakref.WeakSet()

    def with_deadline(self, seconds: float) -> AsyncClient:
        """This client, on the same connection, with another deadline for its calls."""
        other = copy.copy(self)
        other._deadline = seconds
        return other

    async def close(self) -> None:
        """Ends subscriptions, and fails calls in progress."""
        for subscription in list(self._subscriptions):
            await subscription.close()
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

    async def _unary(self, request: Any, reply: Type[T], write: bool = False) -> T:
        return await self._attempts().unary(request, reply, write)

    async def _pages(self, request: Any, reply: Type[Any], items: str) -> AsyncIterator[Any]:
        while page := await self._unary(request, reply):
            for item in getattr(page, items):
                yield item
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def _stream(self, request: Any, reply: Any, rest: Callable[[], bool]) -> AsyncIterator[Any]:
        """The messages of a stream. `rest` changes the request to one for what is missing, if anything is."""
        attempts = self._attempts()
        while True:
            host = self._transport.host
            stream = self._transport.stream(request, reply, attempts.timeout)
            try:
                async for piece in stream:
                    yield piece
                return
            except Failed as failed:
                await attempts.failed(failed.error, host)
            finally:
                stream.cancel()
            if not rest():
                return

    # Events.

    async def append(self, events: Union[NewEvent, Iterable[NewEvent]], expect: Expect = "any") -> Appended:
        """Appends events, all or nothing.

        `expect` is "new", "any" or the last sequence number that was seen; for several aggregates a map from
        ids to these. Each event without an `event_id` gets one, so the same objects can be appended again.
        """
        events = [events] if isinstance(events, NewEvent) else list(events)
        request = store.AppendEventsRequest(
            events=[event.to_message(f"events[{index}].data") for index, event in enumerate(events)],
            expected_sequences=expectations(events, expect))
        return await self._unary(request, Appended, True)

    async def append_many(
        self, events: Iterable[NewEvent], correlation_id: str, most: int = 500) -> List[Appended]:
        """Appends more events than one call can have, in several calls of at most `most` events.

        All events get their ids, and this correlation id, before the first call. If a call fails, those
        before it are stored: the same objects again go on there.
        """
        events = list(events)
        for event in events:
            event.event_id = event.event_id or str(uuid.uuid4())
            event.correlation_id = event.correlation_id or correlation_id
        return [await self.append(events[at : at + most]) for at in range(0, len(events), most)]

    async def load(
        self, aggregate_id: str, *, from_sequence: int = 0, to_sequence: int = 0, limit: int = 0,
        backwards: bool = False, recorded_until: Time = None, schema_version: Version = None) -> Aggregate:
        """Loads an aggregate. With `schema_version`, from a snapshot of this version if there is one."""
        whole = Aggregate(aggregate_id)
        request = store.LoadEventsRequest(
            aggregate_id=aggregate_id, from_sequence=from_sequence, to_sequence=to_sequence, limit=limit,
            backwards=backwards, recorded_until=timestamp(recorded_until),
            from_snapshot=schema_version is not None, snapshot_schema_version=schema_version or 0)

        def rest() -> bool:  # Go on after the last event that arrived.
            if not (whole.events if backwards else whole.reached):
                return True
            request.limit, request.from_snapshot = limit and limit - len(whole.events), False
            if backwards:
                request.to_sequence = whole.reached - 1
                more = request.to_sequence >= max(from_sequence, 1)
            else:
                request.from_sequence = whole.reached + 1
                more = not 0 < to_sequence <= whole.reached
            return more and (not limit or request.limit > 0)

        async for piece in self._stream(request, store.LoadEventsResponse, rest):
            whole.add(piece)
        return whole

    async def load_many(
        self, ids: Iterable[str], *, recorded_until: Time = None, schema_version: Version = None,
    ) -> List[Aggregate]:
        """Loads several aggregates, in the order of the ids. One that does not exist has no events."""
        wanted, done, complete, end = list(ids), [], True, 0  # type: List[str], List[Aggregate], bool, int
        request = store.LoadManyEventsRequest(
            recorded_until=timestamp(recorded_until), from_snapshot=schema_version is not None,
            snapshot_schema_version=schema_version or 0)

        def rest() -> bool:
            nonlocal complete
            if not complete:
                done.pop()  # A request cannot begin in the middle of an aggregate.
            complete, request.aggregate_ids[:] = True, wanted[len(done) : end]
            return len(done) < end

        within = self._within()
        while len(done) < len(wanted):
            end = min(len(done) + _IDS_MAX, len(wanted))
            rest()
            async for piece in within._stream(request, store.LoadManyEventsResponse, rest):
                if complete:
                    done.append(Aggregate(piece.aggregate_id))
                done[-1].add(piece)
                complete = piece.last
        return done

    async def fold(
        self, aggregate_id: str, initial: Any, apply: Apply, *, schema_version: Version = None) -> Folded:
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
        initial: Any = None, apply: Apply = None,
        schema_version: Version = None, snapshot: Optional[Callable[[Any], Any]] = None,
    ) -> Optional[Appended]:
        """Loads, decides and appends; after a conflict again, at most 10 times.

        `decide(state, sequence)` returns new events, or none: then nothing is appended, and the result is
        None. The state is that of `fold`. If a snapshot is due, `snapshot(state)` makes one.

        After an error with `outcome_unknown`, the events may be stored. The next update makes new ids, so
        `decide` has to see in the state what is done already, or set `event_id` itself.
        """
        within = self._within()
        if snapshot and schema_version is None:
            schema_version = 0
        fold = functools.partial(within.fold, aggregate_id, initial, apply, schema_version=schema_version)
        for conflicts in range(1, _CONFLICTS_MAX + 1):
            state, sequence = await fold()
            decided: Iterable[NewEvent] = await result(decide(state, sequence)) or ()
            events = [dataclasses.replace(event) for event in decided]  # Their ids are those of this append.
            if not events:
                return None
            for event in events:
                event.aggregate_id = event.aggregate_id or aggregate_id
                if event.aggregate_id == aggregate_id:
                    event.aggregate_type = event.aggregate_type or aggregate_type
            try:
                answer = await within.append(events, {aggregate_id: sequence})
                break
            except WrongExpectedSequence as error:
                if error.aggregate_id != aggregate_id or conflicts == _CONFLICTS_MAX:
                    raise
                await self._transport.sleep(random.uniform(0, 0.01 * conflicts))
        due = (each.snapshot_due for each in answer.aggregates if each.aggregate_id == aggregate_id)
        if snapshot and any(due):
            try:
                state, sequence = await fold()
                data = await result(snapshot(state))
                await within.save_snapshot(aggregate_id, sequence, data, schema_version=schema_version or 0)
            except Exception as error:  # The events are stored, and a snapshot is no more than a help.
                logging.getLogger(__name__).warning("no snapshot of %s: %s", aggregate_id, error)
        return answer

    async def save_snapshot(
        self, aggregate_id: str, sequence: int, data: Data, *, schema_version: int = 0,
        metadata: Optional[Mapping[str, str]] = None) -> store.SaveSnapshotResponse:
        """Saves the state after the event `sequence`."""
        request = store.SaveSnapshotRequest(
            aggregate_id=aggregate_id, sequence_number=sequence, schema_version=schema_version,
            metadata=metadata or {}, **encode(data))
        return await self._unary(request, store.SaveSnapshotResponse, True)

    async def load_snapshot(self, aggregate_id: str) -> Snapshot:
        """The newest snapshot. Raises `NotFound` if there is none."""
        request = store.LoadSnapshotRequest(aggregate_id=aggregate_id)
        answer = await self._unary(request, store.LoadSnapshotResponse)
        return Snapshot.of(answer.snapshot, answer.aggregate_type)

    def list_aggregates(
        self, type: str = "", prefix: str = "", *, snapshot_due: bool = False, page_size: int = 0,
    ) -> AsyncIterator[store.Aggregate]:
        """All aggregates of this type, with this prefix, in the order of their ids."""
        request = store.ListAggregatesRequest(
            aggregate_type=type, aggregate_id_prefix=prefix, snapshot_due=snapshot_due, page_size=page_size)
        return self._pages(request, store.ListAggregatesResponse, "aggregates")

    def read_all(
        self, from_position: int = 0, *, limit: int = 0, filter: Optional[Filter] = None,
    ) -> AsyncIterator[Event]:
        """All events in the total order, up to the newest of now. The deadline is that of each message."""
        request = store.ReadAllRequest(from_position=from_position, limit=limit, filter=filter)
        return self._follow(request, store.ReadAllResponse)

    async def _follow(self, request: Any, reply: Type[Any]) -> AsyncIterator[Any]:
        """The events of ReadAll, or the entries of GetHistory. The deadline counts for each message."""
        of_all, within, newest = reply is store.ReadAllResponse, self._within(), 0
        place, number = ("from_position", "position") if of_all else ("from_sequence", "sequence_number")
        limit = getattr(request, "limit", 0)

        def rest() -> bool:
            end = newest if of_all else request.to_sequence
            return not 0 < end < getattr(request, place) and (not limit or request.limit > 0)

        async for piece in within._stream(request, reply, rest):
            newest = newest or getattr(piece, "last_position", 0)
            cast(Attempts, within._shared).renew()
            for item in piece.events if of_all else piece.entries:
                setattr(request, place, getattr(item, number) + 1)
                if of_all:
                    if item.position > newest:
                        return
                    request.limit = limit and request.limit - 1
                yield Event.of(item) if of_all else item
                cast(Attempts, within._shared).renew()  # The caller may have taken its time.

    def subscribe(
        self, name: str, checkpoints: CheckpointStore, filter: Optional[Filter] = None) -> AsyncSubscription:
        """Events after the checkpoint `name`, then each new one, without end, on a connection of its own."""
        made = AsyncSubscription(Transport(self.options, self._with_asyncio), name, checkpoints, filter)
        self._subscriptions.add(made)
        return made

    # The world.

    async def execute(
        self, commands: Union[Command, Iterable[Command]], *, actor: str = "",
        correlation_id: str = "", expected_sequences: Optional[Mapping[str, int]] = None) -> Executed:
        """Executes commands in order, all or nothing. A command is a message, or a dict in its JSON form.

        Each command without a `command_id` gets one, so the same objects can be executed again.
        """
        many: Any = [commands] if isinstance(commands, (_Command, Mapping)) else commands
        request = execution.ExecuteCommandsRequest(expected_sequences=expected_sequences or {})
        for index, command in enumerate(many):
            request.commands.append(_identified(command, index, actor, correlation_id))
        return await self._unary(request, Executed, True)

    async def execute_many(
        self, commands: Iterable[Command], correlation_id: str, most: int = 100, *, actor: str = ""
    ) -> List[Executed]:
        """Executes more commands than one call can have, as `append_many` appends events."""
        ready = [_identified(each, index, actor, correlation_id) for index, each in enumerate(commands)]
        return [await self.execute(ready[at : at + most]) for at in range(0, len(ready), most)]

    async def get_game_object(self, id: str, as_of: Optional[objects.Moment] = None) -> objects.GameObject:
        request = world.GetGameObjectRequest(id=id, as_of=as_of)
        return (await self._unary(request, world.GetGameObjectResponse)).game_object

    async def get_player(self, id: str, as_of: Optional[objects.Moment] = None) -> objects.Player:
        return (await self._unary(world.GetPlayerRequest(id=id, as_of=as_of), world.GetPlayerResponse)).player

    async def get_room(self, id: str, as_of: Optional[objects.Moment] = None) -> objects.Room:
        return (await self._unary(world.GetRoomRequest(id=id, as_of=as_of), world.GetRoomResponse)).room

    async def find_player(self, name: str, id_prefixes: Iterable[str] = ()) -> List[world.FoundPlayer]:
        """Players with this name, whatever the case of its ASCII letters."""
        request = world.FindPlayerRequest(name=name, id_prefixes=id_prefixes)
        return list((await self._unary(request, world.FindPlayerResponse)).players)

    def list_game_objects(
        self, *, type: str = "", generic: str = "", container_id: str = "", name: str = "",
        attribute_key: str = "", attribute_value: Any = None, id_prefixes: Iterable[str] = (),
        page_size: int = 0) -> AsyncIterator[Listed]:
        """Objects that match all that is given. `attribute_value` is any JSON value but null."""
        request = world.ListGameObjectsRequest(
            type=type, generic=generic, container_id=container_id, name=name, attribute_key=attribute_key,
            id_prefixes=id_prefixes, page_size=page_size)
        if attribute_value is not None:
            json_format.ParseDict(attribute_value, request.attribute_value)
        return self._pages(request, world.ListGameObjectsResponse, "game_objects")

    def list_contents(
        self, container_id: str, *, recursive: bool = False, page_size: int = 0) -> AsyncIterator[Listed]:
        """What lies in an object."""
        request = world.ListContentsRequest(
            container_id=container_id, recursive=recursive, page_size=page_size)
        return self._pages(request, world.ListContentsResponse, "game_objects")

    def get_history(
        self, id: str, from_sequence: int = 0, to_sequence: int = 0) -> AsyncIterator[world.HistoryEntry]:
        """The events of an object with the changes that each made."""
        request = world.GetHistoryRequest(id=id, from_sequence=from_sequence, to_sequence=to_sequence)
        return self._follow(request, world.GetHistoryResponse)

    # The service.

    async def stats(self) -> stats.StatsResponse:
        return await self._unary(stats.StatsRequest(), stats.StatsResponse)

    async def get_proof(self, event_id: str, without_record: bool = False) -> store.GetProofResponse:
        """The proof of an event. `aethyr-event-store verify-proof` verifies its text."""
        request = store.GetProofRequest(event_id=event_id, without_record=without_record)
        return await self._unary(request, store.GetProofResponse)


def _identified(command: Any, index: int, actor: str, correlation_id: str) -> _Command:
    """The message for a command. Its id is set in what the caller has given, too."""
    message = _Command()
    try:
        if isinstance(command, _Command):
            message.CopyFrom(command)
        else:
            json_format.ParseDict(command, message)
    except json_format.ParseError as error:
        raise invalid(f"commands[{index}]", str(error)) from error
    message.command_id = message.command_id or str(uuid.uuid4())
    message.actor, message.correlation_id = message.actor or actor, message.correlation_id or correlation_id
    if isinstance(command, _Command):
        command.command_id = message.command_id
    else:
        command["commandId" if "commandId" in command else "command_id"] = message.command_id
    return message


def to_python(value: struct_pb2.Value) -> Any:
    """The JSON value of an attribute, an inventory position or a change."""
    return json_format.MessageToDict(value)


def attributes(thing: Any) -> Dict[str, Any]:
    """The attributes of an object as JSON values."""
    return {key: to_python(value) for key, value in thing.attributes.items()}
