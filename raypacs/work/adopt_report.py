"""What an adoption left out or found changed, file by file: gzip of JSON lines, kept on a web tier.

A line: ``{"what", "path", "why"}``; ``what`` is skipped, unlisted, duplicate, conflict, undecided,
changed, gone, moved or refused (docs/adopt.md).
"""

from __future__ import annotations

import gzip
import json
import logging
import tempfile
from collections.abc import Iterator

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import AlreadyExists, TierFull, TierUnavailable
from raypacs.work.source import find_tier

_log = logging.getLogger(__name__)
_PIECE_BYTES = 1024 * 1024
_SPOOL_BYTES = 4 * 1024 * 1024


class Report:
    """Lines of one attempt; :meth:`keep` ends it."""

    def __init__(self, token: str) -> None:
        self.lines = 0
        self._token = token
        # Read again once it is written, and closed there.
        self._spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        self._packed = gzip.GzipFile(fileobj=self._spool, mode="wb", mtime=0)

    def add(self, what: str, path: str, why: str = "") -> None:
        """Add a line."""
        line = json.dumps({"what": what, "path": path, "why": why}, ensure_ascii=False)
        self._packed.write(line.encode("utf-8", "backslashreplace") + b"\n")
        self.lines += 1

    def keep(self, tiers: tuple[TierSettings, ...]) -> tuple[str, str]:
        """Store it on the first web tier that takes it; return (tier, path), '' where none does."""
        self._packed.close()
        path = layout.adoption_report(self._token)
        webs = [one for one in tiers if one.role == "web" and one.takes_new]
        try:
            for settings in sorted(webs, key=lambda one: one.order):
                try:
                    find_tier(tiers, settings.name).put_durable(path, self._pieces())
                except (TierFull, TierUnavailable, AlreadyExists) as exc:
                    _log.warning("no report: %s", exc, extra={"tier": settings.name})
                else:
                    return settings.name, path
            return "", ""
        finally:
            self.close()

    def close(self) -> None:
        """Let go of what was not kept. Safe to repeat."""
        self._packed.close()
        self._spool.close()

    def _pieces(self) -> Iterator[bytes]:
        self._spool.seek(0)
        while piece := self._spool.read(_PIECE_BYTES):
            yield piece
