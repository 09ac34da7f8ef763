"""Command `adopt`: serve an archive of others from where it lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raypacs.cli.session import Exit, Json, Session, amount, columns, session_of
from raypacs.client import Client
from raypacs.sender.adopting import until_adopted

_MEANINGS = {
    "indexed": "served from where they lie, from now on",
    "known": "served before, as they were",
    "moved": "served before, from another place",
    "skipped": "no DICOM, or not readable",
    "unlisted": "folders that cannot be listed",
    "duplicate": "the same instance is served from elsewhere",
    "conflict": "their SOP Instance UID is served with other bytes",
    "undecided": "cannot be compared with what is served",
    "changed": "not what was adopted any more: not served",
    "gone": "adopted, and not there any more",
    "refused": "of studies that were deleted; --deleted takes them back",
}
_BAD = ("unlisted", "conflict", "undecided", "changed", "gone")
_EXAMPLES = 3


def adopt(  # noqa: PLR0913 - one argument an option
    context: typer.Context,
    url: Annotated[
        str, typer.Argument(help="Folder, or fsspec URL (s3://...), that every node reaches.")
    ],
    name: Annotated[str, typer.Option(help="Name of its tier. Default: from the URL.")] = "",
    form: Annotated[
        str, typer.Option("--format", help="folder, or orthanc for its storage directory.")
    ] = "folder",
    prepare: Annotated[
        bool, typer.Option("--prepare/--no-prepare", help="Prepare it too, at low priority.")
    ] = False,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Also what was deleted from the index before.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
    report: Annotated[
        Path | None, typer.Option(help="Write what was left out to this file, a JSON line each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve an archive from where it lies: nothing is copied, written or deleted there.

    Again, it finds what is new there, what changed and what is gone.
    """
    session = session_of(context, as_json)
    with session.client() as client:
        order = {"name": name, "format": form, "prepare": prepare, "deleted": deleted}
        told = client.adopt(absolute(url), **order)
        if not wait:
            session.emit(told, f"item {told['item_id']}: {told['tier']} is {told['state']}")
            return
        with _progress(session.stderr, told["tier"]) as shown:
            told = until_adopted(client, told["item_id"], shown)
        ended = bool(told["progress"].get("report") or {})
        if report is not None and ended:
            _write(client, told["item_id"], report)
        session.emit(told, _table(client, told) if ended else None)
    _exit(session, told)


def absolute(url: str) -> str:
    """Return a folder as an absolute file URL; any other URL as it is."""
    return url if "://" in url else Path(url).absolute().as_uri()


def _exit(session: Session, told: dict[str, Any]) -> None:
    if told["state"] in ("FAILED", "CANCELED"):
        session.stderr.print(f"{told['state'].lower()}: {escape(told['error'])}", highlight=False)
        raise typer.Exit(Exit.FAILED)
    if any(told["progress"].get(key) for key in _BAD):
        raise typer.Exit(Exit.PARTLY)


def _write(client: Client, item_id: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for line in client.adoption_report(item_id):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _table(client: Client, told: dict[str, Any]) -> Table:
    progress = told["progress"]
    rate = progress["seen"] / progress["seconds"] if progress.get("seconds") else 0
    title = (
        f"{told['tier']}: {progress['seen']} files in {progress.get('seconds', 0):.1f} s "
        f"({rate:.0f}/s), {amount(progress.get('bytes_read'))} of headers read"
    )
    table = columns(title, "files", "became", "", numbers=frozenset({"files"}))
    examples: dict[str, list[str]] = {}
    if progress["report"]["path"]:
        for line in client.adoption_report(told["item_id"]):
            shown = examples.setdefault(line["what"], [])
            if len(shown) < _EXAMPLES:
                shown.append(f"\n  {line['path']}: {line['why']}")
    for key, meaning in _MEANINGS.items():
        if progress.get(key):
            more = "".join(map(escape, examples.get(key, ())))
            table.add_row(str(progress[key]), key, meaning + more)
    return table


@contextmanager
def _progress(console: Console, tier: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show files seen, indexed and skipped, and how many a second."""
    with bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn("adopt {task.description}"),
        bars.TextColumn("{task.fields[files]}"),
        bars.TimeElapsedColumn(),
        console=console,
    ) as shown:
        task = shown.add_task(escape(tier), total=None, files="")

        def update(told: dict[str, Any]) -> None:
            counts = told["progress"]
            seconds = counts.get("seconds") or 0
            rate = counts.get("seen", 0) / seconds if seconds else 0
            files = (
                f"{counts.get('seen', 0)} files, {counts.get('indexed', 0)} indexed, "
                f"{counts.get('skipped', 0)} skipped, {rate:.0f}/s"
            )
            shown.update(task, files=files if seconds else told["state"].lower())

        yield update
