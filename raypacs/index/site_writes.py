"""Writes about the site itself: tiers it adopts, how far its tiers' markers are, reconciling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raypacs.index import found_containers, reinventory, site
from raypacs.index.reinventory import Place
from raypacs.index.writing import Writing
from raypacs.records import ContainerRef, PreparedSeries


class SiteWrites(Writing):
    """The site's part of the writer."""

    def adopt_tier(self, url: str, tier: str, now: float) -> None:
        """Note that the tier at ``url`` carries this site's marker."""
        with self.transaction(now, durable=True) as txn:
            site.adopt(txn, url, tier)

    def sequence(self, now: float, *, at_least: int = 0) -> int:
        """Return the number of the newest change, once it and all before it are durable."""
        with self.transaction(now, durable=True) as txn:
            return site.keep_sequence(txn, at_least)

    def need_reconcile(self, why: str, now: float) -> None:
        """Switch deletions and sweeps off until index and tiers were compared."""
        with self.transaction(now, durable=True) as txn:
            site.need_reconcile(txn, why)

    def reconciled(self, detail: dict[str, int], now: float) -> None:
        """Switch deletions and sweeps on again; ``detail`` counts what was found."""
        with self.transaction(now, durable=True) as txn:
            site.reconciled(txn, detail)

    def interrupt(self, now: float) -> int:
        """End every attempt that the index believes to run (``reinventory.interrupt``)."""
        with self.transaction(now, durable=True) as txn:
            return reinventory.interrupt(txn)

    def agree(
        self,
        study_uid: str,
        now: float,
        *,
        adopted: Iterable[PreparedSeries] = (),
        lost_packs: Iterable[Place] = (),
        doomed: Iterable[Place] = (),
        grace_s: float = 0.0,
    ) -> None:
        """Adopt packs, forget lost ones, make a study's sums anew; ``doomed`` objects go later."""
        with self.transaction(now, durable=True) as txn:
            for place in lost_packs:
                reinventory.forget_pack(txn, study_uid, place)
            for pack in adopted:
                reinventory.adopt_pack(txn, pack)
            reinventory.recount_study(txn, study_uid)
            reinventory.doom(txn, study_uid, doomed, due_s=now + grace_s)

    def containers_found(
        self,
        study_uid: str,
        now: float,
        *,
        found: Sequence[ContainerRef],
        lost: Iterable[Place],
        missing: Mapping[str, tuple[int, int]],
        away: Sequence[str],
    ) -> None:
        """Register containers, and what lies nowhere but in them (``found_containers.agree``)."""
        with self.transaction(now, durable=True) as txn:
            found_containers.nowhere(txn, study_uid, away)
            found_containers.agree(txn, study_uid, found, lost, missing, len(away))

    def forget_instances(self, study_uid: str, lost: Mapping[str, Place], now: float) -> None:
        """Forget instances whose bytes are gone, and make the study's sums anew."""
        with self.transaction(now, durable=True) as txn:
            reinventory.forget_instances(txn, study_uid, lost)
            reinventory.recount_study(txn, study_uid)

    def leave(self, study_uid: str, now: float, *, instances_lost: int) -> bool:
        """Let a study that has nothing left leave the index (``reinventory.leave``)."""
        with self.transaction(now, durable=True) as txn:
            return reinventory.leave(txn, study_uid, instances_lost=instances_lost)

    def recount_ledger(self, now: float) -> dict[str, int]:
        """Make the bytes used per tier anew; return by how much each was wrong."""
        with self.transaction(now, durable=True) as txn:
            return reinventory.recount_ledger(txn)
