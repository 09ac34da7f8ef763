"""Entity tags (RFC 9110 section 8.8.3) of what is made from instances, and their comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from raypacs import __version__
from raypacs.web.places import Place


def tag_of(places: Iterable[Place], kind: str, *, weak: bool = False) -> str:
    """Return an entity tag over the bytes of the instances and what is made of them.

    ``kind`` names the representation. ``weak``: of the same content, though not always the same
    bytes (the boundary of multipart bodies is random).
    """
    digest = hashlib.sha256(f"{__version__} {kind}\n".encode())
    for place in places:
        uid = place.stored.record.sop_instance_uid
        digest.update(f"{uid} {place.token} {place.pack is not None}\n".encode())
    return f'{"W/" if weak else ""}"{digest.hexdigest()[:24]}"'


def matches(if_none_match: str, tag: str) -> bool:
    """Whether If-None-Match holds the tag: weak comparison (RFC 9110 section 13.1.2)."""
    return if_none_match.strip() == "*" or tag.removeprefix("W/") in if_none_match
