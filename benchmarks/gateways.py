"""Gateway processes over a fixed set of instances, as a node would run them, without Ray.

`python -m benchmarks.gateways PORT FILE` serves what FILE (a pickled :class:`Holdings`) says until
its standard input closes.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import orthanc
from raypacs.config import Settings
from raypacs.records import PackRef, StoredInstance
from raypacs.storage.intake import Intake, IntakePorts
from raypacs.storage.tier import open_tier
from raypacs.web.server import HttpSpec, serve_http
from raypacs.web.services import Services


@dataclass(frozen=True)
class Holdings:
    """What is served: settings with the tiers, instances, and packs by series."""

    settings: Settings
    instances: tuple[StoredInstance, ...]
    packs: dict[str, list[PackRef]] = field(default_factory=dict)

    def urls(self, base: str) -> list[str]:
        """WADO-RS URLs of the first frame of every instance."""
        return [
            f"{base}/dicom-web/studies/{one.record.study_uid}/series/{one.record.series_uid}"
            f"/instances/{one.record.sop_instance_uid}/frames/1"
            for one in self.instances
        ]

    def services(self, claims_dir: Path) -> Services:
        """The callables of the web edge, from these values alone."""
        tiers = {one.name: open_tier(one) for one in self.settings.tiers}
        nothing = IntakePorts(lambda _: None, lambda _: [], lambda _: None, lambda _a, _b: 0)
        return Services(
            search_studies=lambda _: [],
            search_series=lambda _: [],
            search_instances=lambda _: [],
            study=lambda _: None,
            instances=lambda uid: [o for o in self.instances if o.record.study_uid == uid],
            series_instances=lambda _, uid: [
                one for one in self.instances if one.record.series_uid == uid
            ],
            locate_instance=lambda _: None,
            locate=lambda uid: self.packs.get(uid, []),
            series_state=lambda _, uid: (uid, *(ref.pack_path for ref in self.packs.get(uid, []))),
            tier=tiers.__getitem__,
            intake=Intake(
                list(tiers.values()),
                nothing,
                claims_dir=claims_dir,
                boot="bench",
                settings=self.settings,
            ),
            status=dict,
            delete_study=lambda *_: 0,
            hint_complete=lambda _: None,
            settings=lambda: (1, self.settings),
            apply_settings=lambda _a, _b: 1,
            explain_rules=lambda _a, _b: [],
            tasks=lambda *_: {"items": [], "total": 0},
            task=lambda _: {},
            queue_state=dict,
            nodes=list,
            why=lambda _: [],
            master=lambda *_, **__: None,
            touched=lambda _: None,
        )


@contextlib.contextmanager
def start_gateways(holdings: Holdings, *, processes: int = 2) -> Iterator[str]:
    """Run gateway processes that share one port; yield their base URL; end them after.

    Raises:
        RuntimeError: one did not start within 30 s.
    """
    port = orthanc.free_ports(1)[0]
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        pickle.dump(holdings, file)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.gateways", str(port), file.name]
        try:
            for _ in range(processes):
                running.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        cwd=Path(__file__).resolve().parent.parent,
                    )
                )
            for process in running:
                assert process.stdout is not None
                if process.stdout.readline().strip() != b"ready":
                    raise RuntimeError("a gateway did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            for process in running:
                assert process.stdin is not None
                process.stdin.close()
            for process in running:
                process.wait(30)


def warm(urls: Sequence[str], accept: str, *, rounds: int = 4) -> None:
    """Fetch every URL over several connections, so that every process has its files open."""
    for _ in range(rounds):
        for url in urls[:8]:
            request = urllib.request.Request(url, headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        time.sleep(0.05)


def main(port: str, file: str) -> None:
    """Serve until standard input closes."""
    holdings: Holdings = pickle.loads(Path(file).read_bytes())
    with tempfile.TemporaryDirectory(prefix="claims-") as folder:
        server = serve_http(HttpSpec(port=int(port)), holdings.services(Path(folder)))
        print("ready", flush=True)
        sys.stdin.buffer.read()
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
