"""The task list at a million finished items: any filter, the first page and a later one.

The fastest of three asks counts, so that what else the machine does is left out.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks import sites
from benchmarks.figure import Figure, limit
from raypacs.index.reader import IndexReader
from tests.postgres import postgres_server

NAME = "tasklist"
DESCRIPTION = "task list with filters, paging and counts at 1,000,000 items, on both databases"

_COUNT, _COUNT_QUICK = 1_000_000, 10_000
_TIMES, _TIMES_QUICK = 100, 20
_ASKS = 3
_LIMIT_MS = 50.0
_PAGE = 50
_DAY = 86_400.0


def _filters(count: int) -> dict[str, dict[str, str]]:
    some = sites.study_uid(count // 3)
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
        "study": {"study_uid": some},
        "patient": {"patient_id": "P000000000001"},
        "AE": {"ae_title": "MODALITY7"},
        "AE, state and node": {"ae_title": "MODALITY7", "state": "FAILED", "node": "node-5"},
        "priority": {"priority": "stat"},
        "created": month,
        "created, state": month | {"state": "FAILED"},
        "updated": {"updated_after": str(sites.NOW - 3 * _DAY)},
        "updated, node": {"updated_after": str(sites.NOW - 30 * _DAY), "node": "node-2"},
        "error, common": {"error": "no room"},
        "error, rare": {"error": f"room for {some}"},
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
            for name, asked in _filters(items).items():
                for offset in (0, 2000):
                    page = f"{database}, {name}" + (f", from {offset:,}" if offset else "")
                    seconds = sorted(
                        min(_ask(reader, asked, offset) for _ in range(_ASKS)) for _ in range(times)
                    )
                    p99_ms = seconds[int(len(seconds) * 0.99)] * 1000
                    figures.append(limit(f"{page}: p99", "ms", [p99_ms], at_most=_LIMIT_MS))
            reader.close()
    return figures


def _ask(reader: IndexReader, asked: dict[str, str], offset: int) -> float:
    began = time.perf_counter()
    reader.tasks(asked, limit=_PAGE, offset=offset)
    return time.perf_counter() - began
