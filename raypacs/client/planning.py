"""Calls for planning: simulations and sizes of caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypacs.client.http import Http

_LONGEST_S = 300.0


class PlanningCalls(Http):
    """What the node reckons; nothing is changed by it."""

    def simulate(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Run a simulation on the node (fields of ``SimulationOrder``); return its outcome.

        Raises:
            ConfigError: it cannot be; names the key.
            IllegalTransition: another one runs there.
        """
        return self._json("POST", "/api/v1/caches/simulate", json=dict(order), timeout=_LONGEST_S)

    def size(self, **load: Any) -> dict[str, Any]:
        """Return capacities for an expected load (fields of ``SizeOrder``). Raises ConfigError."""
        return self._json("GET", "/api/v1/caches/size", params=load, timeout=_LONGEST_S)
