"""Command `cache evict`: what would leave the caches and why, and orders to let it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raypacs.cli.session import Json, amount, columns, moment, session_of


def evict(
    context: typer.Context,
    study: Annotated[
        str, typer.Option(help="Let this study leave, whatever the level of the cache.")
    ] = "",
    tier: Annotated[str, typer.Option(help="Only this cache. Default: all.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and why.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="Studies to tell of, by cache.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """Say what leaves the caches now and why, and let it leave.

    Caches are freed by themselves as soon as they are amber or red; this only does not wait for
    the next look. On green nothing leaves but a study that is named.
    """
    session = session_of(context, as_json)
    with session.client() as client:
        if study and not dry_run:
            told = client.evict_study(study, tier)
            session.emit(told, f"{study}: {amount(told['size_bytes'])} go after the grace period")
            return
        plan = client.eviction_plan(tier, limit) if dry_run else client.evict(tier, limit)
    if study:
        ours = [one for one in plan["evictions"] if one["study_uid"] == study]
        plan = {**plan, "evictions": ours}
    session.people.print(_caches(plan))
    session.emit(plan, _studies(plan))


def _caches(plan: dict[str, Any]) -> Table:
    table = columns(
        "caches", "cache", "level", "needs", "leaving", "may go", "held", "looked at, and stays"
    )
    for one in plan["caches"]:
        held = (
            f"{row['copies']} {why} ({amount(row['size_bytes'])})"
            for why, row in one["held"].items()
        )
        skipped = [f"{count}: {why}" for why, count in one["skipped"].items()]
        if one["enough"] is None:
            skipped.append("more may leave than is told here")
        elif not one["enough"]:
            skipped.append("what may leave is less than is needed")
        table.add_row(
            escape(one["tier"]),
            one["level"] or "-",
            amount(one["need_bytes"]),
            amount(one["leaving_bytes"]),
            f"{one['free_copies']} ({amount(one['free_bytes'])})",
            "\n".join(held) or "-",
            escape("\n".join(skipped)) or "-",
        )
    return table


def _studies(plan: dict[str, Any]) -> Table:
    title = f"{len(plan['evictions'])} studies would leave, in this order"
    table = columns(title, "study", "cache", "bytes", "last accessed", "rule", "proven in")
    for one in plan["evictions"]:
        proven = ", ".join(one["relies_on"])
        if one["without_archive"]:
            proven = "nowhere: its source is not archived"
        if one["keeps_series"]:
            proven += "; series are kept"
        table.add_row(
            one["study_uid"],
            escape(one["tier"]),
            amount(one["size_bytes"]),
            moment(one["accessed_s"]),
            escape(one["rule"]),
            escape(proven) or "-",
        )
    return table
