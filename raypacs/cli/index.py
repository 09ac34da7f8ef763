"""Commands `index ...`: move, back up, restore the index, and make it agree with the tiers."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raypacs.cli.session import Json, amount, moment, session_of
from raypacs.maintenance.backup import backup_index, restore_index
from raypacs.maintenance.migrate import migrate_index

app = typer.Typer(help="The index: move, back up, restore, rebuild.", no_args_is_help=True)


@app.command()
def migrate(
    context: typer.Context,
    to: Annotated[
        str, typer.Option(metavar="URL", help="Empty database: postgresql://USER@HOST/DATABASE.")
    ],
    as_json: Json = False,
) -> None:
    """Move the index into an empty database, without importing anything again. Node down."""
    session = session_of(context, as_json)
    with session.stderr.status("moving the index ...") as shown:

        def progress(table: str, rows: int) -> None:
            shown.update(f"moving the index: {table}, {rows:,} rows")

        moved = migrate_index(session.bootstrap, to, now=time.time(), progress=progress)
    total = sum(moved.rows.values())
    session.emit(
        asdict(moved),
        f"{total:,} rows are in {escape(moved.target)} after {moved.seconds:.1f} s.\n"
        "Set index_url to it in raypacs.toml of every node, then start them; "
        f"{escape(moved.source)} is not claimed by any master any more.",
    )


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write; must not be there.")],
    as_json: Json = False,
) -> None:
    """Back the index up into a file, whether the node runs or not. It names patients: keep it safe.

    An index on PostgreSQL is backed up with pg_dump; the command is named.
    """
    session = session_of(context, as_json)
    with session.stderr.status("copying the index ..."):
        done = backup_index(session.bootstrap, file, now=time.time())
    session.emit(
        asdict(done),
        f"{escape(str(done.path))}: {amount(done.size_bytes)}, epoch {done.epoch}, "
        f"as of {moment(done.taken_s)}",
    )


@app.command()
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Backup to restore.")],
    as_json: Json = False,
) -> None:
    """Make a backup the index. Node down; the index that was there is kept beside it.

    Nothing is deleted from the tiers until `raypacs index reconcile` has compared the two.
    """
    session = session_of(context, as_json)
    with session.stderr.status("restoring the index ..."):
        done = restore_index(session.bootstrap, file, now=time.time())
    kept = f"; what was there is {escape(str(done.replaced))}" if done.replaced else ""
    session.emit(
        asdict(done),
        f"{escape(str(done.path))} is the backup of {moment(done.taken_s)} now{kept}.\n"
        "Nothing is deleted until `raypacs index reconcile` has compared it with the tiers.",
    )
