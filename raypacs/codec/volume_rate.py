"""How coarse the planes of a 3-D overview are quantised, so that their code has a wanted size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FINEST, _COARSEST = 1.0, 4096.0  # of 16-bit planes
_BEGIN = 64.0
_SAMPLE = 10  # planes on which the step is looked for
_SAMPLE_ROUNDS, _ROUNDS = 6, 4
_CLOSE = 0.02  # near enough on the sample
_NEARLY = 0.9  # of the budget: worth no other round
_AIM = 0.96
_STEEPEST, _USUAL, _FLATTEST = -1.5, -0.6, -0.25  # of log(size) by log(step)


def encode_planes(planes: Array, step: float, resolutions: int) -> bytes:
    """Return one irreversible HTJ2K codestream of 16-bit ``planes``, a component for each.

    ``step`` is that of the quantiser, in units of the planes.
    """
    return bytes(
        imagecodecs.htj2k_encode(
            planes,
            level=step / 65536,
            reversible=False,
            resolutions=resolutions,
            planar=True,
            rgb=False,
        )
    )


def fit_step(planes: Array, resolutions: int, budget_bytes: int) -> tuple[float, bytes]:
    """Return (step, code) of the finest quantiser found whose code fits the budget.

    Where even the coarsest does not, that one.
    """
    search = _sampled(planes, resolutions, budget_bytes)
    best: tuple[float, bytes] | None = None
    for _ in range(_ROUNDS):
        step = search.step
        code = encode_planes(planes, step, resolutions)
        fits = len(code) <= budget_bytes
        if fits and (best is None or len(code) > len(best[1])):
            best = step, code
        if fits and (len(code) >= _NEARLY * budget_bytes or step <= _FINEST):
            break
        if not fits and step >= _COARSEST:
            break
        search.tried(len(code), _AIM * budget_bytes)
    if best is None:
        best = _COARSEST, encode_planes(planes, _COARSEST, resolutions)
    return best


@dataclass
class _Search:
    """Secant steps in log(size) over log(step)."""

    step: float = _BEGIN
    slope: float = _USUAL
    _last: tuple[float, float] | None = None

    def tried(self, size: int, wanted: float) -> None:
        """Choose the next step, ``size`` being what the last one gave."""
        here = math.log(self.step), math.log(max(size, 1))
        if self._last is not None and abs(here[0] - self._last[0]) > 1e-3:
            found = (here[1] - self._last[1]) / (here[0] - self._last[0])
            self.slope = min(_FLATTEST, max(_STEEPEST, found))
        self._last = here
        aimed = here[0] + (math.log(max(wanted, 1.0)) - here[1]) / self.slope
        self.step = math.exp(min(math.log(_COARSEST), max(math.log(_FINEST), aimed)))


def _sampled(planes: Array, resolutions: int, budget_bytes: int) -> _Search:
    """Search on a few planes, evenly taken from all bands; the slope found there stays."""
    stride = max(1, len(planes) // _SAMPLE)
    sample = np.ascontiguousarray(planes[::stride])
    share = _AIM * budget_bytes * len(sample) / len(planes)
    search = _Search()
    for _ in range(_SAMPLE_ROUNDS):
        size, step = len(encode_planes(sample, search.step, resolutions)), search.step
        search.tried(size, share)
        if abs(size / max(share, 1.0) - 1) < _CLOSE or search.step == step:
            break
    return _Search(search.step, search.slope)
