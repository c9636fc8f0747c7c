"""Channels and single attempts. This file owns what differs between blocking and asyncio gRPC.

The rest of the client is written once, as coroutines. With a blocking transport they never wait, and `run`
plays them to their end; with one for asyncio they are ordinary coroutines.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pathlib
import threading
from typing import Any, Coroutine, Dict, List, Optional, Tuple, TypeVar

import grpc
import grpc.aio

from .errors import AethyrError, Code, invalid
from .options import Options, token_of

T = TypeVar("T")

_CHANNEL_OPTIONS: List[Tuple[str, Any]] = [
    ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000), ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30000), ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.max_receive_message_length", 32 << 20), ("grpc.enable_retries", 0)]


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
        self._wake: Any = None if with_asyncio else threading.Event()

    def leave(self, host: int) -> None:
        """The host does not work: go on with the next one, unless that happened already."""
        with self._lock:
            if self.host == host:
                self.host = (host + 1) % len(self.options.hosts)

    async def unary(self, path: str, request: Any, reply: Any, timeout: float) -> Any:
        try:
            return await result(self._call("unary_unary", path, request, reply, timeout))
        except asyncio.CancelledError:
            if self.closed:
                raise closed() from None
            raise

    def stream(self, path: str, request: Any, reply: Any, timeout: Optional[float]) -> Stream:
        return Stream(self._call("unary_stream", path, request, reply, timeout))

    async def sleep(self, seconds: float) -> None:
        """Waits, but no longer than until `close`."""
        if not self.with_asyncio:
            self._wake.wait(seconds)
            return
        self._wake = self._wake or asyncio.Event()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def close(self) -> None:
        with self._lock:
            self.closed, channels, self._channels = True, self._channels, {}
        if self._wake:
            self._wake.set()
        for channel in channels.values():
            await result(channel.close())

    def _call(self, kind: str, path: str, request: Any, reply: Any, timeout: Optional[float]) -> Any:
        call = getattr(self._channel(), kind)(path, type(request).SerializeToString, reply.FromString)
        metadata = [("authorization", f"Bearer {token}")] if (token := token_of(self.options)) else None
        try:
            return call(request, timeout=timeout, metadata=metadata)
        except (ValueError, grpc.aio.UsageError):
            if self.closed:
                raise closed() from None
            raise

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
        if not given.tls:
            return library.insecure_channel(host, _CHANNEL_OPTIONS)

        def pem(name: str) -> Optional[bytes]:
            path = getattr(given, name)
            try:
                return pathlib.Path(path).read_bytes() if path else None
            except OSError as error:
                raise invalid(name, f"{path} cannot be read: {error.strerror}") from error

        credentials = grpc.ssl_channel_credentials(pem("ca"), pem("key"), pem("cert"))
        name = [("grpc.ssl_target_name_override", given.server_name)] if given.server_name else []
        return library.secure_channel(host, credentials, _CHANNEL_OPTIONS + name)


class Stream:
    """One attempt of a call with many answers."""

    def __init__(self, call: Any) -> None:
        self._call, self._cancelled = call, False

    async def next(self) -> Any:
        """The next message; None at the end."""
        if not isinstance(self._call, grpc.aio.Call):
            return next(self._call, None)
        call: Any = self._call
        try:
            message = await call.read()
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return None
        return None if message is getattr(grpc.aio, "EOF") else message

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()


def closed() -> AethyrError:
    return AethyrError("the client is closed", Code.CANCELLED)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Plays a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("a function of the caller waits: use AsyncClient for coroutine functions")
