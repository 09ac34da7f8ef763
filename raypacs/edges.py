"""Composition root of the edge processes: a DICOM listener or a web worker, without Ray.

Started by the supervising actor as ``python -m raypacs.edges FD``; the file descriptor is a pipe
to that actor (:mod:`raypacs.link`). Reads go straight to the index through a read-only connection;
writes are calls to the master through the pipe. SIGTERM finishes what was begun and ends.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from raypacs import logs
from raypacs.config import Bootstrap, Settings, parse
from raypacs.dimse.server import DicomSpec, serve_dicom
from raypacs.errors import MasterUnavailable, NotFound, RaypacsError, TierUnavailable
from raypacs.index.landing import Landing
from raypacs.index.sealed_reader import SealedReader
from raypacs.layout import new_token
from raypacs.link import Caller
from raypacs.policy import deriving
from raypacs.records import InstanceRecord
from raypacs.storage.intake import Intake, IntakePorts
from raypacs.storage.late import LateTier, LateTiers
from raypacs.storage.manifest import Manifests
from raypacs.storage.overlap import check_allowed
from raypacs.web.planner import Planner
from raypacs.web.server import HttpSpec, serve_http
from raypacs.web.services import Services

_log = logging.getLogger("raypacs.edges")
REGISTER_TIMEOUT_S = 60.0
STATUS_TIMEOUT_S = 2.0
Call = Callable[..., Any]
QUESTIONS: frozenset[str] = frozenset(
    {
        "erasure",
        "erasure_preview",
        "erasures",
        "explain_described",
        "explain_study",
        "sources_seen",
        "study_status",
        "study_statuses",
        "archive_status",
        "cache",
        "cache_history",
        "caches",
        "evict_plan",
        "pins",
        "recounted",
        "restores",
        "sample_of_libraries",
        "site",
        "studies_in_libraries",
        "tier_states",
        "unarchived_studies",
        "what_lies",
    }
)
"""Methods of the read side that REST routes may ask through ``Services.ask``."""
Lost = Callable[[str], bool]
"""Whether the process of a boot name is gone."""


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """What an edge process needs to know at start."""

    role: str  # "listener" or "gateway"
    number: int
    boot: str
    bootstrap: Bootstrap
    settings: Settings
    port: int


def open_reader(url: str, tiers: LateTiers) -> SealedReader:
    """Open the read side of the index; manifests are read from this process's tiers."""
    return SealedReader(url, Manifests(tiers).rows)


def make_intake(
    bootstrap: Bootstrap,
    settings: Settings,
    boot: str,
    reader: SealedReader,
    call: Call,
    tiers: LateTiers,
) -> Intake:
    """Wire an Intake to the index (reads) and to the master (writes, through ``call``).

    It uses a tier that cannot be opened now as soon as it can.
    """
    holder = f"{bootstrap.name}/{boot}"  # a new life of the node gives back what it held
    urls = {tier.name: tier.url for tier in settings.tiers}
    ports = IntakePorts(
        known=reader.known,
        register=lambda records: list(call("register", records, holder)),
        aside=lambda record: call("aside", record, holder),
        grant=lambda tier, size_bytes: int(
            call("grant", tier, holder, size_bytes, urls.get(tier, ""))
        ),
        aside_known=reader.aside_known,
        known_sealed=reader.known_sealed,
        in_library=reader.in_library,
        served=lambda study_uid, series_uid, uid: reader.served(study_uid, uid),
        checksums=lambda told: call("checksums", told),
        other_sender=lambda *sender: call("other_sender", *sender),
    )
    return Intake(
        tiers.of_role("image"),  # read-only ones, too: what they hold is known, recovered
        ports,
        claims_dir=bootstrap.run_dir / "claims",
        boot=boot,
        settings=settings,
        site_id=reader.site().site_id,
        landing=Landing(settings.tiers, reader),
    )


def boot_prefix(bootstrap: Bootstrap) -> str:
    """Begin of the boot names of all edge processes of a node.

    Boot names have no dots; the plus ends the node's name, so that `n1` does not match `n1-b`.
    """
    return re.sub(r"[^A-Za-z0-9_-]", "_", bootstrap.name) + "+"


class Recovery:
    """Registers what lost edge processes of this node answered but had not registered.

    What lies on a tier that is away just now is looked for again later.
    """

    AGAIN_S = 30.0

    def __init__(
        self, bootstrap: Bootstrap, call: Call, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``call`` reaches the master; ``clock`` gives seconds that only grow."""
        self._bootstrap = bootstrap
        self._call = call
        self._clock = clock
        self._left: list[Lost] = []
        self._next_s = 0.0

    def run(self, settings: Settings, lost: Lost) -> int:
        """Recover; return the number of instances registered.

        ``lost`` says of a boot name if that process is gone, now or later; markers of other nodes
        stay. What the lost ones held of the tiers' room is given back.

        Raises:
            MasterUnavailable: the master or the index does not answer.
        """
        tiers = LateTiers(settings.tiers)
        away = [tier.name for tier in tiers.of_role("image") if not _is_open(tier)]
        if away:
            _log.warning("recovery is not complete", extra={"tiers": away})
            self._left.append(lost)
            self._next_s = self._clock() + self.AGAIN_S
        gone = {boot for boot in self._boots_seen(tiers, away) if lost(boot)}
        if not gone:
            return 0
        reader = open_reader(self._bootstrap.database_url, tiers)
        boot = f"{boot_prefix(self._bootstrap)}recovery-{new_token()}"
        intake = make_intake(self._bootstrap, settings, boot, reader, self._call, tiers)
        try:
            count = intake.recover_lost(gone)
        finally:
            intake.close()
            reader.close()
        if not away:  # else the room may be that of instances that are not registered yet
            for name in gone:
                self._call("release_grants", f"{self._bootstrap.name}/{name}")
        return count

    def again(self, settings: Callable[[], Settings]) -> int:
        """Recover what could not be before, at most every 30 s. Raises as :meth:`run`."""
        if not self._left or self._clock() < self._next_s:
            return 0
        left, self._left = self._left, []
        try:
            return self.run(settings(), lambda boot: any(lost(boot) for lost in left))
        except MasterUnavailable:
            self._left += left
            raise

    def _boots_seen(self, tiers: LateTiers, away: list[str]) -> Iterator[str]:
        """Boot names in intake markers on the image tiers and in this node's claims."""
        for tier in tiers.of_role("image"):
            if tier.name not in away:
                for marker in tier.walk("intake/"):
                    yield marker.path.removeprefix("intake/").partition(".")[0]
        claims = self._bootstrap.run_dir / "claims"
        if claims.is_dir():
            for name in os.listdir(claims):
                try:
                    yield os.readlink(claims / name)
                except OSError:  # released meanwhile
                    continue


def _is_open(tier: LateTier) -> bool:
    try:
        next(tier.walk("intake/"), None)
    except TierUnavailable:
        return False
    return True


class _Edge:
    """What a listener and a web worker have in common: link, index, intake, orderly end."""

    def __init__(self, spec: EdgeSpec, conn: Connection) -> None:
        self.spec = spec
        self.stopping = threading.Event()
        self.link = Caller(conn)
        self.tiers = LateTiers(spec.settings.tiers)
        self.reader = open_reader(spec.bootstrap.database_url, self.tiers)
        self.tiers.follow(lambda: self.reader.settings()[1].tiers)
        self.intake = make_intake(
            spec.bootstrap, spec.settings, spec.boot, self.reader, self.call, self.tiers
        )
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, which stops us

    def call(self, event: str, *args: Any, **named: Any) -> Any:
        """Call the master through the supervising actor."""
        return self.link.call(event, *args, timeout_s=REGISTER_TIMEOUT_S, **named)

    def hint(self, study_uids: list[str]) -> None:
        """Tell the master that these studies are complete, after they are registered."""
        if study_uids and self.intake.flush(REGISTER_TIMEOUT_S):
            self.link.cast("hint", study_uids)

    def serve(self, server: Any) -> None:
        """Say that we serve, wait for SIGTERM, finish what was begun."""
        self.link.cast("ready")
        self.stopping.wait()
        server.shutdown()
        if self.intake.close():
            self._give_back()
        else:
            _log.warning("unregistered instances are left for recovery")

    def _give_back(self) -> None:
        """Give back what room this process held: nothing that it wrote is unregistered."""
        holder = f"{self.spec.bootstrap.name}/{self.spec.boot}"
        try:
            self.link.call("release_grants", holder, timeout_s=STATUS_TIMEOUT_S)
        except RaypacsError as exc:  # given back when the node starts anew
            _log.warning("room is held until the node's next start: %s", exc)


def _listener(edge: _Edge) -> None:
    spec = edge.spec
    server = serve_dicom(
        DicomSpec(
            host=spec.bootstrap.host,
            port=spec.port,
            ae_title=spec.bootstrap.ae_title,
            max_instance_bytes=spec.settings.max_instance_bytes,
            spool_dir=spec.bootstrap.run_dir,
        ),
        edge.intake,
        association_ended=edge.hint,
    )
    edge.serve(server)


def _gateway(edge: _Edge) -> None:
    spec = edge.spec
    edge.serve(serve_http(HttpSpec(host=spec.bootstrap.host, port=spec.port), services(edge)))


def services(edge: _Edge) -> Services:
    """Fill in what the web edge may call: reads from the index, writes through the link."""
    reader, call, bootstrap = edge.reader, edge.call, edge.spec.bootstrap

    def study(study_uid: str) -> dict[str, Any] | None:
        try:
            return reader.study(study_uid)
        except NotFound:
            return None

    def apply_settings(values: dict[str, Any], who: str, version: int | None) -> int:
        new = parse(Settings, values, "settings")
        known = {tier.url for tier in reader.settings()[1].tiers if tier.adopted}
        for tier in new.tiers:
            if tier.adopted and tier.url not in known:
                check_allowed(tier.url, bootstrap.adoptable)
        return int(call("apply_settings", new, who, version))

    return Services(
        search_studies=reader.search_studies,
        search_series=reader.search_series,
        search_instances=reader.search_instances,
        study=study,
        instances=reader.instances,
        series_instances=reader.instances,
        locate_instance=reader.locate_instance,
        locate=reader.locate,
        series_state=reader.series_state,
        tier=edge.tiers,
        intake=edge.intake,
        status=lambda: _status(edge),
        delete_study=lambda uid, who: call("delete_study", uid, who),
        hint_complete=edge.hint,
        settings=reader.settings,
        apply_settings=apply_settings,
        explain_rules=partial(explain_rules, reader.settings),
        tasks=lambda filters, limit, offset, before_id: reader.tasks(
            filters, limit=limit, offset=offset, before_id=before_id
        ),
        task=reader.task,
        queue_state=lambda: reader.queue_state(time.time()),
        nodes=lambda: reader.nodes(time.time()),
        why=reader.why,
        master=call,
        ask=partial(ask, reader),
        plan=Planner(reader.settings, bootstrap.data_dir / "stats").answer,
        touched=lambda uids: edge.link.cast("touched", uids),
        is_away=reader.is_away,
        restore=lambda uid: dict(call("order_restore", uid, "stat", seen_away=True)),
        adopt_roots=bootstrap.adoptable,
        node={"name": bootstrap.name, "host": bootstrap.host, "http_port": edge.spec.port},
    )


def ask(reader: SealedReader, question: str, *args: Any, **named: Any) -> Any:
    """Answer a question of a REST route from the index."""
    if question not in QUESTIONS:
        raise AttributeError(question)
    return getattr(reader, question)(*args, **named)


def explain_rules(
    settings: Callable[[], tuple[int, Settings]],
    records: Sequence[InstanceRecord],
    rules: list[dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    """Return what compression rules (None: those in force) say of each instance.

    Raises:
        ConfigError: a rule is wrong.
    """
    given = settings()[1] if rules is None else parse(Settings, {"compression": rules}, "rules")
    return [dict(deriving.explain(record, given.compression)) for record in records]


def _status(edge: _Edge) -> dict[str, Any]:
    """Return the cluster's state; from the index alone while the master is away."""
    try:
        told = dict(edge.link.call("status", timeout_s=STATUS_TIMEOUT_S))
    except MasterUnavailable:
        told = {**edge.reader.status(time.time()), "master": {"pid": None, "state": "away"}}
    name = edge.spec.bootstrap.name
    node = next((node for node in told["nodes"] if node["name"] == name), {"name": name})
    return {**told, "node": node}


ENTRIES: dict[str, Callable[[_Edge], None]] = {"listener": _listener, "gateway": _gateway}


def main(descriptor: int) -> None:
    """Run one edge process over the pipe ``descriptor``."""
    conn = Connection(descriptor)
    spec: EdgeSpec = conn.recv()
    logs.setup(f"{spec.role}-{spec.number}", spec.bootstrap)
    ENTRIES[spec.role](_Edge(spec, conn))


if __name__ == "__main__":
    main(int(sys.argv[1]))
