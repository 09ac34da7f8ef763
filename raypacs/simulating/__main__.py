"""``python -m raypacs.simulating``: one request as JSON on standard input, the answer on output.

The process behind the REST API. A request has ``what`` (simulate, size), ``order``, ``settings``
and ``folder`` (of the statistics, where no tier has them). The answer is ``{"answer": ...}``, or
``{"error": ...}`` with what is wrong with the order.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from raypacs.autopilot.planning import SimulationOrder, SizeOrder
from raypacs.config import Settings, parse
from raypacs.errors import RaypacsError
from raypacs.simulating import orders, recorded


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request. Raises ConfigError, TierUnavailable."""
    settings = parse(Settings, request["settings"], "settings", {"stored": True})
    place = recorded.place_of(settings, Path(request["folder"]))
    if request["what"] == "size":
        return orders.size(parse(SizeOrder, request["order"], "size"), settings, place)
    order = parse(SimulationOrder, request["order"], "simulation")
    return orders.run(order, settings, place).as_json(track=order.track)


def main() -> None:
    """Answer the request on standard input."""
    os.nice(10)  # those who look at images go first
    try:
        told: dict[str, Any] = {"answer": answer(json.load(sys.stdin))}
    except RaypacsError as exc:
        told = {"error": str(exc)}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
