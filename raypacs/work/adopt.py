"""ADOPT: an archive of others is listed, its headers read on all cores, its instances registered.

    list (threads of this run) -> scan (a task for some hundred files) -> register, in batches

Nothing is copied or written there. What the index knows already, by path, size and time, is not
read again, so an interrupted adoption goes on where it was. What is left out, what changed and what
is gone is written into a report, line by line, which is kept on a web tier.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from raypacs.config import TierSettings
from raypacs.errors import NotFound, TierUnavailable
from raypacs.records import InstanceRecord, Lease, Outcome, WorkResult
from raypacs.storage.adopted import AdoptedTier, Skipped
from raypacs.storage.adoption import describe_file
from raypacs.storage.checksums import dataset_sha256
from raypacs.storage.objects import ObjectInfo
from raypacs.work.adopt_report import Report
from raypacs.work.adopted_files import KnownFiles
from raypacs.work.run import Archives, Site, TaskFailure, Tasks
from raypacs.work.source import find_tier

_CHUNK_FILES = 256
_BATCH = 1000
_TELL_EVERY_S = 1.0
_MOST_TOLD = 3  # times that a record is told that gets no answer
_LIST = 1024
_TASKS_PER_CORE = 4
_TASK_BYTES = 128 * 1024 * 1024
# Where a file takes longer than its work, it is waited for: more are asked for at once.
_LOOK_FILES = 16
_WAITS = 3.0
_THREADS = 16

Comparison = tuple[InstanceRecord, InstanceRecord]
"""A record, and the one that is served under its UID; either may have no checksum."""

COUNTED = (
    *("seen", "indexed", "known", "skipped", "unlisted", "duplicate", "conflict", "undecided"),
    *("changed", "gone", "moved", "refused", "bytes_read"),
)
"""What the progress of an item counts, beside ``seconds``."""
# What an operator should read.
_BAD = ("conflict", "undecided", "changed", "gone", "unlisted")


@dataclass(frozen=True, slots=True)
class Scanned:
    """What became of the files of one task; ``bytes_read`` of them all."""

    records: tuple[InstanceRecord, ...]
    skipped: tuple[Skipped, ...]
    bytes_read: int


def scan_files(files: Sequence[ObjectInfo], tier: TierSettings, source: str) -> Scanned:
    """Describe files of an adopted tier from their headers.

    Raises:
        TierUnavailable: the tier does not answer.
    """
    archive = _archive((tier,), tier.name)

    def one(info: ObjectInfo) -> tuple[InstanceRecord | Skipped, int]:
        return describe_file(archive, info, source)

    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    found = [one(info) for info in files[:_LOOK_FILES]]
    rest = files[_LOOK_FILES:]
    waits = time.perf_counter() - wall_s > _WAITS * (time.thread_time() - cpu_s)
    if waits and rest:
        with ThreadPoolExecutor(_THREADS) as pool:
            found += pool.map(one, rest)
    else:
        found += map(one, rest)
    described = [each for each, _ in found]
    return Scanned(
        tuple(each for each in described if isinstance(each, InstanceRecord)),
        tuple(each for each in described if isinstance(each, Skipped)),
        sum(count for _, count in found),
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """Checksums of a record and of the one served ('' : cannot be read), and why not."""

    record: InstanceRecord
    served: InstanceRecord
    sha256: str
    served_sha256: str
    why: str = ""


def compare_files(pairs: Sequence[Comparison], tiers: tuple[TierSettings, ...]) -> list[Compared]:
    """Read both files of each pair where their checksums are not known.

    Raises:
        TierUnavailable: a tier does not answer.
    """
    found = []
    for record, served in pairs:
        sha256, why = _checksum(record, tiers)
        served_sha256 = _checksum(served, tiers)[0] if sha256 else ""
        found.append(Compared(record, served, sha256, served_sha256, why))
    return found


def _checksum(record: InstanceRecord, tiers: tuple[TierSettings, ...]) -> tuple[str, str]:
    if record.sha256:
        return record.sha256, ""
    tier = find_tier(tiers, record.tier)
    try:
        return dataset_sha256(tier, record), ""
    except NotFound as exc:
        return "", str(exc)
    except TierUnavailable as exc:
        if isinstance(tier, AdoptedTier) and tier.answers():
            return "", f"cannot be read: {exc}"
        raise


def _archive(tiers: tuple[TierSettings, ...], name: str) -> AdoptedTier:
    tier = find_tier(tiers, name)
    if not isinstance(tier, AdoptedTier):
        raise TierUnavailable(f"tier {name} is none that was adopted", tier=name)
    return tier


class AdoptRun:
    """One leased ADOPT of a tier."""

    def __init__(self, lease: Lease, site: Site) -> None:
        self._lease, self._site = lease, site
        self._name = str(lease.payload.get("tier", ""))
        self._prepare = bool(lease.payload.get("prepare"))
        self._deleted = bool(lease.payload.get("deleted"))
        self._report = Report(lease.token)
        self._counts: Counter[str] = Counter()
        self._pending: list[InstanceRecord] = []
        self._told: Counter[str] = Counter()  # how often a record had no answer, by path
        self._unlisted: list[str] = []
        self._out: dict[int, list[ObjectInfo]] = {}  # files of tasks by their number
        self._began_s = self._told_s = time.monotonic()

    def run(self, tasks: Tasks) -> WorkResult:
        """Adopt what is there and not known; say what changed or is gone."""
        archives = self._site.archives
        tier = next((one for one in self._site.settings.tiers if one.name == self._name), None)
        if archives is None or tier is None or not tier.adopted:
            why = f"no adopted tier {self._name!r} in the settings"
            return WorkResult(error=why, retryable=False)
        known = KnownFiles(archives.places(self._name))
        chunks = self._chunks(_archive((tier,), self._name), known, archives)
        failure = self._adopt(chunks, tier, archives, tasks)
        if failure is not None:
            tasks.cancel()
            return failure.as_result()
        self._look_for_gone(known, archives)
        if self._prepare:
            self._let_prepare(archives)
        return self._ended(archives)

    def clean_up(self, *, reported: bool) -> None:
        """Let go of the report, if it was not kept: else nothing was written."""
        self._report.close()

    # Files to tasks

    def _adopt(
        self,
        chunks: Iterator[list[ObjectInfo]],
        tier: TierSettings,
        archives: Archives,
        tasks: Tasks,
    ) -> TaskFailure | None:
        for chunk in islice(chunks, _TASKS_PER_CORE * self._site.cores):
            self._scan(chunk, tier, tasks)
        while True:
            for number, value in tasks.finished():
                files = self._out.pop(number)
                if isinstance(value, TaskFailure):
                    if not value.crashed or not files:
                        return value
                    self._split(files, tier, tasks)
                elif isinstance(value, Scanned):
                    self._take(value, archives, tasks)
                else:
                    self._settle(value, archives)
                for chunk in islice(chunks, 1):
                    self._scan(chunk, tier, tasks)
                self._tell(archives)
            if not self._pending:
                return None
            self._register(archives, tasks)

    def _chunks(
        self, archive: AdoptedTier, known: KnownFiles, archives: Archives
    ) -> Iterator[list[ObjectInfo]]:
        """Yield files to read; what needs no reading is counted, and told, here."""
        waiting: list[ObjectInfo] = []
        for listed in _lists(archive.files(), _LIST):
            files = []
            for one in listed:
                if isinstance(one, ObjectInfo):
                    files.append(one)
                elif one.folder:
                    self._unlisted.append(f"{one.path}/")
                    self._note("unlisted", one.path, one.why)
                else:
                    self._note("skipped", one.path, one.why)
            new, same, changed = known.sort(files)
            self._counts["seen"] += len(listed)
            self._counts["known"] += len(same)
            for info in changed:
                self._note("changed", info.path, "its size or time is not what was adopted")
            waiting += new
            while len(waiting) >= _CHUNK_FILES:
                yield waiting[:_CHUNK_FILES]
                del waiting[:_CHUNK_FILES]
            self._tell(archives)
        if waiting:
            yield waiting

    def _scan(self, files: list[ObjectInfo], tier: TierSettings, tasks: Tasks) -> None:
        self._submit(files, tasks, scan_files, files, tier, f"adopt:{self._name}")

    def _submit(
        self, files: list[ObjectInfo], tasks: Tasks, function: Callable[..., Any], *args: Any
    ) -> None:
        number = self._counts["tasks"] = self._counts["tasks"] + 1
        self._out[number] = files
        tasks.submit(number, function, *args)

    def _split(self, files: list[ObjectInfo], tier: TierSettings, tasks: Tasks) -> None:
        """Halve the files on which workers died, down to the one that does it."""
        if len(files) == 1:
            self._note("skipped", files[0].path, "a worker process died on it, three times")
            return
        middle = len(files) // 2
        self._scan(files[:middle], tier, tasks)
        self._scan(files[middle:], tier, tasks)

    # Records to the index

    def _take(self, scanned: Scanned, archives: Archives, tasks: Tasks) -> None:
        self._counts["bytes_read"] += scanned.bytes_read
        for one in scanned.skipped:
            self._note("skipped", one.path, one.why)
        self._pending += scanned.records
        if len(self._pending) >= _BATCH:
            self._register(archives, tasks)

    def _register(self, archives: Archives, tasks: Tasks) -> None:
        """Tell what is pending; what stays so had no answer yet."""
        batch, self._pending = self._pending[:_BATCH], self._pending[_BATCH:]
        answers = {
            one.path: one.outcome for one in archives.register(batch, self._prepare, self._deleted)
        }
        pairs: list[Comparison] = []
        for record in batch:
            outcome = answers.get(record.path)
            served = archives.served(record) if outcome is Outcome.UNDECIDED else None
            if served is not None:
                pairs.append((record, served))
            elif outcome is None or outcome is Outcome.UNDECIDED:
                self._again(record)
            else:
                self._answered(record, outcome)
        for share in _shares(pairs):
            self._submit([], tasks, compare_files, share, self._site.settings.tiers)

    def _again(self, record: InstanceRecord) -> None:
        self._told[record.path] += 1
        if self._told[record.path] < _MOST_TOLD:
            self._pending.append(record)
        else:
            self._note("undecided", record.path, "its study is sealed or changing: adopt again")

    def _answered(self, record: InstanceRecord, outcome: Outcome) -> None:
        if outcome is Outcome.STORED:
            self._counts["indexed"] += 1
        elif outcome is Outcome.KNOWN:
            why = f"instance {record.sop_instance_uid} is served from elsewhere, byte for byte"
            self._note("duplicate", record.path, why)
        elif outcome is Outcome.CONFLICT:
            why = f"instance {record.sop_instance_uid} is served with other bytes"
            self._note("conflict", record.path, why)
        else:
            why = f"study {record.study_uid} was deleted; --deleted takes it back"
            self._note("refused", record.path, why)

    def _settle(self, compared: Sequence[Compared], archives: Archives) -> None:
        """Register what was compared, with checksums; learn those that were not known."""
        learned = [
            (one.served, one.served_sha256)
            for one in compared
            if one.served_sha256 and not one.served.sha256
        ]
        if learned:
            archives.checksums(learned)
        for one in compared:
            if not one.sha256:
                self._note("skipped", one.record.path, one.why)
            elif one.served_sha256:
                self._pending.append(replace(one.record, sha256=one.sha256))
            elif _was_moved(one) and archives.moved(one.record, (one.served.tier, one.served.path)):
                self._note("moved", one.record.path, f"it was {one.served.path}")
            else:
                why = f"{one.served.path} on {one.served.tier}, which is served, cannot be compared"
                self._note("undecided", one.record.path, why)

    # What else there is to say

    def _look_for_gone(self, known: KnownFiles, archives: Archives) -> None:
        if known.all_seen:
            return
        hidden = tuple(self._unlisted)
        for rows in archives.places(self._name):
            for path in known.unseen(rows):
                if not hidden or not path.startswith(hidden):
                    self._note("gone", path, "the index serves it, and it is not there")

    def _let_prepare(self, archives: Archives) -> None:
        """Let everything of the tier be prepared: also what was adopted without that before."""
        told: set[str] = set()
        for rows in archives.places(self._name):
            new = list(dict.fromkeys(row[0] for row in rows if row[0] not in told))
            told.update(new)
            if new:
                archives.prepare(new)

    def _note(self, what: str, path: str, why: str) -> None:
        self._counts[what] += 1
        self._report.add(what, path, why)

    def _tell(self, archives: Archives, **more: Any) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < _TELL_EVERY_S and not more:
            return
        self._told_s = now_s
        seconds = now_s - self._began_s
        counts = {name: self._counts[name] for name in COUNTED}
        archives.progress(self._lease, {**counts, "seconds": round(seconds, 3), **more})

    def _ended(self, archives: Archives) -> WorkResult:
        tier, path = (
            self._report.keep(self._site.settings.tiers) if self._report.lines else ("", "")
        )
        report = {"tier": tier, "path": path, "lines": self._report.lines}
        self._tell(archives, done=True, report=report)
        bad = [f"{self._counts[name]} {name}" for name in _BAD if self._counts[name]]
        if self._report.lines and not path:
            bad.append("no web tier took the report")
        return WorkResult(warning=", ".join(bad))


def _was_moved(one: Compared) -> bool:
    """Whether a file that cannot be read where it was has its size and time elsewhere."""
    of = (one.record, one.served)
    return (
        one.record.tier == one.served.tier
        and len({(each.size_bytes, each.received_at_s) for each in of}) == 1
    )


def _lists(
    found: Iterator[ObjectInfo | Skipped], most: int
) -> Iterator[list[ObjectInfo | Skipped]]:
    while some := list(islice(found, most)):
        yield some


def _shares(pairs: Sequence[Comparison]) -> Iterator[list[Comparison]]:
    """Divide pairs into shares of about ``_TASK_BYTES`` to read."""
    share: list[Comparison] = []
    size = 0
    for pair in pairs:
        share.append(pair)
        size += sum(one.size_bytes for one in pair if not one.sha256)
        if size >= _TASK_BYTES:
            yield share
            share, size = [], 0
    if share:
        yield share
