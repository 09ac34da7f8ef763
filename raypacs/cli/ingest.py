"""Command `ingest`, and the progress bars it shares with the demo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raypacs.cli.session import Exit, Json, amount, columns, session_of
from raypacs.errors import NotFound
from raypacs.records import Outcome
from raypacs.sender import upload as uploading
from raypacs.sender.upload import FAILED, Progress, Summary

SOURCE = "CLI"


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(help="Files, folders, zip files, DICOMDIR.", show_default=False)
    ],
    source: Annotated[str, typer.Option(help="Name of the sender in the records.")] = SOURCE,
    as_json: Json = False,
) -> None:
    """Send DICOM files to the node: each is stored durably before it counts."""
    session = session_of(context, as_json)
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise NotFound(f"no such file or folder: {', '.join(map(str, missing))}")
    with (
        session.client(connections=2 * uploading.UPLOADS) as client,
        upload_progress(session.stderr) as progress,
    ):
        summary = uploading.upload(client, paths, source=source, progress=progress)
    session.emit(summary.as_json(), summary_table(summary))
    if summary.partly:
        raise typer.Exit(Exit.PARTLY)
    if not summary.taken:
        raise typer.Exit(Exit.FAILED)


@contextmanager
def upload_progress(console: Console, title: str = "ingest") -> Iterator[Progress]:
    """Show files, bytes, rate and time left while uploading."""
    with bars.Progress(
        bars.TextColumn("{task.description:8}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[files]}/{task.fields[of]} files"),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
    ) as shown:
        task = shown.add_task(title, total=None, files=0, of="?")
        done = 0

        def total(files: int, size_bytes: int) -> None:
            shown.update(task, of=files, total=size_bytes)

        def advance(files: int, size_bytes: int) -> None:
            nonlocal done
            done += files
            shown.update(task, advance=size_bytes, files=done)

        yield Progress(total, advance)


def summary_table(summary: Summary) -> Table:
    """Return what became of the files, with reasons and examples, for people."""
    rate = summary.sent_bytes / summary.seconds if summary.seconds else 0
    title = (
        f"{summary.taken} objects of {len(summary.study_uids)} studies, "
        f"{amount(summary.sent_bytes)} in {summary.seconds:.1f} s ({amount(rate)}/s)"
    )
    table = columns(title, "outcome", "files", "why", numbers=frozenset({"files"}))
    table.add_row("stored", str(summary.counts[Outcome.STORED]), "")
    table.add_row("already known", str(summary.counts[Outcome.KNOWN]), "")
    for (outcome, reason), count in summary.reasons.most_common():
        examples = summary.examples[outcome, reason]
        names = [escape(_short(name)) for name in examples]
        names += ["..."] if count > len(examples) else []
        shown = outcome if outcome != FAILED else "not sent"
        table.add_row(shown, str(count), escape(reason) + "".join(f"\n  {name}" for name in names))
    return table


def _short(name: str) -> str:
    """Leave out the middle of a long path; the end tells files apart."""
    return name if len(name) <= 60 else f"{name[:10]}...{name[-47:]}"
