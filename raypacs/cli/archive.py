"""Commands `archive status`, `now`, `verify` and `purge`: copies in libraries."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from raypacs.cli.session import Exit, Json, Session, agreed, amount, columns, session_of
from raypacs.client import Client
from raypacs.errors import ConfigError

POLL_S = 0.5
_ENDED = frozenset({"COMPLETED", "WARNING", "FAILED", "CANCELED"})
_SHOWN = 20

app = typer.Typer(help="Copies in libraries: how archiving stands, archive now, verify, purge.")

Studies = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STUDY]...", help="Study Instance UIDs.", show_default=False),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is done.")]


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the archive window, what waits, each library, and how many nights it will take."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.archive_status()
    waiting, rate = told["waiting"], told["rate_bytes_per_s"]
    lines = [
        _window(told["window"]),
        f"not archived: {waiting['studies']} studies, {amount(waiting['size_bytes'])}"
        + (
            f", the oldest accessed {_when(waiting['oldest_accessed_s'])}"
            * bool(waiting["studies"])
        ),
        "work: "
        + (", ".join(f"{n} {state.lower()}" for state, n in told["items"].items()) or "none"),
    ]
    if rate:
        nights = told["nights"]
        lines.append(
            f"{amount(rate)}/s of late" + (f": {nights:.1f} nights for all" if nights else "")
        )
    numbers = frozenset({"studies", "bytes", "last day", "damaged"})
    table = columns(
        "\n".join(lines),
        *("library", "studies", "bytes", "last day", "last archived", "damaged"),
        numbers=numbers,
    )
    for one in told["libraries"]:
        table.add_row(
            escape(one["tier"]) + ("" if one["used"] else " (not used)"),
            str(one["studies"]),
            amount(one["size_bytes"]),
            amount(one["day_bytes"]),
            _when(one["last_s"]),
            str(one["damaged"] or ""),
        )
    session.emit(told, table)


@app.command()
def now(
    context: typer.Context,
    studies: Studies = None,
    every: Annotated[bool, typer.Option("--all", help="All that are not archived.")] = False,
    library: Annotated[
        list[str] | None, typer.Option(help="Library tier; again for more. Default: all.")
    ] = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Archive studies now, whatever window, age and status say."""
    session = session_of(context, as_json)
    if bool(studies) == every:
        raise ConfigError("name studies, or ask for --all")
    with session.client() as client:
        told = client.archive(studies or (), libraries=library or ())
        _end(session, client, told, wait, "to archive")


@app.command()
def verify(
    context: typer.Context,
    studies: Studies = None,
    every: Annotated[bool, typer.Option("--all", help="All that have containers.")] = False,
    sample: Annotated[int, typer.Option(min=0, max=1000, help="So many, by chance.")] = 0,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Read containers of libraries whole and compare every byte; damaged ones are made again."""
    session = session_of(context, as_json)
    if bool(studies) + every + bool(sample) != 1:
        raise ConfigError("name studies, or ask for --all or --sample N")
    with session.client() as client:
        told = client.verify_archive(studies or (), sample=sample)
        _end(session, client, told, wait, "to verify")


@app.command()
def purge(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    library: Annotated[str, typer.Argument(metavar="LIBRARY", help="Tier of role library.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Take a study out of a library. Asks first; a copy that is relied on stays."""
    session = session_of(context, as_json)
    question = f"Delete the containers of study {escape(study)} in library {escape(library)}?"
    if not yes and not agreed(session, question):
        raise typer.Exit(Exit.FAILED)
    with session.client() as client:
        told = client.purge(study, library)
    session.emit(told, f"{study}: {amount(told['size_bytes'])} leave {escape(library)}")


def _end(session: Session, client: Client, told: dict[str, Any], wait: bool, what: str) -> None:
    failed: list[dict[str, Any]] = []
    if wait:
        failed = _waited(client, told["items"])
        told["failed"] = [{"study_uid": one["study_uid"], "error": one["error"]} for one in failed]
    lines = [f"{len(told['items'])} studies {what}" if not wait else
             f"{len(told['items']) - len(failed)} studies done"]  # fmt: skip
    lines += [f"refused: {one['study_uid']}: {escape(one['why'])}" for one in told["refused"]]
    lines += [f"failed: {one['study_uid']}: {escape(one['error'])}" for one in failed[:_SHOWN]]
    session.emit(told, "\n".join(lines))
    bad = len(failed) + len(told["refused"])
    if bad:
        raise typer.Exit(Exit.FAILED if bad >= len(told["items"]) else Exit.PARTLY)


def _waited(client: Client, items: list[int]) -> list[dict[str, Any]]:
    """Wait until items have ended; return those that are not done."""
    bad = []
    for item_id in items:
        while True:
            item = client.task(item_id)
            if item["state"] in _ENDED:
                break
            time.sleep(POLL_S)
        if item["state"] in ("FAILED", "CANCELED"):
            bad.append(item)
    return bad


def _window(told: dict[str, Any]) -> str:
    text = f"window {told['start']} to {told['end']}, {told['time_zone']}: "
    if told["open_by"] == "red":
        return text + "opened early, as an image cache is red"
    if told["open_by"]:
        return text + (
            f"open until {_when(told['closes_s'])}" if told["closes_s"] else "always open"
        )
    return text + f"closed, opens {_when(told['opens_s'])}"


def _when(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s)) if at_s else "never"
