"""Where a node is, requests to it, and its errors as raypacs' own.

Every call raises the error the node named (``kind`` of the problem details), so that a caller
sees NotFound or ConfigError as if it had asked the index itself. Calls that found the master
away (503) are asked again until ``patience_s`` is over; they are idempotent.
"""

from __future__ import annotations

import os
import time
from typing import Any, Self

import httpx

from raypacs import errors, node_file
from raypacs.config import Bootstrap
from raypacs.errors import NodeNotRunning, NotFound, RaypacsError, RequestRefused

URL_VARIABLE = "RAYPACS_URL"
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


class Http:
    """Requests to one node; thread-safe, keeps connections open."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = 30.0,
        connections: int = 8,
        source: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``source`` says who asks, for the audit (1 to 64 printable ASCII characters)."""
        self.url = url
        self._patience_s = patience_s
        self._http = httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(120.0, connect=10.0),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
            # A node is on this host or in this network: proxies of the environment do not apply.
            trust_env=False,
            headers={"X-Raypacs-Source": source} if source else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

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
