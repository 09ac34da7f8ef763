"""A service actor of this node (dispatcher, listener, gateway) as its node process looks after it.

Ray restarts one whose process died; it must then be told to start. Of one whose process is stopped
(SIGSTOP, a debugger) Ray knows nothing: it is pinged, and killed when it stays silent.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from raypacs.errors import RaypacsError

_log = logging.getLogger("raypacs.cluster.node")

ANSWER_S = 1.0
"""So long an answer is waited for at a time: a node that is told to stop must not hang here."""
START_S = 120.0
"""A process that Ray starts may take its time on a busy host."""
# Looks in a row without an answer; not seconds, as a whole node may be stopped and go on.
FROZEN_LOOKS = 7
STARTING_LOOKS = 40
STOP_S = 60.0
LAST_PING_S = 5.0


class Service:
    """One actor, and the arguments of its ``start``."""

    def __init__(self, name: str, actor: Any, start: tuple[Any, ...]) -> None:
        self.name, self.actor, self.start_args = name, actor, start
        self._ping: Any = None
        self._looks = 0
        self._patience = STARTING_LOOKS
        self._start: Any = None

    def start(self) -> Any:
        """Begin to start it; return Ray's reference of the answer."""
        return self.actor.start.remote(*self.start_args)

    def look_after(self) -> None:
        """Start it again where Ray has restarted it, kill it where it is frozen; takes seconds."""
        if self._answers():
            self._start_again()

    def _answers(self) -> bool:
        """Whether its process lives. Pings need no master, as starting does."""
        if self._ping is None:
            self._ping = self.actor.__ray_ready__.remote()
        try:
            ray.get(self._ping, timeout=ANSWER_S)
        except GetTimeoutError:
            self._looks += 1
            if self._looks >= self._patience:
                _log.error("service frozen, replacing it", extra={"service": self.name})
                ray.kill(self.actor, no_restart=False)
                self._forget()
            return False
        except RayError as exc:  # being restarted; asked again next time
            _log.warning("service away", extra={"service": self.name, "why": str(exc)[:500]})
            self._forget()
            return False
        self._ping, self._looks, self._patience = None, 0, FROZEN_LOOKS
        return True

    def _forget(self) -> None:
        self._ping = self._start = None
        self._looks, self._patience = 0, STARTING_LOOKS

    def _start_again(self) -> None:
        if self._start is None:
            self._start = self.start()
        try:
            ray.get(self._start, timeout=ANSWER_S)
        except GetTimeoutError:
            return  # it may wait for the master
        except (RaypacsError, RayError, OSError) as exc:
            _log.warning("service away", extra={"service": self.name, "why": str(exc)[:500]})
        self._start = None

    def stop(self) -> None:
        """Let it finish what it does; one that is frozen is killed."""
        try:
            ray.get(self.actor.__ray_ready__.remote(), timeout=LAST_PING_S)
            ray.get(self.actor.stop.remote(), timeout=STOP_S)
            _log.info("stopped", extra={"service": self.name})
        except RayError as exc:  # what it answered is registered at the next start
            _log.warning("service not stopped", extra={"service": self.name, "why": str(exc)[:500]})
            with suppress(RayError):  # Ray itself may be ending
                ray.kill(self.actor, no_restart=True)
