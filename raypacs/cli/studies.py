"""Commands about studies: studies, show, get, delete, wait."""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from raypacs import layout
from raypacs.cli.session import Exit, Json, Session, agreed, amount, columns, moment, session_of
from raypacs.client import Client
from raypacs.dicom import split_part10
from raypacs.errors import ConfigError, RaypacsError
from raypacs.sender import waiting
from raypacs.sender.waiting import Prepared

_DOWNLOADS = 4

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
    """Show one study: its series, how each was prepared, conflicts."""
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


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of a study row, its DICOM attributes first, without empty ones."""
    flat = {**(row.get("attributes") or {}), **row}
    return {
        name: value
        for name, value in flat.items()
        if value not in ("", None) and not isinstance(value, dict | list)
    }


def get(
    context: typer.Context,
    study: StudyArgument,
    directory: Annotated[Path, typer.Argument(help="Folder to write to.")],
    as_json: Json = False,
) -> None:
    """Write a study as DICOM files, as received: DIRECTORY/SERIES/INSTANCE.dcm, checked."""
    session = session_of(context, as_json)
    with session.client(connections=_DOWNLOADS) as client:
        told = client.study(study)
        objects = [
            (series["series_uid"], each) for series in told["series"] for each in series["objects"]
        ]
        with counted(session.stderr, "get", len(objects)) as advance:

            def fetch(place: tuple[str, dict[str, Any]]) -> int:
                written = _fetch(client, study, place[0], place[1], directory)
                advance()
                return written

            with ThreadPoolExecutor(_DOWNLOADS) as pool:
                size_bytes = sum(pool.map(fetch, objects))
    told = {
        "study_uid": study,
        "directory": str(directory),
        "objects": len(objects),
        "bytes": size_bytes,
    }
    session.emit(told, f"{len(objects)} objects, {amount(size_bytes)} in {escape(str(directory))}")


def _fetch(
    client: Client, study_uid: str, series_uid: str, each: dict[str, Any], directory: Path
) -> int:
    """Write one instance, appearing whole or not at all, and return its size in bytes."""
    sop_uid = layout.checked_uid(each["sop_instance_uid"], "SOP Instance UID")
    folder = directory / layout.checked_uid(series_uid, "Series Instance UID")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sop_uid}.dcm"
    partial = folder / f"{sop_uid}.part"
    try:
        with partial.open("wb") as handle:
            for block in client.download(study_uid, series_uid, sop_uid):
                handle.write(block)
        if each.get("sha256") and dataset_sha256(partial) != each["sha256"]:
            raise RaypacsError(
                f"{sop_uid}: what arrived is not what was received",
                hint="the stored file is damaged, or the node served another transfer syntax",
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path.stat().st_size


def dataset_sha256(path: Path) -> str:
    """Return the SHA-256 of a Part 10 file's data set, without preamble and file meta."""
    if path.stat().st_size == 0:
        return hashlib.sha256().hexdigest()
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        offset = split_part10(whole[: min(len(whole), 1 << 20)]).dataset_offset
        digest = hashlib.sha256()
        for start in range(offset, len(whole), 1 << 20):
            digest.update(whole[start : start + (1 << 20)])
        return digest.hexdigest()


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
