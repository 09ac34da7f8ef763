"""Files by relative names: in a local folder, or on a tier below a prefix. For statistics."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from raypacs import layout
from raypacs.errors import AlreadyExists, NotFound
from raypacs.storage.tier import Tier

_ANEW = re.compile(r"(\.[0-9a-f]{16})?(\.[a-z]+)?\.parquet$")


class Files(Protocol):
    """Files that are written whole, durably, and never changed in place."""

    def names(self, prefix: str) -> list[str]:
        """Return the names below a folder (``events/``), sorted."""

    def read(self, name: str) -> bytes:
        """Return a file. Raises NotFound."""

    def write(self, name: str, data: bytes) -> None:
        """Write a new file durably. Raises AlreadyExists, TierFull, TierUnavailable."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a file anew; where names are never used again, under another name."""

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""


class Folder:
    """Files in a folder of this host."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, prefix: str) -> list[str]:
        """See :class:`Files`."""
        found = (self._root / prefix).rglob("*.parquet")
        return sorted(
            path.relative_to(self._root).as_posix()
            for path in found
            if not path.name.startswith(".")
        )

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError as exc:
            raise NotFound(f"no file {name}", path=name) from exc

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Files`."""
        if (self._root / name).exists():
            raise AlreadyExists(f"{name} is there", path=name)
        self.replace(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """Write beside the name, flush, rename, flush the folder."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}.part")
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def delete(self, name: str) -> None:
        """See :class:`Files`."""
        (self._root / name).unlink(missing_ok=True)


class OnTier:
    """Files on a tier, below ``statistics/``. Every method may raise TierUnavailable."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier

    def names(self, prefix: str) -> list[str]:
        """See :class:`Files`."""
        return sorted(self._names(prefix))

    def _names(self, prefix: str) -> Iterator[str]:
        for info in self._tier.walk(layout.STATISTICS + prefix):
            if info.path.endswith(".parquet"):
                yield info.path.removeprefix(layout.STATISTICS)

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        return self._tier.read(layout.statistics(name))

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Files`."""
        self._tier.put_durable(layout.statistics(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """Put the new file beside the old one, then delete that: paths are never used again."""
        new = _ANEW.sub(lambda found: f".{layout.new_token()}{found[2] or ''}.parquet", name)
        self.write(new, data)
        self.delete(name)

    def delete(self, name: str) -> None:
        """See :class:`Files`."""
        try:
            self._tier.delete(layout.statistics(name))
        except NotFound:
            return


class Combined:
    """Files of several places: new ones go to the first, the others keep what they have."""

    def __init__(self, first: Files, *others: Files) -> None:
        self._first, self._all = first, (first, *others)

    def names(self, prefix: str) -> list[str]:
        """See :class:`Files`."""
        return sorted({name for place in self._all for name in place.names(prefix)})

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        for place in self._all:
            try:
                return place.read(name)
            except NotFound:
                continue
        raise NotFound(f"no file {name}", path=name)

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Files`."""
        self._first.write(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """Write a file anew where it is."""
        for place in self._all:
            if name in place.names(f"{name.rpartition('/')[0]}/"):
                place.replace(name, data)

    def delete(self, name: str) -> None:
        """See :class:`Files`."""
        for place in self._all:
            place.delete(name)


def statistics_of(folder: Path, tier: Tier | None) -> Files:
    """Return where statistics lie: on ``tier``, with what was written to the folder before."""
    return Folder(folder) if tier is None else Combined(OnTier(tier), Folder(folder))
