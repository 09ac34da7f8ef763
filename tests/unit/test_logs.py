"""Logs: JSON lines, rotated, one file a role, and no patient data by accident."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs import logs
from raypacs.config import Bootstrap
from raypacs.errors import NotFound


@pytest.fixture
def bootstrap(tmp_path: Path) -> Iterator[Bootstrap]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, sys.excepthook, threading.excepthook)
    showwarning = warnings.showwarning
    yield Bootstrap(data_dir=tmp_path)
    logging.captureWarnings(False)
    warnings.showwarning = showwarning
    for handler in [each for each in root.handlers if each not in before[0]]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[1])
    sys.excepthook, threading.excepthook = before[2], before[3]


def _lines(bootstrap: Bootstrap, role: str) -> list[dict[str, Any]]:
    text = (bootstrap.log_dir / f"{role}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_is_one_json_line_with_its_fields(bootstrap: Bootstrap) -> None:
    logs.setup("master", bootstrap)
    logging.getLogger("raypacs.master").info(
        "study prepared", extra={"study_uid": "1.2.3", "instances": 4, "_added_by_ray": 1}
    )
    (line,) = _lines(bootstrap, "master")
    assert "_added_by_ray" not in line
    assert line["event"] == "study prepared"
    assert (line["role"], line["level"], line["logger"]) == ("master", "info", "raypacs.master")
    assert (line["study_uid"], line["instances"]) == ("1.2.3", 4)
    assert line["time"].endswith("Z")


def test_level_comes_from_the_bootstrap(tmp_path: Path, bootstrap: Bootstrap) -> None:
    logs.setup("node", bootstrap.model_copy(update={"log_level": "warning"}))
    logging.getLogger("raypacs.x").info("not seen")
    logging.getLogger("raypacs.x").warning("seen")
    assert [line["event"] for line in _lines(bootstrap, "node")] == ["seen"]


def test_telling_fields_are_redacted(bootstrap: Bootstrap) -> None:
    logs.setup("node", bootstrap)
    fields = {"PatientName": "DOE^JANE", "size_bytes": 1}
    logging.getLogger("raypacs.x").info("got", extra=fields)
    logging.getLogger("raypacs.x").info("got", extra={"fields": fields})
    for line in _lines(bootstrap, "node"):
        assert line["PatientName"] == logs.REDACTED
        assert line["size_bytes"] == 1
        assert "fields" not in line


def test_dicom_libraries_cannot_quote_element_values(bootstrap: Bootstrap) -> None:
    logs.setup("listener-1", bootstrap)
    logging.getLogger("pydicom").warning("Invalid value for VR PN: %r", "DOE^JANE")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a value of DOE^JANE", UserWarning, stacklevel=1)
    text = (bootstrap.log_dir / "listener-1.jsonl").read_text()
    assert "DOE" not in text
    assert len(text.splitlines()) == 2


def test_messages_of_foreign_exceptions_stay_out_and_own_ones_stay(bootstrap: Bootstrap) -> None:
    logs.setup("node", bootstrap)
    log = logging.getLogger("raypacs.x")
    try:
        raise ValueError("bad name DOE^JANE")
    except ValueError:
        log.exception("failed")
    try:
        raise NotFound("no study 1.2.3")
    except NotFound:
        log.exception("failed")
    foreign, own = _lines(bootstrap, "node")
    assert foreign["error"]["type"] == "ValueError"
    assert "message" not in foreign["error"]
    assert foreign["error"]["stack"]
    assert own["error"]["message"] == "no study 1.2.3"


def test_files_rotate_and_old_ones_go(
    bootstrap: Bootstrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_FILE_BYTES", 2000)
    logs.setup("node", bootstrap)
    for number in range(200):
        logging.getLogger("raypacs.x").info("event", extra={"number": number})
    files = sorted(path.name for path in bootstrap.log_dir.iterdir())
    assert files == ["node.jsonl", *(f"node.jsonl.{n}" for n in range(1, logs.KEPT_FILES + 1))]
    assert all(path.stat().st_size <= 2000 for path in bootstrap.log_dir.iterdir())


def test_setting_up_again_replaces_the_file(bootstrap: Bootstrap) -> None:
    logs.setup("one", bootstrap)
    logs.setup("two", bootstrap)
    logging.getLogger("raypacs.x").info("event")
    assert not (bootstrap.log_dir / "one.jsonl").exists()
    assert len(_lines(bootstrap, "two")) == 1


def test_uncaught_exceptions_of_threads_are_logged(bootstrap: Bootstrap) -> None:
    logs.setup("node", bootstrap)
    thread = threading.Thread(target=lambda: 1 / 0, name="worker-7")
    thread.start()
    thread.join()
    (line,) = _lines(bootstrap, "node")
    assert (line["level"], line["thread_name"]) == ("critical", "worker-7")
    assert line["error"]["type"] == "ZeroDivisionError"
