"""The blocking client: the calls of `AsyncClient`, played to their end. It may be used by many threads."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Coroutine, Iterator, Optional, TypeVar, Union

from . import aio
from ._core import AsyncSubscription
from ._transport import run
from .aio import Filter
from .checkpoints import CheckpointStore
from .events import Event
from .options import Options

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")


class _Calls(aio.AsyncClient):
    _with_asyncio = False


def _blocking(
    call: Callable[Concatenate[aio.AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """The same call, played to its end."""

    @functools.wraps(call)
    def blocking(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(call(self._calls, *args, **kwargs))

    return blocking


def _iterated(
    call: Callable[Concatenate[aio.AsyncClient, P], AsyncIterator[T]],
) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """The same call, as an ordinary iterator."""

    @functools.wraps(call)
    def iterated(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items: Any = call(self._calls, *args, **kwargs)
        try:
            while True:
                try:
                    item: T = run(items.__anext__())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            run(items.aclose())

    return iterated


class Subscription(Iterator[Event], contextlib.AbstractContextManager["Subscription"]):
    """An iterator of events. A context manager that ends it; `close` may be called by another thread."""

    def __init__(self, events: AsyncSubscription) -> None:
        self._events = events

    def __next__(self) -> Event:
        try:
            return run(self._events.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        run(self._events.close())

    def __exit__(self, *_: object) -> None:
        self.close()


class Client(contextlib.AbstractContextManager["Client"]):
    """A client of the event store. `aio.AsyncClient` describes the calls."""

    def __init__(self, address: Union[str, Options] = "aethyr://127.0.0.1", **options: Any) -> None:
        self._calls: aio.AsyncClient = _Calls(address, **options)
        self.options = self._calls.options

    def __repr__(self) -> str:
        return f"Client({str(self.options)!r})"

    def with_deadline(self, seconds: float) -> Client:
        """This client, on the same connection, with another deadline for its calls."""
        other = copy.copy(self)
        other._calls = self._calls.with_deadline(seconds)
        return other

    def close(self) -> None:
        run(self._calls._transport.close())

    def __exit__(self, *_: object) -> None:
        self.close()

    append = _blocking(aio.AsyncClient.append)
    load = _blocking(aio.AsyncClient.load)
    load_many = _blocking(aio.AsyncClient.load_many)
    fold = _blocking(aio.AsyncClient.fold)
    update = _blocking(aio.AsyncClient.update)
    save_snapshot = _blocking(aio.AsyncClient.save_snapshot)
    load_snapshot = _blocking(aio.AsyncClient.load_snapshot)
    list_aggregates = _iterated(aio.AsyncClient.list_aggregates)
    read_all = _iterated(aio.AsyncClient.read_all)
    execute = _blocking(aio.AsyncClient.execute)
    get_game_object = _blocking(aio.AsyncClient.get_game_object)
    get_player = _blocking(aio.AsyncClient.get_player)
    get_room = _blocking(aio.AsyncClient.get_room)
    find_player = _blocking(aio.AsyncClient.find_player)
    list_game_objects = _iterated(aio.AsyncClient.list_game_objects)
    list_contents = _iterated(aio.AsyncClient.list_contents)
    get_history = _iterated(aio.AsyncClient.get_history)
    stats = _blocking(aio.AsyncClient.stats)
    get_proof = _blocking(aio.AsyncClient.get_proof)

    def subscribe(
        self, name: str, checkpoints: CheckpointStore, filter: Optional[Filter] = None
    ) -> Subscription:
        """Events after the checkpoint `name`, then each new one, without end, on a connection of its own."""
        return Subscription(self._calls.subscribe(name, checkpoints, filter))
