"""A few lines of SVG: panels with axes, lines, bands and bars. Nothing to install, any browser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

TEXT = "#333333"
GRID = "#e3e3e3"
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 78, 24, 46, 52, 40


@dataclass
class Panel:
    """One chart: ranges of both axes, and what is drawn, as SVG elements."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    height: int = 170
    log: bool = False
    y_ticks: Sequence[tuple[float, str]] = ()
    x_ticks: Sequence[tuple[float, str]] = ()
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Names and colours."""
    draws: list[Callable[[Scale], str]] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, name: str = "") -> None:
        """Draw a line; it is broken where a value is nan."""
        self._named(name, colour)

        def draw(at: Scale) -> str:
            paths: list[list[str]] = [[]]
            for x, y in zip(xs, ys, strict=True):
                if math.isnan(y):
                    paths.append([])
                else:
                    paths[-1].append(f"{at.x(x):.1f},{at.y(y):.1f}")
            return "".join(
                f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" '
                'stroke-width="1.3" stroke-linejoin="round"/>'
                for path in paths
                if len(path) > 1
            )

        self.draws.append(draw)

    def band(
        self,
        xs: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        colour: str,
        name: str = "",
    ) -> None:
        """Fill between two lines, where both have values."""
        self._named(name, colour)

        def draw(at: Scale) -> str:
            points = [
                (x, below, above)
                for x, below, above in zip(xs, low, high, strict=True)
                if not (math.isnan(below) or math.isnan(above))
            ]
            upper = [f"{at.x(x):.1f},{at.y(above):.1f}" for x, _, above in points]
            lower = [f"{at.x(x):.1f},{at.y(below):.1f}" for x, below, _ in reversed(points)]
            return f'<polygon points="{" ".join(upper + lower)}" fill="{colour}"/>'

        self.draws.append(draw)

    def level(self, y: float, colour: str, name: str) -> None:
        """Draw a dashed horizontal line with its name."""

        def draw(at: Scale) -> str:
            place = at.y(y)
            return (
                f'<line x1="{at.left}" x2="{at.right}" y1="{place:.1f}" y2="{place:.1f}" '
                f'stroke="{colour}" stroke-dasharray="5 4"/>'
                + text(at.right - 4, place - 4, name, colour=colour, anchor="end", size=11)
            )

        self.draws.append(draw)

    def blocks(self, spans: Sequence[tuple[float, float, float, float, str]]) -> None:
        """Draw rectangles (x from, x to, y from, y to, colour)."""

        def draw(at: Scale) -> str:
            return "".join(
                f'<rect x="{at.x(left):.1f}" y="{at.y(top):.1f}" '
                f'width="{max(0.7, at.x(right) - at.x(left)):.1f}" '
                f'height="{max(0.0, at.y(bottom) - at.y(top)):.1f}" fill="{colour}"/>'
                for left, right, bottom, top, colour in spans
            )

        self.draws.append(draw)

    def label(self, x: float, y: float, words: str, *, anchor: str = "middle") -> None:
        """Write at a place."""
        self.draws.append(lambda at: text(at.x(x), at.y(y), words, anchor=anchor, size=11))

    def _named(self, name: str, colour: str) -> None:
        if name:
            self.legend.append((name, colour))


@dataclass(frozen=True)
class Scale:
    """Values to places."""

    panel: Panel
    left: float
    right: float
    top: float

    def x(self, value: float) -> float:
        """Return the horizontal place."""
        low, high = self.panel.x
        return self.left + (value - low) / ((high - low) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the vertical place; values beyond the range lie on its edge."""
        low, high = self.panel.y
        value = min(max(value, low), high)
        if self.panel.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.top + self.panel.height * (1 - (value - low) / ((high - low) or 1))


def page(title: str, subtitle: str, panels: Sequence[Panel], width: int = 1000) -> str:
    """Return panels below each other as one SVG text."""
    top = float(_TOP + 22)
    parts = []
    for panel in panels:
        parts.append(_panel(panel, Scale(panel, _LEFT, width - _RIGHT, top)))
        top += panel.height + _GAP
    height = top - _GAP + _BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>'
        + text(_LEFT, 24, title, size=17, weight="bold")
        + text(_LEFT, 43, subtitle, size=12)
        + "".join(parts)
        + "</svg>\n"
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    colour: str = TEXT,
    anchor: str = "start",
    weight: str = "normal",
) -> str:
    """Return a text element."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
    )


def _panel(panel: Panel, at: Scale) -> str:
    bottom = at.top + panel.height
    parts = [text(at.left, at.top - 8, panel.title, size=12, weight="bold")]
    for value, name in panel.y_ticks:
        place = at.y(value)
        parts.append(
            f'<line x1="{at.left}" x2="{at.right}" y1="{place:.1f}" y2="{place:.1f}" '
            f'stroke="{GRID}"/>' + text(at.left - 6, place + 4, name, size=11, anchor="end")
        )
    for value, name in panel.x_ticks:
        place = at.x(value)
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 4}" '
            f'stroke="{TEXT}"/>' + text(place, bottom + 17, name, size=11, anchor="middle")
        )
    parts += [draw(at) for draw in panel.draws]
    parts.append(
        f'<rect x="{at.left}" y="{at.top}" width="{at.right - at.left}" height="{panel.height}" '
        f'fill="none" stroke="#999999"/>'
    )
    right = at.right
    for name, colour in reversed(panel.legend):
        right -= 7.0 * len(name) + 26
        parts.append(
            f'<rect x="{right:.1f}" y="{at.top - 16}" width="12" height="9" fill="{colour}"/>'
            + text(right + 16, at.top - 8, name, size=11)
        )
    return "".join(parts)
