"""Writes that adopt archives: their instances are registered where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raypacs.index import adopted, queue, registration, sealing, settings, tombstones
from raypacs.index.items import current, find, waiting_id, write
from raypacs.index.queue import Wish
from raypacs.index.writing import Writing
from raypacs.policy.kinds import ADOPT
from raypacs.records import InstanceRecord, Lease, Outcome, Registered


def key_of(tier: str) -> str:
    """Return what an item that adopts a tier has for a study: one waits, one runs, for a tier."""
    return f"tier:{tier}"


class AdoptWrites(Writing):
    """The adoptions' part of the writer."""

    def order_adoption(self, tier: str, wish: Wish, now: float) -> int:
        """Make a waiting ADOPT item for a tier, or change the one there is; return its id."""
        with self.transaction(now, durable=True) as txn:
            waiting = waiting_id(txn.conn, ADOPT, key_of(tier))
            item = None if waiting is None else find(txn.conn, waiting)
            if item is None:
                return queue.schedule(txn, ADOPT, key_of(tier), 0, wish)
            asked = {name for one in (item["payload"], wish.payload) for name in one if one[name]}
            payload = {**wish.payload, **dict.fromkeys(asked & {"prepare", "deleted"}, True)}
            write(txn, [{"_id": item["item_id"], "payload": payload, "updated_s": txn.now}])
            return int(item["item_id"])

    def register_adopted(
        self, records: Sequence[InstanceRecord], now: float, *, prepare: bool, deleted: bool
    ) -> list[Registered]:
        """Register instances of an adopted tier; answers in their order.

        ``prepare``: their studies become due, as received ones do; else they are left as they are.
        Those of studies that were deleted are REFUSED unless ``deleted``; those that are older than
        the erasure of their study always. A conflict is listed and stays where it lies, like
        everything there.

        Raises:
            StudySealed: a study must be reopened first; nothing was registered.
        """
        with self.transaction(now, durable=True) as txn:
            refused = adopted.refused(txn, records, deleted=deleted)
            # That holds even where deleted ones are asked for.
            erased = tombstones.refused(txn.conn, records)
            out = {
                one.path
                for one in records
                if (one.study_uid, one.tier) in refused or (one.tier, one.path) in erased
            }
            taken = [one for one in records if one.path not in out]
            due_s = now + settings.read(txn.conn)[1].quiet_s if prepare else None
            answers = iter(registration.register(txn, taken, holder="", due_s=due_s, adopted=True))
            return [
                Registered(one.sop_instance_uid, one.path, Outcome.REFUSED)
                if one.path in out
                else next(answers)
                for one in records
            ]

    def checksums(self, told: Sequence[tuple[InstanceRecord, str]], now: float) -> int:
        """Keep SHA-256s that were not known; return how many. Raises StudySealed."""
        with self.transaction(now, durable=True) as txn:
            sealing.check_open(txn.conn, (record.study_uid for record, _ in told))
            return adopted.checksums(txn, told)

    def let_prepare(self, study_uids: Iterable[str], now: float) -> int:
        """Let adopted studies become due; return how many do."""
        with self.transaction(now) as txn:
            return adopted.let_prepare(txn, study_uids)

    def item_progress(self, lease: Lease, progress: Mapping[str, Any], now: float) -> None:
        """Keep how far a running item is, in its payload. Raises StaleLease."""
        with self.transaction(now) as txn:
            item = current(txn, lease)
            payload = {**item["payload"], "progress": dict(progress)}
            write(txn, [{"_id": lease.item_id, "payload": payload, "updated_s": txn.now}])
