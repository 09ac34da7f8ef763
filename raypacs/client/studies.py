"""Calls about studies, objects, settings and the status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from raypacs.client.http import Http, error_of

AS_STORED = "application/dicom; transfer-syntax=*"
PAGE = 500


class StudyCalls(Http):
    """Studies in and out, and what holds for the whole cluster."""

    def health(self) -> dict[str, Any]:
        """Return what the gateway process says of itself; raises if it cannot serve."""
        told: dict[str, Any] = self._json("GET", "/api/v1/health")
        return told

    def status(self) -> dict[str, Any]:
        """Return the cluster at a glance."""
        return self._json("GET", "/api/v1/status")

    def studies(self, query: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the studies that match ``query`` (QIDO-RS keys), page by page."""
        offset = 0
        while True:
            params = {**(query or {}), "limit": str(PAGE), "offset": str(offset)}
            page = self._json("GET", "/api/v1/studies", params=params)
            yield from page
            if len(page) < PAGE:
                return
            offset += PAGE

    def study(self, study_uid: str) -> dict[str, Any]:
        """Return one study with its series, objects and conflicts.

        Raises:
            NotFound: no such study.
        """
        return self._json("GET", f"/api/v1/studies/{_part(study_uid)}")

    def delete_study(self, study_uid: str) -> dict[str, Any]:
        """Delete a study from every cache.

        Raises:
            NotFound: no such study.
        """
        return self._json("DELETE", f"/api/v1/studies/{_part(study_uid)}")

    def complete(self, study_uids: Iterable[str]) -> None:
        """Say that nothing more will come for these studies: prepare them now."""
        uids = sorted(study_uids)
        for start in range(0, len(uids), PAGE):
            body = {"study_uids": uids[start : start + PAGE]}
            self._json("POST", "/api/v1/complete", json=body)

    def ingest(
        self, content: bytes | Iterator[bytes], *, size_bytes: int, source: str
    ) -> dict[str, Any]:
        """Send one Part 10 file and return its outcome object. A lost connection is the caller's.

        Raises:
            httpx.TransportError: the connection broke; nothing is known about the object.
        """
        headers = {
            "Content-Type": "application/dicom",
            "Content-Length": str(size_bytes),
            "X-Raypacs-Source": source,
        }
        response = self._http.post("/api/v1/instances", content=content, headers=headers)
        if response.is_error:
            raise error_of(response)
        told: dict[str, Any] = response.json()["objects"][0]
        return told

    def settings(self) -> tuple[int, dict[str, Any]]:
        """Return the version of the settings and the settings."""
        answer = self._json("GET", "/api/v1/settings")
        return int(answer["version"]), answer["settings"]

    def apply_settings(self, settings: dict[str, Any], version: int | None = None) -> int:
        """Apply whole settings, if given only when ``version`` is still the current one.

        Raises:
            ConfigError: a setting is wrong.
            RequestRefused: somebody else changed the settings meanwhile.
        """
        body = settings if version is None else {"version": version, "settings": settings}
        return int(self._json("PUT", "/api/v1/settings", json=body)["version"])

    def explain_rules(
        self, instances: list[dict[str, Any]], rules: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """Return what compression rules (None: those in force) say of described instances.

        Raises:
            ConfigError: a rule is wrong.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(instances), PAGE):
            body = {"instances": instances[start : start + PAGE], "rules": rules}
            found += self._json("POST", "/api/v1/rules/test", json=body)["instances"]
        return found

    def study_rules(self, study_uid: str) -> list[dict[str, Any]]:
        """Return what the compression rules say of a stored study's instances. Raises NotFound."""
        path = f"/api/v1/studies/{_part(study_uid)}/rules"
        found: list[dict[str, Any]] = self._json("GET", path)["instances"]
        return found

    def download(
        self, study_uid: str, series_uid: str, sop_uid: str, *, accept: str = AS_STORED
    ) -> Iterator[bytes]:
        """Yield one instance as a Part 10 file (WADO-RS, PS3.18 section 10.4); as received.

        Raises:
            NotFound: no such instance.
            UnsupportedPixels: it cannot be had as ``accept`` says.
        """
        study, series, instance = _part(study_uid), _part(series_uid), _part(sop_uid)
        path = f"/dicom-web/studies/{study}/series/{series}/instances/{instance}"
        with self._http.stream("GET", path, headers={"Accept": accept}) as response:
            if response.is_error:
                response.read()
                raise error_of(response)
            yield from response.iter_bytes(256 * 1024)


def _part(uid: str) -> str:
    """Return a UID as one part of a path, whatever somebody typed for it."""
    return quote(uid, safe="")
