"""Kills a master's process and an empty actor's, and prints how long each was away, as JSON.

A process of its own (``restart`` runs it): Ray reads its environment when it is imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from raypacs.cluster.master import NAME, NAMESPACE, MasterHandle, master_resource
from raypacs.cluster.mastership import Mastership
from raypacs.config import Bootstrap

_PAUSE_S = 3.0


class _Empty:
    def pid(self) -> int:
        return os.getpid()


def main(data_dir: Path, times: int) -> dict[str, list[float]]:
    """Return the seconds of each."""
    bootstrap = Bootstrap(node_name="bench", data_dir=data_dir)
    bootstrap.run_dir.mkdir(parents=True, exist_ok=True)
    ray.init(
        num_cpus=2,
        resources={master_resource(bootstrap): 1},
        include_dashboard=False,
        log_to_driver=False,
    )
    Mastership(bootstrap).ensure()
    handle = MasterHandle()
    handle.call("settings")
    actor = ray.get_actor(NAME, namespace=NAMESPACE)

    def pid() -> int:
        answer: Any = ray.get(actor.ping.remote())
        return int(answer["pid"])

    found = {"master": _away(pid, lambda: handle.call("settings"), times)}
    ray.get(actor.close.remote())
    ray.kill(actor)
    empty = ray.remote(_Empty).options(num_cpus=0, max_restarts=-1).remote()

    def ask() -> int:
        while True:
            try:
                return int(ray.get(empty.pid.remote()))
            except RayError:
                time.sleep(0.05)

    found["empty"] = _away(ask, ask, times)
    ray.shutdown()
    return found


def _away(pid: Callable[[], int], ask: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        os.kill(pid(), signal.SIGKILL)
        began = time.perf_counter()
        ask()
        found.append(time.perf_counter() - began)
        time.sleep(_PAUSE_S)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
