"""The blocking client: the calls of `AsyncClient`, played to their end. It may be used by many threads."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Coroutine, Iterator, Optional, TypeVar, Union

from ._core import AsyncSubscription
from ._transport import run
from .aio import AsyncClient, Filter
from .checkpoints import CheckpointStore
from .events import Event
from .options import Options

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")


class _Calls(AsyncClient):
    _with_asyncio = False


def _blocking(
    call: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """The same call, played to its end."""

    @functools.wraps(call)
    def blocking(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(call(self._calls, *args, **kwargs))

    return blocking


def _iterated(
    call: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """The same call, as an ordinary iterator."""

    @functools.wraps(call)
    def iterated(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items: Any = call(self._calls, *args, **kwargs)
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield run(items.__anext__())
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
    """A client of the event store. `AsyncClient` describes the calls."""

    def __init__(self, address: Union[str, Options] = "aethyr://127.0.0.1", **options: Any) -> None:
        self._calls: AsyncClient = _Calls(address, **options)
        self.options = self._calls.options

    def with_deadline(self, seconds: float) -> Client:
        """This client, on the same connection, with another deadline for its calls."""
        other = copy.copy(self)
        other._calls = self._calls.with_deadline(seconds)
        return other

    def close(self) -> None:
        run(self._calls.close())

    def __exit__(self, *_: object) -> None:
        self.close()

    append = _blocking(AsyncClient.append)
    append_many = _blocking(AsyncClient.append_many)
    load = _blocking(AsyncClient.load)
    load_many = _blocking(AsyncClient.load_many)
    fold = _blocking(AsyncClient.fold)
    update = _blocking(AsyncClient.update)
    save_snapshot = _blocking(AsyncClient.save_snapshot)
    load_snapshot = _blocking(AsyncClient.load_snapshot)
    list_aggregates = _iterated(AsyncClient.list_aggregates)
    read_all = _iterated(AsyncClient.read_all)
    execute = _blocking(AsyncClient.execute)
    execute_many = _blocking(AsyncClient.execute_many)
    get_game_object = _blocking(AsyncClient.get_game_object)
    get_player = _blocking(AsyncClient.get_player)
    get_room = _blocking(AsyncClient.get_room)
    find_player = _blocking(AsyncClient.find_player)
    list_game_objects = _iterated(AsyncClient.list_game_objects)
    list_contents = _iterated(AsyncClient.list_contents)
    get_history = _iterated(AsyncClient.get_history)
    stats = _blocking(AsyncClient.stats)
    get_proof = _blocking(AsyncClient.get_proof)

    def subscribe(
        self, name: str, checkpoints: CheckpointStore, filter: Optional[Filter] = None) -> Subscription:
        """Events after the checkpoint `name`, then each new one, without end, on a connection of its own."""
        return Subscription(self._calls.subscribe(name, checkpoints, filter))
