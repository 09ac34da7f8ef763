"""Commands `erase`: a study or a patient, every copy and trace, with a proof."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from raypacs.cli.session import Exit, Json, Session, agreed, amount, columns, moment, session_of
from raypacs.errors import NotFound

_POLL_S = 1.0

app = typer.Typer(
    help="Erase a study or a patient: every copy, every trace; with a proof.", no_args_is_help=True
)


class _What(StrEnum):
    STUDY = "study"
    PATIENT = "patient"


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Order it, and do not wait for its end.")]
Report = Annotated[Path | None, typer.Option("--report", help="Write the proof (JSON) here.")]


@app.command()
def study(
    context: typer.Context,
    uid: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    yes: Yes = False,
    no_wait: NoWait = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Erase a study everywhere. Shows what that is, and asks."""
    _erase(session_of(context, as_json), _What.STUDY, uid, yes=yes, wait=not no_wait, to=report)


@app.command()
def patient(
    context: typer.Context,
    patient_id: Annotated[str, typer.Argument(metavar="PATIENT_ID", help="As it is stored.")],
    yes: Yes = False,
    no_wait: NoWait = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Erase all studies of a patient everywhere. Shows which, and asks."""
    session = session_of(context, as_json)
    _erase(session, _What.PATIENT, patient_id, yes=yes, wait=not no_wait, to=report)


@app.command(name="list")
def list_erasures(context: typer.Context, as_json: Json = False) -> None:
    """List erasures: who ordered them, how far they are."""
    session = session_of(context, as_json)
    with session.client() as client:
        rows = client.erasures()
    table = columns(f"{len(rows)} erasures", "number", "what", "state", "ordered", "by", "waits")
    for row in rows:
        table.add_row(
            str(row["erasure_id"]),
            row["what"],
            row["state"],
            moment(row["ordered_s"]),
            escape(row["who"]),
            escape(row["progress"].get("waits", "")),
        )
    session.emit(rows, table)


@app.command()
def show(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=1, help="Number of the erasure.")],
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Show how far an erasure is, and its proof once it is done."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.erasure(number)
    _keep(told, report)
    session.emit(told, _told(told))


def _erase(
    session: Session, what: _What, subject: str, *, yes: bool, wait: bool, to: Path | None
) -> None:
    with session.client() as client:
        plan = client.erase(what.value, subject)
        if not yes:
            _show_plan(session, plan)
            question = f"Erase {len(plan['studies'])} studies for good, libraries too?"
            if not agreed(session, question):
                raise typer.Exit(Exit.FAILED)
        number = int(client.erase(what.value, subject, confirm=subject)["erasure_id"])
        told = client.erasure(number)
        with session.stderr.status("erasing ...") as shown:
            while wait and told["state"] != "done":
                time.sleep(_POLL_S)
                told = client.erasure(number)
                waits = told["progress"].get("waits", "")
                shown.update(escape(f"{told['state']} {waits} {told['places'] or ''}"))
    _keep(told, to)
    session.emit(told, _told(told))


def _show_plan(session: Session, plan: dict[str, Any]) -> None:
    table = columns("", "study", "date", "objects", "lies on", numbers=frozenset({"objects"}))
    for study in plan["studies"]:
        lies = ", ".join(f"{one['tier']} {amount(one['size_bytes'])}" for one in study["copies"])
        table.add_row(study["study_uid"], study["study_date"], str(study["instances"]), lies)
    session.stderr.print(table)


def _keep(told: dict[str, Any], path: Path | None) -> None:
    if path is None:
        return
    if not told["report"]:
        raise NotFound(f"erasure {told['erasure_id']} has no report yet: it is {told['state']}")
    path.write_text(json.dumps(told["report"], indent=2) + "\n", encoding="utf-8")


def _told(told: dict[str, Any]) -> str:
    head = f"erasure {told['erasure_id']}: {told['state']}"
    report = told["report"]
    if not report:
        waits = told["progress"].get("waits", "")
        return escape(f"{head}, {waits}" if waits else head)
    lines = [f"{head}; {len(report['study_keys'])} studies"]
    for name, one in report["tiers"].items():
        lines.append(
            f"{name}: {one['objects']} objects, {amount(one['size_bytes'])} deleted; "
            f"{one['absent']} looked for and absent"
        )
    for name, count in report["stays"].items():
        lines.append(f"{name}: {count} files of others stay where they are")
    statistics = report["statistics"]
    lines.append(f"statistics: {statistics['rows']} rows of {statistics['files']} files removed")
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(f"signature {report['signature']}")
    return escape("\n".join(lines))
