"""Channels and single attempts. This file owns what differs between blocking and asyncio gRPC.

The rest of the client is written once, as coroutines. With a blocking transport they never wait, and `run`
plays them to their end; with one for asyncio they are ordinary coroutines.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from typing import Any, AsyncIterator, Callable, Coroutine, Dict, List, Optional, Tuple, TypeVar

import grpc
import grpc.aio

from .errors import AethyrError, closed, from_rpc, late
from .options import Options, is_loopback, read, token_of

T = TypeVar("T")

_CHANNEL_OPTIONS: List[Tuple[str, Any]] = [
    ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000), ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 30000), ("grpc.keepalive_timeout_ms", 10000),
    # An idle subscription sends nothing, and has to notice that its connection is dead.
    ("grpc.http2.max_pings_without_data", 0), ("grpc.max_receive_message_length", 32 << 20)]


class Failed(Exception):
    """An attempt failed. Another one may succeed."""

    def __init__(self, error: AethyrError) -> None:
        super().__init__(str(error))
        self.error = error


async def result(value: Any) -> Any:
    """The result of a function that may be a coroutine function."""
    return await value if inspect.isawaitable(value) else value


class Transport:
    """A channel for each host, made when it is needed. Calls go to one host while it works."""

    def __init__(self, options: Options, with_asyncio: bool) -> None:
        self.options, self.with_asyncio = options, with_asyncio
        self.host, self.closed = 0, False
        self._channels: Dict[int, Any] = {}
        self._lock = threading.Lock()
        self._end: Any = None if with_asyncio else threading.Event()

    def leave(self, host: int) -> None:
        """The host does not work: go on with the next one, unless that happened already."""
        with self._lock:
            if self.host == host:
                self.host = (host + 1) % len(self.options.hosts)

    async def unary(self, request: Any, reply: Any, timeout: float) -> Any:
        try:
            answer = self._call("unary_unary", request, reply, timeout)
            return await self.wait(answer) if self.with_asyncio else answer
        except grpc.RpcError as error:
            raise Failed(from_rpc(error)) from None

    def stream(self, request: Any, reply: Any, patience: Callable[[], Optional[float]]) -> Stream:
        return Stream(self, self._call("unary_stream", request, reply, None), patience)

    async def sleep(self, seconds: float) -> None:
        """Waits, but no longer than until `close`."""
        if not self.with_asyncio:
            self._end.wait(seconds)
        else:
            with contextlib.suppress(AethyrError):
                await self.wait(asyncio.sleep(seconds))

    async def wait(self, work: Any, seconds: Optional[float] = None) -> Any:
        """The result of work of asyncio, which is cancelled after this time and by `close`.

        A cancellation of the caller's task is never taken for that of `close`, nor the other way round.
        """
        work = asyncio.ensure_future(work)
        self._end = self._end or asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({work, self._end}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self.closed:
                raise closed()
            if not work.done():
                raise Failed(late())
            return work.result()
        finally:
            work.cancel()

    async def close(self) -> None:
        with self._lock:
            self.closed, channels, self._channels = True, self._channels, {}
        if self._end and not self.with_asyncio:
            self._end.set()
        elif self._end and not self._end.done():
            self._end.set_result(None)
        for channel in channels.values():
            await result(channel.close())

    def _call(self, kind: str, request: Any, reply: Any, timeout: Optional[float]) -> Any:
        metadata = [("authorization", f"Bearer {token}")] if (token := token_of(self.options)) else None
        package, _, name = reply.DESCRIPTOR.full_name.rpartition(".")
        service = {"aethyr.world.v1": "WorldService"}.get(package, "EventStoreService")
        service = {"ExecuteCommandsResponse": "CommandService"}.get(name, service)
        path = f"/{package}.{service}/{name[: -len('Response')]}"
        call = getattr(self._channel(), kind)(path, type(request).SerializeToString, reply.FromString)
        try:
            return call(request, timeout=timeout, metadata=metadata)
        except (ValueError, grpc.aio.UsageError):  # `close` came in between.
            raise closed() from None

    def _channel(self) -> Any:
        with self._lock:
            if self.closed:
                raise closed()
            index = self.host
            if index not in self._channels:
                self._channels[index] = self._connect(self.options.hosts[index])
            return self._channels[index]

    def _connect(self, host: str) -> Any:
        given, library = self.options, grpc.aio if self.with_asyncio else grpc
        # gRPC's name for the time that a connection may take.
        patience = min(int(given.attempt_deadline * 1000) + 1, 2**31 - 1)
        options = [*_CHANNEL_OPTIONS, ("grpc.min_reconnect_backoff_ms", patience)]
        if is_loopback(host):
            options.append(("grpc.enable_http_proxy", 0))
        if not given.tls:
            return library.insecure_channel(host, options)
        files = ("ca", given.ca), ("key", given.key), ("cert", given.cert)
        credentials = grpc.ssl_channel_credentials(*(read(*file) if file[1] else None for file in files))
        if given.server_name:
            options.append(("grpc.ssl_target_name_override", given.server_name))
        return library.secure_channel(host, credentials, options)


class Stream(AsyncIterator[Any]):
    """One attempt of a call with many answers. `patience` says how long the next one may take."""

    def __init__(self, transport: Transport, call: Any, patience: Callable[[], Optional[float]]) -> None:
        self._transport, self._call, self._patience, self._late = transport, call, patience, False

    async def __anext__(self) -> Any:
        seconds, message = self._patience(), None
        try:
            if self._transport.with_asyncio:
                message = await self._transport.wait(self._call.read(), seconds)
            else:
                timer = threading.Timer(seconds or 0, self._expire)
                timer.daemon = True
                if seconds is not None:
                    timer.start()
                try:
                    message = next(self._call, None)
                finally:
                    timer.cancel()
        except grpc.RpcError as error:
            raise Failed(late() if self._late else from_rpc(error)) from None
        if message is None or message is getattr(grpc.aio, "EOF"):
            raise StopAsyncIteration
        return message

    def _expire(self) -> None:
        self._late = True
        self._call.cancel()

    def cancel(self) -> None:
        self._call.cancel()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Plays a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("a function of the caller waits: use AsyncClient for coroutine functions")
