"""The planes of a 3-D overview as HTJ2K, quantised so that their code has a wanted size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Codes = tuple[bytes, ...]

_FINEST, _COARSEST = 1.0, 4096.0  # of 16-bit planes
_BEGIN = 64.0
_SAMPLE = 10  # planes on which the step is looked for
_SAMPLE_ROUNDS, _ROUNDS = 6, 4
_CLOSE = 0.02  # near enough on the sample
_NEARLY = 0.9  # of the budget: worth no other round
_AIM = 0.96
_STEEPEST, _USUAL, _FLATTEST = -1.5, -0.6, -0.25  # of log(size) by log(step)
_CODES = 2  # codestreams, coded and decoded at the same time
_FEWEST_SPLIT = 32


def encode_planes(planes: Array, step: float, resolutions: int, pool: Executor) -> Codes:
    """Return irreversible HTJ2K codestreams of 16-bit ``planes``, a component for each.

    Of k codestreams, number n holds the planes n, n + k, n + 2 k ... ``step`` is that of the
    quantiser, in units of the planes.
    """

    def encode(start: int) -> bytes:
        share = np.ascontiguousarray(planes[start::count])
        return bytes(
            imagecodecs.htj2k_encode(
                share,
                level=step / 65536,
                reversible=False,
                resolutions=resolutions,
                planar=True,
                rgb=False,
            )
        )

    count = _CODES if len(planes) >= _FEWEST_SPLIT else 1
    return tuple(pool.map(encode, range(count)))


def decode_planes(codes: Sequence[bytes], shape: tuple[int, int, int], pool: Executor) -> Array:
    """Undo :func:`encode_planes`: 16-bit planes of ``shape``.

    Raises:
        ValueError: the codestreams hold something else. imagecodecs.Htj2kError: damaged.
    """
    planes = np.empty(shape, np.int16)

    def decode(start: int) -> None:
        share = imagecodecs.htj2k_decode(codes[start], planar=True)
        planes[start :: len(codes)] = share.reshape(-1, *shape[1:])

    list(pool.map(decode, range(len(codes))))
    return planes


def fit_step(
    planes: Array, resolutions: int, budget_bytes: int, pool: Executor
) -> tuple[float, Codes]:
    """Return (step, codestreams) of the finest quantiser found whose code fits the budget.

    Where even the coarsest does not, that one.
    """
    search = _sampled(planes, resolutions, budget_bytes, pool)
    best: tuple[float, Codes] | None = None
    for _ in range(_ROUNDS):
        step = search.step
        codes = encode_planes(planes, step, resolutions, pool)
        size = sum(map(len, codes))
        fits = size <= budget_bytes
        if fits and (best is None or size > sum(map(len, best[1]))):
            best = step, codes
        if fits and (size >= _NEARLY * budget_bytes or step <= _FINEST):
            break
        if not fits and step >= _COARSEST:
            break
        search.tried(size, _AIM * budget_bytes)
    if best is None:
        best = _COARSEST, encode_planes(planes, _COARSEST, resolutions, pool)
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


def _sampled(planes: Array, resolutions: int, budget_bytes: int, pool: Executor) -> _Search:
    """Search on a few planes, evenly taken from all bands; the slope found there stays."""
    stride = max(1, len(planes) // _SAMPLE)
    sample = np.ascontiguousarray(planes[::stride])
    share = _AIM * budget_bytes * len(sample) / len(planes)
    search = _Search()
    for _ in range(_SAMPLE_ROUNDS):
        step = search.step
        size = sum(map(len, encode_planes(sample, step, resolutions, pool)))
        search.tried(size, share)
        if abs(size / max(share, 1.0) - 1) < _CLOSE or search.step == step:
            break
    return _Search(search.step, search.slope)
