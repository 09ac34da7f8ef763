"""The task list at a million finished items: any filter, the first page and later ones.

A page is one ask, and every ask counts: what else the machine does is in the figures.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import Any

from benchmarks import sites
from benchmarks.figure import Figure, limit
from raypacs.index.reader import IndexReader
from tests.postgres import postgres_server

NAME = "tasklist"
DESCRIPTION = "task list with filters, paging and counts at 1,000,000 items, on both databases"

_COUNT, _COUNT_QUICK = 1_000_000, 10_000
_TIMES, _TIMES_QUICK = 200, 20
_LIMIT_MS = 50.0
_PAGE = 50
# The last is as deep as the REST API goes by offset; further pages are asked for by before_id.
_OFFSETS = (0, 2_000, 10_000)
_DAY = 86_400.0


def _filters(failed: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return filters by name; ``failed`` is an item that failed, of which some ask."""
    some, patient = failed["study_uid"], failed["patient_id"]
    month = {
        "created_after": str(sites.NOW - 400 * _DAY),
        "created_before": str(sites.NOW - 370 * _DAY),
    }
    return {
        "none": {},
        "kind": {"kind": "PREPARE"},
        "state": {"state": "FAILED"},
        "two states": {"state": "FAILED,COMPLETED"},
        "node": {"node": "node-3"},
        "node and state": {"node": "node-3", "state": "FAILED"},
        "wanted node": {"wanted_node": "node-5"},
        "wanted node, state": {"wanted_node": "node-5", "state": "COMPLETED"},
        "study": {"study_uid": some},
        "patient": {"patient_id": patient},
        "patient, none such": {"patient_id": "P000000000001"},
        "patient and error": {"patient_id": patient, "error": "no room"},
        "patient and error, none such": {"patient_id": "P000000000001", "error": "no room"},
        "AE": {"ae_title": "MODALITY7"},
        "AE, state and node": {"ae_title": "MODALITY7", "state": "FAILED", "node": "node-5"},
        "priority": {"priority": "stat"},
        "created": month,
        "created, state": month | {"state": "FAILED"},
        "updated": {"updated_after": str(sites.NOW - 3 * _DAY)},
        "updated before": {"updated_before": str(sites.NOW - 30 * _DAY)},
        "updated before, long ago": {"updated_before": str(sites.NOW - 3600 * _DAY)},
        "updated, node": {"updated_after": str(sites.NOW - 30 * _DAY), "node": "node-2"},
        "error, common": {"error": "no room"},
        "error, rare": {"error": f"room for {some}"},
        "error, beyond ASCII": {"error": "no rööm"},
        "error, none such": {"error": "no such text"},
        "error and created": month | {"error": "web1"},
    }


def run(quick: bool, count: int | None) -> list[Figure]:
    """List at ``count`` items (default 1,000,000; quick 10,000)."""
    items = count or (_COUNT_QUICK if quick else _COUNT)
    times = _TIMES_QUICK if quick else _TIMES
    figures: list[Figure] = []
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server(sites.folder(), durable=True))
        for database, url in (
            ("SQLite", sites.sqlite_site(items)),
            ("PostgreSQL", sites.postgresql_site(server, items)),
        ):
            reader = IndexReader(url)
            (failed,) = reader.tasks({"state": "FAILED"}, 1)["items"]
            for name, asked in _filters(failed).items():
                first = reader.tasks(asked, 1)
                for offset in _OFFSETS:
                    if offset and first["total_is_exact"] and offset >= first["total"]:
                        continue
                    page = f"{database}, {name}" + (f", from {offset:,}" if offset else "")
                    figures += _figures(page, _measure(reader, asked, offset, 0, times))
                page = f"{database}, {name}, before an item in the middle"
                figures += _figures(page, _measure(reader, asked, 0, items // 2, times))
            reader.close()
    return figures


def _figures(page: str, seconds: list[float]) -> list[Figure]:
    """Return the 99th percentile (by nearest rank), beside its limit."""
    p99_ms = sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1] * 1000
    return [limit(f"{page}: p99", "ms", [p99_ms], at_most=_LIMIT_MS)]


def _measure(
    reader: IndexReader, asked: dict[str, str], offset: int, before_id: int, times: int
) -> list[float]:
    """Return the seconds of each ask for a page."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        reader.tasks(asked, _PAGE, offset, before_id)
        seconds.append(time.perf_counter() - began)
    return seconds
