"""Whether two URLs lead to the same bytes, however they are written; where archives may lie.

Folders are compared as the file system knows them: symbolic links, ``..`` and bind mounts lead to
one identity. A folder that hangs is compared by its name alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from raypacs.errors import ConfigError, TierUnavailable
from raypacs.object_store import check_no_secrets, without_secrets
from raypacs.storage.late import limited
from raypacs.storage.s3 import SCHEMES

_FOLDERS = ("", "file")
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Location:
    """Where a URL leads: its name with one / at the end, and the folders above and itself."""

    name: str
    folders: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """(st_dev, st_ino) from the folder itself up to the root; () where there is none."""

    def is_same(self, other: Location) -> bool:
        """Whether both are one place."""
        here, there = self.folders[:1], other.folders[:1]
        return self.name == other.name or (bool(here) and here == there)

    def is_in(self, other: Location) -> bool:
        """Whether this is the other place, or lies in it."""
        there = other.folders[:1]
        return self.name.startswith(other.name) or (bool(there) and there[0] in self.folders)


def location(url: str) -> Location:
    """Find where the URL of a tier leads; asks the file system, for seconds at most."""
    if "::" in url:
        return Location(url)
    parts = urlsplit(url)
    if parts.scheme in SCHEMES:
        path = unquote(parts.path).strip("/")
        return Location(f"s3://{parts.netloc}/{path}/" if path else f"s3://{parts.netloc}/")
    if parts.scheme not in _FOLDERS:
        return Location(unquote(url).rstrip("/") + "/")
    path = os.path.normpath("/" + unquote(parts.path).lstrip("/"))
    try:
        return limited(lambda: _folder(path), f"folder {path}", _PATIENCE_S)
    except TierUnavailable:
        return Location(path.rstrip("/") + "/")


def _folder(path: str) -> Location:
    real = os.path.realpath(path)
    folders: list[tuple[int, int]] = []
    at = real
    while True:
        try:
            state = os.stat(at)
        except OSError:
            folders.clear()  # what is below cannot be there
        else:
            folders.append((state.st_dev, state.st_ino))
        if at == "/":
            break
        at = os.path.dirname(at)
    there = os.path.isdir(real)
    return Location(real.rstrip("/") + "/", tuple(folders) if there else ())


def check_adoptable(url: str) -> None:
    """See that a URL can be one of an archive of others: a folder, or a prefix of a bucket.

    ``memory`` is for tests. Raises ConfigError.
    """
    try:
        check_no_secrets(url)
        parts = urlsplit(url)
    except ValueError as exc:
        raise ConfigError(f"url: {exc}") from exc
    known = (*_FOLDERS, *SCHEMES, "memory")
    is_folder = parts.scheme in _FOLDERS
    if "::" in url or parts.scheme not in known or (is_folder and "#" in url):
        raise ConfigError(
            f"url: {without_secrets(url)} is neither a folder nor s3://bucket/prefix",
            hint="an absolute folder, file:///folder (# is written %23), or s3://bucket/prefix",
        )
    if is_folder and (not parts.path.startswith("/") or parts.netloc not in ("", "localhost")):
        raise ConfigError(f"url: {url} is no absolute folder")


def check_allowed(url: str, roots: Sequence[str] | None) -> None:
    """See that an archive which is ordered over REST lies where the node allows it.

    ``roots``: folders and ``s3://bucket/prefix`` URLs; None allows any.

    Raises:
        ConfigError: it does not, or is neither a folder nor in a bucket.
    """
    check_adoptable(url)
    if urlsplit(url).scheme == "memory":
        raise ConfigError("url: memory is neither a folder nor s3://bucket/prefix")
    if roots is None:
        return
    place = location(url)
    if not any(place.is_in(location(root)) for root in roots):
        raise ConfigError(
            f"url: {url} is in none of the places from which this node adopts over REST",
            hint="name it in `adopt_roots` of the node's raypacs.toml",
        )
