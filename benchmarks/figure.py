"""One measured figure, beside a peer or a limit: what every benchmark returns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


class MissingPeer(RuntimeError):
    """A peer that this benchmark compares with is not installed.

    The message ends with the documented command that installs it; a missing peer is never left
    out silently.
    """

    def __init__(self, peer: str, *, why: str = "") -> None:
        self.peer = peer
        self.command = f"python -m benchmarks peers install {peer}"
        super().__init__(
            f"{peer} is missing{f' ({why})' if why else ''}; install it with: {self.command}"
        )


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    ``beside`` names what it is compared with, with its version ("Orthanc 1.12.7") or the limit
    ("limit: 3 % of the lossless bytes"); empty when the figure stands alone. ``ratio`` is how many
    times better than ``beside_value`` the figure is: above 1 is better, whatever the direction of
    the unit (see :func:`compare`). ``target`` says in words what has to hold, empty if nothing
    has to; ``holds`` is then None. ``value`` is the median of ``n`` runs and ``spread`` is
    (largest - smallest) / median of them, 0 with one run.
    """

    name: str
    value: float
    unit: str
    beside: str = ""
    beside_value: float | None = None
    ratio: float | None = None
    target: str = ""
    holds: bool | None = None
    n: int = 1
    spread: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the figure as a JSON object with every field."""
        return asdict(self)


def compare(
    name: str,
    unit: str,
    runs: Sequence[float],
    *,
    beside: str = "",
    beside_runs: Sequence[float] = (),
    at_least: float | None = None,
    less_is_better: bool = False,
) -> Figure:
    """Build a figure from repeated runs, beside the runs of a peer.

    ``at_least`` is the target for ``ratio``: value / beside value, or the inverse when less is
    better, so that larger is always better for raypacs.

    Raises:
        ValueError: no run, a run that is not positive where a ratio is wanted, or a target
            without anything beside.
    """
    if not runs or (at_least is not None and not beside_runs):
        raise ValueError(f"{name}: a figure needs runs, and a target something beside it")
    value = statistics.median(runs)
    ratio = beside_value = None
    if beside_runs:
        beside_value = statistics.median(beside_runs)
        if value <= 0 or beside_value <= 0:
            raise ValueError(f"{name}: {value:g} beside {beside_value:g} has no ratio")
        ratio = beside_value / value if less_is_better else value / beside_value
    return Figure(
        name=name,
        value=value,
        unit=unit,
        beside=beside,
        beside_value=beside_value,
        ratio=ratio,
        target="" if at_least is None else f"ratio >= {at_least:g}",
        holds=None if at_least is None or ratio is None else ratio >= at_least,
        n=len(runs),
        spread=spread(runs),
    )


def limit(
    name: str,
    unit: str,
    runs: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    beside: str = "limit",
) -> Figure:
    """Build a figure beside a limit that it must not pass (exactly one of the two is given).

    Raises:
        ValueError: no run, or not exactly one limit.
    """
    if not runs or (at_most is None) == (at_least is None):
        raise ValueError(f"{name}: a limit needs runs and exactly one of at_most, at_least")
    value = statistics.median(runs)
    bound = float(at_most if at_most is not None else at_least or 0.0)
    holds = value <= bound if at_most is not None else value >= bound
    better = (bound, value) if at_most is not None else (value, bound)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        beside=beside,
        beside_value=bound,
        ratio=better[0] / better[1] if better[1] else None,
        target=f"{'<=' if at_most is not None else '>='} {bound:g} {unit}".strip(),
        holds=holds,
        n=len(runs),
        spread=spread(runs),
    )


def spread(runs: Sequence[float]) -> float:
    """Return (largest - smallest) / median of ``runs``, 0 for a single run or a median of 0."""
    middle = statistics.median(runs)
    return (max(runs) - min(runs)) / abs(middle) if len(runs) > 1 and middle else 0.0


def repeat(measure: Callable[[], float], times: int) -> list[float]:
    """Return ``measure()`` called ``times`` times."""
    return [measure() for _ in range(times)]
