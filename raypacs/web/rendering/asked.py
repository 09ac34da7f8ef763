"""What a request for a picture asks for: its query parameters (PS3.18 section 8.3.5.1).

``invert`` and ``overlay`` are not of the standard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raypacs.web.problem import Problem

FUNCTIONS = ("linear", "linear-exact", "sigmoid")
PROFILES = ("no", "yes", "srgb")
MOST_SIDE = 8192
_MOST_OVERLAYS = 16
_YES_NO = {"no": False, "yes": True}


@dataclass(frozen=True, slots=True)
class Window:
    """VOI window in modality units (PS3.3 section C.11.2.1.2)."""

    center: float
    width: float
    function: str = "linear"


@dataclass(frozen=True, slots=True)
class Viewport:
    """Size of the picture, and the part of the frame it shows (PS3.18 section 8.3.5.1.3).

    ``columns`` x ``rows`` is the box that the region is fitted into, its aspect kept. The region
    is in pixels of the frame: left, top, width, height; None: to the right or bottom edge. A
    negative width or height mirrors the picture.
    """

    columns: int
    rows: int
    left: float = 0.0
    top: float = 0.0
    width: float | None = None
    height: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the request asks for; without ``viewport`` the frame in its own size.

    ``overlays`` are the planes to draw, 0 to 15 for the groups 6000 to 601E.
    """

    media_type: str
    quality: int = 90
    window: Window | None = None
    viewport: Viewport | None = None
    invert: bool = False
    overlays: frozenset[int] = frozenset()
    profile: str = "no"


def read_wanted(
    query: Mapping[str, str], media_type: str, viewport: Viewport | None = None
) -> Wanted:
    """Return what the query parameters ask for; ``viewport`` stands in for one not given.

    Raises:
        Problem: 400, a parameter is wrong or what it asks for is not offered.
    """
    if "annotation" in query:
        # Names in any script would have to be burned in legibly, or the wrong patient is read.
        raise Problem(400, "annotation is not offered: no text is burned into pictures")
    return Wanted(
        media_type,
        parse_quality(query.get("quality", "90")),
        parse_window(query["window"]) if "window" in query else None,
        parse_viewport(query["viewport"]) if "viewport" in query else viewport,
        _one_of("invert", query.get("invert", "no"), tuple(_YES_NO)) == "yes",
        parse_overlays(query.get("overlay", "none")),
        _one_of("iccprofile", query.get("iccprofile", "no"), PROFILES),
    )


def parse_window(text: str) -> Window:
    """Parse the ``window`` query parameter: center,width[,function].

    Raises:
        Problem: 400.
    """
    parts = text.lower().split(",")
    try:
        center, width = float(parts[0]), float(parts[1])
    except (ValueError, IndexError) as exc:
        raise Problem(400, f"window={text!r} is not center,width[,function]") from exc
    function = parts[2] if len(parts) > 2 else "linear"
    good = math.isfinite(center) and math.isfinite(width) and function in FUNCTIONS
    if not good or len(parts) > 3 or width <= 0 or (function == "linear" and width < 1):
        raise Problem(400, f"window={text!r}: width is positive, function one of {FUNCTIONS}")
    return Window(center, width, function)


def parse_viewport(text: str) -> Viewport:
    """Parse the ``viewport`` query parameter: vw,vh[,sx,sy[,sw,sh]]; parts of the region may be ''.

    Raises:
        Problem: 400.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 4, 6) or not all(p.isascii() and p.isdigit() for p in parts[:2]):
        raise Problem(400, f"viewport={text!r} is not vw,vh or vw,vh,sx,sy,sw,sh")
    columns, rows = int(parts[0][:9]), int(parts[1][:9])
    if not (1 <= columns <= MOST_SIDE and 1 <= rows <= MOST_SIDE):
        raise Problem(400, f"viewport={text!r}: each side is 1 to {MOST_SIDE}")
    try:
        region = [float(part) if part else None for part in parts[2:]] + [None] * (6 - len(parts))
    except ValueError as exc:
        raise Problem(400, f"viewport={text!r}: the region is four numbers") from exc
    left, top, width, height = region
    if not all(math.isfinite(part) for part in region if part is not None):
        raise Problem(400, f"viewport={text!r}: the region is four numbers")
    if (left or 0) < 0 or (top or 0) < 0 or width == 0 or height == 0:
        raise Problem(400, f"viewport={text!r}: the region begins in the frame and is not empty")
    return Viewport(columns, rows, left or 0.0, top or 0.0, width, height)


def parse_quality(text: str) -> int:
    """Parse the ``quality`` query parameter, 1 to 100.

    Raises:
        Problem: 400.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise Problem(400, f"quality={text!r} is not 1 to 100")
    return int(text)


def parse_overlays(text: str) -> frozenset[int]:
    """Parse the ``overlay`` query parameter: none, all, or numbers 0 to 15 joined by commas.

    Raises:
        Problem: 400.
    """
    if text in ("none", "all"):
        return frozenset(range(_MOST_OVERLAYS)) if text == "all" else frozenset()
    parts = text.split(",")
    good = all(part.isascii() and part.isdigit() and len(part) <= 2 for part in parts)
    if not good or max(map(int, parts)) >= _MOST_OVERLAYS:
        raise Problem(400, f"overlay={text!r} is not none, all, or numbers 0 to 15")
    return frozenset(map(int, parts))


def _one_of(name: str, text: str, offered: tuple[str, ...]) -> str:
    if text.lower() not in offered:
        raise Problem(400, f"{name}={text!r} is not offered: {', '.join(offered)}")
    return text.lower()
