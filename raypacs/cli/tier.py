"""Commands `tier ...`: places for bytes, added, changed, drained, looked at, counted again."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raypacs.cli.adopt import absolute
from raypacs.cli.session import Exit, Json, Session, amount, columns, session_of
from raypacs.errors import ConfigError
from raypacs.maintenance.recount import recount_objects
from raypacs.parsing import size_bytes

app = typer.Typer(
    help="Tiers: places for bytes, added, changed and drained while running.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="Name of the tier.")]
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SIZES = ("capacity_bytes", "reserve_bytes")
_ALIASES = {"capacity": "capacity_bytes", "reserve": "reserve_bytes"}
_POLL_S = 2.0
_THINGS = ("studies", "manifests", "asides", "packs", "containers", "deletes")


@app.command()
def add(  # noqa: PLR0913 - one argument an option
    context: typer.Context,
    name: Name,
    url: Annotated[str, typer.Argument(help="Folder, or fsspec URL, the same on every node.")],
    role: Annotated[str, typer.Option(help="image, web or library.")],
    order: Annotated[int, typer.Option(help="1 is filled first.")] = 1,
    capacity: Annotated[
        str, typer.Option(help="Such as 20TB; default what the file system reports.")
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="No new objects.")] = False,
    value: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a tier; every node takes it into use within seconds. A new version of the settings."""
    session = session_of(context, as_json)
    values: dict[str, Any] = {"name": name, "role": role, "url": absolute(url), "order": order}
    if capacity:
        values["capacity_bytes"] = size_bytes(capacity)
    if read_only:
        values["read_only"] = True
    values |= values_of(value or [])
    with session.client() as client:
        told = client.add_tier(values)
    session.emit(told, _table([told], f"{name} is added"))


@app.command(name="list")
def list_tiers(context: typer.Context, as_json: Json = False) -> None:
    """Show the tiers: capacity, used, available, thresholds, archived, hours left, level."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.tiers()
    session.emit(told, _table(told, f"{len(told)} tiers"))


@app.command(name="set")
def set_values(
    context: typer.Context,
    name: Name,
    value: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE", help="Settings of the tier to change.")
    ],
    as_json: Json = False,
) -> None:
    """Change settings of a tier: order, capacity, read_only, thresholds.amber_h, ..."""
    session = session_of(context, as_json)
    with session.client() as client:
        values = values_of(value)
        nested = [key for key, one in values.items() if isinstance(one, dict)]
        if nested:
            _, settings = client.settings()
            tier: dict[str, Any] = next(
                (one for one in settings["tiers"] if one["name"] == name), {}
            )
            values |= {key: {**(tier.get(key) or {}), **values[key]} for key in nested}
        told = client.set_tier(name, values)
    session.emit(told, _table([told], f"{name} is changed"))


@app.command()
def remove(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Take an empty tier out of the settings; `raypacs tier drain` empties one."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.remove_tier(name)
    session.emit(told, f"{escape(name)} is removed")


@app.command()
def drain(
    context: typer.Context,
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Take new objects again.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Only say what still lies there.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is empty.")] = False,
    as_json: Json = False,
) -> None:
    """Let everything on a tier move away; it takes nothing new meanwhile, reading goes on."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.tier_drain(name) if show else client.drain_tier(name, undo=undo)
        if wait and not undo:
            with session.stderr.status(_lies(told)) as shown:
                while not told["empty"]:
                    time.sleep(_POLL_S)
                    told = client.tier_drain(name)
                    shown.update(_lies(told))
    session.emit(told, _lies(told))


@app.command()
def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the tier. Default: all.")] = "",
    as_json: Json = False,
) -> None:
    """Look at tiers from the node asked: reach, marker, an object of its own, speed, room."""
    session = session_of(context, as_json)
    with session.client() as client:
        names = [name] if name else [tier["name"] for tier in client.tiers()]
        told = [client.check_tier(one) for one in names]
    table = columns(
        "as the node sees them",
        *("tier", "reached", "marker", "written", "read", "deleted", "write", "read/s", "free"),
        "problems",
        numbers=frozenset({"write", "read/s", "free"}),
    )
    for one in told:
        table.add_row(
            one["tier"],
            *(_yes(one["reachable"]), one["marker"]),
            *(_yes(one[what]) for what in ("written", "read_back", "deleted")),
            *(f"{amount(one[f'{what}_bytes_per_s'])}/s" for what in ("write", "read")),
            amount(one["free_bytes"]) if one["free_bytes"] >= 0 else "-",
            escape("; ".join(one["problems"])),
        )
    session.emit(told, table)
    if any(one["problems"] for one in told):
        raise typer.Exit(Exit.FAILED)


@app.command()
def recount(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the tier. Default: all.")] = "",
    deep: Annotated[
        bool,
        typer.Option("--deep", help="List the tiers' objects and compare them with the index."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set the ledger right; objects are never touched.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove the ledger: count the bytes of every tier again. Changes nothing without --repair."""
    session = session_of(context, as_json)
    with session.client() as client:
        counted = client.recount_tiers(repair=repair)
    counted = [one for one in counted if name in ("", one["tier"])]
    if name and not counted:
        raise ConfigError(f"no tier {name}")
    told: dict[str, Any] = {"ledger": counted}
    table = columns(
        "ledger and count",
        *("tier", "ledger", "count", "difference"),
        numbers=frozenset({"ledger", "count", "difference"}),
    )
    for one in counted:
        numbers = (one["ledger_bytes"], one["counted_bytes"], one["difference_bytes"])
        table.add_row(one["tier"], *(f"{number:,}" for number in numbers))
    bad = any(one["difference_bytes"] and not one["repaired"] for one in counted)
    if deep:
        with session.stderr.status("listing the tiers ..."):
            found = recount_objects(session.bootstrap, name)
        told["objects"] = asdict(found)
        bad = bad or not found.agree
    session.emit(told, table)
    if deep and not session.json:
        _show_deep(session, told["objects"])
    if bad:
        raise typer.Exit(Exit.PARTLY)


@app.command()
def move(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    to: Annotated[str, typer.Option(help="Image tier. Default: a later one with room.")] = "",
    as_json: Json = False,
) -> None:
    """Move a study to another image tier, as one; reading goes on meanwhile."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.migrate(study, to)
    session.emit(told, f"item {told['item_id']} moves study {escape(study)}")


def values_of(assignments: list[str]) -> dict[str, Any]:
    """Return KEY=VALUE as settings; `thresholds.amber_h=48` is a value of a table.

    Raises:
        ConfigError: one of them has no equals sign.
    """
    found: dict[str, Any] = {}
    for one in assignments:
        key, equals, text = one.partition("=")
        if not equals or not key:
            raise ConfigError(f"{one!r}: write KEY=VALUE")
        *tables, last = _ALIASES.get(key, key).split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place[last] = _value(last, text)
    return found


def _value(key: str, text: str) -> Any:
    if key in _SIZES:
        return size_bytes(text)
    if text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.lower() in ("none", "null") else text


def _table(tiers: list[dict[str, Any]], title: str) -> Table:
    numbers = ("order", "capacity", "used", "available", "archived", "hours left")
    table = columns(
        title,
        *("tier", "role", "order", "state", "capacity", "used", "available", "amber / red"),
        *("archived", "hours left", "level", "url"),
        numbers=frozenset(numbers),
    )
    for one in tiers:
        table.add_row(
            one["name"],
            one["role"],
            str(one["order"]),
            _state(one),
            *(amount(one[f"{what}_bytes"]) for what in ("capacity", "used", "available")),
            _thresholds(one),
            amount(one.get("archived_bytes")) if one["role"] == "image" else "-",
            _hours(one),
            one.get("level") or "-",
            escape(one["url"]),
        )
    return table


def _state(tier: dict[str, Any]) -> str:
    if not tier["reachable"]:
        return "unreachable"
    flags = [
        word
        for word, there in (
            ("draining", tier.get("draining")),
            ("adopted", tier.get("adopted")),
            ("read-only", tier["read_only"] and not tier.get("adopted")),
        )
        if there
    ]
    return ", ".join(flags) or "ok"


def _thresholds(tier: dict[str, Any]) -> str:
    """Return hours and, at the current forecast, bytes (FEATURES B3)."""
    hours = tier.get("thresholds")
    if not hours:
        return "-"
    if tier["role"] == "web":
        return f"{hours['web_h']:g} h"
    parts = []
    for name in ("amber", "red"):
        size = tier.get(f"{name}_bytes")
        parts.append(f"{hours[f'{name}_h']:g} h" + (f" ({amount(size)})" if size else ""))
    return " / ".join(parts)


def _hours(tier: dict[str, Any]) -> str:
    p10, p50, p90 = (tier.get(f"hours_{name}") for name in ("p10", "p50", "p90"))
    if p50 is None:
        left = tier.get("hours_left")
        return "-" if left is None else f"{left:,.0f}"
    if p10 is None or p90 is None:
        return f"{p50:,.0f}"
    return f"{p50:,.0f} ({p10:,.0f} - {p90:,.0f})"


def _lies(told: dict[str, Any]) -> str:
    lies = told["lies"]
    left = [f"{lies[what]} {what}" for what in _THINGS if lies[what]]
    if told["empty"]:
        return f"{told['name']} is empty"
    held = f", {amount(lies['granted_bytes'])} promised to nodes" if lies["granted_bytes"] else ""
    failed = f"; {lies['failed']} moves failed (raypacs queue list)" if lies["failed"] else ""
    if lies.get("failed_archives"):
        failed += f"; {lies['failed_archives']} studies could not be archived to another library"
    what = ", ".join(left) or "no objects"
    doing = "is drained" if told["draining"] else "takes new objects"
    return f"{told['name']} {doing}: {what}, {amount(lies['bytes'])}{held}{failed}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _show_deep(session: Session, found: dict[str, Any]) -> None:
    counts = (
        f"{found['objects']:,} objects looked at; {len(found['missing'])} missing, "
        f"{len(found['resized'])} of another size, {len(found['strangers'])} unknown to the index"
    )
    session.stdout.print(counts)
    for kind in ("missing", "resized", "strangers"):
        for one in found[kind][:20]:
            session.stdout.print(f"  {kind}: {one[1]} on {one[0]}", highlight=False, markup=False)
