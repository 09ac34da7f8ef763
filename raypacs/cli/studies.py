"""Commands about studies: studies, show, delete, wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from raypacs.cli.session import Exit, Json, Session, agreed, amount, columns, moment, session_of
from raypacs.errors import ConfigError
from raypacs.sender import waiting
from raypacs.sender.waiting import Prepared

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")]


def list_studies(
    context: typer.Context,
    query: Annotated[
        list[str] | None,
        typer.Argument(help="Filters as in QIDO-RS: PatientID=..., ModalitiesInStudy=CT, ..."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.")] = 0,
    as_json: Json = False,
) -> None:
    """List the studies in the caches."""
    session = session_of(context, as_json)
    rows: list[dict[str, Any]] = []
    with session.client() as client:
        for row in client.studies(parse_query(query or [])):
            rows.append(row)
            if limit and len(rows) >= limit:
                break
    table = columns(
        f"{len(rows)} studies", "patient", "id", "date", "modality", "description", "objects",
        "study", numbers=frozenset({"objects"}),
    )  # fmt: skip
    for row in rows:
        table.add_row(
            *(escape(str(row.get(key) or "")) for key in _STUDY_COLUMNS),
            str(row.get("StudyInstanceUID", "")),
        )
    session.emit(rows, table)


_STUDY_COLUMNS = (
    "PatientName",
    "PatientID",
    "StudyDate",
    "ModalitiesInStudy",
    "StudyDescription",
    "NumberOfStudyRelatedInstances",
)


def parse_query(words: list[str]) -> dict[str, str]:
    """Return KEY=VALUE words as a query.

    Raises:
        ConfigError: a word without ``=``.
    """
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word!r} is not KEY=VALUE, as in ModalitiesInStudy=CT")
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def show(context: typer.Context, study: StudyArgument, as_json: Json = False) -> None:
    """Show one study: its series, how each was prepared, where it lies, conflicts."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.study(study)
    if session.json:
        session.emit(told)
        return
    _show_study(session, told)


def _show_study(session: Session, told: dict[str, Any]) -> None:
    for name, value in facts(told["study"]).items():
        shown = moment(value) if name.endswith("_s") else str(value)
        session.stdout.print(f"{name:32} {escape(shown)}", highlight=False)
    table = columns(
        "series", "series", "modality", "objects", "frames", "bytes", "prepared", "why copied",
        numbers=frozenset({"objects", "frames", "bytes"}),
    )  # fmt: skip
    for series in told["series"]:
        objects = series["objects"]
        reasons = Counter(each["reason"] for each in objects if each.get("form") == "copied")
        forms = {form or "waiting": count for form, count in series["forms"].items() if count}
        table.add_row(
            series["series_uid"],
            series["modality"],
            str(series["instances"]),
            str(series["frames"]),
            amount(sum(each["size_bytes"] for each in objects)),
            ", ".join(f"{count} {form}" for form, count in forms.items()),
            escape(", ".join(reasons)),
        )
    session.stdout.print(table)
    _show_copies(session, told["study"])
    for each in told["study"].get("story") or []:
        detail = ", ".join(f"{key} {value}" for key, value in (each.get("detail") or {}).items())
        session.stdout.print(
            f"{moment(each['at_s'])}  {each['event']}  {escape(detail)}", highlight=False
        )
    for each in told.get("conflicts") or []:
        session.stdout.print(
            f"kept aside ({each['outcome']}): {each['sop_instance_uid']} "
            f"from {escape(str(each['source']))}: {escape(str(each['reason']))}",
            highlight=False,
        )


def _show_copies(session: Session, study: dict[str, Any]) -> None:
    """Say on which tiers the study lies, and if it is away from the image tiers."""
    copies = study.get("copies") or []
    table = columns(
        "copies", "tier", "objects", "bytes", "proven", numbers=frozenset({"objects", "bytes"})
    )
    for each in copies:
        proven = moment(each["proven_s"]) if each["archive_proven"] else ""
        if proven and each["generation"] < study["generation"]:
            proven += ", before the study grew"
        table.add_row(
            escape(each["tier"]), str(each["objects"]), amount(each["size_bytes"]), proven
        )
    if copies:
        session.stdout.print(table)
    if study.get("offline_s"):
        session.stdout.print(
            f"away from the image tiers since {moment(study['offline_s'])}: "
            "`raypacs restore` brings it back",
            highlight=False,
        )


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of a study row, its DICOM attributes first, without empty ones."""
    flat = {**(row.get("attributes") or {}), **row}
    return {
        name: value
        for name, value in flat.items()
        if value not in ("", None) and not isinstance(value, dict | list)
    }


def delete(
    context: typer.Context,
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a study from every cache. Asks first."""
    session = session_of(context, as_json)
    with session.client() as client:
        row = facts(client.study(study)["study"])
        what = f"{row.get('PatientName', '')} {row.get('StudyDate', '')} ({study})"
        objects = row.get("NumberOfStudyRelatedInstances") or row.get("instance_count", "?")
        question = f"Delete {escape(what.strip())} with {objects} objects from every cache?"
        if not yes and not agreed(session, question):
            raise typer.Exit(Exit.FAILED)
        told = client.delete_study(study)
    session.emit(told, f"deleted {study} ({told.get('deleted_objects', '?')} objects)")


def wait(
    context: typer.Context,
    studies: Annotated[
        list[str] | None, typer.Argument(metavar="[STUDY]...", help="Default: all studies.")
    ] = None,
    prepared: Annotated[
        bool, typer.Option("--prepared", help="Until every object is in the web cache.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 3600.0,
    as_json: Json = False,
) -> None:
    """Wait until studies are prepared."""
    session = session_of(context, as_json)
    if not prepared:
        raise ConfigError("say what to wait for: --prepared")
    with session.client() as client, prepare_progress(session.stderr) as shown:
        state = waiting.until_prepared(client, studies or None, timeout_s=timeout_s, shown=shown)
    told = state.as_json()
    session.emit(told, f"{state.prepared} of {state.objects} objects are prepared")
    if state.failed:
        for reason in state.reasons:
            session.stderr.print(f"failed: {escape(reason)}", highlight=False)
        raise typer.Exit(Exit.FAILED)


@contextmanager
def prepare_progress(console: Console) -> Iterator[Any]:
    """Show objects prepared of objects received, and the time left."""
    with bars.Progress(
        bars.TextColumn("{task.description:8}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("objects"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
    ) as shown:
        task = shown.add_task("prepare", total=None)

        def update(state: Prepared) -> None:
            shown.update(task, total=state.objects, completed=state.prepared)

        yield update


@contextmanager
def counted(console: Console, title: str, total: int) -> Iterator[Any]:
    """Show a plain count of things done."""
    with bars.Progress(
        bars.TextColumn("{task.description:8}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=console,
    ) as shown:
        task = shown.add_task(title, total=total)
        yield lambda: shown.advance(task)
