"""Attempts, retries and subscriptions. This file owns when a call is sent again, and when it is given up."""

from __future__ import annotations

import collections
import contextlib
import random
import time
from typing import Any, AsyncIterator, Deque, Optional, Type, TypeVar

from ._transport import Failed, Stream, Transport, result
from .checkpoints import Checkpoint
from .errors import AethyrError, Code, DeadlineExceeded, Unauthenticated, closed, retryable
from .events import Event
from .protos import events as messages
from .protos import store

T = TypeVar("T")

_FIRST_DELAY, _DELAY_MAX, _WAIT_MAX = 0.05, 2.0, 60.0


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
        """Seconds for the next attempt, or for the next message of a stream."""
        if self._left() <= 0:
            raise self._over(write)
        return min(self._left(), self._transport.options.attempt_deadline)

    def _over(self, write: bool) -> DeadlineExceeded:
        unknown = write and self._open
        text = "; the outcome of the write is unknown: the same ids tell" if unknown else ""
        text = f"the deadline of {self._deadline:g} s is over; last error: {self._last or 'none'}{text}"
        error = DeadlineExceeded(text, Code.DEADLINE_EXCEEDED)
        error.outcome_unknown = unknown
        error.__cause__ = self._last
        return error

    async def failed(self, typed: AethyrError, host: int, write: bool = False) -> None:
        """Waits until the next attempt, or raises the error."""
        if self._transport.closed:
            raise closed() from None
        if not retryable(typed):
            raise typed from None
        if not self._last or typed.code is not Code.DEADLINE_EXCEEDED:
            self._last = typed  # That an attempt took too long says less than the error before it.
        self._open = self._open or typed._sent and (not typed.reason or typed.code is Code.UNKNOWN)
        delay = random.uniform(0, min(_FIRST_DELAY * 2 ** min(self._failures, 16), _DELAY_MAX))
        if typed.retry_after:
            delay = typed.retry_after
        if typed.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED) and not typed.reason:
            self._transport.leave(host)
            if self._failures + 1 < len(self._transport.options.hosts):
                delay = 0.0
        self._failures += 1
        if delay >= self._left():
            raise self._over(write)
        await self._transport.sleep(min(delay, _WAIT_MAX))
        if self._transport.closed:
            raise closed()

    async def unary(self, request: Any, reply: Type[T], write: bool = False) -> T:
        """Sends a request until it is answered."""
        while True:
            host = self._transport.host
            try:
                answer: T = await self._transport.unary(request, reply, self.timeout(write))
                return answer
            except Failed as error:
                await self.failed(error.error, host, write)


class AsyncSubscription(AsyncIterator[Event], contextlib.AbstractAsyncContextManager["AsyncSubscription"]):
    """An asynchronous iterator of events after a checkpoint, over all breaks of the connection.

    A context manager that ends it. Owns its connection. The checkpoint of an event is saved when the next
    event is requested.
    """

    def __init__(self, transport: Transport, name: str, checkpoints: Any, matching: Any) -> None:
        self._transport, self._name, self._checkpoints, self._filter = transport, name, checkpoints, matching
        self._attempts = Attempts(transport, float("inf"))
        self._stream: Optional[Stream] = None
        self._after: Optional[Checkpoint] = None
        self._arrived: Deque[Event] = collections.deque()
        self._given: Optional[Event] = None
        self._loaded, self._live, self.closed = False, False, False
        self._patience: Optional[float] = None

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
            host = self._transport.host
            try:
                try:
                    await self._receive()
                except Failed as failed:
                    # A stream ends when its token is replaced, and goes on with the new one.
                    again, self._live = self._live and isinstance(failed.error, Unauthenticated), False
                    pause = self._transport.sleep(_FIRST_DELAY) if again else None
                    await (pause or self._attempts.failed(failed.error, host))
                    self._break()
            except BaseException as error:
                self._break()  # It may be cancelled: the next call begins another one.
                if not (self.closed and isinstance(error, AethyrError)):
                    raise
        raise StopAsyncIteration

    def _break(self) -> None:
        if self._stream:
            self._stream.cancel()
        self._stream = None

    async def _receive(self) -> None:
        if self._stream is None:
            request = store.SubscribeRequest(filter=self._filter)
            if self._after:
                request.after.CopyFrom(messages.Checkpoint(**self._after._asdict()))
            self._stream = self._transport.stream(request, store.SubscribeResponse, lambda: self._patience)
            self._patience = self._transport.options.attempt_deadline
        try:
            message = await self._stream.__anext__()
        except StopAsyncIteration:
            raise Failed(AethyrError("the service ended the stream", Code.UNAVAILABLE)) from None
        self._attempts.renew()
        self._live = True
        kind = message.WhichOneof("content")
        if kind == "events":
            self._arrived.extend(map(Event.of, message.events.events))
            return
        if kind == "caught_up":
            self._patience = None  # Silence is normal now. HTTP/2 pings find a dead connection.
        place = message.caught_up.checkpoint if kind == "caught_up" else message.checkpoint
        if self._after is None or place.position > self._after.position:
            await self._reached(place.position, place.chain_hash)

    async def _reached(self, position: int, chain_hash: bytes) -> None:
        self._after = Checkpoint(position, chain_hash)
        await result(self._checkpoints.save(self._name, self._after))

    async def close(self) -> None:
        self.closed = True
        await self._transport.close()
