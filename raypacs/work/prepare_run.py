"""PREPARE as a run: the chunks of all series as tasks, then one task a series that publishes it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from raypacs.config import CompressionRule
from raypacs.errors import ConfigError
from raypacs.records import Lease, PreparedSeries, StoredInstance, WorkResult
from raypacs.work import prepare
from raypacs.work.parts import Chunk, PrepareContext
from raypacs.work.run import Site, TaskFailure, Tasks, settings_for

_log = logging.getLogger(__name__)
_PUBLISH = -1
_COPY = CompressionRule(name="a decoder crashed on it or its neighbours", action="copy")


class PrepareRun:
    """One leased PREPARE: what is not prepared yet goes into a pack per series."""

    def __init__(self, lease: Lease, site: Site) -> None:
        self._lease, self._site = lease, site
        self._context: PrepareContext | None = None
        self._chunks: dict[tuple[str, int], Chunk] = {}
        self._copied: set[tuple[str, int]] = set()

    def run(self, tasks: Tasks) -> WorkResult:
        """Prepare what is not prepared yet, publish a pack per series."""
        self._site = replace(self._site, settings=settings_for(self._site, self._lease.study_uid))
        unprepared = self._site.unprepared(self._lease.study_uid)
        try:
            self._context = context = prepare.make_context(
                self._site.settings,
                self._lease,
                available_bytes=self._site.available_bytes(),
                need_bytes=sum(stored.record.size_bytes for stored in unprepared),
            )
        except ConfigError as exc:
            return WorkResult(error=f"waits for a tier: {exc}", waits=True)
        result = self._prepare(unprepared, context, tasks)
        if result.waits:
            self._site.refused(context.web.name)
        return result

    def clean_up(self, *, reported: bool) -> None:
        """Remove the attempt's parts; without a report its packs as well."""
        if self._context is not None:
            prepare.abandon(self._context, published=not reported)

    def _prepare(
        self, unprepared: Iterable[StoredInstance], context: PrepareContext, tasks: Tasks
    ) -> WorkResult:
        self._chunks = self._plan(unprepared)
        missing = Counter(series for series, _ in self._chunks)
        parts: dict[str, list[Any]] = {series: [None] * n for series, n in missing.items()}
        done: list[PreparedSeries] = []
        for key, chunk in self._chunks.items():
            tasks.submit(key, prepare.prepare_chunk, chunk, context)
        for (series, number), value in tasks.finished():
            if isinstance(value, TaskFailure):
                if value.crashed and self._again_as_received((series, number), context, tasks):
                    continue
                # What was published all the same counts.
                done += [one for one in tasks.cancel() if isinstance(one, PreparedSeries)]
                return replace(value.as_result(), packs=tuple(done))
            if number == _PUBLISH:
                done.append(value)
                continue
            self._chunks.pop((series, number))
            parts[series][number] = value
            missing[series] -= 1
            if not missing[series]:
                tasks.submit((series, _PUBLISH), prepare.publish_series, parts.pop(series), context)
        return WorkResult(packs=tuple(done))

    def _plan(self, unprepared: Iterable[StoredInstance]) -> dict[tuple[str, int], Chunk]:
        settings = self._site.settings
        by_series: dict[str, list[StoredInstance]] = {}
        for stored in unprepared:
            by_series.setdefault(stored.record.series_uid, []).append(stored)
        return {
            (series, number): chunk
            for series, instances in by_series.items()
            for number, chunk in enumerate(
                prepare.plan_chunks(
                    instances,
                    settings.chunk_bytes,
                    compression=settings.compression,
                    workers=self._site.cores,
                )
            )
        }

    def _again_as_received(
        self, key: tuple[str, int], context: PrepareContext, tasks: Tasks
    ) -> bool:
        """Submit a chunk on which workers died once more, as received, without a decoder.

        A decoder that crashes on damaged data will do it again, and must cost its chunk the
        wavelet form, not the study its preparation.
        """
        chunk = self._chunks.get(key)
        if chunk is None or key in self._copied:
            return False
        _log.warning("workers died", extra={"series": key[0], "chunk": key[1]})
        self._copied.add(key)
        tasks.submit(key, prepare.prepare_chunk, chunk, replace(context, compression=(_COPY,)))
        return True
