"""Options of a client. This file owns the connection string and what of it is shown."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any, Dict, Optional, Tuple
from urllib.parse import parse_qsl, unquote

from .errors import invalid

_PARAMETERS = ("tls", "ca", "cert", "key", "server_name", "token_file", "deadline",
               "attempt_deadline")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


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
    #: Its first line is the token. Read for each call.
    token_file: str = ""
    #: Seconds for a call with all its attempts, and for one attempt.
    deadline: float = 15.0
    attempt_deadline: float = 5.0
    text: str = dataclasses.field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        hosts = tuple(_host(host) for host in self.hosts)
        tls = bool(self.ca or self.cert) if self.tls is None else self.tls
        self.__dict__.update(hosts=hosts, tls=tls)  # What is frozen is for others.
        far = [host for host in hosts if not _loopback(host)]
        for wrong, field, problem in (
            (not hosts, "address", "names no host"),
            (bool(self.cert) != bool(self.key), "key" if self.cert else "cert", "is missing"),
            (not tls and (self.ca or self.cert or self.server_name), "tls", "is off, but others need it"),
            (self.token and self.token_file, "token_file", "there is a token in the address, too"),
            ((self.token or self.token_file) and far and not tls, "tls", "is off: all could read the token"),
            (min(self.deadline, self.attempt_deadline) <= 0, "deadline", "has to be more than 0"),
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
        given: Dict[str, Any] = {
            "hosts": tuple(name for name in names.rstrip("/").split(",") if name), "token": unquote(token),
            "text": f"aethyr://{'***@' if at else ''}{names}{'?' + query if query else ''}"}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in _PARAMETERS:
                raise invalid(name, f"is not known; known parameters: {', '.join(_PARAMETERS)}")
            if name == "tls" and value not in ("on", "off"):
                raise invalid("tls", "has to be on or off")
            is_time = name in ("deadline", "attempt_deadline")
            given[name] = value == "on" if name == "tls" else _seconds(name, value) if is_time else value
        return cls(**{**given, **more})

    def __str__(self) -> str:
        return self.text or f"aethyr://{'***@' if self.token else ''}{','.join(self.hosts)}"


def _seconds(name: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
    if not match:
        raise invalid(name, "has to be a number with the unit ms, s or m")
    return float(match[1]) * _UNITS[match[2]]


def _host(text: str) -> str:
    """The host with its port."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:@/\s]+)(?::(\d{1,5}))?", text)
    if not match or int(match[2] or 1) not in range(1, 65536):
        raise invalid("address", "a host has to be NAME, NAME:PORT or [IPV6]:PORT")
    return f"{match[1]}:{match[2] or 50051}"


def _loopback(host: str) -> bool:
    name = host.rpartition(":")[0].strip("[]")
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def token_of(options: Options) -> str:
    """The token for a call. A file is read for each call, so a new token is used at once."""
    if not options.token_file:
        return options.token
    try:
        with open(options.token_file, encoding="utf-8") as file:
            return file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("token_file", f"cannot be read: {type(error).__name__}") from error
