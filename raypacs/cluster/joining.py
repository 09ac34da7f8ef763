"""What the head of a cluster says of it to nodes that join, kept by Ray's control service."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ray.experimental import internal_kv

from raypacs.config import Bootstrap
from raypacs.errors import ConfigError, NodeNotRunning

_KEY = b"cluster"
_NAMESPACE = b"raypacs"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DECLARED_S = 60.0


def declare(bootstrap: Bootstrap) -> None:
    """Say what a node that joins must agree with; the head's word, renewed at each start."""
    told = {"hash": bootstrap.hash(), "file": _file(bootstrap)}
    internal_kv._internal_kv_put(
        _KEY, json.dumps(told).encode(), overwrite=True, namespace=_NAMESPACE
    )


def agrees(bootstrap: Bootstrap) -> bool:
    """Whether a joining node has the cluster's configuration; it must not make a master if not.

    Raises:
        ConfigError: the index is an SQLite file that is not the head's very file.
        NodeNotRunning: the head is not up.
    """
    told = _told()
    if told["hash"] != bootstrap.hash():
        return False
    if told["file"] != _file(bootstrap):
        raise ConfigError(
            f"{bootstrap.index_url} is not the head's file: SQLite is for nodes on one host",
            setting="index_url",
            hint="`raypacs index migrate --to postgresql://...` moves the index to a server",
        )
    return True


def _told() -> dict[str, Any]:
    deadline = time.monotonic() + DECLARED_S
    while True:
        value = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)
        if value is not None:
            told: dict[str, Any] = json.loads(value)
            return told
        if time.monotonic() > deadline:
            raise NodeNotRunning("the cluster's head is not up", hint="start it first")
        time.sleep(0.2)


def _file(bootstrap: Bootstrap) -> str:
    """Return which file on which running kernel an SQLite index is; '' for a server."""
    if not bootstrap.database_url.startswith("sqlite"):
        return ""
    path = bootstrap.database_url.partition(":///")[2]
    try:
        found = os.stat(path)
        kernel = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "not there"
    return f"{kernel} {found.st_dev} {found.st_ino}"
