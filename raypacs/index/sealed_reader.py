"""The read side for processes that reach the tiers: sealed studies answer as open ones do.

What is a row in the index is read there, what is a manifest from its tier, through the callable
that the composition root gives. An instance of a sealed study is found by its study; by its SOP
Instance UID alone it is not (``docs/manifest-format.md``).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from raypacs.errors import InvalidQuery, NotFound, TierUnavailable
from raypacs.index import adopted, sealing, search
from raypacs.index.reader import IndexReader, stored
from raypacs.index.schema import copies, instances, series, studies
from raypacs.index.sealing import ManifestRef, Row
from raypacs.records import InstanceRecord, StoredInstance

Place = tuple[str, str, int, float]
"""Study UID, path, size in bytes and time of an adopted instance's file."""

ManifestRows = Callable[[str, str], list[Row]]
"""(tier, path) of a manifest to its instances; raises NotFound once it was deleted."""

_MOST_MANIFESTS = 200
_TRIES = 3
_PAGE = 1000
_BY_SERIES = ("StudyInstanceUID", "SeriesInstanceUID")


class SealedReader(IndexReader):
    """An IndexReader that also knows the instances of sealed studies. Thread-safe.

    What reads them may raise TierUnavailable and ManifestCorrupt.
    """

    def __init__(self, url: str, manifest_rows: ManifestRows) -> None:
        """Read the index at ``url``, and manifests through ``manifest_rows``."""
        super().__init__(url)
        self._manifest_rows = manifest_rows

    def known_sealed(
        self, study_uid: str, series_uid: str, sop_instance_uid: str
    ) -> tuple[str, str, str] | None:
        """Return (sha256, Transfer Syntax UID, path) of an instance of a sealed series.

        None if there is none, or its manifest cannot be read just now.
        """
        try:
            for row in self._rows_of(self.manifests(study_uid, series_uid)):
                if row["sop_instance_uid"] == sop_instance_uid:
                    return row["sha256"], row["transfer_syntax_uid"], row["path"]
        except (NotFound, TierUnavailable):
            pass  # stored once more, at worst: registration finds out
        return None

    def instances(self, study_uid: str, series_uid: str = "") -> list[StoredInstance]:
        """Return the instances of a study (or one of its series), by series and number."""
        where = instances.c.study_uid == study_uid
        if series_uid:
            where = sa.and_(where, instances.c.series_uid == series_uid)
        for attempt in range(_TRIES):
            with self._snapshot() as conn:
                found = stored(conn, where)
                refs = sealing.manifests(conn, study_uid, series_uid)
            try:
                found += [_as_stored(row) for row in self._rows_of(refs)]
            except NotFound:  # reopened or deleted since
                if attempt == _TRIES - 1:
                    raise
            else:
                return sorted(found, key=lambda one: one.record.series_uid) if refs else found
        raise AssertionError("unreachable")

    def unprepared(self, study_uid: str) -> list[StoredInstance]:
        """Return the instances of a study that have no prepared form yet, sealed or not.

        What could not be prepared is archived, and sealed for that; it may be tried again.
        """
        if not self.manifests(study_uid):
            return super().unprepared(study_uid)
        return [one for one in self.instances(study_uid) if not one.form and one.record.tier]

    def locate_instance(self, sop_instance_uid: str, study_uid: str = "") -> StoredInstance | None:
        """Return the served instance; one of a sealed study only with ``study_uid``."""
        found = super().locate_instance(sop_instance_uid)
        if found is not None or not study_uid:
            return found
        ours = (
            one
            for one in self.instances(study_uid)
            if one.record.sop_instance_uid == sop_instance_uid
        )
        return next(ours, None)

    def served(self, study_uid: str, sop_instance_uid: str) -> InstanceRecord | None:
        """Return the record of the served instance, as :meth:`locate_instance`."""
        found = self.locate_instance(sop_instance_uid, study_uid)
        return found.record if found is not None else None

    def adopted_places(self, tier: str) -> Iterator[list[Place]]:
        """Yield every instance on a tier, of sealed studies too: which file it is, in lists."""
        with self._snapshot() as conn:
            yield from adopted.open_places(conn, tier, _PAGE)
            sealed = conn.execute(
                sa.select(copies.c.study_uid)
                .join(studies, studies.c.study_uid == copies.c.study_uid)
                .where(copies.c.tier == tier, studies.c.sealed_s > 0)
            ).scalars()
            uids = list(sealed)
        for uid in uids:
            records = (one.record for one in self.instances(uid))
            yield [
                (uid, one.path, one.size_bytes, one.received_at_s)
                for one in records
                if one.tier == tier
            ]

    def search_instances(self, params: search.Params) -> list[search.Row]:
        """QIDO-RS instances, with series' and study's attributes.

        Raises:
            InvalidQuery: also where the keys name neither study nor series, and too many sealed
                series would have to be read.
        """
        limit, offset = search.page(params)
        with self._snapshot() as conn:
            sealed = self._search_sealed(conn, params)
            first = next(sealed, None)
            if first is None:
                return search.search_instances(conn, params)
            merged = heapq.merge(
                _search_open(conn, params, offset + limit), chain([first], sealed), key=_order
            )
            return list(islice(merged, offset, offset + limit))

    def _search_sealed(self, conn: sa.Connection, params: search.Params) -> Iterator[search.Row]:
        wanted = search.instance_keys(params)
        matching = search.sealed_series(conn, params)
        with _Scratch() as scratch:
            for number, (study, one) in enumerate(matching):
                if number >= _MOST_MANIFESTS and not search.asks(params, *_BY_SERIES):
                    raise InvalidQuery(
                        "a search for instances that names neither study nor series matches too "
                        "many sealed series",
                        hint="search for the study first",
                    )
                rows = self._manifest_rows(one["manifest_tier"], one["manifest_path"])
                yield from scratch.search(study, one, rows, wanted)

    def _rows_of(self, refs: list[ManifestRef]) -> Iterator[Row]:
        for ref in refs:
            yield from self._manifest_rows(ref.tier, ref.path)

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        """Connect so that all queries see the same state: a study is open or sealed, never both."""
        with self._engine.connect() as conn:
            if conn.dialect.name != "sqlite":
                conn = conn.execution_options(isolation_level="REPEATABLE READ")
            yield conn


class _Scratch:
    """An index of one series in memory: instances of a manifest are searched by the same SQL."""

    def __enter__(self) -> _Scratch:
        self._engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        self._conn = self._engine.connect()
        for table in (studies, series, instances):
            # Without the indexes, which cost more than they save for one series.
            self._conn.execute(sa.schema.CreateTable(table))
        return self

    def __exit__(self, *exc: object) -> None:
        self._conn.close()
        self._engine.dispose()

    def search(
        self, study: Row, one: Row, rows: list[Row], wanted: dict[str, str]
    ) -> list[search.Row]:
        """Return the instances of a series that match, in the order of its manifest."""
        for table in (studies, series, instances):
            self._conn.execute(sa.delete(table))
        self._conn.execute(sa.insert(studies), study)
        self._conn.execute(sa.insert(series), one)
        self._conn.execute(sa.insert(instances), rows)
        place = {row["sop_instance_uid"]: number for number, row in enumerate(rows)}
        found = search.search_instances(self._conn, wanted)
        return sorted(found, key=lambda row: place[row["SOPInstanceUID"]])


def _search_open(conn: sa.Connection, params: search.Params, most: int) -> Iterator[search.Row]:
    """Yield matching instances that have a row, a page at a time."""
    for offset in range(0, most, _PAGE):
        asked = {**params, "limit": str(min(_PAGE, most - offset)), "offset": str(offset)}
        found = search.search_instances(conn, asked)
        yield from found
        if len(found) < _PAGE:
            return


def _order(row: search.Row) -> tuple[str, str]:
    # Within a series the order is that of its source: a series is sealed as a whole.
    return row["StudyInstanceUID"], row["SeriesInstanceUID"]


def _as_stored(row: Row) -> StoredInstance:
    # A manifest of an earlier version has fewer columns.
    record = InstanceRecord(**{name: row[name] for name in InstanceRecord.__slots__ if name in row})
    return StoredInstance(record, form=row["form"], reason=row["reason"])
