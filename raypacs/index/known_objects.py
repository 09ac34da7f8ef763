"""Which objects of a study should lie on tiers, as the index has it: to be compared with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from raypacs import layout
from raypacs.index import evicting
from raypacs.index.schema import asides, containers, delete_intents, instances, packs, series

Place = tuple[str, str]


@dataclass
class Objects:
    """``objects``: (tier, path) to bytes. ``optional``: those that may be there or not.

    ``in_force``: (tier, path) of manifests whose instances should be there; ``leaving``: (tier of
    the instances, tier, path of the manifest) of instances that are being deleted.
    """

    objects: dict[Place, int] = field(default_factory=dict)
    optional: set[Place] = field(default_factory=set)
    in_force: list[Place] = field(default_factory=list)
    leaving: list[tuple[str, str, str]] = field(default_factory=list)


def of_study(conn: sa.Connection, study_uid: str) -> Objects:
    """Return the objects of a study, or for '' those that belong to none."""
    found = Objects()
    for table, path, size in (
        (instances, instances.c.path, instances.c.size_bytes),
        (packs, packs.c.pack_path, packs.c.pack_bytes),
        (packs, packs.c.header_path, packs.c.header_bytes),
        (containers, containers.c.path, containers.c.size_bytes),
        (asides, asides.c.path, asides.c.size_bytes),
    ):
        query = sa.select(table.c.tier, path, size)
        query = query.where(table.c.study_uid == study_uid, table.c.tier != "")
        found.objects |= {(row[0], row[1]): int(row[2]) for row in conn.execute(query)}
    for place in list(found.objects):
        if place[1].startswith("quarantine/"):
            found.optional.add((place[0], layout.quarantine_reason(place[1])))
    _manifests(conn, study_uid, found)
    _intents(conn, study_uid, found)
    return found


def _manifests(conn: sa.Connection, study_uid: str, found: Objects) -> None:
    query = sa.select(series.c.manifest_tier, series.c.manifest_path, series.c.manifest_bytes)
    gone = evicting.gone_paths(conn, study_uid)
    query = query.where(series.c.study_uid == study_uid, series.c.manifest_path != "")
    for tier, path, size_bytes in conn.execute(query):
        found.objects[tier, path] = int(size_bytes)
        if path not in gone:
            found.in_force.append((tier, path))


def _intents(conn: sa.Connection, study_uid: str, found: Objects) -> None:
    ours = delete_intents.c.study_uid == study_uid
    for row in conn.execute(sa.select(delete_intents).where(ours)):
        if row.what == "listed":
            found.leaving.append((row.tier, row.list_tier, row.path))
        else:
            found.optional.add((row.tier, row.path))
