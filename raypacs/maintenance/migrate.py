"""``raypacs index migrate``: a small site moves to a database server, without importing again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from raypacs import node_file
from raypacs.config import Bootstrap
from raypacs.index import moving
from raypacs.index.engine import public_url


@dataclass(frozen=True, slots=True)
class Moved:
    """An index that is in another database now; URLs without passwords."""

    source: str
    target: str
    rows: dict[str, int]
    seconds: float


def _silent(table: str, rows: int) -> None:
    pass


def migrate_index(
    bootstrap: Bootstrap,
    to: str,
    *,
    now: float,
    progress: moving.Progress = _silent,
    force: bool = False,
) -> Moved:
    """Move the node's index into the empty database at URL ``to``; the node must be down.

    Afterwards ``index_url`` of every node is to be set to ``to``: the old index lets itself be
    read, but no master claims it any more.

    Raises:
        AlreadyExists: the node, the index' master or another node of it runs (``force``: or may).
        ConfigError: there is no index, it was moved already, or the target is not empty.
        IndexUnavailable: one of the databases does not work; nothing was moved.
    """
    began = time.monotonic()
    with node_file.held(bootstrap):
        rows = moving.move(
            bootstrap.database_url, to, now, progress, own=bootstrap.name, force=force
        )
    return Moved(public_url(bootstrap.database_url), public_url(to), rows, time.monotonic() - began)
