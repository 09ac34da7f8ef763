"""What a sealed series consists of: one object on a tier instead of a row per instance.

gzip of JSON lines: a header with the version, the study, the series, their attributes and the names
of the columns; one list of values per instance, in the order of the series; a last line with the
SHA-256 of all lines before it (``docs/manifest-format.md``). Manifests are never changed: a series
that grows gets another one, at another path.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypacs.errors import ManifestCorrupt
from raypacs.storage.tier import Tier

VERSION = 1
_KIND = "raypacs manifest"
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Manifest:
    """A decoded manifest: ``values`` holds one tuple per instance, in the order of ``columns``.

    ``attributes`` maps keywords to text: those of the study and the series, as the index had them.
    """

    study_uid: str
    series_uid: str
    attributes: dict[str, str]
    columns: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return the instances as the index had them, by column."""
        return [dict(zip(self.columns, one, strict=True)) for one in self.values]


def encode(
    study_uid: str, series_uid: str, rows: Sequence[dict[str, Any]], attributes: Mapping[str, str]
) -> bytes:
    """Return the manifest of a series; ``rows`` are its instances, each with the same columns."""
    columns = list(rows[0]) if rows else []
    header = {
        "kind": _KIND,
        "version": VERSION,
        "study_uid": study_uid,
        "series_uid": series_uid,
        "attributes": dict(attributes),
        "instances": len(rows),
        "columns": columns,
    }
    lines = [_line(header), *(_line([row[name] for name in columns]) for row in rows)]
    body = b"".join(lines)
    body += _line({"sha256": hashlib.sha256(body).hexdigest()})
    return gzip.compress(body, _LEVEL, mtime=0)


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestCorrupt: it does not match its checksum, or is of a later version.
    """
    try:
        body = gzip.decompress(data)
        end = body.rindex(b"\n", 0, -1) + 1
        if json.loads(body[end:]) != {"sha256": hashlib.sha256(body[:end]).hexdigest()}:
            raise ManifestCorrupt("a manifest does not match its checksum")
        header, *values = (json.loads(line) for line in body[:end].splitlines())
        if header["kind"] != _KIND or header["version"] != VERSION:
            raise ManifestCorrupt(f"a manifest of version {header['version']}, not {VERSION}")
        return Manifest(
            header["study_uid"],
            header["series_uid"],
            dict(header["attributes"]),
            tuple(header["columns"]),
            tuple(tuple(one) for one in values),
        )
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError) as exc:
        if isinstance(exc, ManifestCorrupt):
            raise
        raise ManifestCorrupt(f"no manifest: {type(exc).__name__}") from exc


def _line(value: Any) -> bytes:
    # ASCII, so that no character of a value is a line break to anybody.
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class Manifests:
    """Reads manifests and keeps the last ones, up to ``most_instances``. Thread-safe."""

    def __init__(self, tier: Callable[[str], Tier], *, most_instances: int = 10_000) -> None:
        """Read from the tiers that ``tier`` gives by name (it raises NotFound)."""
        self._tier = tier
        self._most = most_instances
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Manifest] = OrderedDict()
        self._instances = 0

    def read(self, tier: str, path: str) -> Manifest:
        """Return a manifest.

        Raises:
            NotFound: no such object; the series was reopened or deleted meanwhile.
            TierUnavailable: the tier cannot be reached.
            ManifestCorrupt: it does not match its checksum.
        """
        key = (tier, path)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = decode(self._tier(tier).read(path))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._instances += len(found.values)
            while self._instances > self._most and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._instances -= len(dropped.values)
        return found

    def rows(self, tier: str, path: str) -> list[dict[str, Any]]:
        """Return the instances of a manifest by column. Raises as :meth:`read`."""
        return self.read(tier, path).rows()
