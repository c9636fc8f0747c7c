"""A service for the tests of a game. This file owns the process and its temporary storage."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Any, Optional

from .client import Client
from .errors import AethyrError

_CONFIGURATION = "{server: {listen: 'ADDRESS', shutdown_grace: 1.0}, event_sourcing: {enabled: true}}"
_MISSING = "no aethyr-event-store in AETHYR_EVENT_STORE or PATH: `cargo build --release` makes it"


class LocalService:
    """Runs `aethyr-event-store` without ImmuDB, on a free port of loopback, with a temporary storage.

    The program is `AETHYR_EVENT_STORE`, else the one in `PATH`. A context manager that stops it.
    """

    def __init__(self, program: Optional[str] = None, patience: float = 30.0) -> None:
        found = program or os.environ.get("AETHYR_EVENT_STORE") or shutil.which("aethyr-event-store")
        if not found or not os.path.exists(found):
            raise FileNotFoundError(_MISSING)
        self._program, self._patience = os.path.abspath(found), patience

    def client(self, **options: Any) -> Client:
        return Client(self.connection_string, **options)

    def start(self) -> LocalService:
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="aethyr-"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.connection_string = f"aethyr://{self.address}"
        configuration, output = self._folder / "server.yml", self._folder / "output"
        configuration.write_text(_CONFIGURATION.replace("ADDRESS", self.address))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AETHYR_", "IMMUDB_"))}
        with output.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "--config", str(configuration), "serve"], env=kept, cwd=self._folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + self._patience
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                text = output.read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError("the service does not start:\n" + text)
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            with self.client(deadline=1.0) as client:
                return bool(client.stats().version)
        except AethyrError:
            return False

    def stop(self) -> None:
        self._process.kill()  # Nobody needs its storage any more.
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()
