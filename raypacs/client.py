"""HTTP client of a node's REST API (docs/rest.md) and DICOMweb: used by the CLI and by jobs.

Every call raises the error the node named (``kind`` of the problem details), so that a caller
sees NotFound or ConfigError as if it had asked the index itself. Calls that found the master
away (503) are asked again until ``patience_s`` is over; they are idempotent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

import httpx

from raypacs import errors, node_file
from raypacs.config import Bootstrap
from raypacs.errors import NodeNotRunning, NotFound, RaypacsError, RequestRefused

URL_VARIABLE = "RAYPACS_URL"
AS_STORED = "application/dicom; transfer-syntax=*"
_PAGE = 500
_BY_STATUS: dict[int, type[RaypacsError]] = {
    404: NotFound,
    422: errors.ConfigError,
    503: errors.MasterUnavailable,
}


def find_url(bootstrap: Bootstrap, url: str = "") -> str:
    """Return the base URL to talk to: ``url``, $RAYPACS_URL, or the node on this data folder.

    Raises:
        NodeNotRunning: none of the three; says if a node is just starting.
    """
    url = url or os.environ.get(URL_VARIABLE, "")
    if url:
        return url.rstrip("/")
    node = node_file.find(bootstrap)
    if node is None:
        raise NodeNotRunning(f"no node runs on {bootstrap.data_dir}")
    if not node.ready:
        raise NodeNotRunning(f"the node (pid {node.pid}) is still starting", hint="try again soon")
    return node.http_url.rstrip("/")


class Client:
    """Calls to one node; thread-safe, keeps connections open."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = 30.0,
        connections: int = 8,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._patience_s = patience_s
        self._http = httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(120.0, connect=10.0),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
            # A node is on this host or in this network: proxies of the environment do not apply.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

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
            params = {**(query or {}), "limit": str(_PAGE), "offset": str(offset)}
            page = self._json("GET", "/api/v1/studies", params=params)
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def study(self, study_uid: str) -> dict[str, Any]:
        """Return one study with its series, objects and conflicts.

        Raises:
            NotFound: no such study.
        """
        return self._json("GET", f"/api/v1/studies/{study_uid}")

    def delete_study(self, study_uid: str) -> dict[str, Any]:
        """Delete a study from every cache.

        Raises:
            NotFound: no such study.
        """
        return self._json("DELETE", f"/api/v1/studies/{study_uid}")

    def complete(self, study_uids: Iterable[str]) -> None:
        """Say that nothing more will come for these studies: prepare them now."""
        uids = sorted(study_uids)
        for start in range(0, len(uids), _PAGE):
            body = {"study_uids": uids[start : start + _PAGE]}
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

    def queue(self, **filters: str) -> list[dict[str, Any]]:
        """Return work items, newest first; filters as the REST API names them."""
        items: list[dict[str, Any]] = self._json("GET", "/api/v1/queue", params=filters)
        return items

    def download(self, study_uid: str, series_uid: str, sop_uid: str) -> Iterator[bytes]:
        """Yield one instance as received, as a Part 10 file (WADO-RS, PS3.18 section 10.4).

        Raises:
            NotFound: no such instance.
        """
        path = f"/dicom-web/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}"
        with self._http.stream("GET", path, headers={"Accept": AS_STORED}) as response:
            if response.is_error:
                response.read()
                raise error_of(response)
            yield from response.iter_bytes(256 * 1024)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as exc:
                raise NodeNotRunning(f"{self.url} does not answer: {exc}") from exc
            if response.status_code == 503 and time.monotonic() < deadline:
                time.sleep(_delay_s(response))
                continue
            if response.is_error:
                raise error_of(response)
            return response.json()


def error_of(response: httpx.Response) -> RaypacsError:
    """Return the error a response carries as problem details (RFC 9457)."""
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("detail") or f"{response.status_code} {response.reason_phrase}")
    kind = getattr(errors, str(problem.get("kind", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, RaypacsError)):
        kind = _BY_STATUS.get(response.status_code, RequestRefused)
    return kind(detail, hint=str(problem.get("hint", "")), http_status=response.status_code)


def _delay_s(response: httpx.Response) -> float:
    try:
        return min(max(float(response.headers.get("Retry-After", "1")), 0.1), 5.0)
    except ValueError:
        return 1.0
