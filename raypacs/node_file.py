"""How programs on a host find the node that runs there, and tell a live one from its leftovers.

Two files: ``data_dir/node.lock`` is held with ``flock`` by the node process for its whole life, so
the kernel says whether a node runs, whatever crashed before; ``run_dir/node.json`` is written when
the node is ready and says where it listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from raypacs.config import Bootstrap
from raypacs.errors import AlreadyExists
from raypacs.process import process_start


@dataclass(frozen=True)
class NodeFile:
    """A node process and, once it is ready, what it offers (ports, URLs)."""

    pid: int
    started: str
    ready: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def http_url(self) -> str:
        """Base URL of DICOMweb and REST, '' while starting."""
        return str(self.details.get("http_url", ""))

    def is_running(self) -> bool:
        """Whether that very process is alive: same pid and same start time."""
        return self.started != "" and process_start(self.pid) == self.started


def lock_path(bootstrap: Bootstrap) -> Path:
    """Path of the lock a running node holds."""
    return bootstrap.data_dir.absolute() / "node.lock"


def node_path(bootstrap: Bootstrap) -> Path:
    """Path of the file a ready node is found by."""
    return bootstrap.run_dir / "node.json"


@contextmanager
def held(bootstrap: Bootstrap) -> Iterator[NodeFile]:
    """Hold the lock as this process's node; on leaving, the node file goes too.

    Raises:
        AlreadyExists: another process holds it; names its pid.
        OSError: the data folder cannot be written.
    """
    path = lock_path(bootstrap)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        if not _lock(handle):
            other = _read(path)
            raise AlreadyExists(
                f"a node already runs on {bootstrap.data_dir} (pid {other.pid if other else '?'})",
                hint="`raypacs status` shows it, `raypacs down` stops it",
            )
        mine = NodeFile(os.getpid(), process_start(os.getpid()))
        handle.truncate(0)
        handle.write(json.dumps({"pid": mine.pid, "started": mine.started}))
        handle.flush()
        node_path(bootstrap).unlink(missing_ok=True)
        try:
            yield mine
        finally:
            node_path(bootstrap).unlink(missing_ok=True)


def announce(bootstrap: Bootstrap, mine: NodeFile, details: dict[str, Any]) -> NodeFile:
    """Write the node file of a node that is ready; appears whole or not at all."""
    path = node_path(bootstrap)
    path.parent.mkdir(parents=True, exist_ok=True)
    ready = NodeFile(mine.pid, mine.started, True, details)
    whole = {"pid": ready.pid, "started": ready.started, "details": ready.details}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    temporary.replace(path)
    return ready


def find(bootstrap: Bootstrap) -> NodeFile | None:
    """Return the node that runs on this data folder (maybe not ready yet), else None."""
    path = lock_path(bootstrap)
    if not _is_locked(path):
        return None
    holder = _read(path)
    ready = _read(node_path(bootstrap))
    if ready is not None and (holder is None or ready.pid == holder.pid) and ready.is_running():
        return ready
    return holder


def _lock(handle: IO[str]) -> bool:
    # Somebody who only looks (`find`) holds the lock for a moment: ask more than once.
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> NodeFile | None:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        details = whole.get("details")
        return NodeFile(int(whole["pid"]), str(whole["started"]), bool(details), details or {})
    except (OSError, ValueError, KeyError):
        return None
