"""A node's REST API in memory, over real HTTP: for tests of the command line."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

from raypacs.config import Settings
from raypacs.dicom import split_part10

Answer = tuple[int, Any]


@dataclass
class FakeNode:
    """What was sent to it, and what it answers."""

    objects: dict[str, bytes] = field(default_factory=dict)
    study_of: dict[str, tuple[str, str]] = field(default_factory=dict)
    completed: list[str] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    settings: dict[str, Any] = field(
        default_factory=lambda: Settings(register_interval_s=0.01).model_dump(mode="json")
    )
    version: int = 1
    prepared: bool = True
    failed: bool = False
    away: int = 0
    """Requests still to be answered with 503."""
    breaks_at: bytes = b""
    """An object at which the connection is closed without an answer."""
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ingest(self, body: bytes, source: str) -> Answer:
        with self._lock:
            self.sources.add(source)
            told = self._judge(body)
        return 200, {"objects": [told]}

    def _judge(self, body: bytes) -> dict[str, Any]:
        try:
            dataset = pydicom.dcmread(io.BytesIO(body))
            uid, study = str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)
        except Exception as exc:  # noqa: BLE001 - a parser may raise anything on such bytes
            return {"outcome": "quarantined", "reason": f"malformed: {type(exc).__name__}"}
        told = {"outcome": "stored", "reason": "", "sop_instance_uid": uid, "study_uid": study}
        if uid in self.objects:
            if self.objects[uid] == body:
                return told | {"outcome": "known"}
            return told | {"outcome": "conflict", "reason": f"other bytes for {uid}"}
        self.objects[uid] = body
        self.study_of[uid] = (study, str(dataset.SeriesInstanceUID))
        return told

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        if self.away:
            self.away -= 1
            return 503, {"detail": "the master is away", "kind": "MasterUnavailable"}
        if path == "/api/v1/settings":
            return self._settings(method, body)
        if path == "/api/v1/health":
            return 200, {"status": "ok"}
        if path == "/api/v1/status":
            return 200, self._status()
        if path == "/api/v1/complete":
            self.completed += json.loads(body)["study_uids"]
            return 202, {}
        if path == "/api/v1/studies":
            offset, limit = int(query.pop("offset", 0)), int(query.pop("limit", 100))
            uids = sorted({study for study, _ in self.study_of.values()})
            rows = [self._row(uid) for uid in uids]
            rows = [row for row in rows if all(row.get(k) == v for k, v in query.items())]
            return 200, rows[offset : offset + limit]
        if path == "/api/v1/queue/state":
            return 200, {"state": "stalled", "why": "no live node [x]", "kinds": {}}
        if path == "/api/v1/queue":
            uids = sorted({study for study, _ in self.study_of.values()})
            items = [{"study_uid": uid, "state": "FAILED", "error": "no room"} for uid in uids]
            items.append({"study_uid": "9.9", "state": "FAILED", "error": "deleted since"})
            items = items if self.failed else []
            return 200, {"items": items, "total": len(items), "total_is_exact": True}
        if path.startswith("/api/v1/studies/"):
            return self._study(method, path.rsplit("/", 1)[1])
        if path.startswith("/dicom-web/"):
            uid = path.rsplit("/", 1)[1]
            return (200, self.objects[uid]) if uid in self.objects else (404, {})
        return 404, {"detail": f"no {path}"}

    def _settings(self, method: str, body: bytes) -> Answer:
        if method == "GET":
            return 200, {"version": self.version, "settings": self.settings}
        sent = json.loads(body)
        if "version" in sent:
            if sent["version"] != self.version:
                return 409, {"detail": "somebody else changed the settings"}
            sent = sent["settings"]
        self.settings, self.version = sent, self.version + 1
        return 200, {"version": self.version}

    def _status(self) -> dict[str, Any]:
        count = len(self.objects)
        tier = {
            "name": "image1",
            "role": "image",
            "capacity_bytes": 10**12,
            "used_bytes": 10**9,
            "available_bytes": 9 * 10**11,
            "fill_rate": {"bytes_per_hour": 9e9},
            "hours_left": 100.0,
        }
        return {
            "version": "0",
            "node": {"name": "fake", "dicom_port": 1},
            "epoch": 3,
            "studies": {"received": 1, "failed": int(self.failed)},
            "instances": {"received": count, "prepared": count if self.prepared else 0},
            "tiers": [tier],
            "queue": {"PREPARE": {"SCHEDULED": 1}},
            "master": {"node": "fake", "pid": 12},
            "nodes": [
                {
                    "name": "fake",
                    "state": "refused",
                    "cores": 2,
                    "roles": ["master"],
                    "problems": ["another version"],
                }
            ],
        }

    def _row(self, study_uid: str) -> dict[str, Any]:
        count = sum(study == study_uid for study, _ in self.study_of.values())
        return {
            "StudyInstanceUID": study_uid,
            "PatientName": "A[bold]^B",
            "ModalitiesInStudy": "CT",
            "instance_count": count,
            "prepared_count": count if self.prepared else 0,
            "state": "failed" if self.failed else "prepared",
        }

    def _study(self, method: str, study_uid: str) -> Answer:
        mine = {uid: place for uid, place in self.study_of.items() if place[0] == study_uid}
        if not mine:
            return 404, {"detail": f"no study {study_uid}", "kind": "NotFound", "hint": "look"}
        if method == "DELETE":
            for uid in mine:
                del self.objects[uid], self.study_of[uid]
            return 200, {"study_uid": study_uid, "deleted_objects": len(mine)}
        objects = [
            {
                "sop_instance_uid": uid,
                "size_bytes": len(self.objects[uid]),
                "sha256": _sha256(self.objects[uid]),
                "form": "htj2k" if self.prepared else "",
                "reason": "",
            }
            for uid in mine
        ]
        series = {
            "series_uid": next(iter(mine.values()))[1],
            "modality": "CT",
            "instances": len(mine),
            "frames": len(mine),
            "forms": {"htj2k": len(mine)},
            "objects": objects,
        }
        return 200, {"study": self._row(study_uid), "series": [series], "conflicts": []}

    def enter(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.most_at_once = max(self.most_at_once, self._now)


def _sha256(part10: bytes) -> str:
    return hashlib.sha256(part10[split_part10(part10).dataset_offset :]).hexdigest()


def serve(node: FakeNode) -> ThreadingHTTPServer:
    """Start serving ``node`` in a thread; its ``url`` says where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def _answer(self) -> None:
            node.enter(1)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            if body and body == node.breaks_at:
                self.close_connection = True
                node.enter(-1)
                return
            if parts.path == "/api/v1/instances" and not node.away:
                status, value = node.ingest(body, self.headers["X-Raypacs-Source"])
            else:
                status, value = node.answer(self.command, parts.path, query, body)
            sent = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(sent)
            node.enter(-1)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    node.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
