"""Commands `study` and `source`: status and flags, by study; who sends."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from raypacs.cli.session import Json, amount, columns, moment, session_of

app = typer.Typer(help="Status and flags of studies.", no_args_is_help=True)
sources = typer.Typer(help="Who sends objects.", no_args_is_help=True)


class Status(StrEnum):
    """Status of a study."""

    NEW = "new"
    DICTATED = "dictated"
    REPORTED = "reported"
    APPROVED = "approved"


Exported = Annotated[bool | None, typer.Option("--exported/--not-exported", help="Sent on.")]
Verified = Annotated[
    bool | None, typer.Option("--verified/--not-verified", help="Demographics checked.")
]
Committed = Annotated[
    bool | None, typer.Option("--committed/--not-committed", help="Under storage commitment.")
]


@app.command()
def status(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    to: Annotated[Status | None, typer.Option("--set", help="Set the status.")] = None,
    exported: Exported = None,
    verified: Verified = None,
    committed: Committed = None,
    as_json: Json = False,
) -> None:
    """Show status and flags of a study, or set them."""
    session = session_of(context, as_json)
    flags = {"exported": exported, "his_verified": verified, "committed": committed}
    changes: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if to is not None:
        changes["status"] = to.value
    with session.client() as client:
        told = client.set_status(study, **changes) if changes else client.study_status(study)
    session.emit(told, "\n".join(_lines(told)))


def _lines(told: dict[str, Any]) -> list[str]:
    since = f", since {moment(told['status_s'])}" if told["status_s"] else ""
    lines = [f"{'status':16} {told['status']}{since}"]
    for name, label in _FLAGS.items():
        lines.append(f"{label:16} {'yes' if told[name] else 'no'}")
    for name, label in (("pinned_until_s", "pinned until"), ("delete_after_s", "deleted after")):
        if told[name]:
            lines.append(f"{label:16} {moment(told[name])}")
    for source, address in told["origins"]:
        lines.append(f"{'sent by':16} {escape(source)} from {address or 'an unknown address'}")
    for name, one in told["decided"].items():
        if isinstance(one, dict):
            value = moment(one["value"]) if name.endswith("_s") else one["value"]
            lines.append(f"{'decided':16} " + escape(f"{name} {value} ({one['by']})"))
    return lines


_FLAGS = {
    "exported": "exported",
    "his_verified": "verified",
    "committed": "committed",
    "archiving": "to be archived",
}


@app.command(name="list")
def list_studies(
    context: typer.Context,
    with_status: Annotated[Status | None, typer.Option("--status", help="With this one.")] = None,
    exported: Exported = None,
    verified: Verified = None,
    committed: Committed = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """List studies by status and flags, the newest study date first."""
    session = session_of(context, as_json)
    flags = {"exported": exported, "his_verified": verified, "committed": committed}
    wanted: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if with_status is not None:
        wanted["status"] = with_status.value
    with session.client() as client:
        rows = client.statuses(limit, **wanted)
    table = columns(
        f"{len(rows)} studies", "patient", "date", "status", "exported", "verified", "committed",
        "archive", "study",
    )  # fmt: skip
    for row in rows:
        attributes = row["attributes"]
        table.add_row(
            escape(str(attributes.get("PatientName") or "")),
            str(attributes.get("StudyDate") or ""),
            row["status"],
            *("yes" if row[name] else "" for name in ("exported", "his_verified", "committed")),
            "yes" if row["archiving"] else "off",
            row["study_uid"],
        )
    session.emit(rows, table)


@sources.command(name="list")
def list_sources(context: typer.Context, as_json: Json = False) -> None:
    """List who sent objects, and which `sources` of the settings it may be."""
    session = session_of(context, as_json)
    with session.client() as client:
        rows = client.sources()
    table = columns(
        f"{len(rows)} sources", "source", "objects", "bytes", "first", "last", "settings",
        numbers=frozenset({"objects", "bytes"}),
    )  # fmt: skip
    for row in rows:
        table.add_row(
            escape(row["source"]),
            str(row["objects"]),
            amount(row["size_bytes"]),
            moment(row["first_s"]),
            moment(row["last_s"]),
            escape(", ".join(row["settings"])),
        )
    session.emit(rows, table)
