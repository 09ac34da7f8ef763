"""``python -m raypacs.simulating``: one request as JSON on standard input, the answer on output.

The process behind the REST API. A request has ``what`` (simulate, size), ``order``, ``settings``
and ``folder`` (of the statistics, '' none). The answer is ``{"answer": ...}``, or ``{"error":
...}`` with what is wrong with the order.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from raypacs.autopilot.planning import SimulationOrder, SizeOrder
from raypacs.config import Settings, parse
from raypacs.errors import ConfigError
from raypacs.simulating import orders


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request. Raises ConfigError."""
    settings = parse(Settings, request["settings"], "settings", {"stored": True})
    folder = Path(request["folder"]) if request.get("folder") else None
    if request["what"] == "size":
        return orders.size(parse(SizeOrder, request["order"], "size"), settings, folder)
    order = parse(SimulationOrder, request["order"], "simulation")
    return orders.run(order, settings, folder).as_json(track=order.track)


def main() -> None:
    """Answer the request on standard input."""
    os.nice(10)  # those who look at images go first
    try:
        told: dict[str, Any] = {"answer": answer(json.load(sys.stdin))}
    except ConfigError as exc:
        told = {"error": str(exc)}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
