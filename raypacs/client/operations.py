"""Calls of operators: the work queue, nodes, the master, and why a study is where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from raypacs.client.http import Http, error_of

PAGE = 500


class OperatorCalls(Http):
    """Orders and questions of operators; any node takes them, whichever node the work is on."""

    def queue(self, limit: int = 1000, **filters: str) -> list[dict[str, Any]]:
        """Return work items, newest first, page by page; filters as the REST API names them."""
        items: list[dict[str, Any]] = []
        while len(items) < limit:
            before = int(items[-1]["item_id"]) if items else 0
            size = min(PAGE, limit - len(items))
            page = self.tasks(filters, limit=size, before_id=before)["items"]
            items += page
            if len(page) < size:
                break
        return items

    def tasks(
        self, filters: Mapping[str, str], *, limit: int = 100, offset: int = 0, before_id: int = 0
    ) -> dict[str, Any]:
        """Return a page of the task list: ``items``, ``total``, ``total_is_exact``.

        Raises:
            InvalidQuery: a filter is wrong; names the key.
        """
        page = {"limit": limit, "offset": offset, "before_id": before_id}
        return self._json("GET", "/api/v1/queue", params={**filters, **page})

    def task(self, item_id: int) -> dict[str, Any]:
        """Return one work item. Raises NotFound."""
        return self._json("GET", f"/api/v1/queue/{item_id}")

    def enqueue(self, study_uid: str, **order: Any) -> dict[str, Any]:
        """Ask for work on a study (kind, priority, at, node, payload); return its item."""
        return self._json("POST", "/api/v1/queue", json={"study_uid": study_uid, **order})

    def order(self, order: str, item_id: int, **options: Any) -> dict[str, Any]:
        """Order ``reschedule``, ``cancel``, ``delete`` or ``priority`` for one item.

        Raises:
            NotFound: no such item.
            IllegalTransition: its state does not allow it.
        """
        if order == "delete":
            return self._json("DELETE", f"/api/v1/queue/{item_id}")
        return self._json("POST", f"/api/v1/queue/{item_id}/{order}", json=options or None)

    def order_all(self, order: str, filters: dict[str, str], **options: Any) -> dict[str, Any]:
        """Order the same for all items that match; for every item where ``filters`` is empty.

        Returns:
            ``matched``, ``changed``, and some that were ``refused``, with why.
        """
        body = {"filter": filters, "all": not filters, **options}
        return self._json("POST", f"/api/v1/queue/{order}", json=body)

    def queue_state(self) -> dict[str, Any]:
        """Return whether the queue is running, halting, halted or stalled, and each kind."""
        return self._json("GET", "/api/v1/queue/state")

    def halt(self, kind: str = "") -> dict[str, Any]:
        """Give out no new work of a kind, or at all; return the queue's state."""
        return self._json("POST", "/api/v1/queue/halt", json={"kind": kind})

    def resume(self, kind: str = "") -> dict[str, Any]:
        """Give out work of a kind again, or of all; return the queue's state."""
        return self._json("POST", "/api/v1/queue/resume", json={"kind": kind})

    def why(self, study_uid: str) -> list[dict[str, Any]]:
        """Return the story of a study, in order. Raises NotFound."""
        path = f"/api/v1/studies/{quote(study_uid, safe='')}/why"
        events: list[dict[str, Any]] = self._json("GET", path)["events"]
        return events

    def adopt(self, url: str, **order: Any) -> dict[str, Any]:
        """Adopt an archive (name, format, prepare, deleted); return the adoption.

        Raises:
            ConfigError: it cannot be: it holds, or lies in, another tier.
            TierUnavailable: it cannot be reached.
        """
        return self._json("POST", "/api/v1/adoptions", json={"url": url, **order})

    def adoption(self, item_id: int) -> dict[str, Any]:
        """Return how far an adoption is. Raises NotFound."""
        return self._json("GET", f"/api/v1/adoptions/{item_id}")

    def adoption_report(self, item_id: int) -> Iterator[dict[str, Any]]:
        """Yield what an adoption left out or found changed: what, path, why.

        Raises:
            NotFound: no such adoption, or it has not ended.
        """
        path = f"/api/v1/adoptions/{item_id}/report"
        with self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise error_of(response)
            for line in response.iter_lines():
                if line:
                    yield json.loads(line)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes with their states."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/nodes")
        return found

    def node(self, name: str) -> dict[str, Any]:
        """Return one node. Raises NotFound."""
        return self._json("GET", f"/api/v1/nodes/{quote(name, safe='')}")

    def drain(self, name: str) -> dict[str, Any]:
        """Let a node finish what runs and give it nothing new; return it. Raises NotFound."""
        return self._json("POST", f"/api/v1/nodes/{quote(name, safe='')}/drain")

    def undrain(self, name: str) -> dict[str, Any]:
        """Give a drained node work again; return it. Raises NotFound."""
        return self._json("POST", f"/api/v1/nodes/{quote(name, safe='')}/undrain")

    def master(self) -> dict[str, Any]:
        """Return the master: node, pid, epoch, since when, restarts, state."""
        return self._json("GET", "/api/v1/master")

    def move_master(self, to: str = "") -> dict[str, Any]:
        """Let a node (any other one without a name) take the master over; return from, to, epoch.

        Raises:
            NotFound: no such node.
            IllegalTransition: that node cannot take it.
        """
        return self._json("POST", "/api/v1/master/move", json={"to": to})
