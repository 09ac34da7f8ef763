"""Writes of erasures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raypacs.index import erasing, tombstones
from raypacs.index.writing import Writing


class EraseWrites(Writing):
    """The erasures' part of the writer."""

    def order_erasure(self, what: str, subject: str, now: float, *, who: str) -> int:
        """Order that a study or a patient is erased; return its number.

        Raises:
            InvalidQuery, NotFound: it cannot be, or nothing is known of it.
        """
        with self.transaction(now, durable=True) as txn:
            return erasing.order(txn, what, subject, who)

    def erase_study(self, number: int, study_uid: str, now: float, *, grace_s: float) -> None:
        """Take a study of an erasure out of the index. Raises StudySealed."""
        with self.transaction(now, durable=True) as txn:
            erasing.take(txn, number, study_uid, grace_s=grace_s)

    def erase_strays(
        self, number: int, study_uid: str, places: Sequence[tuple[str, str]], now: float
    ) -> None:
        """Let objects (tier, path) be deleted that the index did not know."""
        with self.transaction(now, durable=True) as txn:
            erasing.strays(txn, number, study_uid, places)

    def erasure_marked(
        self, number: int, places: Iterable[tuple[str, str, str]], state: str, now: float
    ) -> None:
        """Set the state of (study UID, tier, path) of an erasure."""
        with self.transaction(now) as txn:
            erasing.mark(txn, number, places, state)

    def erasure_goes_on(
        self, number: int, state: str, progress: Mapping[str, Any], now: float
    ) -> None:
        """Write down the state of an erasure, and how far it is."""
        with self.transaction(now) as txn:
            erasing.go_on(txn, number, state, progress)

    def forget_erased(self, number: int, now: float) -> dict[str, int]:
        """Remove what names an erasure's studies elsewhere in the index; rows by table."""
        with self.transaction(now, durable=True) as txn:
            return erasing.forget(txn, number)

    def finish_erasure(self, row: Mapping[str, Any], notes: Sequence[str], now: float) -> None:
        """Write the report of an erasure, and forget what it was about."""
        with self.transaction(now, durable=True) as txn:
            erasing.finish(txn, row, notes)

    def keep_erased(self, keys: Mapping[str, float], now: float) -> set[str]:
        """Keep hashes of erased studies that tiers tell of; return those that were not known."""
        with self.transaction(now, durable=True) as txn:
            return tombstones.keep(txn, keys)
