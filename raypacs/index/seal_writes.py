"""Writes that seal studies: their instances become manifests, and rows again when they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raypacs.index import sealing
from raypacs.index.sealing import ManifestRef, Sealing
from raypacs.index.writing import Writing


class SealWrites(Writing):
    """The sealing's part of the writer."""

    def plan_manifests(self, refs: Sequence[ManifestRef], now: float, *, due_s: float) -> None:
        """Note the paths of manifests before they are written; forgotten ones are deleted then."""
        with self.transaction(now, durable=True) as txn:
            sealing.plan(txn, refs, due_s=due_s)

    def seal(self, studies: Sequence[Sealing], now: float) -> list[str]:
        """Let durable manifests take the place of rows; return the studies that are sealed."""
        with self.transaction(now, durable=True) as txn:
            return [one.study_uid for one in studies if sealing.seal(txn, one)]

    def reopen(
        self,
        study_uid: str,
        told: Mapping[str, Sequence[dict[str, Any]]],
        now: float,
        *,
        grace_s: float,
    ) -> bool:
        """Make rows of a sealed study again (``sealing.reopen``)."""
        with self.transaction(now, durable=True) as txn:
            return sealing.reopen(txn, study_uid, told, grace_s=grace_s)
