"""What the entry scripts of jobs/ do: on the cluster, talking to a node like any client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypacs.client import Client
from raypacs.sender import waiting
from raypacs.sender.upload import Progress, upload
from raypacs.sender.waiting import Prepared

SOURCE = "JOB"


def prepare(
    paths: Sequence[Path],
    query: dict[str, str],
    *,
    url: str,
    timeout_s: float,
) -> dict[str, Any]:
    """Ingest ``paths``, then have everything that matches ``query`` prepared, and wait for it.

    Without ``paths`` and ``query``: everything the node knows. Prints progress line by line.

    Returns:
        What became of the files (``ingest``) and how far preparing is (``prepare``).

    Raises:
        NodeNotRunning: no node answers at ``url``.
        RaypacsError: not prepared within ``timeout_s``.
    """
    told: dict[str, Any] = {}
    with Client(url) as client:
        study_uids: set[str] = set()
        if paths:
            summary = upload(client, paths, source=SOURCE, progress=_lines())
            told["ingest"] = summary.as_json()
            study_uids |= summary.study_uids
            print(f"ingested: {json.dumps(told['ingest']['counts'])}", flush=True)
        if query or not paths:
            study_uids |= {str(row["StudyInstanceUID"]) for row in client.studies(query)}
        client.complete(study_uids)
        chosen = study_uids if paths or query else None
        state = waiting.until_prepared(client, chosen, timeout_s=timeout_s, shown=_Printed())
    told["studies"] = len(study_uids)
    told["prepare"] = state.as_json()
    return told


def _lines() -> Progress:
    done = 0

    def advance(files: int, _size_bytes: int) -> None:
        nonlocal done
        done += files
        if done % 100 == 0:
            print(f"sent {done} files", flush=True)

    return Progress(total=lambda files, _: print(f"{files} files", flush=True), advance=advance)


class _Printed:
    """Prints how far preparing is, when that changed."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def __call__(self, state: Prepared) -> None:
        now = (state.prepared, state.objects)
        if now != self._last:
            self._last = now
            print(f"prepared {state.prepared} of {state.objects} objects", flush=True)
