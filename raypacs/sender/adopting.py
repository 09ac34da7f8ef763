"""Wait until an archive is adopted: asks the node again and again, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raypacs.client import Client
from raypacs.errors import MasterUnavailable, NodeNotRunning

POLL_S = 0.5
PATIENCE_S = 60.0
ENDED = frozenset({"COMPLETED", "WARNING", "FAILED", "CANCELED"})


def until_adopted(
    client: Client,
    item_id: int,
    shown: Callable[[dict[str, Any]], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Return the adoption once its work item has ended; ``shown`` is told how far it is.

    The node takes on the new tier meanwhile, so it may not answer for a moment.

    Raises:
        NodeNotRunning: it does not answer any more.
        NotFound: somebody took the item out of the list.
    """
    heard_s = time.monotonic()
    while True:
        try:
            told = client.adoption(item_id)
        except (NodeNotRunning, MasterUnavailable):
            if time.monotonic() - heard_s > PATIENCE_S:
                raise
        else:
            heard_s = time.monotonic()
            shown(told)
            if told["state"] in ENDED:
                return told
        sleep(POLL_S)
