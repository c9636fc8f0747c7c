"""Options of a client. This file owns the connection string and what of it is shown."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any, Dict, Optional, Tuple
from urllib.parse import unquote

from .errors import invalid

_PARAMETERS = ("tls", "ca", "cert", "key", "server_name", "token_file", "deadline", "attempt_deadline")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([1-9]\d{0,4}))?")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a client connects. `parse` makes them from a connection string."""

    hosts: Tuple[str, ...] = ("127.0.0.1:50051",)
    #: None: on if `ca` or `cert` is given.
    tls: Optional[bool] = None
    #: PEM files: authorities, client certificate and its key.
    ca: str = ""
    cert: str = ""
    key: str = ""
    #: Name that the certificate of the service must have, if it is not that of the host.
    server_name: str = ""
    token: str = dataclasses.field(default="", repr=False)
    #: Its first line is the token. Read for each attempt.
    token_file: str = ""
    #: Seconds for a call with all its attempts; for one attempt, and for one message of a stream.
    deadline: float = 15.0
    attempt_deadline: float = 5.0
    text: str = dataclasses.field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        hosts = tuple(_host(host) for host in self.hosts)
        tls = bool(self.ca or self.cert) if self.tls is None else self.tls
        self.__dict__.update(hosts=hosts, tls=tls)  # What is frozen is for others.
        far = not all(map(is_loopback, hosts))
        for wrong, field, problem in (
            (not hosts, "address", "names no host"),
            (bool(self.cert) != bool(self.key), "cert", "belongs together with key"),
            (not tls and (self.ca or self.cert or self.server_name), "tls", "is off, but others need it"),
            (self.token and not _TOKEN.fullmatch(self.token), "address", "the token has invalid characters"),
            (self.token and self.token_file, "token_file", "there is a token in the address, too"),
            ((self.token or self.token_file) and far and not tls, "tls", "is off: all could read the token"),
            (self.deadline <= 0, "deadline", "has to be more than 0"),
            (self.attempt_deadline <= 0, "attempt_deadline", "has to be more than 0"),
        ):
            if wrong:
                raise invalid(field, problem)

    @classmethod
    def parse(cls, address: str, **more: Any) -> Options:
        """Options from `aethyr://[TOKEN@]HOST[:PORT][,HOST…][?NAME=VALUE&…]`. `more` takes precedence."""
        scheme, separator, rest = address.partition("://")
        if not separator or scheme != "aethyr":
            raise invalid("address", "has to begin with aethyr://")
        where, _, query = rest.partition("?")
        token, at, names = where.rpartition("@")
        if "@" in query or (at and not token) or re.search("%(?![0-9A-Fa-f]{2})", rest):
            # What is wrong may be a part of the token: it is not shown.
            raise invalid("address", "has an empty token, or one that is not percent-encoded, or a wrong %")
        given: Dict[str, Any] = {
            "hosts": tuple(names[:-1].split(",") if names.endswith("/") else names.split(",")),
            "token": unquote(token),
            "text": f"aethyr://{'***' if at else ''}{rest[len(token) :]}"}
        for pair in filter(None, query.split("&")):
            name, _, text = pair.partition("=")
            if name not in _PARAMETERS:
                raise invalid(name, f"is not known; known parameters: {', '.join(_PARAMETERS)}")
            if name in given or not text:
                raise invalid(name, "is there twice" if text else "has no value")
            given[name] = _value(name, unquote(text))
        return cls(**{**given, **more})

    def __str__(self) -> str:
        return self.text or f"aethyr://{'***@' if self.token else ''}{','.join(self.hosts)}"


def _value(name: str, text: str) -> Any:
    if name == "tls":
        if text not in ("on", "off"):
            raise invalid(name, "has to be on or off")
        return text == "on"
    if not name.endswith("deadline"):
        return text
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)", text, re.ASCII)
    if not match:
        raise invalid(name, "has to be a number with the unit ms, s or m")
    return float(match[1]) * _UNITS[match[2]]


def _host(text: str) -> str:
    """The host with its port."""
    match = _HOST.fullmatch(text)
    if not match or int(match[2] or 1) > 65535:
        raise invalid("address", "a host has to be NAME, NAME:PORT or [IPV6]:PORT")
    return f"{match[1]}:{match[2] or 50051}"


def is_loopback(host: str) -> bool:
    return bool(re.fullmatch(r"(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+", host))


def read(field: str, path: str) -> bytes:
    """The content of the file that this option names."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise invalid(field, f"{path} cannot be read: {error.strerror}") from error


def token_of(options: Options) -> str:
    """The token for an attempt. A file is read each time, so a new token is used at once."""
    if not options.token_file:
        return options.token
    token = read("token_file", options.token_file).partition(b"\n")[0].decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token):
        raise invalid("token_file", "its first line is no token")
    return token
