"""Attempts, retries and subscriptions. This file owns when a call is sent again, and when it is given up."""

from __future__ import annotations

import collections
import contextlib
import random
import time
from typing import Any, AsyncIterator, Deque, Optional, Type, TypeVar

import grpc

from ._transport import Stream, Transport, closed, result
from .checkpoints import Checkpoint
from .errors import AethyrError, Code, DeadlineExceeded, from_rpc, retryable
from .events import Event
from .protos import events as messages
from .protos import store

T = TypeVar("T")

_FIRST_DELAY, _DELAY_MAX = 0.05, 2.0
_SUBSCRIBE = "/aethyr.eventstore.v1.EventStoreService/Subscribe"


class Attempts:
    """The attempts of one call, or of several that share a deadline."""

    _open = False  # An attempt of the write in progress may have been stored.
    _last: Optional[AethyrError] = None

    def __init__(self, transport: Transport, deadline: float) -> None:
        self._transport, self._deadline = transport, deadline
        self.renew()

    def begin(self) -> None:
        """The next call begins."""
        self._open, self._last, self._failures = False, None, 0

    def renew(self) -> None:
        """Something arrived: the deadline counts from now on."""
        self._failures = 0
        self._until = time.monotonic() + self._deadline

    def _left(self) -> float:
        return self._until - time.monotonic()

    def timeout(self, write: bool = False) -> float:
        """Seconds for the next attempt."""
        if self._left() <= 0:
            raise self._over(write)
        return min(self._left(), self._transport.options.attempt_deadline)

    def _over(self, write: bool) -> DeadlineExceeded:
        text = f"the deadline of {self._deadline:g} s is over; last error: {self._last or 'none'}"
        if write and self._open:
            text += "; the outcome of the write is unknown: the same ids tell"
        error = DeadlineExceeded(text, Code.DEADLINE_EXCEEDED)
        error.outcome_unknown = write and self._open
        error.__cause__ = self._last
        return error

    async def failed(self, error: grpc.RpcError, host: int, write: bool = False) -> None:
        """Waits until the next attempt, or raises the typed error."""
        typed = from_rpc(error)
        if self._transport.closed:
            raise closed() from None
        if not retryable(typed):
            raise typed from None
        self._last = typed
        if not typed.reason or typed.code is Code.UNKNOWN:
            self._open = True
        delay = random.uniform(0, min(_FIRST_DELAY * 2 ** min(self._failures, 16), _DELAY_MAX))
        if typed.retry_after is not None:
            delay = typed.retry_after
        if typed.code is Code.UNAVAILABLE and not typed.reason:
            self._transport.leave(host)
            if self._failures + 1 < len(self._transport.options.hosts):
                delay = 0.0
        self._failures += 1
        if delay >= self._left():
            raise self._over(write)
        await self._transport.sleep(delay)

    async def unary(self, path: str, request: Any, reply: Type[T], write: bool = False) -> T:
        """Sends a request until it is answered."""
        while True:
            host = self._transport.host
            try:
                answer: T = await self._transport.unary(path, request, reply, self.timeout(write))
                return answer
            except grpc.RpcError as error:
                await self.failed(error, host, write)


class AsyncSubscription(AsyncIterator[Event], contextlib.AbstractAsyncContextManager["AsyncSubscription"]):
    """An asynchronous iterator of events after a checkpoint, over all breaks of the connection.

    A context manager that ends it. Owns its connection. The checkpoint of an event is saved when the next
    event is asked for.
    """

    def __init__(self, transport: Transport, name: str, checkpoints: Any, matching: Any) -> None:
        self._transport, self._name, self._checkpoints, self._filter = transport, name, checkpoints, matching
        self._attempts = Attempts(transport, float("inf"))
        self._stream: Optional[Stream] = None
        self._after: Optional[Checkpoint] = None
        self._arrived: Deque[Event] = collections.deque()
        self._given: Optional[Event] = None
        self._loaded, self.closed = False, False

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def __anext__(self) -> Event:
        """The next event. Raises StopAsyncIteration after `close`."""
        if not self._loaded:
            self._after, self._loaded = await result(self._checkpoints.load(self._name)), True
        if self._given:
            handled, self._given = self._given, None
            await self._reached(handled.position, handled.chain_hash)
        while not self.closed:
            if self._arrived:
                self._given = self._arrived.popleft()
                return self._given
            try:
                host = self._transport.host
                try:
                    await self._receive()
                except grpc.RpcError as error:
                    self._stream = None
                    await self._attempts.failed(error, host)
            except AethyrError:
                if not self.closed:
                    raise
        raise StopAsyncIteration

    async def _receive(self) -> None:
        if self._stream is None:
            request = store.SubscribeRequest(filter=self._filter)
            if self._after:
                request.after.CopyFrom(messages.Checkpoint(**self._after._asdict()))
            self._stream = self._transport.stream(_SUBSCRIBE, request, store.SubscribeResponse, None)
        if (message := await self._stream.next()) is None:  # The service never ends a stream in this way.
            self._stream = None
            return await self._transport.sleep(_FIRST_DELAY)
        self._attempts.renew()
        kind = message.WhichOneof("content")
        if kind == "events":
            self._arrived.extend(map(Event.of, message.events.events))
        else:
            place = message.caught_up.checkpoint if kind == "caught_up" else message.checkpoint
            if self._after is None or place.position > self._after.position:
                await self._reached(place.position, place.chain_hash)

    async def _reached(self, position: int, chain_hash: bytes) -> None:
        self._after = Checkpoint(position, chain_hash)
        await result(self._checkpoints.save(self._name, self._after))

    async def close(self) -> None:
        self.closed = True
        if self._stream:
            self._stream.cancel()
        await self._transport.close()
