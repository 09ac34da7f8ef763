"""Logs of a node: JSON lines, rotated, without patient data, one file per process role.

Everything goes to ``Bootstrap.log_dir``; ``docs/logs.md`` describes the fields. Modules log with
``logging.getLogger(__name__)`` and pass data as ``extra={...}`` (or ``extra={"fields": {...}}``
where a name might meet one of logging's own); UIDs are welcome, names and
patient identifiers are not. Three nets hold patient data back where a caller forgets that: fields
with telling names are redacted, messages of the DICOM libraries (which quote element values) are
replaced by their place in the source, and of foreign exceptions only type and stack are kept.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from types import TracebackType
from typing import Any

from raypacs.config import Bootstrap
from raypacs.errors import RaypacsError

MAX_FILE_BYTES = 10 * 1024 * 1024
"""Size at which a log file is rotated: a day of a busy node, still opened by any editor."""

KEPT_FILES = 5
"""Rotated files kept beside the current one; with MAX_FILE_BYTES bounds a role to 60 MB."""

REDACTED = "[redacted]"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TELLING = re.compile(
    r"patient|birth|accession|person|physician|operator|address|telephone|institution|password"
    r"|token_value|secret",
    re.IGNORECASE,
)
_QUOTES_VALUES = ("pydicom", "pynetdicom", "pylibjpeg", "imagecodecs")


class JsonLines(logging.Formatter):
    """One JSON object per record: time (UTC), level, role, pid, logger, event, fields, error."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "role": self._role,
            "pid": record.process,
            "logger": record.name,
            "event": _event(record),
        }
        given = {
            key: value
            for key, value in vars(record).items()
            if key not in _STANDARD and not key.startswith("_")
        }
        nested = given.pop("fields", {})
        for key, value in (given | (nested if isinstance(nested, dict) else {})).items():
            line[key] = REDACTED if _TELLING.search(key) else value
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe_error(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return type and stack of ``error``, and its message where that cannot quote patient data.

    raypacs' own errors and those of the operating system name UIDs, paths and numbers only; any
    other message may quote the value of a DICOM element, so it stays out.
    """
    told: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, RaypacsError | OSError):
        told["message"] = str(error)
    told["stack"] = [
        f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    if error.__cause__ is not None:
        told["cause"] = describe_error(error.__cause__)
    return told


def setup(role: str, bootstrap: Bootstrap) -> None:
    """Send this process's log records to ``{log_dir}/{role}.jsonl``; calling again replaces it.

    ``role`` names the process (``node``, ``master``, ``listener-1`` ...). Two processes must not
    share a role, because the file is rotated by the one that writes it. Uncaught exceptions of
    threads and of the main thread are logged too. Warnings and worse of libraries are kept,
    as far as they cannot quote patient data.

    Raises:
        OSError: the log folder cannot be created or written.
    """
    bootstrap.log_dir.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        bootstrap.log_dir / f"{role}.jsonl",
        maxBytes=MAX_FILE_BYTES,
        backupCount=KEPT_FILES,
        encoding="utf-8",
        delay=True,
    )
    handler.setFormatter(JsonLines(role))
    handler.set_name("raypacs")
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == "raypacs"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("raypacs").setLevel(bootstrap.log_level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _event(record: logging.LogRecord) -> str:
    if record.name.split(".")[0] in _QUOTES_VALUES or record.name == "py.warnings":
        return f"{record.filename}:{record.lineno} (text left out: may quote element values)"
    return record.getMessage()


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logging.getLogger("raypacs").critical("uncaught exception", exc_info=(kind, error, trace))
    sys.__excepthook__(kind, error, trace)


def _log_uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is None:
        return
    name = given.thread.name if given.thread else "?"
    logging.getLogger("raypacs").critical(
        "uncaught exception in a thread",
        exc_info=(given.exc_type, given.exc_value, given.exc_traceback),
        extra={"thread_name": name},
    )
