"""Simulations and sizes, reckoned in a process of their own while the gateway serves images."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raypacs.config import Settings
from raypacs.errors import ConfigError, IllegalTransition

LONGEST_S = 240.0
_TOLD = 500


class Planner:
    """Answers one request at a time."""

    def __init__(self, settings: Callable[[], tuple[int, Settings]], folder: Path) -> None:
        """``folder``: of the statistics of this node."""
        self._settings = settings
        self._folder = folder
        self._busy = threading.Lock()

    def answer(self, what: str, order: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of ``python -m raypacs.simulating``.

        Raises:
            ConfigError: the order cannot be, or takes too long.
            IllegalTransition: another one is being answered.
        """
        if not self._busy.acquire(blocking=False):
            raise IllegalTransition(
                "another simulation runs on this node", hint="wait for its end, or ask another node"
            )
        try:
            return self._run(what, order)
        finally:
            self._busy.release()

    def _run(self, what: str, order: dict[str, Any]) -> dict[str, Any]:
        request = {
            "what": what,
            "order": order,
            "settings": self._settings()[1].model_dump(mode="json"),
            "folder": str(self._folder),
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", "raypacs.simulating"],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise ConfigError(
                f"it takes longer than {LONGEST_S:g} s: fewer days, fewer studies or longer steps"
            ) from exc
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip()[-_TOLD:]
            raise ConfigError(f"the simulation ended with {done.returncode}: {why}")
        told: dict[str, Any] = json.loads(done.stdout)
        if "error" in told:
            raise ConfigError(told["error"])
        answer: dict[str, Any] = told["answer"]
        return answer
