"""The upload behind `raypacs ingest` and the demo: several requests at a time, bounded memory."""

from __future__ import annotations

import re
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from raypacs.client import Client
from raypacs.errors import MasterUnavailable, NodeNotRunning, RaypacsError
from raypacs.records import OUTCOMES, Outcome
from raypacs.sender import sources
from raypacs.sender.sources import Candidate, Skipped

UPLOADS = 4
"""Requests at a time: enough to hide the node's fsync, few enough to leave it its cores."""

SKIPPED, FAILED = "skipped", "failed"
_TROUBLE = frozenset({Outcome.CONFLICT, Outcome.QUARANTINED, Outcome.REFUSED, FAILED})
_TAKEN = frozenset({Outcome.STORED, Outcome.KNOWN})
_UID = re.compile(r"\b\d+(?:\.\d+){2,}\b")
_EXAMPLES = 3
_REGISTERING_S = 0.3
_TRIES = 6
_RETRY_S = 0.5


@dataclass
class Summary:
    """What became of every file, by outcome and reason; grows with reasons, not with files."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    study_uids: set[str] = field(default_factory=set)
    sent_bytes: int = 0
    seconds: float = 0.0

    @property
    def partly(self) -> bool:
        """Whether some objects were not taken as they are."""
        return any(self.counts[outcome] for outcome in _TROUBLE)

    @property
    def taken(self) -> int:
        """Objects that are safe in the image cache: stored now or known before."""
        return self.counts[Outcome.STORED] + self.counts[Outcome.KNOWN]

    def add(self, name: str, outcome: str, reason: str) -> None:
        """Count one file."""
        self.counts[outcome] += 1
        if outcome in _TAKEN:
            return
        # One line for each kind of reason, not for each object: UIDs are left out.
        key = (outcome, _UID.sub("...", reason))
        self.reasons[key] += 1
        names = self.examples.setdefault(key, [])
        if len(names) < _EXAMPLES:
            names.append(name)

    def as_json(self) -> dict[str, Any]:
        """Return the summary for machines."""
        return {
            "counts": {
                str(each): self.counts[each] for each in (*map(str, OUTCOMES), SKIPPED, FAILED)
            },
            "reasons": [
                {
                    "outcome": outcome,
                    "reason": reason,
                    "count": count,
                    "examples": self.examples[outcome, reason],
                }
                for (outcome, reason), count in self.reasons.most_common()
            ],
            "study_uids": sorted(self.study_uids),
            "bytes": self.sent_bytes,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Progress:
    """Where the upload reports to; ``total`` may come late and in another thread."""

    total: Callable[[int, int], None]
    advance: Callable[[int, int], None]


def upload(client: Client, paths: Iterable[Path], *, source: str, progress: Progress) -> Summary:
    """Send every DICOM file under ``paths`` and hint that the touched studies are complete.

    At most ``2 * UPLOADS`` files are in flight, each streamed block by block.

    Raises:
        NodeNotRunning: the node went away and did not come back within the tries.
        MasterUnavailable: likewise the master.
    """
    roots = list(paths)
    summary = Summary()
    started = time.monotonic()
    counter = threading.Thread(
        target=lambda: progress.total(*sources.count(roots)), name="count", daemon=True
    )
    counter.start()
    with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
        running: dict[Future[dict[str, Any]], Candidate] = {}
        for found in sources.find(roots):
            if isinstance(found, Skipped):
                outcome = FAILED if found.looks_dicom else SKIPPED
                summary.add(found.name, outcome, found.reason)
                progress.advance(1, 0)
                continue
            if len(running) >= 2 * UPLOADS:
                _collect(running, summary, progress)
            running[pool.submit(_send, client, found, source)] = found
        while running:
            _collect(running, summary, progress)
    counter.join()
    if summary.study_uids:
        # A registration may be as far behind as its interval; a hint must not be faster.
        _, settings = client.settings()
        time.sleep(float(settings.get("register_interval_s", 1.0)) + _REGISTERING_S)
        client.complete(summary.study_uids)
    summary.seconds = time.monotonic() - started
    return summary


def _collect(
    running: dict[Future[dict[str, Any]], Candidate], summary: Summary, progress: Progress
) -> None:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        candidate = running.pop(future)
        told = future.result()
        summary.add(candidate.name, told["outcome"], told.get("reason", ""))
        if told["outcome"] in _TAKEN and told.get("study_uid"):
            summary.study_uids.add(told["study_uid"])
        summary.sent_bytes += candidate.size_bytes
        progress.advance(1, candidate.size_bytes)


def _send(client: Client, candidate: Candidate, source: str) -> dict[str, Any]:
    """Send one file; again after a lost connection, since identical bytes are recognised."""
    for attempt in range(1, _TRIES + 1):
        try:
            return client.ingest(candidate.read(), size_bytes=candidate.size_bytes, source=source)
        except httpx.TransportError as exc:
            if attempt == _TRIES:
                return _given_up(client, exc)
        except MasterUnavailable:
            if attempt == _TRIES:
                raise
        except RaypacsError as exc:
            return {"outcome": Outcome.REFUSED, "reason": str(exc)}
        except (OSError, EOFError, zipfile.BadZipFile, RuntimeError) as exc:
            return {"outcome": FAILED, "reason": f"cannot be read: {exc}"}
        time.sleep(_RETRY_S * 2**attempt)
    raise AssertionError("unreachable")


def _given_up(client: Client, error: httpx.TransportError) -> dict[str, Any]:
    """Tell a node that is gone from one that only breaks off at this object.

    Raises:
        NodeNotRunning: it is gone.
    """
    try:
        client.health()
    except RaypacsError:
        raise NodeNotRunning(f"{client.url} does not answer any more: {error}") from error
    return {"outcome": FAILED, "reason": f"the node broke off each time: {error}"}
