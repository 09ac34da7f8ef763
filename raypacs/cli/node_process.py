"""Start a node as a process of its own, wait until it is ready, and stop that process again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from raypacs import node_file
from raypacs.cluster.environment import ray_environment
from raypacs.config import Bootstrap
from raypacs.errors import AlreadyExists, NodeNotRunning, RaypacsError
from raypacs.node_file import NodeFile

BOOTSTRAP_VARIABLE = "RAYPACS_BOOTSTRAP"
SERVE = "raypacs.cli.serve"
START_TIMEOUT_S = 180.0
"""Ray takes 6 to 10 s to start on an idle machine, several times that on a busy one."""

_POLL_S = 0.1
_TOLD_LINES = 15


def command(*options: str) -> list[str]:
    """Return the command line of a node process; its bootstrap goes in the environment."""
    return [sys.executable, "-m", SERVE, *options]


def environment(bootstrap: Bootstrap) -> dict[str, str]:
    """Return the environment of a node process.

    The bootstrap may hold a database password, so it is not an argument that everybody can read.
    Bytecode is written beside the sources whatever the user's shell says: without it each of
    Ray's twenty processes compiles for itself, and the start takes twice as long.
    """
    env = {**os.environ, **ray_environment(bootstrap)}
    env[BOOTSTRAP_VARIABLE] = bootstrap.model_dump_json()
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def start(bootstrap: Bootstrap, *, tied: bool = False) -> tuple[NodeFile, subprocess.Popen[bytes]]:
    """Start a node in a session of its own and return when it is ready.

    ``tied``: the node stops by itself when this process ends, however it ends.

    Raises:
        AlreadyExists: one runs already on this data folder.
        NodeNotRunning: it did not become ready; the message ends with what it said.
    """
    running = node_file.find(bootstrap)
    if running is not None:
        raise AlreadyExists(
            f"a node already runs on {bootstrap.data_dir} (pid {running.pid})",
            hint="`raypacs status` shows it, `raypacs down` stops it",
        )
    bootstrap.log_dir.mkdir(parents=True, exist_ok=True)
    told = bootstrap.log_dir / "node.out"
    with told.open("wb") as output:
        process = subprocess.Popen(
            command("--tied") if tied else command(),
            stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(bootstrap),
            start_new_session=True,
        )
    try:
        return _ready(bootstrap, process, told), process
    except BaseException:
        # Whatever ended the wait (Ctrl-C as well): nothing half-started may stay behind.
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        raise


def _ready(bootstrap: Bootstrap, process: subprocess.Popen[bytes], told: Path) -> NodeFile:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        node = node_file.find(bootstrap)
        if node is not None and node.ready and node.pid == process.pid:
            return node
        if process.poll() is not None:
            raise NodeNotRunning(
                f"the node ended while starting (exit code {process.returncode}):\n{_tail(told)}",
                hint=f"more in {bootstrap.log_dir}",
            )
        time.sleep(_POLL_S)
    raise NodeNotRunning(
        f"the node was not ready after {START_TIMEOUT_S:.0f} s:\n{_tail(told)}",
        hint=f"more in {bootstrap.log_dir}",
    )


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TOLD_LINES:]) or "(it said nothing)"


def stop(node: NodeFile, *, timeout_s: float = 90.0) -> None:
    """Ask the node to stop and return when it is gone. Only ever signals that very process.

    Raises:
        RaypacsError: it is still there after ``timeout_s``, or belongs to another user.
    """
    if not node.is_running():
        return
    try:
        os.kill(node.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as exc:
        raise RaypacsError(f"process {node.pid} belongs to another user") from exc
    deadline = time.monotonic() + timeout_s
    while node.is_running():
        if time.monotonic() > deadline:
            raise RaypacsError(
                f"process {node.pid} is still stopping after {timeout_s:.0f} s",
                hint="wait and try `raypacs down` again; its log says what it is doing",
            )
        time.sleep(_POLL_S)
