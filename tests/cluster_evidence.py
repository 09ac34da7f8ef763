"""Evidence of who changed what while two masters are alive: rows in PostgreSQL, objects on tiers.

Triggers write down every change of a row with the name of the session that made it, which is the
master's epoch. They see what the program itself does not tell.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from cluster_hosts import Cluster, wait_for

from raypacs import layout
from raypacs.index.engine import open_engine

_INSTALL = """
CREATE SCHEMA evidence;
CREATE TABLE evidence.writes (
    number bigserial PRIMARY KEY, session text, tab text, old text, new text);
CREATE FUNCTION evidence.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO evidence.writes (session, tab, old, new) VALUES (
        current_setting('application_name'), TG_TABLE_NAME,
        to_jsonb(OLD)::text, to_jsonb(NEW)::text);
    RETURN NULL;
END $$;
"""
_EDGES = "intake/"
"""Journals of listeners and gateways: no master writes there."""


@dataclass(frozen=True)
class Write:
    """One change of one row; ``old`` or ``new`` is '' for an insert or a delete."""

    session: str
    table: str
    old: str
    new: str

    @property
    def epoch(self) -> int:
        """The epoch whose session wrote it; 0 for a claim."""
        found = re.match(r"raypacs-master-(\d+)-", self.session)
        return int(found.group(1)) if found else 0


@dataclass(frozen=True)
class Snapshot:
    """Every row of every table, every object of every tier, and the numbers of the writes seen."""

    rows: Counter[tuple[str, str]]
    objects: dict[str, tuple[int, int]]
    writes: frozenset[int]


class Evidence:
    """Looks at the index of a cluster, each change of which is written down from ``install`` on."""

    def __init__(self, cluster: Cluster) -> None:
        self._folder = cluster.folder / "shared"
        self.engine = open_engine(cluster.index_url)

    def snapshot(self) -> Snapshot:
        """Take the tiers first: what lies there is in the rows, or will be in the writes."""
        objects = self._objects()
        rows: Counter[tuple[str, str]] = Counter()
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
            for table in self._tables(conn):
                query = sa.text(f'SELECT to_jsonb(t)::text FROM "{table}" t')
                rows.update((table, text) for text in conn.execute(query).scalars())
            numbers = conn.execute(sa.text("SELECT number FROM evidence.writes")).scalars()
            return Snapshot(rows, objects, frozenset(numbers))

    def _objects(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            try:
                told = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[str(path.relative_to(self._folder))] = (told.st_size, told.st_mtime_ns)
        return found

    def writes(self, since: Snapshot | None = None) -> list[Write]:
        """Return the changes of rows in their order, those that ``since`` has seen left out."""
        query = "SELECT number, session, tab, coalesce(old, ''), coalesce(new, '') "
        with self.engine.connect() as conn:
            found = conn.execute(sa.text(query + "FROM evidence.writes ORDER BY number")).all()
        seen = since.writes if since else frozenset()
        return [Write(*row[1:]) for row in found if row[0] not in seen]

    def claimer(self, after: int) -> dict[str, Any] | None:
        """Return who claimed an epoch ``after`` this one, as soon as that is committed."""
        with self.engine.connect() as conn:
            query = sa.text("SELECT number, value FROM meta WHERE name = 'master'")
            row = conn.execute(query).one()
        return json.loads(row.value) | {"epoch": row.number} if row.number > after else None

    def pending(self) -> list[str]:
        """Return the paths of objects that are to be deleted and are still there."""
        with self.engine.connect() as conn:
            rows = conn.execute(sa.text("SELECT tier, path FROM delete_intents")).all()
        return [f"{tier}/{path}" for tier, path in rows if (self._folder / tier / path).exists()]

    @staticmethod
    def _tables(conn: sa.Connection) -> list[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        return sorted(conn.execute(sa.text(query)).scalars())

    def install(self) -> None:
        """Begin to write changes down; a table at a time, as masters write all the while."""
        with self.engine.begin() as conn:
            conn.exec_driver_sql(_INSTALL)
            tables = self._tables(conn)
        for table in tables:
            with self.engine.begin() as conn:
                conn.exec_driver_sql(
                    f'CREATE TRIGGER zz_evidence AFTER INSERT OR UPDATE OR DELETE ON "{table}" '
                    "FOR EACH ROW EXECUTE FUNCTION evidence.note()"
                )

    def close(self) -> None:
        """Let the connections go; the triggers stay."""
        self.engine.dispose()


@dataclass(frozen=True)
class TakenOver:
    """A take-over: the old master's epoch and pid, the new one's, and when it claimed."""

    old_epoch: int
    old_pid: int
    epoch: int
    pid: int
    claimed_s: float


def take_over(evidence: Evidence, before: dict[str, Any], begun: float) -> TakenOver:
    """Wait until another master claims, and stop that one at once: nobody may write now."""
    told = wait_for(lambda: evidence.claimer(before["epoch"]), "another master's claim") or {}
    psutil.Process(told["pid"]).suspend()
    claimed_s = time.monotonic() - begun
    return TakenOver(before["epoch"], before["pid"], told["epoch"], told["pid"], claimed_s)


def check_old_ends_alone(evidence: Evidence, taken: TakenOver, *, frozen: bool) -> Snapshot:
    """Let the old master go on while the new one stands still: it changes nothing, and ends.

    Whatever differs afterwards would be the old master's doing, so nothing may: no row, no object
    gone or changed. Returns the evidence of before; the new master goes on.
    """
    try:
        left = evidence.pending()
        before = evidence.snapshot()
        print(f"\nthe old master goes on; of what it was to delete, {len(left)} objects are there")
        if frozen:
            psutil.Process(taken.old_pid).send_signal(signal.SIGCONT)
        wait_for(lambda: ended(taken.old_pid), "the old master to end by itself", 30)
        after = evidence.snapshot()
        assert after.rows == before.rows
        assert evidence.writes(since=before) == []
        # Workers go on with what they were given; a master would take or leave something else.
        running = running_tokens(before)
        for path in before.objects.keys() | after.objects.keys():
            if _EDGES not in path and not any(token in path for token in running):
                assert after.objects.get(path) == before.objects.get(path), path
    finally:
        psutil.Process(taken.pid).resume()
    return before


def running_tokens(snapshot: Snapshot) -> set[str]:
    """Return the tokens of all attempts that the rows know."""
    rows = [json.loads(text) for table, text in snapshot.rows if table == "work_items"]
    return {row["token"] for row in rows} - {""}


def ended(pid: int) -> bool:
    """Whether a process has ended; its parent may be stopped and not have taken notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def check_explained(evidence: Evidence, before: Snapshot, taken: TakenOver) -> None:
    """Every difference since ``before`` is a write of the new epoch (or a later one), or follows.

    Rows: the sessions that changed them are named by epoch. Objects: their path, or their
    attempt's token, is in a row that the new epoch wrote.
    """
    after = evidence.snapshot()
    since = evidence.writes(since=before)
    late = [one for one in since if 0 < one.epoch < taken.epoch]
    assert late == []
    others = {one.session for one in since if not one.epoch}
    assert others <= {"raypacs-claim"}, others
    gone, come = before.rows - after.rows, after.rows - before.rows
    assert not set(gone) - {(one.table, one.old) for one in since}
    assert not set(come) - {(one.table, one.new) for one in since}
    told = "\n".join(f"{one.old}\n{one.new}" for one in since)
    for path in before.objects.keys() ^ after.objects.keys():
        gone_part = path in before.objects and f"/{layout.ATTEMPTS}" in path
        # Parts of attempts that ended are swept by every new master.
        assert _EDGES in path or gone_part or _told_of(path, told, taken), path
    for path in before.objects.keys() & after.objects.keys():
        assert before.objects[path] == after.objects[path] or _EDGES in path, path


def _told_of(path: str, told: str, taken: TakenOver) -> bool:
    tier_path = path.partition("/")[2]
    if tier_path.startswith(layout.EPOCH_MARKERS):
        # The newest marker takes the place of the older ones.
        return layout.epoch_of(tier_path) >= taken.old_epoch
    if tier_path in told:
        return True
    if tier_path.startswith(layout.ATTEMPTS):
        return tier_path.split("/")[1] in told
    name = Path(tier_path)
    return name.suffix in (".pack", ".hdr") and name.stem in told


def check_no_late_write(evidence: Evidence) -> None:
    """After a claim's own write there is none of an older epoch, whatever was killed or stopped."""
    claimed = 0
    for one in evidence.writes():
        row = json.loads(one.new) if one.table == "meta" and one.new else {}
        if row.get("name") == "epoch":
            claimed = row["number"]
        assert one.epoch in (0, claimed) or not claimed, (claimed, one)
    assert claimed
