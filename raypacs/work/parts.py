"""The values of a PREPARE: what a task is given and what it hands back. Frozen and picklable."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from raypacs.config import CompressionRule, TierSettings
from raypacs.records import InstanceRecord


@dataclass(frozen=True, slots=True)
class PrepareContext:
    """What every task of one PREPARE shares.

    ``tiers`` are all tiers an instance may lie on, ``web`` the tier that gets the packs. ``token``
    is the lease's and part of every path that is written.
    """

    study_uid: str
    token: str
    tiers: tuple[TierSettings, ...]
    web: TierSettings
    compression: tuple[CompressionRule, ...] = ()
    inline_value_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames ``first`` to ``first + count`` (from 0) of one instance; the first piece has its
    header as well. ``count`` is 0 for an instance that is only looked at and copied when the
    series is published.
    """

    record: InstanceRecord
    first: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one task prepares: consecutive pieces of one series.

    ``stack``: the series has so many grey frames that they may be slices of a volume.
    """

    series_uid: str
    number: int
    pieces: tuple[Piece, ...]
    stack: bool = False


@dataclass(frozen=True, slots=True)
class PieceResult:
    """What became of one piece.

    ``table`` holds 16 bytes a frame as in a pack's frame table. ``metadata`` and ``header`` are
    (offset, length) in the inflated blocks of the part; only first pieces have them, and only
    prepared ones a header. ``geometry`` holds the texts of the elements in ``metadata`` that say
    where the frames lie; empty where only the whole says it. ``plane_halvings``: how often the
    sides of the planes are halved that the part holds of its frames; 0: it holds none.
    """

    record: InstanceRecord
    first: int
    count: int
    form: str
    reason: str
    transfer_syntax_uid: str
    table: bytes = b""
    low_length: int = 0
    rest_length: int = 0
    levels: int = 0
    low_halvings: int = 0
    low_own: bool = False
    colour_transform: bool = False
    photometric: str = ""
    pixel_vr: str = ""
    raw_bytes: int = 0
    metadata: tuple[int, int] | None = None
    header: tuple[int, int] | None = None
    trailer_length: int = 0
    geometry: tuple[str, ...] = ()
    plane_halvings: int = 0


@dataclass(frozen=True, slots=True)
class PartBlock:
    """A deflated block inside a part: where it lies, and what it inflates to."""

    offset: int
    length: int
    raw_length: int
    crc32: int


class Pieces(Sequence[PieceResult]):
    """The piece results of a part, pickled once where they are made.

    They pass through the process that hands out the work, which has no use for them: unpickling
    and pickling them again there would cost it more than the rest of its work.
    """

    __slots__ = ("_pickled", "_results")

    def __init__(self, results: Iterable[PieceResult] = (), *, pickled: bytes = b"") -> None:
        self._results = None if pickled else tuple(results)
        self._pickled = pickled

    def _all(self) -> tuple[PieceResult, ...]:
        if self._results is None:
            self._results = pickle.loads(self._pickled)
        return self._results

    @overload
    def __getitem__(self, index: int) -> PieceResult: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[PieceResult, ...]: ...

    def __getitem__(self, index: int | slice) -> PieceResult | tuple[PieceResult, ...]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __reduce__(self) -> tuple[object, ...]:
        if not self._pickled:
            self._pickled = pickle.dumps(self._all(), pickle.HIGHEST_PROTOCOL)
        return (_unpickled, (self._pickled,))


def _unpickled(pickled: bytes) -> Pieces:
    return Pieces(pickled=pickled)


@dataclass(frozen=True, slots=True)
class PartResult:
    """One part object: rests of all frames, then their low parts, then the two blocks, then planes.

    Planes are frames at low resolution, native, for the 3-D overview.

    ``pieces`` may be given as any sequence; it is kept as :class:`Pieces`.
    """

    series_uid: str
    number: int
    path: str
    low_offset: int
    metadata: PartBlock
    headers: PartBlock
    pieces: Sequence[PieceResult]
    seconds: float

    def __post_init__(self) -> None:
        if not isinstance(self.pieces, Pieces):
            object.__setattr__(self, "pieces", Pieces(self.pieces))
