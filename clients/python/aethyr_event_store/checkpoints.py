"""Checkpoint stores of subscriptions. This file owns how a checkpoint is kept."""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Dict, NamedTuple, Optional, Protocol


class Checkpoint(NamedTuple):
    """A place in the total order, and the chain hash of the event there."""

    position: int
    chain_hash: bytes = b""


class CheckpointStore(Protocol):
    """Where checkpoints are kept. With the asyncio client both methods may be coroutine functions."""

    def load(self, name: str) -> Any:
        """The checkpoint (`Checkpoint`) of this name; None if there is none."""

    def save(self, name: str, checkpoint: Checkpoint) -> Any:
        """Keeps a checkpoint."""


class MemoryCheckpoints:
    """Checkpoints that end with the process."""

    def __init__(self) -> None:
        self._checkpoints: Dict[str, Checkpoint] = {}

    def load(self, name: str) -> Optional[Checkpoint]:
        return self._checkpoints.get(name)

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        self._checkpoints[name] = checkpoint


class FileCheckpoints(MemoryCheckpoints):
    """Checkpoints in a JSON file of one process. Each save writes a new file, syncs it and renames it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path, self._lock = os.path.abspath(path), threading.Lock()
        if os.path.exists(self._path):
            with open(self._path, encoding="utf-8") as file:
                for name, (position, chain_hash) in json.load(file).items():
                    self._checkpoints[name] = Checkpoint(position, bytes.fromhex(chain_hash))

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        with self._lock:
            super().save(name, checkpoint)
            every = {key: (at, chain_hash.hex()) for key, (at, chain_hash) in self._checkpoints.items()}
            with open(self._path + ".new", "w", encoding="utf-8") as file:
                json.dump(every, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._path + ".new", self._path)
