"""Commands `restore` and `prefetch`: studies back from libraries, asked for or ahead of time."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.markup import escape

from raypacs.cli.session import Exit, Json, Session, amount, columns, session_of
from raypacs.client import Client
from raypacs.errors import ConfigError

POLL_S = 0.5
_ENDED = frozenset({"COMPLETED", "WARNING", "FAILED", "CANCELED"})
_NOT_BACK = frozenset({"FAILED", "CANCELED", "nowhere", "failed"})


def restore(
    context: typer.Context,
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Study Instance UIDs.", show_default=False),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait until all are back, and show how far they are.")
    ] = False,
    priority: Annotated[str, typer.Option(help="low, medium, high or stat.")] = "stat",
    show: Annotated[bool, typer.Option("--list", help="List restores, newest first.")] = False,
    as_json: Json = False,
) -> None:
    """Bring studies back from a library into the image cache."""
    session = session_of(context, as_json)
    if bool(studies) == show:
        raise ConfigError("name studies, or ask for --list")
    with session.client() as client:
        if show:
            told = client.restores()
            session.emit({"restores": told}, _table("restores", told))
            return
        told = [client.restore(uid, priority) for uid in studies or ()]
        if follow:
            told = _followed(session, client, told)
    session.emit({"restores": told}, _table("restores", told))
    if any(one["state"] in _NOT_BACK for one in told):
        raise typer.Exit(Exit.FAILED if len(told) == 1 else Exit.PARTLY)


def prefetch(
    context: typer.Context,
    study: Annotated[
        str, typer.Argument(metavar="[STUDY]", help="Study Instance UID.", show_default=False)
    ] = "",
    patient: Annotated[
        str, typer.Option(help="Patient ID of whom a study is to come: relevant priors.")
    ] = "",
    modality: Annotated[str, typer.Option(help="Modality of the study that is to come.")] = "",
    body_part: Annotated[str, typer.Option(help="Its Body Part Examined.")] = "",
    as_json: Json = False,
) -> None:
    """Have a study in the caches before somebody asks, or relevant priors of a patient."""
    session = session_of(context, as_json)
    if bool(study) == bool(patient):
        raise ConfigError("name a study, or --patient ID")
    wanted = {"patient_id": patient, "modality": modality, "body_part": body_part}
    if study:
        if modality or body_part:
            raise ConfigError("--modality and --body-part go with --patient")
        wanted = {"study_uid": study}
    with session.client() as client:
        told = client.prefetch(**wanted)
    table = columns(f"{len(told)} studies", "study", "rule", "item", "state")
    for one in told:
        item = str(one["item_id"] or "")
        table.add_row(one["study_uid"], escape(one.get("rule", "")), item, one["state"])
    session.emit({"prefetched": told}, table)


def _followed(session: Session, client: Client, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Show how far restores are until all have ended; return them."""
    found = {one["study_uid"]: one for one in told}
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.percentage:>3.0f} %"),
        bars.TextColumn("{task.fields[state]}"),
        console=session.stderr,
    ) as shown:
        tasks = {
            uid: shown.add_task(escape(uid), total=100.0, state=one["state"])
            for uid, one in found.items()
        }
        while True:
            for uid, one in found.items():
                percent = 100.0 if _is_back(one) else float(one["progress"].get("percent", 0.0))
                shown.update(tasks[uid], completed=percent, state=one["state"].lower())
            waiting = [one for one in found.values() if not _has_ended(one)]
            if not waiting:
                return list(found.values())
            time.sleep(POLL_S)
            for one in waiting:
                found[one["study_uid"]] = client.restored(one["item_id"])


def _has_ended(one: dict[str, Any]) -> bool:
    return not one["item_id"] or one["state"] in _ENDED


def _is_back(one: dict[str, Any]) -> bool:
    return one["state"] in ("COMPLETED", "WARNING", "online")


def _table(title: str, told: list[dict[str, Any]]) -> Any:
    table = columns(
        f"{len(told)} {title}",
        "study",
        "item",
        "state",
        "back",
        "bytes",
        "",
        numbers=frozenset({"bytes"}),
    )
    for one in told:
        progress = one["progress"]
        percent = "100 %" if _is_back(one) else f"{progress.get('percent', 0):g} %"
        table.add_row(
            one["study_uid"],
            str(one["item_id"] or ""),
            one["state"],
            percent,
            amount(progress.get("size_bytes")),
            escape(one.get("error", "")),
        )
    return table
