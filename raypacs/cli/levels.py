"""Commands `cache status` and `cache forecast`: levels, hours left, and how sure they are."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raypacs.cli.session import Json, amount, columns, moment, session_of

_COLOURS = {"green": "green", "amber": "yellow", "red": "bold red"}
_SHOWN = 12


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show each cache: level, hours left, thresholds in hours and bytes, fill rate."""
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.caches()
    session.emit(found, _levels(found))
    if session.json:
        return
    session.stdout.print(_space(found))
    if any(cache["rates"]["all"] for cache in found):
        session.stdout.print(_rates(found))
    for cache in found:
        why = cache["detail"].get("why")
        if why:
            session.stdout.print(f"{escape(cache['name'])}: plain rate, {escape(why)}")
        for text in cache["alarms"]:
            session.stdout.print(f"[bold red]alarm[/] {escape(text)}", highlight=False)


def forecast(
    context: typer.Context,
    cache: Annotated[str, typer.Argument(help="Name of the cache. Default: all.")] = "",
    hours: Annotated[int, typer.Option(help="Forecasts back, one an hour.", min=1)] = 168,
    as_json: Json = False,
) -> None:
    """Show the hours left, with their uncertainty, and the error of earlier forecasts."""
    session = session_of(context, as_json)
    with session.client() as client:
        names = [cache] if cache else [one["name"] for one in client.caches()]
        found = [client.cache_forecast(name, hours) for name in names]
    session.emit(found[0] if cache else found, None)
    if session.json:
        return
    for one in found:
        _forecast(session.stdout.print, one)


def _levels(caches: list[dict[str, Any]]) -> Table:
    numbers = frozenset({"hours p10", "p50", "p90", "to free", "evictable h"})
    table = columns("", "cache", "level", "hours p10", "p50", "p90", "to free", "evictable h",
                    numbers=numbers)  # fmt: skip
    for cache in caches:
        detail = cache["detail"]
        level = cache["level"]
        colour = _COLOURS.get(level, "dim")
        table.add_row(
            escape(cache["name"]),
            f"[{colour}]{level or 'not judged'}[/]",
            *(hours_of(detail.get(f"hours_p{part}")) for part in (10, 50, 90)),
            amount(detail["need_bytes"]) if detail.get("need_bytes") else "-",
            hours_of(detail.get("evictable_hours")) if cache["role"] == "image" else "-",
        )
    return _whole(table)


def _space(caches: list[dict[str, Any]]) -> Table:
    """Return space and thresholds: apart from the levels, so that 80 columns are enough."""
    numbers = frozenset({"capacity", "used", "free"})
    table = columns("space and thresholds", "cache", "capacity", "used", "free", "thresholds",
                    numbers=numbers)  # fmt: skip
    for cache in caches:
        table.add_row(
            escape(cache["name"]),
            amount(cache["capacity_bytes"]),
            amount(cache["used_bytes"]),
            amount(cache["available_bytes"]),
            _thresholds(cache["thresholds"], cache["detail"]),
        )
    return _whole(table)


def _whole(table: Table) -> Table:
    """Let only the names in the first column break where a terminal is narrow."""
    for column in table.columns[1:]:
        column.no_wrap = True
    table.columns[0].overflow = "fold"
    return table


def _thresholds(hours: dict[str, float], detail: dict[str, Any]) -> str:
    return "\n".join(
        f"{name.removesuffix('_h')} {value:g} h = "
        f"{amount(detail.get(name.replace('_h', '_bytes'), 0))}"
        for name, value in hours.items()
    )


def _rates(caches: list[dict[str, Any]]) -> Table:
    numbers = frozenset({"studies/h", "objects/study", "bytes/object", "moved/h", "bytes/h"})
    table = columns("fill rate of seven days", "cache", "when", "studies/h", "objects/study",
                    "bytes/object", "moved/h", "bytes/h", numbers=numbers)  # fmt: skip
    for cache in caches:
        for when, rate in cache["rates"].items():
            if rate is not None:
                table.add_row(
                    escape(cache["name"]),
                    when,
                    f"{rate['studies_per_hour']:,.1f}",
                    f"{rate['objects_per_study']:,.1f}",
                    amount(rate["bytes_per_object"]),
                    amount(rate["moved_bytes_per_hour"]),
                    amount(rate["bytes_per_hour"]),
                )
    return table


def _forecast(show: Any, cache: dict[str, Any]) -> None:
    detail = cache["detail"]
    why = f" ({detail['why']})" if detail.get("why") else ""
    show(
        f"[bold]{escape(cache['name'])}[/] {cache['level'] or 'not judged'}: "
        f"{hours_of(detail.get('hours_p50'))} hours left "
        f"({hours_of(detail.get('hours_p10'))} to {hours_of(detail.get('hours_p90'))}), "
        f"{amount(cache['available_bytes'])} free, backlog {amount(detail.get('backlog_bytes'))}, "
        f"{detail.get('method') or '-'}{escape(why)}",
        highlight=False,
    )
    for horizon, told in sorted(cache["errors"].items(), key=lambda one: int(one[0])):
        show(
            f"  {horizon} hours ahead: median error {told['median_error']:+.1%}, "
            f"size {told['median_size']:.1%}, of {told['forecasts']:g} forecasts",
            highlight=False,
        )
    names = ("p10", "p50", "p90", "free", "4 h", "12 h", "48 h")
    table = columns("", "at", *names, "method", numbers=frozenset(names))
    for row in cache["forecasts"][:_SHOWN]:
        table.add_row(
            moment(row["at_s"]),
            *(hours_of(row[f"hours_p{part}"]) for part in (10, 50, 90)),
            amount(row["available_bytes"]),
            *(_error(row, horizon) for horizon in ("4", "12", "48")),
            row["method"],
        )
    show(table)


def _error(row: dict[str, Any], horizon: str) -> str:
    """Return what was said to come, and how wrong it was if that is known."""
    said = amount(row["bytes_ahead"].get(horizon))
    error = row["error"].get(horizon, {}).get("error")
    return said if error is None else f"{said} {error:+.0%}"


def hours_of(hours: float | None) -> str:
    """Return hours for people; '-' for none."""
    return "-" if hours is None else f"{hours:,.1f}"
