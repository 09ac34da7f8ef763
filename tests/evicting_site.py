"""A site with libraries in one process: proofs and levels are written as others write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from raypacs import layout
from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.config import TierSettings, default_tiers
from raypacs.index import holds, ledger, levels
from raypacs.index.engine import insert_many
from raypacs.index.levels import LevelRow
from raypacs.index.schema import containers, copies, delete_intents, series, studies
from raypacs.policy.holding import LIBRARY
from raypacs.policy.levels import Level
from tests.real_site import RealSite
from tests.web_world import image_file

TB = 10**12


def tiers(folder: Path, libraries: int = 2, images: int = 1) -> tuple[TierSettings, ...]:
    """An image and a web tier, and libraries, below a folder."""
    more = [
        TierSettings(name=f"lib{number}", role="library", url=(folder / f"lib{number}").as_uri())
        for number in range(1, libraries + 1)
    ]
    more += [
        TierSettings(
            name=f"image{number}", role="image", url=(folder / f"im{number}").as_uri(), order=number
        )
        for number in range(2, images + 1)
    ]
    found = (*default_tiers(folder), *more)
    return tuple(one.model_copy(update={"capacity_bytes": TB}) for one in found)


class EvictingSite(RealSite):
    """A :class:`RealSite` whose studies can be proven in libraries without an ARCHIVE."""

    def __init__(self, folder: Path, url: str, *, images: int = 1, **settings: Any) -> None:
        super().__init__(folder, url, tiers(folder, images=images))
        # Nothing is archived by itself: tests say what is proven.
        closed = ArchiveSettings(window_start="03:00", window_end="03:01", red_opens=False)
        self.change(archive=closed, **settings)

    def change(self, **settings: Any) -> None:
        """Apply other settings."""
        self.settings = self.settings.model_copy(update=settings)
        self.master.apply_settings(self.settings, "test")

    def study(self, uid: str, *, series: int = 1, count: int = 2, **named: Any) -> None:
        """Receive a small study."""
        self.store(*study_files(uid, series=series, count=count, **named))

    def ready(self, *uids: str, libraries: tuple[str, ...] = ("lib1",), **named: Any) -> None:
        """Receive, prepare, seal and prove studies, each accessed later than the one before."""
        for uid in uids:
            self.study(uid, **named)
        for _ in uids:  # a node takes as many as it has cores
            self.prepare()
        self.now += 60
        for uid in uids:
            assert self.master.seal_now(uid)
        for uid in uids:
            self.now += 1
            self.master.touched([uid])
            for library in libraries:
                self.prove(uid, library)

    def prove(self, uid: str, library: str = "lib1") -> None:
        """Write what ARCHIVE reports of a study: a container a series, read back."""
        with self.master._writer.transaction(self.now) as txn:
            ours = studies.c.study_uid == uid
            generation = txn.conn.execute(sa.select(studies.c.generation).where(ours)).scalar_one()
            found = txn.conn.execute(sa.select(series).where(series.c.study_uid == uid)).all()
            rows = []
            for one in found:
                token = layout.new_token()
                path = layout.container(uid, one.series_uid, token)
                self.tier(library).put_durable(path, b"container")
                rows.append(
                    {
                        "tier": library,
                        "path": path,
                        "study_uid": uid,
                        "series_uid": one.series_uid,
                        "token": token,
                        "form": "as received",
                        "size_bytes": 9,
                        "instance_count": one.instance_count,
                        "generation": generation,
                        "created_s": txn.now,
                    }
                )
            insert_many(txn.conn, containers, rows)
            ledger.commit(txn, {library: 9 * len(rows)})
            copy = {
                "study_uid": uid,
                "tier": library,
                "objects": len(rows),
                "size_bytes": 9 * len(rows),
                "generation": generation,
                "archive_proven": True,
                "proven_s": txn.now,
                "created_s": txn.now,
                "hold": LIBRARY,
            }
            insert_many(txn.conn, copies, [copy])
            holds.refresh(txn, [uid])

    def damage(self, uid: str, library: str = "lib1") -> None:
        """Write what VERIFY reports of a container with a flipped byte."""
        with self.master._writer.transaction(self.now) as txn:
            ours = sa.and_(containers.c.study_uid == uid, containers.c.tier == library)
            txn.conn.execute(sa.update(containers).where(ours).values(damaged="checksum"))
            copy = sa.and_(copies.c.study_uid == uid, copies.c.tier == library)
            txn.conn.execute(sa.update(copies).where(copy).values(archive_proven=False))
            holds.refresh(txn, [uid])

    def level(self, tier: str, level: Level, need_bytes: int, **more: int) -> None:
        """Write a cache's level, and what it needs from now on."""
        row = self.reader.ledger()[tier]
        detail = {
            "hours_p50": 20.5,
            "need_bytes": need_bytes,
            "need_bytes_amber": more.get("amber", need_bytes),
            "need_bytes_red": more.get("red", need_bytes),
            "available_bytes": row.capacity_bytes - row.used_bytes,
        }
        with self.master._writer.transaction(self.now) as txn:
            levels.keep(txn, [LevelRow(tier, level, self.now, self.now, detail)])

    def evict(self, ticks: int = 6) -> None:
        """Let the master decide, for some seconds."""
        for _ in range(ticks):
            self.now += 1
            self.master._evict_due(self.now)

    def delete(self, ticks: int = 4) -> None:
        """Let the grace period go by, and bytes go."""
        self.now += self.settings.eviction.grace_s + 1
        for _ in range(ticks):
            self.now += 1
            self.master._delete_due(self.now)

    def where(self, uid: str) -> dict[str, int]:
        """Return objects by tier of a study's copies."""
        rows = self.reader.study(uid)["copies"]
        return {row["tier"]: row["objects"] for row in rows}

    def offline(self, *uids: str) -> list[str]:
        """Return which of the studies are away."""
        return [uid for uid in uids if self.reader.study(uid)["offline_s"] > 0]

    def intents(self, what: str = "listed") -> list[Any]:
        """Return delete intents."""
        with self.reader._engine.connect() as conn:
            query = sa.select(delete_intents).where(delete_intents.c.what == what)
            return list(conn.execute(query.order_by(delete_intents.c.intent_id)))

    def files(self, tier: str, uid: str) -> list[str]:
        """Return the paths of a study's objects on a tier, manifests apart."""
        return sorted(
            path
            for name, path in self.objects()
            if name == tier and f"/{uid}/" in path and not layout.is_manifest(path)
        )


def study_files(uid: str, *, series: int = 1, count: int = 2, **named: Any) -> list[bytes]:
    """Small images; the last of several series is one of key images if ``key`` is given."""
    found = []
    for one in range(1, series + 1):
        for number in range(1, count + 1):
            pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + number
            more = dict(named)
            if more.pop("key", False) and one == series:
                more["Modality"] = "KO"
            found.append(
                image_file(pixels, number, study=uid, series=f"{uid}.{one}", bits_stored=12, **more)
            )
    return found
