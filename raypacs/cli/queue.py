"""Commands `queue ...`: the task list of the cluster and orders, from any node for any node."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raypacs.cli import selection
from raypacs.cli.selection import Selection
from raypacs.cli.session import Exit, Json, Session, agreed, columns, moment, session_of
from raypacs.client import Client
from raypacs.errors import ConfigError, IllegalTransition, NotFound

PRIORITIES = ("low", "medium", "high", "stat")

Items = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ITEM|KEY=VALUE]...",
        help="Numbers of items, or filters: kind, state (several by comma), node, study, patient, "
        "ae, priority, error, created_after, created_before, updated_after, updated_before.",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="kind, state (several by comma), node, study, patient, ae, priority, error, "
        "created_after, created_before, updated_after, updated_before.",
    ),
]
Kind = Annotated[str, typer.Argument(help="Kind of work, as PREPARE. Default: the whole queue.")]
Everything = Annotated[bool, typer.Option("--all", help="Every item there is.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
At = Annotated[
    str, typer.Option(help="Not before: 2026-03-01T22:00 (local time), or +2h. Default: now.")
]
Priority = Annotated[str, typer.Option(help="low, medium, high or stat.")]

app = typer.Typer(help="The one work queue of the cluster.", no_args_is_help=True)


@app.command(name="list")
def list_items(
    context: typer.Context,
    query: Filters = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="Items to skip.")] = 0,
    as_json: Json = False,
) -> None:
    """List work items, the newest first, with how many match."""
    session = session_of(context, as_json)
    with session.client() as client:
        page = client.tasks(selection.filters_of(query), limit=limit, offset=offset)
    session.emit(page, _listed(page, offset))


@app.command()
def show(
    context: typer.Context,
    item: Annotated[int, typer.Argument(help="Number of the item.")],
    as_json: Json = False,
) -> None:
    """Show one work item in full."""
    session = session_of(context, as_json)
    with session.client() as client:
        task = client.task(item)
    table = columns(f"item {item}", "", "value")
    for name, value in task.items():
        if value not in ("", None, {}, []):
            table.add_row(name, escape(moment(value) if name.endswith("_s") else str(value)))
    session.emit(task, table)


@app.command()
def state(context: typer.Context, as_json: Json = False) -> None:
    """Say whether the queue and each kind are running, halting, halted or stalled, and why."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.queue_state()
    session.emit(told, _state(told))


@app.command()
def add(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    kind: Annotated[str, typer.Option(help="Kind of work.")] = "PREPARE",
    priority: Priority = "medium",
    at: At = "",
    node: Annotated[str, typer.Option(help="Node to bind it to. Default: any.")] = "",
    as_json: Json = False,
) -> None:
    """Ask for work on a study; an item that waits for it already stands for it."""
    session = session_of(context, as_json)
    order = {"kind": kind, "priority": _priority(priority), "at": _due(at), "node": node}
    with session.client() as client:
        task = client.enqueue(study, **order)
    session.emit(task, f"item {task['item_id']}: {task['kind']} of {study} is {task['state']}")


@app.command()
def reschedule(
    context: typer.Context,
    items: Items = None,
    at: At = "",
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE",
            help="Node to do it; several times: spread over them. Default: the same as before, "
            "or any other if that is gone.",
        ),
    ] = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Do items again: now or later, where they were, on a named node, or spread over several.

    `raypacs queue reschedule state=FAILED` tries again what failed.
    """
    session = session_of(context, as_json)
    chosen = selection.parse(items, everything=everything)
    order = {"at": _due(at), "nodes": to or []}
    _carry_out(session, "reschedule", chosen, yes=yes, **order)


@app.command()
def cancel(
    context: typer.Context,
    items: Items = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Cancel items. What runs stops within seconds and leaves nothing half-written."""
    session = session_of(context, as_json)
    _carry_out(session, "cancel", selection.parse(items, everything=everything), yes=yes)


@app.command()
def delete(
    context: typer.Context,
    items: Items = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take items out of the task list. Running ones are refused: cancel them first."""
    session = session_of(context, as_json)
    _carry_out(session, "delete", selection.parse(items, everything=everything), yes=yes)


@app.command()
def priority(
    context: typer.Context,
    level: Annotated[str, typer.Argument(help="low, medium, high or stat.")],
    items: Items = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give items a priority."""
    session = session_of(context, as_json)
    chosen = selection.parse(items, everything=everything)
    _carry_out(session, "priority", chosen, yes=yes, priority=_priority(level))


@app.command()
def halt(context: typer.Context, kind: Kind = "", as_json: Json = False) -> None:
    """Give out no new work, of one kind or at all; what runs is finished."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.halt(kind)
    session.emit(told, _state(told))


@app.command()
def resume(context: typer.Context, kind: Kind = "", as_json: Json = False) -> None:
    """Give out work again, of one kind or at all."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.resume(kind)
    session.emit(told, _state(told))


def _priority(level: str) -> str:
    name = level.strip().lower()
    if name not in PRIORITIES:
        raise ConfigError(f"no priority {level!r}", hint=f"there are {', '.join(PRIORITIES)}")
    return name


def _due(at: str) -> float | None:
    return selection.due_s(at) if at else None


def _carry_out(
    session: Session, order: str, chosen: Selection, *, yes: bool, **options: Any
) -> None:
    """Send an order for what was chosen, after asking where that is more than named items."""
    with session.client() as client:
        if chosen.item_ids:
            told = _for_named(client, order, chosen.item_ids, options)
        else:
            count = client.tasks(chosen.filters, limit=1)
            if count["total"] and not yes:
                _ask(session, order, count)
            told = client.order_all(order, chosen.filters, **options)
    session.emit(told, f"{order}: {told['changed']:,} of {told['matched']:,} items")
    for refused in told["refused"]:
        why = escape(str(refused["why"]))
        session.stderr.print(f"not item {refused['item_id']}: {why}", highlight=False)
    if told["changed"] < told["matched"]:
        raise typer.Exit(Exit.PARTLY)


def _ask(session: Session, order: str, count: dict[str, Any]) -> None:
    least = "" if count["total_is_exact"] else "at least "
    if not agreed(session, f"{order.capitalize()} {least}{count['total']:,} items?"):
        raise typer.Exit(Exit.FAILED)


def _for_named(
    client: Client, order: str, item_ids: tuple[int, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """Send an order for each item; what is refused is told when there are several.

    Raises:
        NotFound, IllegalTransition: of a single item.
    """
    refused = []
    nodes: Iterator[str] | None = cycle(options["nodes"]) if options.get("nodes") else None
    for item_id in item_ids:
        mine = options if nodes is None else {**options, "nodes": [next(nodes)]}
        try:
            client.order(order, item_id, **mine)
        except (NotFound, IllegalTransition) as exc:
            if len(item_ids) == 1:
                raise
            refused.append({"item_id": item_id, "why": str(exc)})
    count = len(item_ids)
    return {"matched": count, "changed": count - len(refused), "refused": refused}


def _listed(page: dict[str, Any], offset: int) -> Table:
    items = page["items"]
    least = "" if page.get("total_is_exact", True) else "at least "
    shown = f"{offset + 1} to {offset + len(items)}" if items else "none"
    table = columns(
        f"{shown} of {least}{page['total']:,} items", "item", "kind", "state", "priority", "study",
        "node", "tries", "changed", "error or note", numbers=frozenset({"tries"}),
    )  # fmt: skip
    for one in items:
        told = [one.get("error"), one.get("note")]
        table.add_row(
            str(one["item_id"]),
            one["kind"],
            one["state"],
            one["priority"],
            one["study_uid"],
            escape(str(one.get("node") or one.get("wanted_node") or "")),
            str(one["attempt"]),
            moment(one["updated_s"]),
            escape("; ".join(str(text) for text in told if text)),
        )
    return table


def _state(told: dict[str, Any]) -> Table:
    """Return the state of the queue and its kinds, with the counts of each."""
    table = columns("work queue", "kind", "state", "why", "items")
    for name, one in [("all", told), *sorted((told.get("kinds") or {}).items())]:
        counts = (one.get("counts") or {}).items()
        table.add_row(
            name,
            one["state"],
            escape(str(one.get("why") or "")),
            ", ".join(f"{number:,} {key.lower()}" for key, number in counts if number),
        )
    return table
