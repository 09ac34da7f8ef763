"""From an exception to a message, a hint and an exit code: the CLI's one broad ``except``."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable

from raypacs.cli.session import Exit
from raypacs.errors import ConfigError, InvalidQuery, NodeNotRunning, NotFound, RaypacsError

_INTERRUPTED = 130
_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (InvalidQuery, Exit.USAGE),
    (NodeNotRunning, Exit.NOT_RUNNING),
    (NotFound, Exit.NOT_FOUND),
)


def guarded(command: Callable[[], int], *, debug: bool = False, as_json: bool = False) -> int:
    """Run ``command`` and return its exit code, or that of the error it raised."""
    try:
        return command()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else Exit.FAILED if exc.code else Exit.OK
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has enough; writing more at exit would fail once again.
        sys.stderr.close()
        return Exit.OK
    except Exception as exc:  # noqa: BLE001 - the place where any error becomes a message
        if debug:
            traceback.print_exc()
        _tell(exc, as_json=as_json)
        return next((code for kind, code in _CODES if isinstance(exc, kind)), Exit.FAILED)


def _tell(error: Exception, *, as_json: bool) -> None:
    expected = isinstance(error, RaypacsError | OSError)
    message = str(error) if expected else f"{type(error).__name__}: {error}"
    hint = getattr(error, "hint", "") or ("" if expected else "--debug shows where it happened")
    if as_json:
        print(json.dumps({"error": message, "kind": type(error).__name__, "hint": hint}))
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
