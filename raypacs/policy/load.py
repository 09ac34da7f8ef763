"""A load: which studies arrive when and how large, and which are opened when.

Recorded (from the statistics) or synthetic (:mod:`raypacs.policy.synthetic_load`); what a
simulation runs on. Times are seconds since the Unix epoch (UTC), sizes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raypacs.policy.forecast import HOUR_S, HourlyIntake

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
DAY_S = 24 * HOUR_S


@dataclass(frozen=True, eq=False)
class Load:
    """Arrivals in order of time, and reads in order of time.

    Studies that arrived before ``start_s`` are the history: what the cache is filled with when a
    simulation begins. ``reads`` are numbers of studies (places in ``arrived_s``).
    """

    start_s: float
    end_s: float
    arrived_s: Floats
    size_bytes: Ints
    objects: Ints
    modality: Ints
    modalities: tuple[str, ...]
    patient: Ints
    read_s: Floats
    reads: Ints
    origin: str = "synthetic"
    read_origin: str = "synthetic"
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, times in (("arrived_s", self.arrived_s), ("read_s", self.read_s)):
            if len(times) > 1 and bool(np.any(np.diff(times) < 0)):
                raise ValueError(f"{name} is not in order of time")
        if len(self.reads) and (self.reads.min() < 0 or self.reads.max() >= len(self.arrived_s)):
            raise ValueError("a read is of a study that is not in the load")

    @property
    def days(self) -> float:
        """Length of what is simulated, without the history."""
        return (self.end_s - self.start_s) / DAY_S

    @property
    def first(self) -> int:
        """Number of the first study that arrives after ``start_s``."""
        return int(np.searchsorted(self.arrived_s, self.start_s))

    def hourly(self, begin_s: float, end_s: float) -> list[HourlyIntake]:
        """Return what arrived in each whole hour between, also in hours without any."""
        first, last = np.searchsorted(self.arrived_s, (begin_s, end_s))
        hour = (self.arrived_s[first:last] // HOUR_S).astype(np.int64)
        begin, end = int(begin_s // HOUR_S), int(end_s // HOUR_S)
        hour, count = hour - begin, max(0, end - begin)
        inside = (hour >= 0) & (hour < count)

        def sums(values: Ints) -> Ints:
            found = np.bincount(hour[inside], weights=values[inside], minlength=count)
            return found.astype(np.int64)

        studies = np.bincount(hour[inside], minlength=count)
        objects, size = sums(self.objects[first:last]), sums(self.size_bytes[first:last])
        return [
            HourlyIntake((begin + at) * HOUR_S, int(studies[at]), int(objects[at]), int(size[at]))
            for at in range(count)
        ]

    def summary(self) -> dict[str, Any]:
        """Return the load in numbers, for reports."""
        now = slice(self.first, None)
        size = self.size_bytes[now]
        days = max(self.days, 1e-9)
        return {
            "origin": self.origin,
            "reads_from": self.read_origin,
            "days": round(self.days, 3),
            "studies": len(size),
            "studies_per_day": round(len(size) / days, 1),
            "bytes": int(size.sum()),
            "bytes_per_day": int(size.sum() / days),
            "bytes_per_study": int(size.mean()) if len(size) else 0,
            "history_studies": self.first,
            "history_bytes": int(self.size_bytes[: self.first].sum()),
            "reads": int(np.count_nonzero(self.read_s >= self.start_s)),
            **self.facts,
        }


def of_rows(rows: Iterable[tuple[float, str, str, str, int, int]], *, days: float = 0) -> Load:
    """Build a load of recorded rows (at_s, event, study key, modality, objects, bytes), any order.

    Events `received` are arrivals: a study arrives with its first, and is as large as all of them
    together. Events `accessed` and `restored` are reads. The last ``days`` days are what is
    simulated (0: all), what came before is history.

    Raises:
        ValueError: nothing was received.
    """
    arrived: dict[str, list[Any]] = {}
    read: list[tuple[float, str]] = []
    for at_s, event, key, modality, objects, size in sorted(rows):
        if event == "received" and key:
            known = arrived.setdefault(key, [at_s, modality, 0, 0])
            known[2] += objects
            known[3] += size
        elif event == "accessed" and key:
            read.append((at_s, key))
    if not arrived:
        raise ValueError("the record has no event 'received': there is nothing to replay")
    number = {key: at for at, key in enumerate(arrived)}
    studies = list(arrived.values())
    names = tuple(sorted({one[1] for one in studies}))
    seen = [(at_s, number[key]) for at_s, key in read if key in number]
    begin, end = studies[0][0], max([studies[-1][0], *(at_s for at_s, _ in seen)]) + 1
    return Load(
        start_s=max(begin, end - days * DAY_S) if days else begin,
        end_s=end,
        arrived_s=np.array([one[0] for one in studies], dtype=np.float64),
        size_bytes=np.array([one[3] for one in studies], dtype=np.int64),
        objects=np.array([max(1, one[2]) for one in studies], dtype=np.int64),
        modality=np.array([names.index(one[1]) for one in studies], dtype=np.int64),
        modalities=names,
        patient=np.arange(len(studies), dtype=np.int64),
        read_s=np.array([at_s for at_s, _ in seen], dtype=np.float64),
        reads=np.array([one for _, one in seen], dtype=np.int64),
        origin="recorded",
        read_origin="recorded" if seen else "none recorded",
    )
