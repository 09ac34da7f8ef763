"""Calls about archiving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raypacs.client.http import Http


class ArchiveCalls(Http):
    """How archiving stands, and orders."""

    def archive_status(self) -> dict[str, Any]:
        """Return window, what waits, rate and libraries."""
        return self._json("GET", "/api/v1/archive")

    def archive(
        self, study_uids: Sequence[str] = (), *, libraries: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Archive studies now, all that are not archived where none is named.

        Returns:
            ``items`` and ``refused``.

        Raises:
            InvalidQuery: there is no library, or none of such a name.
        """
        return self._paged("orders", study_uids, {"libraries": list(libraries)})

    def verify_archive(self, study_uids: Sequence[str] = (), *, sample: int = 0) -> dict[str, Any]:
        """Read containers whole: of studies, of a ``sample``, else of all; as :meth:`archive`."""
        if sample:
            body = {"sample": sample}
            return self._json("POST", "/api/v1/archive/verifications", json=body)
        return self._paged("verifications", study_uids, {})

    def _paged(self, order: str, study_uids: Sequence[str], rest: dict[str, Any]) -> dict[str, Any]:
        items: list[int] = []
        refused: list[dict[str, str]] = []
        path = f"/api/v1/archive/{order}"
        pages = [list(study_uids[at : at + 1000]) for at in range(0, len(study_uids), 1000)]
        for page in pages:
            told = self._json("POST", path, json={"study_uids": page, **rest})
            items, refused = items + told["items"], refused + told["refused"]
        after = ""
        while not study_uids:
            told = self._json("POST", path, json={"all": True, "after": after, **rest})
            items, refused = items + told["items"], refused + told["refused"]
            after = told["after"]
            if not after:
                break
        return {"items": items, "refused": refused}
