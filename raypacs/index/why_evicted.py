"""How eviction is told in the story of a study: by which rule, at which forecast, on what proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypacs import moments
from raypacs.index.pins import FOR_EVER_S
from raypacs.index.why_amounts import bytes_of, objects_of

Detail = Mapping[str, Any]


def evicted(detail: Detail) -> str:
    """Tell why a study left the image tiers."""
    kept = int(detail.get("kept_series") or 0)
    what = "what no series share keeps left" if kept else "left"
    told = (
        f"{what} {_list(detail.get('tiers'))}: {objects_of(detail)}, "
        f"{bytes_of(detail.get('size_bytes'))}, {_why(detail)}"
    )
    relied = _list(detail.get("relies_on"))
    told += f"; proven in {relied}"
    if kept:
        told += f"; {kept} {'series is' if kept == 1 else 'series are'} kept"
    return f"{told}; bytes go after {float(detail.get('grace_s') or 0):.0f} s"


def evicted_from_web(detail: Detail) -> str:
    """Tell why a study left the web cache."""
    return (
        f"left the web cache {_list(detail.get('tiers'))}: {bytes_of(detail.get('size_bytes'))}, "
        f"{_why(detail)}; served from the originals, prepared again when it is accessed"
    )


def forgotten(detail: Detail) -> str:
    """Tell why a study left altogether."""
    return (
        f"evicted from every cache without an archived copy, as archiving is off for its source "
        f"{detail.get('source') or '?'}: {objects_of(detail)}, "
        f"{bytes_of(detail.get('size_bytes'))}, {_why(detail)}"
    )


def taken_back(detail: Detail) -> str:
    """Tell why a study stays after all."""
    return (
        f"online again on {_list(detail.get('tiers'))}, before any byte went: "
        f"{detail.get('reason', '?')}"
    )


def pinned(detail: Detail) -> str:
    """Tell until when a study is pinned."""
    until_s = float(detail.get("until_s") or 0.0)
    return "pinned" if until_s >= FOR_EVER_S else f"pinned until {moments.told(until_s)}"


def unpinned(detail: Detail) -> str:
    """Tell that a pin went."""
    return f"pin taken away{': ' + str(detail['reason']) if detail.get('reason') else ''}"


def purged(detail: Detail) -> str:
    """Tell that a library copy was let go."""
    return f"taken out of library {detail.get('tier')}: {bytes_of(detail.get('size_bytes'))}"


def _why(detail: Detail) -> str:
    """Return rule, level, forecast, need and order."""
    rule = str(detail.get("rule") or "?")
    accessed_s = float(detail.get("accessed_s") or 0.0)
    last = f"last accessed {moments.told(accessed_s)}" if accessed_s else "never accessed"
    if rule == "ordered":
        return f"as ordered ({last})"
    hours = detail.get("hours")
    left = (
        "hours of space left not known" if hours is None else f"{float(hours):.1f} h of space left"
    )
    level = str(detail.get("level") or "?")
    name = rule if rule.endswith(level) else f"{rule}, {level}"
    return (
        f"by rule {name}: {detail.get('for', '?')} had {left} and needed "
        f"{bytes_of(detail.get('need_bytes'))}; it was the least recently used that may go ({last})"
    )


def _list(value: Any) -> str:
    return ", ".join(str(one) for one in value or ()) or "?"
