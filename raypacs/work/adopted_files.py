"""Which files of an adopted archive the index knows already: hashes of all of them, in memory.

Sixteen bytes a file and a bit more, so that a hundred million files take two gigabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from raypacs.storage.objects import ObjectInfo

Hashes = npt.NDArray[np.uint64]


class KnownFiles:
    """The files of one archive as the index knows them: path, and size and time."""

    def __init__(self, places: Iterable[list[tuple[str, str, int, float]]]) -> None:
        """``places``: (study UID, path, size in bytes, time) of every instance, in lists."""
        paths: list[Hashes] = []
        states: list[Hashes] = []
        for rows in places:
            paths.append(_hashes(path for _, path, _, _ in rows))
            states.append(_hashes(f"{path}\0{size}\0{at_s!r}" for _, path, size, at_s in rows))
        every = np.concatenate(paths) if paths else np.empty(0, np.uint64)
        order = np.argsort(every)
        self._paths = every[order]
        self._states = np.concatenate(states)[order] if states else every
        self._seen = np.zeros(len(every), bool)

    def __len__(self) -> int:
        return len(self._paths)

    def sort(
        self, files: Sequence[ObjectInfo]
    ) -> tuple[list[ObjectInfo], list[ObjectInfo], list[ObjectInfo]]:
        """Return which of the files are new, which as they were, and which changed."""
        at = self._find(_hashes(info.path for info in files))
        states = _hashes(f"{info.path}\0{info.size_bytes}\0{info.modified_s!r}" for info in files)
        sorted_: tuple[list[ObjectInfo], ...] = ([], [], [])
        for info, place, state in zip(files, at, states, strict=True):
            if place < 0:
                sorted_[0].append(info)
                continue
            self._seen[place] = True
            sorted_[1 if self._states[place] == state else 2].append(info)
        return sorted_[0], sorted_[1], sorted_[2]

    def unseen(self, rows: Sequence[tuple[str, str, int, float]]) -> list[str]:
        """Return the paths of known places that no file was sorted for."""
        at = self._find(_hashes(path for _, path, _, _ in rows))
        # What was registered since is not known here, and was seen just now.
        return [
            row[1]
            for row, place in zip(rows, at, strict=True)
            if place >= 0 and not self._seen[place]
        ]

    @property
    def all_seen(self) -> bool:
        """Whether there is no known place without its file."""
        return bool(self._seen.all())

    def _find(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Return the place of each hash, -1 where it is not known."""
        if not len(self._paths):
            return np.full(len(hashes), -1)
        at = np.searchsorted(self._paths, hashes)
        at[at == len(self._paths)] = 0
        return np.where(self._paths[at] == hashes, at, -1)


def _hashes(texts: Iterable[str]) -> Hashes:
    digests = b"".join(_digests(texts))
    return np.frombuffer(digests, np.uint64)


def _digests(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        yield hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
