"""How soon a master is there: its constructor at two sizes of site, and after a kill -9."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import sites
from benchmarks.figure import Figure, compare, limit
from raypacs.cluster.environment import ray_environment
from raypacs.config import Bootstrap
from raypacs.master import Master

NAME = "restart"
DESCRIPTION = "master's constructor at 10 thousand and 1 million studies; kill -9 to first answer"

SMALL, LARGE = 10_000, 1_000_000
TARGET_S = 0.5


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure at 10,000 and ``count`` studies (default 1,000,000; quick 2,000 and 10,000)."""
    small, large = (2_000, 10_000) if quick else (SMALL, count or LARGE)
    times = 3 if quick else 7
    runs = {number: _constructed(number, times) for number in (small, large)}
    figures = [
        limit(f"constructor, {number:,} studies", "s", seconds, at_most=TARGET_S)
        for number, seconds in runs.items()
    ]
    figures.append(
        compare(
            f"constructor at {large:,} beside {small:,}",
            "s",
            runs[large],
            beside=f"{small:,} studies",
            beside_runs=runs[small],
            at_least=0.67,
            less_is_better=True,
        )
    )
    killed = _killed(3 if quick else 5)
    figures.append(
        compare(
            "kill -9 to first answer",
            "s",
            killed["master"],
            beside="Ray's own: an actor that does nothing",
            beside_runs=killed["empty"],
            less_is_better=True,
        )
    )
    return figures


def _constructed(studies: int, times: int) -> list[float]:
    """Return the seconds of constructors, each in a process of its own."""
    url, folder = sites.sqlite_site(studies), sites.folder() / f"data-{studies}"
    context = multiprocessing.get_context("spawn")
    found = []
    for _ in range(times):
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs, url, folder), daemon=True)
        process.start()
        theirs.close()
        found.append(float(ours.recv()))
        process.join()
    return found


def _child(answer: Connection, url: str, folder: Path) -> None:
    began = time.perf_counter()
    master = Master(url, folder)
    answer.send(time.perf_counter() - began)
    master.close()


def _killed(times: int) -> dict[str, list[float]]:
    """Return the seconds from kill -9 to the next answer, of the master and of an empty actor."""
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        bootstrap = Bootstrap(node_name="bench", data_dir=Path(folder) / "data")
        environment = os.environ | ray_environment(bootstrap)
        command = [sys.executable, "-m", "benchmarks._takeover", str(bootstrap.data_dir)]
        done = subprocess.run(
            [*command, str(times)],
            env=environment,
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    if done.returncode:
        raise RuntimeError(f"the take-over could not be measured: {done.stderr[-2000:]}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found
