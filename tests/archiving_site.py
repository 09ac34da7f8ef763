"""A site in one process that archives: wired as a dispatcher does, by the site's own clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raypacs.index.schema import copies
from raypacs.records import Lease
from raypacs.work.run import Libraries, Site
from tests.restoring_site import RestoringSite

HOUR_S = 3600.0
NOON = 1_700_000_000.0 + 14 * HOUR_S
"""12:13 the day after the site begins (22:13 UTC, in the archive window)."""


class ArchivingSite(RestoringSite):
    """A :class:`RestoringSite` whose ARCHIVE asks the master and the window."""

    def ports(self) -> Site:
        """What a run may ask."""
        return replace(
            super().ports(),
            libraries=Libraries(
                seal=self.master.seal_study,
                may_go_on=self.may_go_on,
                archived=self.master.archived,
                running=self.reader.running_items,
            ),
        )

    def may_go_on(self, lease: Lease) -> bool:
        """As the dispatcher decides it."""
        by_itself = lease.payload.get("by") == "window"
        return not by_itself or bool(self.reader.archiving_open(self.now))

    def archives(self, **changes: Any) -> None:
        """Change settings of archiving."""
        current = self.reader.settings()[1].archive
        self.set(archive=type(current).model_validate({**dict(current), **changes}))

    def ticks(self, count: int = 4) -> None:
        """Let the master mind its duties."""
        self.seen()
        for _ in range(count):
            self.now += 1.1
            self.master.tick()

    def expire(self) -> None:
        """Let the leases of a node run out that is not heard any more."""
        for _ in range(100):
            self.now += 4
            self.master.tick()

    def night(self) -> list[str]:
        """Archive by itself until nothing is left; return studies in the order they were taken."""
        taken: list[str] = []
        for _ in range(20):
            self.ticks(3)
            waiting = [one for one in self.items("ARCHIVE") if one["state"].startswith("SCHED")]
            due = [one for one in waiting if one["due_s"] <= self.now]
            if not due:
                return taken
            taken += [one["study_uid"] for one in sorted(due, key=lambda one: one["item_id"])]
            self.work_off("ARCHIVE")
        return taken

    def proven(self, study: str) -> dict[str, bool]:
        """Whether each library copy is proven for the study as it is now."""
        generation = self.reader.study(study)["generation"]
        return {
            one["tier"]: bool(one["archive_proven"]) and one["generation"] == generation
            for one in self.copies(study)
            if one["tier"].startswith("lib")
        }

    def copies(self, study: str) -> list[dict[str, Any]]:
        """Return the rows of the copies of a study."""
        with self.reader._engine.connect() as conn:
            found = conn.execute(copies.select().where(copies.c.study_uid == study))
            return [dict(row) for row in found.mappings()]

    def damage(self, tier: str, path: str, offset: int = 200) -> None:
        """Flip a bit of an object behind everybody's back."""
        file = self.folder / tier / path
        data = bytearray(file.read_bytes())
        data[offset] ^= 1
        file.write_bytes(bytes(data))

    def events(self, study: str) -> list[str]:
        """Return the story of a study."""
        return [one["event"] for one in self.reader.why(study)]
