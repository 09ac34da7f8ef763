"""The node process itself: ``python -m raypacs.cli.serve``, started by `raypacs up` and the demo.

Kept apart from the other commands because importing Ray takes a second or two. Holds the node's
lock, writes the node file when ready, stops on SIGTERM, SIGINT, or (``--tied``) when standard
input closes, that is when the process that started it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from raypacs import logs, node_file
from raypacs.cli.node_process import BOOTSTRAP_VARIABLE
from raypacs.cli.outcome import guarded
from raypacs.cli.session import Exit
from raypacs.cluster import node
from raypacs.config import Bootstrap, parse
from raypacs.errors import ConfigError

# By name, because this module runs as __main__.
log = logging.getLogger("raypacs.cli.serve")


def main(options: list[str]) -> int:
    """Run the node until it is told to stop. Options: ``--tied``, ``--json``."""
    bootstrap = _bootstrap()
    stop = threading.Event()

    def obey(number: int, _frame: FrameType | None) -> None:
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        stop.set()

    with node_file.held(bootstrap) as mine:
        logs.setup("node", bootstrap)
        if "--tied" in options:
            threading.Thread(target=_watch_input, args=(stop,), name="tied", daemon=True).start()

        def on_ready(details: dict[str, Any]) -> None:
            # Again, because starting Ray puts its own handler in place.
            _obey_signals(obey)
            ready = node_file.announce(bootstrap, mine, details)
            log.info("ready", extra={"http_url": ready.http_url})
            _tell(ready.details, as_json="--json" in options)

        _obey_signals(obey)
        node.run(bootstrap, on_ready=on_ready, stop=stop)
        log.info("stopped")
    return Exit.OK


def _bootstrap() -> Bootstrap:
    text = os.environ.pop(BOOTSTRAP_VARIABLE, "")
    if not text:
        raise ConfigError(f"{BOOTSTRAP_VARIABLE} is not set", hint="use `raypacs up`")
    return parse(Bootstrap, json.loads(text), BOOTSTRAP_VARIABLE)


def _obey_signals(handler: Any) -> None:
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def _watch_input(stop: threading.Event) -> None:
    # Not through sys.stdin: a thread that waits in it would hold its lock at the end.
    while os.read(0, 1024):
        continue
    stop.set()


def _tell(details: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(details), flush=True)
        return
    print(f"raypacs is up (pid {os.getpid()}); Ctrl-C stops it", flush=True)
    for name, value in details.items():
        print(f"  {name:14} {value}", flush=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
