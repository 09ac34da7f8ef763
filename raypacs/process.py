"""Which process this is, beyond its pid, and ending exactly the one that is meant."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def process_start(pid: int) -> str:
    """Return when process ``pid`` started, as an opaque mark; '' if there is no such process.

    A pid alone is reused; pid, kernel boot and start tick together are not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
    # The command name is in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    state, start_ticks = fields[0], fields[19]
    return "" if state in "ZX" else f"{boot}:{start_ticks}"


def identity(node: str = "") -> dict[str, Any]:
    """Return who this process is: node, pid, host, and started (its start mark)."""
    pid = os.getpid()
    return {
        "node": node,
        "pid": pid,
        "host": socket.gethostname(),
        "started": process_start(pid),
    }


def runs_here(who: Mapping[str, Any]) -> bool:
    """Whether the process of an :func:`identity` runs on this host (frozen ones do)."""
    return (
        who.get("host") == socket.gethostname()
        and bool(who.get("started"))
        and process_start(int(who.get("pid", 0))) == who["started"]
    )


def end(who: Mapping[str, Any], *, wait_s: float) -> bool:
    """End exactly the process of an :func:`identity`; whether it is gone after ``wait_s``.

    Nothing is done to this process, to one of another host, or to another one with its pid.
    """
    pid = int(who.get("pid", 0))
    if pid == os.getpid() or who.get("host") != socket.gethostname():
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return not runs_here(who)
    try:
        # Compared after the handle was taken: from here on it cannot become another process.
        if runs_here(who):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], wait_s)
    except PermissionError:
        return False
    finally:
        os.close(handle)
    return not runs_here(who)
